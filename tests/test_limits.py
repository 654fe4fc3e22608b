"""Tests of the limits of a run, of settings without effect, and of the phases that cannot converge."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from examples import write_bands

import eqprop_np as eq
from eqprop_np import benchmark, figures, mnist, sweep
from eqprop_np.__main__ import COMMANDS
from eqprop_np.dynamics import linear_step
from eqprop_np.experiments import limits, systems
from eqprop_np.experiments.limits import check_limits, memory_needed
from eqprop_np.experiments.presets import EXPERIMENTS
from eqprop_np.rules import RULES
from eqprop_np.rules.asymmetric import corrected_phase
from eqprop_np.rules.phases import check_stable, free_phase

MAINS = {
    "mnist": mnist.main,
    "theorem": systems.main,
    "figures": figures.main,
    "benchmark": benchmark.main,
    "sweep": sweep.main,
}


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Any:
    """Return a function that runs a command and returns the line with which it refuses."""

    def run(command: str, *arguments: object) -> str:
        assert MAINS[command]([str(argument) for argument in arguments]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        return err

    return run


@pytest.fixture
def bands(tmp_path: Path) -> Path:
    return write_bands(tmp_path / "bands")


# --- sizes


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--hidden", 100_000, 100_000], "parameters, batches of 20), but this machine has"),
        (["--hidden", 100_000, 100_000, "--rule", "holomorphic"], "of memory"),
        (["--hidden", 10**300], "more than 10¹⁵ GB of memory"),
        (["--channels", 10**10, "--kernel", 1], "choose smaller layers or a smaller batch"),
        (["--workers", 1000], "this machine has"),
        (["--augment", 8], "augment must be below the side of the images, 8 pixels, got 8"),
        (["--augment", 10**8], "augment must be below the side of the images"),
        (["--rate-decay", 1e200, "--epochs", 3], "in epoch 3 they are beyond the largest number"),
        (["--rate-schedule", "steps:1:1e200", "--epochs", 3], "in epoch 3 they are beyond"),
        (["--epochs", 10**23], "epochs must be at most 1000000, got 1"),
        (["--free-steps", 10**23], "free_steps must be at most 1000000"),
        (["--nudged-steps", 10**23], "nudged_steps must be at most 1000000"),
        (["--rule", "holomorphic", "--points", 10**12], "points must be at most 1000"),
    ],
    ids=str,
)
def test_what_the_machine_cannot_do_is_refused(
    arguments: list[object], words: str, refused: Any, bands: Path
) -> None:
    assert words in refused("mnist", "--data", bands, *arguments)
    assert not Path("runs").exists()


def test_more_epochs_of_a_resumed_run_are_limited(
    refused: Any, bands: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "run")
    assert mnist.main(["--data", str(bands), "--hidden", "4", "--epochs", "1", "--out", out, "--quiet"]) == 0
    capsys.readouterr()
    assert "epochs must be at most" in refused("mnist", "--resume", out, "--epochs", 10**9)


def test_the_largest_sizes_are_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each limit is reached here and exceeded by one."""
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    for name, value in {**limits.LARGEST, "workers": 12, "augment": 27}.items():
        rule = "holomorphic" if name == "points" else "ep"
        check_limits(EXPERIMENTS["p-1h"].override(rule=rule, **{name: value}), (28, 30), 10, 100)
        with pytest.raises(ValueError, match=f"{name} must be "):
            check_limits(EXPERIMENTS["p-1h"].override(rule=rule, **{name: value + 1}), (28, 30), 10, 100)


def test_the_memory_is_compared_with_that_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = EXPERIMENTS["p-1h"]
    needed = memory_needed(experiment, experiment.build((28, 28), 10), 60_000)
    assert needed == 4 * (3 * (785 * 512 + 513 * 10) + 250 * (2 * (784 + 512 + 10) + 784))
    monkeypatch.setattr(limits, "memory", lambda: needed)
    check_limits(experiment, (28, 28), 10, 60_000)
    check_limits(experiment.override(batch_size=10**9), (28, 28), 10, 250)
    other = [{"optimizer": "adam"}, {"momentum": 0.5}, {"average": 0.9}]
    for more in ({"batch_size": 251}, {"hidden": (513,)}, *other):
        with pytest.raises(ValueError, match="training needs at least 1 GB of memory"):
            check_limits(experiment.override(**more), (28, 28), 10, 60_000)


def test_a_lack_of_memory_is_one_line(refused: Any, bands: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise MemoryError("Unable to allocate 74.5 GiB")

    monkeypatch.setattr(mnist, "train", fail)
    assert "not enough memory (Unable to allocate 74.5 GiB)" in refused(
        "mnist", "--data", bands, "--hidden", 4, "--quiet"
    )


def test_rates_that_overflow_are_refused_by_fit() -> None:
    dynamics, phases = eq.DiscreteTime(eq.chain([2, 3, 2])), eq.Phases(4, 2, beta=0.1)
    X, y = np.ones((4, 2)), [0, 1, 0, 1]
    with pytest.raises(
        ValueError, match="rate_schedule must return a finite number from 0, got inf for epoch 2"
    ):
        eq.fit(dynamics, X, y, phases=phases, optimizer=eq.SGD(1e-300), rate_schedule=eq.Exponential(1e200))


# --- wrong arguments of the other commands, and files that are not regular


@pytest.mark.parametrize(
    "arguments",
    [["theorem"], ["figures", "fig1b"], ["figures", "estimators"]],
    ids=str,
)
def test_a_seed_is_not_negative(arguments: list[str], refused: Any) -> None:
    assert "--seed: it must be an integer of at least 0, got '-1'" in refused(*arguments, "--seed", -1)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no named pipes")
@pytest.mark.parametrize(
    "arguments",
    [["mnist", "--evaluate"], ["mnist", "--resume"], ["figures", "filters", "--weights"]],
    ids=str,
)
def test_a_named_pipe_is_not_read(arguments: list[str], refused: Any, tmp_path: Path) -> None:
    """Opening it would wait for ever for a process that writes."""
    os.mkfifo(tmp_path / "pipe")
    assert "pipe: this is not a regular file" in refused(*arguments, tmp_path / "pipe")
    (tmp_path / "run").mkdir()
    os.mkfifo(tmp_path / "run/checkpoint.npz")
    assert "checkpoint.npz: this is not a regular file" in refused(*arguments, tmp_path / "run")
    assert "pipe is not a directory" in refused("mnist", "--data", tmp_path / "pipe")
    (tmp_path / "sweep").mkdir()
    os.mkfifo(tmp_path / "sweep/summary.json")
    assert "summary.json is not the summary" in refused("figures", "fig1c", "--runs", tmp_path / "sweep")
    with pytest.raises(ValueError, match="this is not a regular file"):
        eq.Progress.load(tmp_path / "pipe")


# --- settings without effect


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--epsilon", 0.1], "epsilon has no effect, because it is the Euler step of real time"),
        (["--rule", "bptt", "--estimate", "centered"], "estimate has no effect, because rule bptt"),
        (["--rule", "implicit", "--estimate", "one-sided"], "estimate has no effect, because rule implicit"),
        (
            ["--rule", "holomorphic", "--estimate", "centered"],
            "estimate has no effect, because rule holomorphic",
        ),
        (["--rule", "asymep", "--estimate", "centered"], "estimate has no effect, because rule asymep"),
        (["--rule", "bptt", "--beta", 0.1], "beta has no effect, because rule bptt does not nudge"),
        (["--rule", "implicit", "--nudged-steps", 3], "nudged_steps has no effect, because rule implicit"),
        (["--points", 3], "points has no effect, because it belongs to the rule holomorphic"),
        (
            ["--list-presets", "--seed", 0, "--epochs", 3],
            "--data was given: with --list-presets, give no other",
        ),
    ],
    ids=str,
)
def test_a_setting_without_effect_is_refused(
    arguments: list[object], words: str, refused: Any, bands: Path
) -> None:
    assert words in refused("mnist", "--data", bands, *arguments)


def test_the_first_option_without_effect_is_named(refused: Any) -> None:
    """The order does not depend on the hashes of strings, which differ between processes."""
    assert "--beta was given" in refused("mnist", "--evaluate", "x", "--tol", 0, "--seed", 0, "--beta", 0.1)


def test_settings_with_an_effect_are_accepted() -> None:
    p_1h = EXPERIMENTS["p-1h"]
    assert EXPERIMENTS["eb-1h"].override(epsilon=0.1).epsilon == 0.1
    assert p_1h.override(rule="bptt", nudged_steps=3).phases.nudged_steps == 3
    assert p_1h.override(rule="holomorphic", points=3, beta=0.3).phases.points == 3
    assert p_1h.override(rule="asymep", beta=0.3, nudged_steps=2).phases.beta == 0.3


# --- phases that cannot converge

NETWORK = eq.chain([20, 30, 5])
SIGNS = {"one-sided": (1,), "centered": (1, -1), "random-sign": (1, -1)}


def discrete(beta: float, estimate: Any = "one-sided") -> tuple[Any, eq.Phases]:
    return eq.DiscreteTime(NETWORK), eq.Phases(10, 10, beta=beta, estimate=estimate)


def real(
    beta: float, estimate: Any = "one-sided", epsilon: float = 0.5, omega: float = 1.0, clamp: bool = False
) -> tuple[Any, eq.Phases]:
    dynamics = eq.RealTime(NETWORK, eq.sigmoid, epsilon, clamp=clamp)
    return dynamics, eq.Phases(10, 10, beta=beta, estimate=estimate, schedule=eq.Alternating(omega))


UNSTABLE = {
    "β of 1 in discrete time": discrete(1.0),
    "β below −1 in discrete time": discrete(-1.2),
    "centred": discrete(1.1, "centered"),
    "β in real time": real(3.1),
    "β and ω in real time": real(1.7, omega=1.5),
    "β and ω in real time, clamped": real(1.7, omega=1.5, clamp=True),
    "β below −1 in real time": real(-1.1),
    "random sign in real time": real(1.1, "random-sign", epsilon=0.1),
    "ωε": real(-0.5, epsilon=1.1, omega=1.9),
}
STABLE = {
    "discrete time": discrete(0.9),
    "negative": discrete(-0.9, "centered"),
    "real time": real(2.5),
    "negative, real time": real(-0.9, "centered"),
    "clamped": real(-3.0, clamp=True),
    "clamped, centred": real(2.0, "centered", clamp=True),
}


def nudged_change(dynamics: Any, phases: eq.Phases) -> float:
    """Return the largest residual that is left after 3000 steps of the nudged phases."""
    theta = dynamics.init(np.random.default_rng(1), np.float64)
    theta = {name: 0.3 * value for name, value in theta.items()}
    x, y = np.random.default_rng(2).random((4, 20)), np.eye(5)[:4]
    schedule = phases.schedule.for_nudged_phase(dynamics)
    nudges = [eq.Nudge(sign * phases.beta, y) for sign in SIGNS[phases.estimate]]
    with np.errstate(over="ignore", invalid="ignore"):
        runs = [eq.relax(dynamics, theta, x, steps=3000, nudge=nudge, schedule=schedule) for nudge in nudges]
    return max(np.nan_to_num(run.residuals[-1], nan=np.inf) for run in runs)


@pytest.mark.parametrize("name", UNSTABLE)
def test_phases_that_do_not_converge_are_refused(name: str) -> None:
    """The small weights of this network are no reason not to converge."""
    dynamics, phases = UNSTABLE[name]
    with pytest.raises(ValueError, match="converge"):
        check_stable(dynamics, phases, eq.ep)
    assert nudged_change(dynamics, phases) > 1e-6


@pytest.mark.parametrize("name", STABLE)
def test_phases_that_converge_are_accepted(name: str) -> None:
    dynamics, phases = STABLE[name]
    check_stable(dynamics, phases, eq.ep)
    assert nudged_change(dynamics, phases) < 1e-6


def test_the_force_of_a_readout_is_bounded() -> None:
    dynamics = eq.DiscreteTime(eq.chain([20, 30]), cost=eq.Readout(5))
    phases = eq.Phases(10, 10, beta=5.0)
    check_stable(dynamics, phases, eq.holomorphic_ep)
    assert nudged_change(dynamics, phases) < 1e-6


@pytest.mark.parametrize("rule", RULES)
def test_each_rule_checks_what_it_uses(rule: str) -> None:
    """BPTT and the implicit gradient do not use β. AsymEP and holomorphic EP use both signs."""
    dynamics = eq.RealTime(NETWORK, eq.sigmoid, 0.5, clamp=False)
    if RULES[rule].networks == "untied":
        dynamics = eq.RealTime(eq.untied(NETWORK), eq.sigmoid, 0.5, clamp=False)
    theta = dynamics.init(np.random.default_rng(0), np.float64)
    x, y = np.ones((1, 20)), np.eye(5)[:1]
    for beta, signs in ((-1.5, ("estimate", "both")), (1.5, ("both",)), (0.5, ())):
        phases = eq.Phases(
            400, 2, beta=beta, learning_rates=dict.fromkeys(theta, 1e-9), schedule=eq.Synchronous()
        )

        def call(phases: eq.Phases = phases) -> object:
            return RULES[rule].function(dynamics, theta, x, y, phases)

        def train(phases: eq.Phases = phases) -> object:
            return eq.fit(dynamics, x, y, phases=phases, rule=RULES[rule], epochs=0)

        for function in (call, train):
            if RULES[rule].signs in signs:
                with pytest.raises(ValueError, match="beta must be at least -1"):
                    function()
            else:
                function()


@pytest.mark.parametrize("rule", RULES)
def test_each_rule_checks_omega_where_it_uses_it(rule: str) -> None:
    """The nudged phases of C-EP, VF, C-VF and AsymEP are synchronous, so their bound does not contain ω."""
    network = eq.untied(NETWORK) if RULES[rule].networks == "untied" else NETWORK
    dynamics = eq.RealTime(network, eq.sigmoid, 0.2)
    phases = eq.Phases(10, 10, beta=5.0, schedule=eq.Alternating(1.9))
    if rule in ("ep", "holomorphic"):
        with pytest.raises(ValueError, match=r"omega \* epsilon \* \(1 \+ beta\) must be below 2"):
            check_stable(dynamics, phases, RULES[rule].function)
    else:
        check_stable(dynamics, phases, RULES[rule].function)
    if RULES[rule].signs != "none":
        with pytest.raises(ValueError, match=r"epsilon \* \(1 \+ beta\) must be below 2"):
            check_stable(dynamics, replace(phases, beta=9.0), RULES[rule].function)
    fast = eq.RealTime(network, eq.sigmoid, 1.1)  # its free phase does not converge, whatever the rule
    with pytest.raises(ValueError, match=r"omega \* epsilon must be below 2"):
        check_stable(fast, replace(phases, beta=0.1), RULES[rule].function)


@pytest.mark.parametrize("beta, converges", [(5.0, True), (9.1, False)])
def test_the_nudged_phase_of_asymep_does_not_use_omega(beta: float, converges: bool) -> None:
    """ω is 1.9. With it, the phase would not converge for β = 5 either."""
    dynamics = eq.RealTime(NETWORK, eq.sigmoid, 0.2)
    theta = {name: 0.3 * value for name, value in dynamics.init(np.random.default_rng(1), np.float64).items()}
    x, y = np.random.default_rng(2).random((4, 20)), np.eye(5)[:4]
    phases = eq.Phases(2000, 10, beta=beta, schedule=eq.Alternating(1.9, 1e-13))
    static, free = free_phase(dynamics, theta, x, phases)
    step = linear_step(dynamics, theta, static, free.state)
    ends = [
        corrected_phase(dynamics, theta, static, free.state, step, eq.Nudge(beta, y), steps)[-1]
        for steps in (500, 501)
    ]
    assert bool(np.abs(ends[1] - ends[0]).max() < 1e-9) is converges


def test_a_preset_with_such_a_beta_is_refused(refused: Any, bands: Path) -> None:
    words = "beta must be between -1 and 1 in discrete time, got 1.5"
    assert words in refused("mnist", "--data", bands, "--beta", 1.5)
    words = "omega * epsilon * (1 + beta) must be below 2 in real time, got 1.9 * 0.2 * (1 + 5)"
    assert words in refused("mnist", "--data", bands, "--preset", "eb-1h", "--beta", 5)


# --- the console


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    root = Path(eq.__file__).parents[1]
    variables = os.environ | {"PYTHONPATH": str(root)} | environment
    return subprocess.run([sys.executable, *arguments], capture_output=True, timeout=60, env=variables)


def test_the_package_lists_its_commands() -> None:
    done = run("-m", "eqprop_np")
    assert (done.returncode, done.stderr) == (0, b"")
    for name in COMMANDS:
        assert f"python -m eqprop_np.{name} " in done.stdout.decode()
        assert (Path(eq.__file__).parent / f"{name}.py").exists() or name == "theorem"


@pytest.mark.parametrize(
    "arguments",
    [["mnist"], ["theorem"], ["benchmark"], ["figures"], ["sweep"]]
    + [
        ["figures", name] for name in ("fig1a", "fig1b", "fig1c", "filters", "errors", "estimators", "settle")
    ],
    ids=str,
)
def test_the_help_fits_into_80_columns(
    arguments: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        MAINS[arguments[0]]([*arguments[1:], "--help"])
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 80
    assert "None" not in printed
