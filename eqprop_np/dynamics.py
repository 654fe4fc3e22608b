"""One step of the dynamics: Eq. (1) in real time, Eq. (3) in discrete time, and the derivatives of a step.

Both dynamics are written for one layer at a time. `step` moves all layers at once, as Eq. (1) does.
`linearize` gives the Jacobian of the free step, as products with a vector from either side.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from eqprop_np.activations import Activation, Array, refuse_complex, sigmoid
from eqprop_np.checks import as_python, check_batch, check_kind, check_target, describe, is_number
from eqprop_np.connections import Shape
from eqprop_np.costs import Cost, Readout, squared_error
from eqprop_np.network import InputDrive, Network, Snapshot, State, Theta, plus


class Nudge(NamedTuple):
    """The force −β ∂ℓ/∂ŷ on the output.

    Attributes
    ----------
    beta : float or complex
        The strength β. A positive one pulls the output towards the target. The public functions take real
        ones; holomorphic EP uses complex ones inside.
    target : ndarray, shape (B, classes)
        y.
    """

    beta: complex
    target: Array


class _Parts:
    """What both dynamics ask their network and their cost together."""

    network: Network
    cost: Cost | Readout

    @property
    def parameter_shapes(self) -> dict[str, Shape]:
        """The name and shape of each parameter: the network's, and those of a cost with parameters."""
        return self.network.parameter_shapes | self.cost.parameter_shapes(self.network.shapes[-1])

    @property
    def target_shape(self) -> Shape:
        """The shape of a sample's target y: that of the output, or of the scores of a readout."""
        return self.cost.target_shape(self.network.shapes[-1])

    def input_activity(self, x: Array) -> Array:
        """Return what the first layers and Φ see of the input: x itself."""
        return x

    def input_drive(self, theta: Theta, x: Array) -> InputDrive:
        """Return the part of the drives that does not change while x and θ stay."""
        return self.network.input_drive(theta, self.input_activity(x))

    def init(self, rng: np.random.Generator, dtype: DTypeLike = np.float32, psi: float = 0.0) -> Theta:
        """Return random parameters: those of `Network.init`, and those of a cost with parameters."""
        theta = self.network.init(rng, dtype, psi)
        return theta | self.cost.init(self.network.shapes[-1], rng, dtype)

    def scores(self, theta: Theta, s: State) -> Array:
        """Return the scores of the classes in the state s: the output s^N, or the scores of a readout."""
        return self.cost.scores(theta, s[-1])


@dataclass(frozen=True)
class DiscreteTime(_Parts):
    """The discrete-time ("prototypical") dynamics, Eq. (3):

        s^n ← σ(∂Φ/∂s^n(x, s, θ)),    s^N ← σ(∂Φ/∂s^N) − β ∂ℓ/∂s^N

    The nudge is added outside σ and uses the old output. Only the nudge of a `Readout` is added inside σ:

        s^N ← σ(∂Φ/∂s^N − β ∂ℓ/∂s^N)

    There s^N is a hidden layer. Outside σ the nudge would also move its saturated neurons, which cannot
    follow any change of θ. Inside σ, EP follows dL/dθ for β → 0: the nudged steady state is that of Φ − βℓ.

    Parameters
    ----------
    network : Network
    sigma : Activation
        σ.
    cost : Cost or Readout
        ℓ. A readout adds its parameters to θ.

    Raises
    ------
    TypeError, ValueError
        If a parameter is of another kind, or if the network and the cost have a parameter of the same name.
    """

    network: Network
    sigma: Activation = sigmoid
    cost: Cost | Readout = squared_error

    keeps_state = False
    """A layer's next state does not depend on its own state, except through the nudge."""

    clamp = False
    """The states are not clamped."""

    nudge_scale = 1.0
    """The β of Eqs. (1), (2) and (7) in units of the nudge's β."""

    def __post_init__(self) -> None:
        _check_parts(self)

    def activity(self, s: Array) -> Array:
        """Return what the other layers and Φ see of a layer: its state."""
        return s

    def activity_slope(self, s: Array, activity: Array) -> Array:
        """Return the derivative of `activity`."""
        return np.ones_like(s)

    def update(
        self, s: Array, activity: Array, drive: Array, force: Array | None = None, output: bool = False
    ) -> Array:
        """Return a layer's next state: σ(drive), plus the force of the nudge, Eq. (3).

        The force of a readout is added to the drive: σ(drive + force).
        """
        if force is not None and self.cost.nudges_drive:
            return self.sigma.value(drive + force)
        new = self.sigma.value(drive)
        return new if force is None else new + force

    def update_slopes(
        self, s: Array, activity: Array, drive: Array, output: bool = False
    ) -> tuple[Array, Array]:
        """Return the derivatives of a free `update` with respect to s and to the drive, per neuron."""
        return np.zeros_like(s), self.sigma.derivative(drive)


@dataclass(frozen=True)
class RealTime(_Parts):
    """The real-time ("energy-based") dynamics, an Euler step of ds/dt = −∂E/∂s − β ∂ℓ/∂s:

        E = ½‖s‖² − Φ(x, ρ(s), θ)
        s ← s + ε(ρ′(s) ∂Φ/∂ρ − s − β ∂ℓ/∂s)

    This is Eq. (1) with the primitive function ½‖s‖² − εE and the nudge εβ. The derivative with respect
    to θ is then ε ∂Φ/∂θ, and ε cancels in Eq. (2).

    Parameters
    ----------
    network : Network
    sigma : Activation
        ρ.
    epsilon : float
        The time step ε.
    clamp : bool
        Keep s in [0, 1] after each step, as the authors do for training.
    cost : Cost or Readout
        ℓ. A readout adds its parameters to θ.
    authors_code : bool
        Follow the authors' code in two places in which it differs from E: the first layers see ρ(x) instead
        of x, and the output layer moves without the factor ρ′(s). ∂Φ/∂θ still contains ρ(s) of the output.

    Raises
    ------
    TypeError, ValueError
        If a parameter is of another kind or out of its range, or if the network and the cost have a parameter
        of the same name.
    """

    network: Network
    sigma: Activation = sigmoid
    epsilon: float = 0.2
    clamp: bool = True
    cost: Cost | Readout = squared_error
    authors_code: bool = False

    keeps_state = True
    """A layer's next state depends on its own state."""

    def __post_init__(self) -> None:
        _check_parts(self)
        for name in ("clamp", "authors_code"):
            check_kind(name, getattr(self, name), bool | np.bool_, "True or False")
        if not is_number(self.epsilon) or not 0 < self.epsilon <= 2:
            raise ValueError(
                f"epsilon must be above 0 and at most 2, got {describe(self.epsilon)}: "
                "beyond 2 the state diverges"
            )
        object.__setattr__(self, "epsilon", as_python(self.epsilon))

    @property
    def nudge_scale(self) -> float:
        """The β of Eqs. (1), (2) and (7) in units of the nudge's β: ε."""
        return self.epsilon

    def input_activity(self, x: Array) -> Array:
        """Return what the first layers and Φ see of the input: x, or ρ(x) as in the authors' code."""
        return self.sigma.value(x) if self.authors_code else x

    def activity(self, s: Array) -> Array:
        """Return what the other layers and Φ see of a layer: ρ(s)."""
        return self.sigma.value(s)

    def activity_slope(self, s: Array, activity: Array) -> Array:
        """Return the derivative of `activity`, ρ′(s)."""
        return self.sigma.slope(s, activity)

    def update(
        self, s: Array, activity: Array, drive: Array, force: Array | None = None, output: bool = False
    ) -> Array:
        """Return a layer's next state: an Euler step, Eq. (1), clamped if the dynamics clamp.

        ``output`` says whether the layer is s^N, which moves in another way in the authors' code.
        """
        new = self.euler(s, activity, drive, force, output)
        if not self.clamp:
            return new
        refuse_complex(new, "clamping")
        return np.clip(new, 0, 1, out=new)

    def euler(
        self, s: Array, activity: Array, drive: Array, force: Array | None = None, output: bool = False
    ) -> Array:
        """Return s + ε(ρ′(s) drive − s + force), the Euler step before clamping, Eq. (1).

        For the output in the form of the authors' code ρ′(s) is left out.
        """
        slope = 1 if output and self.authors_code else self.sigma.slope(s, activity)
        velocity = slope * drive - s  # −∂E/∂s
        if force is not None:
            velocity = velocity + force
        return s + self.epsilon * velocity

    def update_slopes(
        self, s: Array, activity: Array, drive: Array, output: bool = False
    ) -> tuple[Array, Array]:
        """Return the derivatives of a free `update` with respect to s and to the drive, per neuron."""
        if output and self.authors_code:
            own, gain = np.full_like(s, 1 - self.epsilon), np.full_like(s, self.epsilon)
        else:
            own = 1 - self.epsilon + self.epsilon * self.sigma.second(s) * drive
            gain = self.epsilon * self.sigma.slope(s, activity)
        if self.clamp:
            new = self.euler(s, activity, drive, output=output)
            refuse_complex(new, "clamping")
            inside = (new >= 0) & (new <= 1)  # the derivative of clamping, as that of the hard sigmoid
            own, gain = inside * own, inside * gain
        return own, gain


Dynamics = DiscreteTime | RealTime


def _check_parts(dynamics: Dynamics) -> None:
    for name, kind, example in (
        ("network", Network, "a Network such as chain([784, 512, 10])"),
        ("sigma", Activation, "an Activation such as sigmoid"),
        ("cost", Cost | Readout, "a Cost such as squared_error or a Readout"),
    ):
        check_kind(name, getattr(dynamics, name), kind, example)
    network, cost = dynamics.network, dynamics.cost
    if twice := network.parameter_shapes.keys() & cost.parameter_shapes(network.shapes[-1]).keys():
        raise ValueError(
            f"{min(twice)} names a parameter of the network and of the cost: rename a connection"
        )


def check_arguments(dynamics: Dynamics, theta: Theta, x: Array, s: State | None = None) -> None:
    """Check the dynamics, and that θ, x and, where one is given, s fit its network."""
    check_kind("dynamics", dynamics, Dynamics, "DiscreteTime(...) or RealTime(...)")
    check_batch(dynamics.network, theta, x, s, dynamics.parameter_shapes)


def check_nudge(dynamics: Dynamics, nudge: Nudge | None, x: Array) -> Nudge | None:
    """Return the nudge with its target as a checked float array."""
    if nudge is None:
        return None
    check_kind("nudge", nudge, Nudge, "Nudge(beta, target) or None")
    if not is_number(nudge.beta):
        raise ValueError(f"the nudge's beta must be a finite real number, got {describe(nudge.beta)}")
    return Nudge(as_python(nudge.beta), check_target(dynamics.target_shape, nudge.target, x))


# ---- one step


def step(dynamics: Dynamics, theta: Theta, x: Array, s: State, nudge: Nudge | None = None) -> State:
    """Return the state after one step of Eq. (1), in which all layers move at once.

    Parameters
    ----------
    dynamics : DiscreteTime or RealTime
    theta : dict of ndarray
    x : ndarray, shape (B, …)
    s : tuple of ndarray, each (B, …)
    nudge : Nudge, optional
        With it, this is a step of the second phase.

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit the network.

    Examples
    --------
    >>> from eqprop_np.network import chain
    >>> network = chain([2, 2])
    >>> theta = {"w0-1": np.eye(2), "b1": np.zeros(2)}
    >>> x, s = np.array([[0.0, 1.0]]), (np.zeros((1, 2)),)
    >>> print(step(DiscreteTime(network), theta, x, s)[0].round(3))
    [[0.119 0.881]]
    """
    check_arguments(dynamics, theta, x, s)
    nudge = check_nudge(dynamics, nudge, x)
    return one_step(dynamics, theta, dynamics.input_drive(theta, x), s, nudge)


def one_step(
    dynamics: Dynamics, theta: Theta, static: InputDrive, s: State, nudge: Nudge | None = None
) -> State:
    """Return `step`, Eq. (1), without its checks and for an input whose drive is known."""
    activities = (static.x, *map(dynamics.activity, s))
    drives, _ = dynamics.network.drives(theta, activities, static)  # ∂Φ/∂s
    force = None if nudge is None else output_force(dynamics, theta, s[-1], nudge)
    return tuple(
        dynamics.update(value, activities[n], drives[n], force if n == len(s) else None, n == len(s))
        for n, value in enumerate(s, start=1)
    )


def output_force(dynamics: Dynamics, theta: Theta, output: Array, nudge: Nudge) -> Array:
    """Return the force −β ∂ℓ/∂s^N of the nudge on the output s^N."""
    return -nudge.beta * dynamics.cost.at(theta).derivative(output, nudge.target)


def snapshot(dynamics: Dynamics, theta: Theta, x: Array, s: State) -> Snapshot:
    """Return the activities of a state and their switches: all that ∂Φ/∂θ needs."""
    activities = (dynamics.input_activity(x), *map(dynamics.activity, s))
    return Snapshot(activities, dynamics.network.find_switches(theta, activities))


# ---- the Jacobian of a free step


@dataclass(frozen=True)
class LinearStep:
    """The free step s′ = F(s, θ), linearised at a state s.

    With W the Jacobian of the drives (`Network.jvp_s`), and ``own``, ``gain`` and ``slope`` the
    derivatives of the update with respect to s and to the drive and of the activity, per neuron,

        J = ∂F/∂s = own + gain · W · slope

    Attributes
    ----------
    at : Snapshot
        The activities of s, and their switches.
    own, gain, slope : tuple of ndarray
        One array per free layer.
    """

    network: Network
    theta: Theta
    at: Snapshot
    own: State
    gain: State
    slope: State

    def jvp(self, v: State) -> State:
        """Return the Jacobian-vector product J v."""
        through = self.network.jvp_s(self.theta, _times(self.slope, v), self.at.switches)
        return plus(_times(self.own, v), _times(self.gain, through))

    def vjp(self, u: State) -> State:
        """Return the vector-Jacobian product Jᵀ u, the second line of Eq. (6)."""
        through = self.network.vjp_s(self.theta, self.at_drives(u), self.at.switches)
        return plus(_times(self.own, u), _times(self.slope, through))

    def at_drives(self, u: State) -> State:
        """Return u carried back to the drives, from which `Network.vjp_theta` computes uᵀ ∂F/∂θ."""
        return _times(self.gain, u)

    def vjp_theta(self, u: State) -> Theta:
        """Return uᵀ ∂F/∂θ, the mean over the batch."""
        return self.network.vjp_theta([(self.at, self.at_drives(u))])


def linearize(dynamics: Dynamics, theta: Theta, x: Array, s: State) -> LinearStep:
    """Return the free step linearised at the state s, with `LinearStep.jvp` and `LinearStep.vjp`.

    Parameters
    ----------
    dynamics : DiscreteTime or RealTime
    theta : dict of ndarray
    x : ndarray, shape (B, …)
    s : tuple of ndarray, each (B, …)

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit the network.
    """
    check_arguments(dynamics, theta, x, s)
    return linear_step(dynamics, theta, dynamics.input_drive(theta, x), s)


def linear_step(dynamics: Dynamics, theta: Theta, static: InputDrive, s: State) -> LinearStep:
    """Return `linearize` without its checks, for an input whose drive is known."""
    network = dynamics.network
    activities = (static.x, *map(dynamics.activity, s))
    drives, switches = network.drives(theta, activities, static)
    values = list(zip(s, activities[1:], strict=True))
    slopes = [
        dynamics.update_slopes(value, activity, drives[n], n == len(s))
        for n, (value, activity) in enumerate(values, start=1)
    ]
    return LinearStep(
        network,
        theta,
        at=Snapshot(activities, static.switches | switches),
        own=tuple(own for own, _ in slopes),
        gain=tuple(gain for _, gain in slopes),
        slope=tuple(dynamics.activity_slope(value, activity) for value, activity in values),
    )


def _times(a: State, b: State) -> State:
    return tuple(p * q for p, q in zip(a, b, strict=True))
