"""Φ and its derivatives, for chains, for a graph with a skip and for convolutions; drives, colours, init."""

from itertools import pairwise

import numpy as np
import pytest
from examples import NETWORKS, all_clear, draw, networks, rngs
from hypothesis import assume, given
from hypothesis import strategies as st

from eqprop_np.connections import Dense
from eqprop_np.network import Network, Theta, chain, convolutional, toy
from eqprop_np.testing import check_gradient

every = pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
batches = st.integers(1, 3)


def assert_same(a: Theta, b: Theta, **tolerance: float) -> None:
    assert a.keys() == b.keys()
    for name, value in a.items():
        np.testing.assert_allclose(value, b[name], err_msg=name, **tolerance)


# --- Φ, ∂Φ/∂s, ∂Φ/∂θ


@given(rngs, batches, st.lists(st.integers(1, 5), min_size=2, max_size=5))
def test_phi_of_a_chain(rng: np.random.Generator, batch: int, sizes: list[int]) -> None:
    theta, x, s = draw(chain(sizes), batch, rng)
    expected = np.zeros(batch)
    for n, (pre, post) in enumerate(pairwise((x, *s))):
        expected += np.einsum("bi,ij,bj->b", pre, theta[f"w{n}-{n + 1}"], post) + post @ theta[f"b{n + 1}"]
    np.testing.assert_allclose(chain(sizes).phi(theta, x, s), expected, rtol=1e-12, atol=1e-12)


@given(rngs, batches)
def test_phi_of_the_skip(rng: np.random.Generator, batch: int) -> None:
    theta, x, (h, o) = draw(NETWORKS["skip"], batch, rng)
    expected = ((x @ theta["w0-1"] + theta["b1"]) * h).sum(axis=1)
    expected += ((x @ theta["w0-2"] + h @ theta["w1-2"] + theta["b2"]) * o).sum(axis=1)
    np.testing.assert_allclose(NETWORKS["skip"].phi(theta, x, (h, o)), expected, rtol=1e-12, atol=1e-12)


@every
@given(rng=rngs, batch=batches)
def test_dphi_ds_is_the_derivative(network: Network, rng: np.random.Generator, batch: int) -> None:
    theta, x, s = draw(network, batch, rng)
    assume(all_clear(network, theta, x, s))
    check_gradient(
        lambda s: float(network.phi(theta, x, s).sum()),
        lambda s: network.dphi_ds(theta, x, s),
        s,
        rng=rng,
    )


@every
@given(rng=rngs, batch=batches)
def test_dphi_dtheta_is_the_derivative_of_the_mean(
    network: Network, rng: np.random.Generator, batch: int
) -> None:
    theta, x, s = draw(network, batch, rng)
    assume(all_clear(network, theta, x, s))
    check_gradient(
        lambda theta: float(network.phi(theta, x, s).mean()),
        lambda theta: network.dphi_dtheta(theta, x, s),
        theta,
        rng=rng,
    )


@every
@given(rng=rngs, batch=batches, a=st.floats(-9, 9), b=st.floats(-9, 9))
def test_combined_derivatives_are_the_sum_of_each(
    network: Network, rng: np.random.Generator, batch: int, a: float, b: float
) -> None:
    """Each state at its own switches."""
    theta, x, s = draw(network, batch, rng)
    other = draw(network, batch, rng)[2]
    terms = [(k, state, network.find_switches(theta, x, state)) for k, state in ((a, s), (b, other))]
    one, two = network.dphi_dtheta(theta, x, s), network.dphi_dtheta(theta, x, other)
    expected = {name: a * one[name] + b * two[name] for name in one}
    assert_same(network.combine_dphi_dtheta(x, terms), expected, rtol=0, atol=1e-10)


@given(rngs, batches)
def test_switches_that_are_given_are_used(rng: np.random.Generator, batch: int) -> None:
    network = NETWORKS["two conv"]
    theta, x, s = draw(network, batch, rng)
    switches = network.find_switches(theta, x, s)
    other = network.find_switches(*draw(network, batch, rng))
    assert_same(network.dphi_dtheta(theta, x, s), network.dphi_dtheta(theta, x, s, switches))
    for c in network.connections[:2]:
        expected = c.gradient((x, *s)[c.pre], s[c.post - 1], other[c.name]) / batch
        found = network.dphi_dtheta(theta, x, s, other)[c.name]
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


# --- drives: ∂Φ/∂s in parts


@given(networks, rngs, batches, st.data())
def test_drives_of_some_layers_are_those_of_all(
    network: Network, rng: np.random.Generator, batch: int, data: st.DataObject
) -> None:
    """To the bit: this lets `relax` move some layers and leave the others."""
    theta, x, s = draw(network, batch, rng)
    targets = data.draw(st.sets(st.sampled_from(network.layers)))
    drives, _ = network.drives(theta, s, network.clamp(theta, x).drive, {}, sorted(targets))
    expected = network.dphi_ds(theta, x, s)
    assert drives.keys() == targets
    for n in targets:
        np.testing.assert_array_equal(drives[n], expected[n - 1])


@given(networks, rngs, batches)
def test_the_clamped_part_is_the_drive_at_rest(
    network: Network, rng: np.random.Generator, batch: int
) -> None:
    """With all layers at zero, only the input and the biases drive; and x is what they share."""
    theta, x, s = draw(network, batch, rng)
    clamped = network.clamp(theta, x)
    assert clamped.x is x
    at_rest = network.dphi_ds(theta, x, tuple(np.zeros_like(value) for value in s))
    for n in network.layers:
        np.testing.assert_allclose(
            np.broadcast_to(clamped.drive[n], s[n - 1].shape), at_rest[n - 1], atol=1e-15
        )


def test_drives_return_the_switches_of_their_state(rng: np.random.Generator) -> None:
    """Together with those of the input they are all there are."""
    network = NETWORKS["three conv, two dense"]
    theta, x, s = draw(network, 2, rng)
    clamped = network.clamp(theta, x)
    _, switches = network.drives(theta, s, clamped.drive, {})
    together = clamped.switches | switches
    expected = network.find_switches(theta, x, s)
    assert expected.keys() == {"w0-1", "w1-2", "w2-3"}
    assert_same({name: together[name] for name in expected}, expected)


def test_drives_look_for_switches_only_where_they_must(rng: np.random.Generator) -> None:
    """Given ones are kept and used on the way down; a connection into a target finds its own."""
    network = NETWORKS["two conv"]
    theta, x, s = draw(network, 2, rng)
    clamped = network.clamp(theta, x)
    stale = network.find_switches(*draw(network, 2, rng))
    fresh = network.find_switches(theta, x, s)
    down, kept = network.drives(theta, s, clamped.drive, stale, [1])
    expected = network.connections[1].to_pre(theta["w1-2"], s[1], stale["w1-2"]) + clamped.drive[1]
    np.testing.assert_allclose(down[1], expected, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(kept["w1-2"], stale["w1-2"])
    _, found = network.drives(theta, s, clamped.drive, stale, [2])
    np.testing.assert_array_equal(found["w1-2"], fresh["w1-2"])
    assert stale["w1-2"] is kept["w1-2"], "what was passed in is not written into"


@given(networks, rngs)
def test_arguments_are_only_read(network: Network, rng: np.random.Generator) -> None:
    theta, x, s = draw(network, 2, rng)
    for a in (*theta.values(), x, *s):
        a.flags.writeable = False
    clamped = network.clamp(theta, x)
    for a in (*clamped.drive.values(), *(a for a in clamped.switches.values() if a is not None)):
        a.flags.writeable = False
    switches = network.find_switches(theta, x, s)
    drives, _ = network.drives(theta, s, clamped.drive, switches)
    network.combine_dphi_dtheta(x, [(1.0, s, switches), (-1.0, s, switches)])
    for drive in drives.values():
        drive += 1  # whoever asked may write into the answer
        assert not any(np.shares_memory(drive, a) for a in (*theta.values(), *clamped.drive.values(), x, *s))


@given(networks, rngs)
def test_float32_stays_float32(network: Network, rng: np.random.Generator) -> None:
    theta, x, s = draw(network, 2, rng)
    theta = {name: value.astype(np.float32) for name, value in theta.items()}
    x, s = x.astype(np.float32), tuple(value.astype(np.float32) for value in s)
    results = [
        network.phi(theta, x, s),
        *network.dphi_ds(theta, x, s),
        *network.dphi_dtheta(theta, x, s).values(),
    ]
    assert {result.dtype for result in results} == {np.dtype(np.float32)}


# --- the two groups of layers that alternate


def graph(depth: int, pairs: list[tuple[int, int]]) -> Network:
    """Layers of one neuron each."""
    return Network(((1,),) * (depth + 1), tuple(Dense(a, b, (1,), (1,)) for a, b in pairs))


@pytest.mark.parametrize(
    "network, colours",
    [
        (chain([1, 1]), ((1,), ())),
        (chain([1] * 6), ((1, 3, 5), (2, 4))),
        (toy(), ((1,), (2,))),
        (graph(3, [(0, 1), (0, 2), (0, 3), (1, 3), (2, 3)]), ((1, 2), (3,))),
        (graph(4, [(0, 1), (0, 2), (1, 3), (2, 4), (3, 4)]), ((1, 4), (2, 3))),
    ],
    ids=["one layer", "chain", "toy", "fork", "path in disorder"],
)
def test_colours(network: Network, colours: tuple[tuple[int, ...], ...]) -> None:
    assert network.colours == colours


@given(st.lists(st.booleans(), min_size=1, max_size=8), st.data())
def test_every_graph_without_an_odd_cycle_has_colours(sides: list[bool], data: st.DataObject) -> None:
    """Connect layers of different sides only, whichever: no colour ever meets itself."""
    depth = len(sides)
    possible = [(a, b) for b in range(2, depth + 1) for a in range(1, b) if sides[a - 1] != sides[b - 1]]
    pairs = data.draw(st.lists(st.sampled_from(possible), unique=True)) if possible else []
    groups = graph(depth, pairs).colours
    assert sorted(groups[0] + groups[1]) == list(range(1, depth + 1))
    assert all((a in groups[0]) != (b in groups[0]) for a, b in pairs)


@pytest.mark.parametrize(
    "pairs", [[(1, 2), (1, 3), (2, 3)], [(1, 2), (2, 3), (3, 4), (4, 5), (1, 5)]], ids=["3", "5"]
)
def test_an_odd_cycle_has_none(pairs: list[tuple[int, int]]) -> None:
    with pytest.raises(ValueError, match="odd cycle: use schedule='synchronous'"):
        _ = graph(5, pairs).colours


# --- parameters and states


@every
def test_init_draws_every_parameter_within_its_bound(network: Network, rng: np.random.Generator) -> None:
    theta = network.init(rng)
    fan_in = {c.name: c.fan_in for c in network.connections}
    for n in network.layers:
        fan_in[f"b{n}"] = next(c.fan_in for c in network.connections if c.post == n)
    assert {name: value.shape for name, value in theta.items()} == network.parameter_shapes
    for name, value in theta.items():
        assert value.dtype == np.float32
        assert 0 < abs(value).max() <= 1 / np.sqrt(fan_in[name]) * (1 + 1e-6), name


def test_init_is_uniform(rng: np.random.Generator) -> None:
    """Its first two moments, 0 and a third, within three standard errors (0.3/√n and 0.6/√n, here 5e-3)."""
    w = chain([100, 400]).init(rng)["w0-1"] * np.sqrt(100)
    assert abs(w.mean()) < 3 * 0.58 / np.sqrt(w.size)
    assert abs((w**2).mean() - 1 / 3) < 3 * 0.3 / np.sqrt(w.size)
    assert abs(w).max() > 0.999


def test_init_is_determined_by_the_generator() -> None:
    def init(seed: int, dtype: type = np.float32) -> Theta:
        return toy().init(np.random.default_rng(seed), dtype)

    assert_same(init(3), init(3), rtol=0)
    assert_same(init(3), init(3, np.float64), rtol=1e-6)
    assert not np.array_equal(init(3)["w0-1"], init(4)["w0-1"])
    assert init(3, np.float64)["b2"].dtype == np.float64


@every
def test_the_state_begins_at_zero(network: Network) -> None:
    state = network.zeros(3, np.dtype(np.float32))
    assert [value.shape for value in state] == [(3, *shape) for shape in network.shapes[1:]]
    assert all(value.dtype == np.float32 and not value.any() for value in state)


def shapes(network: Network) -> list[tuple[int, ...]]:
    return [*network.shapes, *network.parameter_shapes.values()]


def test_shapes_of_the_published_networks() -> None:
    assert shapes(chain([784, 512, 10])) == [(784,), (512,), (10,), (784, 512), (512, 10), (512,), (10,)]
    conv = convolutional((28, 28, 1), [32, 64], [10])
    assert conv.shapes == ((28, 28, 1), (12, 12, 32), (4, 4, 64), (10,))
    assert conv.parameter_shapes == {
        "w0-1": (5, 5, 1, 32),
        "w1-2": (5, 5, 32, 64),
        "w2-3": (1024, 10),
        "b1": (32,),
        "b2": (64,),
        "b3": (10,),
    }
    assert [(c.pre, c.post, c.shape) for c in toy().connections] == [
        (0, 1, (10, 50)),
        (0, 2, (10, 5)),
        (1, 2, (50, 5)),
    ]


def test_a_stack_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="layer 2: a 5×5 convolution does not fit on 4 pixels"):
        convolutional((12, 12, 1), [2, 2], [10])
