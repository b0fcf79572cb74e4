"""Focal losses, right in logits, labels and γ, at hard labels too. Public in `mathai.nn.losses`."""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Shaped

from mathai.nn import _numerics, _stable_softmax, activations
from mathai.nn._cross_entropy import binary_cross_entropy


def sigmoid_focal(
    logits: Float[ArrayLike, "*shape"],
    labels: Shaped[ArrayLike, "*shape"],
    *,
    alpha: Shaped[ArrayLike, ""] | None = None,
    gamma: Shaped[ArrayLike, ""] = 2.0,
) -> Float[Array, "*shape"]:
    """Binary focal loss: cross-entropy in which well-classified examples count less.

        L = α_t (1 − p_t)^γ H(x, y)

        1 − p_t = y σ(−x) + (1 − y) σ(x),   α_t = α y + (1 − α)(1 − y),   H = `binary_cross_entropy`

    γ = 0 is the cross-entropy, with its derivatives. All derivatives are products of 1 − p_t, H and their ratio, which
    is finite where both vanish: they exist and keep their tails in x, in y at 0 and 1, and in γ at 0. At x = ±∞ the
    loss is 0 with gradient 0 for the right hard label.

    Args:
      logits: log-odds x, any shape.
      labels: y in [0, 1], the same shape; broadcasting is an error.
      alpha: weight α of label 1 against 1 − α of label 0, a scalar in [0, 1]; None weighs both 1.
      gamma: focusing exponent γ ≥ 0, a scalar.

    Returns:
      One loss ≥ 0 per element, in the first argument's dtype.

    Raises:
      AssertionError: the shapes differ.
      TypeError: logits are not floating point.
      ValueError: alpha or gamma is not a scalar, or known while tracing and alpha outside [0, 1] or gamma < 0.

    Source:
      Lin, Goyal, Girshick, He & Dollár (2017), Focal Loss for Dense Object Detection, eq. 5.

    >>> sigmoid_focal(jnp.array([0.0, jnp.inf]), jnp.array([1.0, 1.0]), gamma=2.0)
    Array([0.1732868, 0.       ], dtype=float32)
    """
    _numerics.assert_equal_shape(logits, labels)
    (logits, labels), dtype = _numerics.upcast(logits, labels)
    gamma, whole = _exponent(gamma, logits.dtype)
    loss = _sigmoid_focal(logits, labels, gamma, whole)
    if alpha is not None:
        _numerics.assert_scalar("alpha", alpha)
        if (static := _numerics.static_value(alpha)) is not None and not 0 <= static <= 1:
            raise ValueError(f"alpha must be in [0, 1], got {static}")
        loss = _vanishing(jnp.asarray(alpha * labels + (1 - alpha) * (1 - labels)), loss)
    return loss.astype(dtype)


@functools.partial(jax.custom_jvp, nondiff_argnums=(3,))
def _sigmoid_focal(x: Array, y: Array, gamma: Array, whole: int | None) -> Array:
    miss = y * activations.sigmoid(-x) + (1 - y) * activations.sigmoid(x)
    return _focus(miss, gamma, whole) * binary_cross_entropy(x, y)


@functools.partial(_sigmoid_focal.defjvp, symbolic_zeros=True)
def _sigmoid_focal_jvp(whole, primals, tangents):
    x, y, gamma = primals
    miss = y * activations.sigmoid(-x) + (1 - y) * activations.sigmoid(x)
    hit = y * activations.sigmoid(x) + (1 - y) * activations.sigmoid(-x)
    focus, entropy = _focus(miss, gamma, whole), binary_cross_entropy(x, y)
    ratio = _numerics.ratio(entropy, miss)
    miss_x = (1 - 2 * y) * activations.sigmoid_derivative(x)
    entropy_x = (1 - y) * activations.sigmoid(x) - y * activations.sigmoid(-x)
    tangent = jnp.zeros_like(x)
    if not isinstance(tangents[0], SymbolicZero):
        tangent += focus * (gamma * _vanishing(miss_x, ratio) + entropy_x) * tangents[0]
    if not isinstance(tangents[1], SymbolicZero):
        miss_y = -activations.tanh(0.5 * x)
        tangent += _vanishing(focus, _vanishing(gamma, miss_y * ratio) - x) * tangents[1]
    if not isinstance(tangents[2], SymbolicZero):
        tangent += focus * _vanishing(entropy, _log_complement(hit, miss)) * tangents[2]
    return _sigmoid_focal(x, y, gamma, whole), tangent


def softmax_focal(
    logits: Float[ArrayLike, "*shape"],
    labels: Shaped[ArrayLike, "*shape"],
    *,
    alpha: Shaped[ArrayLike, "*alpha"] | None = None,
    gamma: Shaped[ArrayLike, ""] = 2.0,
    axis: int = -1,
) -> Float[Array, "*batch"]:
    """Multi-class focal loss: cross-entropy in which well-classified examples count less.

        L = −Σᵢ αᵢ yᵢ (1 − pᵢ)^γ log pᵢ,   p = softmax(z)

    γ = 0 is the cross-entropy, with its derivatives. They keep their tails and exist at one-hot labels in z, y and γ.
    A −∞ logit with label 0 takes no part, as in `categorical_cross_entropy`.

    Args:
      logits: z, any shape with at least one axis.
      labels: y ≥ 0, probabilities or one-hot, the same shape; broadcasting is an error.
      alpha: weight of each class, [C], or one scalar for all; None is 1.
      gamma: focusing exponent γ ≥ 0, a scalar.
      axis: the axis of the classes.

    Returns:
      One loss per example: the logits' shape without `axis`, in the logits' dtype.

    Raises:
      AssertionError: the shapes of logits and labels differ.
      TypeError: logits are not floating point.
      ValueError: axis is out of range, alpha is neither a scalar nor [C], gamma is not a scalar, or known while tracing
        and < 0.

    Source:
      Lin, Goyal, Girshick, He & Dollár (2017), Focal Loss for Dense Object Detection, eq. 5, with the softmax for σ.

    >>> softmax_focal(jnp.array([0.0, 0.0]), jnp.array([1.0, 0.0]), gamma=2.0)
    Array(0.1732868, dtype=float32)
    """
    _numerics.assert_equal_shape(logits, labels)
    (logits, labels), dtype = _numerics.upcast(logits, labels)
    axis = _numerics.normalize_axis(axis, logits.ndim)
    gamma, whole = _exponent(gamma, logits.dtype)
    if alpha is not None:
        labels = labels * _class_weights(alpha, logits.shape, axis, logits.dtype)
    return _softmax_focal(logits, labels, gamma, axis, whole).astype(dtype)


@functools.partial(jax.custom_jvp, nondiff_argnums=(3, 4))
def _softmax_focal(z: Array, y: Array, gamma: Array, axis: int, whole: int | None) -> Array:
    _, miss = _stable_softmax.probabilities(z, axis)
    surprise = -_stable_softmax.log_softmax(z, axis)
    return jnp.sum(_vanishing(y, _focus(miss, gamma, whole) * surprise), axis)


@functools.partial(_softmax_focal.defjvp, symbolic_zeros=True)
def _softmax_focal_jvp(axis, whole, primals, tangents):
    z, y, gamma = primals
    p, miss = _stable_softmax.probabilities(z, axis)
    surprise = -_stable_softmax.log_softmax(z, axis)
    focus = _focus(miss, gamma, whole)
    tangent = jnp.zeros(z.shape[:axis] + z.shape[axis + 1 :], z.dtype)
    if not isinstance(tangents[0], SymbolicZero):
        # ∂L/∂log pᵢ, all of one sign; then through ∂log pᵢ/∂zₖ = δᵢₖ − pₖ, with 1 − pₖ kept whole.
        gain = -y * focus * (1 + gamma * _vanishing(p, _numerics.ratio(surprise, miss)))
        slope = gain * miss - p * (jnp.sum(gain, axis, keepdims=True) - gain)
        tangent += jnp.sum(slope * tangents[0], axis)
    if not isinstance(tangents[1], SymbolicZero):
        tangent += jnp.sum(jnp.where((z == -jnp.inf) & (y == 0), 0, focus * surprise) * tangents[1], axis)
    if not isinstance(tangents[2], SymbolicZero):
        change = focus * _vanishing(surprise, _log_complement(p, miss))
        tangent += jnp.sum(_vanishing(y, change), axis) * tangents[2]
    return _softmax_focal(z, y, gamma, axis, whole), tangent


def _exponent(gamma: ArrayLike, dtype) -> tuple[Array, int | None]:
    """γ as an array, and as an int where it is a small integer that is known while tracing: products beat pow."""
    _numerics.assert_scalar("gamma", gamma)
    static = _numerics.static_value(gamma)
    if static is not None and not static >= 0:
        raise ValueError(f"gamma must be at least 0, got {static}")
    whole = int(static) if static is not None and static in (0, 1, 2, 3, 4, 5) else None
    return jnp.asarray(gamma, dtype), whole


def _focus(miss: Array, gamma: Array, whole: int | None) -> Array:
    return _numerics.power(miss, gamma) if whole is None else lax.integer_pow(miss, whole)


def _vanishing(zero: Array, other: Array) -> Array:
    """A product that is 0 where a factor is, though the other be infinite."""
    kept = jnp.where((other == 0) & jnp.isinf(zero), 0, zero)
    return kept * jnp.where((zero == 0) & jnp.isinf(other), 0, other)


def _log_complement(p: Array, complement: Array) -> Array:
    """log(1 − p) from both parts, accurate near p = 0 too; 0 where p = 1."""
    small = p < 0.5
    return jnp.where(small, jnp.log1p(-jnp.where(small, p, 0)), jnp.log(jnp.where(complement > 0, complement, 1)))


def _class_weights(alpha: ArrayLike, shape: tuple[int, ...], axis: int, dtype) -> Array:
    weights = jnp.asarray(alpha, dtype)
    if weights.shape not in ((), (shape[axis],)):
        raise ValueError(f"alpha must be a scalar or of shape ({shape[axis]},), got {weights.shape}")
    weights = jnp.broadcast_to(weights, (shape[axis],))
    return jnp.broadcast_to(jnp.expand_dims(weights, tuple(i for i in range(len(shape)) if i != axis)), shape)
