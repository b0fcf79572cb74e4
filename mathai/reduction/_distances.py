"""Distances of all pairs, a block of queries at a time: by products where these keep the digits, or by differences."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from mathai.reduction._arrays import centre, contract, over_blocks
from mathai.reduction._batching import largest_of_batch
from mathai.reduction._selection import smallest

BLOCK_BYTES = 16 * 2**20  # of the distances that are held at once
SPARE = 8  # neighbours beyond those sought, so that rounding in products cannot hide one of them
TOLERANCE = 1e-4  # relative, of a squared distance: what products may lose before differences are taken


def nearest(
    X: Float[Array, "n d"],
    queries: Float[Array, "m d"],
    k: int,
    *,
    metric: str,
    block_size: int | None,
    exclude_self: bool,
) -> tuple[Int[Array, "m k"], Float[Array, "m k"]]:
    """Indices and distances of the k nearest of X; with `exclude_self` query i is point i and is left out."""
    if metric == "cosine":
        X, queries = unit(X), unit(queries)
    points, seekers = jax.lax.stop_gradient((X, queries))
    own = jnp.arange(len(queries), dtype=jnp.int32)
    block = block_of(len(X), len(queries), k, X.shape[1], X.dtype, block_size, exclude_self=exclude_self)
    indices, _ = search(points, seekers, own, k, metric=metric, block=block, exclude_self=exclude_self)
    return indices, measure(X, queries, indices, metric=metric, block=block)


def block_of(n: int, m: int, k: int, d: int, dtype: np.dtype, block_size: int | None, *, exclude_self: bool) -> int:
    """How many of m queries go among n points at a time."""
    largest = max(
        n, min(n, k + exclude_self + SPARE) * d
    )  # of the numbers held for one query: distances or differences
    return max(1, min(m, block_size or BLOCK_BYTES // (largest * dtype.itemsize)))


def search(
    points: Float[Array, "n d"],
    seekers: Float[Array, "m d"],
    own: Int[Array, "m"],
    k: int,
    *,
    metric: str,
    block: int,
    exclude_self: bool,
    origin: Float[Array, "1 d"] | None = None,
    is_point: Bool[Array, "n"] | None = None,
) -> tuple[Int[Array, "m j"], Float[Array, "m j"]]:
    """The nearest of some points, k or as many as there are, and what orders them: squares, or Manhattan distances.

    Args:
      points: vectors of length 1 where the metric is "cosine".
      seekers: the queries, likewise.
      own: the index of each query among the points, which may lie outside.
      k: neighbours.
      metric: of `nearest`.
      block: queries at a time.
      exclude_self: whether a query's own point is left out; if it is found all the same, it is at distance ∞.
      origin: about which products are taken; None is the mean.
      is_point: False for rows that are no points; if they are found all the same, they are at distance ∞.
    """
    num_survivors = min(len(points), k + exclude_self + SPARE)
    products = _product_form(points, origin)

    def one_block(query_and_index):
        q, own = query_and_index
        if metric == "manhattan":
            survivors, exact = _by_differences(manhattan_distances, points, q, num_survivors, is_point)
        else:
            survivors, exact = _by_products(products, points, q, num_survivors, k + exclude_self, is_point)
        if exclude_self:
            exact = jnp.where(survivors == own[:, None], jnp.inf, exact)
        negative, order = jax.lax.top_k(-exact, min(k, num_survivors))
        return jnp.take_along_axis(survivors, order, axis=1, mode="promise_in_bounds").astype(jnp.int32), -negative

    return over_blocks(one_block, (seekers, own), block)


def measure(
    X: Float[Array, "n d"], queries: Float[Array, "m d"], indices: Int[Array, "m k"], *, metric: str, block: int
) -> Float[Array, "m k"]:
    """Distances to the neighbours that were found, a block of queries at a time."""
    # Derivatives measure again, a block at a time, rather than keep n·k·d differences.
    of_block = jax.checkpoint(lambda part: measured(X, part[0], part[1], metric))
    return over_blocks(of_block, (queries, indices), block)


def ranks(X: Float[Array, "n d"], neighbors: Int[Array, "n k"]) -> Int[Array, "n k"]:
    """The rank of each listed point among all neighbours of a row: 1 + how many are nearer by more than rounding."""
    n = len(X)
    products, ones = _product_form(X), jnp.ones((n, 1), X.dtype)

    def one_block(part):
        q, own, listed = part
        values, size = products(q)
        exact = squares_to(X, q, listed)
        error = jnp.broadcast_to(_rounding(X, size)[:, None], exact.shape)
        is_doubtful = (error > TOLERANCE * exact) & (exact > 0)
        distances, margin = jax.lax.cond(
            largest_of_batch(jnp.any(is_doubtful)),
            lambda: (squared_distances(q, X), 4 * jnp.finfo(X.dtype).eps * exact),
            lambda: (values, error),
        )
        threshold = jnp.take_along_axis(distances, listed, axis=1, mode="promise_in_bounds") - margin
        distances = jnp.where(jnp.arange(n)[None] == own[:, None], jnp.inf, distances)
        nearer = jax.lax.map(
            lambda column: contract("bn,no->b", (distances < column[:, None]).astype(X.dtype), ones), threshold.T
        )
        return 1 + jnp.round(nearer.T).astype(jnp.int32)

    block = max(1, min(n, BLOCK_BYTES // (max(n, neighbors.shape[1] * X.shape[1]) * X.dtype.itemsize)))
    return over_blocks(one_block, (X, jnp.arange(n, dtype=jnp.int32), neighbors), block)


def squared_distances(X: Float[Array, "n d"], Z: Float[Array, "m d"]) -> Float[Array, "n m"]:
    """‖x − z‖² of all pairs by differences: n m d numbers pass, none is stored, no digit is lost."""
    return _summed(jnp.square, X, Z)


def manhattan_distances(X: Float[Array, "n d"], Z: Float[Array, "m d"]) -> Float[Array, "n m"]:
    """Σ |x − z| of all pairs."""
    return _summed(jnp.abs, X, Z)


def _summed(of_difference: Callable[[Array], Array], X: Array, Z: Array) -> Float[Array, "n m"]:
    def add(total, columns):
        x, z = columns
        return total + of_difference(x[:, None] - z[None, :]), None

    return jax.lax.scan(add, jnp.zeros((len(X), len(Z)), X.dtype), (X.T, Z.T))[0]


def unit(X):
    """Vectors of length 1, in one dimension more: a vector of zeros is at right angles to all others."""
    largest = jnp.max(jnp.abs(X), axis=1, keepdims=True)
    X = jnp.where(largest == 0, 0, X / jnp.where(largest == 0, 1, largest))
    norm = jnp.linalg.norm(jnp.where(largest == 0, 1, X), axis=1, keepdims=True)
    is_zero = (largest == 0).astype(X.dtype)
    return jnp.concatenate([X / norm, is_zero], axis=1)


def _product_form(
    X: Float[Array, "n d"], origin: Float[Array, "1 d"] | None = None
) -> Callable[[Float[Array, "b d"]], tuple[Array, Array]]:
    """Q → ‖x‖² − 2qᵀx of all x in one product, which orders points as ‖q − x‖² does, and ‖q‖²; about the mean.

    Only here, for what is subtracted costs digits that differences keep.
    """
    origin = centre(X) if origin is None else origin
    X = X - origin
    table = jnp.concatenate([-2 * X, contract("nd,nd->n", X, X)[:, None]], axis=1).T

    def products(q):
        q = q - origin
        with_one = jnp.concatenate([q, jnp.ones((len(q), 1), q.dtype)], axis=1)
        return contract("bd,dn->bn", with_one, table), contract("bd,bd->b", q, q)

    return products


def _rounding(X, size):
    """What rounding may change in the products with a query of this squared length.

    Points much further from the mean than the query are far from it, whatever is lost: only |x| ≤ 3|q| counts.
    """
    return 10 * jnp.finfo(X.dtype).eps * (1 + X.shape[1] ** 0.5 / 4) * size


def _by_products(products, X, q, num_survivors, k, is_point):
    """Columns and squared distances of the nearest; by differences where rounding may have hidden a neighbour."""
    values, size = products(q)
    values, survivors = smallest(_of_points(values, is_point), num_survivors)
    exact = squares_to(X, q, survivors)
    if is_point is not None:
        exact = jnp.where(is_point[survivors], exact, jnp.inf)
    if num_survivors == len(X):
        return survivors, exact
    sought = -jax.lax.top_k(-exact, k)[0][:, -1]
    error = _rounding(X, size)
    beyond = values[:, -1] + size
    is_doubtful = (beyond - error < sought) & (error > TOLERANCE * sought) & (sought > 0)

    def measured_again():  # what one query gets does not depend on the others of its block
        columns, distances = _by_differences(squared_distances, X, q, num_survivors, is_point)
        again = is_doubtful[:, None]
        return jnp.where(again, columns, survivors), jnp.where(again, distances, exact)

    return jax.lax.cond(largest_of_batch(jnp.any(is_doubtful)), measured_again, lambda: (survivors, exact))


def _by_differences(distances, X, q, num_survivors, is_point):
    values, survivors = smallest(_of_points(distances(q, X), is_point), num_survivors)
    return survivors, values


def _of_points(values, is_point):
    return values if is_point is None else jnp.where(is_point[None], values, jnp.inf)


def squares_to(X, q, indices):
    """‖q − x‖² to the points of X that each row of indices names, by differences."""
    difference = q[:, None, :] - X.at[indices].get(mode="promise_in_bounds")
    return jnp.sum(difference * difference, axis=-1)


def measured(X, q, indices, metric):
    """Distances to the neighbours that were found; their derivative at 0 is 0."""
    if metric == "manhattan":
        return jnp.sum(jnp.abs(q[:, None, :] - X.at[indices].get(mode="promise_in_bounds")), axis=-1)
    squares = squares_to(X, q, indices)
    if metric == "cosine":
        return squares / 2
    is_zero: Bool[Array, "b k"] = squares == 0
    return jnp.where(is_zero, 0, jnp.sqrt(jnp.where(is_zero, 1, squares)))
