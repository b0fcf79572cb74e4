"""Shards of labelled examples on disk, read where they lie: of a file, only what a batch takes.

NAME.npz                          `inputs` [n, …] and `labels` [n] as `np.savez` writes them (`np.savez_compressed` does
                                  not do); so called, or train_inputs and train_labels, or x_train and y_train
NAME-images-idx3-ubyte            IDX of unsigned bytes [n, height, width], with NAME-labels-idx1-ubyte beside it
NAME.array_record                 ArrayRecord of one example per record: the label as a little-endian int64, then the
                                  input as `np.save` writes it; `write_array_record` makes them
"""

import hashlib
import io
import json
import mmap
import pathlib
import zipfile
from types import ModuleType
from typing import Any, Protocol

import numpy as np

from experiments import data
from experiments.errors import UserError

NPZ_NAMES = (("inputs", "labels"), *(names[:2] for names in data.NPZ_NAMES))
IMAGES, LABELS = "-images-idx3-ubyte", "-labels-idx1-ubyte"
KINDS = f"NAME.npz, NAME{IMAGES} (with NAME{LABELS}) or NAME.array_record"
LOCAL_HEADER, LOCAL_MAGIC = 30, b"PK\x03\x04"  # of a zip archive's member, before its name and its extra field
ENCRYPTED = 0x1
RANDOM_BELOW = 64 * 1024  # bytes of an example: for larger ones the kernel's reading ahead is worth its while
SCAN = 1024  # records at a time


class Shard(Protocol):
    """The examples of one file.

    Attributes:
      path: the file.
      shape: of one input.
      dtype: of the inputs as they are stored.
      num_examples: at least 1.
      num_classes: one more than the largest label; 0 where the labels have not been read.
    """

    path: pathlib.Path
    shape: tuple[int, ...]
    dtype: np.dtype
    num_examples: int
    num_classes: int

    def read(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Inputs, as they are stored, and labels of the examples at positions [k]."""


class Source:
    """Random access to the examples of several shards, one shard after the other.

    Attributes:
      example_shape: of one input.
      example_dtype: uint8, or float32 for whatever else is stored.
      num_classes: labels are in 0 … num_classes − 1.
      fingerprint: of the shards' names, sizes and kind of example.
    """

    def __init__(self, shards: list[Shard], names: list[str], num_classes: int):
        first, self._shards, self.num_classes = shards[0], shards, num_classes
        self.example_shape = first.shape
        self.example_dtype = first.dtype if first.dtype == np.uint8 else np.dtype(np.float32)
        sizes = [shard.num_examples for shard in shards]
        self._ends = np.cumsum(sizes)
        identity = json.dumps([names, sizes, first.shape, first.dtype.str])
        self.fingerprint = hashlib.sha256(identity.encode()).hexdigest()[:16]

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        inputs, labels = self.read(np.array([range(len(self))[index]]))
        return inputs[0], int(labels[0])

    def read(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Read the examples at indices [k], each in 0 … len − 1: inputs [k, …] and labels [k], int32.

        Raises:
          UserError: a record is damaged, an input is not finite, or a label is beyond the classes.
        """
        inputs = np.empty((len(indices), *self.example_shape), self.example_dtype)
        labels = np.empty(len(indices), np.int32)
        owners = np.searchsorted(self._ends, indices, side="right")
        for owner in np.unique(owners):
            places, shard = np.flatnonzero(owners == owner), self._shards[owner]
            stored, found = shard.read(indices[places] - (self._ends[owner] - shard.num_examples))
            _check_labels(shard.path, found, self.num_classes)
            with np.errstate(over="ignore"):
                inputs[places] = stored
            labels[places] = found
            if stored.dtype.kind == "f" and not np.isfinite(inputs[places]).all():
                raise UserError(f"{shard.path}: inputs hold NaN, or numbers that are infinite in float32.")
        return inputs, labels


def open_source(directory: str, pattern: str, num_classes: int | None = None) -> Source:
    """Open the shards in a directory whose names match a pattern, as in `train-*.npz` or `**/*.array_record`.

    Args:
      directory: where to look.
      pattern: as `pathlib.Path.glob` takes it; shards come in the order of their paths.
      num_classes: None finds it out, for which array-record shards are read once from end to end.

    Raises:
      UserError: no file matches, one is no shard or is damaged, or shards differ in the shape or type of their inputs.
    """
    folder = pathlib.Path(directory)
    if num_classes is not None and num_classes < 1:
        raise UserError(f"num_classes is {num_classes}; it must be at least 1, or None to find it out.")
    paths = _shard_paths(folder, pattern)
    shards = [_open(path, num_classes) for path in paths]
    for shard in shards:
        if (shard.shape, shard.dtype) != (shards[0].shape, shards[0].dtype):
            raise UserError(
                f"all shards must hold the same kind of input: {shards[0].path} holds {shards[0].dtype} of shape "
                f"{shards[0].shape}, {shard.path} holds {shard.dtype} of shape {shard.shape}."
            )
    names = [path.relative_to(folder).as_posix() for path in paths]
    return Source(shards, names, num_classes or max(shard.num_classes for shard in shards))


def write_array_record(path: str | pathlib.Path, inputs: np.ndarray, labels: np.ndarray) -> None:
    """Write inputs [n, …] and labels [n] as one array-record shard.

    Raises:
      UserError: they are no examples, the name does not end with .array_record, or the file cannot be written.
    """
    path, inputs = pathlib.Path(path), np.ascontiguousarray(inputs)
    if path.suffix != ".array_record":
        raise UserError(f"{path} must end with .array_record.")
    _check_inputs(path, inputs.shape, inputs.dtype)
    labels = _checked_labels(path, np.asarray(labels), len(inputs))
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(inputs[0]))
    module = _array_record_module()
    try:
        writer = module.ArrayRecordWriter(str(path), "group_size:1")  # records are read one by one, in any order
        for label, example in zip(labels.tolist(), inputs, strict=True):
            writer.write(label.to_bytes(8, "little") + header.getvalue() + example.tobytes())
        writer.close()
    except RuntimeError as error:
        raise UserError(f"{path} cannot be written: {error}.") from error


def _shard_paths(folder: pathlib.Path, pattern: str) -> list[pathlib.Path]:
    try:
        found = sorted(path for path in folder.glob(pattern) if path.is_file())
    except (NotImplementedError, ValueError) as error:
        raise UserError(f"the pattern of the shards is {pattern!r}; it must be like 'train-*.npz'.") from error
    paths = [path for path in found if not path.name.endswith(LABELS)]
    if not paths:
        where = "looked in" if folder.is_dir() else "there is no folder"
        raise UserError(f"no shard matches {pattern!r}; {where} {folder.resolve()}. Shards are {KINDS}.")
    for path in paths:
        if path.suffix == ".gz":
            raise UserError(f"{path} is compressed, and shards are read where they lie; decompress it with gunzip.")
        if path.suffix not in (".npz", ".array_record") and not path.name.endswith(IMAGES):
            raise UserError(f"{path} matches {pattern!r} and is no shard; choose a pattern of {KINDS}.")
    return paths


def _open(path: pathlib.Path, num_classes: int | None) -> Shard:
    if path.suffix == ".array_record":
        return _ArrayRecords(path, num_classes)
    return _npz_shard(path, num_classes) if path.suffix == ".npz" else _idx_shard(path, num_classes)


class _Mapped:
    """Inputs in a mapped file; labels in memory, a byte each where they fit one."""

    def __init__(self, path: pathlib.Path, inputs: np.ndarray, labels: np.ndarray, num_classes: int | None):
        _check_inputs(path, inputs.shape, inputs.dtype)
        labels = _checked_labels(path, labels, len(inputs), num_classes)
        self.path, self.shape, self.dtype = path, inputs.shape[1:], inputs.dtype
        self.num_examples, self.num_classes = len(inputs), int(labels.max()) + 1
        self._labels = labels.astype(np.min_scalar_type(self.num_classes))
        # Bytes, since numpy would first copy a whole array that is not aligned as its type asks for.
        self._rows = inputs.reshape(-1).view(np.uint8).reshape(len(inputs), -1)

    def read(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        inputs = np.take(self._rows, positions, axis=0).view(self.dtype)  # lets go of the interpreter while it reads
        return inputs.reshape(len(positions), *self.shape), self._labels[positions]


def _idx_shard(path: pathlib.Path, num_classes: int | None) -> _Mapped:
    labels_path = path.with_name(path.name.removesuffix(IMAGES) + LABELS)
    if not labels_path.is_file():
        raise UserError(f"{path} has no {labels_path.name} beside it.")
    (mapping, inputs), (_, labels) = _idx(path, num_axes=3), _idx(labels_path, num_axes=1)
    shard = _Mapped(path, inputs, labels, num_classes)
    _advise(mapping, inputs)
    return shard


def _idx(path: pathlib.Path, num_axes: int) -> tuple[mmap.mmap, np.ndarray]:
    mapping = _map(path)
    shape = tuple(int.from_bytes(mapping[4 * axis : 4 * axis + 4], "big") for axis in range(1, num_axes + 1))
    return mapping, data.parse_idx(path, mapping, shape)


def _npz_shard(path: pathlib.Path, num_classes: int | None) -> _Mapped:
    mapping = _map(path)
    try:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
    except data.UNREADABLE as error:
        raise UserError(f"{path} cannot be read: it is no .npz file, or is damaged ({error}).") from error
    pairs = [names for names in NPZ_NAMES if set(names) <= set(members)]
    if len(pairs) != 1:
        raise UserError(
            f"{path} holds {', '.join(members) or 'nothing'}; it must hold one pair of "
            f"{', or '.join(map(' and '.join, NPZ_NAMES))}."
        )
    inputs, labels = (_member(path, mapping, name, members[name]) for name in pairs[0])
    shard = _Mapped(path, inputs, labels, num_classes)
    _advise(mapping, inputs)
    return shard


def _member(path: pathlib.Path, mapping: mmap.mmap, name: str, info: zipfile.ZipInfo) -> np.ndarray:
    """View an uncompressed array of an archive in place."""
    if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & ENCRYPTED:
        raise UserError(f"{path}: {name} is compressed, and shards are read where they lie; write it with np.savez.")
    header = mapping[info.header_offset : info.header_offset + LOCAL_HEADER]
    start = info.header_offset + LOCAL_HEADER + sum(int.from_bytes(header[at : at + 2], "little") for at in (26, 28))
    if header[:4] != LOCAL_MAGIC or start + info.file_size > len(mapping):
        raise UserError(f"{path}: {name} is damaged; write the file anew.")
    mapping.seek(start)
    shape, dtype = _array_header(path, name, mapping)
    size = int(np.prod(shape, dtype=object))
    if mapping.tell() + size * dtype.itemsize != start + info.file_size:
        raise UserError(f"{path}: {name} is damaged: it does not hold {dtype} of shape {shape}; write the file anew.")
    return np.frombuffer(mapping, dtype, size, mapping.tell()).reshape(shape) if size else np.empty(shape, dtype)


def _array_header(path: pathlib.Path, name: str, file: Any) -> tuple[tuple[int, ...], np.dtype]:
    """Read the header of an .npy file."""
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    try:
        shape, is_fortran, dtype = readers[np.lib.format.read_magic(file)](file)
    except (KeyError, ValueError, TypeError, EOFError, SyntaxError) as error:
        raise UserError(f"{path}: {name} is damaged, or is no array as np.save writes it.") from error
    if is_fortran or dtype.hasobject:
        raise UserError(f"{path}: {name} must be plain numbers in C order; pass it through np.ascontiguousarray.")
    return shape, dtype


def _map(path: pathlib.Path) -> mmap.mmap:
    try:
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}.") from error


def _advise(mapping: mmap.mmap, inputs: np.ndarray) -> None:
    """Keep the kernel from reading around small examples; called when the labels have been read in order."""
    if inputs[0].nbytes < RANDOM_BELOW:
        mapping.madvise(mmap.MADV_RANDOM)


class _ArrayRecords:
    """Records of one length, each an example."""

    def __init__(self, path: pathlib.Path, num_classes: int | None):
        self.path = path
        # Without reading ahead, as grain's own source opens it.
        self._reader = _array_record_module().ArrayRecordReader(
            str(path), options="readahead_buffer_size:0", file_reader_buffer_size=32768
        )
        if not self._reader.ok():
            raise UserError(f"{path} is damaged, or is no array-record file; write it anew.")
        self.num_examples = self._reader.num_records()
        if not self.num_examples:
            raise UserError(f"{path} holds no examples.")
        self._set_format(self._records([0])[0])
        self.num_classes = 0 if num_classes else self._scan()

    def read(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rows = self._rows(positions.tolist())
        return rows["input"], rows["label"]

    def _set_format(self, record: bytes) -> None:
        body = io.BytesIO(record[8:])
        self.shape, self.dtype = _array_header(self.path, "its first record", body)
        _check_inputs(self.path, (1, *self.shape), self.dtype)
        self._header = np.frombuffer(record, np.uint8, body.tell(), offset=8)
        fields = [("label", "<i8"), ("header", "u1", self._header.shape), ("input", self.dtype, self.shape)]
        self._row = np.dtype(fields)

    def _rows(self, positions: list[int]) -> np.ndarray:
        records = self._records(positions)
        if all(len(record) == self._row.itemsize for record in records):
            rows = np.frombuffer(b"".join(records), self._row)
            if (rows["header"] == self._header).all():
                return rows
        raise UserError(f"{self.path} holds inputs of several shapes or types; write it anew, with inputs of one.")

    def _records(self, positions: list[int]) -> list[bytes]:
        try:
            return self._reader.read(positions)
        except RuntimeError as error:
            raise UserError(f"{self.path} is damaged: {error}; write it anew.") from error

    def _scan(self) -> int:
        largest = 0
        for start in range(0, self.num_examples, SCAN):
            positions = list(range(start, min(start + SCAN, self.num_examples)))
            labels = _checked_labels(self.path, self._rows(positions)["label"], len(positions))
            largest = max(largest, int(labels.max()))
        return largest + 1


def _array_record_module() -> ModuleType:
    try:
        from array_record.python import array_record_module
    except ImportError as error:
        raise UserError("array-record shards need the extra grain: pip install 'mathai[grain]'.") from error
    return array_record_module


def _check_inputs(path: pathlib.Path, shape: tuple[int, ...], dtype: np.dtype) -> None:
    if len(shape) < 2 or not all(shape) or dtype.kind not in "biuf":
        raise UserError(f"{path}: inputs must be numbers [n, …], at least one; they are {dtype} of shape {shape}.")


def _checked_labels(
    path: pathlib.Path, labels: np.ndarray, num_examples: int, num_classes: int | None = None
) -> np.ndarray:
    labels = labels.reshape(-1) if labels.ndim == 2 and labels.shape[1] == 1 else labels
    if labels.shape != (num_examples,):
        raise UserError(f"{path}: labels of shape {labels.shape} do not go with {num_examples} inputs.")
    if not np.issubdtype(labels.dtype, np.integer):
        raise UserError(f"{path}: labels must be integers from 0 on; they are {labels.dtype}.")
    _check_labels(path, labels, num_classes or data.MOST_LABEL + 1)
    return labels


def _check_labels(path: pathlib.Path, labels: np.ndarray, num_classes: int) -> None:
    if labels.min() < 0 or labels.max() >= num_classes:
        span = f"from {labels.min()} to {labels.max()}"
        raise UserError(f"{path}: labels must be integers from 0 to {num_classes - 1:,}; they are {span}.")
