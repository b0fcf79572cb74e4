"""Regularization: dropout, batch and layer normalization, weight decay.

Variances are two-pass and accumulate in at least float32: x = (10⁴, 10⁴ + 1, 10⁴ + 2) normalizes to ±1.2247.
What `where` masks has no part in a statistic, may hold NaN and has gradient 0; it normalizes to 0, then scale and
offset apply.
"""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, PRNGKeyArray, PyTree, Shaped

from mathai.nn import _numerics

__all__ = [
    "BatchStatistics",
    "batch_norm",
    "batch_norm_inference",
    "dropout",
    "layer_norm",
    "update_running_statistics",
    "weight_decay_penalty",
]


class BatchStatistics(NamedTuple):
    """Statistics of a batch, or their running average, in at least float32.

    mean: μ, the input's shape without the reduced axes.
    variance: σ², biased: the mean square about μ, divided by n and not by n − 1.
    count: n, the number of elements behind each mean.
    """

    mean: Float[Array, "*features"]
    variance: Float[Array, "*features"]
    count: Float[Array, "*features"]  # type: ignore[assignment]  # hides tuple.count


def dropout(
    key: PRNGKeyArray | None,
    a: Float[ArrayLike, "*shape"],
    rate: Shaped[ArrayLike, ""],
    *,
    deterministic: bool = False,
) -> Float[Array, "*shape"]:
    """Inverted dropout: zeroes each element with probability `rate` and scales the rest, so that the mean stays.

        y = m ⊙ a / (1 − p),   m ~ Bernoulli(1 − p)

    p = 0 is the identity, p = 1 gives zeros with gradient 0.

    Args:
      key: PRNG key; may be None where nothing is drawn (deterministic, or rate 0 known while tracing).
      a: activations, any shape.
      rate: p, the probability of dropping, in [0, 1]; may be traced, and is then NaN-checked: outside, y is NaN.
      deterministic: True at inference: y = a.

    Returns:
      y, in a's shape and dtype.

    Raises:
      TypeError: a is not floating point.
      ValueError: rate is not a scalar, or is known while tracing and outside [0, 1]; a key is needed and missing.

    Source:
      Srivastava, Hinton, Krizhevsky, Sutskever & Salakhutdinov (2014), Dropout, section 10.

    >>> dropout(jax.random.key(0), jnp.ones(4), 1.0)
    Array([0., 0., 0., 0.], dtype=float32)
    """
    _numerics.assert_scalar("rate", rate)
    static = _numerics.static_value(rate)
    if static is not None and not 0 <= static <= 1:
        raise ValueError(f"rate must be in [0, 1], got {static}")
    (a,), dtype = _numerics.upcast(a)
    if deterministic or static == 0:
        return a.astype(dtype)
    if static == 1:
        return jnp.zeros_like(a, dtype)
    rate = jnp.asarray(rate, a.dtype)
    if key is None:
        raise ValueError("dropout draws random numbers: pass a key, or deterministic=True")
    keep = jax.random.bernoulli(key, 1 - rate, a.shape)
    # 1/(1 − p) at p = 1 would turn the gradient into 0·∞.
    scale = jnp.where((rate >= 0) & (rate <= 1), 1 / jnp.where(rate < 1, 1 - rate, 1), jnp.nan)
    return (jnp.where(keep, a, 0) * scale).astype(dtype)


def batch_norm(
    x: Float[ArrayLike, "*shape"],
    scale: Float[ArrayLike, "*features"] | None,
    offset: Float[ArrayLike, "*features"] | None,
    *,
    axes: int | Sequence[int],
    where: Bool[ArrayLike, "*mask"] | None = None,
    epsilon: Shaped[ArrayLike, ""] = 1e-5,
) -> tuple[Float[Array, "*shape"], BatchStatistics]:
    """Batch normalization at training time: every feature with the batch's own mean and variance.

        y = γ (x − μ) / √(σ² + ε) + β,   μ = 1/n Σ x,   σ² = 1/n Σ (x − μ)²

    Gradients flow through μ and σ². A batch without elements (empty, or entirely masked) has y = β, statistics 0 and
    count 0, which `update_running_statistics` skips.

    Args:
      x: inputs, any shape.
      scale: γ, x's shape without `axes`; None is 1.
      offset: β, x's shape without `axes`; None is 0.
      axes: the axes of the batch, over which to average: 0 for [B, C], (0, 1, 2) for [B, H, W, C].
      where: True where an element takes part, of x's shape or of one that broadcasts to it.
      epsilon: ε ≥ 0, in the units of the variance.

    Returns:
      y in x's shape and dtype, and the statistics in at least float32.

    Raises:
      TypeError: x is not floating point, or where is not boolean.
      ValueError: an axis is out of range or repeated, a shape does not fit, or epsilon is not a scalar ≥ 0.

    Source:
      Ioffe & Szegedy (2015), Batch Normalization, algorithm 1.

    >>> y, statistics = batch_norm(jnp.array([[1.0], [3.0]]), None, None, axes=0, epsilon=0.0)
    >>> y.ravel().round(4), statistics.mean.item(), statistics.variance.item(), statistics.count.item()
    (Array([-1.,  1.], dtype=float32), 2.0, 1.0, 2.0)
    """
    (x,), dtype = _numerics.upcast(x)
    axes = _numerics.normalize_axes(axes, x.ndim)
    features = tuple(axis for axis in range(x.ndim) if axis not in axes)
    normalized, statistics = _normalize(x, where, axes, epsilon, refine=False)
    y = _affine(normalized, scale, offset, features)
    return y.astype(dtype), BatchStatistics(*(jnp.squeeze(statistic, axes) for statistic in statistics))


def batch_norm_inference(
    x: Float[ArrayLike, "*batch_features"],
    statistics: BatchStatistics,
    scale: Float[ArrayLike, "*features"] | None,
    offset: Float[ArrayLike, "*features"] | None,
    *,
    epsilon: Shaped[ArrayLike, ""] = 1e-5,
) -> Float[Array, "*batch_features"]:
    """Batch normalization at inference time: an affine map with given statistics.

        y = γ (x − μ) / √(σ² + ε) + β

    Args:
      x: inputs; their last axes are the features.
      statistics: μ and σ², of the features' shape.
      scale: γ, of the features' shape; None is 1.
      offset: β, of the features' shape; None is 0.
      epsilon: ε ≥ 0, in the units of the variance.

    Returns:
      y, in x's shape and dtype.

    Raises:
      TypeError: x is not floating point.
      ValueError: a shape does not fit, or epsilon is not a scalar ≥ 0.

    Source:
      Ioffe & Szegedy (2015), Batch Normalization, algorithm 2.

    >>> statistics = BatchStatistics(jnp.array([2.0]), jnp.array([4.0]), jnp.array([1.0]))
    >>> batch_norm_inference(jnp.array([[4.0]]), statistics, None, None, epsilon=0.0)
    Array([[1.]], dtype=float32)
    """
    (x,), dtype = _numerics.upcast(x)
    features = tuple(range(x.ndim))[x.ndim - jnp.ndim(statistics.mean) :]
    mean = _expand("statistics.mean", statistics.mean, x, features)
    variance = _expand("statistics.variance", statistics.variance, x, features)
    normalized = (x - mean) * jax.lax.rsqrt(variance + _epsilon(epsilon, x))
    return _affine(normalized, scale, offset, features).astype(dtype)


def update_running_statistics(
    running: BatchStatistics, batch: BatchStatistics, *, decay: Shaped[ArrayLike, ""] = 0.99
) -> BatchStatistics:
    """Exponential moving average of batch statistics, for `batch_norm_inference`.

        μ ← d μ + (1 − d) μ_batch,   σ² ← d σ² + (1 − d) σ²_batch,   n ← n + n_batch

    The variance stays biased. A statistic with batch count 0 is left as it is. Start from mean 0, variance 1, count 0.

    Args:
      running: the average so far.
      batch: of `batch_norm`, the same shapes.
      decay: d in [0, 1], the weight of the past.

    Returns:
      The new average; its count is the number of elements seen, rounded beyond 2²⁴ in float32.

    Raises:
      AssertionError: the shapes differ.
      ValueError: decay is not a scalar, or is known while tracing and outside [0, 1].

    Source:
      Ioffe & Szegedy (2015), Batch Normalization, section 3.1, which suggests moving averages.

    >>> running = BatchStatistics(jnp.zeros(1), jnp.ones(1), jnp.zeros(1))
    >>> batch = BatchStatistics(jnp.array([4.0]), jnp.array([3.0]), jnp.array([8.0]))
    >>> update_running_statistics(running, batch, decay=0.5).variance
    Array([2.], dtype=float32)
    """
    _numerics.assert_scalar("decay", decay)
    if (static := _numerics.static_value(decay)) is not None and not 0 <= static <= 1:
        raise ValueError(f"decay must be in [0, 1], got {static}")
    for old, new in zip(running, batch, strict=True):
        _numerics.assert_equal_shape(old, new)
    seen = batch.count > 0

    def average(old, new):
        return jnp.where(seen, decay * old + (1 - decay) * new, old).astype(old.dtype)

    return BatchStatistics(
        average(running.mean, batch.mean), average(running.variance, batch.variance), running.count + batch.count
    )


def layer_norm(
    x: Float[ArrayLike, "*shape"],
    scale: Float[ArrayLike, "*features"] | None = None,
    offset: Float[ArrayLike, "*features"] | None = None,
    *,
    axis: int | Sequence[int] = -1,
    where: Bool[ArrayLike, "*mask"] | None = None,
    epsilon: Shaped[ArrayLike, ""] = 1e-5,
) -> Float[Array, "*shape"]:
    """Layer normalization: every example with the mean and variance of its own features.

        y = γ (x − μ) / √(σ² + ε) + β,   μ = 1/n Σ x,   σ² = 1/n Σ (x − μ)²

    A constant row normalizes to 0, an entirely masked row too; both have finite gradients for ε > 0. Deviations whose
    square overflows (beyond 1.8e19 in float32) normalize to 0.

    Args:
      x: inputs, any shape with at least one axis.
      scale: γ, x's shape along `axis`; None is 1.
      offset: β, x's shape along `axis`; None is 0.
      axis: the feature axis or axes, over which to average.
      where: True where an element takes part, of x's shape or of one that broadcasts to it.
      epsilon: ε ≥ 0, in the units of the variance.

    Returns:
      y, in x's shape and dtype.

    Raises:
      TypeError: x is not floating point, or where is not boolean.
      ValueError: an axis is out of range or repeated, a shape does not fit, or epsilon is not a scalar ≥ 0.

    Source:
      Ba, Kiros & Hinton (2016), Layer Normalization, eq. 4.

    >>> layer_norm(jnp.array([1e4, 1e4 + 1, 1e4 + 2])).round(4)
    Array([-1.2247,  0.    ,  1.2247], dtype=float32)
    """
    (x,), dtype = _numerics.upcast(x)
    axes = _numerics.normalize_axes(axis, x.ndim)
    normalized, _ = _normalize(x, where, axes, epsilon, refine=True)
    return _affine(normalized, scale, offset, axes).astype(dtype)


def weight_decay_penalty(
    params: PyTree[Float[ArrayLike, "..."]], weight_decay: Shaped[ArrayLike, ""]
) -> Float[Array, ""]:
    """Weight decay as a term of the loss (L2 regularization, ridge, a Gaussian prior).

        R(W) = λ/2 Σ ‖W‖²,   ∂R/∂W = λ W

    With plain gradient descent this is the decay W ← (1 − ηλ) W. With Adam it is not: there the gradient λW is
    rescaled like any other, and decoupled weight decay subtracts ηλW instead.

    Args:
      params: a pytree of weights; every leaf counts, so leave out biases if they are not to decay.
      weight_decay: λ ≥ 0, a scalar.

    Returns:
      A scalar in the widest dtype of the leaves; 0 for an empty pytree.

    Raises:
      TypeError: a leaf is not floating point.
      ValueError: weight_decay is not a scalar.

    Source:
      Goodfellow, Bengio & Courville (2016), Deep Learning, eq. 7.2; decoupled: Loshchilov & Hutter (2019), Decoupled
      Weight Decay Regularization, eq. 1.

    >>> weight_decay_penalty({"weight": jnp.array([3.0, 4.0])}, 0.1)
    Array(1.25, dtype=float32)
    """
    _numerics.assert_scalar("weight_decay", weight_decay)
    leaves = [_numerics.upcast(leaf) for leaf in jax.tree.leaves(params)]
    if not leaves:
        return jnp.zeros(())
    dtype = functools.reduce(jnp.promote_types, (dtype for _, dtype in leaves))
    squares = sum((jnp.sum(jnp.square(weight)) for (weight,), _ in leaves), start=jnp.zeros(()))
    return (0.5 * jnp.asarray(weight_decay) * squares).astype(dtype)


def _normalize(
    x: Array, where: ArrayLike | None, axes: tuple[int, ...], epsilon: ArrayLike, *, refine: bool
) -> tuple[Array, tuple[Array, Array, Array]]:
    """(x − μ)/√(σ² + ε) and (μ, σ², n), the latter with the reduced axes kept."""
    mask = None if where is None else _numerics.broadcast_mask(where, x.shape)
    normalized, mean, variance = _standardize(x, mask, _epsilon(epsilon, x), axes, refine)
    count = jnp.broadcast_to(jnp.asarray(_count(x, mask, axes), x.dtype), mean.shape)
    return normalized, (mean, variance, count)


def _epsilon(epsilon: ArrayLike, x: Array) -> Array:
    _numerics.assert_scalar("epsilon", epsilon)
    if (static := _numerics.static_value(epsilon)) is not None and not static >= 0:
        raise ValueError(f"epsilon must be at least 0, got {static}")
    return jnp.asarray(epsilon, x.dtype)


def _count(x: Array, mask: Array | None, axes: tuple[int, ...]) -> Array | int:
    if mask is None:
        return math.prod(x.shape[axis] for axis in axes)
    return jnp.sum(mask, axes, keepdims=True)


def _mean(x: Array, mask: Array | None, axes: tuple[int, ...]) -> Array:
    return jnp.sum(x, axes, keepdims=True) / jnp.maximum(_count(x, mask, axes), 1).astype(x.dtype)


def _select(mask: Array | None, x: Array) -> Array:
    return x if mask is None else jnp.where(mask, x, 0)


@functools.partial(jax.custom_jvp, nondiff_argnums=(3, 4))
def _standardize(
    x: Array, mask: Array | None, epsilon: Array, axes: tuple[int, ...], refine: bool
) -> tuple[Array, Array, Array]:
    x = _select(mask, x)
    mean = _mean(x, mask, axes)
    centered = _select(mask, x - mean)
    if refine:
        # The mean of a large, nearly constant row is rounded; what is left of it in `centered` is taken out. For
        # features it costs nothing; over a batch it costs a pass, and inference knows the rounded mean only.
        centered = _select(mask, centered - _mean(centered, mask, axes))
    variance = _mean(jnp.square(centered), mask, axes)
    return centered * jax.lax.rsqrt(variance + epsilon), mean, variance


@_standardize.defjvp
def _standardize_jvp(axes, refine, primals, tangents):
    x, mask, epsilon = primals
    y, mean, variance = _standardize(x, mask, epsilon, axes, refine)
    dx = _select(mask, tangents[0])
    inverse = jax.lax.rsqrt(variance + epsilon)
    mean_dx, mean_y_dx = _mean(dx, mask, axes), _mean(y * dx, mask, axes)
    dy = _select(mask, inverse * (dx - mean_dx - y * (mean_y_dx + 0.5 * inverse * tangents[2])))
    return (y, mean, variance), (dy, mean_dx, 2 * mean_y_dx / inverse)


def _affine(x: Array, scale: ArrayLike | None, offset: ArrayLike | None, features: tuple[int, ...]) -> Array:
    if scale is not None:
        x = x * _expand("scale", scale, x, features)
    return x if offset is None else x + _expand("offset", offset, x, features)


def _expand(name: str, parameter: ArrayLike, x: Array, features: tuple[int, ...]) -> Array:
    """A parameter of the features' shape with singleton axes elsewhere, to multiply x."""
    shape = tuple(x.shape[axis] for axis in features)
    if jnp.shape(parameter) != shape:
        raise ValueError(f"{name} has shape {jnp.shape(parameter)}; the features of x {x.shape} have {shape}")
    others = tuple(axis for axis in range(x.ndim) if axis not in features)
    return jnp.expand_dims(jnp.asarray(parameter, x.dtype), others)
