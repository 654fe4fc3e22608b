"""Save and load the progress of a run as one ``.npz`` file.

The file is replaced atomically when it is written, and checked when it is read. It contains each
parameter under its name, and everything else as one JSON text named ``meta``.

Schema 2 is written, and schema 1 can still be read. It differs in two ways. A backward weight of an untied
network, such as "w2-1", has the shape of its forward weight in schema 2, and was stored transposed in
schema 1. The number of batches whose free phase converged is new in schema 2.
"""

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from eqprop_np.datasets import Dataset
from eqprop_np.experiments.presets import Experiment
from eqprop_np.training import Progress, Samples

SCHEMA = 2


class CheckpointError(ValueError):
    """Raised if a file is not a checkpoint that this program can use."""


@dataclass(frozen=True)
class Configuration:
    """Hold the settings of a run, with every default resolved.

    Parameters
    ----------
    experiment : Experiment
        The network, the learning rule and their settings.
    source : str
        The data source that the user asked for (``--data``).
    dataset : str
        The name of the data set that was found there.
    image : tuple of int
        The height and the width of its images in pixels.
    classes : int
        The number of its classes, at least 2.
    train_size : int
        The number of training images used, at least 1.
    validation : int
        The number of training images that replace the test set. They are the last ones of the training
        set and are not trained on. 0 keeps the test set.
    seed : int
        The seed of the random generator, at least 0.

    Raises
    ------
    TypeError
        If ``source`` or ``dataset`` is not a string.
    ValueError
        If another field is out of its range.
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
                raise TypeError(f"{name} must be a string, got {getattr(self, name)!r}")
        numbers = {"train_size": 1, "validation": 0, "classes": 2, "seed": 0}
        for name, least in numbers.items():
            if not isinstance(getattr(self, name), int) or getattr(self, name) < least:
                raise ValueError(
                    f"{name} must be an integer of at least {least}, got {getattr(self, name)!r}"
                )
        if len(self.image) != 2 or not all(isinstance(size, int) and size > 0 for size in self.image):
            raise ValueError(f"image must be a height and a width, both positive, got {self.image}")

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
        """Return the configuration of an experiment on a data set.

        Parameters
        ----------
        experiment : Experiment
            The network, the learning rule and their settings.
        dataset : Dataset
            The data that were found.
        source : str
            The data source that the user asked for (``--data``).
        seed : int
            The seed of the random generator.
        train_size : int, optional
            The number of training images to use. None uses all images that are not held out.
        validation : int
            The number of training images to hold out for validation, instead of the test set.

        Returns
        -------
        Configuration
            The resolved settings.

        Raises
        ------
        ValueError
            If the data set has too few images for ``train_size`` and ``validation``, or if a number is
            out of its range.
        """
        available = len(dataset.train_labels) - validation
        if validation < 0 or available < 1:
            raise ValueError(
                f"--validation must be from 0 to {len(dataset.train_labels) - 1}, got {validation}: "
                f"there are {len(dataset.train_labels)} training images, and one must remain to train on"
            )
        if train_size is not None and not 1 <= train_size <= available:
            raise ValueError(
                f"--train-size must be from 1 to {available} (the available images), got {train_size}"
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
        """Return the name of the reported error: "validation" if images are held out, else "test"."""
        return "validation" if self.validation else "test"

    def samples(self, dataset: Dataset) -> tuple[Samples, Samples]:
        """Return the samples to train on and the samples to test on.

        Parameters
        ----------
        dataset : Dataset
            The data set of this configuration.

        Returns
        -------
        tuple of Samples
            The first ``train_size`` training images, then the held-out images or else the test set.
        """
        training = Samples(dataset.train_images, dataset.train_labels)
        test = Samples(dataset.test_images, dataset.test_labels)
        if self.validation:
            test = training[-self.validation :]
        return training[: self.train_size], test

    def to_json(self) -> dict[str, Any]:
        """Return the fields as a dict for `json.dump`."""
        return asdict(self)

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> "Configuration":
        """Return the configuration of a dict that `to_json` made and JSON stored.

        Parameters
        ----------
        fields : dict
            The fields. JSON turns tuples into lists, and this function turns them back.

        Returns
        -------
        Configuration
            The configuration, checked.

        Raises
        ------
        AttributeError, KeyError, TypeError, ValueError
            If a field is missing, unknown or invalid.
        """
        experiment = {k: tuple(v) if isinstance(v, list) else v for k, v in fields["experiment"].items()}
        return cls(**fields | {"experiment": Experiment(**experiment), "image": tuple(fields["image"])})


@contextmanager
def replacing(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a temporary file that replaces ``path`` when the ``with`` block ends without an error.

    Parameters
    ----------
    path : Path
        The file to write. After an error it is unchanged, and the temporary file is deleted.
    mode : str
        "w" for text in UTF-8, "wb" for bytes.

    Yields
    ------
    file object
        The temporary file, in the directory of ``path``.
    """
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
    """Write a checkpoint. A file that exists at ``path`` is replaced only by the complete new file.

    Parameters
    ----------
    path : Path
        The file to write.
    configuration : Configuration
        The settings of the run.
    progress : Progress
        The state of the run.
    """
    meta = {
        "schema": SCHEMA,
        "configuration": configuration.to_json(),
        "rng": progress.rng.bit_generator.state,
        "progress": {name: getattr(progress, name) for name in _COUNTERS},
    }
    with replacing(path, "wb") as file:
        np.savez(file, meta=np.array(json.dumps(meta)), **progress.theta)


_NUMBER = (int, float)
_COUNTERS = {  # the fields of Progress that are saved, with their types in JSON
    "epoch_start": dict,
    "epoch": int,
    "batch": int,
    "errors": int,
    "steps": _NUMBER,
    "seconds": _NUMBER,
    "history": list,
    "angle": (*_NUMBER, type(None)),
    "converged": (int, type(None)),
}
_RECORD = ("epoch", "train_error", "test_error", "seconds", "free_steps")  # the numbers of each epoch


def load(path: Path) -> tuple[Configuration, Progress]:
    """Read a checkpoint, and check its schema, names, shapes and dtypes, and that it is finite.

    Parameters
    ----------
    path : Path
        The file to read.

    Returns
    -------
    configuration : Configuration
        The settings of the run.
    progress : Progress
        The state of the run, from which training can continue.

    Raises
    ------
    CheckpointError
        If the file does not exist, is damaged, or is not a checkpoint of this version. The message is
        one line.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        meta = json.loads(str(arrays.pop("meta")))
        if meta["schema"] not in (1, SCHEMA):
            raise CheckpointError(
                f"{path}: the schema must be 1 or {SCHEMA}, got {meta['schema']!r}; "
                "use the version of this program that wrote it"
            )
        if meta["schema"] == 1:
            _from_schema_1(meta["progress"], arrays)
        configuration = Configuration.from_json(meta["configuration"])
        rng = np.random.default_rng()
        rng.bit_generator.state = meta["progress"]["epoch_start"]  # checks that the state is valid
        rng.bit_generator.state = meta["rng"]
        progress = Progress(arrays, rng, **{name: meta["progress"].pop(name) for name in _COUNTERS})
        if meta["progress"]:
            raise ValueError(f"progress has unknown fields: {', '.join(meta['progress'])}")
        _check_counters(configuration, progress)
        _check_parameters(path, configuration, arrays)
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


def _from_schema_1(counters: dict[str, Any], theta: dict[str, Any]) -> None:
    """Change what was read from a file of schema 1 into what a file of schema 2 would contain."""
    if "converged" in counters:
        raise ValueError("progress of schema 1 has no field converged")
    counters["converged"] = None if counters["batch"] else 0  # the batches so far were not counted
    for name, value in theta.items():
        layers = re.fullmatch(r"w(\d+)-(\d+)", name)
        if layers and int(layers[1]) > int(layers[2]):  # a backward weight
            theta[name] = np.ascontiguousarray(value.T)


def _check_counters(configuration: Configuration, progress: Progress) -> None:
    for name, kind in _COUNTERS.items():
        value = getattr(progress, name)
        if not isinstance(value, kind) or (kind in (int, _NUMBER) and not value >= 0):
            raise ValueError(f"{name} has the wrong type or is negative: {value!r}")
    if progress.converged is not None and not 0 <= progress.converged <= progress.batch:
        raise ValueError(f"converged must be from 0 to batch {progress.batch}, got {progress.converged}")
    if (progress.batch - 1) * configuration.experiment.batch_size >= configuration.train_size:
        raise ValueError(f"batch {progress.batch} is beyond the {configuration.train_size} training images")
    if len(progress.history) != progress.epoch:
        raise ValueError(
            f"history must have {progress.epoch} records, one per epoch, got {len(progress.history)}"
        )
    for record in progress.history:
        if not all(isinstance(record[name], _NUMBER) for name in _RECORD):
            raise ValueError(f"{', '.join(_RECORD)} must be numbers in each record, got {record}")
        if not 0 <= record.get("converged", 0) <= 1:
            raise ValueError(f"converged must be from 0 to 1 in each record, got {record['converged']!r}")


def _check_parameters(path: Path, configuration: Configuration, theta: dict[str, Any]) -> None:
    dynamics = configuration.experiment.build(configuration.image, configuration.classes)
    expected = dynamics.network.parameter_shapes
    if theta.keys() != expected.keys():
        raise CheckpointError(f"{path}: the parameters must be {sorted(expected)}, got {sorted(theta)}")
    for name, value in theta.items():
        if value.shape != expected[name]:
            raise CheckpointError(f"{path}: {name} must have shape {expected[name]}, got {value.shape}")
        if value.dtype != np.float32:
            raise CheckpointError(f"{path}: {name} must have dtype float32, got {value.dtype}")
        if not np.isfinite(value).all():
            raise CheckpointError(f"{path}: {name} contains NaN or infinity; use another checkpoint")
