"""Several processes share each batch: a wrapper that turns a rule into a rule.

    with share(ep, workers=2) as rule:
        fit(dynamics, X, y, rule=rule, phases=phases)

The first worker is the calling process. Each has one BLAS thread, because the matrix products of a small
batch are too short to be shared by threads.
"""

import multiprocessing
import os
import signal
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
from eqprop_np.dynamics import Dynamics
from eqprop_np.network import Theta
from eqprop_np.relaxation import Relaxation
from eqprop_np.rules import LearningRule, learning_rule
from eqprop_np.rules.phases import Phases, Rule, Update, free_phase


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
        shares = [len(piece.free.state[-1]) / len(x) for piece in pieces]
        gradient = {
            name: sum(share * piece.gradient[name] for share, piece in zip(shares, pieces, strict=True))
            for name in theta
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
        The platform's by default. With "spawn" (Windows, macOS) a script needs the guard
        ``if __name__ == "__main__":`` around its code.

    Raises
    ------
    ValueError
        If the rule moves weights in its second phase.
    WorkerDied
        If a worker ends before its work is done.
    """
    record = learning_rule(rule)
    if record.moves_weights:
        raise ValueError(
            f"rule {record.name} moves the weights by the mean over the batch at each step, so {workers} "
            "processes cannot share a batch: use 1 worker"
        )
    if isinstance(workers, bool) or not isinstance(workers, int | np.integer) or workers < 1:
        raise ValueError(f"workers must be a positive integer, got {workers!r}")
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        os._exit(1)  # a spawned worker imports the script again; the parent says what to do
    context = multiprocessing.get_context(start_method)
    with (
        ProcessPoolExecutor(max(workers - 1, 1), context, initializer=begin_worker) as pool,
        threadpool_limits(1, "blas"),
    ):

        def run(function: Callable[..., Any], arrays: tuple[Array, ...], *arguments: Any) -> list[Any]:
            pieces = list(zip(*(np.array_split(a, min(workers, len(a))) for a in arrays), strict=True))
            try:
                futures = [pool.submit(function, *piece, *arguments) for piece in pieces[1:]]
                return [function(*pieces[0], *arguments), *(future.result() for future in futures)]
            except BrokenProcessPool:
                raise WorkerDied(
                    "a worker process was killed, perhaps because memory ran out: the training state is "
                    "that of the last complete batch, so resume with fewer workers or smaller batches"
                ) from None

        if workers > 1:
            try:
                pool.submit(os.getpid).result()
            except BrokenProcessPool:
                raise WorkerDied(
                    "the worker processes could not start: in a script, put the code under "
                    'if __name__ == "__main__":'
                ) from None
        yield SharedRule(record, run)


def begin_worker() -> None:
    """Prepare a worker process: one BLAS thread, and it ends when its parent ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    threadpool_limits(1, "blas")
    np.seterr(over="ignore", invalid="ignore")  # `fit` finds what results from it
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
