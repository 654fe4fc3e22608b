"""Report on a run: print lines, show a progress bar, and write the files of its directory.

The files are ``config.json``, ``metrics.jsonl`` (one line per epoch) and ``checkpoint.npz``. At the end
of the run, ``summary.json`` and ``curves.png`` are added.
"""

import json
import platform
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import scipy
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from tqdm import tqdm

from eqprop_np import checkpoint
from eqprop_np.checkpoint import Configuration, replacing
from eqprop_np.training import Progress


class Report:
    """Report on one run while it trains.

    Parameters
    ----------
    directory : Path
        The directory of the run. It must exist.
    configuration : Configuration
        The settings of the run.
    quiet : bool
        Whether to print only the last line, and to show no progress bar.
    """

    def __init__(self, directory: Path, configuration: Configuration, quiet: bool) -> None:
        self.directory = directory
        self.configuration = configuration
        self.quiet = quiet

    def say(self, line: str) -> None:
        """Print a line, unless the report is quiet."""
        if not self.quiet:
            print(line, flush=True)

    def begin(self, progress: Progress) -> None:
        """Print the configuration, and write ``config.json`` and ``metrics.jsonl``.

        Parameters
        ----------
        progress : Progress
            The state of the run. If the run is resumed, its finished epochs are written again.
        """
        for name, value in self.configuration.to_json().items():
            self.say(f"{name}: {json.dumps(value, ensure_ascii=False)}")
        self.say(f"run directory: {self.directory}")
        write_json(self.directory / "config.json", self.configuration.to_json())
        with replacing(self.directory / "metrics.jsonl") as file:
            file.writelines(json.dumps(record) + "\n" for record in progress.history)

    @contextmanager
    def bar(self, progress: Progress, size: int) -> Iterator[Callable[[Progress], bool]]:
        """Show a progress bar, and catch the first Ctrl-C while the ``with`` block runs.

        The bar is written to standard error, and only if that is a terminal. The second Ctrl-C is
        handled as usual.

        Parameters
        ----------
        progress : Progress
            Not used. The hook receives the progress of each batch.
        size : int
            The number of training images.

        Yields
        ------
        callable
            The ``on_batch`` hook of `train`. It updates the bar, and returns True after Ctrl-C.
        """
        interrupted = False

        def interrupt(number: int, frame: Any) -> None:
            nonlocal interrupted
            interrupted = True
            signal.signal(signal.SIGINT, previous)  # a second Ctrl-C stops the run immediately

        experiment = self.configuration.experiment
        batches = -(-size // experiment.batch_size)
        previous = signal.signal(signal.SIGINT, interrupt)
        hidden = self.quiet or not sys.stderr.isatty()
        try:
            with tqdm(total=batches, disable=hidden, leave=False, unit="batch") as bar:

                def on_batch(progress: Progress) -> bool:
                    bar.n = progress.batch
                    if not hidden:
                        error = 100 * progress.errors / min(progress.batch * experiment.batch_size, size)
                        bar.set_description(f"epoch {progress.epoch + 1}/{experiment.epochs}", refresh=False)
                        bar.set_postfix_str(f"error {error:.2f} %", refresh=False)
                        bar.update(0)
                    return interrupted

                yield on_batch
        finally:
            signal.signal(signal.SIGINT, previous)

    def epoch(self, progress: Progress) -> None:
        """Save the checkpoint, add a line to ``metrics.jsonl``, and print the errors of the epoch.

        This is the ``on_epoch`` hook of `train`.

        Parameters
        ----------
        progress : Progress
            The state of the run after the epoch.
        """
        record, tested = progress.history[-1], self.configuration.tested
        checkpoint.save(self.directory / "checkpoint.npz", self.configuration, progress)
        with open(self.directory / "metrics.jsonl", "a") as file:
            file.write(json.dumps(record) + "\n")
        self.say(
            f"epoch {record['epoch']}/{self.configuration.experiment.epochs}: "
            f"train error {record['train_error']:.2f} %, {tested} error {record['test_error']:.2f} %, "
            f"{record['free_steps']:.1f} steps, {record['seconds']:.0f} s"
        )

    def end(self, progress: Progress) -> None:
        """Write ``summary.json`` and ``curves.png``, and print the last line.

        If a free phase of the last epoch did not converge, print the share of such phases before it.

        Parameters
        ----------
        progress : Progress
            The state of the run after its last epoch.
        """
        summary = summarize(self.configuration, progress)
        write_json(self.directory / "summary.json", summary)
        self._plot(progress)
        self._say_not_converged(progress.history[-1])
        print(
            f"{summary['preset']} on {summary['dataset']}: {self.configuration.tested} error "
            f"{summary['test_error']:.2f} % after {summary['epochs']} epochs",
            flush=True,
        )

    def _say_not_converged(self, record: dict[str, float]) -> None:
        """Print the share of the free phases of an epoch that did not converge, unless it is 0 or unknown."""
        experiment, share = self.configuration.experiment, 1 - record.get("converged", 1)
        if share > 0:
            self.say(
                f"in the last epoch {100 * share:.3g} % of the free phases did not converge within "
                f"T = {experiment.free_steps} steps to tol {experiment.tol}: "
                "try a larger --free-steps or --tol"
            )

    def _plot(self, progress: Progress) -> None:
        history = progress.history
        epochs = [record["epoch"] for record in history]
        figure = Figure(figsize=(5, 3.2), layout="constrained")
        axes = figure.subplots()
        for key, label, style in (
            ("train_error", "training", "--"),
            ("test_error", self.configuration.tested, "-"),
        ):
            axes.plot(epochs, [record[key] for record in history], style, marker="o", ms=3, label=label)
        axes.set(
            xlabel="epoch",
            ylabel="error (%)",
            yscale="log",
            title=f"{self.configuration.experiment.name} on {self.configuration.dataset}",
        )
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(frameon=False)
        with replacing(self.directory / "curves.png", "wb") as file:
            figure.savefig(file, format="png", dpi=150)


def summarize(configuration: Configuration, progress: Progress) -> dict[str, Any]:
    """Return the settings, the results and the software versions of a run.

    Parameters
    ----------
    configuration : Configuration
        The settings of the run.
    progress : Progress
        The state of the run, after at least one epoch.

    Returns
    -------
    dict
        The content of ``summary.json``. Errors are in percent, ``seconds`` is the total time of
        training and evaluation, and ``angle`` is in degrees. ``converged`` in a record of the history is
        the share of the batches whose free phase converged, from 0 to 1.
    """
    last = progress.history[-1]
    return {
        "preset": configuration.experiment.name,
        "rule": configuration.experiment.rule,
        "dataset": configuration.dataset,
        "train_size": configuration.train_size,
        "epochs": progress.epoch,
        "seed": configuration.seed,
        "test_error": last["test_error"],
        "tested_on": "held-out training images" if configuration.validation else "test set",
        "train_error": last["train_error"],
        "angle": progress.angle,
        "seconds": last["seconds"],
        "versions": {
            "python": platform.python_version(),
            "numpy": np.__version__,
            "scipy": scipy.__version__,
            "matplotlib": matplotlib.__version__,
        },
        "git_commit": git_commit(),
        "configuration": configuration.to_json(),
        "history": progress.history,
    }


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file atomically.

    Parameters
    ----------
    path : Path
        The file to write. After an error it is unchanged.
    content : dict
        The values to write.
    """
    with replacing(path) as file:
        json.dump(content, file, indent=1, ensure_ascii=False)
        file.write("\n")


def git_commit() -> str | None:
    """Return the git commit of the code, with "-dirty" appended if files differ from it.

    Returns
    -------
    str or None
        The hash or tag of the commit. None if the code is not in a git clone or git fails.
    """
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
