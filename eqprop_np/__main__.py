"""``python -m eqprop_np`` lists the commands."""

import sys

from eqprop_np.experiments.console import command

COMMANDS = {
    "mnist": "train a network and print its test error",
    "sweep": "train many runs, each in its own process",
    "figures": "draw the figures of the abstract, and others",
    "theorem": "measure Theorem 1, or the error of every estimator",
    "benchmark": "measure the cost of each preset",
}


@command()
def main() -> int:
    """Print the commands and return the exit code: 0, or 2 if an argument was given."""
    print("Equilibrium propagation in NumPy. The commands are:\n")
    for name, what in COMMANDS.items():
        print(f"  python -m eqprop_np.{name:10} {what}")
    print("\nEach of them explains its options with --help.")
    return 2 if sys.argv[1:] else 0


if __name__ == "__main__":
    sys.exit(main())
