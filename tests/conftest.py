"""What all tests share: reproducible examples, and a place of their own to write in."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from threadpoolctl import threadpool_limits

settings.register_profile("default", max_examples=10, deadline=None, derandomize=True)
settings.register_profile(
    "thorough", max_examples=1000, deadline=None
)  # pytest --hypothesis-profile=thorough
settings.load_profile("default")


@pytest.fixture(scope="session")
def session_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The processes of pytest-xdist have a directory each, and share the cache beside it."""
    own = tmp_path_factory.getbasetemp()
    cache = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "cache"
    cache.mkdir(exist_ok=True)
    return cache


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """BLAS threads wait for one another at each small product: on busy cores that takes 50 times as long."""
    with threadpool_limits(1, "blas"):
        yield


@pytest.fixture(autouse=True, scope="session")
def encoding_warnings_here() -> None:
    """What the tests start does not inherit PYTHONWARNDEFAULTENCODING: other packages cause warnings."""
    os.environ.pop("PYTHONWARNDEFAULTENCODING", None)


@pytest.fixture(autouse=True)
def elsewhere(session_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the user's cache nor a directory ``runs`` of theirs is touched."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(session_cache))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Ctrl-C interrupts, as in a terminal; what a shell starts in the background would ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def no_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run draws no curves.png, which would take most of its time; `test_report.py` looks at it."""
    from eqprop_np.experiments.report import Report

    monkeypatch.setattr(Report, "_plot", lambda self, progress: None)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)
