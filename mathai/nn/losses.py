"""Loss functions: one value per example, finite where the formula is, with derivatives that keep their tails.

Predictions and logits are floating point; labels may be integers or booleans and take the logits' dtype. bfloat16 and
float16 are computed in float32 and rounded once. Nothing broadcasts: a shape that does not match is an error.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Shaped

from mathai.nn import _numerics
from mathai.nn._cross_entropy import (
    binary_cross_entropy,
    binary_cross_entropy_from_probabilities,
    categorical_cross_entropy,
    categorical_cross_entropy_with_integer_labels,
)
from mathai.nn._focal import sigmoid_focal, softmax_focal

__all__ = [
    "absolute_error",
    "binary_cross_entropy",
    "binary_cross_entropy_from_probabilities",
    "categorical_cross_entropy",
    "categorical_cross_entropy_with_integer_labels",
    "huber",
    "mean_absolute_error",
    "mean_huber",
    "mean_squared_error",
    "sigmoid_focal",
    "softmax_focal",
    "squared_error",
]


def squared_error(
    predictions: Float[ArrayLike, "*shape"], targets: Shaped[ArrayLike, "*shape"]
) -> Float[Array, "*shape"]:
    """Squared error, without a factor ½.

        L = (ŷ − y)²,   ∂L/∂ŷ = 2 (ŷ − y)

    Args:
      predictions: ŷ, any shape.
      targets: y, the same shape; broadcasting is an error.

    Returns:
      One loss per element, in the dtype of the predictions.

    Raises:
      AssertionError: the shapes differ.
      TypeError: predictions are not floating point.

    Source:
      Bishop (2006), Pattern Recognition and Machine Learning, eq. 1.87.

    >>> squared_error(jnp.array([1.0, 3.0]), jnp.array([0.0, 3.0]))
    Array([1., 0.], dtype=float32)
    """
    _numerics.assert_equal_shape(predictions, targets)
    (predictions, targets), dtype = _numerics.upcast(predictions, targets)
    return jnp.square(predictions - targets).astype(dtype)


def absolute_error(
    predictions: Float[ArrayLike, "*shape"], targets: Shaped[ArrayLike, "*shape"]
) -> Float[Array, "*shape"]:
    """Absolute error; the subgradient at 0 is 0.

        L = |ŷ − y|,   ∂L/∂ŷ = sign(ŷ − y)

    Args:
      predictions: ŷ, any shape.
      targets: y, the same shape; broadcasting is an error.

    Returns:
      One loss per element, in the dtype of the predictions.

    Raises:
      AssertionError: the shapes differ.
      TypeError: predictions are not floating point.

    Source:
      Bishop (2006), Pattern Recognition and Machine Learning, eq. 1.91 with q = 1.

    >>> absolute_error(jnp.array([1.0, 3.0]), jnp.array([3.0, 3.0]))
    Array([2., 0.], dtype=float32)
    """
    _numerics.assert_equal_shape(predictions, targets)
    (predictions, targets), dtype = _numerics.upcast(predictions, targets)
    return _absolute(predictions - targets).astype(dtype)


def huber(
    predictions: Float[ArrayLike, "*shape"],
    targets: Shaped[ArrayLike, "*shape"],
    *,
    delta: Shaped[ArrayLike, ""] = 1.0,
) -> Float[Array, "*shape"]:
    """Huber loss: quadratic near zero, linear beyond `delta`, robust to outliers.

        L(e) = ½e²            |e| ≤ δ
               δ|e| − ½δ²     otherwise,      e = ŷ − y

    The derivative is e clipped to [−δ, δ]: continuous, bounded, 0 at e = 0, ±δ at e = ±∞.

    Args:
      predictions: ŷ, any shape.
      targets: y, the same shape; broadcasting is an error.
      delta: threshold δ > 0, a scalar in the units of y; differentiable.

    Returns:
      One loss per element, in the dtype of the predictions.

    Raises:
      AssertionError: the shapes differ.
      TypeError: predictions are not floating point.
      ValueError: delta is not a scalar, or is known while tracing and not positive.

    Source:
      Huber (1964), Robust Estimation of a Location Parameter, eq. 2.

    >>> huber(jnp.array([0.0, 3.0]), jnp.array([0.5, 0.0]), delta=1.0)
    Array([0.125, 2.5  ], dtype=float32)
    """
    _numerics.assert_equal_shape(predictions, targets)
    _numerics.assert_scalar("delta", delta)
    if (static := _numerics.static_value(delta)) is not None and not static > 0:
        raise ValueError(f"delta must be positive, got {static}")
    (predictions, targets), dtype = _numerics.upcast(predictions, targets)
    delta = jnp.asarray(delta, predictions.dtype)
    return _huber(predictions - targets, delta).astype(dtype)


def _absolute(error: Array) -> Array:
    # d|e| = sign(e) de, also at 0, where autodiff of jnp.abs may give 1.
    return error * lax.stop_gradient(jnp.sign(error))


@jax.custom_jvp
def _huber(error: Array, delta: Array) -> Array:
    magnitude = jnp.abs(error)
    clipped = jnp.minimum(magnitude, delta)
    return clipped * (magnitude - 0.5 * clipped)


@functools.partial(_huber.defjvp, symbolic_zeros=True)
def _huber_jvp(primals, tangents):
    error, delta = primals
    magnitude = jnp.abs(error)
    slope = jnp.where(magnitude > delta, jnp.sign(error) * delta, error)
    excess = jnp.where(magnitude > delta, magnitude - delta, 0)
    return _huber(error, delta), _numerics.times(slope, tangents[0]) + _numerics.times(excess, tangents[1])


def mean_squared_error(
    predictions: Float[ArrayLike, "*shape"],
    targets: Shaped[ArrayLike, "*shape"],
    *,
    where: Bool[ArrayLike, "*mask"] | None = None,
) -> Float[Array, ""]:
    """Mean squared error over the elements that take part.

        L = 1/n Σᵢ (ŷᵢ − yᵢ)²

    Args:
      predictions: ŷ, any shape.
      targets: y, the same shape; broadcasting is an error.
      where: True where an element takes part, of that shape or of one that broadcasts to it. What is masked may hold
        NaN and has gradient 0; if everything is, the mean is 0.

    Returns:
      A scalar in the dtype of the predictions.

    Raises:
      AssertionError: the shapes differ.
      TypeError: predictions are not floating point, or where is not boolean.
      ValueError: where does not broadcast to the shape of the predictions.

    Source:
      Goodfellow, Bengio & Courville (2016), Deep Learning, eq. 5.4.

    >>> mean_squared_error(jnp.array([1.0, 3.0]), jnp.array([0.0, 0.0]))
    Array(5., dtype=float32)
    """
    return _mean(squared_error, predictions, targets, where)


def mean_absolute_error(
    predictions: Float[ArrayLike, "*shape"],
    targets: Shaped[ArrayLike, "*shape"],
    *,
    where: Bool[ArrayLike, "*mask"] | None = None,
) -> Float[Array, ""]:
    """Mean absolute error over the elements that take part.

        L = 1/n Σᵢ |ŷᵢ − yᵢ|

    Args:
      predictions: ŷ, any shape.
      targets: y, the same shape; broadcasting is an error.
      where: True where an element takes part, as in `mean_squared_error`.

    Returns:
      A scalar in the dtype of the predictions; 0 if there are none.

    Raises:
      AssertionError: the shapes differ.
      TypeError: predictions are not floating point, or where is not boolean.
      ValueError: where does not broadcast to the shape of the predictions.

    Source:
      Bishop (2006), Pattern Recognition and Machine Learning, eq. 1.91 with q = 1.

    >>> mean_absolute_error(jnp.array([1.0, jnp.nan]), jnp.array([3.0, 0.0]), where=jnp.array([True, False]))
    Array(2., dtype=float32)
    """
    return _mean(absolute_error, predictions, targets, where)


def mean_huber(
    predictions: Float[ArrayLike, "*shape"],
    targets: Shaped[ArrayLike, "*shape"],
    *,
    delta: Shaped[ArrayLike, ""] = 1.0,
    where: Bool[ArrayLike, "*mask"] | None = None,
) -> Float[Array, ""]:
    """Mean Huber loss over the elements that take part.

        L = 1/n Σᵢ H(ŷᵢ − yᵢ),   H as in `huber`

    Args:
      predictions: ŷ, any shape.
      targets: y, the same shape; broadcasting is an error.
      delta: threshold δ > 0, a scalar in the units of y.
      where: True where an element takes part, as in `mean_squared_error`.

    Returns:
      A scalar in the dtype of the predictions; 0 if there are none.

    Raises:
      AssertionError: the shapes differ.
      TypeError: predictions are not floating point, or where is not boolean.
      ValueError: delta is not a positive scalar, or where does not broadcast to the shape of the predictions.

    Source:
      Huber (1964), Robust Estimation of a Location Parameter, eq. 2.

    >>> mean_huber(jnp.array([0.0, 3.0]), jnp.array([0.5, 0.0]))
    Array(1.3125, dtype=float32)
    """
    return _mean(functools.partial(huber, delta=delta), predictions, targets, where)


def _mean(loss, predictions, targets, where):
    _numerics.assert_equal_shape(predictions, targets)
    (predictions, targets), dtype = _numerics.upcast(predictions, targets)
    if where is None:
        return (jnp.sum(loss(predictions, targets)) / max(predictions.size, 1)).astype(dtype)
    mask = _numerics.broadcast_mask(where, predictions.shape)
    # Masked before the loss, not after it: a NaN would come back through the gradient as 0·NaN.
    losses = loss(jnp.where(mask, predictions, 0), jnp.where(mask, targets, 0))
    return (jnp.sum(losses, where=mask) / jnp.maximum(jnp.sum(mask), 1)).astype(dtype)
