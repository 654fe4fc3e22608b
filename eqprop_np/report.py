"""What a run shows and leaves behind: lines, a progress bar, and the files of its directory.

``config.json``, ``metrics.jsonl`` (a line per epoch), ``checkpoint.npz``, and at the end
``summary.json`` and ``curves.png``.
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
    """Tells of one run as it goes.

    Parameters
    ----------
    directory : the run's, which exists.
    quiet : print the last line alone.
    """

    def __init__(self, directory: Path, configuration: Configuration, quiet: bool) -> None:
        self.directory = directory
        self.configuration = configuration
        self.quiet = quiet

    def say(self, line: str) -> None:
        if not self.quiet:
            print(line, flush=True)

    def begin(self, progress: Progress) -> None:
        """The resolved configuration, and the lines of epochs done before a resume."""
        for name, value in self.configuration.to_json().items():
            self.say(f"{name}: {json.dumps(value, ensure_ascii=False)}")
        self.say(f"run directory: {self.directory}")
        write_json(self.directory / "config.json", self.configuration.to_json())
        with replacing(self.directory / "metrics.jsonl") as file:
            file.writelines(json.dumps(record) + "\n" for record in progress.history)

    @contextmanager
    def bar(self, progress: Progress, size: int) -> Iterator[Callable[[Progress], bool]]:
        """The hook of `train` for each batch: it moves the bar, and asks to stop after Ctrl-C.

        The bar stands on standard error, and only on a terminal.
        """
        interrupted = False

        def interrupt(number: int, frame: Any) -> None:
            nonlocal interrupted
            interrupted = True
            signal.signal(signal.SIGINT, previous)  # a second Ctrl-C ends it at once

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
        """The hook of `train` for each epoch: a line, a record, the checkpoint."""
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
        """The summary, the picture and the last line."""
        summary = summarize(self.configuration, progress)
        write_json(self.directory / "summary.json", summary)
        self._plot(progress)
        print(
            f"{summary['preset']} on {summary['dataset']}: {self.configuration.tested} error "
            f"{summary['test_error']:.2f} % after {summary['epochs']} epochs",
            flush=True,
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
    """A run in numbers: what was asked, what came out, and by which versions."""
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
    """Write a JSON file, whole or not at all."""
    with replacing(path) as file:
        json.dump(content, file, indent=1, ensure_ascii=False)
        file.write("\n")


def git_commit() -> str | None:
    """The commit of the code, marked where files differ from it; None outside a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
