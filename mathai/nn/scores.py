"""Scores of a classifier: accuracy, confusion matrix, calibration.

They count and compare; their derivatives are 0 where they exist, and nothing is trained on them.
"""

import chex
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int, Integer

from mathai.nn import _numerics

__all__ = ["accuracy", "confusion_matrix", "expected_calibration_error"]


def accuracy(
    scores: Float[ArrayLike, "*batch classes"],
    labels: Integer[ArrayLike, "*batch"],
    *,
    where: Bool[ArrayLike, "*batch"] | None = None,
) -> Float[Array, ""]:
    """Share of the examples whose highest score is that of their label.

        a = 1/n Σᵢ [argmax sᵢ = cᵢ]

    Of tied highest scores the first class counts as predicted. A row with NaN predicts nothing and is wrong.

    Args:
      scores: logits or probabilities, the classes on the last axis.
      labels: c, the class of each example.
      where: True where an example takes part.

    Returns:
      A number in [0, 1] in at least float32; 0 if no example takes part.

    Raises:
      AssertionError: labels do not have the scores' shape without the classes.
      TypeError: scores are not floating point, labels are not integers, or where is not boolean.

    Source:
      Bishop (2006), Pattern Recognition and Machine Learning, section 1.5.1: one minus the misclassification rate.

    >>> accuracy(jnp.array([[0.1, 2.0], [3.0, 1.0], [0.0, 0.0]]), jnp.array([1, 1, 0])).round(4)
    Array(0.6667, dtype=float32)
    """
    wide, classes, mask = _checked(scores, labels, where)
    right = jnp.sum(_is_right(wide, classes) & mask)
    return (right / jnp.maximum(jnp.sum(mask), 1)).astype(wide.dtype)


def confusion_matrix(
    scores: Float[ArrayLike, "*batch classes"],
    labels: Integer[ArrayLike, "*batch"],
    *,
    where: Bool[ArrayLike, "*batch"] | None = None,
) -> Int[Array, "classes classes"]:
    """Counts of true against predicted classes.

        Mⱼₖ = Σᵢ [cᵢ = j] [argmax sᵢ = k]

    An example whose label is outside [0, C), or whose scores hold NaN, is counted nowhere.

    Args:
      scores: logits or probabilities, the classes on the last axis.
      labels: c, the class of each example.
      where: True where an example takes part.

    Returns:
      M, int32: rows are true classes, columns predicted ones.

    Raises:
      AssertionError: labels do not have the scores' shape without the classes.
      TypeError: scores are not floating point, labels are not integers, or where is not boolean.

    Source:
      Hastie, Tibshirani & Friedman (2009), The Elements of Statistical Learning, section 9.2.5.

    >>> confusion_matrix(jnp.array([[0.1, 2.0], [3.0, 1.0], [1.0, 0.0]]), jnp.array([1, 1, 0]))
    Array([[1, 0],
           [1, 1]], dtype=int32)
    """
    wide, classes, mask = _checked(scores, labels, where)
    num_classes = wide.shape[-1]
    counted = mask & (classes >= 0) & (classes < num_classes) & ~jnp.any(jnp.isnan(wide), -1)
    cell = jnp.where(counted, classes * num_classes + jnp.argmax(wide, -1), num_classes**2)
    counts = jnp.bincount(cell.ravel(), length=num_classes**2 + 1)[:-1]
    return counts.reshape(num_classes, num_classes).astype(jnp.int32)


def expected_calibration_error(
    probabilities: Float[ArrayLike, "*batch classes"],
    labels: Integer[ArrayLike, "*batch"],
    *,
    num_bins: int = 15,
    where: Bool[ArrayLike, "*batch"] | None = None,
) -> Float[Array, ""]:
    """How far confidence and accuracy are apart, on average over bins of equal width in confidence.

        ECE = Σₘ |Bₘ|/n · |acc(Bₘ) − conf(Bₘ)|,   Bₘ = {i : (m − 1)/M < max pᵢ ≤ m/M}

    Args:
      probabilities: p, the classes on the last axis.
      labels: c, the class of each example.
      num_bins: M, at least 1.
      where: True where an example takes part.

    Returns:
      A number in [0, 1] in at least float32; 0 if no example takes part, NaN if a probability of one that does is NaN.

    Raises:
      AssertionError: labels do not have the shape of the probabilities without the classes.
      TypeError: probabilities are not floating point, labels are not integers, or where is not boolean.
      ValueError: num_bins is less than 1.

    Source:
      Guo, Pleiss, Sun & Weinberger (2017), On Calibration of Modern Neural Networks, eq. 5.

    >>> p = jnp.array([[0.75, 0.25], [0.75, 0.25]])  # says 75 %, is right half of the time
    >>> expected_calibration_error(p, jnp.array([0, 1]))
    Array(0.25, dtype=float32)
    """
    if num_bins < 1:
        raise ValueError(f"num_bins must be at least 1, got {num_bins}")
    wide, classes, mask = _checked(probabilities, labels, where)
    confidence = jnp.max(wide, -1)
    # Σ over a bin of (right − confidence) is |B| (acc − conf): no division by a bin's size, which may be 0.
    gap = jnp.where(mask, _is_right(wide, classes) - confidence, 0)
    bin_of = jnp.clip(jnp.ceil(confidence * num_bins).astype(jnp.int32) - 1, 0, num_bins - 1)
    per_bin = jnp.zeros(num_bins, wide.dtype).at[bin_of.ravel()].add(gap.ravel())
    return jnp.sum(jnp.abs(per_bin)) / jnp.maximum(jnp.sum(mask), 1)


def explained_variance(
    predictions: Float[ArrayLike, "*shape"], targets: Float[ArrayLike, "*shape"]
) -> Float[Array, ""]:
    """How much of the targets' variance predictions explain; an offset costs nothing.

        1 − Var(y − ŷ) / Var(y)

    Args:
      predictions: ŷ, any shape.
      targets: y, the same shape; broadcasting is an error.

    Returns:
      A scalar, at most 1; below 0 where a constant would do better, and 0 where the targets do not vary.

    Raises:
      AssertionError: the shapes differ.

    Source:
      Pedregosa et al. (2011), Scikit-learn: Machine Learning in Python, user guide, "Explained variance score".

    >>> explained_variance(jnp.array([1.0, 2.0, 3.0]), jnp.array([2.0, 3.0, 4.0]))
    Array(1., dtype=float32)
    """
    _numerics.assert_equal_shape(predictions, targets)
    (predictions, targets), dtype = _numerics.upcast(predictions, targets)
    variance = jnp.var(targets)
    share = jnp.var(targets - predictions) / jnp.where(variance > 0, variance, 1)
    return jnp.where(variance > 0, 1 - share, 0).astype(dtype)


def _checked(scores: ArrayLike, labels: ArrayLike, where: ArrayLike | None) -> tuple[Array, Array, Array]:
    """Scores in at least float32, integer labels, and a mask of the labels' shape."""
    (wide,), _ = _numerics.upcast(scores)
    classes = _numerics.as_classes(labels)
    chex.assert_shape(classes, wide.shape[:-1])
    mask = jnp.ones(classes.shape, bool) if where is None else _numerics.broadcast_mask(where, classes.shape)
    return wide, classes, mask


def _is_right(scores: Array, labels: Array) -> Array:
    return (jnp.argmax(scores, -1) == labels) & ~jnp.any(jnp.isnan(scores), -1)
