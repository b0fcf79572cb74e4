"""Accuracy, confusion matrix and calibration error against counts by hand and scikit-learn."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import metrics

from mathai.nn import scores

NAN, INF = np.nan, np.inf
FUNCTIONS = (scores.accuracy, scores.confusion_matrix, scores.expected_calibration_error)
by_name = pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
accuracy, confusion_matrix = map(jax.jit, FUNCTIONS[:2])
expected_calibration_error = jax.jit(scores.expected_calibration_error, static_argnames="num_bins")


def random_examples(num_examples=200, num_classes=5):
    """Probabilities and labels that agree on some."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=(num_examples, num_classes))
    labels = np.where(rng.random(num_examples) < 0.4, z.argmax(-1), rng.integers(num_classes, size=num_examples))
    return (np.exp(z) / np.exp(z).sum(-1, keepdims=True)).astype(np.float32), labels.astype(np.int32)


# Accuracy


def test_accuracy_and_confusion_matrix_are_those_of_scikit_learn():
    p, labels = random_examples()
    np.testing.assert_allclose(accuracy(p, labels), metrics.accuracy_score(labels, p.argmax(-1)), rtol=1e-6)
    np.testing.assert_array_equal(confusion_matrix(p, labels), metrics.confusion_matrix(labels, p.argmax(-1)))


@pytest.mark.parametrize(
    ("row", "predicted"),
    [
        ([1.0, 2.0, 0.0], 1),
        ([2.0, 2.0, 0.0], 0),  # of tied scores the first
        ([0.0, 3.0, 3.0], 1),
        ([-INF, -INF, -INF], 0),
        ([0.0, 1.0, INF], 2),
        ([NAN, 1.0, 0.0], None),  # NaN predicts nothing
        ([0.0, 1.0, NAN], None),
        ([NAN, NAN, NAN], None),
    ],
)
def test_what_a_row_predicts(row, predicted):
    s, expected = jnp.array([row]), np.zeros((3, 3), int)
    for label in range(3):
        assert accuracy(s, jnp.array([label])) == (label == predicted)
        expected[:] = 0
        if predicted is not None:
            expected[label, predicted] = 1
        np.testing.assert_array_equal(confusion_matrix(s, jnp.array([label])), expected)


def test_a_label_outside_the_classes_is_wrong_and_counted_nowhere():
    s, labels = jnp.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]), jnp.array([0, -2, 2, -1])
    assert accuracy(s, labels) == 0.25
    np.testing.assert_array_equal(confusion_matrix(s, labels), [[1, 0], [0, 0]])
    # confidence 1 everywhere, right once: |1/4 − 1|
    assert expected_calibration_error(s, labels) == 0.75


def test_what_the_mask_leaves_out_has_no_part():
    p, labels = random_examples()
    mask = np.random.default_rng(1).random(len(labels)) < 0.5
    spoilt = np.where(mask[:, None], p, NAN)
    spoilt_labels = np.where(mask, labels, 77)
    for function in (accuracy, confusion_matrix, expected_calibration_error):
        np.testing.assert_allclose(
            function(spoilt, spoilt_labels, where=mask), function(p[mask], labels[mask]), rtol=1e-6
        )
    assert accuracy(spoilt, spoilt_labels) < accuracy(spoilt, spoilt_labels, where=mask)


@pytest.mark.parametrize("masked", [False, True])
def test_without_examples_all_scores_are_0(masked):
    s, labels = jnp.ones((4 * masked, 3)), jnp.zeros(4 * masked, int)
    where = jnp.zeros(4, bool) if masked else None
    assert accuracy(s, labels, where=where) == 0
    assert expected_calibration_error(s, labels, where=where) == 0
    np.testing.assert_array_equal(confusion_matrix(s, labels, where=where), np.zeros((3, 3)))


def test_any_batch_axes_count_as_one():
    p, labels = random_examples(24)
    for function in (accuracy, confusion_matrix, expected_calibration_error):
        flat = function(p, labels)
        np.testing.assert_allclose(function(p.reshape(2, 3, 4, 5), labels.reshape(2, 3, 4)), flat, rtol=1e-6)
        np.testing.assert_allclose(function(p[:1], labels[:1]), function(p[0], labels[0]), rtol=1e-6)


def test_a_matrix_of_counts_has_a_row_for_each_true_class():
    s = jnp.eye(3)[jnp.array([1, 1, 2, 0])]
    expected = [[0, 2, 0], [0, 0, 1], [1, 0, 0]]  # class 0 was taken for 1 twice, 1 for 2, 2 for 0
    m = confusion_matrix(s, jnp.array([0, 0, 1, 2]))
    assert m.dtype == jnp.int32
    np.testing.assert_array_equal(m, expected)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "uint32"])
def test_labels_may_have_any_integer_type(dtype):
    labels = np.arange(20).astype(dtype)
    np.testing.assert_array_equal(confusion_matrix(jnp.eye(20), labels), np.eye(20))
    assert accuracy(jnp.eye(20), labels) == 1
    assert expected_calibration_error(jnp.eye(20), labels) == 0


# Calibration


def calibration_error_by_hand(p, labels, num_bins):
    """The definition, bin by bin in float64."""
    confidence, right = p.max(-1).astype(np.float64), p.argmax(-1) == labels
    error = 0.0
    for m in range(1, num_bins + 1):
        inside = ((m - 1) / num_bins < confidence) & (confidence <= m / num_bins)
        if inside.any():
            error += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    return error


@pytest.mark.parametrize("num_bins", [1, 7, 15])
def test_the_calibration_error_is_its_definition(num_bins):
    p, labels = random_examples()
    error = expected_calibration_error(p, labels, num_bins=num_bins)
    np.testing.assert_allclose(error, calibration_error_by_hand(p, labels, num_bins), rtol=1e-5)


@pytest.mark.parametrize(
    ("confidences", "right", "num_bins", "error"),
    [
        ([1.0, 1.0], [1, 1], 15, 0.0),
        ([1.0, 1.0], [0, 0], 15, 1.0),
        ([0.75, 0.75, 0.75, 0.75], [1, 1, 1, 0], 15, 0.0),  # says 75 %, is right in three of four
        ([0.75, 1.0], [1, 0], 4, 0.25 / 2 + 1.0 / 2),  # ¾ is in the third bin, 1 in the fourth
        ([0.75, 1.0], [1, 0], 1, 0.375),  # in one bin: |½ − ⅞|
        ([0.625, 0.75], [1, 0], 4, 0.1875),  # both in (½, ¾]: |½ − 11/16|
        ([0.5, 0.625], [1, 0], 4, 0.5 / 2 + 0.625 / 2),  # ½ is the end of the bin below
    ],
)
def test_the_calibration_error_of_cases_by_hand(confidences, right, num_bins, error):
    others = (1 - np.array(confidences)) / 2
    p = np.stack([others, confidences, others], -1).astype(np.float32)
    found = expected_calibration_error(p, np.array(right), num_bins=num_bins)
    np.testing.assert_allclose(found, error, rtol=1e-6)


def test_nan_probabilities_give_a_nan_calibration_error():
    assert np.isnan(expected_calibration_error(jnp.array([[0.5, NAN], [0.5, 0.5]]), jnp.array([0, 0])))


# Precision and transformations


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_counts_in_float32(dtype):
    # 4097 examples, one of them wrong: neither the number nor the share is one of half precision
    p = jnp.concatenate([jnp.tile(jnp.array([[0.0, 1.0]]), (4096, 1)), jnp.array([[1.0, 0.0]])]).astype(dtype)
    labels = jnp.ones(4097, int)
    for found, expected in ((accuracy(p, labels), 4096 / 4097), (expected_calibration_error(p, labels), 1 / 4097)):
        assert found.dtype == jnp.float32
        np.testing.assert_allclose(found, expected, rtol=1e-6)
    np.testing.assert_array_equal(confusion_matrix(p, labels), [[0, 0], [1, 4096]])


def test_double_precision_stays():
    with jax.enable_x64(True):
        p, labels = np.array([[0.0, 1.0]] * 3), np.array([1, 1, 0])
        for function, expected in ((accuracy, 2 / 3), (expected_calibration_error, 1 / 3)):
            found = function(p, labels)
            assert found.dtype == jnp.float64
            np.testing.assert_allclose(found, expected, rtol=1e-15)
        assert confusion_matrix(p, labels).dtype == jnp.int32


@by_name
def test_vmap_is_a_loop(function):
    p, labels = random_examples(24)
    p, labels = p.reshape(4, 6, 5), labels.reshape(4, 6)
    mask = np.random.default_rng(2).random((4, 6)) < 0.7
    together = jax.jit(jax.vmap(lambda *args: function(*args[:2], where=args[2])))(p, labels, mask)
    for i in range(4):
        np.testing.assert_allclose(together[i], jax.jit(function)(p[i], labels[i], where=mask[i]), rtol=1e-6)


def test_the_derivative_of_accuracy_is_0_and_that_of_calibration_is_of_the_confidence():
    p, labels = jnp.array([[0.75, 0.25], [0.9, 0.1]]), jnp.array([1, 0])
    np.testing.assert_array_equal(jax.grad(accuracy)(p, labels), np.zeros((2, 2)))
    # errors |0 − 0.75|/2 and |1 − 0.9|/2 in bins of their own
    np.testing.assert_allclose(jax.grad(expected_calibration_error)(p, labels), [[0.5, 0], [-0.5, 0]], atol=1e-7)


# Mistakes


@by_name
def test_mistakes_are_refused(function):
    function = inspect.unwrap(function)  # our own messages, even where jaxtyping would check first
    s, labels = jnp.zeros((4, 3)), jnp.zeros(4, int)
    with pytest.raises(AssertionError, match="shape"):
        function(s, jnp.zeros((4, 1), int))
    with pytest.raises(AssertionError, match="shape"):
        function(s, jnp.array(0))  # would broadcast
    with pytest.raises(TypeError, match="labels must be integers, got float32"):
        function(s, jnp.zeros(4))
    with pytest.raises(TypeError, match="floating-point"):
        function(jnp.zeros((4, 3), int), labels)
    with pytest.raises(TypeError, match="where must be boolean"):
        function(s, labels, where=jnp.ones(4))
    with pytest.raises(ValueError, match="does not broadcast"):
        function(s, labels, where=jnp.ones(3, bool))


@pytest.mark.parametrize("num_bins", [0, -1])
def test_there_is_at_least_one_bin(num_bins):
    with pytest.raises(ValueError, match=f"num_bins must be at least 1, got {num_bins}"):
        scores.expected_calibration_error(jnp.zeros((1, 2)), jnp.array([0]), num_bins=num_bins)


# Explained variance


@pytest.mark.parametrize(
    ("predictions", "targets", "expected"),
    [
        ([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], 1.0),
        ([1.0, 2.0, 3.0], [6.0, 7.0, 8.0], 1.0),  # an offset costs nothing
        ([0.0, 0.0, 0.0], [1.0, 2.0, 3.0], 0.0),
        ([3.0, 2.0, 1.0], [1.0, 2.0, 3.0], -3.0),  # errors of twice the deviations
        ([1.0, 2.0, 3.0], [2.0, 2.0, 2.0], 0.0),  # nothing to explain
    ],
)
def test_explained_variance(predictions, targets, expected):
    found = jax.jit(scores.explained_variance)(jnp.array(predictions), jnp.array(targets))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_explained_variance_is_scikit_learns():
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    targets = rng.normal(size=50).astype(np.float32)
    predictions = (targets + rng.normal(size=50)).astype(np.float32)
    expected = metrics.explained_variance_score(targets, predictions)
    np.testing.assert_allclose(scores.explained_variance(predictions, targets), expected, rtol=1e-5)
