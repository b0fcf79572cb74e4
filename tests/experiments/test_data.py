"""Data sets: the same split every time, files read byte for byte, and mistakes that say what is missing and where."""

import gzip
import hashlib
import re
import struct

import numpy as np
import pytest
from sklearn.datasets import load_digits

from experiments import data
from experiments.data import Split
from experiments.errors import UserError

STEMS = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def load(name, directory="", evaluate_on="test"):
    return data.load({"name": name, "directory": str(directory), "evaluate_on": evaluate_on})


def refused(message, *arguments):
    """Loading is refused in one line that holds the message."""
    with pytest.raises(UserError) as caught:
        load(*arguments)
    assert re.search(message, str(caught.value)), str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def rows(split):
    """Every example with its label, as bytes that can be compared."""
    return [x.tobytes() + y.tobytes() for x, y in zip(split.inputs, split.labels, strict=True)]


# Digits


@pytest.fixture(scope="module")
def digits():
    return load("digits")


def test_digits_are_split_into_1438_and_359(digits):
    # a fifth of each class, rounded: of 178, 182, 177, 183, 181, 182, 181, 179, 174 and 180 digits
    expected = [36, 36, 35, 37, 36, 36, 36, 36, 35, 36]
    assert np.bincount(digits.test.labels).tolist() == expected
    assert (digits.train.inputs.shape, digits.test.inputs.shape) == ((1438, 8, 8), (359, 8, 8))
    assert digits.class_names == tuple("0123456789")


def test_digits_are_all_those_of_scikit_learn_once_between_0_and_1(digits):
    bunch = load_digits()
    whole = Split((bunch.images / 16).astype(np.float32), bunch.target.astype(np.int32))
    assert sorted(rows(digits.train) + rows(digits.test)) == sorted(rows(whole))
    for part in digits[:2]:
        assert (part.inputs.dtype, part.labels.dtype) == (np.float32, np.int32)
        assert (part.inputs.min(), part.inputs.max()) == (0.0, 1.0)


def test_digits_are_the_same_every_time(digits):
    again = load("digits")
    for before, after in zip(digits[:2], again[:2], strict=True):
        assert rows(before) == rows(after)


def test_validation_examples_come_from_the_training_examples_alone(digits):
    validation = load("digits", evaluate_on="validation")
    assert sorted(rows(validation.train) + rows(validation.test)) == sorted(rows(digits.train))
    expected = np.round(0.1 * np.bincount(digits.train.labels)).astype(int)
    assert np.bincount(validation.test.labels).tolist() == expected.tolist()
    assert validation.class_names == digits.class_names


def test_other_digits_are_refused(monkeypatch):
    monkeypatch.setattr(data, "DIGITS_SHA256", "0" * 64)
    refused("scikit-learn's digits are not those that are known here", "digits")


# Splits


def test_a_split_is_stratified_disjoint_complete_and_keeps_the_order():
    labels = np.repeat([0, 1, 2, 5], [10, 15, 3, 2])[np.random.default_rng(1).permutation(30)]
    train, test = data.split(Split(np.arange(30), labels), 0.2)
    assert np.bincount(test.labels, minlength=6).tolist() == [2, 3, 1, 0, 0, 0]  # round(0.2 · 3) = 1, round(0.4) = 0
    assert sorted([*train.inputs, *test.inputs]) == list(range(30))
    for part in (train, test):
        assert np.all(np.diff(part.inputs) > 0)
        np.testing.assert_array_equal(part.labels, labels[part.inputs])


def test_a_split_does_not_take_the_first_examples_of_a_class():
    _, test = data.split(Split(np.arange(1000), np.zeros(1000, int)), 0.1)
    assert len(test.inputs) == 100
    # the mean of 100 of 0 … 999 drawn without replacement has standard deviation √(999 000/12 /100 · 0.9) = 27
    assert abs(np.mean(test.inputs) - 499.5) < 4 * 27.4
    assert np.any(np.diff(test.inputs) != np.diff(test.inputs)[0])


def test_what_is_too_small_to_split_is_refused(tmp_path):
    save(tmp_path, x_train=np.zeros((4, 2)), y_train=np.array([0, 0, 1, 1]))  # round(0.2 · 2) = 0
    refused(r"no class has enough examples to set 20% of it aside \(4 in all\)", "data.npz", tmp_path)
    both = {"x_test": np.zeros((2, 2)), "y_test": np.array([0, 1])}
    save(tmp_path, x_train=np.zeros((4, 2)), y_train=np.array([0, 0, 1, 1]), **both)
    assert len(load("data.npz", tmp_path).test.labels) == 2
    refused("no class has enough examples to set 10% of it aside", "data.npz", tmp_path, "validation")


# Names


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "digts",
            r"config.data.name is 'digts' \(did you mean 'digits'\?\); it must be one of digits, moons, ring, mnist",
        ),
        ("minst", r"'minst' \(did you mean 'mnist'\?\)"),
        ("cifar10", r"'cifar10'; it must be one of digits, moons, ring, mnist, fashion_mnist, or end with \.npz"),
        ("", r"config.data.name is ''; it must be one of"),
    ],
)
def test_an_unknown_name_is_refused_with_the_list(name, message):
    refused(message, name)


def test_evaluation_is_on_test_or_validation():
    refused("config.data.evaluate_on is 'tests'; it must be 'test' or 'validation'", "digits", "", "tests")


# IDX


def idx(array, magic=b"\0\0\x08"):
    """An IDX file as Yann LeCun's page describes it: two zeros, the type, the number of axes, lengths, numbers."""
    lengths = b"".join(struct.pack(">I", length) for length in array.shape)
    return magic + bytes([array.ndim]) + lengths + array.tobytes()


@pytest.mark.parametrize("shape", [(5,), (2, 3), (2, 3, 4), (300, 1, 2)])
def test_an_idx_file_is_read_number_by_number(tmp_path, shape):
    array = (np.arange(np.prod(shape)) % 256).astype(np.uint8).reshape(shape)
    found = data.parse_idx(tmp_path / "file", idx(array), shape)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, array)


ARRAY = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not an IDX file of bytes with 3 axes"),
        (idx(ARRAY)[:15], "is not an IDX file of bytes with 3 axes"),  # the header is 16 bytes
        (idx(ARRAY, b"\0\0\x0d"), "is not an IDX file of bytes"),  # of floats
        (idx(ARRAY, b"\1\0\x08"), "is not an IDX file of bytes"),
        (idx(ARRAY.ravel()), "with 3 axes"),
        (gzip.compress(idx(ARRAY), mtime=0), "is not an IDX file"),
        (idx(ARRAY)[:-1], r"has shape \(2, 3, 4\) and 23 numbers; it must have shape \(2, 3, 4\)"),
        (idx(ARRAY) + b"\0", r"has shape \(2, 3, 4\) and 25 numbers; it must have"),
        (idx(ARRAY.reshape(3, 2, 4)), r"has shape \(3, 2, 4\) and 24 numbers; it must have shape \(2, 3, 4\)"),
    ],
    # Names of their own: those made of the bytes held the hour of compression, and no two processes agreed on them.
    ids=["empty", "half_a_header", "floats", "wrong_magic", "one_axis", "zipped", "short", "long", "other_shape"],
)
def test_what_is_no_such_idx_file_is_refused(tmp_path, content, message):
    with pytest.raises(UserError, match=message) as caught:
        data.parse_idx(tmp_path / "a-file", content, (2, 3, 4))
    assert str(tmp_path / "a-file") in str(caught.value)


@pytest.fixture
def tiny_counts(monkeypatch):
    """MNIST of three training and two test images: the sizes are the files' own, all else as ever."""
    parse = data.parse_idx

    def parse_tiny(path, content, shape):
        return parse(path, content, ({60_000: 3, 10_000: 2}[shape[0]], *shape[1:]))

    monkeypatch.setattr(data, "parse_idx", parse_tiny)


def idx_files(labels=((0, 9, 5), (1, 2))):
    """The content of four small files, by name."""
    contents = []
    for number, part in enumerate(labels):
        images = np.full((len(part), 28, 28), 7 + number, np.uint8)
        contents += [idx(images), idx(np.array(part, np.uint8))]
    return dict(zip(STEMS, contents, strict=True))


def write(folder, contents, zipped=()):
    for stem, content in contents.items():
        path = folder / (f"{stem}.gz" if stem in zipped else stem)
        path.write_bytes(gzip.compress(content) if stem in zipped else content)


@pytest.mark.parametrize("zipped", [(), STEMS, STEMS[1:3]], ids=["plain", "gzip", "mixed"])
def test_fashion_mnist_is_read_from_its_files(tmp_path, tiny_counts, capsys, zipped):
    write(tmp_path, idx_files(), zipped)
    found = load("fashion_mnist", tmp_path)
    assert (found.train.inputs.shape, found.test.inputs.shape) == ((3, 28, 28), (2, 28, 28))
    assert (found.train.inputs.dtype, found.train.labels.dtype) == (np.uint8, np.int32)
    assert (np.unique(found.train.inputs), np.unique(found.test.inputs)) == (7, 8)
    assert (found.train.labels.tolist(), found.test.labels.tolist()) == ([0, 9, 5], [1, 2])
    assert (len(found.class_names), found.class_names[0], found.class_names[9]) == (10, "T-shirt", "ankle boot")
    warnings = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning")]
    assert len(warnings) == 4  # none of them is the published archive
    assert all(
        re.search(f"{stem} in .* is not the published archive", line)
        for stem, line in zip(STEMS, warnings, strict=True)
    )


def test_a_published_archive_is_known_by_its_checksum(tmp_path, tiny_counts, capsys, monkeypatch):
    write(tmp_path, idx_files(), STEMS)
    known = {f"{stem}.gz": hashlib.md5((tmp_path / f"{stem}.gz").read_bytes()).hexdigest() for stem in STEMS}
    monkeypatch.setattr(data, "FASHION_MNIST_MD5", known)
    load("fashion_mnist", tmp_path)
    assert capsys.readouterr().out == ""


def test_mnist_is_verified_by_its_checksums(tmp_path, tiny_counts, monkeypatch):
    contents = idx_files()
    write(tmp_path, contents, STEMS[:2])
    refused(f"{STEMS[0]} in .* is not MNIST's file .its SHA-256 differs.; get it anew", "mnist", tmp_path)
    known = {stem: hashlib.sha256(content).hexdigest() for stem, content in contents.items()}
    monkeypatch.setattr(data, "MNIST_SHA256", known)
    found = load("mnist", tmp_path)
    assert (found.train.labels.tolist(), found.class_names) == ([0, 9, 5], tuple("0123456789"))
    monkeypatch.setattr(data, "MNIST_SHA256", known | {STEMS[3]: "0" * 64})
    refused(f"{STEMS[3]} in .* is not MNIST's file", "mnist", tmp_path)


def test_mnist_has_60000_and_10000_images(tmp_path):
    write(tmp_path, idx_files())
    message = r"train-images-idx3-ubyte has shape \(3, 28, 28\) and 2352 numbers; it must have shape \(60000, 28, 28\)"
    refused(message, "mnist", tmp_path)


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_a_directory_is_needed_and_named_where_something_is_missing(tmp_path, name):
    message = refused(f"data set {name} needs --config.data.directory, the folder with {STEMS[0]}", name)
    assert all(stem in message for stem in STEMS)
    absent = tmp_path / "absent"
    assert str(absent) in refused(f"data set {name}: no {STEMS[0]}, .* there is no folder /", name, absent)
    write(tmp_path, {STEMS[0]: b"", STEMS[2]: b""}, STEMS[2:])
    message = refused(rf"data set {name}: no {STEMS[1]}, {STEMS[3]} \(or \.gz\); looked in /", name, tmp_path)
    assert message.endswith(f"{tmp_path.resolve()}.")


def test_a_label_beyond_the_classes_is_refused(tmp_path, tiny_counts):
    write(tmp_path, idx_files(labels=((0, 1, 2), (3, 10))))
    refused("data set fashion_mnist: label 10 is beyond its 10 classes", "fashion_mnist", tmp_path)


@pytest.mark.parametrize("damage", ["cut", "flipped", "no archive"])
def test_a_damaged_archive_is_named(tmp_path, damage):
    contents = idx_files()
    contents[STEMS[0]] = idx(np.random.default_rng(0).integers(256, size=(3, 28, 28)).astype(np.uint8))
    write(tmp_path, contents, STEMS)
    path = tmp_path / f"{STEMS[0]}.gz"
    content = bytearray(path.read_bytes())
    if damage == "cut":
        del content[len(content) // 2 :]
    elif damage == "flipped":
        content[10] ^= 0xFF  # the first byte after the header: not a block of any type
    path.write_bytes(b"not an archive" if damage == "no archive" else content)
    assert str(path) in refused("is damaged: ", "mnist", tmp_path)


# NPZ

X_TRAIN, Y_TRAIN = np.arange(40, dtype=np.float64).reshape(20, 2), np.arange(20) % 2
X_TEST, Y_TEST = -np.arange(6, dtype=np.float64).reshape(3, 2), np.array([0, 1, 3])
NAMES = (("x_train", "y_train", "x_test", "y_test"), ("train_inputs", "train_labels", "test_inputs", "test_labels"))


def save(folder, **arrays):
    np.savez(folder / "data.npz", **arrays)


@pytest.mark.parametrize("names", NAMES, ids=["x_train", "train_inputs"])
def test_npz_files_name_their_arrays_in_two_ways(tmp_path, names):
    save(tmp_path, **dict(zip(names, (X_TRAIN, Y_TRAIN, X_TEST, Y_TEST), strict=True)), more=np.zeros(3))
    found = load("data.npz", tmp_path)
    np.testing.assert_array_equal(found.train.inputs, X_TRAIN)
    np.testing.assert_array_equal(found.train.labels, Y_TRAIN)
    np.testing.assert_array_equal(found.test.inputs, X_TEST)
    np.testing.assert_array_equal(found.test.labels, Y_TEST)
    assert (found.train.inputs.dtype, found.train.labels.dtype) == (np.float32, np.int32)
    assert found.class_names == ("0", "1", "2", "3")  # 2 is no label, and 3 one of the test examples alone


@pytest.mark.parametrize("names", NAMES, ids=["x_train", "train_inputs"])
def test_without_test_arrays_a_fifth_is_set_aside(tmp_path, names):
    save(tmp_path, **dict(zip(names[:2], (X_TRAIN, Y_TRAIN), strict=True)))
    found = load("data.npz", tmp_path)
    assert np.bincount(found.test.labels).tolist() == [2, 2]
    whole = Split(X_TRAIN.astype(np.float32), Y_TRAIN.astype(np.int32))
    assert sorted(rows(found.train) + rows(found.test)) == sorted(rows(whole))


def test_bytes_stay_bytes_and_a_column_of_labels_is_a_vector(tmp_path):
    save(tmp_path, x_train=np.full((20, 2, 2), 200, np.uint8), y_train=Y_TRAIN[:, None].astype(np.uint8))
    found = load("data.npz", tmp_path)
    assert (found.train.inputs.dtype, found.train.inputs.max()) == (np.uint8, 200)
    assert (found.train.labels.shape, found.train.labels.dtype) == ((16,), np.int32)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"y_train": None},
            r"holds x_train, x_test, y_test; it must hold train_inputs, .* or x_train, y_train, .* missing",
        ),
        ({"x_train": None, "y_train": None, "x_test": None, "y_test": None}, "holds nothing; it must hold"),
        ({"y_test": None}, "holds only one of x_test and y_test; it must hold both or neither"),
        ({"x_test": None}, "holds only one of x_test and y_test"),
        ({"y_train": Y_TRAIN[:-1]}, r"x_train of shape \(20, 2\) does not go with labels of shape \(19,\)"),
        ({"y_test": Y_TRAIN}, r"x_test of shape \(3, 2\) does not go with labels of shape \(20,\)"),
        ({"y_train": np.eye(2)[Y_TRAIN]}, r"does not go with labels of shape \(20, 2\)"),  # one-hot
        ({"y_train": np.array(3)}, r"does not go with labels of shape \(\)"),
        ({"x_train": np.array(3.0)}, r"x_train of shape \(\) does not go with labels of shape \(20,\)"),
        ({"x_train": X_TRAIN[:0], "y_train": Y_TRAIN[:0]}, r"x_train of shape \(0, 2\) does not go with"),
        ({"y_train": Y_TRAIN - 1}, "labels must be integers from 0 to 99,999; those of x_train are from -1 to"),
        ({"y_test": Y_TEST - 2}, "those of x_test are from -2 to"),
        ({"y_train": Y_TRAIN.astype(float)}, "labels must be integers from 0 on; those of x_train are float64"),
        ({"y_train": np.where(Y_TRAIN, "cat", "dog")}, "those of x_train are <U3"),
        (
            {"y_train": Y_TRAIN + 2**32},
            "labels must be integers from 0 to 99,999; those of x_train are from 4294967296 to",
        ),
        ({"x_train": 1e300 * X_TRAIN}, "x_train holds NaN, or numbers that are infinite in float32"),
        ({"x_train": X_TRAIN + 0j}, "x_train must be numbers .* it is complex128"),
        ({"train_inputs": X_TRAIN}, "mixes two ways of naming: x_train, y_train and train_inputs"),
        ({"y_train": Y_TRAIN.astype(bool)}, "those of x_train are bool"),
        ({"x_train": X_TRAIN[:, 0]}, r"x_train must be numbers \[n, …\]; it is float64 of shape \(20,\)"),
        ({"x_train": X_TRAIN.astype(str)}, "x_train must be numbers .* it is <U"),
        ({"x_train": np.where(X_TRAIN == 7, np.nan, X_TRAIN)}, "x_train holds NaN, or numbers that are infinite"),
        ({"x_test": np.where(X_TEST == -3, np.inf, X_TEST)}, "x_test holds NaN, or numbers that are infinite"),
        ({"x_test": X_TEST[:, :1]}, r"examples have shape \(2,\) in x_train, \(1,\) in x_test"),
        ({"x_train": np.array([[1, "a"]] * 20, object)}, "cannot be read: it is no .npz file of plain arrays"),
    ],
)
def test_arrays_that_do_not_fit_are_refused_by_name(tmp_path, changes, message):
    arrays = {"x_train": X_TRAIN, "y_train": Y_TRAIN, "x_test": X_TEST, "y_test": Y_TEST} | changes
    save(tmp_path, **{name: array for name, array in arrays.items() if array is not None})
    refused(message, "data.npz", tmp_path)


@pytest.mark.parametrize("content", ["missing", "a folder", "empty", "text", ".npy"])
def test_a_file_that_cannot_be_read_is_named(tmp_path, content):
    path = tmp_path / "data.npz"
    if content == "a folder":
        path.mkdir()
    elif content == ".npy":
        with path.open("wb") as file:
            np.save(file, X_TRAIN)
    elif content != "missing":
        path.write_text("" if content == "empty" else "x_train, y_train")
    reason = "there is no such file" if content in ("missing", "a folder") else "it is no .npz file of plain arrays"
    assert str(path.resolve()) in refused(f"cannot be read: {reason}", "data.npz", tmp_path)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed], ids=lambda save: save.__name__)
def test_a_damaged_byte_is_noticed_wherever_it_is(tmp_path, save):
    path = tmp_path / "data.npz"
    save(path, x_train=X_TRAIN, y_train=Y_TRAIN)
    content = path.read_bytes()
    expected, noticed = [rows(part) for part in load("data.npz", tmp_path)[:2]], 0
    for place in range(len(content)):
        damaged = bytearray(content)
        damaged[place] ^= 0xFF
        path.write_bytes(damaged)
        try:
            assert [rows(part) for part in load("data.npz", tmp_path)[:2]] == expected  # dates, versions, attributes
        except UserError:
            noticed += 1
    assert noticed > len(content) / 2
