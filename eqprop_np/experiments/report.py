"""Report on a run: print lines, save checkpoints, and write the files of its directory.

The files are ``config.json``, ``metrics.jsonl`` (one line per epoch) and ``checkpoint.npz``. At the end
of the run, ``summary.json`` and ``curves.png`` are added.
"""

import json
import math
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy
from threadpoolctl import threadpool_info

from eqprop_np.activations import Array
from eqprop_np.dynamics import Dynamics, linear_step
from eqprop_np.experiments import checkpoint
from eqprop_np.experiments.configuration import Configuration
from eqprop_np.experiments.console import say
from eqprop_np.files import naming, read_text, replacing
from eqprop_np.network import Theta
from eqprop_np.optimizers import Exponential, RateSchedule, Steps, Warmup
from eqprop_np.relaxation import Schedule, Synchronous
from eqprop_np.rules.phases import Phases, free_phase
from eqprop_np.rules.vector_field import weight_angle
from eqprop_np.samples import Samples
from eqprop_np.training import EVALUATION_BATCH, Progress

if TYPE_CHECKING:  # matplotlib is imported at the end of a run: the commands start in half the time
    from matplotlib.axes import Axes

FILES = frozenset({"config.json", "metrics.jsonl", "checkpoint.npz", "summary.json", "curves.png"})
SAVE_EVERY = 60.0  # seconds between two checkpoints within an epoch
SLOPE = 0.01  # a neuron with a smaller slope is saturated
SATURATED = 0.9  # the share of saturated neurons in a layer that is reported


class Report:
    """Report on one run while it trains.

    Parameters
    ----------
    directory : Path
        The directory of the run. It must exist.
    configuration : Configuration
    quiet : bool
        Print only the last line.
    """

    def __init__(self, directory: Path, configuration: Configuration, quiet: bool) -> None:
        self.directory = directory
        self.configuration = configuration
        self.quiet = quiet
        self.saved = time.monotonic()
        self.commits: list[str | None] = []

    def say(self, line: str) -> None:
        """Print a line, unless the report is quiet. A progress bar stays below it."""
        if not self.quiet:
            say(line)

    def begin(self, progress: Progress) -> None:
        """Print the configuration, and write ``config.json`` and ``metrics.jsonl``.

        If the run is resumed, its complete epochs are written again, and the commit of the code is added to
        those that ``config.json`` already names.
        """
        config = self.directory / "config.json"
        if config.exists():
            self.commits = _commits(config)
        if (commit := git_commit()) not in self.commits:
            self.commits.append(commit)
        for line in describe(self.configuration):
            self.say(line)
        self.say(f"run directory: {self.directory}")
        write_json(config, self.configuration.to_json() | {"git_commits": self.commits})
        with replacing(self.directory / "metrics.jsonl") as file:
            file.writelines(json.dumps(record) + "\n" for record in records(progress))

    def batch(self, progress: Progress) -> None:
        """Save a checkpoint if the last one is a minute old and training has not diverged."""
        if time.monotonic() - self.saved > SAVE_EVERY and all(
            np.isfinite(value).all() for value in progress.theta.values()
        ):
            self.save(progress)

    def save(self, progress: Progress) -> None:
        """Save a checkpoint."""
        checkpoint.save(self.directory / "checkpoint.npz", self.configuration, progress)
        self.saved = time.monotonic()

    def epoch(self, progress: Progress) -> None:
        """Save the checkpoint, add a line to ``metrics.jsonl``, and print the errors of the epoch."""
        record = records(progress)[-1]
        self.save(progress)
        metrics = self.directory / "metrics.jsonl"
        with naming(metrics), open(metrics, "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        self.say(
            f"epoch {record['epoch']}/{self.configuration.experiment.training.epochs}: "
            f"train error {record['train_error']:.2f} %, {self.configuration.tested} error "
            f"{_errors(record)}, {record['steps']:.1f} steps, {record['seconds']:.0f} s"
        )

    def end(self, progress: Progress, test: Samples | None = None) -> None:
        """Write ``summary.json`` and ``curves.png``, and print the last line.

        Lines before it say the share of the free phases of the last epoch that did not converge, and whether
        the neurons are saturated for the samples ``test``, if these are given.
        """
        summary = summarize(self.configuration, progress, self.commits)
        write_json(self.directory / "summary.json", summary)
        try:
            self._plot(progress)
        except Exception as error:  # a picture must not cost the result
            print(f"curves.png could not be drawn ({error})", file=sys.stderr)
        self._say_not_converged(records(progress)[-1])
        if test is not None:
            self._say_saturated(progress, test)
        epochs = _count(summary["epochs"], "epoch")
        say(
            f"{summary['preset']} on {summary['dataset']}: {self.configuration.tested} error "
            f"{_errors(summary)} after {epochs}"
        )

    def _say_not_converged(self, record: dict[str, float]) -> None:
        """Print the share of the free phases of an epoch that did not converge, unless it is 0 or unknown."""
        phases, share = self.configuration.experiment.phases, 1 - record.get("converged", 1)
        if share > 0:
            self.say(
                f"in the last epoch {100 * share:.3g} % of the free phases did not converge within "
                f"T = {_count(phases.free_steps, 'step')} to tol {phases.schedule.tol}: "
                "try a larger --free-steps or --tol"
            )

    def _say_saturated(self, progress: Progress, test: Samples) -> None:
        """Print that a layer is saturated, if the error is also large.

        A trained network with hard sigmoids can have many saturated neurons and a small error.
        """
        configuration = self.configuration
        guessing = 100 * (1 - 1 / configuration.classes)
        if records(progress)[-1]["test_error"] < guessing / 3:
            return
        dynamics = configuration.experiment.build(configuration.image, configuration.classes)
        x = test[:EVALUATION_BATCH].inputs(dynamics.network, np.float32)
        shares = saturated(dynamics, progress.theta, x, configuration.experiment.phases)
        hidden = shares[:-1] or shares
        if (share := max(hidden)) > SATURATED:
            self.say(
                f"{100 * share:.0f} % of the neurons of layer {1 + hidden.index(share)} are saturated, so "
                "that they hardly learn: try smaller --learning-rates"
            )

    def _plot(self, progress: Progress) -> None:
        import matplotlib

        with matplotlib.rc_context({"text.usetex": False}):  # LaTeX may be missing
            self._draw(records(progress))

    def _draw(self, history: list[dict[str, float]]) -> None:
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator

        epochs = [record["epoch"] for record in history]
        figure = Figure(figsize=(5, 3.2), layout="constrained")
        axes = figure.subplots()
        tested, errors = self.configuration.tested, []
        for key, label, style in (
            ("train_error", "training", "--"),
            ("test_error", tested, "-"),
            ("average_test_error", f"{tested}, averaged weights", "-"),
        ):
            if key in history[-1]:
                values = [record[key] for record in history]
                axes.plot(epochs, values, style, marker="o", ms=3, label=label)
                errors += values
        axes.set(xlabel="epoch", ylabel="error (%)")
        title = f"{self.configuration.experiment.name} on {self.configuration.dataset}"
        axes.set_title(title, parse_math=False)  # the data's name is that of a directory
        _scale(axes, errors)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(frameon=False)
        with replacing(self.directory / "curves.png", "wb") as file:
            figure.savefig(file, format="png", dpi=150)


def _scale(axes: "Axes", errors: Sequence[float]) -> None:
    """Give errors in percent a logarithmic axis with plain numbers, which goes down to 0 if an error is 0."""
    from matplotlib.ticker import NullLocator

    positive = [error for error in errors if error > 0] or [1.0]
    low, high = min(positive), max(positive)
    powers = range(math.floor(math.log10(low)), 1 + math.ceil(math.log10(high)))
    steps = sorted(factor * 10.0**power for power in powers for factor in (1, 2, 5))
    first = max(step for step in steps if step <= low)
    last = min((step for step in steps if step >= high), default=high)
    ticks = [step for step in steps if first <= step <= last]
    if len(positive) < len(errors):
        axes.set_yscale("symlog", linthresh=first, linscale=0.3)
        axes.set_ylim(-0.15 * first, 1.15 * last)
        ticks = [0.0, *ticks]
    else:
        axes.set_yscale("log")
        axes.set_ylim(first / 1.15, 1.15 * last)
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.yaxis.set_minor_locator(NullLocator())


def saturated(dynamics: Dynamics, theta: Theta, x: Array, phases: Phases) -> list[float]:
    """Return for each layer the share of the neurons whose slope σ′ at the steady state is below 0.01.

    The largest slope of each activation is 1. A gradient hardly passes through a saturated neuron.
    """
    static, free = free_phase(dynamics, theta, x, phases)
    gains = linear_step(dynamics, theta, static, free.state).gain
    return [float((gain / dynamics.nudge_scale < SLOPE).mean()) for gain in gains]


def _errors(record: dict[str, Any]) -> str:
    """Return the test error and, if there is one, that of the averaged weights."""
    average = record.get("average_test_error")
    beside = "" if average is None else f" (averaged weights {average:.2f} %)"
    return f"{record['test_error']:.2f} %{beside}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def describe(configuration: Configuration) -> list[str]:
    """Return a few readable lines that say what a run does."""
    e, t, p = configuration.experiment, configuration.experiment.training, configuration.experiment.phases
    rates = " ".join(f"{rate:g}" for rate in t.learning_rates)
    names = ("kernel", "pool", "stride", "padding")
    sides = "".join(f", {name} {' '.join(map(str, getattr(e.layers, name)))}" for name in names)
    angle = f", ψ {e.psi or 0.0:g}°" if e.untied else ""
    epsilon = f", ε {e.epsilon:g}" if e.dynamics == "real-time" else ""
    epsilon += " as in the authors' code" if e.authors_code else ""
    extras = ("momentum", "weight_decay", "augment", "distort", "average")
    extra = "".join(f", {n.replace('_', ' ')} {getattr(t, n):g}" for n in extras if getattr(t, n))
    held_out = f", {configuration.validation} held out" if configuration.validation else ""
    size = "×".join(map(str, configuration.image))
    return [
        f"{e.name}: rule {e.rule}{angle}, {e.dynamics}{epsilon}, {e.activation}, hidden layers {e.layers}"
        f"{sides if e.layers.channels else ''}",
        f"data: {configuration.dataset}, {configuration.train_size} training images{held_out} of {size} "
        f"pixels, {configuration.classes} classes, seed {configuration.seed}",
        f"phases: T {p.free_steps}, K {p.nudged_steps}, β {p.beta:g} {p.estimate}, {_schedule(p.schedule)}",
        f"training: {_count(t.epochs, 'epoch')}, batches of {t.batch_size}, {t.optimizer}{extra}, "
        f"rates {rates} {_rate_schedule(t.rate_schedule)}, workers {t.workers}",
    ]


def _schedule(schedule: Schedule) -> str:
    if isinstance(schedule, Synchronous):
        return f"synchronous, tol {schedule.tol:g}"
    nudged = f" and {schedule.nudged_tol:g} (nudged)" if schedule.nudged_tol else ""
    each = " for each sample" if schedule.per_sample else ""
    return f"alternating, ω {schedule.omega:g}, tol {schedule.tol:g}{nudged}{each}"


def _rate_schedule(schedule: RateSchedule) -> str:
    """Return in words how the learning rates change."""
    if isinstance(schedule, Warmup):
        return f"rising for {_count(schedule.epochs, 'epoch')}, then {_rate_schedule(schedule.then)}"
    if isinstance(schedule, Steps):
        return f"times {schedule.decay:g} every {_count(schedule.every, 'epoch')}"
    if isinstance(schedule, Exponential):
        return "constant" if schedule.decay == 1 else f"times {schedule.decay:g} per epoch"
    return "falling to 0 as a cosine"


def records(progress: Progress) -> list[dict[str, float]]:
    """Return one dict for each epoch, as the files have them: "validation_error" is "test_error" in them."""
    return [
        {name.replace("validation_error", "test_error"): value for name, value in record.items()}
        for record in progress.records
    ]


def summarize(
    configuration: Configuration, progress: Progress, commits: list[str | None] | None = None
) -> dict[str, Any]:
    """Return the settings, the results and the software versions of a run.

    Errors are in percent. "weight_angle" is the one before training, "seconds" the total time of training
    and evaluation, "converged" the share of the first phases that converged, and "git_commits" are those of
    the start and of each resume.
    """
    import matplotlib

    history, experiment = records(progress), configuration.experiment
    network = experiment.build(configuration.image, configuration.classes).network
    start = network.init(np.random.default_rng(configuration.seed), psi=experiment.psi or 0.0)
    return {
        "preset": experiment.name,
        "rule": experiment.rule,
        "dataset": configuration.dataset,
        "train_size": configuration.train_size,
        "epochs": progress.epoch,
        "seed": configuration.seed,
        **{name: value for name, value in history[-1].items() if name.endswith("test_error")},
        "tested_on": "held-out training images" if configuration.validation else "test set",
        "train_error": history[-1]["train_error"],
        "weight_angle": weight_angle(network, start),
        "seconds": history[-1]["seconds"],
        "versions": {
            "python": platform.python_version(),
            "numpy": np.__version__,
            "scipy": scipy.__version__,
            "matplotlib": matplotlib.__version__,
            "blas": blas(),
        },
        "git_commit": (commits or [git_commit()])[0],
        "git_commits": commits or [git_commit()],
        "configuration": configuration.to_json(),
        "history": history,
    }


def is_config(path: Path) -> bool:
    """Return whether a run wrote this ``config.json``, and not a user for another purpose."""
    try:
        content = json.loads(read_text(path))
        del content["git_commits"]
        Configuration.from_json(content)
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return False
    return True


def _commits(config: Path) -> list[str | None]:
    """Return the commits that a ``config.json`` names; [None] if the file is old or damaged."""
    try:
        commits = json.loads(read_text(config))["git_commits"]
    except (OSError, ValueError, LookupError, TypeError):
        return [None]
    return commits if isinstance(commits, list) else [None]


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file, which is complete or not changed."""
    with replacing(path) as file:
        json.dump(content, file, indent=1, ensure_ascii=False)
        file.write("\n")


def blas() -> str:
    """Return the name, the version and the kernels of the library that makes NumPy's matrix products.

    Speed and rounding depend on its kernels, which it chooses for the processor.
    """
    for library in threadpool_info():
        if library["user_api"] == "blas":
            words = (library.get(key) for key in ("internal_api", "version", "architecture"))
            return " ".join(str(word) for word in words if word)
    return "unknown"


def git_commit() -> str | None:
    """Return the git commit of the code, with "-dirty" appended if files differ from it.

    It is None if the code is not tracked in a git clone, or if git fails.
    """
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        for command in (["ls-files", "--error-unmatch", __file__], ["describe", "--always", "--dirty"]):
            options = ["--abbrev=40"] if command[0] == "describe" else []
            done = subprocess.run(
                [*git, *command, *options], capture_output=True, encoding="utf-8", check=True, timeout=10
            )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
