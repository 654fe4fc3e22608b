"""Where the images come from: MNIST, any other four IDX files, or digits drawn from fonts.

MNIST is looked for in the directory that the environment variable EQPROP_NP_DATA names, in
``data/mnist``, in the user's cache and on the network. Each of its files counts only if the
SHA-256 of its decompressed payload is the known one. Where all this fails, `glyphs` draws digits
of its own, so that a machine without a network can learn something too.

Images and labels stay unsigned bytes; whoever trains on them scales them.
"""

import gzip
import hashlib
import io
import math
import os
import queue
import threading
import time
import urllib.request
import zlib
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

Bytes = NDArray[np.uint8]

SHA256 = {  # of MNIST's payloads, in the order of Dataset's fields
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
TIMEOUT = 4.0  # seconds that a mirror may keep silent
DEADLINE = 300.0  # seconds that one file may take
MAX_DOWNLOAD = 16 << 20  # bytes; the largest of MNIST's files has 10 million, gzipped
MAX_PAYLOAD = 1 << 30  # bytes; a header that announces more is taken for a mistake

FONTS = (  # matplotlib brings them along, so every machine draws the same digits
    *(f"DejaVuSans{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSansMono{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSerif{style}" for style in ("", "-Bold", "-Italic", "-BoldItalic")),
    *(f"STIXGeneral{style}" for style in ("", "Bol", "Italic", "BolIta")),
    *("cmb10", "cmr10", "cmss10", "cmti10", "cmtt10"),
)
CANVAS = 64  # pixels along the side of a stencil; the digit on it is about 48 high


class DataError(ValueError):
    """Data that is missing or wrong: one line that says what is wrong, and what to do."""


class _Offline(DataError):
    """No mirror gave MNIST."""


@dataclass(frozen=True)
class Dataset:
    """A training and a test set of grey images, N of H × W pixels, each of one class.

    Attributes
    ----------
    name : "mnist", "glyphs (not MNIST)", or the name of the directory that was given.
    train_images, test_images : (N, H, W), from 0 for black to 255 for white.
    train_labels, test_labels : (N,), each in 0 … classes − 1.
    classes : 1 + the largest label of either set, at least 2.
    """

    name: str
    train_images: Bytes
    train_labels: Bytes
    test_images: Bytes
    test_labels: Bytes
    classes: int


def load(source: str = "auto", *, progress: bool = False) -> Dataset:
    """Find a data set.

    Parameters
    ----------
    source : "mnist"; "auto", which is MNIST if it can be had and else the glyphs; "glyphs"; or a
        directory with four IDX files named like MNIST's, of any image size and number of classes.
    progress : whether a download shows bars on stderr.

    Raises
    ------
    DataError : if files are missing, damaged, at odds with each other or, under "mnist" and
        "auto", not MNIST's; under "mnist" also if no mirror can be reached.
    """
    if source == "glyphs":
        return glyphs()
    if source not in ("auto", "mnist"):
        return _directory(Path(source))
    if named := os.environ.get("EQPROP_NP_DATA"):
        try:
            return _directory(Path(named), mnist=True)
        except DataError as error:
            raise DataError(f"EQPROP_NP_DATA: {error}") from error
    for root in (Path(__file__).resolve().parents[1], Path()):
        place = root / "data" / "mnist"
        if any(_find(place, file) for file in SHA256):
            return _directory(place, mnist=True)
    with suppress(DataError):  # an absent or damaged cache is ours to renew
        return _directory(_cache() / "mnist", mnist=True)
    try:
        return _download(progress)
    except _Offline:
        if source == "mnist":
            raise
        return glyphs()


def read_idx(path: str | os.PathLike[str]) -> Bytes:
    """Read an IDX file of unsigned bytes, gzipped or raw whatever its name says.

    Returns
    -------
    The images, (N, H, W), or the labels, (N,).

    Raises
    ------
    DataError : if there is no such file, or it is not IDX, empty, damaged, too short or too long.
    """
    return _read(Path(path))[0]


def glyphs(train: int = 20_000, test: int = 4_000, seed: int = 0) -> Dataset:
    """Draw distorted digits of 28 × 28 pixels from matplotlib's fonts, or take them from the cache.

    A linear classifier errs on some 10 % of the test set, a hidden layer of 512 units on some 2 %,
    much as on MNIST. The classes are balanced. The same arguments give the same bytes, as long as
    NumPy, SciPy and matplotlib stay the same.

    Raises
    ------
    DataError : if `train` is too small to hold all ten digits, or `test` is not positive.
    """
    if train < 10 or test < 1:
        raise DataError(f"{train} training and {test} test glyphs; ask for 10 and 1 at least")
    name = "glyphs (not MNIST)"
    path = _cache() / f"glyphs-1-{train}-{test}-{seed}.npz"  # count the 1 up if `_draw` changes
    with suppress(Exception), np.load(path) as kept:  # whatever ails the file, drawing cures it
        return _dataset(name, [*kept.values()], path)

    rng = np.random.default_rng(seed)
    stencils = _stencils()
    arrays = []
    for count in (train, test):
        labels = rng.permutation(np.arange(count) % 10).astype(np.uint8)
        pieces = np.array_split(labels, math.ceil(count / 1000))  # to bound the memory
        arrays += [np.concatenate([_draw(stencils, piece, rng) for piece in pieces]), labels]
    file = io.BytesIO()
    np.savez(file, *arrays)
    _keep(path, file.getvalue())
    return _dataset(name, arrays, path)


def _directory(directory: Path, mnist: bool = False) -> Dataset:
    """The data set of the four files in a directory; if `mnist`, only MNIST will do."""
    if not os.path.isdir(directory):
        raise DataError(f"no directory {directory}; give auto, mnist, glyphs or a directory")
    arrays, digests = [], []
    for file in SHA256:
        path = _find(directory, file)
        if path is None:
            raise DataError(f"{directory} lacks {file} (or {file}.gz); put it there")
        array, digest = _read(path)
        if mnist and digest != SHA256[file]:
            raise DataError(f"{path}: not MNIST's; replace it, or give its directory as the source")
        arrays.append(array)
        digests.append(digest)
    genuine = digests == [*SHA256.values()]
    return _dataset("mnist" if genuine else directory.resolve().name, arrays, directory)


def _find(directory: Path, file: str) -> Path | None:
    # Gzipped first: what a download puts into the cache hides a damaged raw file.
    paths = (directory / f"{file}.gz", directory / file)
    return next((path for path in paths if os.path.isfile(path)), None)


def _dataset(name: str, arrays: list[Bytes], where: object) -> Dataset:
    """Put four arrays together if they fit each other."""
    train_images, train_labels, test_images, test_labels = arrays
    for images, labels in ((train_images, train_labels), (test_images, test_labels)):
        if images.ndim != 3 or labels.ndim != 1:
            raise DataError(f"{where}: images and labels are mixed up; give each file its name")
        if len(images) != len(labels):
            counts = f"{len(images)} images but {len(labels)} labels"
            raise DataError(f"{where}: {counts}; give each image one label")
    if train_images.shape[1:] != test_images.shape[1:]:
        sizes = f"{train_images.shape[1:]} in training but {test_images.shape[1:]} in the test"
        raise DataError(f"{where}: images of size {sizes}; give all the same size")
    classes = max(2, 1 + int(train_labels.max()), 1 + int(test_labels.max()))
    missing = np.setdiff1d(np.arange(classes), train_labels)
    if len(missing):
        gap = f"labels up to {classes - 1}, but {missing[0]} is not among the training labels"
        raise DataError(f"{where}: {gap}; number the classes from 0 without a gap")
    return Dataset(name, *arrays, classes)


def _read(path: Path) -> tuple[Bytes, str]:
    try:
        with path.open("rb") as stream:
            return _decode(stream, path)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({error}); replace it") from error


def _decode(stream: BinaryIO, where: object) -> tuple[Bytes, str]:
    """The array of an IDX stream, gzipped or raw, and the SHA-256 of its decompressed payload."""
    zipped = stream.read(2) == b"\x1f\x8b"
    stream.seek(0)
    payload = gzip.GzipFile(fileobj=stream) if zipped else stream
    magic = payload.read(4)
    if magic not in (b"\0\0\x08\x01", b"\0\0\x08\x03"):
        wanted = "0x00000801 (labels) or 0x00000803 (images)"
        raise DataError(f"{where}: its magic number is 0x{magic.hex()}; give a file with {wanted}")
    header = payload.read(4 * magic[3])
    if len(header) < 4 * magic[3]:
        raise DataError(f"{where}: ends within its header; replace it")
    shape = np.frombuffer(header, ">u4").tolist()
    size = math.prod(shape)
    if not 0 < size <= MAX_PAYLOAD:
        raise DataError(f"{where}: its header announces {size} bytes; give 1 to {MAX_PAYLOAD}")
    body = payload.read(size + 1)  # one more shows that there is more; a gzip bomb stops here
    if len(body) != size:
        fault = "shorter" if len(body) < size else "longer"
        raise DataError(f"{where}: {fault} than the {size} bytes its header announces; replace it")
    array = np.frombuffer(body, np.uint8).reshape(shape).copy()  # writeable, unlike the bytes
    return array, hashlib.sha256(magic + header + body).hexdigest()


def _download(progress: bool) -> Dataset:
    """MNIST from the first mirror that has all of it, kept in the cache for the next time."""
    problems = []
    for mirror in MIRRORS:
        try:
            files = {file: _fetch(mirror, file, progress) for file in SHA256}
        except (OSError, EOFError, zlib.error, HTTPException, DataError) as error:
            problems.append(" ".join(f"{mirror}: {error}".split()))  # on one line
            continue
        for file, (content, _) in files.items():
            _keep(_cache() / "mnist" / f"{file}.gz", content)
        return _dataset("mnist", [array for _, array in files.values()], mirror)
    raise _Offline(
        f"MNIST cannot be downloaded ({'; '.join(problems)}); "
        "set EQPROP_NP_DATA to a directory with its four files, or take the glyphs"
    )


def _fetch(mirror: str, file: str, progress: bool) -> tuple[bytes, Bytes]:
    """One of MNIST's files, as it came and decoded."""
    content = bytearray()
    end = time.monotonic() + DEADLINE
    with (
        _open(f"{mirror}{file}.gz") as answer,
        tqdm(None, file, answer.length, unit="B", unit_scale=True, disable=not progress) as bar,
    ):
        while chunk := answer.read1(1 << 16):
            content += chunk
            bar.update(len(chunk))
            if len(content) > MAX_DOWNLOAD:
                raise DataError(f"{file}: more than {MAX_DOWNLOAD} bytes")
            if time.monotonic() > end:
                raise TimeoutError(f"{file}: not complete after {DEADLINE:g} seconds")
    array, digest = _decode(io.BytesIO(content), file)
    if digest != SHA256[file]:
        raise DataError(f"{file}: wrong checksum")
    return bytes(content), array


def _open(url: str) -> HTTPResponse:
    """Open `url` within TIMEOUT in all.

    A thread, because urllib's own time-out spares the look-up of the name and starts anew for each
    address of the host: behind some firewalls that adds up to minutes.
    """
    answers: queue.SimpleQueue[HTTPResponse | Exception] = queue.SimpleQueue()

    def ask() -> None:
        try:
            answers.put(urllib.request.urlopen(url, timeout=TIMEOUT))
        except Exception as error:
            answers.put(error)

    threading.Thread(target=ask, daemon=True).start()
    try:
        answer = answers.get(timeout=TIMEOUT)
    except queue.Empty:
        raise TimeoutError(f"no answer within {TIMEOUT:g} seconds") from None
    if isinstance(answer, Exception):
        raise answer
    return answer


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "eqprop_np")


def _keep(path: Path, content: bytes) -> None:
    """Write a file of the cache, whole or not at all; failing to costs time but breaks nothing."""
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=path.parent) as scratch:
            draft = Path(scratch, path.name)
            draft.write_bytes(content)
            draft.replace(path)


def _stencils() -> NDArray[np.float32]:
    """Each digit in each font, large and centred: (fonts, 10, CANVAS, CANVAS)."""
    import matplotlib  # here, because only the glyphs need it
    from matplotlib.ft2font import FT2Font
    from scipy.ndimage import gaussian_filter

    stencils = np.zeros((len(FONTS), 10, CANVAS, CANVAS), np.float32)
    for i, name in enumerate(FONTS):
        font = FT2Font(os.path.join(matplotlib.get_data_path(), "fonts", "ttf", f"{name}.ttf"))
        font.set_size(64, 72)
        for digit in range(10):
            font.set_text(str(digit))
            font.draw_glyphs_to_bitmap(antialiased=True)
            image = np.asarray(font.get_image())
            height, width = image.shape
            top, left = (CANVAS - height) // 2, (CANVAS - width) // 2
            stencils[i, digit, top : top + height, left : left + width] = image
    return gaussian_filter(stencils, (0, 0, 1, 1))  # against aliasing, since `_draw` shrinks them


def _draw(stencils: NDArray[np.float32], labels: Bytes, rng: np.random.Generator) -> Bytes:
    """A digit for each label, (N, 28, 28): from a random font, bent, dimmed, and with noise.

    Its pixel r shows the point A (r + d(r)) of the stencil, both counted from the centre, where A
    is a random linear map, and d a random shift plus a smooth random displacement.
    """
    from scipy.ndimage import gaussian_filter, map_coordinates

    n = len(labels)
    # 2.4 shrinks a digit to a height of 20 pixels, as in MNIST.
    linear = 2.4 * (np.eye(2) + rng.normal(0, 0.15, (n, 2, 2)))
    shift = rng.normal(0, 0.8, (n, 2, 1, 1))
    # The blur leaves a standard deviation of 0.8 pixels of the 11.
    bend = gaussian_filter(rng.normal(0, 11, (n, 2, 28, 28)), (0, 0, 4, 4))
    pixels = np.mgrid[:28, :28] - 13.5
    points = np.einsum("nij,njrc->inrc", linear, pixels + shift + bend) + (CANVAS - 1) / 2
    which = 10 * rng.integers(len(stencils), size=n) + labels
    which = np.broadcast_to(which[:, None, None], (n, 28, 28))
    images = map_coordinates(stencils.reshape(-1, CANVAS, CANVAS), (which, *points), order=1)
    images *= rng.uniform(0.4, 1, (n, 1, 1))
    images += rng.normal(0, 10, images.shape)
    return images.clip(0, 255).astype(np.uint8)
