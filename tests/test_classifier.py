"""Tests of the scikit-learn classifier: scikit-learn's own checks, and what they do not cover."""

import pickle
import subprocess
import sys
import warnings
from typing import Any

import numpy as np
import pytest
import readme

pytest.importorskip("sklearn", reason="scikit-learn is not installed: pip install scikit-learn")

from matplotlib.figure import Figure
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_digits, load_iris, make_moons
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_score, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.utils.estimator_checks import check_estimator

import eqprop_np as eq
from eqprop_np import classifier as module
from eqprop_np.classifier import EPClassifier
from eqprop_np.training import Diverged

X, Y = load_iris(return_X_y=True)
NAMES = np.array(["setosa", "versicolor", "virginica"])


def quick(**settings) -> EPClassifier:
    return EPClassifier(**{"hidden_layer_sizes": (20,), "epochs": 15, "random_state": 0} | settings)


# ---- scikit-learn's checks


@pytest.mark.filterwarnings("ignore")
def test_scikit_learns_checks_pass() -> None:
    results = check_estimator(quick(epochs=5), on_skip=None)  # a check that fails raises its error
    skipped = {result["check_name"] for result in results if result["status"] == "skipped"}
    # the first is skipped without SCIPY_ARRAY_API, the second without pandas
    assert skipped <= {"check_array_api_input", "check_classifier_data_not_an_array"}
    assert all(result["status"] == "passed" for result in results if result["check_name"] not in skipped)
    assert len(results) >= 50


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "settings",
    [{"rule": "cvf", "optimizer": "sgd", "learning_rate": 0.2}, {"standardize": False}],
    ids=str,
)
def test_scikit_learns_checks_pass_with_other_settings(settings: dict) -> None:
    check_estimator(quick(epochs=5, **settings), on_skip=None)


# ---- accuracy


def test_it_is_better_on_digits_than_logistic_regression() -> None:
    digits, labels = load_digits(return_X_y=True)
    folds = StratifiedKFold(3, shuffle=True, random_state=0)
    linear, ours = (
        cross_val_score(c, digits / 16, labels, cv=folds).mean()
        for c in (LogisticRegression(max_iter=1000), EPClassifier(epochs=20, random_state=0))
    )
    assert ours > linear > 0.95
    assert ours > 0.97


@pytest.mark.parametrize("scale", [1e-6, 1, 1e6])
def test_features_of_any_scale_are_learned(scale: float) -> None:
    data, labels = load_breast_cancer(return_X_y=True)  # features between 1e-3 and 4e3
    training, test, y_training, y_test = train_test_split(scale * data + scale, labels, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # in particular no warning about the scale
        assert quick().fit(training, y_training).score(test, y_test) > 0.93


def test_it_learns_what_is_not_linear() -> None:
    data, labels = make_moons(300, noise=0.1, random_state=0)
    assert quick(hidden_layer_sizes=(50,), epochs=80).fit(data, labels).score(data, labels) > 0.97
    assert quick(hidden_layer_sizes=(), epochs=80).fit(data, labels).score(data, labels) < 0.93


@pytest.mark.parametrize(
    "settings",
    [
        {"rule": "ep"},
        {"rule": "bptt"},
        {"rule": "vf"},
        {"rule": "cep", "optimizer": "sgd", "learning_rate": 0.05},
        {"rule": "cvf", "optimizer": "sgd", "learning_rate": 0.05},
        {"optimizer": "sgd", "learning_rate": 0.1},
        {"rule": eq.ep, "hidden_layer_sizes": 20},
        {"hidden_layer_sizes": (20, 20), "epochs": 60},
        {"hidden_layer_sizes": ()},
    ],
    ids=lambda settings: str(settings).split(" at 0x")[0],  # not the address of a function
)
def test_each_rule_and_optimizer_learns(settings: dict) -> None:
    fitted = quick(**{"epochs": 40} | settings).fit(X, Y)
    assert fitted.score(X, Y) > 0.85
    assert fitted.dynamics_.network.tied == (settings.get("rule") not in ("vf", "cvf"))


# ---- labels, samples and dtypes


@pytest.mark.parametrize(
    "labels",
    [NAMES[Y], list(NAMES[Y]), NAMES.astype(object)[Y], Y - 7, Y.astype(float), Y > 0, (Y > 0) * 5],
    ids=["strings", "list", "objects", "negative", "floats", "booleans", "two classes"],
)
def test_labels_of_any_type_are_returned(labels) -> None:
    fitted = quick().fit(X, labels)
    np.testing.assert_array_equal(fitted.classes_, np.unique(labels))
    predictions = fitted.predict(X)
    assert predictions.dtype == np.asarray(labels).dtype
    assert np.mean(predictions == np.asarray(labels)) > 0.9
    assert fitted.predict_proba(X).shape == (150, len(set(np.asarray(labels).tolist())))


def test_probabilities_are_the_outputs_over_their_sum() -> None:
    fitted = quick(standardize=False).fit(X / 8, Y)
    found = eq.outputs(
        fitted.dynamics_,
        fitted.progress_.theta,
        X / 8,
        eq.Phases(500, 1, 1.0, schedule=eq.Alternating(tol=1e-9)),
    )
    probabilities = fitted.predict_proba(X / 8)
    np.testing.assert_allclose(probabilities, found / found.sum(axis=1, keepdims=True), atol=1e-8)
    assert not np.allclose(found.sum(axis=1), 1, atol=0.01)  # the division does something
    np.testing.assert_array_equal(fitted.predict(X / 8), probabilities.argmax(axis=1))


def test_without_any_output_the_classes_are_equal() -> None:
    fitted = quick().fit(X, Y)
    fitted.progress_.theta["b2"] -= 1000
    np.testing.assert_allclose(fitted.predict_proba(X[:2]), np.full((2, 3), 1 / 3))


def test_a_prediction_does_not_depend_on_the_other_samples() -> None:
    digits, labels = load_digits(return_X_y=True)
    fitted = quick(epochs=3).fit(digits, labels)
    together = fitted.predict_proba(digits[:600])
    np.testing.assert_allclose(fitted.predict_proba(digits[:600][::-1])[::-1], together, atol=1e-9)
    alone = np.concatenate([fitted.predict_proba(sample[np.newaxis]) for sample in digits[:40]])
    np.testing.assert_allclose(alone, together[:40], atol=1e-9)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int64", "float16", "float32"])
@pytest.mark.parametrize("standardize", [True, False])
def test_integers_are_cast_and_not_scaled(dtype: str, standardize: bool) -> None:
    integers = np.round(X)  # from 0 to 8
    wanted = quick(standardize=standardize).fit(integers, Y).predict_proba(integers)
    fitted = quick(standardize=standardize).fit(integers.astype(dtype), Y)
    single = dtype == "float32"
    assert fitted.progress_.theta["w0-1"].dtype == (np.float32 if single else np.float64)
    np.testing.assert_allclose(
        fitted.predict_proba(integers.astype(dtype)), wanted, atol=0.02 if single else 1e-12
    )


def test_images_are_flattened() -> None:
    digits, labels = load_digits(return_X_y=True)
    flat = quick(epochs=2).fit(digits, labels)
    for shape in ((-1, 8, 8), (-1, 8, 8, 1)):
        images = quick(epochs=2).fit(digits.reshape(shape), labels)
        assert images.n_features_in_ == 64
        np.testing.assert_array_equal(
            images.predict_proba(digits.reshape(shape)[:9]), flat.predict_proba(digits[:9])
        )
    with pytest.raises(ValueError, match="63 features, but EPClassifier is expecting 64"):
        flat.predict(digits[:, :63])


def test_a_far_sample_does_not_break_the_prediction() -> None:
    fitted = quick().fit(X, Y)
    far = np.array([[1e9, -1e9, 1e9, 1e9]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isfinite(fitted.predict_proba(far)).all()


# ---- random state, copies, and scikit-learn's tools


@pytest.mark.parametrize("state", [3, np.random.RandomState(3)], ids=["int", "RandomState"])
def test_random_state_repeats_a_fit(state) -> None:
    first, second = (EPClassifier(5, epochs=2, random_state=clone_state(state)).fit(X, Y) for _ in range(2))
    np.testing.assert_array_equal(first.predict_proba(X), second.predict_proba(X))
    other = EPClassifier(5, epochs=2, random_state=4).fit(X, Y)
    assert np.abs(first.predict_proba(X) - other.predict_proba(X)).max() > 0.01


def clone_state(state):
    return pickle.loads(pickle.dumps(state))


def test_without_a_random_state_fits_differ() -> None:
    first, second = (EPClassifier(5, epochs=2).fit(X, Y).predict_proba(X) for _ in range(2))
    assert np.abs(first - second).max() > 0.01


def test_a_pickle_predicts_and_continues_as_the_original() -> None:
    fitted = quick(epochs=2).fit(X, NAMES[Y])
    copy = pickle.loads(pickle.dumps(fitted))
    for each in (fitted, copy):
        each.partial_fit(X, NAMES[Y])
    np.testing.assert_array_equal(copy.predict_proba(X), fitted.predict_proba(X))


def test_parameters_are_set_copied_and_not_changed() -> None:
    made = EPClassifier([7, 8], beta=0.3, random_state=5)
    assert made.set_params(epochs=4) is made
    copy = clone(made)
    assert copy.get_params() == made.get_params()
    assert (copy.hidden_layer_sizes, copy.beta, copy.epochs) == ([7, 8], 0.3, 4)
    copy.fit(X, Y)
    assert copy.get_params() == made.get_params()
    assert copy.dynamics_.network.shapes == ((4,), (7,), (8,), (3,))
    assert repr(copy) == "EPClassifier(beta=0.3, epochs=4, hidden_layer_sizes=[7, 8], random_state=5)"


def test_it_works_in_a_pipeline_and_a_grid_search() -> None:
    pipeline = make_pipeline(StandardScaler(), FunctionTransformer(np.tanh), quick())
    search = GridSearchCV(pipeline, {"epclassifier__epochs": [1, 15], "epclassifier__beta": [0.2, 0.5]}, cv=3)
    search.fit(X, NAMES[Y])
    assert search.best_params_["epclassifier__epochs"] == 15
    assert search.best_score_ > 0.8
    assert set(search.predict(X)) == set(NAMES)


def test_the_history_is_that_of_fit() -> None:
    fitted = quick(epochs=4).fit(X, Y)
    assert len(fitted.progress_.history["train_error"]) == 4
    axes = eq.plot_learning_curves(fitted.progress_, Figure().subplots())
    np.testing.assert_array_equal(axes.get_lines()[0].get_ydata(), fitted.progress_.history["train_error"])


# ---- partial_fit


def test_partial_fit_learns_from_batches_without_some_classes() -> None:
    online = quick(batch_size=5)
    order = np.random.default_rng(0).permutation(150)
    for k in range(40):
        part = order[(20 * k) % 140 : (20 * k) % 140 + 20]
        online.partial_fit(X[part], NAMES[Y][part], classes=NAMES[::-1] if k == 0 else None)
    assert online.score(X, NAMES[Y]) > 0.9
    np.testing.assert_array_equal(online.classes_, NAMES)
    one = quick()
    for _ in range(30):
        one.partial_fit(X[:10], NAMES[Y][:10], classes=NAMES)  # one class of three
    assert set(one.predict(X[:10])) == {"setosa"}
    assert one.predict_proba(X).shape == (150, 3)


def test_partial_fit_counts_epochs_and_updates_the_scale() -> None:
    online = quick(epochs=2).fit(X[::2], Y[::2])
    assert online.partial_fit(X[1::2], Y[1::2]) is online
    assert online.progress_.epoch == 3
    np.testing.assert_allclose(online.scaler_.mean_, X.mean(axis=0))
    np.testing.assert_allclose(online.scaler_.scale_, X.std(axis=0))


def test_one_partial_fit_is_an_epoch_of_fit() -> None:
    whole = quick(epochs=1).fit(X, Y)
    part = quick(epochs=99).partial_fit(X, Y, classes=[0, 1, 2])
    np.testing.assert_array_equal(part.predict_proba(X), whole.predict_proba(X))


def test_fit_forgets_what_was_before() -> None:
    again = quick().fit(X[:, :2], Y > 0).fit(X, NAMES[Y])
    np.testing.assert_array_equal(again.predict_proba(X), quick().fit(X, NAMES[Y]).predict_proba(X))


def test_partial_fit_takes_new_settings() -> None:
    online = quick(epochs=3).fit(X, Y)
    online.set_params(optimizer="sgd", learning_rate=0.1).partial_fit(X, Y)
    assert not online.progress_.optimizer_state
    online.set_params(optimizer="adam", learning_rate=1e-9)
    before = online.progress_.theta["b2"].copy()
    online.partial_fit(X, Y)
    np.testing.assert_allclose(online.progress_.theta["b2"], before, atol=1e-6)
    assert online.progress_.optimizer_state["t"] == 5  # the batches of one epoch


def test_partial_fit_refuses_other_classes() -> None:
    with pytest.raises(ValueError, match="classes must be all labels in the first call"):
        quick().partial_fit(X, Y)
    with pytest.raises(ValueError, match=r"among the classes .* got 2"):
        quick().partial_fit(X, Y, classes=[0, 1])
    online = quick().partial_fit(X, Y, classes=[0, 1, 2])
    with pytest.raises(ValueError, match=r"those of the first call, \[0 1 2\], got \[0 1\]"):
        online.partial_fit(X, Y, classes=[0, 1])
    with pytest.raises(ValueError, match=r"among the classes .* got 9"):
        online.partial_fit(X, np.full(150, 9))


# ---- what is refused


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"hidden_layer_sizes": (0,)}, "hidden_layer_sizes must be a positive integer, got 0"),
        ({"hidden_layer_sizes": "20"}, "hidden_layer_sizes must be a positive integer or a sequence of them"),
        ({"hidden_layer_sizes": 2.5}, "hidden_layer_sizes must be a positive integer or a sequence of them"),
        (
            {"rule": "backprop"},
            "rule must be one of ep, cep, vf, cvf, bptt, implicit, holomorphic, asymep or a function, "
            "got 'backprop'",
        ),
        ({"rule": 3}, "rule must be a function"),
        ({"rule": "cep"}, "use optimizer=\"sgd\", got 'adam'"),
        ({"beta": 0}, "beta must be a finite number other than 0"),
        ({"free_steps": 0}, "free_steps must be a positive integer, got 0"),
        ({"nudged_steps": 1.5}, "nudged_steps must be a positive integer, got 1.5"),
        ({"optimizer": "lbfgs"}, "optimizer must be one of adam, sgd, got 'lbfgs'"),
        ({"learning_rate": 0}, "learning_rate must be a positive number, got 0"),
        ({"learning_rate": "0.1"}, "learning_rate must be a positive number, got '0.1'"),
        ({"epochs": 0}, "epochs must be a positive integer, got 0"),
        ({"batch_size": 0}, "batch_size must be a positive integer, got 0"),
        ({"standardize": "yes"}, "standardize must be True or False, got 'yes'"),
        ({"random_state": "x"}, "'x' cannot be used to seed"),
    ],
)
def test_a_parameter_out_of_range_is_refused_in_fit(settings: dict, words: str) -> None:
    made = quick(**settings)  # not yet refused
    with pytest.raises((TypeError, ValueError)) as caught:
        made.fit(X, Y)
    assert words in str(caught.value)
    with pytest.raises(NotFittedError):
        made.predict(X)


def test_one_class_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 2 classes, got 1 class: cat"):
        quick().fit(X, ["cat"] * 150)


def test_a_run_that_diverges_leaves_no_model() -> None:
    made = quick(learning_rate=1.7e308)
    with pytest.raises(Diverged):
        made.fit(X, Y)
    with pytest.raises(NotFittedError):
        made.predict(X)


@pytest.mark.parametrize(
    "change, X, y",
    [
        ({"beta": 1.5}, np.eye(6), np.arange(6) % 3),
        ({"beta": 1e-16}, np.eye(6), np.arange(6) % 3),
        ({}, np.eye(6)[:, :4], np.zeros(6)),
        ({"hidden_layer_sizes": 0}, np.eye(6), np.arange(6) % 3),
    ],
)
@pytest.mark.parametrize("name", ["fit", "partial_fit"])
def test_a_refused_call_leaves_the_model_as_it_was(change: dict, X, y, name: str) -> None:
    data = np.random.default_rng(0).random((60, 6))
    labels = np.arange(60) % 3
    model = EPClassifier(epochs=2, random_state=0).fit(data, labels)
    before, counted = model.predict_proba(data), model.scaler_.n_samples_seen_
    if name == "partial_fit" and "hidden_layer_sizes" in change:
        return  # it does not build a network
    with pytest.raises(ValueError):
        getattr(model.set_params(**change), name)(X, y)
    np.testing.assert_array_equal(model.predict_proba(data), before)
    assert model.scaler_.n_samples_seen_ == counted


def test_after_an_interrupt_partial_fit_begins_a_new_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    data, labels = np.random.default_rng(0).random((60, 6)), np.arange(60) % 3
    model = EPClassifier(epochs=1, batch_size=6, random_state=0).fit(data, labels)
    model.progress_.commit(batch=4, errors=9)  # as Ctrl-C leaves it
    model.partial_fit(data[:35], labels[:35])
    assert model.progress_.epoch == 2 and model.progress_.size == 35
    assert model.progress_.history["train_error"][-1] <= 100


def test_phases_that_do_not_converge_are_reported() -> None:
    with pytest.warns(ConvergenceWarning, match="100 % of the first phases of the last epoch"):
        quick(free_steps=1, epochs=1).fit(X, Y)


def test_the_share_of_phases_is_that_of_the_last_epoch() -> None:
    with pytest.warns(ConvergenceWarning) as caught:
        fitted = quick(free_steps=10, epochs=4, batch_size=8).fit(X, Y)
    *others, share = fitted.progress_.history["converged"]
    assert 0 < share < 1
    assert {share, 1 - share}.isdisjoint(others)
    assert str(caught[0].message).startswith(
        f"{100 * (1 - share):.3g} % of the first phases of the last epoch"
    )


@pytest.mark.parametrize(
    "settings, rule, optimizer, estimate",
    [
        ({}, eq.ep, eq.Adam(0.02), "centered"),
        ({"rule": "bptt", "optimizer": "sgd"}, eq.bptt, eq.SGD(0.02), "centered"),
        ({"rule": "cep", "optimizer": "sgd"}, eq.cep, eq.SGD(0.02), "random-sign"),
        ({"rule": "cvf", "optimizer": "sgd"}, eq.cvf, eq.SGD(0.02), "random-sign"),
        ({"standardize": False}, eq.ep, eq.Adam(0.02), "centered"),
    ],
    ids=["ep", "bptt", "cep", "cvf", "not standardized"],
)
@pytest.mark.filterwarnings("ignore:.*did not converge")
@pytest.mark.filterwarnings("ignore:X has values")
def test_it_trains_as_fit_does_with_its_settings(
    settings: dict, rule: Any, optimizer: Any, estimate: str
) -> None:
    """Each setting has a value of its own, and the last sample lies far outside the others."""
    data = X.copy()
    data[-1] *= 1000
    phases = {"free_steps": 21, "nudged_steps": 7, "beta": 0.3}
    more = {"epochs": 2, "batch_size": 11, "learning_rate": 0.02, "random_state": 4}
    fitted = EPClassifier((6, 5), **phases, **more, **settings).fit(data, NAMES[Y])
    network = eq.chain([4, 6, 5, 3])
    network = eq.untied(network) if rule is eq.cvf else network
    scaled = data if "standardize" in settings else np.clip(StandardScaler().fit_transform(data), -10, 10)
    seed = np.random.RandomState(4).randint(np.iinfo(np.int32).max)
    expected = eq.fit(
        eq.DiscreteTime(network),
        scaled,
        Y,
        phases=eq.Phases(**phases, estimate=estimate),
        rule=rule,
        optimizer=optimizer,
        epochs=2,
        batch_size=11,
        progress=eq.Progress.begin(network, optimizer, seed, np.float64),
    )
    for name, value in expected.theta.items():
        np.testing.assert_array_equal(fitted.progress_.theta[name], value)
    assert fitted.progress_.history["train_error"] == expected.history["train_error"]


def test_predictions_that_do_not_converge_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    fitted = quick().fit(X, Y)
    monkeypatch.setattr(module, "PREDICTION_PHASES", eq.Phases(2, 1, 1.0))
    with pytest.warns(ConvergenceWarning, match="did not converge within 2 steps"):
        fitted.predict(X)


def test_without_scikit_learn_the_import_says_what_to_do() -> None:
    code = "import sys; sys.modules['sklearn'] = None; import eqprop_np; import eqprop_np.classifier"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8")
    last = run.stderr.splitlines()[-1]
    assert last.startswith("ImportError: eqprop_np.classifier needs scikit-learn")
    assert last.endswith("run pip install scikit-learn")
    assert "During handling" not in run.stderr


# ---- the README


def test_the_readme_has_the_accuracy_on_digits() -> None:
    printed, wanted, _ = readme.run("With scikit-learn")
    assert readme.words(printed) == readme.words(wanted)
    # Another machine rounds differently, which may change some of the 450 predictions.
    np.testing.assert_allclose(readme.numbers(printed), readme.numbers(wanted), atol=0.7)
