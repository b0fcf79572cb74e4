"""Squared Euclidean distances between all pairs of vectors, by one matrix product."""

import jax.numpy as jnp
from jaxtyping import Array

from mathai.kernel._arrays import contract


def squared_distances(X: Array, Z: Array | None = None, *, weights: Array | None = None) -> Array:
    """Σⱼ wⱼ (xⱼ − zⱼ)² of all pairs, as ‖x‖² + ‖z‖² − 2xᵀz of centred vectors; of X with itself where Z is None.

    Centring keeps the digits that a common offset would take. What rounding leaves below 0 is 0, and so is the
    distance between a vector and itself.
    """
    centre = jnp.mean(jnp.where(jnp.isfinite(X), X, 0), axis=0, keepdims=True)  # one NaN spoils its own row alone
    rows = X - centre
    columns = rows if Z is None else Z - centre
    weighted = rows if weights is None else rows * weights[None]
    column_norms = jnp.sum(columns * (columns if weights is None else columns * weights[None]), axis=1)
    row_norms = jnp.sum(rows * weighted, axis=1)
    distances = row_norms[:, None] + column_norms[None, :] - 2 * contract("nd,md->nm", weighted, columns)
    distances = jnp.where(distances < 0, 0, distances)  # unlike a maximum, at 0 with the whole derivative
    if Z is not None:
        return distances
    return jnp.where(jnp.eye(len(X), dtype=bool), jnp.diagonal(distances)[:, None] * 0, distances)  # NaN stays NaN
