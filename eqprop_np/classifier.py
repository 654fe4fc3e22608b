"""A scikit-learn classifier that trains a network by equilibrium propagation: `EPClassifier`.

This module needs scikit-learn, which the rest of the package does not. Therefore `eqprop_np` does not
import it: write ``from eqprop_np.classifier import EPClassifier``.
"""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import numpy as np

try:
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.preprocessing import StandardScaler
    from sklearn.utils import check_random_state
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import check_is_fitted, validate_data
except ImportError as error:
    raise ImportError(
        f"eqprop_np.classifier needs scikit-learn 1.6 or newer ({error}): run pip install scikit-learn"
    ) from None

from eqprop_np.activations import Array
from eqprop_np.checks import as_tuple, check_integer, check_kind, describe, is_integer, is_number
from eqprop_np.dynamics import DiscreteTime
from eqprop_np.network import chain
from eqprop_np.optimizers import SGD, Adam, Optimizer
from eqprop_np.relaxation import Alternating
from eqprop_np.rules import RULES, LearningRule, learning_rule
from eqprop_np.rules.phases import Estimate, Phases, Rule, free_phase
from eqprop_np.rules.vector_field import untied
from eqprop_np.samples import FAR
from eqprop_np.training import EVALUATION_BATCH, Diverged, Progress, fit

OPTIMIZERS = {"adam": Adam, "sgd": SGD}

PREDICTION_PHASES = Phases(free_steps=2000, nudged_steps=1, beta=1.0, schedule=Alternating(tol=1e-10))
"""The first phase of a prediction.

A batch stops when its slowest sample has converged. The tolerance is so small that the prediction for a
sample does not depend on the other samples of the batch.
"""


class EPClassifier(ClassifierMixin, BaseEstimator):
    """A network of dense layers in discrete time, trained by equilibrium propagation.

    The output layer has one neuron per class. The target of the class's neuron is 1, and that of the
    others is 0. The prediction is the class of the largest output at the steady state.

    Parameters
    ----------
    hidden_layer_sizes : int or sequence of int
        The number of neurons of each hidden layer. With ``()`` the input drives the output directly.
    rule : str or callable
        A name in `eqprop_np.RULES` such as "ep" or "cep", or a rule of your own. "vf" and "cvf" train a
        network with untied weights. "cep" and "cvf" require ``optimizer="sgd"``.
    beta : float
        The strength β of the nudge. Its estimate is centred where the rule allows it, and has a random
        sign otherwise.
    free_steps, nudged_steps : int
        T and K, the lengths of the two phases of training in synchronous steps. The first phase stops
        earlier when the state has converged.
    optimizer : {"adam", "sgd"}
    learning_rate : float
        Of all parameters. A suitable value is larger for "sgd", for example 0.1.
    epochs : int
        The number of passes of `fit` over the data. `partial_fit` makes one.
    batch_size : int
    standardize : bool
        Scale each feature to mean 0 and variance 1 over the training data, and limit the result to ±10.
        With False the values are used as they are, and they should be about 0 to 1.
    random_state : int, RandomState or None
        The source of the initial weights and of the order of the samples.

    Attributes
    ----------
    classes_ : ndarray, shape (classes,)
        The labels in sorted order.
    n_features_in_ : int
        The number of features.
    feature_names_in_ : ndarray of str
        The names of the features, if X was a data frame with names.
    dynamics_ : DiscreteTime
        The dynamics, with the network.
    progress_ : Progress
        The parameters θ and the history of training, for `eqprop_np.plot_learning_curves`, for example.
    scaler_ : StandardScaler or None
        The mean and the scale of each feature, if ``standardize``.

    Notes
    -----
    X may have any real dtype. Integers, those of uint8 included, are cast to floats without a scale:
    standardization makes a scale unnecessary. (`eqprop_np.fit` scales uint8 to [0, 1].) Training is in
    float32 if X is float32 and in float64 otherwise. Predictions are always computed in float64. Images of
    shape (N, H, W) or (N, H, W, C) are flattened.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> classifier = EPClassifier(random_state=0).fit(X, y)
    >>> print(classifier.predict(X[[0, 60, 120]]), classifier.score(X, y) > 0.95)
    [0 1 2] True
    """

    def __init__(
        self,
        hidden_layer_sizes: int | Sequence[int] = (100,),
        *,
        rule: str | Rule | LearningRule = "ep",
        beta: float = 0.5,
        free_steps: int = 100,
        nudged_steps: int = 10,
        optimizer: str = "adam",
        learning_rate: float = 0.005,
        epochs: int = 50,
        batch_size: int = 32,
        standardize: bool = True,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.hidden_layer_sizes = hidden_layer_sizes
        self.rule = rule
        self.beta = beta
        self.free_steps = free_steps
        self.nudged_steps = nudged_steps
        self.optimizer = optimizer
        self.learning_rate = learning_rate
        self.epochs = epochs
        self.batch_size = batch_size
        self.standardize = standardize
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> "EPClassifier":
        """Train a new network and return the classifier.

        Parameters
        ----------
        X : array-like, shape (N, features) or (N, …)
        y : array-like, shape (N,)
            Labels of any type, of at least two classes.

        Raises
        ------
        TypeError, ValueError
            If a parameter of the classifier is out of its range, or if X or y is not valid.
        Diverged
            If a parameter of the network is no longer finite.
        """
        check_integer("epochs", self.epochs, least=1)
        with self._kept_if_refused():
            X, y = self._check_samples(X, y, reset=True)
            self._begin(X, np.unique(y))
            return self._train(X, y, self.epochs)

    def partial_fit(self, X: Any, y: Any, classes: Any = None) -> "EPClassifier":
        """Train for one epoch on these samples, in addition to those before, and return the classifier.

        The mean and the scale of each feature are updated with the samples first.

        Parameters
        ----------
        X : array-like, shape (N, features) or (N, …)
        y : array-like, shape (N,)
            Labels of any type. A class may be missing.
        classes : array-like, optional
            All labels that may occur. Required in the first call if `fit` was not called before.

        Raises
        ------
        TypeError, ValueError
            As for `fit`; also if a label is not one of the classes, or if ``classes`` is missing in the
            first call or differs from those of the first call.
        """
        first = not hasattr(self, "progress_")
        if first and classes is None:
            raise ValueError("classes must be all labels in the first call of partial_fit, got None")
        known = self.classes_ if classes is None else np.unique(np.asarray(classes))
        if not first and not np.array_equal(known, self.classes_):
            raise ValueError(f"classes must be those of the first call, {self.classes_}, got {known}")
        with self._kept_if_refused():
            X, y = self._check_samples(X, y, reset=first)
            if len(unknown := np.setdiff1d(y, known)):
                raise ValueError(f"the labels must be among the classes {known}, got {unknown[0]}")
            if first:
                self._begin(X, known)
            return self._train(X, y, 1)

    def predict(self, X: Any) -> Array:
        """Return the class of each sample, shape (N,).

        Parameters
        ----------
        X : array-like, shape (N, features) or (N, …)
        """
        best = self.predict_proba(X).argmax(axis=1)
        labels: Array = self.classes_[best]
        return labels

    def predict_proba(self, X: Any) -> Array:
        """Return the outputs at the steady state, divided by their sum, shape (N, classes).

        The outputs are between 0 and 1. The squared error makes each of them an estimate of the probability
        of its class, but nothing calibrates them. If all outputs of a sample are 0, the classes are equal.

        Parameters
        ----------
        X : array-like, shape (N, features) or (N, …)
        """
        check_is_fitted(self, "progress_")
        X = validate_data(self, _flat(X), dtype=np.float64, reset=False)
        outputs = self._outputs(self._scaled(X))
        total = outputs.sum(axis=1, keepdims=True)
        uniform = np.full_like(outputs, 1 / outputs.shape[1])
        return np.divide(outputs, total, out=uniform, where=total > 0)

    # ---- the parts of training and prediction

    @contextmanager
    def _kept_if_refused(self) -> Iterator[None]:
        """Leave the classifier as it was if an argument is refused."""
        before = dict(vars(self))
        try:
            yield
        except (TypeError, ValueError):
            self.__dict__ = before
            raise

    def _check_samples(self, X: Any, y: Any, reset: bool) -> tuple[Array, Array]:
        """Return X as floats, shape (N, features), and y as labels, shape (N,)."""
        X, y = validate_data(self, _flat(X), y, dtype=[np.float64, np.float32], reset=reset)
        check_classification_targets(y)
        return X, y

    def _begin(self, X: Array, classes: Array) -> None:
        """Make the network, its parameters and the scaler."""
        if len(classes) < 2:
            raise ValueError(f"y must have at least 2 classes, got 1 class: {classes[0]}")
        sizes = self.hidden_layer_sizes
        wanted = "a positive integer or a sequence of them such as (100,)"
        hidden = (sizes,) if is_integer(sizes) else as_tuple("hidden_layer_sizes", sizes, wanted)
        for size in hidden:
            check_integer("each of the hidden_layer_sizes", size, least=1)
        check_kind("standardize", self.standardize, bool | np.bool_, "True or False")
        rule, optimizer, _ = self._settings()
        network = chain([X.shape[1], *hidden, len(classes)])
        if rule.networks == "untied":
            network = untied(network)
        seed = check_random_state(self.random_state).randint(np.iinfo(np.int32).max)
        self.classes_ = classes
        self.dynamics_ = DiscreteTime(network)
        self.scaler_ = StandardScaler() if self.standardize else None
        self.progress_ = Progress.begin(network, optimizer, seed, X.dtype)

    def _train(self, X: Array, y: Array, epochs: int) -> "EPClassifier":
        """Train for some more epochs."""
        rule, optimizer, phases = self._settings()
        progress = self.progress_
        progress.abandon_epoch()  # an interrupted one, of other samples
        if progress.optimizer_state.keys() != (state := optimizer.init(progress.theta)).keys():
            progress.optimizer_state = state  # the user has changed the optimizer
        if self.scaler_ is not None:
            self.scaler_ = deepcopy(self.scaler_).partial_fit(X)  # the old one stays if `fit` refuses
        try:
            fit(
                self.dynamics_,
                self._scaled(X),
                np.eye(len(self.classes_))[np.searchsorted(self.classes_, y)],
                phases=phases,
                rule=rule,
                optimizer=optimizer,
                epochs=progress.epoch + epochs,
                batch_size=self.batch_size,
                progress=progress,
                show_progress=False,
            )
        except Diverged:
            del self.progress_  # its parameters are useless
            raise
        share = progress.history["converged"][-1]
        if share < 1:
            warnings.warn(
                f"{100 * (1 - share):.3g} % of the first phases of the last epoch did not converge within "
                f"{self.free_steps} steps: try a larger free_steps or a smaller learning_rate",
                ConvergenceWarning,
                stacklevel=3,
            )
        return self

    def _settings(self) -> tuple[LearningRule, Optimizer, Phases]:
        """Return the rule, the optimizer and the phases, or raise an error if they are not valid."""
        check_integer("batch_size", self.batch_size, least=1)
        rule, optimizer = self._rule(), self._optimizer()
        if rule.moves_weights and self.optimizer != "sgd":
            raise ValueError(
                f'rule {rule.name} moves the weights during the second phase: use optimizer="sgd", '
                f"got {self.optimizer!r}"
            )
        estimate: Estimate = "centered" if "centered" in rule.estimates else "random-sign"
        return rule, optimizer, Phases(self.free_steps, self.nudged_steps, self.beta, estimate)

    def _rule(self) -> LearningRule:
        if not isinstance(self.rule, str):
            return learning_rule(self.rule)
        if self.rule not in RULES:
            raise ValueError(f"rule must be one of {', '.join(RULES)} or a function, got {self.rule!r}")
        return RULES[self.rule]

    def _optimizer(self) -> Optimizer:
        if not isinstance(self.optimizer, str) or self.optimizer not in OPTIMIZERS:
            raise ValueError(
                f"optimizer must be one of {', '.join(OPTIMIZERS)}, got {describe(self.optimizer)}"
            )
        if not is_number(self.learning_rate) or self.learning_rate <= 0:
            raise ValueError(f"learning_rate must be a positive number, got {describe(self.learning_rate)}")
        optimizer: Optimizer = OPTIMIZERS[self.optimizer](float(self.learning_rate))
        return optimizer

    def _scaled(self, X: Array) -> Array:
        """Return X as the network gets it."""
        return X if self.scaler_ is None else np.clip(self.scaler_.transform(X), -FAR, FAR)

    def _outputs(self, X: Array) -> Array:
        """Return the outputs at the steady state."""
        theta = {name: value.astype(np.float64) for name, value in self.progress_.theta.items()}
        chunks = (X[i : i + EVALUATION_BATCH] for i in range(0, len(X), EVALUATION_BATCH))
        phases = [free_phase(self.dynamics_, theta, x, PREDICTION_PHASES)[1] for x in chunks]
        if not all(free.converged for free in phases):
            warnings.warn(
                f"the state of some samples did not converge within {PREDICTION_PHASES.free_steps} steps: "
                "their predictions are not exact",
                ConvergenceWarning,
                stacklevel=4,
            )
        return np.concatenate([free.state[-1] for free in phases])

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True  # images
        return tags


def _flat(X: Any) -> Any:
    """Return images as rows, shape (N, features)."""
    return X.reshape(len(X), -1) if isinstance(X, np.ndarray) and X.ndim > 2 and len(X) else X
