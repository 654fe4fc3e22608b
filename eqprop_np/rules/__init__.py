"""The learning rules, one contract for all.

A rule maps (dynamics, θ, x, y, phases) to an `Update`, whose gradient is dL/dθ: the mean over
the batch, to be descended.
"""

from eqprop_np.rules.bptt import bptt
from eqprop_np.rules.continual import cep
from eqprop_np.rules.ep import ep
from eqprop_np.rules.phases import ESTIMATES, Estimate, Phases, Update
from eqprop_np.rules.vector_field import cvf, vf

RULES = {"ep": ep, "cep": cep, "vf": vf, "cvf": cvf, "bptt": bptt}
CONTINUAL = ("cep", "cvf")
"""The rules that move the weights during the second phase."""
UNTIED = ("vf", "cvf")
"""The rules for untied weights."""

__all__ = [
    "CONTINUAL", "ESTIMATES", "RULES", "UNTIED",
    "Estimate", "Phases", "Update", "bptt", "cep", "cvf", "ep", "vf",
]  # fmt: skip
