"""Train one of the named experiments and print its test error: the main command.

``python -m eqprop_np.mnist --help`` lists its options.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import fields, replace
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

from eqprop_np import checkpoint
from eqprop_np.activations import ACTIVATIONS
from eqprop_np.checkpoint import CheckpointError, Configuration
from eqprop_np.datasets import DataError, load
from eqprop_np.dynamics import Dynamics
from eqprop_np.experiments.presets import EXPERIMENTS, SCHEDULES, Experiment, spread
from eqprop_np.report import Report
from eqprop_np.rules import RULES
from eqprop_np.rules.phases import ESTIMATES
from eqprop_np.training import Diverged, Progress, Samples, evaluate, parallel, train

EXIT_BAD_INPUT, EXIT_DIVERGED, EXIT_INTERRUPTED = 2, 3, 130
FIRST_LOOK: dict[str, Any] = {"preset": "p-1h", "epochs": 10}  # if no preset is named: about a minute


class BadInput(ValueError):
    """A request that the command cannot carry out; the message is one line with the cause and a remedy."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    Parameters
    ----------
    arguments : sequence of str, optional
        The command line without the program's name. None uses ``sys.argv``.

    Returns
    -------
    int
        0, 2 (bad input), 3 (training diverged) or 130 (interrupted).
    """
    try:
        given = vars(_parser().parse_args(arguments))
        if "list_presets" in given:
            _list_presets()
        elif "evaluate" in given:
            _evaluate(given)
        else:
            return _run(given)
    except (BadInput, DataError, CheckpointError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    return 0


# ---- the command line


Given = dict[str, Any]
"""The options given on the command line. An option that was not given has no entry."""


class _Parser(argparse.ArgumentParser):
    """A parser that reports a usage error in one line, without printing the usage before it."""

    def error(self, message: str) -> NoReturn:
        raise BadInput(f"{message}; see --help")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m eqprop_np.mnist",
        description="Train a network with equilibrium propagation and print its test error.",
        argument_default=argparse.SUPPRESS,
    )
    add = parser.add_argument_group("what to train").add_argument
    add("--preset", choices=EXPERIMENTS, help=f"named experiment (default: {FIRST_LOOK['preset']})")
    add("--epochs", type=int, metavar="N", help="total number of epochs, counting those before --resume "
        f"(default: the preset's; {FIRST_LOOK['epochs']} if no preset is named)")  # fmt: skip
    add("--rule", choices=RULES, help="learning rule (default: the preset's)")
    add("--estimate", choices=ESTIMATES, help="how the nudge estimates the gradient (default: the preset's)")
    add("--angle", type=float, metavar="DEGREES", help="initial angle between forward and backward weights, "
        "for the rules vf and cvf (default: 0, equal weights)")  # fmt: skip
    add("--batch-size", type=int, metavar="B", help="samples per batch (default: the preset's, 20)")
    add("--seed", type=int, metavar="S", help="seed of the only random generator (default: 0)")

    add = parser.add_argument_group("data").add_argument
    add("--data", help="auto, mnist, glyphs, or a directory with four IDX files (default: auto)")
    add("--train-size", type=int, metavar="N", help="use only the first N training images (default: all)")
    add("--validation", type=int, metavar="N", help="hold out the last N training images and validate on "
        "them instead of the test set (default: 0)")  # fmt: skip

    run = parser.add_argument_group("the run")
    run.add_argument("--out", type=Path, metavar="DIR", help="run directory (default: a new one under runs/)")
    add = run.add_mutually_exclusive_group().add_argument
    add("--resume", type=Path, metavar="DIR", help="continue the run in DIR")
    add("--evaluate", type=Path, metavar="CHECKPOINT", help="print the test error of CHECKPOINT and exit")
    add("--list-presets", action="store_const", const=True, help="print the presets and exit")
    run.add_argument("--quiet", action="store_const", const=True, help="print only the last line")

    add = parser.add_argument_group("settings that override the preset's").add_argument
    add("--schedule", choices=SCHEDULES, help="order of the updates in both phases")
    add("--omega", type=float, help="over-relaxation factor of the free phase (of both phases in real time)")
    add("--tol", type=float, help="residual at which the free phase ends early; 0: never")
    add("--channels", type=int, nargs="*", metavar="C", help="channels of each convolutional layer")
    add("--hidden", type=int, nargs="*", metavar="SIZE", help="size of each dense hidden layer")
    add("--activation", choices=ACTIVATIONS, help="activation function of the neurons")
    add("--learning-rates", type=float, nargs="+", metavar="RATE",
        help="one rate per connection, from input to output (default: the preset's, "
        "interpolated if the number of connections differs)")  # fmt: skip
    add("--rate-decay", type=float, metavar="FACTOR", help="factor on the learning rates after each epoch")
    add("--free-steps", type=int, metavar="T", help="maximum length of the free phase in synchronous steps")
    add("--nudged-steps", type=int, metavar="K", help="length of the nudged phase in synchronous steps")
    add("--beta", type=float, help="strength of the nudge")
    add("--epsilon", type=float, help="Euler step of real-time dynamics")
    add("--augment", type=int, nargs="?", const=1, metavar="PIXELS",
        help="shift training images at random by up to PIXELS pixels, 1 if no number is given")  # fmt: skip
    add("--workers", type=int, metavar="N", help="number of processes that share each batch")
    return parser


def _experiment(given: Given) -> Experiment:
    """Return the preset with the settings that the command line overrides."""
    preset = EXPERIMENTS[given.get("preset", FIRST_LOOK["preset"])]
    settings: dict[str, Any] = {} if "preset" in given else {"epochs": FIRST_LOOK["epochs"]}
    for field in fields(Experiment):
        if field.name in given:
            value = given[field.name]
            settings[field.name] = tuple(value) if isinstance(value, list) else value
    connections = 1 + sum(len(settings.get(n, getattr(preset, n))) for n in ("channels", "hidden"))
    if "learning_rates" not in settings and connections != len(preset.learning_rates):
        settings["learning_rates"] = spread(preset.learning_rates, connections)
    if settings.get("schedule", preset.schedule) == "synchronous" and "omega" in settings:
        raise BadInput("--omega is used only by the alternating schedule: leave out --omega or --schedule")
    try:
        return replace(preset, **settings)
    except ValueError as error:
        raise BadInput(error) from None


def _refuse_others(given: Given, what: str, *allowed: str) -> None:
    """Raise `BadInput` if an option was given that the saved run already determines."""
    for name in given.keys() - {what, *allowed}:
        options = ", ".join(f"--{option}" for option in allowed)
        raise BadInput(
            f"--{name.replace('_', '-')} was given, but a saved run keeps its settings: "
            f"with --{what}, give only {options}"
        )


def _list_presets() -> None:
    for e in EXPERIMENTS.values():
        layers = "-".join([f"{c} channels" for c in e.channels] + [str(size) for size in e.hidden])
        print(f"{e.name:8} {e.rule}, {e.dynamics}, {e.activation}; hidden: {layers}; {e.epochs} epochs")
        rates = " ".join(map(str, e.learning_rates))
        print(f"{'':8} rates {rates}; T {e.free_steps}, K {e.nudged_steps}, β {e.beta}; from {e.source}")


# ---- configuration, data and dynamics of a run


def _configure(given: Given) -> tuple[Configuration, Samples, Samples]:
    """Load the data and return a new run's configuration, its training samples and its test samples."""
    experiment = _experiment(given)
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
        If the data differ from the training data in name, image size or classes, or have fewer images.
    """
    configuration, progress = checkpoint.load(path)
    dataset = load(given.get("data", configuration.source), progress="quiet" not in given)
    training, test = configuration.samples(dataset)
    found = (dataset.name, dataset.train_images.shape[1:], dataset.classes)
    wanted = (configuration.dataset, configuration.image, configuration.classes)
    if found != wanted:
        raise BadInput(
            f"{path} was trained on {wanted[0]}, but the data found are {found[0]}: "
            "give the data of the run with --data"
        )
    if len(training) != configuration.train_size:
        raise BadInput(
            f"{path} was trained on {configuration.train_size} images, but the data found have fewer: "
            "give the complete data with --data"
        )
    return configuration, progress, training, test


# ---- evaluate, train, resume


def _evaluate(given: Given) -> None:
    _refuse_others(given, "evaluate", "preset", "data", "quiet")
    path = given["evaluate"]
    configuration, progress, _, test = _saved(path, given)
    experiment = configuration.experiment
    if given.get("preset", experiment.name) != experiment.name:
        raise BadInput(f"{path} has preset {experiment.name}, not {given['preset']}: leave out --preset")
    with parallel(experiment.workers) as run:
        error = evaluate(experiment.phases, _dynamics(configuration), progress.theta, test, run)
    done = progress.batch == 0 and progress.history  # within an epoch θ has changed since the record
    recorded = f" (recorded after epoch {progress.epoch}: {done[-1]['test_error']:.2f} %)" if done else ""
    print(
        f"{experiment.name} on {configuration.dataset}: {configuration.tested} error {error:.2f} %{recorded}"
    )


def _run(given: Given) -> int:
    if "resume" in given:
        _refuse_others(given, "resume", "epochs", "data", "quiet")
        directory = given["resume"]
        configuration, progress, training, test = _saved(directory / "checkpoint.npz", given)
        configuration = _total_epochs(configuration, progress, given)
        # Save the new total of epochs now, so that a run that is killed before its next checkpoint keeps it.
        checkpoint.save(directory / "checkpoint.npz", configuration, progress)
    else:
        configuration, training, test = _configure(given)
        progress = Progress.begin(configuration.experiment, _dynamics(configuration), configuration.seed)
        directory = _new_directory(given.get("out"), configuration.experiment)
    report = Report(directory, configuration, quiet="quiet" in given)
    report.begin(progress)
    try:
        with report.bar(progress, len(training)) as on_batch:
            finished = train(
                configuration.experiment, _dynamics(configuration), training, test, progress,
                on_batch=on_batch, on_epoch=report.epoch,
            )  # fmt: skip
    except Diverged as error:
        print(f"error: training diverged: {error}. Try smaller learning rates.", file=sys.stderr)
        return EXIT_DIVERGED
    if not finished:
        checkpoint.save(directory / "checkpoint.npz", configuration, progress)
        print(f"interrupted; to continue: python -m eqprop_np.mnist --resume {directory}", file=sys.stderr)
        return EXIT_INTERRUPTED
    report.end(progress)
    return 0


def _total_epochs(configuration: Configuration, progress: Progress, given: Given) -> Configuration:
    """Return the configuration of a resumed run, with the new total number of epochs if it was given."""
    epochs = given.get("epochs", configuration.experiment.epochs)
    begun = progress.epoch + (progress.batch > 0)  # θ already includes updates of an unfinished epoch
    if epochs < begun:
        raise BadInput(
            f"--epochs {epochs} was given, but epoch {begun} has {'begun' if progress.batch else 'ended'}: "
            f"--epochs is the total number, so give at least {begun}"
        )
    try:
        return replace(configuration, experiment=replace(configuration.experiment, epochs=epochs))
    except ValueError as error:
        raise BadInput(error) from None


def _new_directory(out: Path | None, experiment: Experiment) -> Path:
    directory = out or Path("runs") / f"{experiment.name}-{datetime.now():%Y%m%d-%H%M%S-%f}"
    if (directory / "summary.json").exists():
        raise BadInput(
            f"{directory} holds a finished run: choose another --out, or use --resume with more --epochs"
        )
    if (directory / "checkpoint.npz").exists():
        raise BadInput(f"{directory} holds an unfinished run: use --resume, or choose another --out")
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"cannot create the run directory ({error}): choose another --out") from None
    return directory


if __name__ == "__main__":
    sys.exit(main())
