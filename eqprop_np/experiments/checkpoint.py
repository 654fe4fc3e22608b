"""A run's checkpoint: its `Progress` and its `Configuration` in one ``.npz`` file, checked when it is read.

The arrays are the parameters, under their own names, and the optimizer's state. The rest is JSON, ``meta``.
"""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from eqprop_np.activations import Array
from eqprop_np.checks import check_theta
from eqprop_np.experiments.configuration import SCHEMA, Configuration
from eqprop_np.files import replacing
from eqprop_np.training import Progress


class CheckpointError(ValueError):
    """The file is not a checkpoint that this program can use."""


def save(path: Path, configuration: Configuration, progress: Progress) -> None:
    """Write a checkpoint. A file that exists at ``path`` is replaced only by the complete new file."""
    arrays, meta = progress.to_arrays()
    content = {"schema": SCHEMA, "configuration": configuration.to_json(), "progress": meta}
    with replacing(path, "wb") as file:
        np.savez(file, allow_pickle=False, meta=np.array(json.dumps(content)), **arrays)


def load(path: Path) -> tuple[Configuration, Progress]:
    """Read a checkpoint of this schema or of schema 1, and check it.

    Raises
    ------
    CheckpointError
        If the file does not exist, is damaged, or is not a checkpoint. The message is one line.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        content = json.loads(str(arrays.pop("meta")))
        schema = content["schema"]
        if schema not in (1, SCHEMA):
            raise CheckpointError(
                f"{path}: the schema must be 1 or {SCHEMA}, got {schema!r}; "
                "use the version of this program that wrote it"
            )
        configuration = Configuration.from_json(content["configuration"])
        meta = content["progress"] if schema == SCHEMA else _meta_of_schema_1(content)
        if schema == 1:
            arrays = {name: _of_schema_1(name, value) for name, value in arrays.items()}
        progress = Progress.from_arrays(arrays, meta)
        _check(configuration, progress)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: the checkpoint does not exist; check the path") from None
    except CheckpointError:
        raise
    except Exception as error:  # a damaged file can raise any exception
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise CheckpointError(
            f"{path}: the file is damaged or not a checkpoint ({reason}); use another file"
        ) from None
    return configuration, progress


def _of_schema_1(name: str, value: Array) -> Array:
    """Return an array of schema 1, in which a backward weight "w2-1" was stored transposed."""
    ends = re.fullmatch(r"w(\d+)-(\d+)", name)
    return value.T if ends and int(ends[1]) > int(ends[2]) else value


def _meta_of_schema_1(content: dict[str, Any]) -> dict[str, Any]:
    """Return the counters of schema 1 under their present names."""
    old = content["progress"]
    names = {
        "train_error": "train_error",
        "test_error": "validation_error",
        "seconds": "seconds",
        "free_steps": "steps",
        "converged": "converged",
        "angle": "weight_angle",
    }
    history: dict[str, list[float]] = {}
    for record in old["history"]:
        for name, value in record.items():
            if name != "epoch":
                history.setdefault(names[name], []).append(value)
    counters = {name: old[name] for name in ("epoch_start", "epoch", "batch", "errors", "steps", "seconds")}
    return counters | {"history": history, "converged": 0, "rng": content["rng"]}


def _check(configuration: Configuration, progress: Progress) -> None:
    """Raise an error if the counters or the parameters do not fit the configuration."""
    for name in ("epoch", "batch", "errors", "steps", "converged", "seconds"):
        value = getattr(progress, name)
        whole = name not in ("steps", "seconds")
        if isinstance(value, bool) or not isinstance(value, int if whole else int | float) or not value >= 0:
            raise ValueError(f"{name} must be a number of at least 0, got {value!r}")
    size = configuration.experiment.training.batch_size
    if (progress.batch - 1) * size >= configuration.train_size:
        raise ValueError(f"batch {progress.batch} is beyond the {configuration.train_size} images")
    for name in ("train_error", "validation_error", "seconds", "steps"):
        values = progress.history.get(name, [])
        if len(values) != progress.epoch or not all(isinstance(value, int | float) for value in values):
            raise ValueError(f"{name} must have {progress.epoch} numbers, one for each epoch")
    dynamics = configuration.experiment.build(configuration.image, configuration.classes)
    check_theta(progress.theta, dynamics.parameter_shapes)
    for name, value in progress.theta.items():
        if value.dtype != np.float32:
            raise ValueError(f"{name} must be float32, got {value.dtype}")
    expected = configuration.experiment.optimizer(dynamics.network).init(progress.theta)
    found = progress.optimizer_state
    if {name: value.shape for name, value in found.items()} != {n: v.shape for n, v in expected.items()}:
        raise ValueError(f"the optimizer's state must be {sorted(expected)}, got {sorted(found)}")
