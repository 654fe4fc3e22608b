"""Equilibrium Propagation in NumPy: an educational reference implementation.

It implements the abstract *Continual Weight Updates and Convolutional Architectures for Equilibrium
Propagation* (Ernoult, Grollier, Querlioz, Bengio, Scellier, 2020). Each equation has one function, and
README.md has the map. All public names are available from this module:

- networks: `Network`, `Connection`, `Dense`, `ConvPool`, `chain`, `convolutional`, `toy`, `untied`
- activations and costs: `Activation`, `sigmoid`, `hard_sigmoid`, `tanh`, `Cost`, `squared_error`, `Readout`,
  `cross_entropy`
- dynamics: `DiscreteTime`, `RealTime`, `Nudge`, `step`, `linearize`
- phases: `relax`, `Relaxation`, `Alternating`, `Synchronous`
- rules: `ep`, `cep`, `vf`, `cvf`, `bptt`, `implicit_gradient`, `holomorphic_ep`, `asymep`, `Phases`,
  `Update`, `RULES`, `LearningRule`
- training: `fit`, `predict`, `outputs`, `error_rate`, `Progress`, `SGD`, `Adam`, `Exponential`, `Steps`,
  `Cosine`, `Warmup`, `random_shift`, `random_distortion`, `share`
- inspection: `confusion_matrix`, `plot_relaxation`, `plot_learning_curves`, `plot_confusion_matrix`,
  `plot_worst_errors`
- Theorem 1: `first_phase`, `updates`, `gradients`, `drive_gradients`, `compare`, `order`, `angle_between`,
  `weight_angle`
- checks: `check_gradient`, `check_adjoint`, `check_connection`, `check_activation`, `check_cost`
"""

import itertools
import signal
import sys

if (
    sys.argv[:1] == ["-m"]
    and any(a == "-m" and b.split(".")[0] == __name__ for a, b in itertools.pairwise(sys.orig_argv))
    and signal.getsignal(signal.SIGINT) is signal.default_int_handler
):
    # ``python -m eqprop_np.…`` will run a command of this package. Until then Ctrl-C prints no traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from eqprop_np.activations import Activation, hard_sigmoid, sigmoid, tanh
from eqprop_np.augmentation import random_distortion, random_shift
from eqprop_np.connections import Connection, ConvPool, Dense
from eqprop_np.costs import Cost, Readout, cross_entropy, squared_error
from eqprop_np.dynamics import DiscreteTime, Nudge, RealTime, linearize, step
from eqprop_np.network import Network, chain, convolutional, toy
from eqprop_np.optimizers import SGD, Adam, Cosine, Exponential, Steps, Warmup
from eqprop_np.plots import (
    plot_confusion_matrix,
    plot_learning_curves,
    plot_relaxation,
    plot_worst_errors,
)
from eqprop_np.processes import share
from eqprop_np.relaxation import Alternating, Relaxation, Synchronous, relax
from eqprop_np.rules import RULES, LearningRule
from eqprop_np.rules.asymmetric import asymep
from eqprop_np.rules.bptt import bptt
from eqprop_np.rules.continual import cep
from eqprop_np.rules.ep import ep
from eqprop_np.rules.holomorphic import holomorphic_ep
from eqprop_np.rules.implicit import implicit_gradient
from eqprop_np.rules.phases import Phases, Update
from eqprop_np.rules.vector_field import angle_between, cvf, untied, vf, weight_angle
from eqprop_np.testing import (
    check_activation,
    check_adjoint,
    check_connection,
    check_cost,
    check_gradient,
)
from eqprop_np.theorem import compare, drive_gradients, first_phase, gradients, order, updates
from eqprop_np.training import Progress, confusion_matrix, error_rate, fit, outputs, predict

__version__ = "0.2.0"
__all__ = [
    "RULES",
    "SGD",
    "Activation",
    "Adam",
    "Alternating",
    "Connection",
    "ConvPool",
    "Cosine",
    "Cost",
    "Dense",
    "DiscreteTime",
    "Exponential",
    "LearningRule",
    "Network",
    "Nudge",
    "Phases",
    "Progress",
    "Readout",
    "RealTime",
    "Relaxation",
    "Steps",
    "Synchronous",
    "Update",
    "Warmup",
    "angle_between",
    "asymep",
    "bptt",
    "cep",
    "chain",
    "check_activation",
    "check_adjoint",
    "check_connection",
    "check_cost",
    "check_gradient",
    "compare",
    "confusion_matrix",
    "convolutional",
    "cross_entropy",
    "cvf",
    "drive_gradients",
    "ep",
    "error_rate",
    "first_phase",
    "fit",
    "gradients",
    "hard_sigmoid",
    "holomorphic_ep",
    "implicit_gradient",
    "linearize",
    "order",
    "outputs",
    "plot_confusion_matrix",
    "plot_learning_curves",
    "plot_relaxation",
    "plot_worst_errors",
    "predict",
    "random_distortion",
    "random_shift",
    "relax",
    "share",
    "sigmoid",
    "squared_error",
    "step",
    "tanh",
    "toy",
    "untied",
    "updates",
    "vf",
    "weight_angle",
]
