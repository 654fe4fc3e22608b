"""Every estimator of dL/dθ against the exact gradient: its error, its order and its cost.

The exact gradient is that of `eqprop_np.rules.implicit`. The *error* of an estimate g is ‖g − dL/dθ‖ relative
to ‖dL/dθ‖, over all parameters, and its *angle* is that between g and dL/dθ. The *order* p says that the
error decreases as a power p of the small parameter: β, the radius r, or η. It is 0 where the error does not
vanish with the parameter.

Plain EP, C-EP and VF have a limit for small parameters: the displacement of a nudged state obeys
δ = J δ − b ℓ_s, so they follow ((I − J)⁻¹ ℓ_s)ᵀ ∂(∂Φ/∂s)/∂θ. The exact gradient is ((I − Jᵀ)⁻¹ ℓ_s)ᵀ ∂F/∂θ.

===================  ==============================================  =======================
network              plain EP, holomorphic EP, C-EP, VF, C-VF         AsymEP, BPTT, implicit
===================  ==============================================  =======================
tied, real time      exact in the limit                               exact in the limit
tied, discrete time  the gradient of another loss                     exact in the limit
untied               no gradient; exact at ψ = 0 in real time         exact in the limit
===================  ==============================================  =======================

The limit of BPTT is K → ∞. Where the limit of the others is not exact, their error and order are given with
respect to this limit as well. If a nudge moves a kink of σ or a switch of a max-pool, as in the system
``conv``, the error is no power of the parameter, and the order is that of a fit.

**Cost.** A *drive* is one call of a connection's ``to_post`` or ``to_pre`` between free layers. A step of the
network takes two for each connection between free layers, and so does a product with J or Jᵀ; this is one
*pass*. With complex numbers a drive takes twice the multiplications of a real one, and counts twice. The
first phase is the same for all and is not counted. After it, K steps per phase take

==================  ==================================================================================
one-sided, C-EP,    K passes
VF, C-VF
centred             2 K passes, K for each sign
holomorphic         N K passes: N/2 + 1 phases (rounded down), all complex but those at ±r
AsymEP              1 + 6 K passes: J at s_*, and for each sign K steps with a product with J and with Jᵀ
BPTT                2 K passes: ∂F/∂s at K states, and K products with its transpose
implicit            1 + K passes: J at s_*, and K iterations of λ
==================  ==================================================================================

K is the smallest number of steps after which the estimate lies within a tenth of its final error from its
value for K → ∞. BPTT has the K that its line says, and implicit takes the iterations that λ needs to
converge to rounding.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from eqprop_np.activations import Array
from eqprop_np.dynamics import Dynamics, LinearStep, RealTime, linear_step
from eqprop_np.network import State, Theta
from eqprop_np.relaxation import Synchronous
from eqprop_np.rules.asymmetric import asymep
from eqprop_np.rules.bptt import bptt, loss_gradient
from eqprop_np.rules.continual import cep
from eqprop_np.rules.ep import ep
from eqprop_np.rules.holomorphic import holomorphic_ep, require_analytic
from eqprop_np.rules.implicit import adjoint
from eqprop_np.rules.phases import Phases, Rule, check_problem, free_phase, require_plain_cost
from eqprop_np.rules.vector_field import angle_between, cvf, vf
from eqprop_np.theorem import NotConverged, order

TOLERANCE = 1e-14
"""The first phase stops when no neuron changes by more."""

LIMIT = 20_000
"""The largest number of steps of the first phase, and of iterations of λ."""

WITHIN = 0.1
"""K is large enough if the rest of the second phase would change an estimate by less than this share of its
error."""

NEGLIGIBLE = 1e-9
"""A limit that is not farther from the exact gradient is taken as exact."""

POINTS = (2, 4, 8)
"""N of holomorphic EP."""

UNROLLED = (5, 20, 100)
"""K of BPTT."""

FRACTIONS = (0.1, 0.03, 0.01)
"""The order of an estimate is fitted where its small parameter is multiplied by these numbers."""


class Record(NamedTuple):
    """A line of the table.

    Attributes
    ----------
    estimator : str
        The name of the estimator, such as "centred EP".
    setting : str
        Its parameters, such as "β = 0.1".
    error, angle : float
        The distance from the exact gradient, relative, and the angle to it in degrees. For an estimate with a
        random sign they are root mean squares over the two signs.
    order : float or None
        The slope of log error against the log of the small parameter; None if there is no such parameter.
    limit_error, limit_order : float or None
        The error and the order with respect to the estimator's own limit, relative to the limit. None where
        the limit is the exact gradient.
    steps, drives : int
        The steps of all second phases, or the iterations, and the drives that they took.
    """

    estimator: str
    setting: str
    error: float
    angle: float
    order: float | None
    limit_error: float | None
    limit_order: float | None
    steps: int
    drives: int


class Measurement(NamedTuple):
    """The result of `measure_estimators`.

    Attributes
    ----------
    records : tuple of Record
        One for each estimator and setting.
    bias : float
        The distance between the limit of a small nudge and the exact gradient, relative to the latter: what
        remains of the error of plain EP, or of VF, for β → 0.
    left_out : tuple of str
        The estimators that do not apply to this system, each with the reason.
    """

    records: tuple[Record, ...]
    bias: float
    left_out: tuple[str, ...]


# ---- the two gradients against which the estimators are measured


@dataclass(frozen=True)
class Problem:
    """Dynamics with parameters and data, and what the estimators are compared with.

    Attributes
    ----------
    phases : Phases
        The settings that all estimators share.
    exact : dict of ndarray
        dL/dθ by implicit differentiation.
    limit : dict of ndarray
        The limit of plain EP or of VF for a small nudge.
    iterations : int
        The number of iterations with which λ converged.
    """

    dynamics: Dynamics
    theta: Theta
    x: Array
    y: Array
    phases: Phases
    exact: Theta
    limit: Theta
    iterations: int

    def estimate(self, rule: Rule, steps: int, **settings: Any) -> Theta:
        """Return a rule's estimate of dL/dθ with K steps and other settings of its phases."""
        phases = replace(self.phases, nudged_steps=steps, **settings)
        return rule(self.dynamics, self.theta, self.x, self.y, phases).gradient


def prepare(dynamics: Dynamics, theta: Theta, x: Array, y: Array) -> Problem:
    """Return the problem with its exact gradient and with the limit of a small nudge.

    Parameters
    ----------
    dynamics : DiscreteTime or RealTime
        Of a tied or an untied network, without clamping.
    theta : dict of ndarray, float64
    x : ndarray, shape (B, …), float64
    y : ndarray, shape (B, classes)

    Raises
    ------
    NotConverged
        If the first phase or λ does not converge.
    TypeError, ValueError
        If an argument does not fit the network, if the dynamics clamp, or if the cost has parameters.
    """
    phases = Phases(LIMIT, 1, beta=1.0, schedule=Synchronous(TOLERANCE))
    y = check_problem(dynamics, theta, x, y, phases)
    require_plain_cost(dynamics)
    if isinstance(dynamics, RealTime) and dynamics.clamp:
        raise ValueError("the limit of a small nudge is known without clamping only: use clamp=False")
    static, free = free_phase(dynamics, theta, x, phases)
    if not free.converged:
        raise NotConverged(
            f"the first phase has not converged: a neuron still changes by {free.residuals[-1]:.1e} per step "
            f"after {free.steps} steps: choose weights with which the network converges"
        )
    F = linear_step(dynamics, theta, static, free.state)  # at s_*
    loss_s = loss_gradient(dynamics, theta, free.state, y)
    counting = _Counting(**vars(F))
    lam, converged = adjoint(counting, loss_s, 0.0, LIMIT)  # (I − Jᵀ)⁻¹ ℓ_s
    displacement, also = adjoint(_Transposed(**vars(F)), loss_s, 0.0, LIMIT)  # (I − J)⁻¹ ℓ_s
    if not (converged and also):
        raise NotConverged(f"λ = (I − Jᵀ)⁻¹ ℓ_s has not converged after {counting.products[0]} iterations")
    limit = _small_nudge(dynamics, F, displacement)
    return Problem(dynamics, theta, x, y, phases, F.vjp_theta(lam), limit, counting.products[0])


@dataclass(frozen=True)
class _Counting(LinearStep):
    """A linearised step that counts its products with Jᵀ, which are the iterations of λ."""

    products: list[int] = field(default_factory=lambda: [0])

    def vjp(self, u: State) -> State:
        self.products[0] += 1
        return super().vjp(u)


class _Transposed(LinearStep):
    """A linearised step whose vector-Jacobian product is that with J: the way of a displacement."""

    def vjp(self, u: State) -> State:
        return self.jvp(u)


def _small_nudge(dynamics: Dynamics, F: LinearStep, displacement: State) -> Theta:
    """Return the limit for β → 0 of minus the Δθ of EP, or of VF, from (I − J)⁻¹ ℓ_s."""
    scale = dynamics.nudge_scale  # b = scale × β
    activity = tuple(scale * slope * d for slope, d in zip(F.slope, displacement, strict=True))
    return F.network.vjp_theta([(F.at, activity)])


# ---- the estimators


@dataclass(frozen=True)
class Estimator:
    """An estimator with a small parameter.

    Parameters
    ----------
    name, setting : str
        As in `Record`.
    value : float
        The value of the small parameter.
    estimates : callable
        Maps (value, K) to the estimates of dL/dθ: one, or one for each sign of β.
    phases : int
        The number of second phases.
    passes : callable
        Maps K to the number of passes of all second phases.
    fractions : tuple of float
        The order is fitted at these multiples of ``value``.
    """

    name: str
    setting: str
    value: float
    estimates: Callable[[float, int], list[Theta]]
    phases: int
    passes: Callable[[int], int]
    fractions: tuple[float, ...] = FRACTIONS


def tied_estimators(problem: Problem, beta: float, ratio: float) -> list[Estimator]:
    """Return the estimators of tied networks: EP, holomorphic EP where it applies, and C-EP.

    Parameters
    ----------
    problem : Problem
    beta : float
        β, and the radius of holomorphic EP.
    ratio : float
        The largest η/β of C-EP; the others are a tenth and a hundredth of it. β is then beta/10000, so that
        the error from η/β is the larger one.
    """
    run = problem.estimate
    found = [
        Estimator(
            "one-sided EP",
            f"β = {beta:.2g}",
            beta,
            lambda b, K: [run(ep, K, beta=b)],
            phases=1,
            passes=lambda K: K,
        ),
        Estimator(
            "random-sign EP",
            f"β = ±{beta:.2g}",
            beta,
            lambda b, K: [run(ep, K, beta=b), run(ep, K, beta=-b)],
            phases=1,
            passes=lambda K: K,
        ),
        Estimator(
            "centred EP",
            f"β = {beta:.2g}",
            beta,
            lambda b, K: [run(ep, K, beta=b, estimate="centered")],
            phases=2,
            passes=lambda K: 2 * K,
        ),
    ]
    if why_not_analytic(problem) is None:
        found += [_holomorphic(problem, beta, N) for N in POINTS]
    found += [_continual(problem, cep, "C-EP", beta / 10_000, ratio * scale) for scale in (1, 0.1, 0.01)]
    return found


def untied_estimators(problem: Problem, beta: float, ratio: float) -> list[Estimator]:
    """Return the estimators of untied networks: VF and C-VF. The parameters are those of the tied ones."""
    run = problem.estimate
    field = Estimator(
        "VF", f"β = {beta:.2g}", beta, lambda b, K: [run(vf, K, beta=b)], phases=1, passes=lambda K: K
    )
    return [field, _continual(problem, cvf, "C-VF", beta / 10_000, ratio * 0.1)]


def _asymep(problem: Problem, beta: float) -> Estimator:
    return Estimator(
        "AsymEP",
        f"β = {beta:.2g}",
        beta,
        lambda b, K: [problem.estimate(asymep, K, beta=b)],
        phases=2,
        passes=lambda K: 1 + 6 * K,
    )


def _holomorphic(problem: Problem, radius: float, N: int) -> Estimator:
    return Estimator(
        f"holomorphic EP, N = {N}",
        f"r = {radius:.2g}",
        radius,
        lambda r, K: [problem.estimate(holomorphic_ep, K, beta=r, points=N)],
        phases=N // 2 + 1,
        passes=lambda K: N * K,
        fractions=FRACTIONS if N == 2 else (1, 0.7, 0.5),  # the error of a larger N is soon that of rounding
    )


def _continual(problem: Problem, rule: Rule, name: str, beta: float, ratio: float) -> Estimator:
    eta = ratio * beta

    def estimates(eta: float, K: int) -> list[Theta]:
        rates = dict.fromkeys(problem.theta, eta)
        return [problem.estimate(rule, K, beta=beta, learning_rates=rates)]

    setting = f"η = {eta:.2g}, β = {beta:.2g}"
    return Estimator(name, setting, eta, estimates, phases=1, passes=lambda K: K, fractions=(1, 0.3, 0.1))


def why_not_analytic(problem: Problem) -> str | None:
    """Return the reason why holomorphic EP does not apply, or None if it does."""
    try:
        require_analytic(problem.dynamics, problem.theta, problem.x, problem.y)
    except ValueError as error:
        return str(error)
    return None


# ---- the measurement


def measure_estimators(
    dynamics: Dynamics, theta: Theta, x: Array, y: Array, beta: float, ratio: float
) -> Measurement:
    """Measure every estimator that applies to the network against the exact gradient.

    The errors and parameters are those of `prepare` and `tied_estimators`.

    Examples
    --------
    >>> from eqprop_np.dynamics import DiscreteTime
    >>> from eqprop_np.network import chain
    >>> dynamics = DiscreteTime(chain([4, 8, 3]))
    >>> theta = dynamics.network.init(np.random.default_rng(0), np.float64)
    >>> x, y = np.ones((1, 4)), np.array([[0.0, 1.0, 0.0]])
    >>> records = measure_estimators(dynamics, theta, x, y, beta=0.1, ratio=0.01).records
    >>> print([f"{r.estimator}: order {r.order:.1f}" for r in records if r.estimator in ("VF", "AsymEP")])
    ['AsymEP: order 2.0']
    """
    problem, network = prepare(dynamics, theta, x, y), dynamics.network
    left_out: list[str] = []
    if network.tied:
        plain = tied_estimators(problem, beta, ratio)
        left_out.append("VF, C-VF: they are rules for untied weights")
        if reason := why_not_analytic(problem):
            left_out.append(f"holomorphic EP: {reason.removeprefix('holomorphic EP ')}")
    else:
        plain = untied_estimators(problem, beta, ratio)
        left_out.append("EP, holomorphic EP, C-EP: the weights are untied, so there is no Φ")
    bias = _error(problem.limit, problem.exact)
    records = [_measure(problem, estimator, problem.limit) for estimator in plain]
    records.append(_measure(problem, _asymep(problem, beta), problem.exact))
    pass_drives = 2 * len(network.recurrent)
    for K in UNROLLED:
        gradient = problem.estimate(bptt, K)
        records.append(_exact_record(problem, "BPTT", f"K = {K}", gradient, K, 2 * K * pass_drives))
    K = problem.iterations
    records.append(_exact_record(problem, "implicit", "", problem.exact, K, (1 + K) * pass_drives))
    return Measurement(tuple(records), bias, tuple(left_out))


def _measure(problem: Problem, estimator: Estimator, limit: Theta) -> Record:
    """Measure an estimator with a small parameter, whose limit is given."""
    longest = 3 * problem.iterations // 2 + 20  # the second phase contracts about as λ does
    estimates = estimator.estimates(estimator.value, longest)
    K = _steps_needed(lambda K: estimator.estimates(estimator.value, K), estimates, problem.exact, longest)
    values = [estimator.value * fraction for fraction in estimator.fractions]
    smaller = [estimator.estimates(value, longest) for value in values]
    another = _error(limit, problem.exact) > NEGLIGIBLE
    return Record(
        estimator.name,
        estimator.setting,
        error=_mean_error(estimates, problem.exact),
        angle=_rms([angle_between(_flat(g), _flat(problem.exact)) for g in estimates]),
        order=order(values, [_mean_error(g, problem.exact) for g in smaller]),
        limit_error=_mean_error(estimates, limit) if another else None,
        limit_order=order(values, [_mean_error(g, limit) for g in smaller]) if another else None,
        steps=estimator.phases * K,
        drives=estimator.passes(K) * 2 * len(problem.dynamics.network.recurrent),
    )


def _exact_record(
    problem: Problem, name: str, setting: str, gradient: Theta, steps: int, drives: int
) -> Record:
    """Return the record of an estimator without a small parameter."""
    error = _error(gradient, problem.exact)
    angle = angle_between(_flat(gradient), _flat(problem.exact))
    return Record(name, setting, error, angle, None, None, None, steps, drives)


def _steps_needed(
    estimates: Callable[[int], list[Theta]], final: Sequence[Theta], exact: Theta, longest: int
) -> int:
    """Return the smallest K, by bisection, with which the estimates are near their final values."""
    allowed = [WITHIN * np.linalg.norm(_flat(g) - _flat(exact)) for g in final]

    def enough(K: int) -> bool:
        distances = [np.linalg.norm(_flat(a) - _flat(b)) for a, b in zip(estimates(K), final, strict=True)]
        return all(d <= a for d, a in zip(distances, allowed, strict=True))

    few, many = 0, longest
    while many - few > 1:
        middle = (few + many) // 2
        few, many = (few, middle) if enough(middle) else (middle, many)
    return many


def _flat(gradient: Theta) -> Array:
    return np.concatenate([gradient[name].ravel() for name in sorted(gradient)])


def _error(a: Theta, b: Theta) -> float:
    """Return ‖a − b‖ / ‖b‖ over all parameters."""
    return float(np.linalg.norm(_flat(a) - _flat(b)) / np.linalg.norm(_flat(b)))


def _mean_error(estimates: Sequence[Theta], b: Theta) -> float:
    return _rms([_error(a, b) for a in estimates])


def _rms(values: Sequence[float]) -> float:
    return float(np.sqrt(np.mean(np.square(values))))
