"""Cross-entropies: stable values, and derivatives that keep their tails. Public in `mathai.nn.losses`."""

import functools

import chex
import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Integer, Shaped

from mathai.nn import _numerics, _stable_softmax, activations


def binary_cross_entropy(
    logits: Float[ArrayLike, "*shape"], labels: Shaped[ArrayLike, "*shape"]
) -> Float[Array, "*shape"]:
    """Binary cross-entropy from logits: the negative log-likelihood of y under Bernoulli(σ(x)).

        L = −y log σ(x) − (1 − y) log σ(−x)
          = log(1 + e^−|x|) + |x| · (1 − y if x > 0 else y)

        ∂L/∂x = σ(x) − y = (1 − y) σ(x) − y σ(−x),   ∂L/∂y = −x

    No term of the second form of either is a difference, so that neither loses the tail of a right hard label. At
    x = ±∞ the loss is 0 with gradient 0 for the right hard label and ∞ with gradient ±1 for the wrong one.

    Args:
      logits: log-odds x, any shape.
      labels: y in [0, 1], the same shape; broadcasting is an error.

    Returns:
      One loss ≥ 0 per element, in the first argument's dtype.

    Raises:
      AssertionError: the shapes differ.
      TypeError: logits are not floating point.

    Source:
      Bishop (2006), Pattern Recognition and Machine Learning, eq. 4.90.

    >>> binary_cross_entropy(jnp.array([jnp.inf, -3.0]), jnp.array([1.0, 1.0]))
    Array([0.       , 3.0485873], dtype=float32)
    """
    _numerics.assert_equal_shape(logits, labels)
    (logits, labels), dtype = _numerics.upcast(logits, labels)
    return _binary_cross_entropy(logits, labels).astype(dtype)


@jax.custom_jvp
def _binary_cross_entropy(x: Array, y: Array) -> Array:
    wrong = jnp.where(x > 0, 1 - y, y)
    magnitude = jnp.where(wrong == 0, 0, jnp.abs(x))
    return jnp.log1p(jnp.exp(-jnp.abs(x))) + magnitude * wrong


@functools.partial(_binary_cross_entropy.defjvp, symbolic_zeros=True)
def _binary_cross_entropy_jvp(primals, tangents):
    x, y = primals
    slope = (1 - y) * activations.sigmoid(x) - y * activations.sigmoid(-x)
    return _binary_cross_entropy(x, y), _numerics.times(slope, tangents[0]) + _numerics.times(-x, tangents[1])


def binary_cross_entropy_from_probabilities(
    probabilities: Float[ArrayLike, "*shape"], labels: Shaped[ArrayLike, "*shape"]
) -> Float[Array, "*shape"]:
    """Binary cross-entropy from probabilities. Prefer logits where you have them.

        L = −y log p − (1 − y) log(1 − p),   0 log 0 = 0

        ∂L/∂p = (p − y) / (p (1 − p)),   ∂L/∂y = log((1 − p)/p)

    For a right hard label the loss is 0 and ∂L/∂p is 1 at p = y = 0, −1 at p = y = 1. For a wrong one it is ∞ and ±∞.

    Args:
      probabilities: p in [0, 1], any shape; outside, the loss is NaN.
      labels: y in [0, 1], the same shape; broadcasting is an error.

    Returns:
      One loss ≥ 0 per element, in the first argument's dtype.

    Raises:
      AssertionError: the shapes differ.
      TypeError: probabilities are not floating point.

    Source:
      Bishop (2006), Pattern Recognition and Machine Learning, eq. 4.90.

    >>> binary_cross_entropy_from_probabilities(jnp.array([1.0, 0.0]), jnp.array([1.0, 0.0]))
    Array([0., 0.], dtype=float32)
    """
    _numerics.assert_equal_shape(probabilities, labels)
    (probabilities, labels), dtype = _numerics.upcast(probabilities, labels)
    valid = (probabilities >= 0) & (probabilities <= 1)
    loss = _bernoulli_cross_entropy(probabilities, labels)
    return (loss * jnp.where(valid, 1, jnp.nan)).astype(dtype)


@jax.custom_jvp
def _bernoulli_cross_entropy(p: Array, y: Array) -> Array:
    positive = jnp.where(y == 0, 0, -y * jnp.log(p))
    return positive + jnp.where(y == 1, 0, -(1 - y) * jnp.log1p(-p))


@functools.partial(_bernoulli_cross_entropy.defjvp, symbolic_zeros=True)
def _bernoulli_cross_entropy_jvp(primals, tangents):
    p, y = primals
    # log(1 − p) − log p cancels near p = ½, where log1p does not.
    near = jnp.abs(p - 0.5) < 0.25
    safe = jnp.where(near, p, 0.5)
    log_odds = jnp.where(near, jnp.log1p((1 - 2 * safe) / safe), jnp.log1p(-p) - jnp.log(p))
    tangent = _numerics.times(_bernoulli_slope(p, y), tangents[0]) + _numerics.times(log_odds, tangents[1])
    return _bernoulli_cross_entropy(p, y), tangent


@jax.custom_jvp
def _bernoulli_slope(p: Array, y: Array) -> Array:
    """Slope (p − y) / p(1 − p), finite at the right hard label."""
    numerator = jnp.where(y == 0, 1, jnp.where(y == 1, -1, p - y))
    return numerator / (jnp.where(y == 0, 1, p) * jnp.where(y == 1, 1, 1 - p))


@functools.partial(_bernoulli_slope.defjvp, symbolic_zeros=True)
def _bernoulli_slope_jvp(primals, tangents):
    p, y = primals
    curvature = jnp.where(y == 0, 0, y / jnp.square(p)) + jnp.where(y == 1, 0, (1 - y) / jnp.square(1 - p))
    mixed = -1 / (p * (1 - p))
    tangent = _numerics.times(curvature, tangents[0]) + _numerics.times(mixed, tangents[1])
    return _bernoulli_slope(p, y), tangent


def categorical_cross_entropy(
    logits: Float[ArrayLike, "*shape"],
    labels: Shaped[ArrayLike, "*shape"],
    *,
    axis: int = -1,
    where: Bool[ArrayLike, "*mask"] | None = None,
) -> Float[Array, "*batch"]:
    """Cross-entropy between a distribution over classes and the softmax of logits.

        L = −Σᵢ yᵢ log pᵢ,   p = softmax(z),   0 log 0 = 0

        ∂L/∂zᵢ = pᵢ Σⱼ yⱼ − yᵢ = pᵢ Σⱼ≠ᵢ yⱼ − yᵢ (1 − pᵢ),   ∂L/∂yᵢ = −log pᵢ

    The second form keeps the tail of a right one-hot label. A masked class, and a −∞ logit with label 0, take no part:
    no loss, and gradient 0 in both arguments. A −∞ logit with a positive label has loss ∞. An entirely masked row has
    loss 0.

    Args:
      logits: z, any shape with at least one axis.
      labels: y ≥ 0, probabilities or one-hot, the same shape; they need not sum to 1.
      axis: the axis of the classes.
      where: True where a class takes part, of the logits' shape or of one that broadcasts to it.

    Returns:
      One loss per example: the logits' shape without `axis`, in the logits' dtype.

    Raises:
      AssertionError: the shapes of logits and labels differ.
      TypeError: logits are not floating point, or where is not boolean.
      ValueError: axis is out of range, or where does not broadcast to the logits' shape.

    Source:
      Bishop (2006), Pattern Recognition and Machine Learning, eq. 4.108 and 4.109.

    >>> categorical_cross_entropy(jnp.array([0.0, 0.0, -jnp.inf]), jnp.array([1.0, 0.0, 0.0]))
    Array(0.6931472, dtype=float32)
    """
    _numerics.assert_equal_shape(logits, labels)
    (logits, labels), dtype = _numerics.upcast(logits, labels)
    axis = _numerics.normalize_axis(axis, logits.ndim)
    if where is not None:
        mask = _numerics.broadcast_mask(where, logits.shape)
        logits, labels = jnp.where(mask, logits, -jnp.inf), jnp.where(mask, labels, 0)
    return _cross_entropy(logits, labels, axis).astype(dtype)


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def _cross_entropy(z: Array, y: Array, axis: int) -> Array:
    maximum = _stable_softmax.peak(z, axis)
    total_y = jnp.sum(y, axis, keepdims=True)
    of_labels = jnp.where(y == 0, 0, y * _stable_softmax.differences(z, maximum))
    log_total = jnp.log1p(_stable_softmax.excess(z, maximum, axis))
    return jnp.squeeze(total_y * log_total - jnp.sum(of_labels, axis, keepdims=True), axis)


@functools.partial(_cross_entropy.defjvp, symbolic_zeros=True)
def _cross_entropy_jvp(axis, primals, tangents):
    z, y = primals
    tangent = jnp.zeros(z.shape[:axis] + z.shape[axis + 1 :], z.dtype)
    if not isinstance(tangents[0], SymbolicZero):
        tangent += jnp.sum(_cross_entropy_slope(z, y, axis) * tangents[0], axis)
    if not isinstance(tangents[1], SymbolicZero):
        surprise = jnp.where((z == -jnp.inf) & (y == 0), 0, -_stable_softmax.log_softmax(z, axis))
        tangent += jnp.sum(surprise * tangents[1], axis)
    return _cross_entropy(z, y, axis), tangent


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def _cross_entropy_slope(z: Array, y: Array, axis: int) -> Array:
    """Slope pᵢ Σⱼ≠ᵢ yⱼ − yᵢ (1 − pᵢ)."""
    maximum = _stable_softmax.peak(z, axis)
    exponential, excess = _stable_softmax.exponentials(z, maximum), _stable_softmax.excess(z, maximum, axis)
    total_y = jnp.sum(y, axis, keepdims=True)
    return (exponential * (total_y - y) - y * (excess + (1 - exponential))) / (1 + excess)


@_cross_entropy_slope.defjvp
def _cross_entropy_slope_jvp(axis, primals, tangents):
    (z, y), (dz, dy) = primals, tangents
    p = _stable_softmax.softmax(z, axis)
    curvature = jnp.sum(y, axis, keepdims=True) * _stable_softmax.tangent(p, dz, axis)
    return _cross_entropy_slope(z, y, axis), curvature + (p * jnp.sum(dy, axis, keepdims=True) - dy)


def categorical_cross_entropy_with_integer_labels(
    logits: Float[ArrayLike, "*shape"],
    labels: Integer[ArrayLike, "*batch"],
    *,
    axis: int = -1,
    where: Bool[ArrayLike, "*mask"] | None = None,
    ignore_index: int | None = None,
) -> Float[Array, "*batch"]:
    """Cross-entropy between one class and the softmax of logits.

        L = −log p_c,   p = softmax(z)

        ∂L/∂zᵢ = pᵢ − δᵢ꜀,   which is −Σⱼ≠꜀ pⱼ at i = c

    The gradient at the label keeps its tail. A label outside [0, C) gives NaN, value and gradient, and is never
    wrapped or clamped. An ignored example has loss 0 and gradient 0, whatever its logits hold. A label whose class is
    masked, or has logit −∞, has loss ∞; an entirely masked row has loss 0 and gradient 0.

    Args:
      logits: z, any shape with at least one axis.
      labels: c, the class of each example: the logits' shape without `axis`.
      axis: the axis of the classes.
      where: True where a class takes part, of the logits' shape or of one that broadcasts to it.
      ignore_index: the label of examples to ignore; any integer, −100 for example.

    Returns:
      One loss per example, in the logits' dtype.

    Raises:
      AssertionError: labels do not have the logits' shape without `axis`.
      TypeError: logits are not floating point, labels are not integers, or where is not boolean.
      ValueError: axis is out of range, or where does not broadcast to the logits' shape.

    Source:
      Bishop (2006), Pattern Recognition and Machine Learning, eq. 4.108 and 4.109.

    >>> categorical_cross_entropy_with_integer_labels(jnp.zeros((3, 2)), jnp.array([1, -1, -100]), ignore_index=-100)
    Array([0.6931472,       nan, 0.       ], dtype=float32)
    """
    (logits,), dtype = _numerics.upcast(logits)
    labels = _numerics.as_classes(labels)
    axis = _numerics.normalize_axis(axis, logits.ndim)
    num_classes = logits.shape[axis]
    chex.assert_shape(labels, logits.shape[:axis] + logits.shape[axis + 1 :])
    if where is not None:
        mask = _numerics.broadcast_mask(where, logits.shape)
        logits = jnp.where(mask, logits, -jnp.inf)
    valid = (labels >= 0) & (labels < num_classes)
    if ignore_index is not None:
        info = jnp.iinfo(labels.dtype)
        ignored = (labels == ignore_index) if info.min <= ignore_index <= info.max else jnp.zeros_like(labels, bool)
        logits = jnp.where(jnp.expand_dims(ignored, axis), 0, logits)
    loss = _cross_entropy_at(logits, labels, axis) * jnp.where(valid, 1, jnp.nan)
    if where is not None:
        loss = jnp.where(jnp.any(mask, axis), loss, 0)
    return (loss if ignore_index is None else jnp.where(ignored, 0, loss)).astype(dtype)


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def _cross_entropy_at(z: Array, label: Array, axis: int) -> Array:
    maximum = _stable_softmax.peak(z, axis)
    at_label = jnp.take_along_axis(z, jnp.expand_dims(label, axis), axis, mode="clip")
    log_total = jnp.log1p(_stable_softmax.excess(z, maximum, axis))
    return jnp.squeeze(log_total - _stable_softmax.differences(at_label, maximum), axis)


@_cross_entropy_at.defjvp
def _cross_entropy_at_jvp(axis, primals, tangents):
    z, label = primals
    slope = _cross_entropy_slope_at(z, label, axis)
    return _cross_entropy_at(z, label, axis), jnp.sum(slope * tangents[0], axis)


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def _cross_entropy_slope_at(z: Array, label: Array, axis: int) -> Array:
    """Slope pᵢ − δᵢ꜀, with Σⱼ≠꜀ pⱼ for 1 − p_c."""
    maximum = _stable_softmax.peak(z, axis)
    exponential, excess = _stable_softmax.exponentials(z, maximum), _stable_softmax.excess(z, maximum, axis)
    is_label = lax.broadcasted_iota(label.dtype, z.shape, axis) == jnp.expand_dims(label, axis)
    return jnp.where(is_label, -(excess + (1 - exponential)), exponential) / (1 + excess)


@_cross_entropy_slope_at.defjvp
def _cross_entropy_slope_at_jvp(axis, primals, tangents):
    z, label = primals
    p = _stable_softmax.softmax(z, axis)
    return _cross_entropy_slope_at(z, label, axis), _stable_softmax.tangent(p, tangents[0], axis)
