"""Softmax without lost tails: what activations and classification losses share.

Logits come in at least float32 and with −∞ where masked. Four things differ from the textbook's y = exp(z) / Σ exp(z):

* z − max z is rounded, and exp turns the rounding error at −40 into dozens of ulp; the error goes into the exponential.
* 1 − yᵢ cancels when yᵢ is near 1; the sum of the other terms does not.
* A sum of many terms is off by several ulp; their leading bits are added apart, without error.
* +∞ logits share the probability equally, and a row of −∞ has no probability at all: zeros.

For large arrays the time goes into memory. XLA's CPU backend fuses a sum with +, −, × and rounding before it, not with
a selection, which becomes an array of its own; and a maximum that it fuses there loses NaN.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

FEW_CLASSES = 16  # sums over so few are written out
GRID = 4096.0


def peak(z: Array, axis: int) -> Array:
    """Maximum of z, the axis kept; 0 for a row of −∞, whose exponentials are then 0."""
    if 0 < z.shape[axis] <= FEW_CLASSES:
        maximum = functools.reduce(jnp.maximum, _columns(z, axis))
    else:
        maximum = jnp.max(z, axis, keepdims=True, initial=-jnp.inf)
    return jnp.where(maximum == -jnp.inf, 0, maximum)


def exponentials(z: Array, maximum: Array) -> Array:
    """exp(z − max z): exactly 1 at the maximum, 0 at −∞ and where the result would be subnormal."""
    difference = z - maximum
    # Knuth's TwoSum: difference + error is z − max z exactly.
    negated = difference - z
    error = (z - (difference - negated)) - (maximum + negated)
    near = (z != maximum) & (difference > math.log(jnp.finfo(z.dtype).tiny))
    # exp(d + e) is exp(d) / (1 − e). XLA keeps what ends with a division, and computes again what does not.
    return jnp.exp(differences(z, maximum)) / (1 - jnp.where(near, error, 0))


def differences(z: Array, maximum: Array) -> Array:
    """Differences z − max z: exactly 0 at the maximum, +∞ included."""
    return jnp.where(z == maximum, 0, z - maximum)


def total(z: Array, maximum: Array, axis: int) -> Array:
    """Σ exp(z − max z), the axis kept; 1 for a row of −∞, whose quotients are then 0."""
    leading, trailing = _sums(z, maximum, axis)
    result = leading + trailing
    return jnp.where(result == 0, 1, result)


def excess(z: Array, maximum: Array, axis: int) -> Array:
    """Σ exp(z − max z) − 1, the axis kept, without cancellation: leading parts are exact; 0 for a row of −∞."""
    leading, trailing = _sums(z, maximum, axis)
    return jnp.where(leading == 0, 0, (leading - 1) + trailing)


def _sums(z: Array, maximum: Array, axis: int) -> tuple[Array, Array]:
    """Σ exp(z − max z) in two parts: of multiples of 1/4096, exact for up to 4096 classes, and of what is left."""
    if 0 < z.shape[axis] <= FEW_CLASSES:
        scaled = [GRID * exponentials(column, maximum) for column in _columns(z, axis)]
        whole = functools.reduce(jnp.add, [jnp.round(x) for x in scaled])
        return whole / GRID, functools.reduce(jnp.add, [x - jnp.round(x) for x in scaled]) / GRID
    # (x + s) − s is x on the grid, and faster than rounding; the barrier hides s, or XLA would simplify it to x.
    shift = lax.optimization_barrier(jnp.asarray(2.0 ** jnp.finfo(z.dtype).nmant / GRID, z.dtype))
    exponential = exponentials(z, maximum)
    leading = (exponential + shift) - shift
    return jnp.sum(leading, axis, keepdims=True), jnp.sum(exponential - leading, axis, keepdims=True)


def _columns(z: Array, axis: int) -> list[Array]:
    return [lax.slice_in_dim(z, index, index + 1, axis=axis) for index in range(z.shape[axis])]


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def softmax(z: Array, axis: int) -> Array:
    """exp(zᵢ) / Σⱼ exp(zⱼ)."""
    maximum = peak(z, axis)
    return exponentials(z, maximum) / total(z, maximum, axis)


@softmax.defjvp
def _softmax_jvp(axis, primals, tangents):
    y = softmax(*primals, axis)
    return y, tangent(y, tangents[0], axis)


def tangent(y: Array, dz: Array, axis: int) -> Array:
    """The softmax Jacobian times dz, yᵢ Σⱼ≠ᵢ yⱼ (dzᵢ − dzⱼ), as a self-adjoint sum of products.

    The rows of an entry with yᵢ > ½ use 1 − yᵢ = Σⱼ≠ᵢ yⱼ. Transposing the expression gives the same expression, so
    that reverse mode keeps the tail too.
    """
    minor = jnp.where(y > 0.5, 0, y)
    major = y - minor
    mean_of_minor = jnp.sum(minor * dz, axis, keepdims=True)
    mean_of_major = jnp.sum(major * dz, axis, keepdims=True)
    rest = jnp.sum(minor, axis, keepdims=True)
    return minor * (dz - (mean_of_minor + mean_of_major)) + major * (rest * dz - mean_of_minor)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def probabilities(z: Array, axis: int) -> tuple[Array, Array]:
    """(y, 1 − y), both with full relative precision."""
    maximum = peak(z, axis)
    exponential, rest = exponentials(z, maximum), excess(z, maximum, axis)
    return exponential / (1 + rest), (rest + (1 - exponential)) / (1 + rest)


@probabilities.defjvp
def _probabilities_jvp(axis, primals, tangents):
    y, complement = probabilities(*primals, axis)
    dy = tangent(y, tangents[0], axis)
    return (y, complement), (dy, -dy)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def log_softmax(z: Array, axis: int) -> Array:
    """zᵢ − log Σⱼ exp(zⱼ); the maximum's own −log1p(Σ of the others) keeps its tail."""
    maximum = peak(z, axis)
    return differences(z, maximum) - jnp.log1p(excess(z, maximum, axis))


@log_softmax.defjvp
def _log_softmax_jvp(axis, primals, tangents):
    (z,), (dz,) = primals, tangents
    y, complement = probabilities(z, axis)
    minor = jnp.where(y > 0.5, 0, y)
    mean_of_minor = jnp.sum(minor * dz, axis, keepdims=True)
    mean = mean_of_minor + jnp.sum((y - minor) * dz, axis, keepdims=True)
    dy = jnp.where(y > 0.5, complement * dz - mean_of_minor, dz - mean)
    return log_softmax(z, axis), jnp.where(z == -jnp.inf, 0, dy)
