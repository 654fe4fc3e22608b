"""Several processes share each batch: a wrapper that turns a rule into a rule.

    if __name__ == "__main__":
        with share(ep, workers=2) as rule:
            fit(dynamics, X, y, rule=rule, phases=phases)

The first worker is the calling process. Each has one BLAS thread, because the matrix products of a small
batch are too short to be shared by threads.

A batch takes as long as its slower part. So two workers are less than twice as fast as one (the benchmark
prints by how much): half a batch takes more than half the time of a whole one, because its matrix products
are smaller, one worker waits for the other, and θ and the gradients are sent. If another process keeps one of
two cores busy, two workers gain nothing: the part on that core takes twice as long. The threads of OpenBLAS
keep it busy for 0.1 s after a matrix product of several threads.
"""

import multiprocessing
import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from eqprop_np.activations import Array
from eqprop_np.checks import check_integer
from eqprop_np.dynamics import Dynamics
from eqprop_np.network import Theta
from eqprop_np.relaxation import Relaxation
from eqprop_np.rules import LearningRule, learning_rule
from eqprop_np.rules.phases import Phases, Rule, Update, free_phase

UNGUARDED = 78  # exit code of a worker that imported a script without a guard
GUARD = 'if __name__ == "__main__":'


class WorkerDied(RuntimeError):
    """A worker process ended before its work was done."""


@dataclass(frozen=True)
class SharedRule:
    """A rule whose batches are shared by several processes. `share` makes one.

    Parameters
    ----------
    rule : LearningRule
        The rule of each process.
    map : callable
        Maps a function over pieces of (x, y), one per process.
    """

    rule: LearningRule
    map: Callable[..., list[Any]]

    def __call__(self, dynamics: Dynamics, theta: Theta, x: Array, y: Array, phases: Phases) -> Update:
        """Return the update of the whole batch. Its first phase holds the state only."""
        pieces = self.map(_update, (x, y), self.rule, dynamics, theta, phases)
        if len(pieces) == 1:
            return pieces[0]
        shares = [len(piece.free.state[-1]) / len(x) for piece in pieces]
        gradient = {
            name: sum(share * piece.gradient[name] for share, piece in zip(shares, pieces, strict=True))
            for name in pieces[0].gradient
        }
        return Update(gradient, _joined([piece.free for piece in pieces]))

    def outputs(self, x: Array, dynamics: Dynamics, theta: Theta, phases: Phases) -> Array:
        """Return the scores of the classes at the end of the first phase: the output s^N, or a readout's."""
        return np.concatenate(self.map(output, (x,), dynamics, theta, phases))


def output(x: Array, dynamics: Dynamics, theta: Theta, phases: Phases) -> Array:
    """Return the scores of the classes at the end of the first phase: the output s^N, or a readout's."""
    _, free = free_phase(dynamics, theta, x, phases)
    return dynamics.scores(theta, free.state)


def _update(
    x: Array, y: Array, rule: LearningRule, dynamics: Dynamics, theta: Theta, phases: Phases
) -> Update:
    update = rule.fastest(dynamics.network)(dynamics, theta, x, y, phases)
    return Update(update.gradient, replace(update.free, activities=(), switches={}, trajectory=()))


def _joined(parts: list[Relaxation]) -> Relaxation:
    """Return the first phase of the whole batch: as long as its longest part."""
    longest = max(parts, key=lambda part: part.steps)
    state = tuple(np.concatenate(values) for values in zip(*(part.state for part in parts), strict=True))
    return replace(longest, state=state, converged=all(part.converged for part in parts))


@contextmanager
def share(rule: Rule | LearningRule, workers: int, start_method: str | None = None) -> Iterator[SharedRule]:
    """Start worker processes and yield the rule that shares each batch among them.

    Parameters
    ----------
    rule : callable or LearningRule
        A rule that does not move weights in its second phase.
    workers : int
        The number of processes, this one included.
    start_method : {"fork", "spawn", "forkserver"}, optional
        The platform's by default. Unless it is "fork" (not on Windows and macOS), a script needs the guard
        ``if __name__ == "__main__":`` around its code. Without it the script ends with a message.

    Raises
    ------
    ValueError
        If the rule moves weights in its second phase, or if the rule, the cost or the activation cannot be
        sent to a worker, because it is not a function of a module.
    WorkerDied
        If a worker ends before its work is done.
    """
    record = learning_rule(rule)
    check_integer("workers", workers, least=1)
    if record.moves_weights:
        raise ValueError(
            f"rule {record.name} moves the weights by the mean over the batch at each step, so {workers} "
            "processes cannot share a batch: use the rule without share"
        )
    methods = multiprocessing.get_all_start_methods()
    if start_method is not None and start_method not in methods:
        raise ValueError(f"start_method must be one of {', '.join(methods)}, got {start_method!r}")
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        os._exit(UNGUARDED)  # this is a worker that imports the script; its parent says what to do
    with threadpool_limits(1, "blas"):
        if workers == 1:
            yield SharedRule(record, lambda function, arrays, *arguments: [function(*arrays, *arguments)])
            return
        context = multiprocessing.get_context(start_method)
        with ProcessPoolExecutor(workers - 1, context, initializer=begin_worker) as pool:
            _start(pool, workers - 1)
            yield SharedRule(record, _Map(pool, workers))


@dataclass(frozen=True)
class _Map:
    """Maps a function over pieces of arrays, one piece in this process and one in each process of a pool."""

    pool: ProcessPoolExecutor
    workers: int

    def __call__(self, function: Callable[..., Any], arrays: tuple[Array, ...], *arguments: Any) -> list[Any]:
        split = (np.array_split(array, min(self.workers, len(array))) for array in arrays)
        mine, *others = zip(*split, strict=True)
        work = _packed(function, arguments) if others else b""
        try:
            futures = [self.pool.submit(_call, piece, work) for piece in others]
            return [function(*mine, *arguments), *(future.result() for future in futures)]
        except BrokenProcessPool:
            raise WorkerDied(
                "a worker process was killed, perhaps because memory ran out: the training state is "
                "that of the last complete batch, so resume with fewer workers or smaller batches"
            ) from None
        except RuntimeError as error:
            if "after shutdown" not in str(error):
                raise
            raise RuntimeError(
                "the worker processes have ended: use the rule inside `with share(...)`"
            ) from None


def _packed(function: Callable[..., Any], arguments: tuple[Any, ...]) -> bytes:
    """Return what is sent to each worker, or raise a ValueError if a part of it cannot be sent."""
    try:
        return pickle.dumps((function, arguments), pickle.HIGHEST_PROTOCOL)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise _not_sent(error) from None


def _call(piece: tuple[Array, ...], work: bytes) -> Any:
    """Do a piece of the work, in a worker."""
    try:
        function, arguments = pickle.loads(work)
    except (AttributeError, ImportError) as error:  # a function that was defined in a notebook
        raise _not_sent(error) from None
    return function(*piece, *arguments)


def _not_sent(error: Exception) -> ValueError:
    return ValueError(
        f"the rule or the dynamics cannot be sent to a worker process ({error}): define the functions of the "
        "rule, the cost and the activation at the top level of a module, in a file of its own"
    )


def _start(pool: ProcessPoolExecutor, count: int) -> None:
    """Start all processes of the pool, or say why they cannot start."""
    others = set(multiprocessing.active_children())
    with without_ctrl_c():
        futures = [pool.submit(os.getpid) for _ in range(count)]
    workers = set(multiprocessing.active_children()) - others
    try:
        for future in futures:
            future.result()
    except BrokenProcessPool:
        pool.shutdown()
        if any(worker.exitcode == UNGUARDED for worker in workers):
            print(
                f"error: each worker process imports this script, so its code must stand under {GUARD}",
                file=sys.stderr,
            )
            raise SystemExit(1) from None
        raise WorkerDied(
            f"the worker processes ended while they started: in a script, put the code under {GUARD}, and "
            "see the messages of the workers above"
        ) from None


@contextmanager
def without_ctrl_c() -> Iterator[None]:
    """Start processes that Ctrl-C does not interrupt, so that they do not print a traceback.

    They inherit the mask of this thread. Windows has no such mask.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def begin_worker() -> None:
    """Prepare a worker process: one BLAS thread, and it ends when its parent ends.

    It leaves the process group of its parent, because a terminal or a batch system sends signals to a whole
    group, and the parent handles them. SIGTERM must end a worker: the pool sends it to the other workers when
    one is killed, and would wait for ever if they ignored it.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)
        for number in (signal.SIGTERM, signal.SIGHUP):  # a forked worker has its parent's handlers
            signal.signal(number, signal.SIG_DFL)
    threadpool_limits(1, "blas")
    np.seterr(over="ignore", invalid="ignore")  # `fit` finds what results from it
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
