"""Distances of all pairs, a block of queries at a time: by products where these keep the digits, or by differences."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
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
    n, m = len(X), len(queries)
    num_survivors = min(n, k + exclude_self + SPARE)
    largest = max(n, num_survivors * X.shape[1])  # of the numbers held for one query: distances or differences
    block = max(1, min(m, block_size or BLOCK_BYTES // (largest * X.dtype.itemsize)))
    products = _product_form(points)

    def one_block(query_and_index):
        q, own = query_and_index
        if metric == "manhattan":
            survivors, exact = _by_differences(manhattan_distances, points, q, num_survivors)
        else:
            survivors, exact = _by_products(products, points, q, num_survivors, k + exclude_self)
        if exclude_self:
            exact = jnp.where(survivors == own[:, None], jnp.inf, exact)
        _, order = jax.lax.top_k(-exact, k)
        return jnp.take_along_axis(survivors, order, axis=1, mode="promise_in_bounds")

    indices = over_blocks(one_block, (seekers, jnp.arange(m, dtype=jnp.int32)), block).astype(jnp.int32)
    # Derivatives measure again, a block at a time, rather than keep n·k·d differences.
    measure = jax.checkpoint(lambda part: measured(X, part[0], part[1], metric))
    return indices, over_blocks(measure, (queries, indices), block)


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


def _product_form(X: Float[Array, "n d"]) -> Callable[[Float[Array, "b d"]], tuple[Array, Array]]:
    """Q → ‖x‖² − 2qᵀx of all x in one product, which orders points as ‖q − x‖² does, and ‖q‖²; about the mean.

    Only here, for what is subtracted costs digits that differences keep.
    """
    origin = centre(X)
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


def _by_products(products, X, q, num_survivors, k):
    """Columns and squared distances of the nearest; by differences where rounding may have hidden a neighbour."""
    values, size = products(q)
    values, survivors = smallest(values, num_survivors)
    exact = squares_to(X, q, survivors)
    if num_survivors == len(X):
        return survivors, exact
    sought = -jax.lax.top_k(-exact, k)[0][:, -1]
    error = _rounding(X, size)
    beyond = values[:, -1] + size
    is_doubtful = (beyond - error < sought) & (error > TOLERANCE * sought) & (sought > 0)

    def measured_again():  # what one query gets does not depend on the others of its block
        columns, distances = _by_differences(squared_distances, X, q, num_survivors)
        again = is_doubtful[:, None]
        return jnp.where(again, columns, survivors), jnp.where(again, distances, exact)

    return jax.lax.cond(largest_of_batch(jnp.any(is_doubtful)), measured_again, lambda: (survivors, exact))


def _by_differences(measure, X, q, num_survivors):
    values, survivors = smallest(measure(q, X), num_survivors)
    return survivors, values


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
