"""``python -m eqprop_np.theorem`` prints the distance of the two sides of Eq. (8) for a named system."""

import sys

from eqprop_np.experiments.systems import main

sys.exit(main())
