"""The main command: train one of the named experiments and print its test error.

python -m eqprop_np.mnist --help
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import fields, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from eqprop_np import checkpoint
from eqprop_np.activations import ACTIVATIONS
from eqprop_np.checkpoint import CheckpointError, Configuration
from eqprop_np.datasets import DataError, load
from eqprop_np.dynamics import SCHEDULES, Dynamics
from eqprop_np.experiments import EXPERIMENTS, Experiment
from eqprop_np.report import Report
from eqprop_np.rules import ESTIMATES, RULES
from eqprop_np.training import Diverged, Progress, Samples, evaluate, parallel, train

EXIT_BAD_INPUT, EXIT_DIVERGED, EXIT_INTERRUPTED = 2, 3, 130
FIRST_LOOK = {"preset": "p-1h", "epochs": 10}  # the command without arguments: about a minute


class BadInput(ValueError):
    """A request that cannot be met, with one line that says why and what to do."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0, 2 (bad input), 3 (diverged) or 130 (interrupted)."""
    options = _parser().parse_args(arguments)
    try:
        if options.list_presets:
            _list_presets()
        elif options.evaluate:
            _evaluate(options)
        else:
            return _run(options)
    except (BadInput, DataError, CheckpointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    return 0


# ---- the command line


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m eqprop_np.mnist",
        description="Train a network with equilibrium propagation, and print its test error.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    what = parser.add_argument_group("what to train")
    what.add_argument(
        "--preset", choices=EXPERIMENTS, default=argparse.SUPPRESS,
        help=f"see --list-presets (default: {FIRST_LOOK['preset']})",
    )  # fmt: skip
    what.add_argument(
        "--epochs", type=int, default=argparse.SUPPRESS, metavar="N",
        help=f"in total, on resume too (default: the preset's; {FIRST_LOOK['epochs']} if no preset is named)",
    )  # fmt: skip
    add = what.add_argument
    add("--rule", choices=RULES, default=argparse.SUPPRESS, help="learning rule (default: the preset's)")
    add(
        "--estimate",
        choices=ESTIMATES,
        default=argparse.SUPPRESS,
        help="use of the nudge (default: the preset's)",
    )
    add(
        "--angle", type=float, default=argparse.SUPPRESS, metavar="DEGREES",
        help="between forward and backward weights at the start, for vf and cvf (default: 0, the same)",
    )  # fmt: skip
    add("--batch-size", type=int, default=argparse.SUPPRESS, metavar="B", help="(default: the preset's, 20)")
    add("--seed", type=int, default=0, metavar="S", help="of the only random generator")

    data = parser.add_argument_group("data")
    data.add_argument(
        "--data", default="auto", help="auto, mnist, glyphs, or a directory with four IDX files"
    )
    data.add_argument("--train-size", type=int, metavar="N", help="use the first N training images")
    data.add_argument(
        "--validation", type=int, default=0, metavar="N",
        help="hold out the last N training images and test on them, to choose settings by",
    )  # fmt: skip

    run = parser.add_argument_group("the run")
    run.add_argument("--out", type=Path, metavar="DIR", help="run directory (default: a new one under runs/)")
    run.add_argument("--resume", type=Path, metavar="DIR", help="go on with the run in DIR")
    run.add_argument("--evaluate", type=Path, metavar="CHECKPOINT", help="print its test error, and stop")
    run.add_argument("--list-presets", action="store_true", help="print them, and stop")
    run.add_argument("--quiet", action="store_true", help="print the last line alone")

    override = parser.add_argument_group("settings that override the preset's (default: the preset's)")
    add = override.add_argument
    add("--schedule", choices=SCHEDULES, default=argparse.SUPPRESS, help="of a phase's updates")
    add("--omega", type=float, default=argparse.SUPPRESS, help="over-relaxation of the free phase")
    add("--tol", type=float, default=argparse.SUPPRESS, help="end the free phase at this residual; 0: never")
    add("--channels", type=int, nargs="*", default=argparse.SUPPRESS, help="of the convolutional layers")
    add("--hidden", type=int, nargs="*", default=argparse.SUPPRESS, help="sizes of the dense hidden layers")
    add("--activation", choices=ACTIVATIONS, default=argparse.SUPPRESS)
    add(
        "--learning-rates",
        type=float,
        nargs="+",
        default=argparse.SUPPRESS,
        help="from the input to the output",
    )
    add("--rate-decay", type=float, default=argparse.SUPPRESS, help="factor on the rates per epoch")
    add(
        "--free-steps", type=int, default=argparse.SUPPRESS, metavar="T", help="at most, in synchronous steps"
    )
    add("--nudged-steps", type=int, default=argparse.SUPPRESS, metavar="K", help="in synchronous steps")
    add("--beta", type=float, default=argparse.SUPPRESS)
    add("--epsilon", type=float, default=argparse.SUPPRESS, help="Euler step of real time")
    add(
        "--augment", type=int, nargs="?", const=2, default=argparse.SUPPRESS, metavar="PIXELS",
        help="shift training images at random by up to so many pixels, 2 if no number is given",
    )  # fmt: skip
    add("--workers", type=int, default=argparse.SUPPRESS, help="processes that share each batch")
    return parser


def _experiment(options: argparse.Namespace) -> Experiment:
    """The preset with what the command line overrides."""
    first_look = {} if "preset" in options else FIRST_LOOK
    preset = EXPERIMENTS[getattr(options, "preset", FIRST_LOOK["preset"])]
    given = first_look | _overrides(options)
    given.pop("preset", None)
    try:
        return replace(preset, **given)
    except ValueError as error:
        raise BadInput(error) from None


def _overrides(options: argparse.Namespace) -> dict[str, Any]:
    """The fields of an experiment that the command line sets."""
    names = {field.name for field in fields(Experiment)}
    return {k: tuple(v) if isinstance(v, list) else v for k, v in vars(options).items() if k in names}


def _list_presets() -> None:
    for e in EXPERIMENTS.values():
        layers = "-".join([f"{c} channels" for c in e.channels] + [str(size) for size in e.hidden])
        print(f"{e.name:8} {e.rule}, {e.dynamics}, {e.activation}; hidden: {layers}; {e.epochs} epochs")
        rates = " ".join(map(str, e.learning_rates))
        print(f"{'':8} rates {rates}; T {e.free_steps}, K {e.nudged_steps}, β {e.beta}; from {e.source}")


# ---- what a run is made of


def _configure(options: argparse.Namespace) -> tuple[Configuration, Samples, Samples]:
    """A new run's configuration, its training samples and its test samples."""
    experiment = _experiment(options)
    dataset = load(options.data, progress=not options.quiet)
    try:
        configuration = Configuration.resolve(
            experiment, dataset, options.data, options.seed, options.train_size, options.validation
        )
    except ValueError as error:
        raise BadInput(error) from None
    return configuration, *configuration.samples(dataset)


def _dynamics(configuration: Configuration) -> Dynamics:
    try:
        return configuration.experiment.build(configuration.image, configuration.classes)
    except ValueError as error:
        raise BadInput(error) from None


def _saved(path: Path, options: argparse.Namespace) -> tuple[Configuration, Progress, Samples, Samples]:
    """A checkpoint and its data, which must be what it was trained on."""
    configuration, progress = checkpoint.load(path)
    dataset = load(
        configuration.source if options.data == "auto" else options.data, progress=not options.quiet
    )
    found = (dataset.name, dataset.train_images.shape[1:], dataset.classes)
    wanted = (configuration.dataset, configuration.image, configuration.classes)
    if found != wanted:
        raise BadInput(f"{path} belongs to {wanted[0]}, but the data found are {found[0]}: say --data")
    return configuration, progress, *configuration.samples(dataset)


# ---- evaluate, train, resume


def _evaluate(options: argparse.Namespace) -> None:
    configuration, progress, _, test = _saved(options.evaluate, options)
    experiment = configuration.experiment
    if options.__dict__.get("preset", experiment.name) != experiment.name:
        raise BadInput(f"{options.evaluate} is of preset {experiment.name}, not {options.preset}")
    with parallel(experiment.workers) as run:
        error = evaluate(experiment.phases, _dynamics(configuration), progress.theta, test, run)
    print(f"{experiment.name} on {configuration.dataset}: test error {error:.2f} %")


def _run(options: argparse.Namespace) -> int:
    if options.resume:
        directory = options.resume
        configuration, progress, training, test = _saved(directory / "checkpoint.npz", options)
        configuration = _more_epochs(configuration, progress, options)
    else:
        configuration, training, test = _configure(options)
        progress = Progress.begin(configuration.experiment, _dynamics(configuration), configuration.seed)
        directory = _new_directory(options.out, configuration.experiment)
    report = Report(directory, configuration, quiet=options.quiet)
    report.begin(progress)
    try:
        with report.bar(progress, len(training)) as on_batch:
            finished = train(
                configuration.experiment, _dynamics(configuration), training, test, progress,
                on_batch=on_batch, on_epoch=report.epoch,
            )  # fmt: skip
    except Diverged as error:
        print(f"error: training diverged: {error}. Smaller learning rates may help.", file=sys.stderr)
        return EXIT_DIVERGED
    if not finished:
        checkpoint.save(directory / "checkpoint.npz", configuration, progress)
        print(f"interrupted; to go on: python -m eqprop_np.mnist --resume {directory}", file=sys.stderr)
        return EXIT_INTERRUPTED
    report.end(progress)
    return 0


def _more_epochs(
    configuration: Configuration, progress: Progress, options: argparse.Namespace
) -> Configuration:
    """The configuration of a resumed run, in which only the number of epochs may be new."""
    given = _overrides(options)
    epochs = given.pop("epochs", configuration.experiment.epochs)
    if (
        given
        or "preset" in options
        or options.out
        or options.train_size
        or options.validation
        or options.seed
    ):
        raise BadInput("a resumed run keeps its settings: beside --resume, only --epochs, --data and --quiet")
    if epochs < progress.epoch:
        raise BadInput(f"--epochs {epochs}, but {progress.epoch} are done: it is the total")
    return replace(configuration, experiment=replace(configuration.experiment, epochs=epochs))


def _new_directory(out: Path | None, experiment: Experiment) -> Path:
    directory = out or Path("runs") / f"{experiment.name}-{datetime.now():%Y%m%d-%H%M%S-%f}"
    if (directory / "summary.json").exists():
        raise BadInput(
            f"{directory} holds a finished run: choose another --out, or --resume it with more --epochs"
        )
    if (directory / "checkpoint.npz").exists():
        raise BadInput(f"{directory} holds an unfinished run: --resume it, or choose another --out")
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"cannot make the run directory: {error}") from None
    return directory


if __name__ == "__main__":
    sys.exit(main())
