"""A run's progress as one ``.npz`` file: written whole or not at all, and checked when it is read.

The arrays are the parameters, under their own names; all else is one JSON text, ``meta``.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from eqprop_np.datasets import Dataset
from eqprop_np.experiments import Experiment
from eqprop_np.training import Progress, Samples

SCHEMA = 1


class CheckpointError(ValueError):
    """The file is not a checkpoint that this program can use."""


@dataclass(frozen=True)
class Configuration:
    """What was asked of a run, resolved: the experiment, the data and the seed.

    Parameters
    ----------
    source, dataset : where the data were asked for (``--data``), and the name of what was found.
    image, classes : the size of its images and how many classes it has.
    train_size, validation : training images used, and how many of the last ones are held out to take
        the test set's place; 0 for none.
    """

    experiment: Experiment
    source: str
    dataset: str
    image: tuple[int, int]
    classes: int
    train_size: int
    validation: int
    seed: int

    def __post_init__(self) -> None:
        for name in ("source", "dataset"):
            if not isinstance(getattr(self, name), str):
                raise TypeError(f"{name} is {getattr(self, name)!r}, not a name")
        numbers = {"train_size": 1, "validation": 0, "classes": 2, "seed": 0}
        for name, least in numbers.items():
            if not isinstance(getattr(self, name), int) or getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)!r}, not a whole number from {least}")
        if len(self.image) != 2 or not all(isinstance(size, int) and size > 0 for size in self.image):
            raise ValueError(f"image is {self.image}, not a height and a width")

    @classmethod
    def resolve(
        cls,
        experiment: Experiment,
        dataset: Dataset,
        source: str,
        seed: int,
        train_size: int | None = None,
        validation: int = 0,
    ) -> "Configuration":
        """An experiment on these data; ``train_size`` is all that there is if it is None.

        Raises
        ------
        ValueError
            If the data have not as many images.
        """
        available = len(dataset.train_labels) - validation
        if validation < 0 or available < 1:
            raise ValueError(
                f"--validation {validation} leaves nothing of {len(dataset.train_labels)} training images"
            )
        if train_size is not None and not 1 <= train_size <= available:
            raise ValueError(
                f"--train-size {train_size} is not between 1 and the {available} images there are"
            )
        return cls(
            experiment=experiment,
            source=source,
            dataset=dataset.name,
            image=dataset.train_images.shape[1:],
            classes=dataset.classes,
            train_size=train_size or available,
            validation=validation,
            seed=seed,
        )

    @property
    def tested(self) -> str:
        """What the error on the samples to test on is called."""
        return "validation" if self.validation else "test"

    def samples(self, dataset: Dataset) -> tuple[Samples, Samples]:
        """The training samples, and those to test on."""
        training = Samples(dataset.train_images, dataset.train_labels)
        test = Samples(dataset.test_images, dataset.test_labels)
        if self.validation:
            test = training[-self.validation :]
        return training[: self.train_size], test

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> "Configuration":
        experiment = {k: tuple(v) if isinstance(v, list) else v for k, v in fields["experiment"].items()}
        return cls(**fields | {"experiment": Experiment(**experiment), "image": tuple(fields["image"])})


@contextmanager
def replacing(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a temporary file beside ``path`` that takes its place once it is written whole."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def save(path: Path, configuration: Configuration, progress: Progress) -> None:
    """Write a checkpoint; whatever was at ``path`` stays until the new file is complete."""
    meta = {
        "schema": SCHEMA,
        "configuration": configuration.to_json(),
        "rng": progress.rng.bit_generator.state,
        "progress": {name: getattr(progress, name) for name in _COUNTERS},
    }
    with replacing(path, "wb") as file:
        np.savez(file, meta=np.array(json.dumps(meta)), **progress.theta)


_NUMBER = (int, float)
_COUNTERS = {  # of a Progress, with their types in JSON
    "epoch_start": dict,
    "epoch": int,
    "batch": int,
    "errors": int,
    "steps": _NUMBER,
    "seconds": _NUMBER,
    "history": list,
    "angle": (*_NUMBER, type(None)),
}
_RECORD = ("epoch", "train_error", "test_error", "seconds", "free_steps")  # of each epoch in the history


def load(path: Path) -> tuple[Configuration, Progress]:
    """Read a checkpoint and check it: schema, names, shapes, dtypes, finite numbers.

    Raises
    ------
    CheckpointError
        With one line that says what is wrong.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        meta = json.loads(str(arrays.pop("meta")))
        if meta["schema"] != SCHEMA:
            raise CheckpointError(
                f"{path}: written by another version (schema {meta['schema']!r}, not {SCHEMA})"
            )
        configuration = Configuration.from_json(meta["configuration"])
        rng = np.random.default_rng()
        rng.bit_generator.state = meta["progress"]["epoch_start"]  # to see that it can
        rng.bit_generator.state = meta["rng"]
        progress = Progress(arrays, rng, **{name: meta["progress"].pop(name) for name in _COUNTERS})
        if meta["progress"]:
            raise ValueError(f"there should be no {', '.join(meta['progress'])}")
        _check_counters(configuration, progress)
        _check_parameters(path, configuration, arrays)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: there is no such checkpoint") from None
    except CheckpointError:
        raise
    except Exception as error:  # whatever ails it: damage has no list of exceptions
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise CheckpointError(f"{path}: not a whole checkpoint of this program ({reason})") from None
    return configuration, progress


def _check_counters(configuration: Configuration, progress: Progress) -> None:
    for name, kind in _COUNTERS.items():
        value = getattr(progress, name)
        if not isinstance(value, kind) or (kind in (int, _NUMBER) and not value >= 0):
            raise ValueError(f"{name} is {value!r}")
    if (progress.batch - 1) * configuration.experiment.batch_size >= configuration.train_size:
        raise ValueError(f"batch is {progress.batch}, beyond the {configuration.train_size} images")
    if len(progress.history) != progress.epoch:
        raise ValueError(f"{len(progress.history)} records of {progress.epoch} epochs")
    for record in progress.history:
        if not all(isinstance(record[name], _NUMBER) for name in _RECORD):
            raise ValueError(f"the record of an epoch is {record}")


def _check_parameters(path: Path, configuration: Configuration, theta: dict[str, Any]) -> None:
    dynamics = configuration.experiment.build(configuration.image, configuration.classes)
    expected = dynamics.network.parameter_shapes
    if theta.keys() != expected.keys():
        raise CheckpointError(f"{path}: has parameters {sorted(theta)}, not {sorted(expected)}")
    for name, value in theta.items():
        if value.shape != expected[name]:
            raise CheckpointError(f"{path}: {name} has shape {value.shape}, not {expected[name]}")
        if value.dtype != np.float32:
            raise CheckpointError(f"{path}: {name} has dtype {value.dtype}, not float32")
        if not np.isfinite(value).all():
            raise CheckpointError(f"{path}: {name} holds numbers that are not finite")
