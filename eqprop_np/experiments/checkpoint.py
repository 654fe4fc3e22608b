"""A run's checkpoint: its `Progress` and its `Configuration` in one ``.npz`` file, checked when it is read.

The arrays are the parameters, under their own names, and the optimizer's state. The rest is JSON, ``meta``.
"""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from eqprop_np.activations import Array
from eqprop_np.checks import check_theta, is_integer, is_number
from eqprop_np.experiments.configuration import SCHEMA, Configuration
from eqprop_np.files import is_irregular, write_arrays
from eqprop_np.training import Progress


class CheckpointError(ValueError):
    """The file is not a checkpoint that this program can use."""


def save(path: Path, configuration: Configuration, progress: Progress) -> None:
    """Write a checkpoint. A file that exists at ``path`` is replaced only by the complete new file."""
    arrays, meta = progress.to_arrays()
    content = {"schema": SCHEMA, "configuration": configuration.to_json(), "progress": meta}
    write_arrays(path, arrays | {"meta": np.array(json.dumps(content))})


def checkpoint_of(path: Path) -> Path:
    """Return the checkpoint that a path names: a file, or that of the run in a directory."""
    return path / "checkpoint.npz" if path.is_dir() else path


def load(path: Path) -> tuple[Configuration, Progress]:
    """Read a checkpoint of this schema or of schema 1, and check it.

    Raises
    ------
    CheckpointError
        If the file does not exist, is damaged, or is not a checkpoint. The message is one line.
    """
    if is_irregular(path):
        raise CheckpointError(
            f"{path}: this is not a regular file; give a checkpoint or the directory of a run"
        )
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
        meta = content["progress"]
        if schema == 1:
            meta = _meta_of_schema_1(content)
            arrays = {name: _of_schema_1(name, value) for name, value in arrays.items()}
        progress = Progress.from_arrays(arrays, meta)
        if unknown := meta.keys() - progress.to_arrays()[1].keys():
            raise ValueError(f"the progress has unknown fields: {', '.join(sorted(unknown))}")
        _check(configuration, progress)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: the checkpoint does not exist; check the path") from None
    except PermissionError:
        raise CheckpointError(f"{path}: you may not read this file; change its permissions") from None
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
    return np.ascontiguousarray(value.T) if ends and int(ends[1]) > int(ends[2]) else value


def _meta_of_schema_1(content: dict[str, Any]) -> dict[str, Any]:
    """Return the counters of schema 1 under their present names.

    The current angle between the weights is left out, because it follows from them. The converged phases
    of an epoch that has begun are unknown, because they were not counted.
    """
    old = dict(content["progress"])
    names = {
        "train_error": "train_error",
        "test_error": "validation_error",
        "seconds": "seconds",
        "free_steps": "steps",
        "angle": "weight_angle",
    }
    history: dict[str, list[float]] = {}
    for record in old["history"]:
        for name, value in record.items():
            if name != "epoch":
                history.setdefault(names[name], []).append(value)
    counters = {
        name: old.pop(name) for name in ("epoch_start", "epoch", "batch", "errors", "steps", "seconds")
    }
    if unknown := old.keys() - {"history", "angle"}:
        raise ValueError(f"the progress of schema 1 has unknown fields: {', '.join(sorted(unknown))}")
    converged = None if counters["batch"] else 0
    return counters | {"history": history, "converged": converged, "rng": content["rng"]}


def _check(configuration: Configuration, progress: Progress) -> None:
    """Raise an error if the counters or the parameters do not fit the configuration."""
    for name in ("epoch", "batch", "errors", "steps", "converged", "seconds", "averaged"):
        value = getattr(progress, name)
        if name == "converged" and value is None:
            continue
        valid = is_number(value) if name in ("steps", "seconds") else is_integer(value)
        if not valid or value < 0:
            raise ValueError(f"{name} must be a number of at least 0, got {value!r}")
    if progress.converged is not None and progress.converged > progress.batch:
        raise ValueError(f"converged must be from 0 to batch {progress.batch}, got {progress.converged}")
    size = configuration.experiment.training.batch_size
    if (progress.batch - 1) * size >= configuration.train_size:
        raise ValueError(f"batch {progress.batch} is beyond the {configuration.train_size} training images")
    _check_history(progress)
    dynamics = configuration.experiment.build(configuration.image, configuration.classes)
    check_theta(progress.theta, dynamics.parameter_shapes)
    if progress.average or progress.averaged:
        check_theta(progress.average, dynamics.parameter_shapes)
    wanted, begun = configuration.experiment.training.average > 0, progress.epoch + progress.batch > 0
    if bool(progress.average) != wanted and (progress.average or begun):
        raise ValueError("the averaged parameters must be there if the run averages them, and only then")
    for name, value in (*progress.theta.items(), *progress.average.items()):
        if value.dtype != np.float32:
            raise ValueError(f"theta[{name!r}] must have dtype float32, got {value.dtype}")
    found, expected = (
        progress.optimizer_state,
        configuration.experiment.optimizer(dynamics).init(progress.theta),
    )
    if found.keys() != expected.keys():
        raise ValueError(f"the optimizer's state must be {sorted(expected)}, got {sorted(found)}")
    for name, value in expected.items():
        if (found[name].shape, found[name].dtype) != (value.shape, value.dtype):
            raise ValueError(
                f"{name} of the optimizer must have shape {value.shape} and dtype {value.dtype}, "
                f"got {found[name].shape} and {found[name].dtype}"
            )
        if not np.isfinite(found[name]).all():
            raise ValueError(f"{name} of the optimizer must be finite, but it contains NaN or infinity")


def _check_history(progress: Progress) -> None:
    """Raise an error if the history does not consist of one number for each epoch."""
    always, often = ["train_error", "validation_error", "seconds", "steps"], ["converged", "weight_angle"]
    if progress.average:
        always.append("average_validation_error")
    if unknown := progress.history.keys() - {*always, *often}:
        raise ValueError(f"the history has unknown fields: {', '.join(sorted(unknown))}")
    for name in (*always, *often):
        values = progress.history.get(name, [])
        right = len(values) == progress.epoch if name in always else len(values) <= progress.epoch
        # An angle is NaN if all weights of one direction are 0.
        valid = all(is_number(value) or (name == "weight_angle" and value != value) for value in values)
        if not isinstance(values, list) or not right or not valid:
            raise ValueError(f"{name} must be a list of {progress.epoch} numbers, one for each epoch")
    if not all(0 <= value <= 1 for value in progress.history.get("converged", [])):
        raise ValueError(f"converged must be from 0 to 1 in each epoch, got {progress.history['converged']}")
