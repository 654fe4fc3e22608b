"""Load the images: MNIST, any other four IDX files, or digits drawn from fonts.

MNIST is searched for in four places, in this order: the directory that the environment variable
EQPROP_NP_DATA names, ``data/mnist``, the user's cache, and the network. A file is accepted as MNIST's
only if the SHA-256 of its decompressed payload is the known one. If MNIST cannot be found, `glyphs`
draws a substitute, so that training also works on a machine without a network.

Images and labels are stored as unsigned bytes. The training code scales the images.
"""

import gzip
import hashlib
import io
import math
import os
import queue
import sys
import threading
import time
import urllib.request
import zlib
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from eqprop_np.augmentation import random_points, resample
from eqprop_np.checks import check_kind
from eqprop_np.files import is_irregular, replacing

Bytes = NDArray[np.uint8]

SHA256 = {  # of MNIST's decompressed files, in the order of Dataset's fields
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
TIMEOUT = 4.0  # seconds to wait for an answer, or for more data, from a mirror
DEADLINE = 300.0  # seconds that the download of one file may take
MAX_DOWNLOAD = 16 << 20  # bytes; the largest gzipped file of MNIST has 10 million
MAX_PAYLOAD = 1 << 30  # bytes; a header that specifies more is treated as an error

FONTS = (  # every matplotlib since 3.7 includes these fonts, so every machine draws the same digits
    *(f"DejaVuSans{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSansMono{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSerif{style}" for style in ("", "-Bold", "-Italic", "-BoldItalic")),
    *(f"STIXGeneral{style}" for style in ("", "Bol", "Italic", "BolIta")),
    *("cmb10", "cmr10", "cmss10", "cmtt10"),
)
CANVAS = 64  # width and height of a stencil in pixels; its digit is about 48 pixels high


class DataError(ValueError):
    """Raised if data are missing or wrong. The message is one line: what is wrong, then what to do."""


class _Offline(DataError):
    """Raised if no mirror provides MNIST."""


@dataclass(frozen=True)
class Dataset:
    """A training set and a test set of labelled grey images.

    Attributes
    ----------
    name : str
        "mnist" for the genuine files only, "glyphs (not MNIST)", or the name of the directory that was
        given.
    train_images, test_images : ndarray of uint8, shape (N, H, W)
        The pixels, from 0 (black) to 255 (white). The two sets may differ in N only.
    train_labels, test_labels : ndarray of uint8, shape (N,)
        The class of each image, from 0 to classes − 1.
    classes : int
        1 + the largest label in either set, and at least 2.
    digests : tuple of str
        The SHA-256 of the payloads of the four files, in the order of `SHA256`. They identify the data.
    """

    name: str
    train_images: Bytes
    train_labels: Bytes
    test_images: Bytes
    test_labels: Bytes
    classes: int
    digests: tuple[str, ...]


def load(source: str = "auto", *, progress: bool = False) -> Dataset:
    """Load the data set that `source` names.

    Parameters
    ----------
    source : str
        "mnist", "glyphs", "auto" or a directory. "auto" loads MNIST if it is available and the
        glyphs otherwise. A directory must contain four IDX files with the names of MNIST's files,
        ``train-images-idx3-ubyte`` or ``train-images.idx3-ubyte``, …; any image size and any number
        of classes are allowed.
    progress : bool
        Whether to say on stderr what is searched for and used instead of MNIST, with progress bars of the
        downloads and of the drawing on a terminal.

    Returns
    -------
    Dataset
        The training set and the test set.

    Raises
    ------
    DataError
        If a file is missing or damaged, or if the files do not fit each other. With "mnist" or
        "auto" also if a file in EQPROP_NP_DATA's directory or in ``data/mnist`` is not MNIST's.
        With "mnist" also if no mirror provides MNIST.
    """
    check_kind("source", source, str | os.PathLike, "auto, mnist, glyphs or a directory")
    if source == "glyphs":
        return glyphs(progress=progress)
    if not source:
        raise DataError("the data source is empty; give auto, mnist, glyphs or a directory")
    if source not in ("auto", "mnist"):
        return _directory(Path(source))
    if named := os.environ.get("EQPROP_NP_DATA"):
        try:
            return _directory(Path(named), mnist=True)
        except DataError as error:
            raise DataError(f"EQPROP_NP_DATA: {error}") from error
    places = [root / "data" / "mnist" for root in (Path(__file__).resolve().parents[2], Path.cwd())]
    for place in places:
        if any(_find(place, file) for file in SHA256):
            return _directory(place, mnist=True)
    if cache := _cache():
        places.append(cache / "mnist")
        with suppress(DataError):  # a missing or damaged cache is downloaded again
            return _directory(places[-1], mnist=True)
    if progress:
        _note(f"MNIST is not in {', '.join(map(str, dict.fromkeys(places)))}, and EQPROP_NP_DATA is not set. "
              "It is downloaded now.")  # fmt: skip
    try:
        return _download(progress)
    except _Offline as error:
        if source == "mnist":
            raise
        if progress:
            _note(f"{error}. Glyph digits are used instead.")
        return glyphs(progress=progress)


def _note(text: str) -> None:
    print(f"note: {text}", file=sys.stderr, flush=True)


def read_idx(path: str | os.PathLike[str]) -> Bytes:
    """Read an IDX file of unsigned bytes, gzipped or raw.

    Parameters
    ----------
    path : str or path-like
        The file. Its content decides whether it is decompressed; its name does not matter.

    Returns
    -------
    ndarray of uint8, shape (N, H, W) or (N,)
        The images or the labels.

    Raises
    ------
    DataError
        If the file does not exist, is not an IDX file, is empty or damaged, or is shorter or longer
        than its header specifies.
    """
    check_kind("path", path, str | os.PathLike, "the path of a file")
    return _read(Path(path))[0]


def glyphs(train: int = 20_000, test: int = 4_000, seed: int = 0, *, progress: bool = False) -> Dataset:
    """Draw distorted digits of 28 × 28 pixels from matplotlib's fonts, or load them from the cache.

    The test error of a linear classifier is about 10 %. With a hidden layer of 512 units it is about
    2 %. Both are similar to the errors on MNIST. The classes are balanced. Equal arguments give equal
    bytes if the versions of NumPy, SciPy and matplotlib are also equal.

    Parameters
    ----------
    train, test : int
        The number of training images, at least 10, and of test images, at least 1.
    seed : int
        The seed of the random generator.
    progress : bool
        Whether to show a progress bar on stderr, on a terminal only.

    Returns
    -------
    Dataset
        The images of the ten digits, under the name "glyphs (not MNIST)".

    Raises
    ------
    DataError
        If `train` is less than 10, so that a digit is missing, or if `test` is less than 1.
    """
    if train < 10 or test < 1:
        raise DataError(f"got {train} training and {test} test glyphs; at least 10 and 1 are needed")
    name = "glyphs (not MNIST)"
    file = f"glyphs-2-{train}-{test}-{seed}.npz"  # increment the 2 if `_draw` or the fonts change
    if cache := _cache():
        with suppress(Exception), np.load(cache / file) as kept:  # if the file is unusable, draw again
            arrays = [*kept.values()]
            return _dataset(name, arrays, _digests(arrays), cache / file)

    rng = np.random.default_rng(seed)
    stencils = _stencils()
    arrays = []
    with tqdm(None, "drawing glyphs", train + test, leave=False, disable=None if progress else True) as bar:
        for count in (train, test):
            labels = rng.permutation(np.arange(count) % 10).astype(np.uint8)
            images = []
            for piece in np.array_split(labels, math.ceil(count / 1000)):  # limits the memory
                images.append(_draw(stencils, piece, rng))
                bar.update(len(piece))
            arrays += [np.concatenate(images), labels]
    content = io.BytesIO()
    np.savez(content, *arrays)
    _keep(file, content.getvalue())
    return _dataset(name, arrays, _digests(arrays), name)


def _digests(arrays: list[Bytes]) -> list[str]:
    """Return the SHA-256 of each array's bytes and shape."""
    return [hashlib.sha256(repr(a.shape).encode() + a.tobytes()).hexdigest() for a in arrays]


def _directory(directory: Path, mnist: bool = False) -> Dataset:
    """Return the data set of the four files in a directory. If `mnist`, refuse any other than MNIST."""
    if not os.path.isdir(directory):
        raise DataError(f"{directory} is not a directory; give an existing one, or auto, mnist or glyphs")
    arrays, digests = [], []
    for file in SHA256:
        path = _find(directory, file)
        if path is None:
            raise DataError(f"{directory} contains neither {file} nor {file}.gz; add one of them")
        array, digest = _read(path)
        if mnist and digest != SHA256[file]:
            raise DataError(
                f"{path}: the file is not MNIST's; replace it, or give its directory as the data source"
            )
        arrays.append(array)
        digests.append(digest)
    name = directory.resolve().name
    if digests == [*SHA256.values()]:
        name = "mnist"
    elif name.lower() == "mnist":
        name = f"{name} (not MNIST)"
    return _dataset(name, arrays, digests, directory)


def _find(directory: Path, file: str) -> Path | None:
    # The gzipped file is first, so that a downloaded file is used instead of a damaged raw one.
    names = (file, file.replace("-idx", ".idx"))  # some sources write train-images.idx3-ubyte
    paths = [directory / f"{name}{suffix}" for name in names for suffix in (".gz", "")]
    return next((path for path in paths if os.path.isfile(path)), None)


def _dataset(name: str, arrays: list[Bytes], digests: list[str], where: object) -> Dataset:
    """Return the data set of four arrays, or raise DataError if they do not fit each other."""
    train_images, train_labels, test_images, test_labels = arrays
    for images, labels in ((train_images, train_labels), (test_images, test_labels)):
        if images.ndim != 3 or labels.ndim != 1:
            raise DataError(
                f"{where}: images must have 3 dimensions and labels 1, "
                f"got {images.ndim} and {labels.ndim}; check the file names"
            )
        if len(images) != len(labels):
            counts = f"{len(images)} images but {len(labels)} labels"
            raise DataError(f"{where}: got {counts}; provide one label for each image")
    if train_images.shape[1:] != test_images.shape[1:]:
        sizes = f"{train_images.shape[1:]} in the training set but {test_images.shape[1:]} in the test set"
        raise DataError(f"{where}: the images have size {sizes}; use one size for all images")
    classes = max(2, 1 + int(train_labels.max()), 1 + int(test_labels.max()))
    missing = np.setdiff1d(np.arange(classes), train_labels)
    if max(train_labels.max(), test_labels.max()) == 0:
        raise DataError(f"{where}: all labels are 0; at least two classes are needed, numbered from 0")
    if len(missing):
        gap = f"the training labels must include 0 to {classes - 1}, but {missing[0]} is missing"
        raise DataError(f"{where}: {gap}; number the classes from 0 without gaps")
    return Dataset(name, train_images, train_labels, test_images, test_labels, classes, tuple(digests))


def _read(path: Path) -> tuple[Bytes, str]:
    if is_irregular(path):
        raise DataError(f"{path}: this is not a regular file; replace it")
    try:
        with path.open("rb") as stream:
            return _decode(stream, path)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: the file cannot be read ({error}); replace it") from error


def _decode(stream: BinaryIO, where: object) -> tuple[Bytes, str]:
    """Return the array of an IDX stream, gzipped or raw, and the SHA-256 of its decompressed payload."""
    zipped = stream.read(2) == b"\x1f\x8b"
    stream.seek(0)
    payload = gzip.GzipFile(fileobj=stream) if zipped else stream
    magic = payload.read(4)
    if not magic:
        raise DataError(f"{where}: the file is empty; replace it")
    if magic not in (b"\0\0\x08\x01", b"\0\0\x08\x03"):
        wanted = "0x00000801 (labels) or 0x00000803 (images)"
        raise DataError(f"{where}: the magic number is 0x{magic.hex()}; give a file with {wanted}")
    header = payload.read(4 * magic[3])
    if len(header) < 4 * magic[3]:
        raise DataError(f"{where}: the file ends inside its header; replace it")
    shape = np.frombuffer(header, ">u4").tolist()
    size = math.prod(shape)
    if not 0 < size <= MAX_PAYLOAD:
        raise DataError(f"{where}: the header specifies {size} bytes; give a file with 1 to {MAX_PAYLOAD}")
    body = payload.read(size + 1)  # the extra byte detects excess data without inflating all of it
    if len(body) != size:
        fault = "shorter" if len(body) < size else "longer"
        raise DataError(
            f"{where}: the data are {fault} than the {size} bytes that the header specifies; replace the file"
        )
    array = np.frombuffer(body, np.uint8).reshape(shape).copy()  # the copy is writeable
    return array, hashlib.sha256(magic + header + body).hexdigest()


def _download(progress: bool) -> Dataset:
    """Download MNIST from the first mirror that provides all four files, and store it in the cache."""
    problems = []
    for mirror in MIRRORS:
        try:
            files = {file: _fetch(mirror, file, progress) for file in SHA256}
        except (OSError, EOFError, zlib.error, HTTPException, DataError) as error:
            problems.append(" ".join(f"{mirror}: {error}".split()))  # removes line breaks
            continue
        for file, (content, _) in files.items():
            _keep(f"mnist/{file}.gz", content)
        return _dataset("mnist", [array for _, array in files.values()], [*SHA256.values()], mirror)
    raise _Offline(
        f"MNIST cannot be downloaded ({'; '.join(problems)}); "
        "set EQPROP_NP_DATA to a directory with its four files, or use the data set glyphs"
    )


def _fetch(mirror: str, file: str, progress: bool) -> tuple[bytes, Bytes]:
    """Download one of MNIST's files. Return its gzipped content and the decoded array."""
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
                raise DataError(f"{file}: the mirror sent more than {MAX_DOWNLOAD} bytes")
            if time.monotonic() > end:
                raise TimeoutError(f"{file}: the download is not complete after {DEADLINE:g} seconds")
    array, digest = _decode(io.BytesIO(content), file)
    if digest != SHA256[file]:
        raise DataError(f"{file}: the checksum is not that of MNIST's file")
    return bytes(content), array


def _open(url: str) -> HTTPResponse:
    """Open `url`, or raise TimeoutError after TIMEOUT seconds in total.

    The request runs in a thread. The timeout of urllib does not include the name look-up, and it
    restarts for each address of the host. Behind some firewalls this takes minutes in total.
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
        raise TimeoutError(f"the mirror did not answer within {TIMEOUT:g} seconds") from None
    if isinstance(answer, Exception):
        raise answer
    return answer


def _cache() -> Path | None:
    """Return the directory of the cache, or None if there is no absolute path for it, as without a HOME."""
    for parent in (os.environ.get("XDG_CACHE_HOME", ""), os.path.expanduser("~/.cache")):
        if os.path.isabs(parent):
            return Path(parent, "eqprop_np")
    return None


def _keep(file: str, content: bytes) -> None:
    """Write a file of the cache atomically. Errors are ignored, because the cache is optional."""
    if (cache := _cache()) is None:
        return
    path = cache / file
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path, "wb") as stream:
            stream.write(content)


def _stencils() -> NDArray[np.float32]:
    """Return a large, centred image of each digit in each font, shape (fonts, 10, CANVAS, CANVAS)."""
    import matplotlib  # imported here, because only the glyphs need it
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
    return gaussian_filter(stencils, (0, 0, 1, 1))  # prevents aliasing, because `_draw` shrinks them


def _draw(stencils: NDArray[np.float32], labels: Bytes, rng: np.random.Generator) -> Bytes:
    """Return an image for each label, shape (N, 28, 28), in a random font, distorted and with noise.

    Pixel r of the image shows the point A (r + d(r)) of the stencil. Both positions are measured
    from the centre. A is a random linear map. d is a random shift plus a smooth random displacement.
    The image is then dimmed at random, and noise is added.
    """
    n = len(labels)
    # The factor 2.4 reduces the height of a digit to 20 pixels, as in MNIST.
    linear = 2.4 * (np.eye(2) + rng.normal(0, 0.15, (n, 2, 2)))
    points = random_points(rng, (n, 28, 28))
    which = 10 * rng.integers(len(stencils), size=n) + labels
    images = resample(stencils.reshape(-1, CANVAS, CANVAS), which, linear, points)
    images *= rng.uniform(0.4, 1, (n, 1, 1))
    images += rng.normal(0, 10, images.shape)
    return images.clip(0, 255).astype(np.uint8)
