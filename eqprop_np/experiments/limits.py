"""The limits of a run, checked in one place before any large array is allocated.

A request beyond them would end in a lack of memory, in hundreds of processes, or never.
"""

import os
from math import prod
from pathlib import Path

from eqprop_np.connections import Shape
from eqprop_np.dynamics import Dynamics
from eqprop_np.experiments.presets import Experiment
from eqprop_np.rules import RULES
from eqprop_np.rules.phases import check_stable
from eqprop_np.training import EVALUATION_BATCH

LARGEST = {"epochs": 10**6, "free_steps": 10**6, "nudged_steps": 10**6, "points": 1000}
"""The largest values of settings whose size costs time and no memory."""

PER_CPU = 4
"""The largest number of worker processes for each processor of the machine."""

FLOAT = 4
"""The bytes of a number of float32."""


def check_limits(experiment: Experiment, image: Shape, classes: int, train_size: int) -> None:
    """Check that this machine can carry out a new run, and that its phases can converge.

    Parameters
    ----------
    image : tuple of int
        Height and width of the images.

    Raises
    ------
    ValueError
        If a setting is too large, or if β, ε and ω do not go together.
    """
    t = experiment.training
    check_duration(experiment)
    cpus = os.cpu_count() or 1
    if t.workers > PER_CPU * cpus:
        raise ValueError(
            f"workers must be at most {PER_CPU * cpus}, got {t.workers}: this machine has {cpus} processors, "
            "and more workers than processors are slower"
        )
    if t.augment >= min(image):
        raise ValueError(
            f"augment must be below the side of the images, {min(image)} pixels, got {t.augment}: a larger "
            "shift would move them out of sight"
        )
    dynamics = experiment.unchecked(image, classes)
    check_memory(experiment, dynamics, train_size)
    check_stable(dynamics, experiment.phases, RULES[experiment.rule].function)


def check_duration(experiment: Experiment) -> None:
    """Check the numbers of epochs and of steps, and that the learning rates of all epochs are finite."""
    t, p = experiment.training, experiment.phases
    values = {
        "epochs": t.epochs,
        "free_steps": p.free_steps,
        "nudged_steps": p.nudged_steps,
        "points": p.points,
    }
    for name, value in values.items():
        if value > LARGEST[name]:
            raise ValueError(f"{name} must be at most {LARGEST[name]}, got {value}")
    try:
        t.rate_schedule(t.epochs - 1)
    except OverflowError:
        raise ValueError(
            f"the learning rates must stay finite, but in epoch {t.epochs} they are beyond the largest "
            "number: choose a smaller factor of the rate schedule, or fewer epochs"
        ) from None


def check_memory(experiment: Experiment, dynamics: Dynamics, train_size: int) -> None:
    """Check that the parameters and a batch fit into the memory of this machine, if its size is known."""
    needed, available = memory_needed(experiment, dynamics, train_size), memory()
    if available is not None and needed > available:
        count = sum(map(prod, dynamics.parameter_shapes.values()))
        raise ValueError(
            f"training needs at least {_gigabytes(needed)} of memory ({_short(count)} parameters, batches of "
            f"{experiment.training.batch_size}), but this machine has {_gigabytes(available)}: choose "
            "smaller layers or a smaller batch"
        )


def memory_needed(experiment: Experiment, dynamics: Dynamics, train_size: int) -> int:
    """Return the bytes that training needs at least.

    These are θ, its gradient, the new θ, its average and the optimizer's state, and for a batch the state,
    the drives and the largest input of a matrix product: each value once for each position of a kernel
    that uses it.
    """
    t, network = experiment.training, dynamics.network
    parameters = sum(map(prod, dynamics.parameter_shapes.values()))
    copies = 3 + bool(t.average) + (2 if t.optimizer == "adam" else bool(t.momentum))
    batch = max(min(t.batch_size, train_size), EVALUATION_BATCH)
    neurons = sum(map(prod, network.shapes))
    patches = max(c.multiplications // c.shape[-1] for c in network.connections)
    return FLOAT * (copies * parameters + batch * (2 * neurons + patches))


def memory() -> int | None:
    """Return the bytes of memory that this process may use, or None if they are unknown (on Windows)."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
    try:  # the limit of a container
        return min(total, int(Path("/sys/fs/cgroup/memory.max").read_text("utf-8")))
    except (OSError, ValueError):
        return total


def _gigabytes(count: int) -> str:
    return f"{_short(-(-count // 10**9))} GB"


def _short(count: int) -> str:
    return f"{count:,}" if count < 10**15 else "more than 10¹⁵"
