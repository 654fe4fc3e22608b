"""Tests of Φ and its derivatives, of the drives, the groups, the parameters, and of what a network refuses.

They cover chains, a graph with a skip, and convolutions, with tied and untied weights.
"""

import re
from itertools import pairwise

import numpy as np
import pytest
from examples import NETWORKS, all_clear, draw, networks, rngs
from hypothesis import assume, given
from hypothesis import strategies as st

from eqprop_np.activations import Array
from eqprop_np.connections import Connection, ConvPool, Dense
from eqprop_np.network import Network, Pair, Snapshot, State, Theta, chain, convolutional, toy
from eqprop_np.rules.vector_field import untied
from eqprop_np.testing import STEP, check_adjoint, check_gradient

every = pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
both = pytest.mark.parametrize(
    "network",
    [*NETWORKS.values(), *map(untied, NETWORKS.values())],
    ids=[*NETWORKS, *(f"{name} untied" for name in NETWORKS)],
)
batches = st.integers(1, 3)

TWO_WEIGHTS = Network(
    ((4,), (3,), (2,)),
    (Dense(0, 1, (4,), (3,)), Dense(1, 2, (3,), (2,)), Dense(1, 2, (3,), (2,), name="second")),
)
"""A network with two connections between the same layers."""


def assert_same(a: Theta, b: Theta, **tolerance: float) -> None:
    assert a.keys() == b.keys()
    for name, value in a.items():
        np.testing.assert_allclose(value, b[name], err_msg=name, **tolerance)


def state(network: Network, batch: int, rng: np.random.Generator) -> State:
    """Return a state of normal numbers."""
    return draw(network, batch, rng)[2]


def snapshot(network: Network, theta: Theta, x: Array, s: State) -> Snapshot:
    """Return the activities of a state with their own switches."""
    return Snapshot((x, *s), network.find_switches(theta, (x, *s)))


def gradient_of_phi(c: Connection, pre: Array, post: Array, switches: Array | None) -> Array:
    """Return Σ_batch ∂φ/∂w from φ itself: φ is linear in w, so ∂φ/∂w_i is φ at the unit weight i."""
    gradient = np.zeros(c.shape)
    for i in np.ndindex(*c.shape):
        unit = np.zeros(c.shape)
        unit[i] = 1
        gradient[i] = c.phi(unit, pre, post, switches).sum()
    return gradient


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


@given(rngs, batches)
def test_phi_of_an_image_adds_a_bias_per_channel(rng: np.random.Generator, batch: int) -> None:
    network = NETWORKS["conv"]
    theta, x, (image, o) = draw(network, batch, rng)
    c, dense = network.connections
    expected = c.phi(theta["w0-1"], x, image) + dense.phi(theta["w1-2"], image, o) + o @ theta["b2"]
    expected += np.einsum("byxc,c->b", image, theta["b1"])
    np.testing.assert_allclose(network.phi(theta, x, (image, o)), expected, rtol=1e-12, atol=1e-12)


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


# --- every derivative with respect to θ


@every
@given(rng=rngs, batch=batches, beta=st.floats(0.1, 9) | st.floats(-9, -0.1))
def test_contrast_is_the_difference_of_both_derivatives(
    network: Network, rng: np.random.Generator, batch: int, beta: float
) -> None:
    """Each state has its own switches."""
    theta, x, s = draw(network, batch, rng)
    other = state(network, batch, rng)
    one, two = network.dphi_dtheta(theta, x, s), network.dphi_dtheta(theta, x, other)
    expected = {name: (one[name] - two[name]) / beta for name in one}
    snapshots = snapshot(network, theta, x, s), snapshot(network, theta, x, other)
    assert_same(network.contrast(*snapshots, beta), expected, rtol=0, atol=1e-10)


@given(rngs, batches)
def test_switches_that_are_given_are_used(rng: np.random.Generator, batch: int) -> None:
    """The snapshots carry switches of other states, so the result must not be that of their own."""
    network = NETWORKS["two conv"]
    theta, x, s = draw(network, batch, rng)
    one, two = (
        network.find_switches(theta, (x, *state(network, batch, rng))),
        network.find_switches(theta, (x, *state(network, batch, rng))),
    )
    a, other = (x, *s), (x, *state(network, batch, rng))
    found = network.contrast(Snapshot(a, one), Snapshot(other, two), 0.5)
    for c in network.recurrent:
        expected = gradient_of_phi(c, a[c.pre], a[c.post], one.get(c.name))
        expected -= gradient_of_phi(c, other[c.pre], other[c.post], two.get(c.name))
        np.testing.assert_allclose(found[c.name], expected / 0.5 / batch, rtol=0, atol=1e-11)


@every
@given(rng=rngs, batch=batches)
def test_linear_gradient_is_a_sum_over_the_batch(
    network: Network, rng: np.random.Generator, batch: int
) -> None:
    """For the input's weights it is ∂φ(x, v)/∂w, and for a bias the sum of v over batch and pixels."""
    theta, x, s = draw(network, batch, rng)
    v = (x, *state(network, batch, rng))
    switches = network.find_switches(theta, (x, *s))
    found = network.linear_gradient(x, v, switches)
    assert found.keys() == {c.name for c in network.inputs} | {f"b{n}" for n in network.layers}
    for c in network.inputs:
        expected = gradient_of_phi(c, x, v[c.post], switches.get(c.name))
        np.testing.assert_allclose(found[c.name], expected, rtol=0, atol=1e-11)
    for n in network.layers:
        expected = sum(v[n].reshape(-1, v[n].shape[-1]))
        np.testing.assert_allclose(found[f"b{n}"], expected, rtol=0, atol=1e-12)


@given(rngs, batches)
def test_linear_gradient_of_dense_layers_is_the_outer_product(rng: np.random.Generator, batch: int) -> None:
    network = NETWORKS["skip"]
    _, x, s = draw(network, batch, rng)
    found = network.linear_gradient(x, (x, *s), {})
    for n in (1, 2):
        np.testing.assert_allclose(found[f"w0-{n}"], np.einsum("bi,bj->ij", x, s[n - 1]), rtol=0, atol=1e-12)


@every
@pytest.mark.parametrize("count", [1, 2, 3])
@given(rng=rngs, batch=batches)
def test_pair_gradient_is_the_sum_over_pairs_and_batch(
    network: Network, count: int, rng: np.random.Generator, batch: int
) -> None:
    """Each pair takes pre from its first activities, post from its second, and its own switches."""
    theta, x, _ = draw(network, batch, rng)
    pairs = []
    for _ in range(count):
        p, q, of = ((x, *state(network, batch, rng)) for _ in range(3))
        pairs.append(Pair(p, q, network.find_switches(theta, of)))
    found = network.pair_gradient(pairs)
    assert found.keys() == {c.name for c in network.recurrent}
    for c in network.recurrent:
        expected = sum(
            gradient_of_phi(c, p[c.pre], q[c.post], switches.get(c.name)) for p, q, switches in pairs
        )
        np.testing.assert_allclose(found[c.name], expected, rtol=0, atol=1e-11)


@given(rngs, batches)
def test_pair_gradient_of_dense_layers_is_the_outer_product(rng: np.random.Generator, batch: int) -> None:
    network = NETWORKS["long chain"]
    _, x, s = draw(network, batch, rng)
    other = state(network, batch, rng)
    found = network.pair_gradient([Pair((x, *s), (x, *other), {})])
    for n in (1, 2, 3):
        expected = np.einsum("bi,bj->ij", s[n - 1], other[n])
        np.testing.assert_allclose(found[f"w{n}-{n + 1}"], expected, rtol=0, atol=1e-12)


@both
@given(rng=rngs, batch=batches)
def test_vjp_theta_is_the_derivative_of_the_drives(
    network: Network, rng: np.random.Generator, batch: int
) -> None:
    """It is the gradient of Σ_k ⟨v_k, ∂Φ/∂s(s_k)⟩ / B with respect to θ, here for two states."""
    theta, x, s = draw(network, batch, rng)
    states = s, state(network, batch, rng)
    assume(all(all_clear(network, theta, x, s) for s in states))
    vs = state(network, batch, rng), state(network, batch, rng)

    def f(theta: Theta) -> float:
        drives = (network.dphi_ds(theta, x, s) for s in states)
        terms = zip(drives, vs, strict=True)
        return sum(float((a * b).sum()) for d, v in terms for a, b in zip(d, v, strict=True)) / batch

    def vjp(theta: Theta) -> Theta:
        found = network.vjp_theta(
            [(snapshot(network, theta, x, s), v) for s, v in zip(states, vs, strict=True)]
        )
        return {name: found[name] for name in theta}

    assert network.vjp_theta([(snapshot(network, theta, x, s), vs[0])]).keys() == theta.keys()
    check_gradient(f, vjp, theta, rng=rng)


@given(rngs, batches)
def test_vjp_theta_of_an_untied_chain_is_two_outer_products(rng: np.random.Generator, batch: int) -> None:
    """The forward weight meets s^pre and v^post, and the backward weight v^pre and s^post."""
    network = untied(NETWORKS["chain"])
    _, x, (h, o) = draw(network, batch, rng)
    v = state(network, batch, rng)
    found = network.vjp_theta([(Snapshot((x, h, o), {}), v)])
    expected = {
        "w0-1": np.einsum("bi,bj->ij", x, v[0]) / batch,
        "w1-2": np.einsum("bi,bj->ij", h, v[1]) / batch,
        "w2-1": np.einsum("bi,bj->ij", v[0], o) / batch,
        "b1": v[0].mean(axis=0),
        "b2": v[1].mean(axis=0),
    }
    assert_same(found, expected, rtol=0, atol=1e-12)
    tied = NETWORKS["chain"].vjp_theta([(Snapshot((x, h, o), {}), v)])
    np.testing.assert_allclose(tied["w1-2"], expected["w1-2"] + expected["w2-1"], rtol=0, atol=1e-12)


@both
@given(rng=rngs, batch=batches)
def test_vjp_theta_of_several_terms_is_the_sum_of_each(
    network: Network, rng: np.random.Generator, batch: int
) -> None:
    """This holds also with switches that do not belong to the states."""
    theta, x, _ = draw(network, batch, rng)
    input_switches = {c.name: c.to_post(theta[c.name], x)[1] for c in network.inputs}
    terms = []
    for _ in range(3):
        a, of = ((x, *state(network, batch, rng)) for _ in range(2))
        switches = network.find_switches(theta, of) | input_switches
        terms.append((Snapshot(a, switches), state(network, batch, rng)))
    each = [network.vjp_theta([term]) for term in terms]
    expected = {name: sum(one[name] for one in each) for name in each[0]}
    assert_same(network.vjp_theta(terms), expected, rtol=0, atol=1e-11)


# --- the Jacobian of the drives


@both
@given(rng=rngs, batch=batches)
def test_jvp_s_agrees_with_central_differences_of_the_drives(
    network: Network, rng: np.random.Generator, batch: int
) -> None:
    """Between kinks ∂Φ/∂s is linear in s, so the difference has only rounding errors."""
    theta, x, s = draw(network, batch, rng)
    assume(all_clear(network, theta, x, s))
    v = state(network, batch, rng)
    plus, minus = (
        network.dphi_ds(theta, x, tuple(a + sign * STEP * b for a, b in zip(s, v, strict=True)))
        for sign in (1, -1)
    )
    found = network.jvp_s(theta, v, network.find_switches(theta, (x, *s)))
    assert len(found) == len(s)
    for one, two, product in zip(plus, minus, found, strict=True):
        np.testing.assert_allclose(product, (one - two) / (2 * STEP), rtol=1e-7, atol=1e-7)


@both
@given(rng=rngs, batch=batches)
def test_vjp_s_is_the_adjoint_of_jvp_s(network: Network, rng: np.random.Generator, batch: int) -> None:
    """The switches are held, and may belong to another state."""
    theta, x, s = draw(network, batch, rng)
    switches = network.find_switches(theta, (x, *s))
    u, v = state(network, batch, rng), state(network, batch, rng)
    check_adjoint(
        lambda v: network.jvp_s(theta, v, switches), lambda u: network.vjp_s(theta, u, switches), v, u
    )


@every
@given(rng=rngs, batch=batches)
def test_the_jacobian_of_tied_weights_is_symmetric(
    network: Network, rng: np.random.Generator, batch: int
) -> None:
    """H is the second derivative of Φ, so both products are the same function, to the last bit."""
    theta, x, s = draw(network, batch, rng)
    switches = network.find_switches(theta, (x, *s))
    u, v = state(network, batch, rng), state(network, batch, rng)
    for one, two in zip(network.jvp_s(theta, v, switches), network.vjp_s(theta, v, switches), strict=True):
        np.testing.assert_array_equal(one, two)
    check_adjoint(
        lambda v: network.jvp_s(theta, v, switches), lambda u: network.jvp_s(theta, u, switches), v, u
    )


@given(rngs, batches)
def test_the_jacobian_of_untied_weights_is_not_symmetric(rng: np.random.Generator, batch: int) -> None:
    """Its blocks, written as matrices, are the forward weight's transpose and the backward weight."""
    network = untied(NETWORKS["long chain"])
    theta, _, v = draw(network, batch, rng)
    sizes = [shape[0] for shape in network.shapes[1:]]
    starts = np.cumsum([0, *sizes])
    H = np.zeros((starts[-1], starts[-1]))
    for n in range(1, len(sizes)):
        pre, post = slice(starts[n - 1], starts[n]), slice(starts[n], starts[n + 1])
        H[post, pre] = theta[f"w{n}-{n + 1}"].T
        H[pre, post] = theta[f"w{n + 1}-{n}"]
    flat = np.concatenate(v, axis=1)
    jvp, vjp = (np.concatenate(f(theta, v, {}), axis=1) for f in (network.jvp_s, network.vjp_s))
    np.testing.assert_allclose(jvp, flat @ H.T, rtol=0, atol=1e-12)
    np.testing.assert_allclose(vjp, flat @ H, rtol=0, atol=1e-12)


@given(rngs, batches)
def test_jacobian_products_of_untied_convolutions_hold_the_switches(
    rng: np.random.Generator, batch: int
) -> None:
    """Each is written here as the drives of the connections, with the switches of another state."""
    network = untied(NETWORKS["two conv"])
    theta, x, v = draw(network, batch, rng)
    switches = network.find_switches(theta, (x, *state(network, batch, rng)))
    conv, dense = network.recurrent
    held = switches["w1-2"]
    for product, up, down in (
        (network.jvp_s, ("w1-2", "w2-3"), ("w2-1", "w3-2")),
        (network.vjp_s, ("w2-1", "w3-2"), ("w1-2", "w2-3")),
    ):
        expected = (
            conv.to_pre(theta[down[0]], v[1], held),
            conv.to_post(theta[up[0]], v[0], held)[0] + dense.to_pre(theta[down[1]], v[2]),
            dense.to_post(theta[up[1]], v[1])[0],
        )
        for found, wanted in zip(product(theta, v, switches), expected, strict=True):
            np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-12)


@both
def test_jacobian_products_take_complex_numbers(network: Network, rng: np.random.Generator) -> None:
    """With the switches held, every step is linear."""
    theta, x, s = draw(network, 2, rng)
    switches = network.find_switches(theta, (x, *s))
    u, v = state(network, 2, rng), state(network, 2, rng)
    z = tuple(a + 1j * b for a, b in zip(u, v, strict=True))
    for product in (network.jvp_s, network.vjp_s):
        results = (product(theta, a, switches) for a in (z, u, v))
        for found, real, imaginary in zip(*results, strict=True):
            np.testing.assert_allclose(found, real + 1j * imaginary, rtol=0, atol=1e-11)


# --- the drives, in parts


@given(networks, rngs, batches, st.data())
def test_drives_of_some_layers_are_those_of_all(
    network: Network, rng: np.random.Generator, batch: int, data: st.DataObject
) -> None:
    """They are equal to the last bit. So a schedule may move some layers and keep the others."""
    theta, x, s = draw(network, batch, rng)
    targets = data.draw(st.sets(st.sampled_from(network.layers)))
    drives, _ = network.drives(theta, (x, *s), network.input_drive(theta, x), sorted(targets))
    expected = network.dphi_ds(theta, x, s)
    assert drives.keys() == targets
    for n in targets:
        np.testing.assert_array_equal(drives[n], expected[n - 1])


@given(networks, rngs, batches)
def test_the_input_drive_is_the_drive_at_zero(network: Network, rng: np.random.Generator, batch: int) -> None:
    """If all layers are zero, only the input and the biases drive."""
    theta, x, s = draw(network, batch, rng)
    static = network.input_drive(theta, x)
    assert static.x is x
    assert static.drives.keys() == set(network.layers)
    at_zero = network.dphi_ds(theta, x, tuple(np.zeros_like(value) for value in s))
    for n in network.layers:
        np.testing.assert_allclose(
            np.broadcast_to(static.drives[n], s[n - 1].shape), at_zero[n - 1], atol=1e-15
        )


@given(networks, rngs)
def test_some_samples_of_an_input_drive_are_the_drive_of_these_samples(
    network: Network, rng: np.random.Generator
) -> None:
    """Those that a mask selects. A bias that stands alone belongs to every sample."""
    theta, x, _ = draw(network, 4, rng)
    mask = np.array([False, True, False, True])
    found, expected = network.input_drive(theta, x).take(mask), network.input_drive(theta, x[mask])
    np.testing.assert_array_equal(found.x, expected.x)
    assert found.drives.keys() == expected.drives.keys()
    for n, drive in expected.drives.items():
        np.testing.assert_allclose(found.drives[n], drive, rtol=0, atol=1e-12, err_msg=f"layer {n}")
    assert found.switches == {}


def test_drives_return_the_switches_of_their_state(rng: np.random.Generator) -> None:
    """Together with the input's switches these are all switches of the network."""
    network = NETWORKS["three conv, two dense"]
    theta, x, s = draw(network, 2, rng)
    static = network.input_drive(theta, x)
    _, switches = network.drives(theta, (x, *s), static)
    together = static.switches | switches
    expected = network.find_switches(theta, (x, *s))
    assert expected.keys() == {"w0-1", "w1-2", "w2-3"}
    assert_same({name: together[name] for name in expected}, expected)


def test_known_switches_are_used_except_for_connections_into_a_target(rng: np.random.Generator) -> None:
    """Known switches serve the drive to pre. A connection into a target computes its own."""
    network = NETWORKS["two conv"]
    theta, x, s = draw(network, 2, rng)
    static = network.input_drive(theta, x)
    stale = network.find_switches(theta, (x, *state(network, 2, rng)))
    fresh = network.find_switches(theta, (x, *s))
    down, kept = network.drives(theta, (x, *s), static, [1], stale)
    expected = network.connections[1].to_pre(theta["w1-2"], s[1], stale["w1-2"]) + static.drives[1]
    np.testing.assert_allclose(down[1], expected, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(kept["w1-2"], stale["w1-2"])
    given = dict(stale)
    _, found = network.drives(theta, (x, *s), static, [2], given)
    np.testing.assert_array_equal(found["w1-2"], fresh["w1-2"])
    assert given["w1-2"] is stale["w1-2"], "drives must not write into its argument"


def test_switches_that_are_not_known_are_computed(rng: np.random.Generator) -> None:
    """The drive to layer 1 needs the switches of the connection 1 → 2, also if layer 2 is no target."""
    network = NETWORKS["two conv"]
    theta, x, s = draw(network, 2, rng)
    _, switches = network.drives(theta, (x, *s), network.input_drive(theta, x), [1])
    np.testing.assert_array_equal(switches["w1-2"], network.find_switches(theta, (x, *s))["w1-2"])


@given(networks, rngs)
def test_arguments_are_only_read(network: Network, rng: np.random.Generator) -> None:
    theta, x, s = draw(network, 2, rng)
    v = state(network, 2, rng)
    for a in (*theta.values(), x, *s, *v):
        a.flags.writeable = False
    static = network.input_drive(theta, x)
    for a in (*static.drives.values(), *(a for a in static.switches.values() if a is not None)):
        a.flags.writeable = False
    one = snapshot(network, theta, x, s)
    for a in one.switches.values():
        a.flags.writeable = False
    drives, _ = network.drives(theta, one.activities, static, switches=one.switches)
    results = [
        *drives.values(),
        *network.jvp_s(theta, v, one.switches),
        *network.vjp_s(theta, v, one.switches),
        *network.contrast(one, one, 0.5).values(),
        *network.vjp_theta([(one, v), (one, v)]).values(),
        *network.dphi_dtheta(theta, x, s).values(),
    ]
    for result in results:
        result += 1  # a caller may write into the result
        assert not any(np.shares_memory(result, a) for a in (*theta.values(), x, *s, *v))
        assert not any(np.shares_memory(result, a) for a in static.drives.values())


@given(networks, rngs)
def test_float32_stays_float32(network: Network, rng: np.random.Generator) -> None:
    theta, x, s = draw(network, 2, rng)
    theta = {name: value.astype(np.float32) for name, value in theta.items()}
    x, s = x.astype(np.float32), tuple(value.astype(np.float32) for value in s)
    one = snapshot(network, theta, x, s)
    results = [
        network.phi(theta, x, s),
        *network.dphi_ds(theta, x, s),
        *network.dphi_dtheta(theta, x, s).values(),
        *network.jvp_s(theta, s, one.switches),
        *network.vjp_s(theta, s, one.switches),
        *network.contrast(one, one, 0.5).values(),
        *network.vjp_theta([(one, s), (one, s)]).values(),
    ]
    assert {result.dtype for result in results} == {np.dtype(np.float32)}


# --- the two groups of layers that alternate


def graph(depth: int, pairs: list[tuple[int, int]]) -> Network:
    """Return a network of layers of one neuron each, in which the input drives every layer."""
    pairs = [(0, n) for n in range(1, depth + 1)] + [pair for pair in pairs if pair[0] > 0]
    return Network(((1,),) * (depth + 1), tuple(Dense(a, b, (1,), (1,)) for a, b in pairs))


@pytest.mark.parametrize(
    "network, groups",
    [
        (chain([1, 1]), ((1,),)),
        (chain([1] * 6), ((1, 3, 5), (2, 4))),
        (toy(), ((1,), (2,))),
        (graph(3, [(1, 3), (2, 3)]), ((1, 2), (3,))),
        (graph(4, [(1, 3), (2, 4), (3, 4)]), ((1, 4), (2, 3))),
    ],
    ids=["one layer", "chain", "toy", "fork", "path in disorder"],
)
def test_groups(network: Network, groups: tuple[tuple[int, ...], ...]) -> None:
    assert network.groups == groups


@given(st.lists(st.booleans(), min_size=1, max_size=8), st.data())
def test_every_graph_without_an_odd_cycle_has_groups(sides: list[bool], data: st.DataObject) -> None:
    """If connections join only layers of different sides, none joins two layers of one group."""
    depth = len(sides)
    possible = [(a, b) for b in range(2, depth + 1) for a in range(1, b) if sides[a - 1] != sides[b - 1]]
    pairs = data.draw(st.lists(st.sampled_from(possible), unique=True)) if possible else []
    groups = graph(depth, pairs).groups
    assert sorted(sum(groups, ())) == list(range(1, depth + 1))
    assert all((a in groups[0]) != (b in groups[0]) for a, b in pairs)


@pytest.mark.parametrize(
    "pairs", [[(1, 2), (1, 3), (2, 3)], [(1, 2), (2, 3), (3, 4), (4, 5), (1, 5)]], ids=["3", "5"]
)
def test_an_odd_cycle_has_no_groups(pairs: list[tuple[int, int]]) -> None:
    with pytest.raises(ValueError, match=re.escape("cycle of odd length: use the schedule Synchronous()")):
        _ = graph(5, pairs).groups


# --- parameters and states


@both
def test_init_draws_every_parameter_within_its_bound(network: Network, rng: np.random.Generator) -> None:
    theta = network.init(rng)
    fan_in = {c.name: c.fan_in for c in network.connections}
    fan_in |= {network.backward_name(c): c.fan_in for c in network.recurrent}
    for n in network.layers:
        fan_in[f"b{n}"] = next(c.fan_in for c in network.connections if c.post == n)
    assert {name: value.shape for name, value in theta.items()} == network.parameter_shapes
    for name, value in theta.items():
        assert value.dtype == np.float32
        assert 0 < abs(value).max() <= 1 / np.sqrt(fan_in[name]) * (1 + 1e-6), name


def test_init_is_uniform(rng: np.random.Generator) -> None:
    """The mean of w and of w², 0 and 1/3, agree within three standard errors, 0.58/√n and 0.3/√n."""
    w = chain([100, 400]).init(rng)["w0-1"] * np.sqrt(100)
    assert abs(w.mean()) < 3 * 0.58 / np.sqrt(w.size)
    assert abs((w**2).mean() - 1 / 3) < 3 * 0.3 / np.sqrt(w.size)
    assert abs(w).max() > 0.999


@pytest.mark.parametrize("inputs, hidden", [(100, 4), (4, 100)])
def test_a_bias_starts_within_the_bound_of_the_first_connection(
    inputs: int, hidden: int, rng: np.random.Generator
) -> None:
    """Layer 2 of the toy model has two connections. The published bound is that of the first, x → o."""
    theta = toy(inputs, hidden, 1000).init(rng)
    assert abs(theta["b2"]).max() * np.sqrt(inputs) == pytest.approx(1, abs=0.02)


def test_init_is_determined_by_the_generator() -> None:
    def init(seed: int, dtype: type = np.float32) -> Theta:
        return toy().init(np.random.default_rng(seed), dtype)

    assert_same(init(3), init(3), rtol=0)
    assert_same(init(3), init(3, np.float64), rtol=1e-6)
    assert not np.array_equal(init(3)["w0-1"], init(4)["w0-1"])
    assert init(3, np.float64)["b2"].dtype == np.float64


@every
def test_untying_leaves_the_forward_parameters(network: Network) -> None:
    """One seed gives tied and untied networks equal forward weights, and ψ = 0 equal backward weights."""
    tied = network.init(np.random.default_rng(5))
    loose = untied(network).init(np.random.default_rng(5))
    assert_same({name: loose[name] for name in tied}, tied, rtol=0)
    for c in network.recurrent:
        np.testing.assert_array_equal(loose[f"w{c.post}-{c.pre}"], tied[c.name])


@pytest.mark.parametrize("psi", [0, 30, 90, 135, 180])
def test_psi_flips_signs_of_the_backward_weight(psi: float, rng: np.random.Generator) -> None:
    """The share of flipped signs is ½(1 − cos ψ) within three standard errors."""
    theta = untied(chain([2, 150, 200])).init(rng, psi=psi)
    forward, backward = theta["w1-2"], theta["w2-1"]
    np.testing.assert_array_equal(abs(forward), abs(backward))
    share = (1 - np.cos(np.deg2rad(psi))) / 2
    flipped = np.not_equal(forward, backward).mean()
    assert abs(flipped - share) <= 3 * np.sqrt(share * (1 - share) / forward.size) + 1e-9


@pytest.mark.parametrize("tied, psi", [(True, 30.0), (False, -1.0), (False, 181.0), (False, float("nan"))])
def test_psi_out_of_its_range_is_refused(tied: bool, psi: float, rng: np.random.Generator) -> None:
    network = toy() if tied else untied(toy())
    message = f"psi must be from 0 to 180 degrees, and 0 for tied weights, got {psi}"
    with pytest.raises(ValueError, match=re.escape(message)):
        network.init(rng, psi=psi)


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


@every
def test_a_backward_weight_has_the_shape_of_its_forward_weight(network: Network) -> None:
    tied, loose = network.parameter_shapes, untied(network).parameter_shapes
    backward = {f"w{c.post}-{c.pre}": c.shape for c in network.recurrent}
    assert loose == tied | backward
    assert {network.backward_name(c) for c in network.recurrent} <= tied.keys()


def test_depth_inputs_and_recurrent_connections() -> None:
    network = toy()
    assert network.depth == 2
    assert list(network.layers) == [1, 2]
    assert [c.name for c in network.inputs] == ["w0-1", "w0-2"]
    assert [c.name for c in network.recurrent] == ["w1-2"]


# --- two connections between the same layers


def test_two_connections_between_the_same_layers_have_their_own_weights(rng: np.random.Generator) -> None:
    theta = TWO_WEIGHTS.init(rng, np.float64)
    assert TWO_WEIGHTS.parameter_shapes == {
        "w0-1": (4, 3),
        "w1-2": (3, 2),
        "second": (3, 2),
        "b1": (3,),
        "b2": (2,),
    }
    assert not np.array_equal(theta["w1-2"], theta["second"])


def test_two_connections_between_the_same_layers_can_be_untied(rng: np.random.Generator) -> None:
    """Each has a backward weight of its own."""
    network = untied(TWO_WEIGHTS)
    assert [network.backward_name(c) for c in network.recurrent] == ["w2-1", "second-backward"]
    assert network.parameter_shapes == TWO_WEIGHTS.parameter_shapes | {
        "w2-1": (3, 2),
        "second-backward": (3, 2),
    }
    theta, x, s = draw(network, 2, rng)
    h, o = network.dphi_ds(theta, x, s)
    expected = x @ theta["w0-1"] + theta["b1"] + s[1] @ (theta["w2-1"] + theta["second-backward"]).T
    np.testing.assert_allclose(h, expected, rtol=0, atol=1e-12)
    expected = s[0] @ (theta["w1-2"] + theta["second"]) + theta["b2"]
    np.testing.assert_allclose(o, expected, rtol=0, atol=1e-12)


@given(rngs, batches)
def test_two_dense_connections_act_as_one_with_the_sum_of_their_weights(
    rng: np.random.Generator, batch: int
) -> None:
    theta, x, s = draw(TWO_WEIGHTS, batch, rng)
    one = chain([4, 3, 2])
    total = {name: value for name, value in theta.items() if name != "second"}
    total["w1-2"] = theta["w1-2"] + theta["second"]
    np.testing.assert_allclose(TWO_WEIGHTS.phi(theta, x, s), one.phi(total, x, s), rtol=0, atol=1e-12)
    for product in ("dphi_ds", "jvp_s", "vjp_s"):
        arguments = (x, s) if product == "dphi_ds" else (s, {})
        found, expected = (
            getattr(network, product)(value, *arguments)
            for network, value in ((TWO_WEIGHTS, theta), (one, total))
        )
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-12)
    found = TWO_WEIGHTS.dphi_dtheta(theta, x, s)
    expected = one.dphi_dtheta(total, x, s)
    assert_same(found, expected | {"second": expected["w1-2"]}, rtol=0, atol=1e-12)
    v, at = state(one, batch, rng), Snapshot((x, *s), {})
    found, expected = (network.vjp_theta([(at, v)]) for network in (TWO_WEIGHTS, one))
    assert_same(found, expected | {"second": expected["w1-2"]}, rtol=0, atol=1e-12)


def test_a_dense_and_a_convolutional_connection_can_join_the_same_layers(rng: np.random.Generator) -> None:
    shapes = ((4, 4, 1), (2, 2, 2), (1, 1, 3))
    network = Network(
        shapes,
        (
            ConvPool(0, 1, shapes[0], 2, kernel=3, pool=1),
            ConvPool(1, 2, shapes[1], 3, kernel=1, pool=2),
            Dense(1, 2, shapes[1], shapes[2], name="all-to-all"),
        ),
    )
    theta, x, s = draw(network, 2, rng)
    assert all_clear(network, theta, x, s)
    check_gradient(
        lambda s: float(network.phi(theta, x, s).sum()), lambda s: network.dphi_ds(theta, x, s), s, rng=rng
    )
    check_gradient(
        lambda theta: float(network.phi(theta, x, s).mean()),
        lambda theta: network.dphi_dtheta(theta, x, s),
        theta,
        rng=rng,
    )


# --- what a network refuses


def dense(pre: int, post: int, pre_size: int, post_size: int, name: str = "") -> Dense:
    return Dense(pre, post, (pre_size,), (post_size,), name)


@pytest.mark.parametrize(
    "shapes, connections, words",
    [
        (
            ((4,), (3,)),
            (dense(0, 1, 5, 3),),
            "connection w0-1 has shape (5,) for layer 0, but the layer has (4,)",
        ),
        (
            ((4,), (3,), (2,)),
            (dense(0, 1, 4, 3), dense(1, 2, 3, 5)),
            "connection w1-2 has shape (5,) for layer 2, but the layer has (2,)",
        ),
        (
            ((2, 2, 1), (3,)),
            (dense(0, 1, 4, 3),),
            "connection w0-1 has shape (4,) for layer 0, but the layer has (2, 2, 1)",
        ),
        (
            ((6, 6, 1), (4, 4, 2)),
            (ConvPool(0, 1, (6, 6, 1), 2, kernel=3, pool=2),),
            "connection w0-1 has shape (2, 2, 2) for layer 1, but the layer has (4, 4, 2)",
        ),
        (
            ((4,), (3,), (2,)),
            (dense(0, 1, 4, 3),),
            "no connection leads to layer 2: every layer needs one from an earlier layer",
        ),
        (((4,), (3,)), (), "no connection leads to layer 1: every layer needs one"),
        (
            ((4,), (3,), (2,)),
            (dense(0, 1, 4, 3), dense(1, 2, 3, 2), dense(1, 2, 3, 2)),
            "two parameters have the name w1-2: give one connection another name",
        ),
        (
            ((4,), (3,), (2,)),
            (dense(0, 1, 4, 3, "w"), dense(1, 2, 3, 2, "w")),
            "two parameters have the name w: give one connection another name",
        ),
        (
            ((4,), (3,)),
            (dense(0, 1, 4, 3, "b1"),),
            "'b1' cannot be the name of a connection, because a bias",
        ),
        (
            ((4,), (3,)),
            (dense(0, 1, 4, 3), dense(1, 2, 3, 2)),
            "connection w1-2 leads from layer 1 to 2, but it must lead from a layer to a later one of 0…1",
        ),
        (
            ((4,), (3,)),
            (dense(-1, 1, 3, 3),),
            "connection w-1-1 leads from layer -1 to 1, but it must lead from a layer to a later one of 0…1",
        ),
        (
            ((4,), (3,), (2,)),
            (dense(0, 1, 4, 3), dense(0, 2, 4, 2), dense(2, 1, 2, 3)),
            "connection w2-1 leads from layer 2 to 1, but it must lead from a layer to a later one of 0…2",
        ),
        (
            ((4,), (4,)),
            (dense(0, 1, 4, 4), dense(1, 1, 4, 4)),
            "connection w1-1 leads from layer 1 to 1, but it must lead from a layer to a later one of 0…1",
        ),
        (((4,),), (), "a network needs the shapes of its input and of at least one layer, got 1"),
        (((4,), ()), (), "layer 1 must have a shape of positive integers, got ()"),
        (((4,), (2.5,)), (), "layer 1 must have a shape of positive integers, got (2.5,)"),
        (((-4,), (3,)), (), "layer 0 must have a shape of positive integers, got (-4,)"),
    ],
)
def test_a_graph_that_does_not_fit_is_refused(
    shapes: tuple[tuple[int, ...], ...], connections: tuple[Connection, ...], words: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        Network(shapes, connections)


@pytest.mark.parametrize(
    "sizes, words",
    [
        ([], "a network needs the shapes of its input and of at least one layer, got 0"),
        ([4], "a network needs the shapes of its input and of at least one layer, got 1"),
        ([4, 0, 3], "layer 1 must have a shape of positive integers, got (0,)"),
        ([4, 5, -3], "layer 2 must have a shape of positive integers, got (-3,)"),
        ([4, 5.0], "layer 1 must have a shape of positive integers, got (5.0,)"),
    ],
)
def test_a_chain_of_wrong_sizes_is_refused(sizes: list[int], words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        chain(sizes)


def test_a_name_equal_to_that_of_a_backward_weight_is_refused() -> None:
    """A tied network has no backward weight, so it may use this name."""
    shapes = ((4,), (3,), (2,))
    network = Network(shapes, (dense(0, 1, 4, 3), dense(1, 2, 3, 2), dense(1, 2, 3, 2, "w2-1")))
    with pytest.raises(ValueError, match="two parameters have the name w2-1: give one connection another"):
        untied(network)


def test_a_stack_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="layer 2: a 5×5 convolution does not fit on 4 pixels"):
        convolutional((12, 12, 1), [2, 2], [10])


def test_lists_are_accepted_and_become_tuples() -> None:
    """So a network stays hashable and cannot be changed through a list that the caller keeps."""
    network = Network([[4], [3]], [Dense(0, 1, (4,), (3,))])  # type: ignore[arg-type]
    assert network == chain([4, 3])
    assert hash(network) == hash(chain([4, 3]))


def test_an_untied_network_has_no_phi(rng: np.random.Generator) -> None:
    """Its drives exist, but they are not the derivative of any Φ."""
    network = untied(toy(4, 3, 2))
    theta, x, s = draw(network, 2, rng)
    at = Snapshot((x, *s), {})
    message = "this network's weights are untied, so it has no Φ: use the rule"
    for call in (
        lambda: network.phi(theta, x, s),
        lambda: network.dphi_dtheta(theta, x, s),
        lambda: network.contrast(at, at, 1.0),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    assert len(network.dphi_ds(theta, x, s)) == 2


@pytest.mark.parametrize("function", ["phi", "dphi_ds", "dphi_dtheta"])
def test_arguments_that_do_not_fit_the_network_are_refused(function: str, rng: np.random.Generator) -> None:
    network = toy(4, 3, 2)
    theta, x, s = draw(network, 2, rng)
    call = getattr(network, function)
    lacking = {name: value for name, value in theta.items() if name != "w1-2"}
    with pytest.raises(ValueError, match="but it lacks w1-2"):
        call(lacking, x, s)
    with pytest.raises(ValueError, match=re.escape("theta['b1'] must have shape (3,), got (1,)")):
        call(theta | {"b1": np.zeros(1)}, x, s)
    with pytest.raises(ValueError, match=re.escape("x must have shape (B, 4) with at least one sample")):
        call(theta, x[:, :3], s)
    with pytest.raises(ValueError, match="the state must be a tuple of 2 arrays"):
        call(theta, x, s[:1])
    with pytest.raises(
        ValueError, match=re.escape("layer 1 of the state must have shape (2, 3), got (1, 3)")
    ):
        call(theta, x, (s[0][:1], s[1]))
    with pytest.raises(TypeError, match="x must be floating-point numbers, got int64"):
        call(theta, np.ones((2, 4), int), s)
