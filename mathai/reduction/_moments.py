"""Count, mean and scatter of rows: of a matrix, block by block, and of a stream of batches, merged exactly."""

import functools
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Bool, Float, Int, Shaped

from mathai.nn._sharding import check_mesh, on_devices
from mathai.reduction._arrays import accumulator, contract

ELEMENTS_AT_ONCE, ROWS_AT_LEAST = 2**20, 1024  # of a block: so small that it stays in cache between its uses
WIDEST_PANEL = 512  # columns of the scatter matrix computed together, without those to their left


class Moments(NamedTuple):
    """What the principal components of rows seen so far depend on.

    Attributes:
      count: n, rows; fewer than 2³¹.
      mean: μ.
      scatter: Σᵢ (xᵢ − μ)(xᵢ − μ)ᵀ, symmetric.
      mean_remainder: what rounding took from μ: the sum of both is the mean to twice the digits, so that errors do not
        grow with the number of merges.
    """

    count: Int[Array, ""]  # type: ignore[assignment]  # hides a method of tuples
    mean: Float[Array, "features"]
    scatter: Float[Array, "features features"]
    mean_remainder: Float[Array, "features"]


def init_moments(num_features: int, *, dtype: DTypeLike | None = None) -> Moments:
    """The moments of no rows, where a stream begins.

        n = 0,   μ = 0,   S = 0

    Args:
      num_features: d, the length of a row.
      dtype: what to accumulate in, at least float32; None takes JAX's default float.

    Returns:
      The neutral element of `merge_moments`.

    Raises:
      ValueError: num_features is below 1.

    Source:
      Chan, Golub & LeVeque (1983), Algorithms for Computing the Sample Variance, section 2.

    >>> init_moments(3).scatter.shape
    (3, 3)
    """
    if num_features < 1:
        raise ValueError(f"init_moments: num_features is {num_features}; it must be at least 1.")
    dtype = accumulator(jnp.result_type(float) if dtype is None else jnp.dtype(dtype))
    nothing = jnp.zeros(num_features, dtype)
    return Moments(jnp.int32(0), nothing, jnp.zeros((num_features, num_features), dtype), nothing)


def update_moments(
    moments: Moments,
    batch: Shaped[ArrayLike, "m features"],
    *,
    where: Bool[ArrayLike, "m"] | None = None,
    mesh: Mesh | None = None,
    axis: str = "data",
) -> Moments:
    """The moments after one more batch of rows.

        n ← n + m,   μ ← μ + (m / n)(x̄ − μ),   S ← S + Σᵢ (xᵢ − x̄)(xᵢ − x̄)ᵀ + (n − m)(m / n)(x̄ − μ)(x̄ − μ)ᵀ

    With a mesh of D devices each makes the moments of m/D rows, and they send each other d² + 2d + 1 numbers.

    Args:
      moments: of the rows before.
      batch: the new rows, of any number, 0 too; cast to the dtype of the moments.
      where: True for rows that count; None counts all. What the others hold is ignored, NaN too.
      mesh: devices to share the work, with axes of type Auto; None is one device.
      axis: of the mesh, over which rows are spread; over its other axes all is replicated.

    Returns:
      Moments of the same dtype. They hold each row once: a row given twice counts twice.

    Raises:
      AssertionError: the batch has another number of columns.
      ValueError: an axis that the mesh has not; outside jit: rows that count hold NaN or infinite numbers, or overflow.

    Source:
      Chan, Golub & LeVeque (1983), Algorithms for Computing the Sample Variance, eq. 2.1.

    >>> moments = update_moments(init_moments(1), jnp.array([[1.0], [3.0]]))
    >>> moments.mean, moments.scatter
    (Array([2.], dtype=float32), Array([[2.]], dtype=float32))
    """
    batch = jnp.asarray(batch)
    chex.assert_rank(batch, 2)
    chex.assert_equal_shape_suffix([batch, moments.mean], 1)
    if where is not None:
        where = jnp.asarray(where)
        chex.assert_shape(where, batch.shape[:1])
    check_mesh("update_moments", mesh, axis)
    result, is_finite = _update(moments, batch, where, mesh, None if mesh is None else axis)
    check_finite("update_moments: batch", is_finite, batch, where)
    return result


def merge_moments(a: Moments, b: Moments) -> Moments:
    """The moments of two sets of rows together, of a stream's parts or of devices' shards.

        n = nₐ + n_b,   δ = μ_b − μₐ,   μ = μₐ + (n_b / n) δ,   S = Sₐ + S_b + (nₐ n_b / n) δδᵀ

    It commutes, and associates up to rounding. Across devices, `update_moments` with a mesh sends fewer numbers.

    Args:
      a: moments of some rows, or of none.
      b: moments of others, or of none.

    Returns:
      Moments of all rows.

    Raises:
      AssertionError: their numbers of features differ.

    Source:
      Chan, Golub & LeVeque (1983), Algorithms for Computing the Sample Variance, eq. 2.1.

    >>> a, b = (update_moments(init_moments(1), jnp.array([[x]])) for x in (1.0, 3.0))
    >>> merge_moments(a, b).scatter
    Array([[2.]], dtype=float32)
    """
    chex.assert_equal_shape([a.mean, b.mean])
    return _merge(a, b)


def moments_of(
    X: Shaped[Array, "n features"],
    is_row: Bool[Array, "n"] | None = None,
    *,
    mesh: Mesh | None = None,
    axis: str | None = None,
) -> Moments:
    """The moments of the rows of a matrix, accumulated in at least float32; with a mesh each device takes its share."""
    if mesh is not None:
        return _moments_on_devices(X, is_row, mesh, axis)
    num_rows = jnp.int32(len(X)) if is_row is None else jnp.sum(is_row, dtype=jnp.int32)
    if not len(X):
        return init_moments(X.shape[1], dtype=accumulator(X.dtype))
    mean, scatter, remainder = _centred_moments(X, is_row)
    return Moments(num_rows, mean, scatter, remainder)


def centred(X: Shaped[Array, "n features"]) -> tuple[Float[Array, "n features"], Float[Array, "features"]]:
    """X − 1μᵀ and μ, in at least float32; the first row goes first, so that an offset of the data costs no digits."""
    X = X.astype(accumulator(X.dtype))
    shift = jax.lax.stop_gradient(X[0])
    difference = X - shift[None]
    mean = jnp.mean(difference, axis=0)
    return difference - mean[None], shift + mean


def check_finite(name: str, is_finite: Array, X: Array, where: Array | None = None) -> None:
    """Raise a `ValueError` that counts the bad rows, where a result that is known is not finite."""
    if isinstance(is_finite, jax.core.Tracer) or bool(is_finite):
        return
    is_bad = ~np.all(np.isfinite(np.asarray(X.astype(accumulator(X.dtype)))), axis=1)
    num_bad = int(np.sum(is_bad if where is None else is_bad & np.asarray(where)))
    if not num_bad:
        raise ValueError(f"{name} holds numbers whose squares overflow {accumulator(X.dtype)}; scale them down.")
    raise ValueError(
        f"{name} holds NaN or infinite numbers in {num_bad} of {len(X)} rows; leave those rows out, or fill them in."
    )


def _moments_on_devices(X: Array, is_row: Array | None, mesh: Mesh, axis: Any) -> Moments:
    """Moments of rows that are spread evenly; of the few that remain, fewer than devices, on all devices alike."""
    even = len(X) // mesh.shape[axis] * mesh.shape[axis]
    head, tail = (jax.tree.map(lambda x: x[rows], (X, is_row)) for rows in (slice(even), slice(even, None)))  # noqa: B023
    if not even:
        return moments_of(*tail)
    of_device = lambda x, is_row: _joined(moments_of(x, is_row), axis)  # noqa: E731
    moments = on_devices(of_device, mesh, (P(axis), P(axis)), P())(*head)
    return moments if even == len(X) else _merge(moments, moments_of(*tail))


def _joined(part: Moments, axis_name: str) -> Moments:
    """The moments of all devices' rows, from their own: about a mean that is right but for rounding, then corrected."""
    count = jax.lax.psum(part.count, axis_name)
    num_rows = part.count.astype(part.mean.dtype)
    total_rows = jnp.maximum(count, 1).astype(part.mean.dtype)
    mean = jax.lax.psum(num_rows / total_rows * part.mean, axis_name)
    delta = (part.mean - mean) + part.mean_remainder
    scatter = part.scatter + num_rows * (delta[:, None] * delta[None])
    error, scatter = jax.lax.psum((num_rows / total_rows * delta, scatter), axis_name)
    mean, remainder = _two_sum(mean, error)
    return Moments(count, mean, scatter - total_rows * (error[:, None] * error[None]), remainder)


@functools.partial(jax.jit, static_argnums=(3, 4))
def _update(
    moments: Moments, batch: Array, where: Array | None, mesh: Mesh | None, axis: str | None
) -> tuple[Moments, Array]:
    dtype = moments.mean.dtype
    batch = batch if batch.dtype.itemsize < dtype.itemsize else batch.astype(dtype)
    new = moments_of(batch, where, mesh=mesh, axis=axis)
    result = _merge(moments, jax.tree.map(lambda new, old: new.astype(old.dtype), new, moments))
    return result, jnp.all(jnp.isfinite(jnp.diagonal(result.scatter)))


@jax.jit
def _merge(a: Moments, b: Moments) -> Moments:
    mean, remainder, delta, weight = _merged_mean(a, b)
    scatter = a.scatter + b.scatter + weight * delta[:, None] * delta[None]
    return Moments(a.count + b.count, mean, scatter, remainder)


class _Part(NamedTuple):
    """Moments with the scatter matrix as panels: some of its rows each, from the diagonal on."""

    num_rows: Array
    mean: Array
    panels: tuple[Array, ...]
    mean_remainder: Array


@jax.custom_jvp
def _centred_moments(X: Array, is_row: Array | None) -> tuple[Array, Array, Array]:
    """The mean, the scatter matrix and the mean's remainder; rows that are chosen come in one block."""
    num_rows, num_features = X.shape
    size = num_rows if is_row is not None else min(max(ELEMENTS_AT_ONCE // num_features, ROWS_AT_LEAST), num_rows)
    part = _first_part(X[:size], is_row)
    if num_blocks := num_rows // size - 1:
        add = lambda part, i: (_with_block(part, jax.lax.dynamic_slice_in_dim(X, i * size, size)), None)  # noqa: E731
        part, _ = jax.lax.scan(add, part, 1 + jnp.arange(num_blocks))
    if num_rows > size and num_rows % size:
        part = _with_block(part, X[num_rows // size * size :])
    rows = [jnp.pad(panel, ((0, 0), (num_features - panel.shape[1], 0))) for panel in part.panels]
    upper = jnp.concatenate(rows)
    return part.mean, jnp.triu(upper) + jnp.triu(upper, 1).T, part.mean_remainder


@_centred_moments.defjvp
def _centred_moments_jvp(primals, tangents):
    """Of dS = Σ (dxᵢ yᵢᵀ + yᵢ dxᵢᵀ), y = x − μ: the loop over blocks would transpose into a copy of X for each."""
    (X, is_row), dX = primals, tangents[0]
    mean, scatter, remainder = _centred_moments(X, is_row)
    Y, dX = X.astype(mean.dtype) - mean[None] - remainder[None], dX.astype(mean.dtype)
    num_rows: int | Array = len(X)
    if is_row is not None:
        Y, dX = (jnp.where(is_row[:, None], x, 0) for x in (Y, dX))
        num_rows = jnp.maximum(jnp.sum(is_row), 1)
    product = contract("nd,ne->de", Y, dX)
    tangent = jnp.sum(dX, axis=0) / num_rows, product + product.T, jnp.zeros_like(remainder)
    return (mean, scatter, remainder), tangent


def _first_part(x: Array, is_row: Array | None) -> _Part:
    """Moments of a block: about its first row, then about its mean, then about what that mean is still off."""
    x = x.astype(accumulator(x.dtype))
    if is_row is None:
        first, count = x[0], jnp.int32(len(x))
        keep = lambda y: y  # noqa: E731
    else:
        first, count = jnp.where(jnp.any(is_row), x[jnp.argmax(is_row)], 0), jnp.sum(is_row, dtype=jnp.int32)
        keep = lambda y: jnp.where(is_row[:, None], y, 0)  # noqa: E731
    num_rows = jnp.maximum(count, 1).astype(x.dtype)
    y = keep(x - first[None])
    mean = jnp.sum(y, axis=0) / num_rows
    y = keep(y - mean[None])
    error = jnp.sum(y, axis=0) / num_rows
    panels = tuple(
        product - num_rows * error[rows, None] * error[None, columns]
        for product, rows, columns in zip(_panels(y), *_panel_slices(x.shape[1]), strict=True)
    )
    total, remainder = _two_sum(first, mean + error)
    return _Part(count, total, panels, remainder)


def _with_block(part: _Part, x: Array) -> _Part:
    """Moments after one more block, which is read once: about the mean so far, as no other number is as close."""
    dtype = part.mean.dtype
    y = x.astype(dtype) - part.mean[None]
    total = jnp.sum(y, axis=0)
    average, count = total / len(x), part.num_rows + len(x)
    delta = average - part.mean_remainder
    share = len(x) / count.astype(dtype)
    weight = share * part.num_rows.astype(dtype)
    panels = tuple(
        panel + product - total[rows, None] * average[None, columns] + weight * delta[rows, None] * delta[None, columns]
        for panel, product, rows, columns in zip(part.panels, _panels(y), *_panel_slices(x.shape[1]), strict=True)
    )
    mean, remainder = _two_sum(part.mean, part.mean_remainder + share * delta)
    return _Part(count, mean, panels, remainder)


def _panels(y: Array) -> tuple[Array, ...]:
    """YᵀY without most of what lies below the diagonal."""
    slices = zip(*_panel_slices(y.shape[1]), strict=True)
    return tuple(contract("nd,ne->de", y[:, rows], y[:, columns]) for rows, columns in slices)


def _panel_slices(num_features: int) -> tuple[list[slice], list[slice]]:
    width = -(-num_features // -(-num_features // WIDEST_PANEL))  # all as good as equal
    starts = range(0, num_features, width)
    return [slice(j, j + width) for j in starts], [slice(j, None) for j in starts]


def _merged_mean(a: Moments, b: Moments) -> tuple[Array, Array, Array, Array]:
    """The mean, its remainder, δ and nₐ n_b / n, beginning from whoever has more rows: what is empty adds 0."""
    dtype, is_more = a.mean.dtype, a.count >= b.count
    pair = tuple(x._replace(scatter=x.mean) for x in (a, b))  # the means alone matter here
    more = jax.tree.map(lambda x, y: jnp.where(is_more, x, y), *pair)
    less = jax.tree.map(lambda x, y: jnp.where(is_more, y, x), *pair)
    delta = (less.mean - more.mean) + (less.mean_remainder - more.mean_remainder)
    delta = jnp.where(less.count > 0, delta, 0)
    share = less.count.astype(dtype) / jnp.maximum(a.count + b.count, 1).astype(dtype)
    mean, remainder = _two_sum(more.mean, more.mean_remainder + share * delta)
    return mean, remainder, delta, more.count.astype(dtype) * share


def _two_sum(x: Array, y: Array) -> tuple[Array, Array]:
    """The sum rounded, and the error of rounding, exactly (Knuth)."""
    total = x + y
    y_seen = total - x
    return total, (x - (total - y_seen)) + (y - y_seen)
