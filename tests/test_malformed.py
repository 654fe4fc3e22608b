"""Tests of the script of malformed inputs: it finds tracebacks, hangs and refusals that are too long."""

import os
import time
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the script forks")


@pytest.mark.parametrize(
    "code, err, verdict",
    [
        (0, "", "accepted"),
        (2, "error: wrong\n", "refused"),
        (3, "error: diverged\n", "refused"),
        (2, "note: MNIST is missing\nerror: wrong\n", "refused"),
        (2, "usage\nerror: wrong\n", "fault"),
        (2, "", "fault"),
        (1, "error: wrong\n", "fault"),
        (2, "Traceback (most recent call last):\n", "traceback"),
    ],
)
def test_a_verdict_on_the_end_of_a_command(code: int, err: str, verdict: str) -> None:
    from malformed import judge

    assert judge("mnist", code, err).verdict == verdict


def test_tracebacks_hangs_and_kills_are_found() -> None:
    from malformed import Outcome, run

    def fail() -> Outcome:
        raise KeyError("x")

    assert "KeyError: 'x'" in run(fail).details
    assert run(fail).verdict == "traceback"
    assert run(lambda: time.sleep(60), timeout=0.1).verdict == "hang"
    assert run(lambda: os.kill(os.getpid(), 9)).verdict == "traceback"
    assert run(lambda: Outcome("accepted")).verdict == "accepted"


def test_an_error_of_the_library_must_be_its_own(tmp_path: Path) -> None:
    from malformed import Input, in_library, run

    from eqprop_np import SGD

    for call, verdict in (
        (lambda: SGD(-1), "refused"),
        (lambda: SGD(1), "accepted"),
        (lambda: np.zeros(-1), "traceback"),
    ):
        assert run(lambda call=call: in_library(Input("library", [], call))).verdict == verdict
