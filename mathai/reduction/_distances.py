"""Distances of all pairs, a block of queries at a time: by products where these keep the digits, else by differences."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mathai.reduction._arrays import centred, contract
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
    X, queries = _prepared(X, queries, metric)
    selecting = jax.lax.stop_gradient((X, queries))
    n, m = len(X), len(queries)
    block = min(m, block_size or max(1, BLOCK_BYTES // (n * X.dtype.itemsize)))
    num_survivors = min(n, k + exclude_self + SPARE)
    find = _by_differences if metric == "manhattan" else _by_products

    def one_block(query_and_index):
        q, own = query_and_index
        survivors, exact = find(selecting[0], q, num_survivors, k + exclude_self)
        if exclude_self:
            exact = jnp.where(survivors == own[:, None], jnp.inf, exact)
        _, order = jax.lax.top_k(-exact, k)
        return jnp.take_along_axis(survivors, order, axis=1, mode="promise_in_bounds")

    padding = -m % block
    blocks = jnp.pad(selecting[1], ((0, padding), (0, 0))).reshape(-1, block, X.shape[1])
    owners = jnp.arange(m + padding, dtype=jnp.int32).reshape(-1, block)
    indices = jax.lax.map(one_block, (blocks, owners)).reshape(-1, k)[:m].astype(jnp.int32)
    return indices, _over_blocks(lambda part: _measured(X, *part, metric), (queries, indices), block)


def ranks(X: Float[Array, "n d"], neighbors: Int[Array, "n k"]) -> Int[Array, "n k"]:
    """The rank of each listed point among all neighbours of a row: 1 + how many are strictly nearer."""
    X = centred(X)
    n, k = neighbors.shape
    products, ones = _product_form(X), jnp.ones((n, 1), X.dtype)

    def one_block(part):
        q, own, listed = part
        distances = products(q)
        threshold = jnp.take_along_axis(distances, listed, axis=1, mode="promise_in_bounds")
        distances = jnp.where(jnp.arange(n)[None] == own[:, None], jnp.inf, distances)
        nearer = jax.lax.map(
            lambda column: contract("bn,no->b", (distances < column[:, None]).astype(X.dtype), ones), threshold.T
        )
        return 1 + jnp.round(nearer.T).astype(jnp.int32)

    block = max(1, min(n, BLOCK_BYTES // (n * X.dtype.itemsize)))
    return _over_blocks(one_block, (X, jnp.arange(n, dtype=jnp.int32), neighbors), block)


def squared_distances(X: Float[Array, "n d"], Z: Float[Array, "m d"]) -> Float[Array, "n m"]:
    """‖x − z‖² of all pairs by differences: n m d numbers pass, none is stored, no digit is lost."""

    def add(total, columns):
        x, z = columns
        return total + (x[:, None] - z[None, :]) ** 2, None

    return jax.lax.scan(add, jnp.zeros((len(X), len(Z)), X.dtype), (X.T, Z.T))[0]


def _prepared(X, queries, metric):
    if metric == "cosine":
        return _unit(X), _unit(queries)
    if metric == "manhattan":
        return X, queries
    centre = X[:1]
    mean = jnp.mean(X - centre, axis=0, keepdims=True)
    return (X - centre) - mean, (queries - centre) - mean


def _unit(X):
    """Vectors of length 1, in one dimension more: a vector of zeros is at right angles to all others."""
    largest = jnp.max(jnp.abs(X), axis=1, keepdims=True)
    X = X / jnp.where(largest == 0, 1, largest)
    norm = jnp.linalg.norm(jnp.where(largest == 0, 1, X), axis=1, keepdims=True)
    is_zero = (largest == 0).astype(X.dtype)
    return jnp.concatenate([X / norm, is_zero], axis=1)


def _product_form(X: Float[Array, "n d"]) -> Callable[[Float[Array, "b d"]], Float[Array, "b n"]]:
    """Q → ‖x‖² − 2qᵀx of all x in one product, which orders points as ‖q − x‖² does."""
    squares = contract("nd,nd->n", X, X)
    table = jnp.concatenate([-2 * X, squares[:, None]], axis=1).T
    return lambda q: contract("bd,dn->bn", jnp.concatenate([q, jnp.ones((len(q), 1), q.dtype)], axis=1), table)


def _by_products(X, q, num_survivors, k):
    """Columns and squared distances of the nearest; by differences where rounding may have hidden a neighbour."""
    values, survivors = smallest(_product_form(X)(q), num_survivors)
    exact = _squares_to(X, q, survivors)
    if num_survivors == len(X):
        return survivors, exact
    sought = -jax.lax.top_k(-exact, k)[0][:, -1]
    # Points much further from the mean than the query are far from it, whatever is lost: only |x| ≤ 3|q| counts.
    size = contract("bd,bd->b", q, q)
    error = 10 * jnp.finfo(X.dtype).eps * (1 + X.shape[1] ** 0.5 / 4) * size
    beyond = values[:, -1] + size
    is_doubtful = (beyond - error < sought) & (error > TOLERANCE * sought)
    return jax.lax.cond(
        largest_of_batch(jnp.any(is_doubtful)),
        lambda: _by_differences(X, q, num_survivors, k, power=2),
        lambda: (survivors, exact),
    )


def _by_differences(X, q, num_survivors, k, power=1):
    del k

    def add(total, columns):
        x, z = columns
        difference = jnp.abs(z[:, None] - x[None, :])
        return total + difference**power, None

    total = jax.lax.scan(add, jnp.zeros((len(q), len(X)), X.dtype), (X.T, q.T))[0]
    values, survivors = smallest(total, num_survivors)
    return survivors, values


def _squares_to(X, q, indices):
    difference = q[:, None, :] - X.at[indices].get(mode="promise_in_bounds")
    return jnp.sum(difference * difference, axis=-1)


def _measured(X, q, indices, metric):
    """Distances to the neighbours that were found; their derivative at 0 is 0."""
    if metric == "manhattan":
        return jnp.sum(jnp.abs(q[:, None, :] - X.at[indices].get(mode="promise_in_bounds")), axis=-1)
    squares = _squares_to(X, q, indices)
    if metric == "cosine":
        return squares / 2
    is_zero: Bool[Array, "b k"] = squares == 0
    return jnp.where(is_zero, 0, jnp.sqrt(jnp.where(is_zero, 1, squares)))


def _over_blocks(function, arrays, block):
    """A function of rows, one block after another; the last block is filled up with zeros."""
    n = len(arrays[0])
    padded = [jnp.pad(a, ((0, -n % block),) + ((0, 0),) * (a.ndim - 1)) for a in arrays]
    result = jax.lax.map(function, tuple(a.reshape(-1, block, *a.shape[1:]) for a in padded))
    return result.reshape(-1, *result.shape[2:])[:n]
