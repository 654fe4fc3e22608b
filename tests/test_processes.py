"""Tests of `share`: equal to the rule without it, how workers start and end, and what is said if they do not.

Scripts run in processes of their own, because a spawned worker imports the script that starts it.
"""

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

import eqprop_np as eq
from eqprop_np import processes
from eqprop_np.activations import ACTIVATIONS, Array
from eqprop_np.dynamics import Dynamics
from eqprop_np.network import Theta
from eqprop_np.processes import WorkerDied, share
from eqprop_np.relaxation import relax
from eqprop_np.rules.phases import Phases, Update
from eqprop_np.training import Progress

NETWORK = eq.chain([4, 5, 3])
PHASES = Phases(12, 4, beta=0.3, schedule=eq.Alternating(tol=0))
RNG = np.random.default_rng(0)
X, LABELS = RNG.random((30, 4)), np.arange(30) % 3
Y = np.eye(3)[LABELS]
POSIX = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs POSIX processes")


def half_of_ep(dynamics: Dynamics, theta: Theta, x: Array, y: Array, phases: Phases) -> Update:
    """A rule of one's own, which a worker finds by its name."""
    update = eq.ep(dynamics, theta, x, y, phases)
    return Update({name: g / 2 for name, g in update.gradient.items()}, update.free)


def quartic(output: Array, target: Array) -> Array:
    return ((output - target) ** 4).sum(axis=1) / 4


def cubic(output: Array, target: Array) -> Array:
    return (output - target) ** 3


PLAIN = eq.DiscreteTime(NETWORK)
OWN_COST = eq.DiscreteTime(NETWORK, cost=eq.Cost("quartic", quartic, cubic))


def theta_of(dynamics: Dynamics) -> Theta:
    return dynamics.network.init(np.random.default_rng(1), np.float64)


def assert_close(a: Theta, b: Theta) -> None:
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_allclose(a[name], b[name], rtol=0, atol=1e-14, err_msg=name)


# --- the same result


@pytest.mark.parametrize("workers", [2, 3])
@pytest.mark.parametrize(
    "rule, dynamics",
    [(eq.ep, PLAIN), (half_of_ep, PLAIN), (eq.ep, OWN_COST), (eq.bptt, eq.RealTime(NETWORK))],
    ids=["ep", "own rule", "own cost", "bptt, real time"],
)
def test_a_shared_rule_equals_the_rule(workers: int, rule: Any, dynamics: Dynamics) -> None:
    """Without a tolerance the samples do not depend on each other. The sums have another order."""
    theta = theta_of(dynamics)
    with share(rule, workers) as shared:
        for size in (1, 2, 5, 7, 30):
            one = rule(dynamics, theta, X[:size], Y[:size], PHASES)
            several = shared(dynamics, theta, X[:size], Y[:size], PHASES)
            assert_close(several.gradient, one.gradient)
            np.testing.assert_allclose(several.free.state[-1], one.free.state[-1], rtol=0, atol=1e-15)
            outputs = shared.outputs(X[:size], dynamics, theta, PHASES)
            expected = eq.outputs(dynamics, theta, X[:size], PHASES)
            np.testing.assert_allclose(outputs, expected, rtol=0, atol=1e-15)
            assert several.free.steps == one.free.steps
            assert several.free.converged == one.free.converged


@pytest.mark.parametrize("start_method", ["spawn", "forkserver"])
def test_each_start_method(start_method: str) -> None:
    if start_method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {start_method} here")
    with share(half_of_ep, 2, start_method) as shared:
        several = shared(OWN_COST, theta_of(OWN_COST), X, Y, PHASES)
    assert_close(several.gradient, half_of_ep(OWN_COST, theta_of(OWN_COST), X, Y, PHASES).gradient)


def test_training_with_a_shared_rule_equals_training_without() -> None:
    kept: list[Any] = []
    settings: dict[str, Any] = {"phases": PHASES, "epochs": 2, "batch_size": 7, "validation": (X, LABELS)}
    for rule in (half_of_ep, None):
        if rule is None:
            with share(half_of_ep, 2) as rule:
                kept.append(eq.fit(PLAIN, X, LABELS, rule=rule, **settings))
        else:
            kept.append(eq.fit(PLAIN, X, LABELS, rule=rule, **settings))
    assert_close(kept[0].theta, kept[1].theta)
    for name in ("train_error", "validation_error", "steps"):
        assert kept[0].history[name] == kept[1].history[name]


def test_the_first_phase_of_a_batch_is_that_of_its_slowest_part() -> None:
    """With one step fewer than the slowest part needs, the batch does not converge."""
    theta, schedule = theta_of(PLAIN), eq.Alternating(tol=1e-4)
    x = X.copy()
    x[20:] *= 3  # so that the parts differ
    parts = [relax(PLAIN, theta, part, schedule=schedule).steps for part in np.array_split(x, 3)]
    assert min(parts) < max(parts)
    with share(eq.ep, 3) as shared:
        for fewer, converged in ((0, True), (1, False)):
            phases = Phases(2 * (max(parts) - fewer), 4, 0.3, schedule=schedule)
            free = shared(PLAIN, theta, x, Y, phases).free
            assert (free.steps, free.converged) == (max(parts) - fewer, converged)


def test_one_worker_is_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "ProcessPoolExecutor", None)
    with share(eq.ep, 1) as shared:
        found = shared(PLAIN, theta_of(PLAIN), X, Y, PHASES)
    assert_close(found.gradient, eq.ep(PLAIN, theta_of(PLAIN), X, Y, PHASES).gradient)


@pytest.mark.parametrize("kind", [eq.DiscreteTime, eq.RealTime])
@pytest.mark.parametrize("activation", ACTIVATIONS.values(), ids=ACTIVATIONS)
def test_dynamics_can_be_sent_to_a_worker(activation: eq.Activation, kind: Any) -> None:
    dynamics = kind(NETWORK, activation)
    assert pickle.loads(pickle.dumps(dynamics)) == dynamics


def blas_threads(part: Array) -> set[int]:
    """Return the numbers of threads that the loaded BLAS libraries may use in this process."""
    return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}


@pytest.mark.parametrize("workers", [1, 2])
def test_each_worker_has_one_blas_thread(workers: int) -> None:
    with threadpool_limits(2, "blas"):
        before = blas_threads(X)
        with share(eq.ep, workers) as shared:
            assert shared.map(blas_threads, (X,)) == workers * [{1}]
        assert blas_threads(X) == before == {2}


def test_it_works_in_a_thread() -> None:
    kept: list[Progress] = []

    def work() -> None:
        with share(eq.ep, 2) as rule:
            kept.append(eq.fit(PLAIN, X, LABELS, rule=rule, phases=PHASES, epochs=1))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(20)
    assert_close(kept[0].theta, eq.fit(PLAIN, X, LABELS, phases=PHASES, epochs=1).theta)


# --- what is refused


@pytest.mark.parametrize("rule", [eq.cep, eq.cvf])
def test_rules_that_move_the_weights_are_refused_with_the_reason(rule: Any) -> None:
    with pytest.raises(ValueError, match="moves the weights by the mean over the batch"), share(rule, 2):
        pass


@pytest.mark.parametrize("workers", [0, -1, 1.5, True, "2"])
def test_a_number_of_workers_that_is_none_is_refused(workers: Any) -> None:
    with pytest.raises(ValueError, match="workers must be a positive integer, got"), share(eq.ep, workers):
        pass


def test_an_unknown_start_method_is_refused() -> None:
    wanted = r"start_method must be one of .*, got 'thread'"
    with pytest.raises(ValueError, match=wanted), share(eq.ep, 2, "thread"):
        pass
    with pytest.raises(TypeError, match="rule must be a function"), share("ep", 2):  # type: ignore[arg-type]
        pass


def test_what_cannot_be_sent_is_said() -> None:
    cost = eq.Cost("own", lambda a, b: quartic(a, b), lambda a, b: cubic(a, b))
    dynamics = eq.DiscreteTime(NETWORK, cost=cost)
    with share(eq.ep, 2) as shared, pytest.raises(ValueError, match=r"at the top level of a module, in a"):
        shared(dynamics, theta_of(dynamics), X, Y, PHASES)


def failing(dynamics: Dynamics, theta: Theta, x: Array, y: Array, phases: Phases) -> Update:
    raise RuntimeError(f"my own error with {len(x)} samples")


def test_an_error_of_the_rule_is_that_of_the_caller() -> None:
    with share(failing, 2) as shared, pytest.raises(RuntimeError, match="my own error with 15 samples"):
        shared(PLAIN, theta_of(PLAIN), X, Y, PHASES)


def test_after_the_block_the_rule_says_that_its_processes_have_ended() -> None:
    with share(eq.ep, 2) as shared:
        pass
    with pytest.raises(RuntimeError, match="have ended: use the rule inside"):
        shared(PLAIN, theta_of(PLAIN), X, Y, PHASES)


# --- the end of a worker, and of its parent


def alive(pid: int) -> bool:
    """Return whether a process runs. One that has ended and was not waited for does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def wait_until_dead(pids: list[int], seconds: float = 5.0) -> list[int]:
    """Return the processes that still run after so many seconds."""
    end = time.monotonic() + seconds
    while (left := [pid for pid in pids if alive(pid)]) and time.monotonic() < end:
        time.sleep(0.02)
    return left


def pid_of(part: Array) -> int:
    time.sleep(0.1)  # so that no worker does two pieces
    return os.getpid()


@POSIX
@pytest.mark.parametrize("idle", [False, True])
def test_a_killed_worker_ends_the_run_and_keeps_the_progress(idle: bool) -> None:
    """It is killed between two batches, or while it works."""
    progress = Progress.begin(NETWORK, eq.SGD(0.1), dtype=np.float64)
    pids: list[int] = []

    def on_batch(p: Progress) -> None:
        if (p.epoch, p.batch) == (0, 2):
            if idle:
                os.kill(pids[1], signal.SIGKILL)
            else:
                threading.Timer(0.02, os.kill, (pids[1], signal.SIGKILL)).start()

    settings: dict[str, Any] = {"phases": PHASES, "batch_size": 3}
    with pytest.raises(WorkerDied, match="a worker process was killed"), share(eq.ep, 3) as rule:
        pids += rule.map(pid_of, (X,))
        eq.fit(PLAIN, X, LABELS, rule=rule, progress=progress, epochs=1000, on_batch=on_batch, **settings)
    assert not wait_until_dead(pids[1:])
    assert (progress.epoch, progress.batch) >= (0, 2)  # the other worker may complete a few more
    done = progress.epoch + 1
    resumed = eq.fit(PLAIN, X, LABELS, progress=progress, epochs=done, **settings)
    assert_close(resumed.theta, eq.fit(PLAIN, X, LABELS, epochs=done, **settings).theta)


@pytest.mark.usefixtures("ctrl_c")
def test_workers_leave_ctrl_c_to_their_parent() -> None:
    with ProcessPoolExecutor(1, initializer=processes.begin_worker) as pool:
        assert pool.submit(signal.getsignal, signal.SIGINT).result() == signal.SIG_IGN


HEAD = """
import os, signal, sys, time
import numpy as np
import eqprop_np as eq
from eqprop_np.processes import share
X, y = np.random.default_rng(0).random((30, 4)), np.arange(30) % 3
dynamics, phases = eq.DiscreteTime(eq.chain([4, 5, 3])), eq.Phases(12, 4, beta=0.3)

def train(method, **settings):
    with share(eq.ep, 3, method) as rule:
        print("training", flush=True)
        return eq.fit(dynamics, X, y, rule=rule, phases=phases, epochs=10**6, **settings)
"""


STARTED: list[subprocess.Popen[str]] = []


@pytest.fixture(autouse=True)
def end_scripts() -> Iterator[None]:
    """End the scripts that a failed test leaves behind, with their workers."""
    yield
    while STARTED:
        for pid in session(STARTED.pop().pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def start(tmp_path: Path, body: str) -> subprocess.Popen[str]:
    """Start a script in a session of its own, as a terminal does."""
    path = tmp_path / "script.py"
    path.write_text(HEAD + textwrap.dedent(body), "utf-8")
    root = str(Path(eq.__file__).parents[1])
    script = subprocess.Popen(
        [sys.executable, str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        env=os.environ | {"PYTHONPATH": root},
        start_new_session=True,
    )
    STARTED.append(script)
    return script


def session(leader: int) -> list[int]:
    """Return the running processes of a session. Workers leave the process group of their parent."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text("utf-8").rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[3]) == leader and fields[0] not in "ZX":
                found.append(int(entry.name))
    return found


@POSIX
def test_a_script_without_a_guard_gets_one_sentence(tmp_path: Path) -> None:
    script = start(tmp_path, "train('spawn')")
    output, errors = script.communicate(timeout=20)
    assert script.returncode == 1
    assert output == ""
    assert errors == (
        "error: each worker process imports this script, so its code must stand under "
        'if __name__ == "__main__":\n'
    )
    assert not wait_until_dead(session(script.pid))


@POSIX
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["Ctrl-C", "killed"])
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_the_workers_end_with_their_parent(tmp_path: Path, method: str, number: int) -> None:
    """Ctrl-C in a terminal goes to the parent's process group. The workers print nothing."""
    script = start(
        tmp_path,
        f"""
        if __name__ == "__main__":
            signal.signal(signal.SIGINT, signal.default_int_handler)
            try:
                train({method!r})
            except KeyboardInterrupt:
                print("interrupted", file=sys.stderr)
        """,
    )
    assert script.stdout is not None
    script.stdout.readline()
    assert len(session(script.pid)) > 2
    if number == signal.SIGINT:
        os.killpg(script.pid, number)
    else:
        script.send_signal(number)
    _, errors = script.communicate(timeout=20)
    if number == signal.SIGINT:
        assert errors == "interrupted\n"
    else:  # after a kill Python's own resource tracker says that it cleans up
        assert "Traceback" not in errors
    assert not wait_until_dead(session(script.pid))


@POSIX
def test_ctrl_c_while_the_workers_start_prints_no_traceback_of_theirs(tmp_path: Path) -> None:
    script = start(
        tmp_path,
        """
        if __name__ == "__main__":
            signal.signal(signal.SIGINT, signal.default_int_handler)
            print("ready", flush=True)
            try:
                train("spawn")
            except KeyboardInterrupt:
                print("interrupted", file=sys.stderr)
        """,
    )
    assert script.stdout is not None
    script.stdout.readline()
    time.sleep(0.25)
    os.killpg(script.pid, signal.SIGINT)
    _, errors = script.communicate(timeout=20)
    assert errors == "interrupted\n"
    assert not wait_until_dead(session(script.pid))
