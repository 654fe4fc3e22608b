"""Tests of the configuration of a run: which samples it uses, and which data are the right ones."""

from dataclasses import replace

import numpy as np
import pytest

from eqprop_np.experiments.configuration import Configuration
from eqprop_np.experiments.datasets import Dataset
from eqprop_np.experiments.presets import EXPERIMENTS
from eqprop_np.optimizers import Cosine

DIGESTS = ("a", "b", "c", "d")


@pytest.fixture
def dataset() -> Dataset:
    """Return twenty training and seven test images of 4 × 6 pixels; each image has a number of its own."""
    images = np.arange(27, dtype=np.uint8)[:, None, None] * np.ones((1, 4, 6), np.uint8)
    labels = (np.arange(27) % 3).astype(np.uint8)
    return Dataset("numbers", images[:20], labels[:20], images[20:], labels[20:], 3, DIGESTS)


def resolve(dataset: Dataset, **settings: int) -> Configuration:
    return Configuration.resolve(EXPERIMENTS["p-1h"], dataset, "a place", 5, **settings)


def test_it_has_the_sizes_of_the_data(dataset: Dataset) -> None:
    found = resolve(dataset)
    assert (found.source, found.dataset, found.digests) == ("a place", "numbers", DIGESTS)
    assert (found.image, found.classes, found.seed) == ((4, 6), 3, 5)
    assert (found.train_size, found.validation) == (20, 0)
    assert (resolve(dataset, validation=6).train_size, resolve(dataset, validation=6).validation) == (14, 6)
    assert resolve(dataset, train_size=9, validation=6).train_size == 9


@pytest.mark.parametrize(
    "settings, train, test",
    [
        ({}, range(20), range(20, 27)),
        ({"train_size": 8}, range(8), range(20, 27)),
        ({"validation": 6}, range(14), range(14, 20)),
        ({"train_size": 8, "validation": 6}, range(8), range(14, 20)),
    ],
    ids=str,
)
def test_it_trains_on_the_first_images_and_holds_out_the_last(
    settings: dict[str, int], train: range, test: range, dataset: Dataset
) -> None:
    chosen = resolve(dataset, **settings)
    for samples, expected in zip(chosen.samples(dataset), (train, test), strict=True):
        np.testing.assert_array_equal(samples.x[:, 0, 0], expected)
        np.testing.assert_array_equal(samples.y, np.array(expected) % 3)
        assert samples.x.shape[1:] == (4, 6)
    assert chosen.tested == ("validation" if "validation" in settings else "test")


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"validation": 20}, "--validation must be from 0 to 19, got 20: there are 20 training images"),
        ({"validation": -1}, "--validation must be from 0 to 19, got -1"),
        ({"train_size": 21}, r"--train-size must be from 1 to 20 \(the available images\), got 21"),
        ({"train_size": 15, "validation": 6}, r"--train-size must be from 1 to 14"),
        ({"train_size": 0}, "--train-size must be from 1 to 20"),
    ],
    ids=str,
)
def test_it_refuses_more_images_than_there_are(
    settings: dict[str, int], words: str, dataset: Dataset
) -> None:
    with pytest.raises(ValueError, match=words):
        resolve(dataset, **settings)


def test_the_data_are_known_by_each_of_their_digests(dataset: Dataset) -> None:
    chosen = resolve(dataset)
    assert chosen.mismatch(dataset) is None
    assert chosen.mismatch(replace(dataset, name="another")) is None
    for k in range(4):
        digests = (*DIGESTS[:k], "x", *DIGESTS[k + 1 :])
        assert chosen.mismatch(replace(dataset, digests=digests)) == (
            "it was trained on numbers, but the data found (numbers) have other contents"
        )


def test_without_digests_the_data_are_known_by_name_and_sizes(dataset: Dataset) -> None:
    chosen = replace(resolve(dataset, train_size=12, validation=3), digests=())
    assert chosen.mismatch(dataset) is None
    assert chosen.mismatch(replace(dataset, classes=4)) == (
        "it was trained on numbers (4×6 pixels, 3 classes), but the data found are numbers (4×6 pixels, "
        "4 classes)"
    )
    assert chosen.mismatch(replace(dataset, name="another")).endswith("are another (4×6 pixels, 3 classes)")
    turned = replace(dataset, train_images=dataset.train_images.swapaxes(1, 2))
    assert chosen.mismatch(turned).endswith("are numbers (6×4 pixels, 3 classes)")
    fewer = replace(dataset, train_labels=dataset.train_labels[:14])
    assert chosen.mismatch(fewer) == "it uses 15 training images, but the data found have only 14"


def test_it_agrees_with_another_as_far_as_the_digests_are_known(dataset: Dataset) -> None:
    chosen = resolve(dataset)
    assert chosen.agrees_with(replace(chosen, digests=()))
    assert not chosen.agrees_with(replace(chosen, digests=("x", *DIGESTS[1:])))
    assert not chosen.agrees_with(replace(chosen, digests=(), seed=6))
    assert chosen.agrees_with(replace(chosen, source="elsewhere"))
    assert not chosen.agrees_with(replace(chosen, digests=(), source="elsewhere"))
    assert chosen.with_epochs(7).experiment == chosen.experiment.override(epochs=7)
    assert replace(chosen.with_epochs(7), experiment=chosen.experiment) == chosen


def test_fewer_epochs_keep_the_learning_rates(dataset: Dataset) -> None:
    """A resumed run has trained some epochs with them, and its record names one schedule."""
    chosen = resolve(dataset)
    cosine = replace(chosen, experiment=chosen.experiment.override(epochs=12, rate_schedule=Cosine(12)))
    assert cosine.with_epochs(8).experiment.training.rate_schedule == Cosine(12)
