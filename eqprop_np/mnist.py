"""Train one of the named experiments and print its test error: the main command.

``python -m eqprop_np.mnist --help`` lists its options.
"""

import argparse
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import fields, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from eqprop_np.activations import ACTIVATIONS
from eqprop_np.dynamics import Dynamics
from eqprop_np.experiments import checkpoint
from eqprop_np.experiments.checkpoint import CheckpointError
from eqprop_np.experiments.configuration import Configuration
from eqprop_np.experiments.console import EXIT_INTERRUPTED, BadInput, Parser, command
from eqprop_np.experiments.datasets import DataError, load
from eqprop_np.experiments.presets import (
    COSTS,
    EXPERIMENTS,
    OPTIMIZERS,
    PER_CONVOLUTION,
    Experiment,
    Layers,
    Training,
    spread,
)
from eqprop_np.experiments.report import FILES, Report, is_config, records
from eqprop_np.files import locked
from eqprop_np.optimizers import Cosine, Exponential, RateSchedule, Steps, Warmup
from eqprop_np.processes import WorkerDied, share
from eqprop_np.relaxation import Alternating, Synchronous
from eqprop_np.rules import RULES
from eqprop_np.rules.phases import ESTIMATES, Phases
from eqprop_np.samples import Samples
from eqprop_np.training import Diverged, Progress, bar, error_of, train

EXIT_FAILED = 3
SCHEDULES = ("alternating", "synchronous")
LAYERS = [field.name for field in fields(Layers)]
SETTINGS = [field.name for part in (Phases, Training, Experiment) for field in fields(part)]
FIRST_LOOK: dict[str, Any] = {"preset": "p-1h", "epochs": 10}  # if no preset is named: about a minute


@command(DataError, CheckpointError)
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    Parameters
    ----------
    arguments : sequence of str, optional
        The command line without the program's name. None uses ``sys.argv``.

    Returns
    -------
    int
        0, 2 (bad input), 3 (training diverged, a worker process was killed, or a file could not be written)
        or 130 (interrupted).
    """
    given = vars(_parser().parse_args(arguments))
    if "list_presets" in given:
        _refuse_others(given, "list_presets")
        _list_presets()
    elif "evaluate" in given:
        _evaluate(given)
    else:
        return _run(given)
    return 0


# ---- the command line


Given = dict[str, Any]
"""The options given on the command line. An option that was not given has no entry."""


def _parser() -> Parser:
    parser = Parser(
        prog="python -m eqprop_np.mnist",
        usage="%(prog)s [options]",
        description="Train a network with equilibrium propagation and print its test error.",
        argument_default=argparse.SUPPRESS,
    )
    add = parser.add_argument_group("what to train").add_argument
    add("--preset", choices=EXPERIMENTS, metavar="NAME",
        help=f"named experiment: {_listed(EXPERIMENTS)} (default: {FIRST_LOOK['preset']})")  # fmt: skip
    add("--epochs", type=int, metavar="N", help="total number of epochs, counting those before --resume "
        f"(default: the preset's; {FIRST_LOOK['epochs']} if no preset is named)")  # fmt: skip
    add("--rule", choices=RULES, metavar="NAME",
        help=f"learning rule: {_listed(RULES)} (default: the preset's)")  # fmt: skip
    add("--estimate", choices=ESTIMATES, metavar="NAME",
        help=f"estimate of the gradient: {_listed(ESTIMATES)} (default: the preset's)")  # fmt: skip
    add("--angle", type=float, metavar="DEGREES", help="initial angle between forward and backward "
        "weights; it unties them for bptt, implicit and asymep (default for vf and cvf: 0)")  # fmt: skip
    add("--cost", choices=COSTS, metavar="NAME", help=f"cost: {_listed(COSTS)}; with cross-entropy a readout "
        "takes the place of the output layer (default: squared-error)")  # fmt: skip
    add("--batch-size", type=int, metavar="B", help="samples per batch (default: the preset's, 20)")
    add("--seed", type=int, metavar="S", help="seed of the only random generator (default: 0)")

    add = parser.add_argument_group("data").add_argument
    add(
        "--data",
        metavar="DIR",
        help="auto, mnist, glyphs, or a directory with four IDX files (default: auto)",
    )
    add("--train-size", type=int, metavar="N", help="use only the first N training images (default: all)")
    add("--validation", type=int, metavar="N", help="hold out the last N training images and validate on "
        "them instead of the test set (default: 0)")  # fmt: skip

    run = parser.add_argument_group("the run")
    run.add_argument(
        "--out", type=_path, metavar="DIR", help="run directory (default: a new one under runs/)"
    )
    add = run.add_mutually_exclusive_group().add_argument
    add("--resume", type=_path, metavar="DIR", help="continue the run in DIR, or of a checkpoint")
    add("--evaluate", type=_path, metavar="DIR", help="print the test error of the run in DIR, or of a "
        "checkpoint, and exit")  # fmt: skip
    add("--list-presets", action="store_const", const=True, help="print the presets and exit")
    run.add_argument("--averaged", action="store_const", const=True, help="with --evaluate: test the "
        "averaged weights of a run with --average")  # fmt: skip
    run.add_argument("--quiet", action="store_const", const=True, help="print only the last line")

    add = parser.add_argument_group("settings that override the preset's").add_argument
    add("--schedule", choices=SCHEDULES, metavar="NAME",
        help=f"order of the updates in both phases: {_listed(SCHEDULES)}")  # fmt: skip
    add(
        "--omega",
        type=float,
        metavar="ω",
        help="over-relaxation factor of the free phase (of both phases in real time)",
    )
    add("--tol", type=float, metavar="X", help="residual at which the free phase ends early; 0: never")
    add("--channels", type=int, nargs="*", metavar="C", help="channels of each convolutional layer")
    add("--hidden", type=int, nargs="*", metavar="SIZE", help="size of each dense hidden layer")
    add("--activation", choices=ACTIVATIONS, metavar="NAME",
        help=f"activation function of the neurons: {_listed(ACTIVATIONS)}")  # fmt: skip
    add("--learning-rates", type=float, nargs="+", metavar="RATE",
        help="one rate per connection, from input to output (default: the preset's, "
        "interpolated if the number of connections differs)")  # fmt: skip
    rates = parser.add_mutually_exclusive_group().add_argument
    rates("--rate-decay", type=float, metavar="FACTOR", help="factor on the learning rates after each epoch")
    rates("--rate-schedule", metavar="NAME", help="learning rates by epoch: exponential:FACTOR, "
        "steps:EVERY:FACTOR or cosine, which ends with --epochs; after warmup:N: it begins after N epochs of "
        "rising rates")  # fmt: skip
    add("--optimizer", choices=OPTIMIZERS, metavar="NAME",
        help=f"optimizer: {_listed(OPTIMIZERS)} (default: sgd)")  # fmt: skip
    add("--momentum", type=float, metavar="X", help="momentum of sgd (default: 0)")
    add("--weight-decay", type=float, metavar="X", help="weight decay of the optimizer (default: 0)")
    for name, what in (("kernel", "side of the kernel"), ("pool", "side of the pooling window"),
                       ("stride", "stride"), ("padding", "padding")):  # fmt: skip
        add(f"--{name}", type=int, nargs="+", metavar="N",
            help=f"{what} of the convolutional layers: one value, or one for each")  # fmt: skip
    add("--free-steps", type=int, metavar="T", help="maximum length of the free phase in synchronous steps")
    add("--nudged-steps", type=int, metavar="K", help="length of the nudged phase in synchronous steps")
    add("--beta", type=float, metavar="β", help="strength of the nudge; for the rule holomorphic the radius")
    add("--points", type=int, metavar="N", help="points on the circle of the rule holomorphic (default: 4)")
    add("--epsilon", type=float, metavar="ε", help="Euler step of real-time dynamics")
    add("--authors-code", action="store_const", const=True, help="real time as in the authors' code: ρ(x) at "
        "the input, and no ρ′ in the motion of the output")  # fmt: skip
    add("--augment", type=int, nargs="?", const=1, metavar="PIXELS",
        help="shift training images at random by up to PIXELS pixels, 1 if no number is given")  # fmt: skip
    add("--distort", type=float, metavar="STRENGTH", help="distort training images at random by rotation, "
        "scale, shear, shift and elastically; 1 suits digits (default: 0)")  # fmt: skip
    add("--average", type=float, metavar="DECAY", help="average the weights with this decay per batch, such "
        "as 0.999, and test the average as well (default: 0, no average)")  # fmt: skip
    add("--workers", type=int, metavar="N", help="number of processes that share each batch")
    return parser


def _path(text: str) -> Path:
    if not text:  # Path("") is the current directory
        raise argparse.ArgumentTypeError("must name a directory, got an empty string")
    return Path(text)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)


def _experiment(given: Given) -> Experiment:
    """Return the preset with the settings that the command line overrides."""
    preset = EXPERIMENTS[given.get("preset", FIRST_LOOK["preset"])]
    options = given if "preset" in given else {"epochs": FIRST_LOOK["epochs"]} | given
    layers = replace(preset.layers, **{name: given[name] for name in LAYERS if name in given})
    for name in PER_CONVOLUTION:
        if name in given and not layers.channels:
            raise BadInput(
                f"--{name} is for convolutional layers, but the network has none: leave out --{name}, or "
                "give --channels"
            )
    settings = {name: value for name, value in options.items() if name in SETTINGS}
    settings["schedule"] = _schedule(options, preset.phases.schedule)
    epochs = options.get("epochs", preset.training.epochs)
    if "rate_decay" in options or "rate_schedule" in options:
        settings["rate_schedule"] = _rate_schedule(options, epochs)
    if layers.connections != preset.layers.connections:
        settings.setdefault("learning_rates", spread(preset.training.learning_rates, layers.connections))
    if "angle" in options:
        settings["psi"] = options["angle"]
    return preset.override(layers=layers, **settings)


def _schedule(options: Given, schedule: Alternating | Synchronous) -> Alternating | Synchronous:
    """Return the schedule of the phases, with ω and the tolerance that were given."""
    alternating = isinstance(schedule, Alternating)
    if options.get("schedule", "alternating" if alternating else "synchronous") == "synchronous":
        if "omega" in options:
            raise BadInput(
                "--omega is used only by the alternating schedule: leave out --omega or --schedule"
            )
        return Synchronous(options.get("tol", schedule.tol))
    if not isinstance(schedule, Alternating):
        schedule = Alternating(tol=schedule.tol)
    chosen = {name: options[name] for name in ("omega", "tol") if name in options}
    return replace(schedule, **chosen)


def _rate_schedule(options: Given, epochs: int) -> RateSchedule:
    """Return the schedule of the learning rates that was given."""
    if "rate_decay" in options:
        return Exponential(options["rate_decay"])
    text = options["rate_schedule"]
    words = text.split(":")
    warmup = None
    kinds: dict[str, Callable[..., RateSchedule]] = {
        "exponential": lambda factor: Exponential(float(factor)),
        "steps": lambda every, factor: Steps(int(every), float(factor)),
        "cosine": lambda: Cosine(epochs - (warmup or 0)),
    }
    try:
        if words[0] == "warmup":
            _, number, *words = words
            warmup = int(number)
        schedule = kinds[words[0]](*words[1:])
        return schedule if warmup is None else Warmup(warmup, schedule)
    except (IndexError, KeyError, TypeError, ValueError):
        raise BadInput(
            "--rate-schedule must be exponential:FACTOR, steps:EVERY:FACTOR or cosine, perhaps after "
            "warmup:N:, with EVERY and N integers from 1, FACTOR positive, and N below --epochs for cosine, "
            f"got {text!r}"
        ) from None


def _refuse_others(given: Given, what: str, *allowed: str) -> None:
    """Raise `BadInput` if an option was given that has no effect beside ``what``."""
    option = f"--{what.replace('_', '-')}"
    for name in sorted(given.keys() - {what, *allowed}):
        others = f"only {' or '.join(f'--{other}' for other in allowed)}" if allowed else "no other option"
        reason = ", but a saved run keeps its settings" if allowed else ""
        raise BadInput(f"--{name.replace('_', '-')} was given{reason}: with {option}, give {others}")


def _list_presets() -> None:
    for e in EXPERIMENTS.values():
        t, p = e.training, e.phases
        print(f"{e.name:9} {e.rule}, {e.dynamics}, {e.activation}; hidden: {e.layers}; {t.epochs} epochs")
        rates = " ".join(map(str, t.learning_rates))
        print(f"{'':9} rates {rates}; T {p.free_steps}, K {p.nudged_steps}, β {p.beta}; from {e.source}")


# ---- configuration, data and dynamics of a run


def _configure(given: Given) -> tuple[Configuration, Samples, Samples]:
    """Load the data and return a new run's configuration, its training samples and its test samples."""
    try:
        experiment = _experiment(given)
    except (TypeError, ValueError) as error:
        raise BadInput(error) from None
    source = given.get("data", "auto")
    dataset = load(source, progress="quiet" not in given)
    seed, size, held_out = given.get("seed", 0), given.get("train_size"), given.get("validation", 0)
    try:
        configuration = Configuration.resolve(experiment, dataset, source, seed, size, held_out)
    except ValueError as error:
        raise BadInput(error) from None
    return configuration, *configuration.samples(dataset)


def _dynamics(configuration: Configuration) -> Dynamics:
    try:
        return configuration.experiment.build(configuration.image, configuration.classes)
    except ValueError as error:
        raise BadInput(error) from None


def _saved(path: Path, given: Given) -> tuple[Configuration, Progress, Samples, Samples]:
    """Return a checkpoint's configuration and progress, its training samples and its test samples.

    Raises
    ------
    BadInput
        If the data are not those of the checkpoint.
    """
    configuration, progress = checkpoint.load(path)
    dataset = load(given.get("data", configuration.source), progress="quiet" not in given)
    if mismatch := configuration.mismatch(dataset):
        raise BadInput(f"{path}: {mismatch}: give the data of the run with --data")
    configuration = replace(configuration, digests=dataset.digests)  # an old file may not tell them
    return configuration, progress, *configuration.samples(dataset)


# ---- evaluate, train, resume


def _evaluate(given: Given) -> None:
    _refuse_others(given, "evaluate", "averaged", "preset", "data", "quiet")
    path = checkpoint.checkpoint_of(given["evaluate"])
    configuration, progress, _, test = _saved(path, given)
    experiment = configuration.experiment
    if given.get("preset", experiment.name) != experiment.name:
        raise BadInput(f"{path} has preset {experiment.name}, not {given['preset']}: leave out --preset")
    theta, name, which = progress.theta, "test_error", ""
    if "averaged" in given:
        theta, name, which = progress.average, "average_test_error", " of the averaged weights"
        if not theta:
            raise BadInput(f"{path} has no averaged weights: leave out --averaged, or train with --average")
    with _shared(experiment) as shared:
        run = experiment.run(_dynamics(configuration), shared)
        error = error_of(run, theta, test, _show_progress(given))
    done = progress.batch == 0 and records(progress)  # within an epoch θ has changed since the record
    recorded = f" (recorded after epoch {progress.epoch}: {done[-1][name]:.2f} %)" if done else ""
    tested = f"{configuration.tested} error{which} {error:.2f} %"
    print(f"{experiment.name} on {configuration.dataset}: {tested}{recorded}")


def _show_progress(given: Given) -> bool | None:
    """Return whether to show progress bars: not with --quiet, and otherwise on a terminal."""
    return False if "quiet" in given else None


def _shared(experiment: Experiment) -> Any:
    """Return a context that gives the rule in several processes, or None for one process."""
    workers = experiment.training.workers
    return share(RULES[experiment.rule], workers) if workers > 1 else nullcontext()


def _run(given: Given) -> int:
    quiet = "quiet" in given
    if "averaged" in given:
        raise BadInput("--averaged says which weights --evaluate tests: leave it out, or give --evaluate")
    if "resume" in given:
        _refuse_others(given, "resume", "epochs", "data", "quiet")
        path = checkpoint.checkpoint_of(given["resume"])
        if path.is_file() and path.name != "checkpoint.npz":
            raise BadInput(f"--resume needs the directory of a run or its checkpoint.npz, got {path}")
        with locked(path.parent) if path.is_file() else nullcontext():  # `_saved` says if it does not exist
            configuration, progress, training, test = _saved(path, given)
            configuration = _total_epochs(configuration, progress, given)
            # Save the new total of epochs now, so that a run that is killed soon keeps it.
            checkpoint.save(path, configuration, progress)
            return _report(Report(path.parent, configuration, quiet), training, test, progress)
    configuration, training, test = _configure(given)
    dynamics, experiment = _dynamics(configuration), configuration.experiment
    optimizer, psi = experiment.optimizer(dynamics), experiment.psi or 0.0
    progress = Progress.begin(dynamics, optimizer, configuration.seed, psi=psi)
    directory = _new_directory(given.get("out"), experiment)
    with locked(directory):
        _refuse_used(directory)
        return _report(Report(directory, configuration, quiet), training, test, progress)


def _report(report: Report, training: Samples, test: Samples, progress: Progress) -> int:
    """Train, with a report, and return the exit code. An interruption and a killed worker save the state."""
    resume = f"to continue: python -m eqprop_np.mnist --resume {shlex.quote(str(report.directory))}"
    try:
        report.begin(progress)
        try:
            finished = _train(report, training, test, progress)
        except WorkerDied as error:
            report.save(progress)
            print(f"error: {error}; {resume}", file=sys.stderr)
            return EXIT_FAILED
        if not finished:
            report.save(progress)
            print(f"interrupted; {resume}", file=sys.stderr)
            return EXIT_INTERRUPTED
        report.end(progress, test)
    except Diverged as error:
        remedy = "smaller learning rates"
        if abs(report.configuration.experiment.phases.beta) > 1:
            remedy += " or a smaller beta"
        print(f"error: training diverged: {error}. Try {remedy}.", file=sys.stderr)
        return EXIT_FAILED
    except OSError as error:  # for example a full disk
        saved = (report.directory / "checkpoint.npz").exists()
        print(f"error: {error}{f'; {resume}' if saved else ''}", file=sys.stderr)
        return EXIT_FAILED
    return 0


def _train(report: Report, training: Samples, test: Samples, progress: Progress) -> bool:
    """Train with a progress bar until the end or a signal; return whether all epochs are complete."""
    experiment, dynamics = report.configuration.experiment, _dynamics(report.configuration)
    with (
        _shared(experiment) as shared,
        interruptible() as interrupted,
        bar(
            run := experiment.run(dynamics, shared), len(training), show := False if report.quiet else None
        ) as advance,
    ):

        def on_batch(progress: Progress) -> bool:
            advance(progress)
            report.batch(progress)
            return interrupted()

        return train(run, training, test, progress, on_batch, report.epoch, show)


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Catch Ctrl-C, SIGTERM and SIGHUP once, and yield a function that says whether one arrived.

    A second signal has its usual effect. In a thread, which cannot handle signals, nothing is caught.
    """
    arrived = False
    names = ("SIGINT", "SIGTERM", "SIGHUP") if threading.current_thread() is threading.main_thread() else ()
    previous: dict[int, Any] = {}

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    def note(number: int, frame: Any) -> None:
        nonlocal arrived
        arrived = True
        restore()

    for name in names:
        number = getattr(signal, name, None)
        # nohup ignores SIGHUP, so that the run goes on after the terminal is closed.
        if number is None or (name == "SIGHUP" and signal.getsignal(number) is signal.SIG_IGN):
            continue
        previous[number] = signal.signal(number, note)
    try:
        yield lambda: arrived
    finally:
        restore()


def _total_epochs(configuration: Configuration, progress: Progress, given: Given) -> Configuration:
    """Return the configuration of a resumed run, with the new total number of epochs if it was given."""
    epochs = given.get("epochs", configuration.experiment.training.epochs)
    begun = progress.epoch + (progress.batch > 0)  # θ already includes updates of an unfinished epoch
    if epochs < begun:
        raise BadInput(
            f"--epochs {epochs} was given, but epoch {begun} has {'begun' if progress.batch else 'ended'}: "
            f"--epochs is the total number, so give at least {begun}"
        )
    schedule, begin = configuration.experiment.training.rate_schedule, 0
    if isinstance(schedule, Warmup):
        begin, schedule = schedule.epochs, schedule.then
    if isinstance(schedule, Cosine) and epochs > (end := begin + schedule.epochs):
        raise BadInput(
            f"--epochs {epochs} was given, but the cosine schedule of the run sets the learning rates to 0 "
            f"after {end} epochs: start a new run"
        )
    try:
        return configuration.with_epochs(epochs)
    except ValueError as error:
        raise BadInput(error) from None


def _new_directory(out: Path | None, experiment: Experiment) -> Path:
    directory = out or Path("runs") / f"{experiment.name}-{datetime.now():%Y%m%d-%H%M%S-%f}"
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"cannot create the run directory ({error}): choose another --out") from None
    return directory


def _refuse_used(directory: Path) -> None:
    """Raise `BadInput` if a new run would overwrite a file, unless a run left it that saved no state."""
    present = {path.name: path for path in directory.iterdir()}
    if "checkpoint.npz" in present:
        if "summary.json" in present:
            raise BadInput(
                f"{directory} holds a finished run: choose another --out, or use --resume with more --epochs"
            )
        raise BadInput(f"{directory} holds an unfinished run: use --resume, or choose another --out")
    metrics, config = present.get("metrics.jsonl"), present.get("config.json")
    if config and is_config(config):
        del present["config.json"]
    if metrics and metrics.stat().st_size == 0:
        del present["metrics.jsonl"]
    if kept := FILES & present.keys():
        raise BadInput(
            f"{directory} holds {', '.join(sorted(kept))}, which the run would overwrite: choose another "
            "--out, or move the files"
        )


if __name__ == "__main__":
    sys.exit(main())
