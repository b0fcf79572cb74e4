"""Squared Euclidean distances between all pairs of vectors, by one matrix product."""

import jax
import jax.numpy as jnp
from jaxtyping import Array

from mathai.kernel._arrays import contract

PRODUCT_ERROR = 4  # roundings of the largest squared norm that a distance by a product is off
ROWS_AT_ONCE = 16  # of distances that are taken pair by pair


def squared_distances(
    X: Array, Z: Array | None = None, *, weights: Array | None = None, places: Array | None = None
) -> Array:
    """Σⱼ wⱼ (xⱼ − zⱼ)² of all pairs, as ‖x‖² + ‖z‖² − 2xᵀz of centred vectors; of X with itself where Z is None.

    Centring keeps the digits that a common offset would take. What rounding leaves below 0 is 0, and so is the
    distance between a vector and itself, which is column `places[i]` of row i where X are some of Z.
    """
    whole = X if Z is None or places is None else Z
    centre = jnp.mean(jnp.where(jnp.isfinite(whole), whole, 0), axis=0, keepdims=True)  # a NaN spoils its own row alone
    rows = X - centre
    columns = rows if Z is None else Z - centre
    weighted = rows if weights is None else rows * weights[None]
    column_norms = jnp.sum(columns * (columns if weights is None else columns * weights[None]), axis=1)
    row_norms = jnp.sum(rows * weighted, axis=1)
    distances = row_norms[:, None] + column_norms[None, :] - 2 * contract("nd,md->nm", weighted, columns)
    distances = jnp.where(distances < 0, 0, distances)  # unlike a maximum, at 0 with the whole derivative
    if places is not None:
        is_same = jnp.arange(len(columns), dtype=places.dtype)[None] == places[:, None]
        return jnp.where(is_same, distances * 0, distances)  # NaN stays NaN
    if Z is not None:
        return distances
    return jnp.where(jnp.eye(len(X), dtype=bool), jnp.diagonal(distances)[:, None] * 0, distances)  # NaN stays NaN


def weighted_distances(X: Array, Z: Array | None, weights: Array, places: Array | None = None) -> Array:
    """Σⱼ wⱼ (xⱼ − zⱼ)² of all pairs, or w Σⱼ (xⱼ − zⱼ)² with one weight: right to √ε, however far vectors lie apart.

    The product of matrices loses what is small beside the largest norm: all distances within a group that is far from
    another. Where that may be more than √ε, differences are taken pair by pair, which costs several times more.
    """
    each = weights[None] if weights.ndim else weights

    def by_product():
        if weights.ndim:
            return squared_distances(X, Z, weights=weights, places=places)
        return weights * squared_distances(X, Z, places=places)

    @jax.checkpoint  # differences are computed again for derivatives, and never held
    def to_all(x):
        difference = x[None] - (X if Z is None else Z)
        return jnp.sum(each * difference * difference, axis=1)

    if not X.size or (Z is not None and not Z.size):
        return by_product()
    epsilon = jnp.finfo(X.dtype).eps
    centre = jnp.mean(jnp.where(jnp.isfinite(X), X, 0), axis=0, keepdims=True)
    norms = [jnp.sum(each * (x - centre) ** 2, axis=1) for x in (X, X if Z is None else Z)]
    largest = jnp.max(jnp.concatenate([jnp.where(jnp.isfinite(norm), norm, 0) for norm in norms]))
    is_rough = PRODUCT_ERROR * epsilon * largest > jnp.sqrt(epsilon)
    return jax.lax.cond(is_rough, lambda: jax.lax.map(to_all, X, batch_size=ROWS_AT_ONCE), by_product)
