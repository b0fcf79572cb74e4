"""What the formulas of `mathai.nn` share: precision, argument checks, masks and an accurate power."""

import functools
from collections.abc import Sequence

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_derivatives import SymbolicZero
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array


def upcast(*arguments: ArrayLike) -> tuple[tuple[Array, ...], DTypeLike]:
    """The arguments in one dtype of at least float32, and the dtype in which to return the result.

    The first argument must be floating and its dtype is the result's; labels and targets follow it. Python scalars
    have no precision of their own.
    """
    first, *rest = (jnp.asarray(argument) for argument in arguments)
    if not jnp.issubdtype(first.dtype, jnp.floating):
        raise TypeError(f"expected floating-point values, got {first.dtype}; convert with .astype(jnp.float32)")
    floating = [array for array in (first, *rest) if jnp.issubdtype(array.dtype, jnp.floating)]
    common = jnp.result_type(*floating)
    wide = jnp.promote_types(common, jnp.float32)
    return tuple(array.astype(wide) for array in (first, *rest)), common if first.weak_type else first.dtype


def normalize_axis(axis: int, ndim: int) -> int:
    """A non-negative axis, or a ValueError that names what is allowed."""
    if not -ndim <= axis < ndim:
        allowed = f"use {-ndim} to {ndim - 1}" if ndim else "it needs at least one"
        raise ValueError(f"axis {axis} is out of range for an array with {ndim} axes: {allowed}")
    return axis % ndim


def normalize_axes(axes: int | Sequence[int], ndim: int) -> tuple[int, ...]:
    """Sorted non-negative axes; a repeated axis is an error."""
    given = (axes,) if isinstance(axes, int | np.integer) else tuple(axes)
    normalized = tuple(sorted(normalize_axis(int(axis), ndim) for axis in given))
    if len(set(normalized)) != len(normalized):
        raise ValueError(f"axes {given} name the same axis twice")
    return normalized


def broadcast_mask(where: ArrayLike, shape: tuple[int, ...]) -> Array:
    """A boolean mask of `shape`; the mask may have fewer or singleton axes, never more than the values."""
    mask = jnp.asarray(where)
    if mask.dtype != jnp.bool_:
        raise TypeError(f"where must be boolean, got {mask.dtype}")
    if mask.ndim > len(shape) or any(m not in (1, n) for m, n in zip(mask.shape[::-1], shape[::-1], strict=False)):
        raise ValueError(f"where of shape {mask.shape} does not broadcast to the values' shape {shape}")
    return jnp.broadcast_to(mask, shape)


def static_value(x: ArrayLike) -> float | None:
    """A scalar's value where it is known while tracing, otherwise None."""
    return None if isinstance(x, jax.core.Tracer) or np.ndim(x) else float(np.asarray(x).item())


def times(factor: Array, tangent: Array | SymbolicZero) -> Array:
    """The product, and 0 where nothing is differentiated: an infinite factor then does no harm."""
    return jnp.zeros_like(factor) if isinstance(tangent, SymbolicZero) else factor * tangent


@jax.custom_jvp
def power(base: Array, exponent: Array) -> Array:
    """baseᵉ for base ≥ 0 and a scalar exponent ≥ 0, with 0⁰ = 1: a few ulp where exp(e log b) loses dozens."""
    if base.dtype != jnp.float32:
        return jnp.where(exponent == 0, 1, jnp.power(base, exponent))
    # b = m·2ᵏ with m in [√½, √2). The product e·k is split into an integer, which scales exactly, and a small rest.
    bits = lax.bitcast_convert_type(base, jnp.int32)
    shift = (bits - 0x3F3504F3) >> 23
    mantissa = lax.bitcast_convert_type(bits - (shift << 23), jnp.float32)
    coarse = jnp.round(exponent * 256) / 256
    product = coarse * shift
    whole = jnp.round(product)
    rest = (product - whole) + (exponent - coarse) * shift
    fraction = jnp.exp(rest * np.float32(np.log(2)) + exponent * jnp.log(mantissa))
    whole = jnp.clip(whole, -252, 252).astype(jnp.int32)
    result = fraction * _power_of_two(whole >> 1) * _power_of_two(whole - (whole >> 1))
    return jnp.where(exponent == 0, 1, jnp.where(base > 0, result, jnp.where(base == 0, 0, jnp.nan)))


def _power_of_two(k: Array) -> Array:
    return lax.bitcast_convert_type((k + 127) << 23, jnp.float32)


@functools.partial(power.defjvp, symbolic_zeros=True)
def _power_jvp(primals, tangents):
    base, exponent = primals
    result = power(base, exponent)
    safe = jnp.where(base > 0, base, 1)
    # At base 0: the slope is 0 for e > 1 and e = 0, 1 for e = 1; between, where it is infinite, 0: it multiplies what
    # vanishes faster. bᵉ log b vanishes for e > 0.
    slope = jnp.where(exponent == 0, 0, exponent * power(base, jnp.maximum(exponent - 1, 0)))
    slope = jnp.where(exponent < 1, exponent * result / safe, slope)
    slope = jnp.where((base == 0) & (exponent < 1) & (exponent > 0), 0, slope)
    return result, times(slope, tangents[0]) + times(result * jnp.where(base > 0, jnp.log(safe), 0), tangents[1])


def as_classes(labels: ArrayLike, name: str = "labels") -> Array:
    """Signed integers in at least 32 bits: in a byte, a number of classes or an index of a class would wrap."""
    classes = jnp.asarray(labels)
    if not jnp.issubdtype(classes.dtype, jnp.integer):
        raise TypeError(f"{name} must be integers, got {classes.dtype}")
    is_wide = jnp.issubdtype(classes.dtype, jnp.signedinteger) and classes.dtype.itemsize >= 4
    return classes if is_wide else classes.astype(jnp.int32)


def assert_equal_shape(*arrays: ArrayLike) -> None:
    """Broadcasting here would silently give a wrong answer."""
    chex.assert_equal_shape([jnp.asarray(array) for array in arrays])


def assert_scalar(name: str, value: ArrayLike) -> None:
    """A hyperparameter is one number; anything else would broadcast."""
    if jnp.ndim(value):
        raise ValueError(f"{name} must be a scalar, got shape {jnp.shape(value)}")


@jax.custom_jvp
def ratio(numerator: Array, denominator: Array) -> Array:
    """a/b of two quantities that vanish together with limit 1; never forms b², which underflows."""
    return jnp.where(denominator > 0, numerator / jnp.where(denominator > 0, denominator, 1), 1)


@ratio.defjvp
def _ratio_jvp(primals, tangents):
    quotient, denominator = ratio(*primals), primals[1]
    tangent = (tangents[0] - quotient * tangents[1]) / jnp.where(denominator > 0, denominator, 1)
    return quotient, jnp.where(denominator > 0, tangent, 0)
