"""The learning rules, one contract for all.

A rule maps (dynamics, θ, x, y, phases) to an `Update`, whose gradient is dL/dθ: the mean over
the batch, to be descended.
"""

from eqprop_np.rules.bptt import bptt
from eqprop_np.rules.ep import ep
from eqprop_np.rules.phases import ESTIMATES, Estimate, Phases, Update

RULES = {"ep": ep, "bptt": bptt}

__all__ = ["ESTIMATES", "RULES", "Estimate", "Phases", "Update", "bptt", "ep"]
