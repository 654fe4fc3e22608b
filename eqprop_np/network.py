"""Φ of a network: a graph of layers and connections, with ∂Φ/∂s and ∂Φ/∂θ.

    Φ(x, s, θ) = Σ_c φ_c(s^pre, s^post; w_c) + Σ_n b_n · s^n

Layer 0 is the input x. Layers 1…N are the state, a tuple (s¹, …, s^N), and s^N is the output ŷ.
Inside this module *activities* are (x, s¹, …, s^N), so that index n is layer n. In real time the layers
see each other through ρ, and the activities are (x, ρ(s¹), …, ρ(s^N)).

Parameters are a dict of arrays: "w1-2" for the connection from layer 1 to layer 2, "b2" for the bias of
layer 2, which has one number per neuron, or per channel of an image.

An *untied* network has two weights for a connection between free layers: "w1-2" for the drive to layer 2
and "w2-1", of the same shape, for the drive to layer 1. Its drives are not the derivative of any Φ.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import cached_property, reduce
from math import prod
from operator import iadd
from typing import NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from eqprop_np.activations import Array
from eqprop_np.checks import as_tuple, check_batch, check_kind, check_shape, describe, is_integer, is_number
from eqprop_np.connections import Connection, ConvPool, Dense, Shape, flat

Theta = dict[str, Array]
State = tuple[Array, ...]
Activities = tuple[Array, ...]
Switches = dict[str, Array | None]


class InputDrive(NamedTuple):
    """The part of the drives that is the same at each step of a phase.

    Attributes
    ----------
    x : ndarray, shape (B, …)
        The input.
    drives : dict
        For each layer n, its bias plus the drive that it gets from x.
    switches : dict
        The switches of the connections that leave x.
    """

    x: Array
    drives: dict[int, Array]
    switches: Switches

    def take(self, samples: Array) -> "InputDrive":
        """Return the drive of these samples of the batch. It leaves out the switches, which no step needs."""
        drives = {n: d if d.ndim == 1 else d[samples] for n, d in self.drives.items()}  # a bias has no batch
        return InputDrive(self.x[samples], drives, {})


class Snapshot(NamedTuple):
    """The activities (x, s¹, …, s^N) of a batch, and the switches that belong to them."""

    activities: Activities
    switches: Switches


class Pair(NamedTuple):
    """Two sets of activities: `Network.pair_gradient` takes pre from the first and post from the second."""

    pre: Activities
    post: Activities
    switches: Switches


@dataclass(frozen=True)
class Network:
    """A graph of layers.

    Parameters
    ----------
    shapes : tuple of tuple of int
        The shape of each layer without the batch; the input's first, the output's last.
    connections : tuple of Connection
        The terms of Φ. Each leads from a layer to a later one.
    tied : bool
        Whether both drives of a connection use one weight. Φ exists only then.

    Raises
    ------
    TypeError, ValueError
        If a connection does not fit the shapes, if two parameters have the same name, or if no connection
        leads to some layer.

    Examples
    --------
    >>> network = Network(((4,), (3,)), (Dense(0, 1, (4,), (3,)),))
    >>> print(network.parameter_shapes)
    {'w0-1': (4, 3), 'b1': (3,)}
    >>> print(network)
    layer  shape  from  term   parameter  shape  number
    0      4
    1      3            bias   b1         3           3
                  0     Dense  w0-1       4×3        12
    total                                            15
    """

    shapes: tuple[Shape, ...]
    connections: tuple[Connection, ...]
    tied: bool = True

    def __post_init__(self) -> None:
        shapes = as_tuple("shapes", self.shapes, "a tuple of the layers' shapes, such as ((784,), (10,))")
        shapes = tuple(
            as_tuple(f"the shape of layer {n}", shape, "a tuple such as (784,)")
            for n, shape in enumerate(shapes)
        )
        example = "a tuple of connections such as (Dense(0, 1, (784,), (10,)),)"
        object.__setattr__(self, "shapes", shapes)
        object.__setattr__(self, "connections", as_tuple("connections", self.connections, example))
        _check_graph(self)

    def __repr__(self) -> str:
        weights = "" if self.tied else "; untied weights"
        shapes = ", ".join(map(_shape_text, self.shapes))
        return f"<Network: layers {shapes}; {self._count():,} parameters{weights}>"

    def __str__(self) -> str:
        """Return a table of the layers, the terms of Φ that drive each of them, and their parameters."""
        shapes = self.parameter_shapes
        rows = [("layer", "shape", "from", "term", "parameter", "shape", "number")]

        def add(layer: str, shape: str, start: str, term: str, name: str) -> None:
            rows.append(
                (layer, shape, start, term, name, _shape_text(shapes[name]), f"{prod(shapes[name]):,}")
            )

        rows.append(("0", _shape_text(self.shapes[0]), "", "", "", "", ""))
        for n in self.layers:
            add(str(n), _shape_text(self.shapes[n]), "", "bias", f"b{n}")
            for c in self.connections:
                if c.post == n:
                    add("", "", str(c.pre), _settings(c), c.name)
                if c.pre == n and not self.tied:
                    add("", "", str(c.post), f"{_settings(c)}, backward", self.backward_name(c))
        rows.append(("total", "", "", "", "", "", f"{self._count():,}"))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join(_line(row, widths) for row in rows)

    def _count(self) -> int:
        """Return the number of parameters."""
        return sum(map(prod, self.parameter_shapes.values()))

    @property
    def depth(self) -> int:
        """N, the number of layers without the input."""
        return len(self.shapes) - 1

    @cached_property
    def layers(self) -> range:
        """The indices of the free layers, 1…N."""
        return range(1, len(self.shapes))

    @cached_property
    def inputs(self) -> tuple[Connection, ...]:
        """The connections that leave the input."""
        return tuple(c for c in self.connections if c.pre == 0)

    @cached_property
    def recurrent(self) -> tuple[Connection, ...]:
        """The connections between free layers, which act in both directions."""
        return tuple(c for c in self.connections if c.pre > 0)

    @cached_property
    def groups(self) -> tuple[tuple[int, ...], ...]:
        """The free layers in two groups without a connection inside a group; in a chain, odd and even.

        A network with one free layer has one group.

        Raises
        ------
        ValueError
            If there are no such groups, because the graph has a cycle of odd length.
        """
        group: dict[int, int] = {}
        for start in self.layers:
            pending = [(start, group.get(start, 0))]
            while pending:
                n, k = pending.pop()
                if n not in group:
                    group[n] = k
                    pending += [(c.pre + c.post - n, 1 - k) for c in self.recurrent if n in (c.pre, c.post)]
                elif group[n] != k:
                    raise ValueError("the graph has a cycle of odd length: use the schedule Synchronous()")
        both = (tuple(n for n in self.layers if group[n] == k) for k in (0, 1))
        return tuple(layers for layers in both if layers)

    # ---- parameters and states

    def backward_name(self, c: Connection) -> str:
        """Return the name in θ of the weight with which post drives pre.

        With untied weights it is "w2-1" for "w1-2", and "name-backward" for a name that was given.
        """
        if self.tied:
            return c.name
        return f"w{c.post}-{c.pre}" if c.name == f"w{c.pre}-{c.post}" else f"{c.name}-backward"

    @property
    def parameter_shapes(self) -> dict[str, Shape]:
        """The name and shape of each parameter."""
        weights = {c.name: c.shape for c in self.connections}
        biases = {f"b{n}": self.shapes[n][-1:] for n in self.layers}
        return weights | biases | {self.backward_name(c): c.shape for c in self.recurrent}

    def init(self, rng: np.random.Generator, dtype: DTypeLike = np.float32, psi: float = 0.0) -> Theta:
        """Return random parameters, uniform in ±1/√fan_in as in the published experiments.

        Parameters
        ----------
        rng : numpy.random.Generator
        dtype : dtype
        psi : float
            ψ in degrees, for untied networks only. A backward weight starts as its forward weight with
            each sign flipped with probability ½(1 − cos ψ), so that ψ is the expected angle between them.

        Raises
        ------
        TypeError, ValueError
            If an argument is of another kind, or if ψ is out of its range.

        Examples
        --------
        >>> theta = chain([4, 8, 3]).init(np.random.default_rng(0))
        >>> print({name: value.shape for name, value in theta.items()})
        {'w0-1': (4, 8), 'w1-2': (8, 3), 'b1': (8,), 'b2': (3,)}
        """
        check_kind("rng", rng, np.random.Generator, "a random generator such as np.random.default_rng(0)")
        if np.dtype(dtype).type not in (np.float32, np.float64):
            raise TypeError(f"dtype must be np.float32 or np.float64, got {np.dtype(dtype)}")
        if not is_number(psi) or not 0 <= psi <= 180 or (psi and self.tied):
            raise ValueError(
                f"psi must be from 0 to 180 degrees, and 0 for tied weights, got {describe(psi)}"
            )
        fan_in = {f"b{c.post}": c.fan_in for c in reversed(self.connections)}
        fan_in |= {c.name: c.fan_in for c in self.connections}
        theta = {
            name: rng.uniform(-1, 1, self.parameter_shapes[name]).astype(dtype)
            / np.sqrt(fan_in[name], dtype=dtype)
            for name in self.parameter_shapes
            if name in fan_in
        }
        if not self.tied:
            for c in self.recurrent:
                flipped = (1 - np.cos(np.deg2rad(psi))) / 2 > rng.random(c.shape[::-1]).T
                theta[self.backward_name(c)] = np.where(flipped, -theta[c.name], theta[c.name])
        return theta

    def zeros(self, batch: int, dtype: DTypeLike) -> State:
        """Return the state in which each first phase begins."""
        return tuple(np.zeros((batch, *self.shapes[n]), dtype) for n in self.layers)

    # ---- Φ and its derivatives, for a caller

    def phi(self, theta: Theta, x: Array, s: State) -> Array:
        """Return Φ(x, s, θ) for each sample, shape (B,).

        Parameters
        ----------
        theta : dict of ndarray
        x : ndarray, shape (B, …)
        s : tuple of ndarray, each (B, …)

        Raises
        ------
        TypeError, ValueError
            If an argument does not fit the network, or if its weights are untied.
        """
        check_batch(self, theta, x, s)
        self.require_tied()
        a = (x, *s)
        weights = sum(c.phi(theta[c.name], a[c.pre], a[c.post]) for c in self.connections)  # Σ_c φ_c
        biases = sum(flat(a[n] * theta[f"b{n}"]).sum(axis=1) for n in self.layers)  # Σ_n b_n · s^n
        total: Array = weights + biases
        return total

    def dphi_ds(self, theta: Theta, x: Array, s: State) -> State:
        """Return ∂Φ/∂s(x, s, θ) of Eq. (1), one array per free layer. With untied weights this is F(x, s, θ).

        The parameters and errors are those of `phi`.
        """
        check_batch(self, theta, x, s)
        drives, _ = self.drives(theta, (x, *s), self.input_drive(theta, x))
        return tuple(drives[n] for n in self.layers)

    def dphi_dtheta(self, theta: Theta, x: Array, s: State) -> Theta:
        """Return ∂Φ/∂θ(x, s, θ) of Eq. (2), the mean over the batch.

        The parameters and errors are those of `phi`.
        """
        check_batch(self, theta, x, s)
        self.require_tied()
        a = (x, *s)
        switches = self.find_switches(theta, a)
        mean = tuple(value / len(x) for value in a)
        return self.linear_gradient(x, mean, switches) | self.pair_gradient([Pair(a, mean, switches)])

    def require_tied(self) -> None:
        """Raise a ValueError if the weights are untied."""
        if not self.tied:
            raise ValueError(
                "this network's weights are untied, so it has no Φ: use the rule vf, cvf, bptt, implicit or "
                "asymep"
            )

    # ---- the drives, in parts. From here on no function checks its arguments.

    def input_drive(self, theta: Theta, x: Array) -> InputDrive:
        """Return the part of the drives that does not change while x and θ stay."""
        drives: dict[int, Array] = {n: theta[f"b{n}"] for n in self.layers}
        switches: Switches = {}
        for c in self.inputs:
            drive, switches[c.name] = c.to_post(theta[c.name], x)
            drives[c.post] = drive + drives[c.post]
        return InputDrive(x, drives, switches)

    def drives(
        self,
        theta: Theta,
        activities: Sequence[Array],
        static: InputDrive,
        targets: Iterable[int] | None = None,
        switches: Mapping[str, Array | None] | None = None,
    ) -> tuple[dict[int, Array], Switches]:
        """Return ∂Φ/∂s^n for each layer n in ``targets``, and the switches of the activities.

        Parameters
        ----------
        activities : (x, s¹, …, s^N)
        static : InputDrive
        targets : layers, optional
            All free layers by default.
        switches : dict, optional
            The switches of these activities, as far as they are known. Those of a connection into a
            target are computed in any case.
        """
        targets = self.layers if targets is None else targets
        switches = dict(switches or {})
        drives: dict[int, Array] = {}

        def add(n: int, drive: Array) -> None:
            if n in drives:
                drives[n] += drive
            else:
                drives[n] = drive + static.drives[n]

        for c in self.recurrent:
            if c.post in targets or (c.has_switches and c.name not in switches):
                drive, switches[c.name] = c.to_post(theta[c.name], activities[c.pre])
                if c.post in targets:
                    add(c.post, drive)
        for c in self.recurrent:
            if c.pre in targets:
                backward = theta[self.backward_name(c)]
                add(c.pre, c.to_pre(backward, activities[c.post], switches.get(c.name)))
        for n in targets:  # a layer that is driven only by the input
            if n not in drives:
                drives[n] = np.broadcast_to(static.drives[n], activities[n].shape).copy()
        return drives, switches

    def find_switches(self, theta: Theta, activities: Activities) -> Switches:
        """Return the switches of these activities, for each connection that has switches."""
        return {
            c.name: c.to_post(theta[c.name], activities[c.pre])[1] for c in self.connections if c.has_switches
        }

    # ---- the Jacobian of the drives, W = ∂(∂Φ/∂s)/∂s

    def jvp_s(self, theta: Theta, v: State, switches: Switches) -> State:
        """Return W v, with the switches held.

        The input and the biases do not depend on s, so only the drives between free layers remain.
        """
        return self.linear_drives(theta, v, switches, transposed=False)

    def vjp_s(self, theta: Theta, v: State, switches: Switches) -> State:
        """Return Wᵀ v, with the switches held.

        W consists of the linear drives A to post and B to pre of each connection. For tied weights B is
        Aᵀ, so W is symmetric, and this is `jvp_s`: the drives that carry a state forward also carry a
        gradient back. For untied weights, transposing exchanges the two weights of each connection.
        """
        return self.linear_drives(theta, v, switches, transposed=True)

    def linear_drives(self, theta: Theta, v: State, switches: Switches, transposed: bool) -> State:
        """Return W v, or Wᵀ v if ``transposed``: the drives between free layers that v gives."""
        values = dict(enumerate(v, start=1))
        result = {n: np.zeros_like(value) for n, value in values.items()}
        for c in self.recurrent:
            up, down = theta[c.name], theta[self.backward_name(c)]
            if transposed:
                up, down = down, up
            held = switches.get(c.name)
            result[c.post] += c.to_post(up, values[c.pre], held)[0]
            result[c.pre] += c.to_pre(down, values[c.post], held)
        return tuple(result.values())

    # ---- every derivative with respect to θ, from two functions

    def linear_gradient(self, x: Array, v: Activities, switches: Switches) -> Theta:
        """Return Σ_batch ∂φ(x, v^post)/∂w for the input's weights, and Σ_batch v^n for the biases.

        Φ is linear in s for these parameters. So v may be a sum or a difference of several states.
        ``v`` is indexed by layer; entry 0 is not used.
        """
        weights = {c.name: c.gradient(x, v[c.post], switches.get(c.name)) for c in self.inputs}
        return weights | {f"b{n}": v[n].sum(axis=tuple(range(v[n].ndim - 1))) for n in self.layers}

    def pair_gradient(self, pairs: Sequence[Pair]) -> Theta:
        """Return Σ_k Σ_batch ∂φ(p_k^pre, q_k^post)/∂w for the weights between free layers."""
        return {
            c.name: reduce(
                iadd, [c.gradient(p[c.pre], q[c.post], switches.get(c.name)) for p, q, switches in pairs]
            )
            for c in self.recurrent
        }

    def contrast(self, a: Snapshot, b: Snapshot, beta: complex) -> Theta:
        """Return (∂Φ/∂θ(a) − ∂Φ/∂θ(b)) / β of Eqs. (2), (5) and (7), the mean over the batch.

        Each state has its own switches, as in Eq. (4).
        """
        self.require_tied()
        (x, *after), (_, *before) = a.activities, b.activities
        scale = 1 / (beta * len(x))  # 1/β, and the mean over the batch
        plus = (x, *(scale * s for s in after))
        minus = (x, *(-scale * s for s in before))
        # The input's weights and the biases: Φ is linear in s, so the difference of the states is enough.
        change = (x, *(p + m for p, m in zip(plus[1:], minus[1:], strict=True)))
        linear = self.linear_gradient(x, change, a.switches)
        # The weights between free layers: ∂Φ/∂w at a over β, minus ∂Φ/∂w at b over β.
        pairs = [Pair(a.activities, plus, a.switches), Pair(b.activities, minus, b.switches)]
        return linear | self.pair_gradient(pairs)

    def vjp_theta(self, terms: Sequence[tuple[Snapshot, State]]) -> Theta:
        """Return Σ_k v_kᵀ ∂(∂Φ/∂s)/∂θ at the state s_k, the mean over the batch.

        The weight of a connection enters two drives: that of post, where it meets s^pre, and that of
        pre, where it meets s^post. Each derivative is ∂φ/∂w with v in the place of the driven layer.

        Parameters
        ----------
        terms : sequence of (s_k, v_k)
            States of the same input, each with one array v per free layer.
        """
        (x, *_), switches = terms[0][0]
        total = reduce(plus, (v for _, v in terms))
        mean = tuple(value / len(x) for value in total)
        ups, downs = [], []
        for (s, held), v in terms:
            v = (x, *(value / len(x) for value in v))
            ups.append(Pair(s, v, held))
            downs.append(Pair(v, s, held))
        return self.linear_gradient(x, (x, *mean), switches) | self.field_gradient(ups, downs)

    def field_gradient(self, ups: Sequence[Pair], downs: Sequence[Pair]) -> Theta:
        """Return what the drives to post (``ups``) and to pre (``downs``) give to the weights of free layers.

        A tied weight gets both. With untied weights each drive has its own weight.
        """
        if self.tied:
            return self.pair_gradient([*ups, *downs])
        backward = self.pair_gradient(downs)
        return self.pair_gradient(ups) | {self.backward_name(c): backward[c.name] for c in self.recurrent}


def _shape_text(shape: Shape) -> str:
    """Return a shape as it is printed, for example 28×28×1."""
    return "×".join(map(str, shape))


def _settings(c: Connection) -> str:
    """Return the class of a connection and its settings: the fields that are not layers, shapes or names."""
    others = ("pre", "post", "pre_shape", "post_shape", "name")
    names: list[str] = [field.name for field in fields(c)] if is_dataclass(c) else []
    return " ".join(
        [type(c).__name__, *(f"{name}={getattr(c, name)}" for name in names if name not in others)]
    )


def _line(row: tuple[str, ...], widths: list[int]) -> str:
    """Return a row of the table. Its last column is aligned on the right."""
    *cells, number = row
    texts = [cell.ljust(width) for cell, width in zip(cells, widths, strict=False)]
    return "  ".join([*texts, number.rjust(widths[-1])]).rstrip()


def plus(a: State, b: State) -> State:
    """Return a + b, layer by layer."""
    return tuple(p + q for p, q in zip(a, b, strict=True))


def is_weight(name: str) -> bool:
    """Return whether a parameter is a weight. The others are the biases "b1", "b2", … and "b-readout"."""
    return re.fullmatch(r"b(\d+|-readout)", name) is None


def _check_graph(network: Network) -> None:
    """Raise an error if the connections, the shapes and the names do not fit together."""
    shapes = network.shapes
    if len(shapes) < 2:
        raise ValueError(
            f"a network needs the shapes of its input and of at least one layer, got {len(shapes)}"
        )
    for n, shape in enumerate(shapes):
        check_shape(f"layer {n}", shape)
    check_kind("tied", network.tied, bool | np.bool_, "True or False")
    for c in network.connections:
        check_kind("a connection", c, Connection, "a Dense, a ConvPool or another eqprop_np.Connection")
        check_kind("the name of a connection", c.name, str, 'a string such as "w0-1"')
        if "/" in c.name or c.name in ("meta", "file") or not is_weight(c.name):
            raise ValueError(
                f"{c.name!r} cannot be the name of a connection, because a bias or a part of a file of "
                'parameters may have it: choose a name such as "w0-1"'
            )
        if not (is_integer(c.pre) and is_integer(c.post) and 0 <= c.pre < c.post < len(shapes)):
            raise ValueError(
                f"connection {c.name} leads from layer {c.pre} to {c.post}, but it must lead "
                f"from a layer to a later one of 0…{network.depth}"
            )
        for n, shape in ((c.pre, c.pre_shape), (c.post, c.post_shape)):
            if shape != shapes[n]:
                raise ValueError(
                    f"connection {c.name} has shape {shape} for layer {n}, but the layer has {shapes[n]}"
                )
    if idle := sorted(set(network.layers) - {c.post for c in network.connections}):
        raise ValueError(
            f"no connection leads to layer {idle[0]}: every layer needs one from an earlier layer"
        )
    names = [c.name for c in network.connections] + [f"b{n}" for n in network.layers]
    if not network.tied:
        names += [network.backward_name(c) for c in network.recurrent]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"two parameters have the name {min(twice)}: give one connection another name")


def chain(sizes: Sequence[int]) -> Network:
    """Return a chain of dense layers.

    Parameters
    ----------
    sizes : sequence of int
        The number of neurons of each layer, the input's first. P-1h is ``chain([784, 512, 10])``.

    Examples
    --------
    >>> print(chain([784, 512, 10]).parameter_shapes)
    {'w0-1': (784, 512), 'w1-2': (512, 10), 'b1': (512,), 'b2': (10,)}
    """
    shapes = tuple((size,) for size in as_tuple("sizes", sizes, "a sequence such as [784, 512, 10]"))
    return Network(shapes, tuple(Dense(n, n + 1, shapes[n], shapes[n + 1]) for n in range(len(shapes) - 1)))


def convolutional(
    image: Shape,
    channels: Sequence[int],
    dense: Sequence[int],
    kernel: int | Sequence[int] = 5,
    pool: int | Sequence[int] = 2,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
) -> Network:
    """Return convolutions with pooling, followed by dense layers.

    Parameters
    ----------
    image : tuple of int
        (H, W, C) of the input.
    channels : sequence of int
        The number of channels of each convolutional layer.
    dense : sequence of int
        The sizes of the dense layers, the output's last.
    kernel, pool, stride, padding : int or sequence of int
        The sides of the kernels and of the pooling windows, and the stride and the padding of the
        convolutions: one value for all convolutional layers, or one for each.

    Examples
    --------
    The network of P-conv:

    >>> print(convolutional((28, 28, 1), [32, 64], [10]).shapes)
    ((28, 28, 1), (12, 12, 32), (4, 4, 64), (10,))
    """
    shapes: list[Shape] = [as_tuple("image", image, "the shape (H, W, C)")]
    channels = as_tuple("channels", channels, "a sequence such as [32, 64]")
    dense = as_tuple("dense", dense, "a sequence such as [10]")
    connections: list[Connection] = []
    settings = [_one_each(value, len(channels)) for value in (kernel, pool, stride, padding)]
    for n, (features, *sides) in enumerate(zip(channels, *settings, strict=True)):
        connections.append(ConvPool(n, n + 1, shapes[-1], features, *sides))
        shapes.append(connections[-1].post_shape)
    for n, size in enumerate(dense, start=len(channels)):
        connections.append(Dense(n, n + 1, shapes[-1], (size,)))
        shapes.append((size,))
    return Network(tuple(shapes), tuple(connections))


def _one_each(value: int | Sequence[int], layers: int) -> Sequence[int]:
    """Return one value for each layer."""
    values = tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else (value,)
    if len(values) not in (1, layers):
        raise ValueError(f"give one value, or one for each of the {layers} convolutions, got {len(values)}")
    return values * layers if len(values) == 1 else values


def toy(inputs: int = 10, hidden: int = 50, outputs: int = 5) -> Network:
    """Return the toy model of Fig. 1(b), with connections x → h, x → o and h → o.

    The connection x → o skips a layer, so this network is not a chain.

    Parameters
    ----------
    inputs, hidden, outputs : int
        The numbers of neurons of x, h and o.
    """
    shapes = ((inputs,), (hidden,), (outputs,))
    return Network(shapes, tuple(Dense(a, b, shapes[a], shapes[b]) for a, b in ((0, 1), (0, 2), (1, 2))))
