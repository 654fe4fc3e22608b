"""Test the data sets: the IDX reader, the places where `load` searches, and the glyphs.

No test uses the network or the user's cache. The mirrors are local servers with a tiny data set that
replaces MNIST. The last tests read the real MNIST if EQPROP_NP_DATA names its directory.
"""

import gzip
import hashlib
import io
import os
import re
import sys
import threading
import time
import tracemalloc
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eqprop_np.experiments import datasets
from eqprop_np.experiments.datasets import DataError, Dataset, glyphs, load, read_idx

MNIST = os.environ.get("EQPROP_NP_DATA")
MIRRORS = datasets.MIRRORS
Patch = pytest.MonkeyPatch
Payloads = dict[str, bytes]
FILES = tuple(datasets.SHA256)
TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS = FILES


def idx(array: np.ndarray) -> bytes:
    """Return the IDX file of an array."""
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    return header + array.astype(np.uint8).tobytes()


def tiny(seed: int = 0, size: tuple[int, int] = (3, 4), classes: int = 5) -> Payloads:
    """Return the payloads of a data set with two training images and one test image per class."""
    rng = np.random.default_rng(seed)
    labels = [rng.permutation(np.arange(n * classes) % classes) for n in (2, 1)]
    images = [rng.integers(256, size=(len(y), *size)) for y in labels]
    return dict(zip(FILES, map(idx, (images[0], labels[0], images[1], labels[1])), strict=True))


def put(directory: Path, payloads: Payloads) -> Path:
    """Write gzipped payloads into a directory, and return the directory."""
    directory.mkdir(parents=True, exist_ok=True)
    for file, payload in payloads.items():
        (directory / f"{file}.gz").write_bytes(gzip.compress(payload))
    return directory


def refusal(action: Callable[[], object]) -> str:
    """Return the message of the DataError that `action` raises. It is one line and says what to do."""
    with pytest.raises(DataError) as caught:
        action()
    message = str(caught.value)
    assert "\n" not in message
    assert ";" in message
    return message


def fields(data: Dataset) -> list[bytes]:
    """Return the four arrays as bytes, which can be compared."""
    return [
        idx(array) for array in (data.train_images, data.train_labels, data.test_images, data.test_labels)
    ]


def holds(data: Dataset, payloads: Payloads) -> bool:
    """Return whether a data set consists of these payloads."""
    return fields(data) == [*payloads.values()]


def cases(names: str, table: dict[str, tuple]) -> pytest.MarkDecorator:
    """Parametrize a test, with a title for each case."""
    return pytest.mark.parametrize(names, table.values(), ids=table.keys())


def files_under(directory: Path) -> list[str]:
    """Return the sorted paths of all files and directories in a directory."""
    return sorted(str(p.relative_to(directory)) for p in directory.rglob("*"))


CACHED = ["eqprop_np", "eqprop_np/mnist", *sorted(f"eqprop_np/mnist/{f}.gz" for f in FILES)]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: Patch) -> Path:
    """Set up an empty cache, repository and working directory, and no mirrors."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.delenv("EQPROP_NP_DATA", raising=False)
    monkeypatch.setattr(datasets, "__file__", str(tmp_path / "repository" / "package" / "part" / "module"))
    monkeypatch.setattr(datasets, "MIRRORS", ())
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "cache"


@pytest.fixture
def fake_mnist(monkeypatch: Patch) -> Payloads:
    """Return a tiny data set that `datasets` accepts as MNIST, because its checksums are patched in."""
    payloads = tiny()
    digests = {file: hashlib.sha256(payload).hexdigest() for file, payload in payloads.items()}
    monkeypatch.setattr(datasets, "SHA256", digests)
    return payloads


# --- The IDX reader


@pytest.mark.parametrize("shape", [(1,), (300,), (1, 1, 1), (2, 3, 4), (5, 1, 2)])
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("name", ["array", "array.gz"])
def test_reads_gzipped_and_raw_whatever_the_name(
    tmp_path: Path, shape: tuple[int, ...], zipped: bool, name: str
) -> None:
    array = np.random.default_rng(0).integers(256, size=shape)
    path = tmp_path / name
    path.write_bytes(gzip.compress(idx(array)) if zipped else idx(array))
    read = read_idx(str(path))
    np.testing.assert_array_equal(read, array)
    assert read.dtype == np.uint8
    assert read.flags.writeable


GOOD = idx(np.arange(24).reshape(2, 3, 4))
ZIPPED = gzip.compress(GOOD)
CORRUPT = ZIPPED[:10] + b"\xff" * 20


@cases(
    "content, complaint",
    {
        "empty file": (b"", "the file is empty"),
        "other bytes": (b"PK\3\4" + GOOD, "magic number is 0x504b0304"),
        "floats": (b"\0\0\x0d\3" + GOOD[4:], "magic number is 0x00000d03"),
        "two dimensions": (idx(np.ones((2, 3))), "magic number is 0x00000802"),
        "non-zero start": (b"\1" + GOOD[1:], "magic number is 0x01000803"),
        "header cut": (GOOD[:15], "the file ends inside its header"),
        "labels' header cut": (idx(np.ones(3))[:6], "the file ends inside its header"),
        "body cut": (GOOD[:-1], "shorter than the 24 bytes"),
        "no body": (GOOD[:16], "shorter than the 24 bytes"),
        "one byte more": (GOOD + b"\0", "longer than the 24 bytes"),
        "no images": (idx(np.ones((0, 3, 4))), "the header specifies 0 bytes"),
        "no labels": (idx(np.ones(0)), "the header specifies 0 bytes"),
        "no pixels": (idx(np.ones((2, 0, 4))), "the header specifies 0 bytes"),
        "huge": (b"\0\0\x08\3" + b"\xff" * 12, "the header specifies"),
        "negative": (b"\0\0\x08\3" + b"\xff" * 8 + b"\0\0\0\1\0", "the header specifies"),
        "a little too huge": (b"\0\0\x08\1\x40\0\0\1", "the header specifies 1073741825 bytes"),
        "zipped, body cut": (gzip.compress(GOOD[:-1]), "shorter than the 24 bytes"),
        "zipped, one byte more": (gzip.compress(GOOD + b"\0"), "longer than the 24 bytes"),
        "stream cut": (ZIPPED[:-9], "cannot be read"),
        "stream's trailer cut": (ZIPPED[:-1], "cannot be read"),
        "stream's header cut": (ZIPPED[:5], "cannot be read"),
        "wrong CRC": (ZIPPED[:-8] + bytes([ZIPPED[-8] ^ 1]) + ZIPPED[-7:], "cannot be read"),
        "bad deflate": (CORRUPT, "cannot be read"),
        "dirt after the stream": (ZIPPED + b"dirt", "cannot be read"),
        "zipped twice": (gzip.compress(ZIPPED), "magic number is 0x1f8b"),
    },
)
def test_refuses_files_that_are_not_whole_idx(tmp_path: Path, content: bytes, complaint: str) -> None:
    path = tmp_path / "some-idx"
    path.write_bytes(content)
    message = refusal(lambda: read_idx(path))
    assert complaint in message
    assert message.startswith(f"{path}: ")


def test_refuses_what_is_not_a_file(tmp_path: Path) -> None:
    assert "No such file" in refusal(lambda: read_idx(tmp_path / "absent"))
    assert "this is not a regular file" in refusal(lambda: read_idx(tmp_path))


def test_a_gzip_bomb_is_not_inflated(tmp_path: Path) -> None:
    path = tmp_path / "bomb"
    path.write_bytes(gzip.compress(GOOD + bytes(50_000_000)))
    tracemalloc.start()
    try:
        assert "longer" in refusal(lambda: read_idx(path))
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


# --- A directory that the user gives


@pytest.mark.parametrize("size", [(3, 4), (28, 28), (1, 1)])
@pytest.mark.parametrize("classes", [2, 10, 47, 256])
def test_a_directory_of_any_size_and_classes(tmp_path: Path, size: tuple[int, int], classes: int) -> None:
    payloads = tiny(size=size, classes=classes)
    data = load(str(put(tmp_path / "fashion", payloads)))
    assert data.name == "fashion"
    assert data.classes == classes
    assert data.train_images.shape == (2 * classes, *size)
    assert data.test_images.shape == (classes, *size)
    assert holds(data, payloads)


def test_a_directory_of_raw_and_gzipped_files(tmp_path: Path) -> None:
    payloads = tiny()
    for i, (file, payload) in enumerate(payloads.items()):
        name = file if i % 2 else f"{file}.gz"
        (tmp_path / name).write_bytes(gzip.compress(payload) if i < 2 else payload)
    assert holds(load(str(tmp_path)), payloads)


def test_the_name_of_the_working_directory(tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.chdir(put(tmp_path / "fashion", tiny()))
    assert load(".").name == load(f"{tmp_path}/fashion/").name == "fashion"


def test_a_directory_with_the_payloads_of_mnist_is_mnist(tmp_path: Path, fake_mnist: Payloads) -> None:
    assert load(str(put(tmp_path / "copy", fake_mnist))).name == "mnist"
    put(tmp_path / "copy", {TEST_LABELS: tiny(seed=1)[TEST_LABELS]})
    assert load(str(tmp_path / "copy")).name == "copy"


@pytest.mark.parametrize("name", ["mnist", "MNIST", "Mnist"])
def test_a_directory_named_mnist_with_other_payloads_is_not_mnist(
    tmp_path: Path, fake_mnist: Payloads, name: str
) -> None:
    """One other file is enough, and the name decides nothing."""
    directory = put(tmp_path / name, fake_mnist)
    assert load(str(directory)).name == "mnist"
    put(directory, {TEST_LABELS: tiny(seed=1)[TEST_LABELS]})
    assert load(str(directory)).name == f"{name} (not MNIST)"


def test_the_digests_identify_the_contents(tmp_path: Path) -> None:
    """They are the SHA-256 of the payloads, however these are stored and named."""
    payloads = tiny()
    expected = tuple(hashlib.sha256(payload).hexdigest() for payload in payloads.values())
    assert load(str(put(tmp_path / "zipped", payloads))).digests == expected
    (tmp_path / "raw").mkdir()
    for file, payload in payloads.items():
        (tmp_path / "raw" / file).write_bytes(payload)
    assert load(str(tmp_path / "raw")).digests == expected
    for k, file in enumerate(FILES):
        changed = bytearray(payloads[file])
        changed[-1] ^= 1 if "images" in file else 0
        put(tmp_path / "changed", payloads | {file: bytes(changed)})
        digests = load(str(tmp_path / "changed")).digests
        assert [n for n in range(4) if digests[n] != expected[n]] == ([k] if "images" in file else [])


def test_mnist_has_the_known_digests(tmp_path: Path, fake_mnist: Payloads) -> None:
    directory = put(tmp_path / "copy", fake_mnist)
    assert load(str(directory)).digests == tuple(datasets.SHA256.values())


def test_glyphs_have_digests_of_their_contents() -> None:
    """They are equal whether the glyphs are drawn or come from the cache."""
    drawn, cached = glyphs(train=20, test=10), glyphs(train=20, test=10)
    assert drawn.digests == cached.digests
    assert len(set(drawn.digests)) == 4
    other = glyphs(train=20, test=10, seed=1)
    assert not set(drawn.digests) & set(other.digests)


def test_a_directory_is_taken_before_what_the_environment_names(tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.setenv("EQPROP_NP_DATA", str(tmp_path / "absent"))
    assert load(str(put(tmp_path / "fashion", tiny()))).name == "fashion"


def test_an_absent_directory(tmp_path: Path) -> None:
    assert "mnits is not a directory" in refusal(lambda: load("mnits"))
    (tmp_path / "file").touch()
    assert "file is not a directory" in refusal(lambda: load(str(tmp_path / "file")))


@pytest.mark.parametrize("file", FILES)
def test_an_absent_file(tmp_path: Path, file: str) -> None:
    (put(tmp_path / "set", tiny()) / f"{file}.gz").unlink()
    message = refusal(lambda: load(str(tmp_path / "set")))
    assert f"{tmp_path / 'set'} contains neither {file} nor {file}.gz;" in message


@pytest.mark.parametrize("file", FILES)
def test_a_damaged_file_is_named(tmp_path: Path, file: str) -> None:
    (put(tmp_path / "set", tiny()) / f"{file}.gz").write_bytes(b"damaged")
    assert f"{file}.gz: " in refusal(lambda: load(str(tmp_path / "set")))


IMAGES_3, IMAGES_2 = np.ones((3, 2, 2)), np.ones((2, 2, 2))


@cases(
    "arrays, complaint",
    {
        "too few training labels": ((IMAGES_3, [0, 1], IMAGES_2, [0, 1]), "3 images but 2 labels"),
        "too many test labels": ((IMAGES_2, [0, 1], IMAGES_2, [0, 1, 1]), "2 images but 3 labels"),
        "labels for images": (([0, 1], [0, 1], IMAGES_2, [0, 1]), "got 1 and 1;"),
        "images for labels": ((IMAGES_2, [0, 1], IMAGES_2, IMAGES_2), "got 3 and 3;"),
        "two heights": ((IMAGES_2, [0, 1], np.ones((2, 3, 2)), [0, 1]), "(2, 2) in the training set but"),
        "two widths": ((IMAGES_2, [0, 1], np.ones((2, 2, 3)), [0, 1]), "(2, 3) in the test set"),
        "a gap": ((IMAGES_3, [0, 1, 3], IMAGES_2, [0, 1]), "0 to 3, but 2 is missing"),
        "no class 0": ((IMAGES_2, [1, 2], IMAGES_2, [1, 2]), "0 to 2, but 0 is missing"),
        "a new class in the test": ((IMAGES_2, [0, 1], IMAGES_2, [0, 2]), "0 to 2, but 2 is missing"),
        "one class": (
            (IMAGES_2, [0, 0], IMAGES_2, [0, 0]),
            "all labels are 0; at least two classes are needed",
        ),
    },
)
def test_refuses_arrays_that_do_not_fit(tmp_path: Path, arrays: tuple, complaint: str) -> None:
    payloads = {file: idx(np.array(array)) for file, array in zip(FILES, arrays, strict=True)}
    message = refusal(lambda: load(str(put(tmp_path / "set", payloads))))
    assert complaint in message
    assert message.startswith(f"{tmp_path / 'set'}: ")


def test_the_test_set_need_not_hold_every_class(tmp_path: Path) -> None:
    arrays = (IMAGES_3, [2, 1, 0], IMAGES_2, [0, 0])
    payloads = {file: idx(np.array(array)) for file, array in zip(FILES, arrays, strict=True)}
    assert load(str(put(tmp_path / "set", payloads))).classes == 3


# --- The places where MNIST is searched for

PLACES = ("named", "repository/data/mnist", "here/data/mnist", "cache/eqprop_np/mnist")


@pytest.mark.parametrize("source", ["auto", "mnist"])
@pytest.mark.parametrize("place", PLACES)
def test_mnist_is_found_in_each_place(
    tmp_path: Path, monkeypatch: Patch, fake_mnist: Payloads, source: str, place: str
) -> None:
    put(tmp_path / place, fake_mnist)
    if place == "named":
        monkeypatch.setenv("EQPROP_NP_DATA", str(tmp_path / "named"))
    data = load(source)
    assert data.name == "mnist"
    assert holds(data, fake_mnist)


def test_the_places_in_their_order(tmp_path: Path, monkeypatch: Patch, fake_mnist: Payloads) -> None:
    put(tmp_path / PLACES[-1], fake_mnist)
    for place, next_place in reversed([*pairwise(PLACES)]):
        put(tmp_path / place, fake_mnist)
        put(tmp_path / next_place, tiny(seed=1))  # would raise an error if it were read first
        if place == "named":
            monkeypatch.setenv("EQPROP_NP_DATA", str(tmp_path / "named"))
        assert holds(load("mnist"), fake_mnist)


def test_an_empty_variable_is_none(tmp_path: Path, monkeypatch: Patch, fake_mnist: Payloads) -> None:
    monkeypatch.setenv("EQPROP_NP_DATA", "")
    put(tmp_path / "cache/eqprop_np/mnist", fake_mnist)
    assert load("mnist").name == "mnist"


def test_the_cache_is_in_the_home_directory_by_default(
    tmp_path: Path, monkeypatch: Patch, fake_mnist: Payloads
) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    put(tmp_path / "home/.cache/eqprop_np/mnist", fake_mnist)
    assert load("mnist").name == "mnist"


@pytest.mark.parametrize("source", ["auto", "mnist"])
@pytest.mark.parametrize("fault", ["absent", "lacking", "other", "damaged"])
def test_a_fault_where_the_environment_points_is_an_error(
    tmp_path: Path, monkeypatch: Patch, fake_mnist: Payloads, source: str, fault: str
) -> None:
    place = tmp_path / "named"
    put(tmp_path / "cache/eqprop_np/mnist", fake_mnist)  # must not hide the fault
    monkeypatch.setenv("EQPROP_NP_DATA", str(place))
    if fault != "absent":
        put(place, fake_mnist)
    if fault == "lacking":
        (place / f"{TEST_LABELS}.gz").unlink()
    if fault == "other":
        put(place, {TEST_LABELS: tiny(seed=1)[TEST_LABELS]})
    if fault == "damaged":
        (place / f"{TEST_LABELS}.gz").write_bytes(gzip.compress(fake_mnist[TEST_LABELS])[:-9])
    message = refusal(lambda: load(source))
    words = {
        "absent": "not a directory",
        "lacking": "contains neither",
        "other": "not MNIST's",
        "damaged": "be read",
    }
    assert message.startswith("EQPROP_NP_DATA: ")
    assert words[fault] in message
    assert str(place) in message


@pytest.mark.parametrize("root", ["repository", "here"])
@pytest.mark.parametrize("source", ["auto", "mnist"])
def test_a_fault_in_data_mnist_is_an_error(
    tmp_path: Path, fake_mnist: Payloads, root: str, source: str
) -> None:
    place = put(tmp_path / root / "data/mnist", {TEST_LABELS: fake_mnist[TEST_LABELS]})
    assert "contains neither" in refusal(lambda: load(source))
    put(place, tiny(seed=1))
    assert "not MNIST's" in refusal(lambda: load(source))


def test_a_directory_without_any_of_the_files_is_passed_over(tmp_path: Path, fake_mnist: Payloads) -> None:
    (tmp_path / "repository/data/mnist").mkdir(parents=True)
    (tmp_path / "repository/data/mnist/.gitkeep").touch()
    put(tmp_path / "cache/eqprop_np/mnist", fake_mnist)
    assert load("mnist").name == "mnist"


def test_without_network_auto_takes_the_glyphs_and_mnist_does_not(
    monkeypatch: Patch, cache: Path, fake_mnist: Payloads
) -> None:
    put(cache / "eqprop_np/mnist", tiny(seed=1))  # not MNIST, so the cache cannot be used either
    monkeypatch.setattr(datasets, "glyphs", lambda **_: "the glyphs")
    assert load("auto") == load() == load("glyphs") == "the glyphs"
    assert "EQPROP_NP_DATA" in refusal(lambda: load("mnist"))


def test_the_files_may_have_a_dot_in_their_names(tmp_path: Path) -> None:
    """Some sources of MNIST write train-images.idx3-ubyte. A name with a hyphen is preferred."""
    payloads = tiny()
    directory = put(tmp_path / "set", {file.replace("-idx", ".idx"): p for file, p in payloads.items()})
    assert holds(load(str(directory)), payloads)
    other = tiny(seed=1)
    for file, payload in other.items():
        (directory / file).write_bytes(payload)
    assert holds(load(str(directory)), other)


@pytest.mark.parametrize("function, name", [(load, "source"), (read_idx, "path")])
def test_what_is_no_path_is_refused(function: Callable[[Any], object], name: str) -> None:
    for value in (None, 3, [], np.zeros(2)):
        with pytest.raises(TypeError, match=f"{name} must be "):
            function(value)


def test_an_empty_source_is_not_the_current_directory() -> None:
    put(Path(), tiny())
    assert "the data source is empty" in refusal(lambda: load(""))


@pytest.mark.parametrize("home", [None, "relative"])
def test_without_a_home_nothing_is_cached(
    home: str | None, monkeypatch: Patch, tmp_path: Path, fake_mnist: Payloads
) -> None:
    """No directory named ~ may appear. A relative XDG_CACHE_HOME is ignored, as its standard says."""
    monkeypatch.delenv("XDG_CACHE_HOME")
    if home is not None:
        monkeypatch.setenv("XDG_CACHE_HOME", home)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as for a user without an entry
    before = files_under(tmp_path)
    assert glyphs(train=10, test=1).classes == 10
    assert "cannot be downloaded" in refusal(lambda: load("mnist"))
    assert files_under(tmp_path) == before


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no named pipes")
def test_a_named_pipe_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "this is not a regular file" in refusal(lambda: read_idx(tmp_path / "pipe"))


def test_it_says_at_once_what_is_searched_for_and_used(
    cache: Path, monkeypatch: Patch, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn = []
    monkeypatch.setattr(datasets, "glyphs", lambda **_: drawn.append(capsys.readouterr()) or "the glyphs")
    assert load("auto", progress=True) == "the glyphs"
    (before,) = drawn
    searched, used = before.err.splitlines()
    assert before.out == ""
    assert searched.startswith("note: MNIST is not in ")
    for place in (Path.cwd() / "data/mnist", cache / "eqprop_np/mnist"):
        assert str(place) in searched
    assert "EQPROP_NP_DATA is not set" in searched
    assert used.startswith("note: MNIST cannot be downloaded")
    assert "set EQPROP_NP_DATA to a directory with its four files" in used
    assert used.endswith("Glyph digits are used instead.")
    assert load("auto") == "the glyphs"
    assert drawn[1].err == ""


# --- The download


class Handler(BaseHTTPRequestHandler):
    """Record the name of each file requested, and let the server's answer function respond."""

    server: "Server"

    def do_GET(self) -> None:
        name = self.path.lstrip("/").removesuffix(".gz")
        self.server.asked.append(name)
        self.server.answer(self, name)

    def send(self, content: bytes | None, length: int | None = None) -> None:
        """Send a file, or status 404 for None. The header states `length`, or no length if it is 0."""
        self.send_response(200 if content is not None else 404)
        if length != 0:
            self.send_header("Content-Length", str(length or len(content or b"")))
        self.end_headers()
        self.wfile.write(content or b"")

    def log_message(self, *_: object) -> None:
        pass


Answer = Callable[[Handler, str], None]
Mirror = Callable[[Answer], list[str]]


class Server(ThreadingHTTPServer):
    """Run a local mirror that responds to requests with `answer`."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answer, self.asked = answer, []

    def handle_error(self, *_: object) -> None:
        """Print nothing. The client closes the connection after a faulty answer, which is expected."""


@pytest.fixture
def mirror(monkeypatch: Patch) -> Iterator[Mirror]:
    """Return a function that adds a local mirror as the last one and returns a list of its requests."""
    servers = []

    def add(answer: Answer) -> list[str]:
        server = Server(answer)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
        url = f"http://127.0.0.1:{server.server_port}/"
        monkeypatch.setattr(datasets, "MIRRORS", (*datasets.MIRRORS, url))
        return server.asked

    yield add
    for server in servers:
        server.shutdown()
        server.server_close()


def serving(payloads: Payloads) -> Answer:
    """Return an answer function that sends the gzipped payloads."""
    files = {file: gzip.compress(payload) for file, payload in payloads.items()}
    return lambda handler, name: handler.send(files.get(name))


def silent(handler: Handler, name: str) -> None:
    """Send nothing for 3 seconds."""
    time.sleep(3)


def stalling(handler: Handler, name: str) -> None:
    """Send two bytes of 1000, and then nothing for 3 seconds."""
    handler.send(b"\x1f\x8b", length=1000)
    time.sleep(3)


def trickling(handler: Handler, name: str) -> None:
    """Send one byte every 0.05 seconds."""
    handler.send(b"", length=1000)
    for _ in range(60):
        handler.wfile.write(b"\0")
        time.sleep(0.05)


def endless(handler: Handler, name: str) -> None:
    """Send 65 million bytes without stating a length."""
    handler.send(b"", length=0)
    for _ in range(1000):
        handler.wfile.write(bytes(1 << 16))


FAULTY: dict[str, tuple[Answer, str]] = {
    "not found": (lambda handler, name: handler.send(None), "404"),
    "another set": (serving(tiny(seed=1)), "the checksum is not"),
    "a page to log in": (lambda handler, name: handler.send(b"<html>"), "magic number"),
    "cut short": (lambda handler, name: handler.send(ZIPPED[:-9], length=500), "ended before"),
    "corrupt": (lambda handler, name: handler.send(CORRUPT), "decompressing"),
    "overlong": (endless, "more than 100000 bytes"),
    "silent": (silent, "did not answer within 0.3 seconds|timed out"),
    "stalling": (stalling, "timed out"),
    "trickling": (trickling, "not complete after 0.5 seconds"),
    "hanging up": (lambda handler, name: None, ""),
    "not HTTP": (lambda handler, name: handler.wfile.write(b"220 smtp\r\n"), "220 smtp"),
}


@pytest.fixture
def hasty(monkeypatch: Patch) -> None:
    """Set short timeouts and a small limit on the size of a download."""
    monkeypatch.setattr(datasets, "TIMEOUT", 0.3)
    monkeypatch.setattr(datasets, "DEADLINE", 0.5)
    monkeypatch.setattr(datasets, "MAX_DOWNLOAD", 100_000)


@pytest.mark.parametrize("source", ["auto", "mnist"])
def test_downloads_once(mirror: Mirror, cache: Path, fake_mnist: Payloads, source: str) -> None:
    asked = mirror(serving(fake_mnist))
    data = load(source)
    assert data.name == "mnist"
    assert holds(data, fake_mnist)
    assert files_under(cache) == CACHED
    assert holds(load(source), fake_mnist)
    assert asked == [*FILES]


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("fault", FAULTY)
def test_a_faulty_mirror_leaves_nothing_behind(
    mirror: Mirror, cache: Path, fake_mnist: Payloads, fault: str
) -> None:
    answer, complaint = FAULTY[fault]
    mirror(answer)
    start = time.monotonic()
    message = refusal(lambda: load("mnist"))
    assert time.monotonic() - start < 2
    assert datasets.MIRRORS[0] in message
    assert re.search(complaint, message)
    assert files_under(cache) == []


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("fault", FAULTY)
def test_the_next_mirror_steps_in(mirror: Mirror, cache: Path, fake_mnist: Payloads, fault: str) -> None:
    mirror(FAULTY[fault][0])
    mirror(serving(fake_mnist))
    assert holds(load("mnist"), fake_mnist)
    assert files_under(cache) == CACHED


def test_a_mirror_that_fails_at_the_last_file(mirror: Mirror, cache: Path, fake_mnist: Payloads) -> None:
    asked = mirror(serving({**fake_mnist, TEST_LABELS: tiny(seed=1)[TEST_LABELS]}))
    assert f"{TEST_LABELS}: the checksum is not that of MNIST's file" in refusal(lambda: load("mnist"))
    assert asked == [*FILES]
    assert files_under(cache) == []


def test_no_mirror_at_all_is_told_of_each(mirror: Mirror, monkeypatch: Patch, fake_mnist: Payloads) -> None:
    mirror(FAULTY["another set"][0])
    mirror(FAULTY["not found"][0])
    message = refusal(lambda: load("mnist"))
    assert all(url in message for url in datasets.MIRRORS)
    monkeypatch.setattr(datasets, "glyphs", lambda **_: "the glyphs")
    assert load("auto") == "the glyphs"


def test_a_look_up_that_hangs_is_given_up(monkeypatch: Patch, fake_mnist: Payloads) -> None:
    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: time.sleep(3))
    monkeypatch.setattr(datasets, "MIRRORS", ("http://one.invalid/", "http://two.invalid/"))
    monkeypatch.setattr(datasets, "TIMEOUT", 0.2)
    threads = set(threading.enumerate())
    start = time.monotonic()
    assert "did not answer within 0.2 seconds" in refusal(lambda: load("mnist"))
    assert time.monotonic() - start < 1
    hanging = set(threading.enumerate()) - threads
    assert len(hanging) == 2
    assert all(thread.daemon for thread in hanging)  # daemon threads do not delay the end of the program


def test_the_real_mirrors() -> None:
    assert len(MIRRORS) * datasets.TIMEOUT < 10  # seconds until the lack of a network is detected
    assert all(url.startswith("https://") and url.endswith("/mnist/") for url in MIRRORS)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_damaged_cache_is_renewed(mirror: Mirror, cache: Path, fake_mnist: Payloads, zipped: bool) -> None:
    put(cache / "eqprop_np/mnist", fake_mnist)
    good = cache / "eqprop_np/mnist" / f"{TRAIN_IMAGES}.gz"
    damaged = good if zipped else good.with_suffix("")
    good.unlink()
    damaged.write_bytes(b"damaged")
    asked = mirror(serving(fake_mnist))
    for _ in range(2):
        assert holds(load("mnist"), fake_mnist)
    assert asked == [*FILES]


def test_a_cache_that_cannot_be_written_breaks_nothing(
    mirror: Mirror, cache: Path, fake_mnist: Payloads
) -> None:
    cache.write_text("not a directory", "utf-8")
    mirror(serving(fake_mnist))
    assert holds(load("mnist"), fake_mnist)
    assert glyphs(train=10, test=1).classes == 10
    assert cache.read_text("utf-8") == "not a directory"


def test_a_full_disk_leaves_no_halves(
    monkeypatch: Patch, mirror: Mirror, cache: Path, fake_mnist: Payloads
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)  # the file is written in part
    mirror(serving(fake_mnist))
    assert holds(load("mnist"), fake_mnist)
    glyphs(train=10, test=1)
    assert files_under(cache) == ["eqprop_np", "eqprop_np/mnist"]


def test_nobody_sees_a_file_before_it_is_whole(
    monkeypatch: Patch, mirror: Mirror, cache: Path, fake_mnist: Payloads
) -> None:
    written, replace_file = [], os.replace

    def note(source: Path, target: Path) -> None:
        assert (
            hashlib.sha256(gzip.decompress(Path(source).read_bytes())).hexdigest() in datasets.SHA256.values()
        )
        assert Path(source).parent == Path(target).parent  # on the same file system
        written.append(target)
        replace_file(source, target)

    monkeypatch.setattr(os, "replace", note)
    mirror(serving(fake_mnist))
    load("mnist")
    assert sorted(written) == sorted(cache / f for f in CACHED[2:])


@pytest.mark.parametrize("progress", [True, False])
def test_the_bars_are_on_stderr_and_only_on_request(
    mirror: Mirror, fake_mnist: Payloads, capsys: pytest.CaptureFixture[str], progress: bool
) -> None:
    mirror(serving(fake_mnist))
    load("mnist", progress=progress)
    out, err = capsys.readouterr()
    assert out == ""
    assert [file in err for file in FILES] == [progress] * 4
    assert ("100%" in err) is progress


# --- The glyphs


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Return the default data set, drawn once for all tests."""
    with Patch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        return glyphs()


def test_glyphs_are_laid_out_like_mnist(digits: Dataset) -> None:
    assert digits.name == "glyphs (not MNIST)"
    assert digits.classes == 10
    for images, labels in (
        (digits.train_images, digits.train_labels),
        (digits.test_images, digits.test_labels),
    ):
        assert images.dtype == labels.dtype == np.uint8
        assert images.shape == (len(labels), 28, 28)
        np.testing.assert_array_equal(np.bincount(labels), len(labels) // 10)
        assert len(np.unique(labels[:100])) == 10  # the labels are shuffled
        assert images.min() == 0
        assert images.max() == 255
        peaks = images.max(axis=(1, 2))
        assert peaks.min() < 130  # some digits are dim
        # Digits are white on black: the middle of each image is bright, and the margin is almost black.
        assert (images[:, 6:22, 6:22].max(axis=(1, 2)) > 60).all()
        assert images[:, 6:22, 6:22].mean() > 50
        assert images[:, [0, -1]].mean() < 10
        assert images[:, :, [0, -1]].mean() < 10


def test_no_glyph_occurs_twice(digits: Dataset) -> None:
    images = np.concatenate([digits.train_images, digits.test_images])
    assert len({image.tobytes() for image in images}) == len(images)


def test_every_font_draws_ten_different_digits_from_matplotlib_alone() -> None:
    import matplotlib

    fonts = Path(matplotlib.get_data_path(), "fonts", "ttf")
    assert all((fonts / f"{name}.ttf").is_file() for name in datasets.FONTS)
    stencils = datasets._stencils()
    assert stencils.shape == (len(datasets.FONTS), 10, datasets.CANVAS, datasets.CANVAS)
    assert (stencils.max(axis=(2, 3)) > 150).all()
    assert stencils[..., [0, -1], :].max() < 1  # no digit is cut off
    assert stencils[..., [0, -1]].max() < 1
    flat = stencils.reshape(-1, datasets.CANVAS**2)
    assert len(np.unique(flat, axis=0)) == len(flat)


def test_the_digits_are_not_mirrored() -> None:
    """In most fonts a 3 is open to the left, a 6 is heavier below, a 9 above, and a 4 on the right."""
    ink = datasets._stencils().sum(axis=0)
    (upper, lower), (left, right) = (np.split(ink, 2, axis) for axis in (1, 2))
    for digit, heavy, light in ((3, right, left), (4, right, left), (6, lower, upper), (9, upper, lower)):
        assert heavy[digit].sum() > 1.05 * light[digit].sum()


def test_each_digit_has_its_holes() -> None:
    from scipy.ndimage import label

    for digits in datasets._stencils():
        holes = [label(digit < 100)[1] - 1 for digit in digits]
        del holes[4]  # the 4 has no hole in some fonts
        assert holes == [1, 0, 0, 0, 0, 1, 0, 2, 1]
        for digit, sign in ((6, 1), (9, -1)):  # the hole is low in a 6 and high in a 9
            rows = np.nonzero(label(digits[digit] < 100)[0] == 2)[0]
            assert sign * (rows.mean() - datasets.CANVAS / 2) > 5


class Calm:
    """A random generator that returns fixed numbers, except for normal ones of a given shape per image."""

    def __init__(self, shape: tuple[int, ...] = (), normal: Callable = np.zeros) -> None:
        self.shape, self.standard_normal = shape, normal

    def normal(self, mean: float, deviation: float, size: tuple[int, ...]) -> np.ndarray:
        chance = self.standard_normal if size[1:] == self.shape else np.zeros
        return mean + deviation * chance(size)

    def uniform(self, low: float, high: float, size: tuple[int, ...]) -> np.ndarray:
        return np.full(size, high, float)

    def integers(self, stop: int, size: int) -> np.ndarray:
        return np.arange(size) % stop


def test_an_undistorted_glyph_shows_its_label() -> None:
    # Each stencil has its own brightness, which identifies the digit and the font.
    stencils = np.zeros((20, 10, 64, 64), np.float32)
    stencils[..., 8:56, 20:32] = np.arange(200).reshape(20, 10, 1, 1) + 1.5
    labels = np.array([3, 1, 4, 9] * 5, np.uint8)
    images = datasets._draw(stencils, labels, Calm())
    np.testing.assert_array_equal(images[:, 14, 12], 10 * np.arange(20) + labels + 1)
    rows, columns = np.nonzero(images[0])  # the digit is upright and 48 / 2.4 = 20 pixels high
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (4, 23, 9, 13)


def test_the_linear_map_of_a_glyph() -> None:
    stencils = np.zeros((1, 10, 64, 64), np.float32)
    stencils[..., 8:56, 30:34] = 255
    shear = Calm((2, 2), lambda size: np.broadcast_to([[0, 0], [1 / 0.15, 0]], size))
    (image,) = datasets._draw(stencils, np.zeros(1, np.uint8), shear)
    # Column 0 of the stencil becomes the line x + y = 0 of the image, a rising diagonal.
    rows, columns = np.nonzero(image > 100)
    assert set(rows + columns) <= {26, 27, 28}
    assert (rows.min(), rows.max()) == (4, 23)


@pytest.mark.parametrize("shape", [(2, 2), (2, 1, 1), (2, 28, 28), (28, 28)])
def test_each_distortion_makes_every_glyph_another(shape: tuple[int, ...]) -> None:
    chance = np.random.default_rng(0).standard_normal
    stencils = datasets._stencils()[:1]
    images = datasets._draw(stencils, np.zeros(20, np.uint8), Calm(shape, chance))
    assert len({image.tobytes() for image in images}) == 20


def test_glyphs_are_deterministic(tmp_path: Path, monkeypatch: Patch) -> None:
    first = glyphs(train=1500, test=50)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another"))
    assert fields(glyphs(train=1500, test=50)) == fields(first)
    other = glyphs(train=1500, test=50, seed=1)
    assert all(a != b for a, b in zip(fields(other), fields(first), strict=True))


def test_the_progress_of_drawing_is_shown_on_a_terminal(
    monkeypatch: Patch, capsys: pytest.CaptureFixture[str]
) -> None:
    glyphs(train=10, test=1, progress=True)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    glyphs(train=10, test=1, seed=1, progress=False)
    assert capsys.readouterr().err == ""
    glyphs(train=10, test=1, seed=2, progress=True)
    assert "drawing glyphs" in capsys.readouterr().err


def test_glyphs_are_drawn_once(monkeypatch: Patch, cache: Path) -> None:
    first = glyphs(train=20, test=10)
    assert len(files_under(cache)) == 2
    monkeypatch.setattr(datasets, "_stencils", lambda: pytest.fail("drawn again"))
    assert fields(glyphs(train=20, test=10)) == fields(first)
    for changed in ({"train": 30}, {"test": 11}, {"seed": 1}):
        with pytest.raises(pytest.fail.Exception, match="drawn again"):
            glyphs(**{"train": 20, "test": 10, **changed})


def npy() -> bytes:
    """Return the content of a valid .npy file, which is not an .npz file."""
    file = io.BytesIO()
    np.save(file, np.ones(3))
    return file.getvalue()


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: b"damaged",
        lambda content: content[:-30],
        lambda content: content[:1000] + bytes([content[1000] ^ 1]) + content[1001:],
        lambda content: npy(),
    ],
)
def test_damaged_glyphs_are_drawn_anew(cache: Path, damage: Callable[[bytes], bytes]) -> None:
    first = glyphs(train=20, test=10)
    (kept,) = cache.rglob("*.npz")
    content = kept.read_bytes()
    kept.write_bytes(damage(content))
    assert fields(glyphs(train=20, test=10)) == fields(first)
    assert kept.read_bytes() == content


@pytest.mark.parametrize(("train", "test"), [(9, 10), (0, 10), (10, 0), (10, -1), (-20, 10)])
def test_too_few_glyphs(train: int, test: int) -> None:
    assert f"{train} training and {test} test" in refusal(lambda: glyphs(train=train, test=test))


def test_ten_and_one_glyph_will_do() -> None:
    data = glyphs(train=10, test=1)
    assert (len(data.train_images), len(data.test_images)) == (10, 1)


def error_rate(data: Dataset, hidden: bool) -> float:
    """Return the test error of a softmax classifier, with a hidden layer of 128 ReLUs if `hidden`."""
    rng = np.random.default_rng(0)
    x, x_test = (
        images.reshape(len(images), -1).astype(np.float32) / 255
        for images in (data.train_images, data.test_images)
    )
    y = np.eye(10, dtype=np.float32)[data.train_labels]
    w1 = rng.normal(0, 0.05, (784, 128)).astype(np.float32)
    w2 = np.zeros((128 if hidden else 784, 10), np.float32)

    def features(x: np.ndarray) -> np.ndarray:
        return np.maximum(x @ w1, 0) if hidden else x

    for batch in np.array_split(rng.permuted(np.tile(np.arange(len(x)), 8)), 3200):
        h = features(x[batch])
        p = np.exp(h @ w2)
        d = 0.2 * (p / p.sum(axis=1, keepdims=True) - y[batch]) / len(batch)
        if hidden:
            w1 -= x[batch].T @ (d @ w2.T * (h > 0))
        w2 -= h.T @ d
    return float(((features(x_test) @ w2).argmax(axis=1) != data.test_labels).mean())


def test_glyphs_are_hard_for_linear_classifiers_only(digits: Dataset) -> None:
    assert 0.05 < error_rate(digits, hidden=False) < 0.2
    assert error_rate(digits, hidden=True) < 0.05


# --- The real MNIST


@pytest.mark.skipif(not MNIST, reason="set EQPROP_NP_DATA to a directory with MNIST's four files")
@pytest.mark.parametrize("source", ["auto", "mnist", "directory"])
def test_the_real_mnist(monkeypatch: Patch, source: str) -> None:
    if source == "directory":
        data = load(str(MNIST))
    else:
        monkeypatch.setenv("EQPROP_NP_DATA", str(MNIST))
        data = load(source)
    assert data.name == "mnist"
    assert data.classes == 10
    assert data.train_images.shape == (60_000, 28, 28)
    assert data.test_images.shape == (10_000, 28, 28)
    assert data.train_labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert data.test_labels[:5].tolist() == [7, 2, 1, 0, 4]
    assert data.train_images.mean() == pytest.approx(33.318, abs=1e-3)
    assert data.test_images.mean() == pytest.approx(33.791, abs=1e-3)
