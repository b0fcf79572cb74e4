"""Softmax, its logarithm and its Jacobian. Public in `mathai.nn.activations`."""

import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Bool, Float

from mathai.nn import _numerics, _stable_softmax


def softmax(
    z: Float[ArrayLike, "*shape"],
    *,
    axis: int = -1,
    where: Bool[ArrayLike, "*mask"] | None = None,
) -> Float[Array, "*shape"]:
    """Softmax: positive numbers that sum to 1 along `axis`.

        yᵢ = e^zᵢ / Σⱼ e^zⱼ

    A masked entry is 0 whatever it holds (NaN and ±∞ too) and has gradient 0; so is a −∞ logit. An entirely masked
    row, or one of −∞ only, gives zeros with gradient 0. +∞ logits share 1 equally. The gradient is `softmax_jvp`.

    Args:
      z: logits, any shape with at least one axis.
      axis: the axis of the classes.
      where: True where a logit takes part, of z's shape or of one that broadcasts to it.

    Returns:
      y, in z's shape and dtype.

    Raises:
      TypeError: z is not floating point, or where is not boolean.
      ValueError: axis is out of range, or where does not broadcast to z's shape.

    Source:
      Goodfellow, Bengio & Courville (2016), Deep Learning, eq. 6.29.

    >>> softmax(jnp.array([0.0, 0.0, jnp.nan]), where=jnp.array([True, True, False]))
    Array([0.5, 0.5, 0. ], dtype=float32)
    """
    logits, dtype, axis = _masked_logits(z, axis, where)
    return _stable_softmax.softmax(logits, axis).astype(dtype)


def log_softmax(
    z: Float[ArrayLike, "*shape"],
    *,
    axis: int = -1,
    where: Bool[ArrayLike, "*mask"] | None = None,
) -> Float[Array, "*shape"]:
    """Logarithm of the softmax, accurate where the probability is near 0 and near 1.

        log yᵢ = zᵢ − log Σⱼ e^zⱼ

    A masked entry and a −∞ logit give −∞ with gradient 0, in an entirely masked row too.

    Args:
      z: logits, any shape with at least one axis.
      axis: the axis of the classes.
      where: True where a logit takes part, of z's shape or of one that broadcasts to it.

    Returns:
      log y, in z's shape and dtype.

    Raises:
      TypeError: z is not floating point, or where is not boolean.
      ValueError: axis is out of range, or where does not broadcast to z's shape.

    Source:
      Goodfellow, Bengio & Courville (2016), Deep Learning, eq. 6.30.

    >>> [f"{log_y:.4g}" for log_y in log_softmax(jnp.array([40.0, 0.0]))]
    ['-4.248e-18', '-40']
    """
    logits, dtype, axis = _masked_logits(z, axis, where)
    return _stable_softmax.log_softmax(logits, axis).astype(dtype)


def softmax_jacobian(z: Float[ArrayLike, "*batch classes"]) -> Float[Array, "*batch classes classes"]:
    """Jacobian of the softmax: symmetric, its rows sum to 0.

        ∂yᵢ/∂zⱼ = yᵢ (δᵢⱼ − yⱼ)

    The diagonal yᵢ (1 − yᵢ) uses 1 − yᵢ = Σⱼ≠ᵢ yⱼ: at z = (40, 0) it is 4·10⁻¹⁸, not 0.

    Args:
      z: logits, the classes on the last axis.

    Returns:
      The matrix ∂y/∂z of each row, in z's dtype.

    Raises:
      TypeError: z is not floating point.
      ValueError: z has no axis.

    Source:
      Bishop (2006), Pattern Recognition and Machine Learning, eq. 4.106.

    >>> softmax_jacobian(jnp.array([0.0, 0.0]))
    Array([[ 0.25, -0.25],
           [-0.25,  0.25]], dtype=float32)
    """
    logits, dtype, axis = _masked_logits(z, -1, None)
    y, complement = _stable_softmax.probabilities(logits, axis)
    outer = -y[..., :, None] * y[..., None, :]
    diagonal = jnp.broadcast_to(jnp.eye(y.shape[-1], dtype=bool), outer.shape)
    return jnp.where(diagonal, (y * complement)[..., None], outer).astype(dtype)


def softmax_jvp(
    z: Float[ArrayLike, "*shape"], dz: Float[ArrayLike, "*shape"], *, axis: int = -1
) -> Float[Array, "*shape"]:
    """Softmax Jacobian times a vector, without the matrix. The Jacobian is symmetric: this is its VJP too.

        dyᵢ = yᵢ (dzᵢ − Σⱼ yⱼ dzⱼ) = yᵢ Σⱼ≠ᵢ yⱼ (dzᵢ − dzⱼ)

    The second form does not cancel where yᵢ is near 1. Linear in dz and differentiable in z.

    Args:
      z: logits, any shape with at least one axis.
      dz: tangent of z, or cotangent of y, the same shape.
      axis: the axis of the classes.

    Returns:
      dy, in z's shape and dtype.

    Raises:
      AssertionError: z and dz differ in shape.
      TypeError: z is not floating point.
      ValueError: axis is out of range.

    Source:
      Bishop (2006), Pattern Recognition and Machine Learning, eq. 4.106.

    >>> [f"{dy:.4g}" for dy in softmax_jvp(jnp.array([40.0, 0.0]), jnp.array([1.0, 0.0]))]
    ['4.248e-18', '-4.248e-18']
    """
    _numerics.assert_equal_shape(z, dz)
    (z, dz), dtype = _numerics.upcast(z, dz)
    axis = _numerics.normalize_axis(axis, z.ndim)
    return _stable_softmax.tangent(_stable_softmax.softmax(z, axis), dz, axis).astype(dtype)


def _masked_logits(z: ArrayLike, axis: int, where: ArrayLike | None) -> tuple[Array, DTypeLike, int]:
    (logits,), dtype = _numerics.upcast(z)
    axis = _numerics.normalize_axis(axis, logits.ndim)
    if where is not None:
        logits = jnp.where(_numerics.broadcast_mask(where, logits.shape), logits, -jnp.inf)
    return logits, dtype, axis
