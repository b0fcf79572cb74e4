"""Streams: every example once an epoch, read where it lies, the same batches after a resume and over any processes."""

import contextlib
import io
import itertools
import json
import re
import struct
import subprocess
import sys

import numpy as np
import pytest
from array_record.python import array_record_module

from experiments import streaming
from experiments.errors import UserError
from experiments.streaming import Source, Stream, open_source, write_array_record

NUM_EXAMPLES = 50


def examples(start, stop):
    """Inputs [n, 4, 3] of bytes whose first tells which example it is, and its label, of 7 classes."""
    inputs = np.random.default_rng(0).integers(0, 256, (NUM_EXAMPLES, 4, 3), np.uint8)
    inputs[:, 0, 0] = np.arange(NUM_EXAMPLES)
    return inputs[start:stop], np.arange(start, stop) % 7


def write_npz(folder, name, inputs, labels):
    np.savez(folder / f"{name}.npz", inputs=inputs, labels=labels)


def write_idx(folder, name, inputs, labels):
    """IDX by hand: two zeros, 8 for bytes, the number of axes, their big-endian lengths, the numbers."""
    for stem, array in (("images-idx3", inputs), ("labels-idx1", labels.astype(np.uint8))):
        header = struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
        (folder / f"{name}-{stem}-ubyte").write_bytes(header + array.tobytes())


def write_records(folder, name, inputs, labels):
    write_array_record(folder / f"{name}.array_record", inputs, labels)


KINDS = {"npz": (write_npz, "*.npz"), "idx": (write_idx, "*-ubyte"), "array_record": (write_records, "*.array_record")}


def shards(folder, kind="npz", bounds=(0, 3, 4, 30, NUM_EXAMPLES)):
    """A source over the examples in shards that end at the bounds."""
    write, pattern = KINDS[kind]
    for number, (start, stop) in enumerate(itertools.pairwise(bounds)):
        write(folder, f"part-{number:03}", *examples(start, stop))
    return open_source(str(folder), pattern)


@contextlib.contextmanager
def opened(source, **options):
    with contextlib.closing(Stream(source, **{"seed": 0, "batch_size": 10, **options})) as stream:
        yield stream


def taken(source, num_batches, **options):
    with opened(source, **options) as stream:
        return stream.next(num_batches)


def numbers(inputs):
    """Which examples they are."""
    return inputs[..., 0, 0].tolist()


def equal(left, right):
    return [(a.dtype, a.shape, a.tobytes()) for a in left] == [(b.dtype, b.shape, b.tobytes()) for b in right]


def refused(message, function, *arguments, **options):
    """The call is refused in one line that holds the message."""
    with pytest.raises(UserError) as caught:
        function(*arguments, **options)
    assert re.search(message, str(caught.value)), str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.fixture
def source(tmp_path):
    return shards(tmp_path)


# Sources


@pytest.mark.parametrize("kind", KINDS)
def test_examples_of_all_shards_follow_one_another(kind, tmp_path):
    source = shards(tmp_path, kind)
    inputs, labels = examples(0, NUM_EXAMPLES)
    assert (len(source), source.num_classes) == (NUM_EXAMPLES, 7)
    assert (source.example_shape, source.example_dtype) == ((4, 3), np.uint8)
    order = np.random.default_rng(1).permutation(NUM_EXAMPLES)
    assert equal(source.read(order), (inputs[order], labels[order].astype(np.int32)))
    assert numbers(np.stack([image for image, _ in source])) == list(range(NUM_EXAMPLES))
    assert source[-1][1] == labels[-1]


@pytest.mark.parametrize("names", [("inputs", "labels"), ("train_inputs", "train_labels"), ("x_train", "y_train")])
def test_arrays_have_the_names_of_other_npz_files(names, tmp_path):
    inputs, labels = examples(0, 9)
    np.savez(tmp_path / "a.npz", test_labels=labels, **dict(zip(names, (inputs, labels[:, None]), strict=True)))
    assert equal(open_source(str(tmp_path), "a.npz").read(np.arange(9)), (inputs, labels.astype(np.int32)))


@pytest.mark.parametrize("dtype", ["f8", "f4", ">f4", "f2", "i8", "?"])
@pytest.mark.parametrize("kind", ["npz", "array_record"])
def test_other_numbers_than_bytes_are_read_as_float32(dtype, kind, tmp_path):
    inputs = np.arange(-8, 8).reshape(4, 2, 2).astype(dtype)
    KINDS[kind][0](tmp_path, "a", inputs, np.arange(4))
    source = open_source(str(tmp_path), KINDS[kind][1])
    expected = inputs.astype(np.float32)[[2, 0]], np.array([2, 0], np.int32)
    assert source.example_dtype == np.float32
    assert equal(source.read(np.array([2, 0])), expected)


def test_a_file_larger_than_memory_is_opened_and_read(tmp_path):
    num_examples, side = 250_000, 2048  # a terabyte of holes, but for one example
    with (tmp_path / "a-images-idx3-ubyte").open("wb") as file:
        file.write(struct.pack(">4B3I", 0, 0, 8, 3, num_examples, side, side))
        file.seek(16 + 3210 * side * side)
        file.write(b"\x05")
        file.truncate(16 + num_examples * side * side)
    labels = struct.pack(">4BI", 0, 0, 8, 1, num_examples) + bytes(num_examples)
    (tmp_path / "a-labels-idx1-ubyte").write_bytes(labels)
    source = open_source(str(tmp_path), "a-*")
    image, _ = source[3210]
    assert (len(source), image[0, 0], image.shape) == (num_examples, 5, (side, side))


def test_a_record_is_the_label_and_then_what_np_save_writes(tmp_path):
    inputs, labels = examples(0, 3)
    write_array_record(tmp_path / "a.array_record", inputs, labels)
    reader = array_record_module.ArrayRecordReader(str(tmp_path / "a.array_record"))
    records = reader.read_all()
    reader.close()
    assert [int.from_bytes(record[:8], "little") for record in records] == labels.tolist()
    assert equal([np.load(io.BytesIO(record[8:])) for record in records], inputs)


def test_given_classes_spare_the_reading_of_all_records(tmp_path, monkeypatch):
    shards(tmp_path, "array_record")
    monkeypatch.setattr("experiments.streaming_sources._ArrayRecords._scan", None)
    assert open_source(str(tmp_path), "*.array_record", 9).num_classes == 9
    source = open_source(str(tmp_path), "*.array_record", 5)
    refused("labels must be integers from 0 to 4; they are from 5 to 5", source.read, np.array([5]))


def test_the_largest_label_is_found_in_whichever_record(tmp_path, monkeypatch):
    monkeypatch.setattr("experiments.streaming_sources.SCAN", 2)
    write_records(tmp_path, "a", examples(0, 5)[0], np.array([0, 1, 6, 0, 2]))
    assert open_source(str(tmp_path), "*.array_record").num_classes == 7


# Order


@pytest.mark.parametrize("batch_size", [1, 10, 12, NUM_EXAMPLES])
def test_an_epoch_holds_every_example_once_and_its_last_batch_is_filled_from_the_next(batch_size, source):
    num_epochs = 6
    inputs, labels = taken(source, num_epochs * NUM_EXAMPLES // batch_size, batch_size=batch_size)
    drawn = np.array(numbers(inputs)).reshape(-1)[: num_epochs * NUM_EXAMPLES // batch_size * batch_size]
    epochs = [drawn[start : start + NUM_EXAMPLES] for start in range(0, len(drawn), NUM_EXAMPLES)]
    assert len(epochs) == num_epochs
    assert all(sorted(epoch) == list(range(NUM_EXAMPLES)) for epoch in epochs if len(epoch) == NUM_EXAMPLES)
    assert len({tuple(epoch) for epoch in epochs}) == num_epochs
    assert equal([inputs.reshape(-1, 4, 3)], [examples(0, NUM_EXAMPLES)[0][drawn]])
    assert labels.reshape(-1).tolist() == (drawn % 7).tolist()


def test_seeds_have_orders_of_their_own(source):
    first, second = (taken(source, 10, seed=seed)[0] for seed in (0, 1))
    assert numbers(first) != numbers(second)
    assert numbers(first)[5:] != numbers(second)[:5]  # the next epoch is not the first one of the next seed
    assert numbers(first) == numbers(taken(source, 10, seed=0)[0])


def test_neighbours_in_an_order_are_independent():
    order = streaming._examples(0, 40_000, 0, 40_000)
    # five standard errors 1/√n of the correlation of independent draws
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 5 / 200
    assert abs(np.corrcoef(order, np.arange(40_000))[0, 1]) < 5 / 200


@pytest.mark.parametrize("length", [1, 2, 3, 7, 1000])
def test_an_order_is_a_permutation_of_any_number(length):
    for epoch in range(5):
        order = streaming._examples(3, length, epoch * length, (epoch + 1) * length)
        assert sorted(order) == list(range(length))


def test_every_example_is_as_often_at_every_place():
    counts = np.zeros((4, 4), int)
    for epoch in range(4000):
        counts[np.arange(4), streaming._examples(0, 4, 4 * epoch, 4 * epoch + 4)] += 1
    assert abs(counts - 1000).max() < 5 * (4000 * 0.25 * 0.75) ** 0.5  # five standard deviations of a binomial


@pytest.mark.parametrize("kind", KINDS)
def test_every_shard_may_hold_one_example(kind, tmp_path):
    source = shards(tmp_path, kind, bounds=range(9))
    inputs, _ = taken(source, 3, batch_size=8)
    assert [sorted(batch) for batch in numbers(inputs)] == [list(range(8))] * 3


@pytest.mark.parametrize("prefetch", [0, 1, 40])
def test_reading_ahead_changes_nothing(prefetch, source):
    assert equal(taken(source, 12, prefetch=prefetch), taken(source, 12))


# Processes


@pytest.mark.parametrize("num_processes", [2, 5])
def test_parts_joined_in_order_are_the_batch_of_one_process(num_processes, source):
    parts = [taken(source, 11, process_index=p, process_count=num_processes) for p in range(num_processes)]
    assert parts[0][0].shape == (11, 10 // num_processes, 4, 3)
    assert equal([np.concatenate(part, axis=1) for part in zip(*parts, strict=True)], taken(source, 11))


def test_a_process_reads_its_own_examples_alone(source, monkeypatch):
    whole, read, count = np.array(numbers(taken(source, 8)[0])), [], Source.read
    monkeypatch.setattr(Source, "read", lambda self, indices: read.extend(indices.tolist()) or count(self, indices))
    for process in (0, 1):
        read.clear()
        taken(source, 8, process_index=process, process_count=2, prefetch=0)
        assert read == whole[:, 5 * process : 5 * process + 5].reshape(-1).tolist()


# Resume


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stop", [0, 3, 17])
def test_a_restored_stream_continues_byte_for_byte(kind, stop, tmp_path):
    source = shards(tmp_path, kind)
    with opened(source) as stream:
        before = [stream.next(1) for _ in range(stop)]
        state = json.dumps(stream.state())
        after = stream.next(9)
    with opened(open_source(str(tmp_path), KINDS[kind][1])) as resumed:
        resumed.next(2)
        resumed.restore(json.loads(state))
        assert resumed.state() == json.loads(state)
        assert equal(resumed.next(9), after)
        assert resumed.state()["step"] == stop + 9
    whole = taken(source, stop + 9)
    joined = [np.concatenate(parts) for parts in zip(*before, after, strict=True)]
    assert equal(joined, whole)
    assert len(state) < 200


def test_a_state_of_two_processes_continues_in_one_and_in_five(source):
    with opened(source, process_index=1, process_count=2) as stream:
        stream.next(7)
        state = stream.state()
    expected = [array[7:] for array in taken(source, 12)]
    for num_processes in (1, 5):
        parts = []
        for process in range(num_processes):
            with opened(source, process_index=process, process_count=num_processes) as stream:
                stream.restore(state)
                parts.append(stream.next(5))
        assert equal([np.concatenate(part, axis=1) for part in zip(*parts, strict=True)], expected)


def test_a_state_of_other_batches_is_refused(source, tmp_path):
    with opened(source) as stream:
        state = stream.state()
        for name, other in (("num_examples", 51), ("fingerprint", "0"), ("seed", 1), ("batch_size", 5)):
            refused(f"with {name} {other!r}, this one has {state[name]!r}", stream.restore, {**state, name: other})
        for nonsense in (None, {}, {**state, "step": -1}, {**state, "step": "3"}, {"step": 3}):
            refused("is no state of a stream", stream.restore, nonsense)
        assert stream.state() == state
    (tmp_path / "other").mkdir()
    other = shards(tmp_path / "other", bounds=(0, 20, NUM_EXAMPLES))
    with opened(other) as stream:
        refused("same shards", stream.restore, state)


def test_a_moved_directory_holds_the_same_data(source, tmp_path):
    (tmp_path / "moved").mkdir()
    assert shards(tmp_path / "moved").fingerprint == source.fingerprint


def test_after_an_unreadable_example_the_stream_stands_where_it_stood(tmp_path):
    inputs = np.arange(24, dtype=np.float32).reshape(12, 2)
    write_npz(tmp_path, "good", inputs, np.arange(12))
    good = taken(open_source(str(tmp_path), "good.npz"), 12, batch_size=1)
    place = good[1].reshape(-1).tolist().index(7)
    inputs[7, 1] = np.inf
    write_npz(tmp_path, "bad", inputs, np.arange(12))
    with opened(open_source(str(tmp_path), "bad.npz"), batch_size=1) as stream:
        for _ in range(2):
            refused(r"bad.npz: inputs hold NaN, or numbers that are infinite", stream.next, 12)
        assert stream.state()["step"] == 0
        assert equal(stream.next(place), [array[:place] for array in good])
        refused("infinite", stream.next, 1)


# Mistakes


def test_what_a_stream_is_given_is_checked(source):
    for options, message in (
        ({"batch_size": 0}, "batch_size is 0; it must be from 1 to 50"),
        ({"batch_size": 51}, "batch_size is 51; it must be from 1 to 50"),
        ({"process_count": 3}, "batch_size is 10; it must be a multiple of the 3 processes"),
        ({"process_index": 2, "process_count": 2}, "process_index is 2 of process_count 2"),
        ({"process_count": 0}, "process_count 0"),
        ({"seed": -1}, "seed of a stream is -1"),
        ({"prefetch": -1}, "prefetch is -1"),
    ):
        refused(message, Stream, source, **{"seed": 0, "batch_size": 10, **options})
    with opened(source) as stream:
        refused("num_batches is 0", stream.next, 0)


def test_where_no_shard_is_found_it_is_said_where_was_looked(tmp_path):
    refused(rf"no shard matches '\*.npz'; looked in {tmp_path}", open_source, str(tmp_path), "*.npz")
    refused("there is no folder .*/nowhere", open_source, str(tmp_path / "nowhere"), "*.npz")
    for pattern in ("", "/absolute/*"):
        refused("must be like 'train-", open_source, str(tmp_path), pattern)
    (tmp_path / "notes.txt").write_text("no shard")
    refused("notes.txt matches .* and is no shard", open_source, str(tmp_path), "*")
    (tmp_path / "a-images-idx3-ubyte.gz").write_bytes(b"")
    refused("decompress it with gunzip", open_source, str(tmp_path), "a*")


def test_shards_must_hold_the_same_kind_of_input(tmp_path):
    write_npz(tmp_path, "a", *examples(0, 4))
    for other in (np.zeros((2, 3, 4), np.uint8), np.zeros((2, 4, 3), np.float32)):
        write_npz(tmp_path, "b", other, np.arange(2))
        refused(rf"a.npz holds uint8 of shape \(4, 3\), .*b.npz holds {other.dtype}", open_source, tmp_path, "*.npz")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"inputs": np.zeros((2, 3)), "labels": np.array([0, -1])}, "from 0 to 99,999; they are from -1 to 0"),
        ({"inputs": np.zeros((2, 3)), "labels": np.array([0, 100_000])}, "they are from 0 to 100000"),
        ({"inputs": np.zeros((2, 3)), "labels": np.array([0.0, 1.0])}, "must be integers from 0 on; they are float64"),
        ({"inputs": np.zeros((2, 3)), "labels": np.arange(3)}, r"labels of shape \(3,\) do not go with 2 inputs"),
        ({"inputs": np.zeros((0, 3)), "labels": np.arange(0)}, "at least one"),
        ({"inputs": np.zeros(2), "labels": np.arange(2)}, r"must be numbers \[n, …\]"),
        ({"inputs": np.array([["a"], ["b"]]), "labels": np.arange(2)}, "must be numbers"),
        ({"inputs": np.array([[None], [0]]), "labels": np.arange(2)}, "must be plain numbers in C order"),
        ({"inputs": np.zeros((3, 2)).T, "labels": np.arange(2)}, "np.ascontiguousarray"),
        ({"images": np.zeros((2, 3)), "labels": np.arange(2)}, "holds images, labels; it must hold one pair of inputs"),
        ({name: np.zeros((1, 1), int) for name in ("inputs", "labels", "x_train", "y_train")}, "one pair of"),
    ],
)
def test_an_npz_of_something_else_is_refused(arrays, message, tmp_path):
    np.savez(tmp_path / "a.npz", **arrays)
    refused(message, open_source, str(tmp_path), "a.npz")


def test_a_compressed_npz_is_refused_with_what_to_do(tmp_path):
    inputs, labels = examples(0, 4)
    np.savez_compressed(tmp_path / "a.npz", inputs=inputs, labels=labels)
    refused("inputs is compressed, .* write it with np.savez", open_source, str(tmp_path), "a.npz")


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files_are_refused(kind, tmp_path):
    shards(tmp_path, kind, bounds=(0, NUM_EXAMPLES))
    path = next(path for path in sorted(tmp_path.iterdir()))
    whole = path.read_bytes()
    for content in (b"", b"nonsense", whole[: len(whole) // 2], whole[1:]):
        path.write_bytes(content)
        refused(
            rf"{path.name}.* (is damaged|cannot be read|is not an IDX file|has shape)",
            open_source,
            str(tmp_path),
            KINDS[kind][1],
        )


def test_an_npz_whose_array_does_not_fill_its_place_is_refused(tmp_path):
    write_npz(tmp_path, "a", *examples(0, 4))
    content = (tmp_path / "a.npz").read_bytes()
    for old, new in ((b"(4, 4, 3)", b"(4, 4, 9)"), (b"\x93NUMPY", b"\x93NUMPX"), (b"PK\x03\x04", b"PK\x03\x05")):
        (tmp_path / "a.npz").write_bytes(content.replace(old, new, 1))
        refused("a.npz: inputs is damaged", open_source, str(tmp_path), "a.npz")


def test_a_flipped_bit_of_a_record_is_found(tmp_path):
    shards(tmp_path, "array_record", bounds=(0, NUM_EXAMPLES))
    path = tmp_path / "part-000.array_record"
    content = bytearray(path.read_bytes())
    content[1000] ^= 1
    path.write_bytes(content)
    refused("part-000.array_record is damaged", open_source, str(tmp_path), "*.array_record")


def test_labels_of_an_idx_pair_are_needed(tmp_path):
    write_idx(tmp_path, "a", *examples(0, 4))
    (tmp_path / "a-labels-idx1-ubyte").unlink()
    refused("has no a-labels-idx1-ubyte beside it", open_source, str(tmp_path), "a-*")


def test_records_of_another_format_are_refused(tmp_path):
    path = str(tmp_path / "a.array_record")
    for records, message in (([b"free text"], "its first record is damaged"), ([], "holds no examples")):
        writer = array_record_module.ArrayRecordWriter(path, "group_size:1")
        for record in records:
            writer.write(record)
        writer.close()
        refused(message, open_source, str(tmp_path), "*.array_record")


@pytest.mark.parametrize("other", [np.zeros((5, 3), np.uint8), np.zeros((4, 3), np.int8), np.zeros((3, 4), np.uint8)])
def test_records_of_several_kinds_are_refused(other, tmp_path):
    writer = array_record_module.ArrayRecordWriter(str(tmp_path / "a.array_record"), "group_size:1")
    for array in (np.zeros((4, 3), np.uint8), other):
        record = io.BytesIO()
        np.save(record, array)
        writer.write(bytes(8) + record.getvalue())
    writer.close()
    refused("holds inputs of several shapes or types", open_source, str(tmp_path), "*.array_record")


def test_what_is_no_example_is_not_written(tmp_path):
    inputs, labels = examples(0, 4)
    path = tmp_path / "a.array_record"
    refused("must end with .array_record", write_array_record, tmp_path / "a.npz", inputs, labels)
    refused("do not go with 4 inputs", write_array_record, path, inputs, labels[:3])
    refused("they are from -1 to 2", write_array_record, path, inputs, labels - 1)
    refused("cannot be written: .*No such file", write_array_record, tmp_path / "none" / path.name, inputs, labels)
    assert not path.exists()


def test_without_grain_the_extra_is_named(source, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "grain", None)
    refused(r"pip install 'mathai\[grain\]'", Stream, source, seed=0, batch_size=10)
    monkeypatch.setitem(sys.modules, "array_record.python", None)
    path = tmp_path / "a.array_record"
    refused(r"pip install 'mathai\[grain\]'", write_array_record, path, *examples(0, 4))


def test_grain_is_imported_by_a_stream_and_not_before():
    program = "import sys, experiments.streaming; sys.exit('grain' in sys.modules or 'array_record' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], timeout=60).returncode == 0
