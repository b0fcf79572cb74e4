"""Softmax without lost tails: what activations and classification losses share.

Logits come in at least float32 and with −∞ where masked. Three things differ from the textbook's y = exp(z) / Σ exp(z):

* z − max z is rounded, and exp turns the rounding error at −40 into dozens of ulp; the error is exact (Knuth's TwoSum)
  and multiplied back in.
* 1 − yᵢ cancels when yᵢ is near 1; the sum of the other terms does not.
* +∞ logits share the probability equally, and a row of −∞ has no probability at all: zeros.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array


def exponentials(z: Array, axis: int) -> tuple[Array, Array]:
    """(max z, exp(z − max z)); the exponential is exactly 1 at the maximum and 0 at −∞."""
    maximum = jnp.max(z, axis, keepdims=True, initial=-jnp.inf)
    difference = z - maximum
    negated = difference - z
    rounding = (z - (difference - negated)) - (maximum + negated)
    rounding = jnp.where(jnp.abs(difference) < jnp.inf, rounding, 0)
    exponential = jnp.minimum(jnp.exp(difference) * (1 + rounding), 1)
    return maximum, jnp.where(z == -jnp.inf, 0, jnp.where(z == maximum, 1, exponential))


def differences(z: Array, maximum: Array) -> Array:
    """Exact zeros at the maximum, z − max z elsewhere.

    The barrier makes XLA compute it again instead of keeping an array: on a CPU twice as fast for large inputs.
    """
    z, maximum = lax.optimization_barrier((z, maximum))
    return jnp.where(z == maximum, 0, z - maximum)


def _others(exponential: Array, axis: int) -> Array:
    """Σ exp(z − max z) − 1 without cancellation: the sum without the maximal term."""
    total = jnp.sum(exponential, axis, keepdims=True)
    # e where e < 1, 0 where e = 1: in this form XLA adds it up without keeping an array.
    minor = jnp.minimum(exponential, (1 - exponential) * (4 / jnp.finfo(exponential.dtype).eps))
    sum_of_minor = jnp.sum(minor, axis, keepdims=True)
    ties = jnp.maximum(jnp.round(total - sum_of_minor), 1)
    return sum_of_minor + (ties - 1)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def softmax(z: Array, axis: int) -> Array:
    """exp(zᵢ) / Σⱼ exp(zⱼ)."""
    _, exponential = exponentials(z, axis)
    total = jnp.sum(exponential, axis, keepdims=True)
    return exponential / jnp.where(total == 0, 1, total)


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
    _, exponential = exponentials(z, axis)
    others = _others(exponential, axis)
    return exponential / (1 + others), (others + (1 - exponential)) / (1 + others)


@probabilities.defjvp
def _probabilities_jvp(axis, primals, tangents):
    y, complement = probabilities(*primals, axis)
    dy = tangent(y, tangents[0], axis)
    return (y, complement), (dy, -dy)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def log_softmax(z: Array, axis: int) -> Array:
    """zᵢ − log Σⱼ exp(zⱼ); the maximum's own −log1p(Σ of the others) keeps its tail."""
    maximum, exponential = exponentials(z, axis)
    log_total = jnp.log1p(_others(exponential, axis))
    return jnp.where(z == -jnp.inf, -jnp.inf, differences(z, maximum) - log_total)


@log_softmax.defjvp
def _log_softmax_jvp(axis, primals, tangents):
    (z,), (dz,) = primals, tangents
    y, complement = probabilities(z, axis)
    minor = jnp.where(y > 0.5, 0, y)
    mean_of_minor = jnp.sum(minor * dz, axis, keepdims=True)
    mean = mean_of_minor + jnp.sum((y - minor) * dz, axis, keepdims=True)
    dy = jnp.where(y > 0.5, complement * dz - mean_of_minor, dz - mean)
    return log_softmax(z, axis), jnp.where(z == -jnp.inf, 0, dy)
