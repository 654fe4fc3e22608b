"""What a run was asked for: the experiment, the data and the seed, and how files store it."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import numpy as np

from eqprop_np.checks import as_python, as_tuple, is_integer
from eqprop_np.experiments.datasets import SHA256, Dataset
from eqprop_np.experiments.limits import check_duration, check_limits
from eqprop_np.experiments.presets import Experiment, Layers, Training
from eqprop_np.optimizers import Cosine, Exponential, Steps, Warmup
from eqprop_np.relaxation import Alternating, Synchronous
from eqprop_np.rules import RULES
from eqprop_np.rules.phases import Phases
from eqprop_np.samples import Samples

SCHEMA = 2
"""Schema 1 had one flat dict for the experiment and no digests. `Configuration.from_json` reads both."""

KINDS: dict[str, type] = {
    "alternating": Alternating,
    "synchronous": Synchronous,
    "exponential": Exponential,
    "steps": Steps,
    "cosine": Cosine,
    "warmup": Warmup,
}


@dataclass(frozen=True)
class Configuration:
    """The settings of a run.

    Parameters
    ----------
    experiment : Experiment
    source : str
        The data source that the user asked for (``--data``).
    dataset : str
        The name of the data that were found.
    digests : tuple of str
        The SHA-256 of the four payloads, which identify the data. Empty if an old file does not tell them.
    image : tuple of int
        Height and width of the images.
    classes : int
    train_size : int
        The number of training images.
    validation : int
        The number of training images, the last ones, that replace the test set; 0 for none.
    seed : int
    """

    experiment: Experiment
    source: str
    dataset: str
    digests: tuple[str, ...]
    image: tuple[int, int]
    classes: int
    train_size: int
    validation: int
    seed: int

    def __post_init__(self) -> None:
        for name in ("source", "dataset"):
            if not isinstance(getattr(self, name), str):
                raise TypeError(f"{name} must be a string, got {getattr(self, name)!r}")
        for name, least in (("train_size", 1), ("validation", 0), ("classes", 2), ("seed", 0)):
            value = getattr(self, name)
            if not is_integer(value) or value < least:
                raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}")
            object.__setattr__(self, name, int(value))
        image = as_tuple("image", self.image, "a height and a width")
        if len(image) != 2 or not all(is_integer(size) and size > 0 for size in image):
            raise ValueError(f"image must be a height and a width, both positive, got {image}")
        object.__setattr__(self, "image", tuple(map(int, image)))
        object.__setattr__(self, "digests", as_tuple("digests", self.digests, "a list of strings"))
        if len(self.digests) not in (0, len(SHA256)) or not all(isinstance(d, str) for d in self.digests):
            raise ValueError(f"digests must be {len(SHA256)} strings or none, got {self.digests}")

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
        """Return the settings of an experiment on a data set; ``train_size`` None uses all images.

        Raises
        ------
        ValueError
            If the data set has too few images for ``train_size`` and ``validation``, or if a setting is
            beyond the limits of this machine (`eqprop_np.experiments.limits`).
        """
        images = len(dataset.train_labels)
        available = images - validation
        if validation < 0 or available < 1:
            raise ValueError(
                f"--validation must be from 0 to {images - 1}, got {validation}: "
                f"there are {images} training images, and one must remain to train on"
            )
        if train_size is not None and not 1 <= train_size <= available:
            raise ValueError(
                f"--train-size must be from 1 to {available} (the available images), got {train_size}"
            )
        height, width = dataset.train_images.shape[1:]
        check_limits(experiment, (height, width), dataset.classes, train_size or available)
        return cls(
            experiment=experiment,
            source=source,
            dataset=dataset.name,
            digests=dataset.digests,
            image=(height, width),
            classes=dataset.classes,
            train_size=available if train_size is None else train_size,
            validation=validation,
            seed=seed,
        )

    @property
    def tested(self) -> str:
        """The name of the reported error: "validation" if images are held out, else "test"."""
        return "validation" if self.validation else "test"

    def samples(self, dataset: Dataset) -> tuple[Samples, Samples]:
        """Return the samples to train on, and the held-out samples or else the test set."""
        training = Samples(dataset.train_images, dataset.train_labels)
        test = Samples(dataset.test_images, dataset.test_labels)
        if self.validation:
            test = training[len(training) - self.validation :]
        return training[: self.train_size], test

    def mismatch(self, dataset: Dataset) -> str | None:
        """Return in what the data differ from those of this configuration, or None if they are the same."""
        if self.digests and self.digests != dataset.digests:
            return (
                f"it was trained on {self.dataset}, but the data found ({dataset.name}) have other contents"
            )
        wanted = (self.dataset, self.image, self.classes)
        found = (dataset.name, dataset.train_images.shape[1:], dataset.classes)
        if not self.digests and wanted != found:
            named = [f"{name} ({h}×{w} pixels, {c} classes)" for name, (h, w), c in (wanted, found)]
            return f"it was trained on {named[0]}, but the data found are {named[1]}"
        if len(dataset.train_labels) < self.train_size + self.validation:
            return (
                f"it uses {self.train_size + self.validation} training images, but the data found have only "
                f"{len(dataset.train_labels)}"
            )
        return None

    def to_json(self) -> dict[str, Any]:
        """Return the fields as values for JSON."""
        content: dict[str, Any] = _encode(self)
        return content | {"schema": SCHEMA}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Configuration":
        """Return the configuration of what `to_json` returned, in this schema or in schema 1.

        Raises
        ------
        KeyError, TypeError, ValueError
            If a field is missing, unknown or invalid.
        """
        values = dict(content)
        schema = values.pop("schema", 1)
        if schema not in (1, SCHEMA):
            raise ValueError(f"the schema must be 1 or {SCHEMA}, got {schema!r}")
        if schema == 1:
            values["experiment"] = _from_schema_1(values["experiment"])
            values["digests"] = tuple(SHA256.values()) if values["dataset"] == "mnist" else ()
        else:
            values["experiment"] = _experiment(values["experiment"])
            values["digests"] = as_tuple("digests", values["digests"], "a list of strings")
        values["image"] = tuple(values["image"])
        return cls(**values)

    def agrees_with(self, other: "Configuration") -> bool:
        """Return whether both are equal. Known digests identify the data, whatever --data named."""
        if self.digests and other.digests:
            return self == replace(other, source=self.source)
        return replace(self, digests=()) == replace(other, digests=())

    def with_epochs(self, epochs: int) -> "Configuration":
        """Return the configuration with another number of epochs in all, and the same learning rates."""
        schedule = self.experiment.training.rate_schedule
        experiment = self.experiment.override(epochs=epochs, rate_schedule=schedule)
        check_duration(experiment)
        return replace(self, experiment=experiment)


def _encode(value: Any) -> Any:
    """Return dataclasses as dicts, with their kind where a field may hold several, and tuples as lists."""
    if is_dataclass(value) and not isinstance(value, type):
        content = {field.name: _encode(getattr(value, field.name)) for field in fields(value)}
        names = [name for name, kind in KINDS.items() if type(value) is kind]
        return {"kind": names[0]} | content if names else content
    if isinstance(value, Mapping):
        return {name: _encode(item) for name, item in value.items()}
    if isinstance(value, tuple | list | np.ndarray):
        return [_encode(item) for item in value]
    return as_python(value)


def _decode(content: Mapping[str, Any]) -> Any:
    """Return the schedule, of a phase or of the learning rates, that `_encode` wrote."""
    values = {name: _decode(item) if isinstance(item, Mapping) else item for name, item in content.items()}
    return KINDS[values.pop("kind")](**values)


def _experiment(content: Mapping[str, Any]) -> Experiment:
    values = dict(content)
    phases, training = dict(values["phases"]), dict(values["training"])
    values["layers"] = Layers(**values["layers"])
    values["phases"] = Phases(**phases | {"schedule": _decode(phases["schedule"])})
    values["training"] = Training(**training | {"rate_schedule": _decode(training["rate_schedule"])})
    return Experiment(**values)


def _from_schema_1(content: Mapping[str, Any]) -> Experiment:
    """Return the experiment of a flat dict, as files had it before schema 2."""
    old = dict(content)

    def take(*names: str) -> dict[str, Any]:
        return {name: old.pop(name) for name in names if name in old}

    kind, omega, tol = old.pop("schedule"), old.pop("omega"), old.pop("tol")
    if kind not in ("alternating", "synchronous"):
        raise ValueError(f"schedule must be alternating or synchronous, got {kind!r}")
    schedule = Synchronous(tol) if kind == "synchronous" else Alternating(omega, tol)
    layers = Layers(**take("hidden", "channels"))
    phases = Phases(**take("free_steps", "nudged_steps", "beta", "estimate"), schedule=schedule)
    rate_schedule = Exponential(old.pop("rate_decay", 1.0))
    training = Training(
        **take("learning_rates", "epochs", "batch_size", "augment", "workers"), rate_schedule=rate_schedule
    )
    angle = old.pop("angle", 0.0)
    psi = angle if RULES[old.get("rule", "ep")].networks == "untied" else None
    return Experiment(layers=layers, phases=phases, training=training, psi=psi, **old)
