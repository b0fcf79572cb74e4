"""New points in an embedding of UMAP that stays as it is."""

import functools
import math

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Key, Shaped, UInt32

from mathai.reduction import _curve, _fuzzy_graph, _layout
from mathai.reduction._arrays import gather
from mathai.reduction._new_points import checked, each_by_itself
from mathai.reduction.neighbors import k_nearest

EPOCHS_OF_FEW, EPOCHS_OF_MANY = 300, 100  # by the size of the embedding, as in `_layout`


def transform(
    key: Key[Array, ""] | UInt32[Array, "..."],
    X_train: Shaped[ArrayLike, "n features"],
    embedding: object,
    X_new: Shaped[ArrayLike, "m features"],
    *,
    num_neighbors: int = 5,
    min_dist: ArrayLike = 0.1,
    spread: ArrayLike = 1.0,
    metric: str = "euclidean",
    num_epochs: int | None = None,
    learning_rate: ArrayLike = 0.25,
    repulsion_strength: ArrayLike = 1.0,
    num_negatives: int = 5,
) -> Float[Array, "m components"]:
    """New points in an embedding, which stays where it is.

        w_j = exp(−d_j/σ) / max_l exp(−d_l/σ),   yᵢ starts at Σⱼ w_j yⱼ / Σⱼ w_j,   then descends as in `embed`

    What a point gets depends on the key and on its own neighbours, and not on which others come with it, to the
    last bit: weights are scaled by its own largest, and the points that push at one time are the same for all.

    Args:
      key: of the points that push.
      X_train: the points that were embedded.
      embedding: what `embed` gave, or its Y.
      X_new: the points to add.
      num_neighbors: nearest points of the embedding that pull, at most n; few, so that a point goes where these are.
      min_dist: as given to `embed`; not used where embedding knows its curve.
      spread: likewise.
      metric: of `neighbors.k_nearest`.
      num_epochs: passes over the neighbours; None makes 300 up to 10 000 points in the embedding, else 100.
      learning_rate: at the start; it falls linearly to 0.
      repulsion_strength: factor of the pushes.
      num_negatives: points that push for each pull.

    Returns:
      One row for each new point; NaN for one that is none, seen too late to be refused where it is traced.

    Raises:
      ValueError: points that are known to hold NaN, an unknown metric, a number out of its range.
      AssertionError: shapes that do not fit.

    Source:
      McInnes, Healy & Melville (2018), UMAP: Uniform Manifold Approximation and Projection for Dimension Reduction,
      section 4; umap-learn's `transform` for the schedule.

    >>> X = jax.random.normal(jax.random.key(0), (40, 3))
    >>> transform(jax.random.key(1), X, X[:, :2], X[:5] + 0.01, num_epochs=10).shape
    (5, 2)
    """
    (X_train, Y, X_new), dtype = checked(X_train, embedding, X_new)
    if num_epochs is None:
        num_epochs = EPOCHS_OF_FEW if len(Y) <= _layout.FEW else EPOCHS_OF_MANY
    _layout.check_counts("transform", 1, num_neighbors=num_neighbors)
    _layout.check_counts("transform", 0, num_epochs=num_epochs, num_negatives=num_negatives)
    _layout.check_rates("transform", learning_rate=learning_rate, repulsion_strength=repulsion_strength)
    known = (getattr(embedding, "a", None), getattr(embedding, "b", None))
    if known[0] is None:
        known = _curve.check_and_fit("transform", spread, min_dist)
    curve = _layout.Curve(*(jnp.asarray(number, Y.dtype) for number in known))
    schedule = _layout.schedule_of(learning_rate, repulsion_strength, num_epochs)
    sizes = (min(num_neighbors, len(Y)), num_epochs, num_negatives)
    return _place(key, X_train, X_new, Y, curve, schedule, metric, sizes).astype(dtype)


@functools.partial(jax.jit, static_argnums=(6, 7))
def _place(key, X_train, X_new, Y, curve, schedule, metric, sizes):
    num_neighbors, num_epochs, num_negatives = sizes
    coordinates = tuple(Y.T)

    def pulls_and_pushes(block):
        indices, distances = k_nearest(X_train, num_neighbors, queries=block[0], metric=metric)
        distances = distances.astype(Y.dtype)
        is_neighbor = jnp.isfinite(distances)
        target = math.log2(num_neighbors)
        _, sigma = _fuzzy_graph.widths(distances, is_neighbor, target=target, is_connected=False)
        weights = _fuzzy_graph.memberships(distances, is_neighbor, distances[:, 0], sigma)
        near = [gather(y, indices.T) for y in coordinates]  # [k, block] each
        total = jnp.sum(weights, axis=1)
        start = [jnp.sum(weights.T * y, axis=0) / jnp.where(total > 0, total, jnp.nan) for y in near]

        def one_epoch(now, epoch):
            alpha = _layout.rate(schedule, epoch).astype(Y.dtype)
            shape = (num_neighbors, num_negatives)
            others = jax.random.randint(jax.random.fold_in(key, epoch), shape, 0, len(Y), jnp.int32)

            def one_rank(now, rank):
                there, weight, pushing = rank
                others = [[gather(y, pushing[index])[None] for y in coordinates] for index in range(num_negatives)]
                strengths = alpha * weight, alpha * schedule.repulsion.astype(Y.dtype) * weight
                return _layout.moved(now, there, others, curve, *strengths), None

            return jax.lax.scan(one_rank, now, (near, weights.T, others))[0], None

        end, _ = jax.lax.scan(one_epoch, start, jnp.arange(num_epochs, dtype=jnp.int32))
        return jnp.stack(end, axis=1)

    return each_by_itself(pulls_and_pushes, X_new)
