"""Equilibrium Propagation in NumPy: an educational reference implementation.

Of *Continual Weight Updates and Convolutional Architectures for Equilibrium Propagation* (Ernoult,
Grollier, Querlioz, Bengio, Scellier, 2020). Each equation has one home; README.md has the map.
"""

from eqprop_np.activations import hard_sigmoid, sigmoid, tanh
from eqprop_np.connections import ConvPool, Dense
from eqprop_np.dynamics import DiscreteTime, Nudge, RealTime, relax, step
from eqprop_np.network import Network, chain, convolutional, toy
from eqprop_np.rules import Phases, Update, ep

__version__ = "0.1.0"
__all__ = [
    "ConvPool",
    "Dense",
    "DiscreteTime",
    "Network",
    "Nudge",
    "Phases",
    "RealTime",
    "Update",
    "chain",
    "convolutional",
    "ep",
    "hard_sigmoid",
    "relax",
    "sigmoid",
    "step",
    "tanh",
    "toy",
]
