"""Tests of files that are complete or not there, and of directories that one process writes at a time."""

import errno
import multiprocessing
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import eqprop_np
from eqprop_np import files
from eqprop_np.files import locked, naming, replacing

ROOT = Path(eqprop_np.__file__).parents[1]


def write(path: Path, text: str = "new") -> None:
    with replacing(path) as file:
        file.write(text)


def child(body: str) -> subprocess.Popen[str]:
    """Start a process with this code and wait for its first line."""
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n" + body
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8"
    )
    assert process.stdout.readline() == "ready\n"
    return process


WRITES = """
from pathlib import Path
from eqprop_np.files import replacing
with replacing(Path("run.npz"), "wb") as file:
    print("ready", flush=True)
    input()
    file.write(b"theirs")
"""

HOLDS = """
from pathlib import Path
from eqprop_np.files import locked
with locked(Path("run")):
    print("ready", flush=True)
    input()
"""


# ---- temporary files


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_writes_is_not() -> None:
    """Also those of earlier versions, whose names end in a process id, which may be in use again."""
    path = Path("run.npz")
    living, dead = child(WRITES), child(WRITES)
    Path(f".run.npz.{os.getpid()}").touch()
    dead.kill()
    dead.communicate()
    assert len(list(Path().glob(".run.npz.*"))) == 3
    others = [Path(name) for name in (".run.npz.backup", ".run.npz.", "run.npz.12", ".other.npz.12")]
    for other in others:
        other.touch()
    write(path)
    (left,) = set(Path().glob(".run.npz.*")) - set(others)
    assert all(other.exists() for other in others)
    living.communicate("\n")
    assert living.returncode == 0
    assert path.read_bytes() == b"theirs"
    assert not left.exists()


def test_two_threads_write_the_same_file_one_after_the_other() -> None:
    path = Path("file")
    with replacing(path) as file:
        file.write("first")
        thread = threading.Thread(target=write, args=(path, "second"))
        thread.start()
        thread.join()
        assert path.read_text("utf-8") == "second"
    assert path.read_text("utf-8") == "first"
    assert os.listdir() == ["file"]


def test_without_locks_files_are_written_and_directories_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on some network file systems. What may be another process's is not removed."""

    def unsupported(file: Any) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(files, "_lock", unsupported)
    Path(".file.12").touch()
    with locked(Path()):
        write(Path("file"))
    assert sorted(os.listdir()) == [".file.12", "file"]


@pytest.mark.parametrize("name", ["missing/file", "directory", "file/below"])
def test_an_error_names_the_file_and_not_the_temporary_one(name: str) -> None:
    Path("directory").mkdir()
    Path("file").touch()
    with pytest.raises(OSError) as caught:
        write(Path(name))
    assert str(caught.value).endswith(f": {name!r}")
    assert not list(Path().glob(".*"))


def test_what_is_not_a_file_stays() -> None:
    """A pipe or a device would become a file, and a link would lose its target."""
    os.mkfifo("pipe")
    with pytest.raises(OSError, match="pipe: this is not a regular file; choose another one"):
        write(Path("pipe"))
    assert Path("pipe").is_fifo()
    Path("target").touch()
    Path("link").symlink_to("target")
    write(Path("link"))
    assert Path("link").is_symlink() and Path("target").read_text("utf-8") == "new"


def test_a_full_disk_is_named_and_other_errors_are_as_they_were() -> None:
    with pytest.raises(OSError, match="No space left on device: 'file'"), naming(Path("file")):
        raise OSError(errno.ENOSPC, "No space left on device")
    for error in (OSError("unknown"), FileNotFoundError(errno.ENOENT, "No such file", "font")):
        with pytest.raises(OSError) as caught, naming(Path("file"), Path("temporary")):
            raise error
        assert caught.value is error


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_device_that_is_full_is_named() -> None:
    """What is buffered is written when the file is closed. That error does not name the file."""
    path = Path("/dev/full")
    device = "No space left on device: '/dev/full'"
    with pytest.raises(OSError, match=device), naming(path), open(path, "w", encoding="utf-8") as file:
        file.write("text")


# ---- directories


@pytest.fixture
def run() -> Path:
    path = Path("run")
    path.mkdir()
    return path


def refusal(directory: Path) -> str:
    with pytest.raises(BlockingIOError) as caught, locked(directory):
        pass
    return str(caught.value)


def test_a_directory_is_locked_until_the_context_ends(run: Path) -> None:
    for _ in range(2):
        with locked(run):
            assert refusal(run) == "run is in use by another run: wait until it ends, or choose another one"
            assert refusal(run)  # a refusal does not unlock it
        assert not list(run.iterdir())


def test_a_directory_is_locked_until_the_process_is_killed(run: Path) -> None:
    process = child(HOLDS)
    assert refusal(run)
    process.kill()
    process.communicate()
    with locked(run):
        pass
    assert not list(run.iterdir())


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="only POSIX forks")
def test_a_forked_process_does_not_keep_the_lock(run: Path) -> None:
    """A worker of a killed run may live for a moment longer than the run."""
    context = multiprocessing.get_context("fork")
    ends, started = context.Event(), context.Event()

    def work() -> None:
        started.set()
        ends.wait()

    with locked(run):
        worker = context.Process(target=work, daemon=True)
        worker.start()
        started.wait()
        assert refusal(run)
        (file,) = files._locks
        file.close()  # as the end of this process does
        with locked(run):
            pass
    ends.set()
    worker.join()


def test_a_lock_file_that_was_just_removed_does_not_count(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else this process and a third one, which makes a new lock file, would both hold the directory."""
    lock = files._lock

    def slow(file: Any) -> None:
        (run / ".lock").unlink()
        lock(file)

    monkeypatch.setattr(files, "_lock", slow)
    assert refusal(run)


def test_a_directory_that_cannot_be_locked_is_named() -> None:
    with pytest.raises(FileNotFoundError, match="directory: 'nowhere'"), locked(Path("nowhere")):
        pass
