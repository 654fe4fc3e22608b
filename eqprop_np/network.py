"""Φ: layers and connections as a graph, with ∂Φ/∂s and ∂Φ/∂θ.

    Φ(x, s, θ) = Σ_c φ_c(s^pre, s^post; w_c) + Σ_n b_n · s^n

Layers count from the input: layer 0 is x, clamped; layers 1…N are the state, a tuple (s¹, …, s^N)
whose last member is the output ŷ. A chain of layers and the toy model's skip connection are both
just lists of connections.

Parameters are a dict of arrays: ``"w1-2"`` for the connection from layer 1 to layer 2, ``"b2"`` for
the bias of layer 2 (one number per neuron, or per channel of an image).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from operator import iadd
from typing import NamedTuple

import numpy as np

from eqprop_np.activations import Array
from eqprop_np.connections import Connection, ConvPool, Dense, Directed, Shape

Theta = dict[str, Array]
State = tuple[Array, ...]
Switches = dict[str, Array | None]


class Clamped(NamedTuple):
    """All that a clamped input gives the layers, computed once per batch.

    ``drive[n]`` is what reaches layer n from x and from its bias, the same at every step;
    ``switches`` are those of the connections that leave x.
    """

    x: Array
    drive: dict[int, Array]
    switches: Switches


def angle_between(a: Array, b: Array) -> float:
    """The angle between two flat vectors, in degrees."""
    a, b = (v / np.linalg.norm(v) for v in (a.astype(np.float64), b.astype(np.float64)))
    # Exact for small angles too, where the cosine is 1 to all digits (W. Kahan).
    return float(np.degrees(2 * np.arctan2(np.linalg.norm(a - b), np.linalg.norm(a + b))))


@dataclass(frozen=True)
class Network:
    """A graph of layers.

    Parameters
    ----------
    shapes : the shape of each layer without the batch, the input's first.
    connections : the terms of Φ, each from a layer to a later one.
    """

    shapes: tuple[Shape, ...]
    connections: tuple[Connection, ...]

    @property
    def depth(self) -> int:
        """N, the number of layers besides the input."""
        return len(self.shapes) - 1

    @cached_property
    def layers(self) -> range:
        """The free layers, 1…N."""
        return range(1, len(self.shapes))

    @cached_property
    def inputs(self) -> tuple[Connection, ...]:
        """The connections that leave the clamped input."""
        return tuple(c for c in self.connections if c.pre == 0)

    @cached_property
    def recurrent(self) -> tuple[Connection, ...]:
        """The connections between free layers, which work in both directions or come in pairs."""
        return tuple(c for c in self.connections if c.pre > 0)

    @cached_property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """The names of the untied weights w_f and w_b, pair by pair."""
        return tuple((f"w{c.post}-{c.pre}", c.name) for c in self.recurrent if c.pre > c.post)

    @cached_property
    def colours(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The free layers in two groups without a connection inside either: in a chain, odd and even.

        Raises
        ------
        ValueError
            If there are no such groups (a cycle of odd length).
        """
        colour: dict[int, int] = {}

        def paint(n: int, k: int) -> None:
            if n not in colour:
                colour[n] = k
                for c in self.recurrent:
                    if n in (c.pre, c.post):
                        paint(c.pre + c.post - n, 1 - k)
            elif colour[n] != k:
                raise ValueError("this graph has an odd cycle: use schedule='synchronous'")

        for n in self.layers:
            paint(n, colour.get(n, 0))
        return tuple(tuple(n for n in self.layers if colour[n] == k) for k in (0, 1))

    # ---- parameters and states

    @property
    def parameter_shapes(self) -> dict[str, Shape]:
        """The name and shape of each parameter."""
        weights = {c.name: c.shape for c in self.connections}
        return weights | {f"b{n}": self.shapes[n][-1:] for n in self.layers}

    def init(self, rng: np.random.Generator, dtype: type = np.float32, angle: float = 0.0) -> Theta:
        """Weights and biases drawn uniformly from ±1/√fan_in, as the published experiments do.

        Of an untied pair, w_f is drawn, and w_b is its transpose with each sign flipped with probability
        ½(1 − cos ψ): ``angle``, in degrees, is this ψ, which `angle` then measures up to chance.
        """
        fan_in = {f"b{c.post}": c.fan_in for c in reversed(self.connections)}
        fan_in |= {c.name: c.fan_in for c in self.connections}
        backward = [back for _, back in self.pairs]
        theta = {
            name: rng.uniform(-1, 1, shape).astype(dtype) / np.sqrt(fan_in[name], dtype=dtype)
            for name, shape in self.parameter_shapes.items()
            if name not in backward
        }
        for forward, back in self.pairs:
            transpose = theta[forward].T.copy()
            flipped = rng.random(transpose.shape) < (1 - np.cos(np.deg2rad(angle))) / 2
            theta[back] = np.where(flipped, -transpose, transpose)
        return theta

    def angle(self, theta: Theta) -> float | None:
        """The angle between w_f and w_bᵀ, those of all untied pairs as one flat vector, in degrees."""
        if not self.pairs:
            return None
        forward = np.concatenate([theta[name].ravel() for name, _ in self.pairs])
        backward = np.concatenate([theta[name].T.ravel() for _, name in self.pairs])
        return angle_between(forward, backward)

    def zeros(self, batch: int, dtype: np.dtype) -> State:
        """The state at which every phase one starts."""
        return tuple(np.zeros((batch, *self.shapes[n]), dtype) for n in self.layers)

    # ---- Φ and its derivatives

    def phi(self, theta: Theta, x: Array, s: State) -> Array:
        """Φ(x, s, θ) for each sample of the batch, (B,)."""
        layers = (x, *s)
        total = sum(c.phi(theta[c.name], layers[c.pre], layers[c.post]) for c in self.connections)
        for n in self.layers:
            total = total + (layers[n] * theta[f"b{n}"]).reshape(len(x), -1).sum(axis=1)
        return total

    def clamp(self, theta: Theta, x: Array) -> Clamped:
        """The part of ∂Φ/∂s that does not change while x and θ stay: from the input and the biases."""
        drive: dict[int, Array] = {n: theta[f"b{n}"] for n in self.layers}
        switches: Switches = {}
        for c in self.inputs:
            value, switches[c.name] = c.to_post(theta[c.name], x)
            drive[c.post] = value + drive[c.post]
        return Clamped(x, drive, switches)

    def drives(
        self,
        theta: Theta,
        s: Sequence[Array],
        clamped: Mapping[int, Array],
        switches: Switches,
        targets: Iterable[int] | None = None,
        *,
        held: bool = False,
    ) -> tuple[dict[int, Array], Switches]:
        """∂Φ/∂s^n for each layer n in ``targets`` (all, if None), as new arrays.

        Parameters
        ----------
        s : the free layers' states, s¹ first.
        clamped : `Clamped.drive`.
        switches : those that belong to ``s``; found where missing. A connection into a target finds
            its own anew, unless they are ``held``.

        Returns
        -------
        drives, switches
            Of each target; of every pooling connection at ``s``.
        """
        targets = self.layers if targets is None else targets
        switches = dict(switches)
        drives: dict[int, Array] = {}

        def add(n: int, drive: Array) -> None:
            drive += drives.get(n, clamped[n])
            drives[n] = drive

        for c in self.recurrent:
            if c.post in targets or (c.pools and c.name not in switches):
                given = switches[c.name] if held and c.pools else None
                drive, switches[c.name] = c.to_post(theta[c.name], s[c.pre - 1], given)
                if c.post in targets:
                    add(c.post, drive)
        for c in self.recurrent:
            if c.mutual and c.pre in targets:
                add(c.pre, c.to_pre(theta[c.name], s[c.post - 1], switches.get(c.name)))
        for n in targets:  # a layer that only the input drives
            if n not in drives:
                drives[n] = np.broadcast_to(clamped[n], s[n - 1].shape).copy()
        return drives, switches

    def dphi_ds(self, theta: Theta, x: Array, s: State) -> State:
        """∂Φ/∂s(x, s, θ), the right-hand side of Eq. (1), one array per free layer."""
        drives, _ = self.drives(theta, s, self.clamp(theta, x).drive, {})
        return tuple(drives[n] for n in self.layers)

    def vjp_s(self, theta: Theta, v: State, switches: Switches) -> State:
        """The vector-Jacobian product vᵀ ∂(∂Φ/∂s)/∂s, with the switches held.

        The Jacobian of the drives is ∂²Φ/∂s², a symmetric matrix H: what carries v back through the
        drives is what carries a state forward, the drives themselves. Held switches make them linear;
        the input and the biases, which do not depend on s, drop out. Of an untied pair, H has w_f where
        Hᵀ has w_bᵀ: the two change places.
        """
        for forward, back in self.pairs:
            theta = theta | {forward: theta[back].T, back: theta[forward].T}
        silent = {n: np.zeros((), v[n - 1].dtype) for n in self.layers}
        drives, _ = self.drives(theta, v, silent, switches, held=True)
        return tuple(drives[n] for n in self.layers)

    def vjp_theta(self, x: Array, terms: Sequence[tuple[State, State, Switches]]) -> Theta:
        """The vector-Jacobian product Σ_k v_kᵀ ∂(∂Φ/∂s)/∂θ at (x, s_k), the mean over the batch.

        A connection's weight stands in two drives: post's, where it meets s^pre, and pre's, where it
        meets s^post. Each is answered by ∂φ/∂w with v in the place of the driven layer. An untied weight
        stands in post's drive alone.

        Parameters
        ----------
        terms : (s_k, v_k, the switches that belong to s_k), of the same inputs.
        """
        v = _sum([v for _, v, _ in terms])
        return self.outer_vjp_theta(x, v, terms[0][2]) | self.inner_vjp_theta(terms)

    def outer_vjp_theta(self, x: Array, v: State, switches: Switches) -> Theta:
        """`vjp_theta` for the input's weights and the biases alone.

        In the drives they do not meet s, so that one sum of the v is enough for several terms.
        """
        v = tuple(value / len(x) for value in v)
        weights = {c.name: c.gradient(x, v[c.post - 1], switches.get(c.name)) for c in self.inputs}
        biases = {f"b{n}": v[n - 1].sum(axis=tuple(range(v[n - 1].ndim - 1))) for n in self.layers}
        return weights | biases

    def inner_vjp_theta(self, terms: Sequence[tuple[State, State, Switches]]) -> Theta:
        """`vjp_theta` for the weights between free layers alone."""
        terms = [(s, tuple(value / len(value) for value in v), switches) for s, v, switches in terms]
        result: Theta = {}
        for c in self.recurrent:
            pre, post = c.pre - 1, c.post - 1
            gradients = [c.gradient(s[pre], v[post], switches.get(c.name)) for s, v, switches in terms]
            if c.mutual:
                gradients += [c.gradient(v[pre], s[post], switches.get(c.name)) for s, v, switches in terms]
            result[c.name] = reduce(iadd, gradients)
        return result

    def find_switches(self, theta: Theta, x: Array, s: State) -> Switches:
        """Where the maxima of each pooling connection stand at (x, s)."""
        layers = (x, *s)
        return {c.name: c.to_post(theta[c.name], layers[c.pre])[1] for c in self.connections if c.pools}

    def dphi_dtheta(self, theta: Theta, x: Array, s: State, switches: Switches | None = None) -> Theta:
        """∂Φ/∂θ(x, s, θ), the mean over the batch; ``switches`` are found where they are not given."""
        if switches is None:
            switches = self.find_switches(theta, x, s)
        return self.combine_dphi_dtheta(x, [(1.0, s, switches)])

    def combine_dphi_dtheta(self, x: Array, terms: Sequence[tuple[float, State, Switches]]) -> Theta:
        """Σ_k a_k ∂Φ/∂θ(x, s_k, θ), the mean over the batch, for several states of the same inputs.

        Parameters
        ----------
        terms : (a_k, s_k, the switches that belong to s_k). Two of them, with opposite a_k, make the
            difference that Eq. (2) wants.
        """
        total = _sum([tuple(a * value for value in s) for a, s, _ in terms])
        return self.outer_vjp_theta(x, total, terms[0][2]) | self.inner_dphi_dtheta(terms)

    def inner_dphi_dtheta(self, terms: Sequence[tuple[float, State, Switches]]) -> Theta:
        """`combine_dphi_dtheta` for the weights between free layers alone.

        Raises
        ------
        ValueError
            If the weights are untied: then there is no Φ.
        """
        if self.pairs:
            raise ValueError("this network's weights are untied, so it has no Φ: its rules are vf and cvf")
        result: Theta = {}
        for c in self.recurrent:
            gradients = [
                c.gradient(s[c.pre - 1], a / len(s[0]) * s[c.post - 1], switches.get(c.name))
                for a, s, switches in terms
            ]
            result[c.name] = reduce(iadd, gradients)
        return result


def _sum(states: Sequence[State]) -> State:
    return tuple(reduce(np.add, values) for values in zip(*states, strict=True))


def chain(sizes: Sequence[int]) -> Network:
    """A chain of dense layers: ``chain([784, 512, 10])`` is the network of P-1h."""
    shapes = tuple((size,) for size in sizes)
    connections = tuple(Dense(n, n + 1, shapes[n], shapes[n + 1]) for n in range(len(sizes) - 1))
    return Network(shapes, connections)


def convolutional(
    image: Shape, channels: Sequence[int], dense: Sequence[int], kernel: int = 5, pool: int = 2
) -> Network:
    """Convolutions with pooling, then dense layers: P-conv is ``convolutional((28, 28, 1), [32, 64], [10])``.

    Parameters
    ----------
    image : (H, W, C) of the input.
    channels : the channels of each convolutional layer.
    dense : the sizes of the dense layers, the output's last.
    """
    shapes: list[Shape] = [image]
    connections: list[Connection] = []
    for n, features in enumerate(channels):
        connections.append(ConvPool(n, n + 1, shapes[-1], features, kernel, pool))
        shapes.append(connections[-1].post_shape)
    for n, size in enumerate(dense, start=len(channels)):
        connections.append(Dense(n, n + 1, shapes[-1], (size,)))
        shapes.append((size,))
    return Network(tuple(shapes), tuple(connections))


def untied(network: Network) -> Network:
    """The graph of VF and C-VF: a weight of its own for each way between two free layers, "w1-2" and "w2-1".

    Raises
    ------
    ValueError
        If a convolution leads from one free layer to another: only dense connections can be untied.
    """
    connections: list[Connection] = list(network.inputs)
    for c in network.recurrent:
        if not isinstance(c, Dense):
            raise ValueError(f"{c.name} is a convolution, and only dense connections can be untied")
        connections.append(Directed(c.pre, c.post, c.pre_shape, c.post_shape))
        connections.append(Directed(c.post, c.pre, c.post_shape, c.pre_shape))
    return Network(network.shapes, tuple(connections))


def toy(inputs: int = 10, hidden: int = 50, outputs: int = 5) -> Network:
    """The toy model of Fig. 1(b): x → h, x → o and h → o, so that a skip makes it more than a chain."""
    shapes = ((inputs,), (hidden,), (outputs,))
    pairs = ((0, 1), (0, 2), (1, 2))
    return Network(shapes, tuple(Dense(a, b, shapes[a], shapes[b]) for a, b in pairs))
