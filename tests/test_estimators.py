"""Tests of the table of estimators: its lines, its orders, its costs, and what it says is exact."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from estimators import distance

from eqprop_np.activations import Array, hard_sigmoid, tanh
from eqprop_np.connections import Dense
from eqprop_np.costs import Readout
from eqprop_np.dynamics import DiscreteTime, RealTime, linear_step
from eqprop_np.experiments import estimators, systems
from eqprop_np.experiments.estimators import (
    Estimator,
    Measurement,
    Problem,
    Record,
    measure_estimators,
    prepare,
    tied_estimators,
    untied_estimators,
)
from eqprop_np.experiments.systems import PSI, SYSTEMS, System, estimator_lines, estimators_of, exactness
from eqprop_np.network import Network, chain, convolutional
from eqprop_np.rules.bptt import bptt, loss_gradient
from eqprop_np.rules.implicit import adjoint, implicit_gradient
from eqprop_np.rules.phases import free_phase
from eqprop_np.rules.vector_field import untied
from eqprop_np.theorem import NotConverged, drive_gradients, first_phase

CHAINS = ["chain", "chain-real", "chain-untied", "chain-real-untied"]
BETA, RATIO = 0.1, 0.03


@pytest.fixture(scope="module")
def measured() -> dict[str, dict[float, Measurement]]:
    """Return the measured estimators of the four small systems."""
    return {name: estimators_of(SYSTEMS[name], seed=0) for name in CHAINS}


def by_name(measurement: Measurement) -> dict[str, Record]:
    """Return the records by name; of several with one name the last, with the smallest η or the largest K."""
    return {record.estimator: record for record in measurement.records}


# ---- the lines


def test_a_tied_system_has_a_line_for_each_estimator_and_setting(
    measured: dict[str, dict[float, Measurement]],
) -> None:
    for name in ("chain", "chain-real"):
        ((psi, measurement),) = measured[name].items()
        assert psi == 0
        assert [(r.estimator, r.setting) for r in measurement.records] == [
            ("one-sided EP", "β = 0.1"),
            ("random-sign EP", "β = ±0.1"),
            ("centred EP", "β = 0.1"),
            ("holomorphic EP, N = 2", "r = 0.1"),
            ("holomorphic EP, N = 4", "r = 0.1"),
            ("holomorphic EP, N = 8", "r = 0.1"),
            ("C-EP", "η = 3e-07, β = 1e-05"),
            ("C-EP", "η = 3e-08, β = 1e-05"),
            ("C-EP", "η = 3e-09, β = 1e-05"),
            ("AsymEP", "β = 0.1"),
            ("BPTT", "K = 5"),
            ("BPTT", "K = 20"),
            ("BPTT", "K = 100"),
            ("implicit", ""),
        ]
        assert measurement.left_out == ("VF, C-VF: they are rules for untied weights",)


def test_an_untied_system_has_its_lines_for_each_angle(
    measured: dict[str, dict[float, Measurement]],
) -> None:
    for name in ("chain-untied", "chain-real-untied"):
        assert tuple(measured[name]) == PSI == (0, 90, 180)
        for measurement in measured[name].values():
            names = [r.estimator for r in measurement.records]
            assert names == ["VF", "C-VF", "AsymEP", "BPTT", "BPTT", "BPTT", "implicit"]
            assert measurement.left_out == (
                "EP, holomorphic EP, C-EP: the weights are untied, so there is no Φ",
            )


def test_the_reason_is_given_where_the_system_is_not_analytic() -> None:
    system = System(
        DiscreteTime(convolutional((7, 7, 1), [2, 2], [2], kernel=2, pool=2), hard_sigmoid), 5, 0.01
    )
    problem = prepare(system.dynamics, *replace(system, batch=1).draw(0))
    names = {estimator.name for estimator in tied_estimators(problem, BETA, RATIO)}
    assert names == {"one-sided EP", "random-sign EP", "centred EP", "C-EP"}
    reason = estimators.why_not_analytic(problem)
    assert reason is not None
    assert "max-pooling is not analytic" in reason


# ---- the orders


def test_orders_in_real_time(measured: dict[str, dict[float, Measurement]]) -> None:
    """With tied weights every limit is the exact gradient."""
    records = by_name(measured["chain-real"][0])
    orders = {"one-sided EP": 1, "random-sign EP": 1, "centred EP": 2, "C-EP": 1, "AsymEP": 2}
    orders |= {f"holomorphic EP, N = {N}": N for N in (2, 4, 8)}
    for name, order in orders.items():
        assert records[name].order == pytest.approx(order, abs=0.03 if order < 8 else 0.1), name
        assert records[name].limit_order is records[name].limit_error is None
    assert measured["chain-real"][0].bias < 1e-12


def test_in_discrete_time_plain_ep_follows_another_loss(
    measured: dict[str, dict[float, Measurement]],
) -> None:
    """Its error does not vanish; with respect to its own limit the orders are those of real time."""
    measurement = measured["chain"][0]
    records, bias = by_name(measurement), measurement.bias
    assert bias > 0.1
    orders = {"one-sided EP": 1, "random-sign EP": 1, "centred EP": 2, "C-EP": 1}
    orders |= {f"holomorphic EP, N = {N}": N for N in (2, 4, 8)}
    for name, order in orders.items():
        assert records[name].order == pytest.approx(0, abs=0.03), name
        assert records[name].limit_order == pytest.approx(order, abs=0.03 if order < 8 else 0.1), name
    assert records["holomorphic EP, N = 8"].error == pytest.approx(bias, rel=1e-5)
    assert records["AsymEP"].order == pytest.approx(2, abs=0.03)
    assert records["AsymEP"].limit_order is None


@pytest.mark.parametrize("name", ["chain-untied", "chain-real-untied"])
def test_with_untied_weights_asymep_is_exact_and_vf_is_not(
    name: str, measured: dict[str, dict[float, Measurement]]
) -> None:
    for psi, measurement in measured[name].items():
        records = by_name(measurement)
        assert records["AsymEP"].order == pytest.approx(2, abs=0.03)
        exact = name == "chain-real-untied" and psi == 0  # there J is symmetric
        assert (measurement.bias < 1e-12) == exact
        for field in ("VF", "C-VF"):
            assert records[field].order == pytest.approx(1 if exact else 0, abs=0.03)
            if not exact:
                assert records[field].limit_order == pytest.approx(1, abs=0.03)
    assert measured[name][180].bias > 0.5


def test_bptt_and_the_implicit_gradient_have_no_small_parameter(
    measured: dict[str, dict[float, Measurement]],
) -> None:
    for name in CHAINS:
        for measurement in measured[name].values():
            *_, five, twenty, hundred, implicit = measurement.records
            assert five.error > 5 * twenty.error > 100 * hundred.error  # truncated earlier, farther away
            assert hundred.error < 1e-6
            assert implicit.error == 0
            for record in (five, twenty, hundred, implicit):
                assert record.order is record.limit_order is record.limit_error is None


def test_a_random_sign_is_the_root_mean_square_over_both() -> None:
    system = SYSTEMS["chain"]
    problem = prepare(system.dynamics, *system.draw(1))
    one_sided, random_sign, *_ = tied_estimators(problem, BETA, RATIO)
    (plus,), (minus,) = (one_sided.estimates(b, 40) for b in (BETA, -BETA))
    errors = [distance(g, problem.exact) for g in (plus, minus)]
    measured = estimators._mean_error(random_sign.estimates(BETA, 40), problem.exact)
    assert measured == pytest.approx(np.hypot(*errors) / np.sqrt(2))


def test_each_error_is_relative_to_what_it_is_the_error_of() -> None:
    system = SYSTEMS["chain"]
    problem = prepare(system.dynamics, *system.draw(1))
    centred = tied_estimators(problem, BETA, RATIO)[2]
    record = estimators._measure(problem, centred, problem.limit)
    (g,) = centred.estimates(BETA, 400)
    assert record.error == pytest.approx(distance(g, problem.exact))
    assert record.limit_error == pytest.approx(distance(g, problem.limit))
    assert record.limit_error < record.error / 10
    flat = [np.concatenate([t[name].ravel() for name in sorted(t)]) for t in (g, problem.exact)]
    cosine = flat[0] @ flat[1] / np.linalg.norm(flat[0]) / np.linalg.norm(flat[1])
    assert record.angle == pytest.approx(np.degrees(np.arccos(cosine)))


# ---- what they are measured against


def test_the_exact_gradient_is_that_of_the_rule() -> None:
    system = SYSTEMS["chain-real-untied"]
    theta, x, y = system.draw(0, psi=90)
    problem = prepare(system.dynamics, theta, x, y)
    assert distance(problem.exact, problem.estimate(implicit_gradient, 1)) < 1e-12


def test_the_limit_in_discrete_time_is_the_sum_of_the_drive_gradients() -> None:
    system = SYSTEMS["chain"]
    theta, x, y = system.draw(0)
    rest = first_phase(system.dynamics, theta, x, 300)
    moments = [moment.theta for moment in drive_gradients(system.dynamics, theta, x, y, rest)]
    total = {name: sum(moment[name] for moment in moments) for name in theta}
    assert distance(prepare(system.dynamics, theta, x, y).limit, total) < 1e-10


# ---- the costs


@dataclass(frozen=True)
class Counted(Dense):
    """A dense connection that counts its drives; with complex numbers each counts twice."""

    drives: ClassVar[list[int]] = [0]

    def to_post(self, w: Array, pre: Array, switches: Array | None = None) -> tuple[Array, None]:
        self._count(w, pre)
        return super().to_post(w, pre, switches)

    def to_pre(self, w: Array, post: Array, switches: Array | None = None) -> Array:
        self._count(w, post)
        return super().to_pre(w, post, switches)

    def _count(self, w: Array, s: Array) -> None:
        if self.pre > 0:  # between free layers
            self.drives[0] += 2 if np.iscomplexobj(s) else 1


def counted(network: Network) -> Network:
    """Return the network with connections that count."""
    connections = tuple(Counted(c.pre, c.post, c.pre_shape, c.post_shape) for c in network.connections)
    return replace(network, connections=connections)


def spent(call: object) -> int:
    """Return the number of drives that a call makes."""
    before = Counted.drives[0]
    call()  # type: ignore[operator]
    return Counted.drives[0] - before


def counted_problem(name: str) -> Problem:
    system = SYSTEMS[name]
    dynamics = replace(system.dynamics, network=counted(system.dynamics.network))
    theta, x, y = system.draw(0)
    return prepare(dynamics, theta, x, y)


@pytest.mark.parametrize("name", CHAINS)
def test_the_drives_are_those_of_a_counting_connection(name: str) -> None:
    """The closed forms count what a rule does after its first phase."""
    problem, K = counted_problem(name), 7
    network, one_pass = problem.dynamics.network, 2 * len(problem.dynamics.network.recurrent)
    first = spent(lambda: free_phase(problem.dynamics, problem.theta, problem.x, problem.phases))
    of_all = (tied_estimators if network.tied else untied_estimators)(problem, BETA, RATIO)
    for estimator in [*of_all, estimators._asymep(problem, BETA)]:
        total = spent(lambda estimator=estimator: estimator.estimates(estimator.value, K))
        if estimator.name.startswith("holomorphic"):
            total -= 6 * one_pass  # the check that a step is analytic takes two real and two complex steps
        signs = 2 if estimator.name == "random-sign EP" else 1
        assert total == signs * (first + one_pass * estimator.passes(K)), estimator.name
    total = spent(lambda: problem.estimate(bptt, K))
    assert total == first + one_pass * K + one_pass * 2 * K  # the first phase is K steps longer


def test_the_drives_of_the_implicit_gradient_are_counted() -> None:
    problem = counted_problem("chain")
    dynamics, theta = problem.dynamics, problem.theta
    static, free = free_phase(dynamics, theta, problem.x, problem.phases)
    loss_s = loss_gradient(dynamics, theta, free.state, problem.y)
    drives = spent(lambda: adjoint(linear_step(dynamics, theta, static, free.state), loss_s, 0.0, 1000))
    assert drives == 4 * (1 + problem.iterations)


def test_a_records_steps_and_drives_belong_together(
    measured: dict[str, dict[float, Measurement]],
) -> None:
    records = by_name(measured["chain"][0])
    one_pass = 4  # two connections between free layers
    for name, phases, passes in (
        ("one-sided EP", 1, lambda K: K),
        ("centred EP", 2, lambda K: 2 * K),
        ("holomorphic EP, N = 4", 3, lambda K: 4 * K),
        ("AsymEP", 2, lambda K: 1 + 6 * K),
        ("BPTT", 1, lambda K: 2 * K),
        ("implicit", 1, lambda K: 1 + K),
    ):
        K, rest = divmod(records[name].steps, phases)
        assert rest == 0
        assert records[name].drives == one_pass * passes(K), name


def test_the_steps_are_the_fewest_that_suffice() -> None:
    system = SYSTEMS["chain"]
    problem = prepare(system.dynamics, *system.draw(0))
    estimator: Estimator = estimators._asymep(problem, BETA)
    K = estimators._measure(problem, estimator, problem.exact).steps // 2
    (final,) = estimator.estimates(BETA, 500)
    left = [distance(estimator.estimates(BETA, steps)[0], final) for steps in (K - 1, K)]
    error = distance(final, problem.exact)
    assert left[1] < 0.1 * error < left[0]


# ---- what is refused


def test_what_does_not_fit_is_refused() -> None:
    theta, x, y = SYSTEMS["chain-real"].draw(0)
    with pytest.raises(ValueError, match="use clamp=False"):
        measure_estimators(RealTime(SYSTEMS["chain-real"].dynamics.network), theta, x, y, BETA, RATIO)
    readout = DiscreteTime(chain([6, 8]), cost=Readout(4))
    theta = readout.init(np.random.default_rng(0), np.float64)
    with pytest.raises(ValueError, match="does not train the parameters of the cost"):
        prepare(readout, theta, x, y)


def test_a_network_that_oscillates_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    system = System(DiscreteTime(untied(systems.CHAIN), tanh), steps=5, beta=0.01)
    monkeypatch.setattr(estimators, "LIMIT", 500)
    with pytest.raises(NotConverged, match=r"changes by .* per step after 500 steps"):
        prepare(system.dynamics, *system.draw(0, psi=180))
    monkeypatch.setitem(SYSTEMS, "chain-untied", system)
    assert systems.main(["--estimators", "--system", "chain-untied"]) == 1
    assert "error: the first phase has not converged" in capsys.readouterr().err


# ---- the command


def test_the_command_prints_the_records(
    measured: dict[str, dict[float, Measurement]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    by_system = {id(SYSTEMS[name]): measured[name] for name in CHAINS}
    monkeypatch.setattr(systems, "estimators_of", lambda system, seed: by_system[id(system)])
    printed = {}
    for name in CHAINS:
        assert systems.main(["--estimators", "--system", name]) == 0
        printed[name] = capsys.readouterr().out
        for measurement in measured[name].values():
            for line in estimator_lines(measurement):
                assert line in printed[name]
    assert max(map(len, "\n".join(printed.values()).splitlines())) <= 120
    assert "chain: discrete time, tied weights, batch 20, seed 0" in printed["chain"]
    assert (
        "C-EP follow the gradient of another loss, because the nudge is added outside σ" in printed["chain"]
    )
    assert "EP, holomorphic EP and C-EP are exact here" in printed["chain-real"]
    assert "another loss" not in printed["chain-real"]
    assert [f"ψ = {psi}°" in printed["chain-untied"] for psi in (0, 90, 180)] == [True] * 3
    assert "VF and C-VF are exact here" in printed["chain-real-untied"]  # at ψ = 0
    assert "where dL/dθ needs (I − Jᵀ)⁻¹ ℓ_s" in printed["chain-real-untied"]
    assert "VF and C-VF are exact here" not in printed["chain-untied"]


def test_a_line_shows_its_record() -> None:
    some = Record("one-sided EP", "β = 0.1", 0.567, 11.6, -0.001, 0.124, 0.997, 10, 40)
    none = Record("implicit", "", 0.0, 0.0, None, None, None, 170, 684)
    head, first, second = estimator_lines(Measurement((some, none), 0.75, ()))
    for line, text in (
        (head, "estimator setting error angle (°) order to limit order steps drives"),
        (first, "one-sided EP β = 0.1 5.7e-01 1.2e+01 0.00 1.2e-01 1.00 10 40"),
        (second, "implicit 0.0e+00 0.0e+00 – – – 170 684"),
    ):
        assert " ".join(line.split()) == text
    head, _ = estimator_lines(Measurement((none,), 0.0, ()))
    assert "to limit" not in head


def test_exactness_gives_the_distance_of_the_limit() -> None:
    assert "is 75 % away from dL/dθ" in exactness(SYSTEMS["chain"], 0.7497)


def test_theorem_1_needs_tied_weights(capsys: pytest.CaptureFixture[str]) -> None:
    assert systems.main(["--system", "chain-untied"]) == 2
    assert "untied weights, so Theorem 1 does not apply: add --estimators" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["chain", "chain-real"])
def test_theorem_1_holds_on_the_small_chains(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert systems.main(["--system", name]) == 0
    assert "order in β" in capsys.readouterr().out


def test_the_readme_has_the_lines_of_the_default_system() -> None:
    """Two lines are measured again: that of centred EP, and that of the implicit gradient."""
    readme = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")
    system = SYSTEMS["toy"]
    problem = prepare(system.dynamics, *system.draw(0))
    centred = tied_estimators(problem, 10 * system.beta, RATIO)[2]
    records = (
        estimators._measure(problem, centred, problem.limit),
        estimators._exact_record(
            problem, "implicit", "", problem.exact, problem.iterations, 2 * (1 + problem.iterations)
        ),
    )
    head, *lines = estimator_lines(Measurement(records, 0.0, ()))
    assert f"    {head}\n" in readme
    for record, line in zip(records, lines, strict=True):
        (written,) = (text for text in readme.splitlines() if text.startswith(f"    {record.estimator} "))
        *words, steps, drives = written.split()
        assert words == line.split()[:-2]
        assert int(steps) == pytest.approx(record.steps, abs=8)  # the last steps depend on rounding
        assert int(drives) == pytest.approx(record.drives, abs=16)
