"""Data sets for classification: fixed splits, verified content, errors that say what is missing and where it looked.

digits          scikit-learn's bundled 8 × 8 digits; nothing to download
moons           two half circles of points in the plane, with noise
ring            eight Gaussians on a circle of points in the plane
mnist           IDX files, gzipped or not, in config.data.directory
fashion_mnist   likewise
NAME.npz        named arrays, in config.data.directory
"""

import gzip
import hashlib
import pathlib
import zipfile
import zlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from experiments import progress
from experiments.configuration import did_you_mean
from experiments.errors import UserError

DEFAULTS = {
    "name": "digits",  # digits, moons, ring, mnist, fashion_mnist, or the name of an .npz file
    "directory": "",  # where the files are
    "evaluate_on": "test",  # or "validation": every tenth training example, which then is not trained on
    "shards": "",  # stream the training examples from files of the directory, as train-*.npz, instead of `name`
    "test_shards": "",  # files of the directory with the examples of evaluation, where training streams
    "num_train": 0,  # train on the first so many examples only; 0: on all
}
TEST_FRACTION, VALIDATION_FRACTION = 0.2, 0.1
MOST_LABEL = 99_999
NUM_TRAIN_POINTS, NUM_TEST_POINTS = 50_000, 10_000  # in the plane
MOONS_NOISE = 0.05
RING_STD = 0.02
RING_CENTERS = np.stack([np.cos(np.arange(8) * np.pi / 4), np.sin(np.arange(8) * np.pi / 4)], 1)
IDX_MAGIC = 0x08  # unsigned bytes
UNREADABLE = (OSError, EOFError, NotImplementedError, TypeError, ValueError, zipfile.BadZipFile, zlib.error)  # of .npz
NPZ_NAMES = (("train_inputs", "train_labels", "test_inputs", "test_labels"), ("x_train", "y_train", "x_test", "y_test"))

# SHA-256 of the uncompressed files.
MNIST_SHA256 = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
# MD5 of the archives, as Fashion-MNIST's authors publish them; they publish none of the uncompressed files.
FASHION_MNIST_MD5 = {
    "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
    "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
    "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
    "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
}
DIGITS_SHA256 = "87ff0c9e40dc7e2c0e34e7257799c2e3f3aec1a016363bb11cad869ec428a826"  # of images, then labels, as bytes
FASHION_CLASSES = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")


class Split(NamedTuple):
    """Inputs [n, …] and integer labels [n], in host memory."""

    inputs: np.ndarray
    labels: np.ndarray


class DataSet(NamedTuple):
    """Examples to train on and to be scored on.

    Attributes:
      train: the training examples.
      test: the examples of evaluation.
      class_names: one for each label 0 … C − 1.
      source: where the training examples are streamed from; `train` then holds nothing but their shapes.
    """

    train: Split
    test: Split
    class_names: tuple[str, ...]
    source: Any = None


def load(config: Mapping[str, Any]) -> DataSet:
    """Load the data set of a config with the fields of `DEFAULTS`.

    Raises:
      UserError: a name is unknown, or a file is missing, damaged or of another shape.
    """
    name, directory = config["name"], config["directory"]
    if config["evaluate_on"] not in ("test", "validation"):
        raise UserError(f"config.data.evaluate_on is {config['evaluate_on']!r}; it must be 'test' or 'validation'.")
    if config.get("shards") or config.get("test_shards"):
        return _streamed(config)
    if name.endswith(".npz"):
        data = _npz(pathlib.Path(directory) / name)
    elif name in LOADERS:
        data = LOADERS[name](directory)
    else:
        raise UserError(
            f"config.data.name is {name!r}{did_you_mean(name, LOADERS)}; "
            f"it must be one of {', '.join(LOADERS)}, or end with .npz."
        )
    if config["evaluate_on"] == "validation":
        data = data._replace(**split(data.train, VALIDATION_FRACTION)._asdict())
    num_train = config.get("num_train", 0)
    if not 0 <= num_train <= len(data.train.labels):
        raise UserError(
            f"config.data.num_train is {num_train}; it must be from 1 to {len(data.train.labels)}, or 0 for all."
        )
    return data._replace(train=Split(*(array[: num_train or None] for array in data.train)))


def title(config: Mapping[str, Any]) -> str:
    """What a run on the data of a config is said to learn on."""
    return config.get("shards") or pathlib.Path(config["name"]).stem


def _streamed(config: Mapping[str, Any]) -> DataSet:
    """The examples of evaluation, and where those of training are read from when their turn comes."""
    from experiments.streaming import open_source  # here, because it needs an extra

    if not (config["shards"] and config["test_shards"]):
        raise UserError("config.data.shards and config.data.test_shards go together: what to train on, and to score.")
    if config["evaluate_on"] != "test" or config.get("num_train", 0):
        raise UserError("config.data.shards are streamed whole: leave evaluate_on and num_train as they are.")
    train, test = (open_source(config["directory"], config[name]) for name in ("shards", "test_shards"))
    if train.example_shape != test.example_shape:
        raise UserError(
            f"training examples have shape {train.example_shape}, those of evaluation {test.example_shape}."
        )
    inputs = np.broadcast_to(np.zeros((), train.example_dtype), (len(train), *train.example_shape))  # takes no memory
    names = tuple(map(str, range(max(train.num_classes, test.num_classes))))
    return DataSet(
        Split(inputs, np.broadcast_to(np.int32(0), len(train))), Split(*test.read(np.arange(len(test)))), names, train
    )


class Parts(NamedTuple):
    """Two parts of a data set."""

    train: Split
    test: Split


def split(examples: Split, fraction: float) -> Parts:
    """Set a fraction of every class aside, always the same examples.

    Of a class with m examples round(fraction · m) go to the second part, drawn by a generator with seed 0. Both parts
    keep the order of the whole.

    Raises:
      UserError: every class is so small that nothing would be set aside.
    """
    generator, is_test = np.random.default_rng(0), np.zeros(len(examples.labels), bool)
    for label in np.unique(examples.labels):
        members = np.flatnonzero(examples.labels == label)
        is_test[generator.permutation(members)[: round(fraction * len(members))]] = True
    if not is_test.any():
        raise UserError(f"no class has enough examples to set {fraction:.0%} of it aside ({len(is_test)} in all).")
    return Parts(*(Split(examples.inputs[mask], examples.labels[mask]) for mask in (~is_test, is_test)))


def _digits(directory: str) -> DataSet:
    del directory
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images, labels = bunch.images.astype(np.uint8), bunch.target.astype(np.int32)
    if hashlib.sha256(images.tobytes() + labels.astype(np.uint8).tobytes()).hexdigest() != DIGITS_SHA256:
        raise UserError("scikit-learn's digits are not those that are known here; reinstall scikit-learn.")
    whole = Split(images.astype(np.float32) / 16, labels)
    return DataSet(*split(whole, TEST_FRACTION), tuple("0123456789"))


def _mnist(directory: str) -> DataSet:
    def verify(stem, archive, content):
        del archive
        if hashlib.sha256(content).hexdigest() != MNIST_SHA256[stem]:
            raise UserError(f"{stem} in {directory} is not MNIST's file (its SHA-256 differs); get it anew.")

    return _idx_data_set("mnist", directory, tuple("0123456789"), verify)


def _fashion_mnist(directory: str) -> DataSet:
    def verify(stem, archive, content):
        del content
        if archive is None or hashlib.md5(archive).hexdigest() != FASHION_MNIST_MD5[f"{stem}.gz"]:
            progress.say("warning", f"{stem} in {directory} is not the published archive: only its shape was verified")

    return _idx_data_set("fashion_mnist", directory, FASHION_CLASSES, verify)


def _moons(directory: str) -> DataSet:
    del directory

    def draw(size, seed):
        # Labels are drawn as well: scikit-learn's moons have exactly as many points each, closer to one another than
        # samples of the same law are.
        generator = np.random.default_rng(seed)
        labels, angle = generator.integers(0, 2, size), generator.uniform(0, np.pi, size)
        upper = np.stack([np.cos(angle), np.sin(angle)], 1)
        lower = np.stack([1 - np.cos(angle), 0.5 - np.sin(angle)], 1)
        points = np.where(labels[:, None] == 0, upper, lower) + MOONS_NOISE * generator.standard_normal((size, 2))
        return Split(points.astype(np.float32), labels.astype(np.int32))

    return DataSet(draw(NUM_TRAIN_POINTS, 0), draw(NUM_TEST_POINTS, 1), ("upper", "lower"))


def _ring(directory: str) -> DataSet:
    del directory

    def draw(size, seed):
        generator = np.random.default_rng(seed)
        labels = generator.integers(0, len(RING_CENTERS), size)
        points = RING_CENTERS[labels] + RING_STD * generator.standard_normal((size, 2))
        return Split(points.astype(np.float32), labels.astype(np.int32))

    return DataSet(draw(NUM_TRAIN_POINTS, 0), draw(NUM_TEST_POINTS, 1), tuple(map(str, range(len(RING_CENTERS)))))


LOADERS: dict[str, Callable[[str], DataSet]] = {
    "digits": _digits,
    "moons": _moons,
    "ring": _ring,
    "mnist": _mnist,
    "fashion_mnist": _fashion_mnist,
}


def _idx_data_set(name: str, directory: str, class_names: tuple[str, ...], verify: Callable[..., None]) -> DataSet:
    stems = tuple(MNIST_SHA256)
    if not directory:
        raise UserError(f"data set {name} needs --config.data.directory, the folder with {', '.join(stems)} (or .gz).")
    folder = pathlib.Path(directory)
    paths = {stem: [path for path in (folder / stem, folder / f"{stem}.gz") if path.is_file()] for stem in stems}
    missing = [stem for stem, found in paths.items() if not found]
    if missing:
        where = "looked in" if folder.is_dir() else "there is no folder"
        raise UserError(f"data set {name}: no {', '.join(missing)} (or .gz); {where} {folder.resolve()}.")
    arrays = []
    for stem, count in zip(stems, (60_000, 60_000, 10_000, 10_000), strict=True):
        path = paths[stem][0]
        raw = path.read_bytes()
        archive = raw if path.suffix == ".gz" else None
        content = _decompressed(path, raw) if archive is not None else raw
        shape = (count, 28, 28) if "images" in stem else (count,)
        arrays.append(parse_idx(path, content, shape))
        verify(stem, archive, content)
    train_images, train_labels, test_images, test_labels = arrays
    for labels in (train_labels, test_labels):
        if labels.max() >= len(class_names):
            raise UserError(f"data set {name}: label {labels.max()} is beyond its {len(class_names)} classes.")
    return DataSet(
        Split(train_images, train_labels.astype(np.int32)),
        Split(test_images, test_labels.astype(np.int32)),
        class_names,
    )


def _decompressed(path: pathlib.Path, raw: bytes) -> bytes:
    try:
        return gzip.decompress(raw)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise UserError(f"{path} is damaged: {error}.") from error


def parse_idx(path: pathlib.Path, content: bytes, shape: tuple[int, ...]) -> np.ndarray:
    """Read an IDX file of unsigned bytes: two zeros, the type, the number of axes, their lengths, the numbers.

    Raises:
      UserError: it is no such file, or its shape is another.
    """
    header = 4 + 4 * len(shape)
    if len(content) < header or content[:3] != bytes([0, 0, IDX_MAGIC]) or content[3] != len(shape):
        raise UserError(f"{path} is not an IDX file of bytes with {len(shape)} axes.")
    found = tuple(int(length) for length in np.frombuffer(content, ">u4", len(shape), offset=4))
    size = len(content) - header
    if found != shape or size != np.prod(shape):
        raise UserError(f"{path} has shape {found} and {size} numbers; it must have shape {shape}.")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def _npz(path: pathlib.Path) -> DataSet:
    try:
        with path.open("rb") as file, np.load(file) as content:
            arrays = dict(content)
    except UNREADABLE as error:
        reason = "there is no such file" if not path.is_file() else "it is no .npz file of plain arrays"
        raise UserError(f"data set {path.resolve()} cannot be read: {reason}.") from error
    for names in NPZ_NAMES:
        if set(names[:2]) <= set(arrays):
            break
    else:
        raise UserError(
            f"{path} holds {', '.join(arrays) or 'nothing'}; it must hold {' or '.join(map(', '.join, NPZ_NAMES))}, "
            "the last two of which may be missing."
        )
    if strangers := {name for other in NPZ_NAMES if other != names for name in other} & set(arrays):
        raise UserError(f"{path} mixes two ways of naming: {', '.join(names[:2])} and {', '.join(sorted(strangers))}.")
    train = _checked(path, names[0], arrays[names[0]], arrays[names[1]])
    if (names[2] in arrays) != (names[3] in arrays):
        raise UserError(f"{path} holds only one of {names[2]} and {names[3]}; it must hold both or neither.")
    if names[2] in arrays:
        parts = Parts(train, _checked(path, names[2], arrays[names[2]], arrays[names[3]]))
    else:
        parts = split(train, TEST_FRACTION)
    if parts.train.inputs.shape[1:] != parts.test.inputs.shape[1:]:
        raise UserError(
            f"{path}: examples have shape {parts.train.inputs.shape[1:]} in {names[0]}, "
            f"{parts.test.inputs.shape[1:]} in {names[2]}."
        )
    num_classes = max(int(part.labels.max()) for part in parts) + 1
    return DataSet(*parts, tuple(map(str, range(num_classes))))


def _checked(path: pathlib.Path, name: str, inputs: np.ndarray, labels: np.ndarray) -> Split:
    labels = labels.reshape(-1) if labels.ndim == 2 and labels.shape[1] == 1 else labels
    if labels.ndim != 1 or inputs.shape[:1] != labels.shape or not len(labels):
        raise UserError(f"{path}: {name} of shape {inputs.shape} does not go with labels of shape {labels.shape}.")
    if not np.issubdtype(labels.dtype, np.integer):
        raise UserError(f"{path}: labels must be integers from 0 on; those of {name} are {labels.dtype}.")
    if labels.min() < 0 or labels.max() > MOST_LABEL:
        span = f"from {labels.min()} to {labels.max()}"
        raise UserError(f"{path}: labels must be integers from 0 to {MOST_LABEL:,}; those of {name} are {span}.")
    if inputs.ndim < 2 or inputs.dtype.kind not in "biuf":
        raise UserError(f"{path}: {name} must be numbers [n, …]; it is {inputs.dtype} of shape {inputs.shape}.")
    with np.errstate(over="ignore"):
        inputs = inputs if inputs.dtype == np.uint8 else inputs.astype(np.float32)
    if not np.isfinite(inputs).all():
        raise UserError(f"{path}: {name} holds NaN, or numbers that are infinite in float32.")
    return Split(inputs, labels.astype(np.int32))
