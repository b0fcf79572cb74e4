"""New points in an embedding that stays as it is."""

import functools

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Key, Shaped, UInt32

from mathai.reduction import _descent, _perplexity, _repulsion
from mathai.reduction._neighborhoods import check_perplexity
from mathai.reduction._new_points import checked, each_by_itself
from mathai.reduction.neighbors import k_nearest

MARGIN = 10.0  # around the embedding, in its units, that new points may reach
LONGEST_GRADIENT = 0.25


def transform(
    key: Key[Array, ""] | UInt32[Array, "..."],
    X_train: Shaped[ArrayLike, "n features"],
    embedding: object,
    X_new: Shaped[ArrayLike, "m features"],
    *,
    perplexity: ArrayLike = 5.0,
    num_neighbors: int = 25,
    metric: str = "euclidean",
    method: str = "auto",
    exaggeration: ArrayLike = 1.5,
    num_iterations: int = 250,
    learning_rate: ArrayLike = 0.1,
    momentum: ArrayLike = 0.8,
) -> Float[Array, "m components"]:
    """New points in an embedding, which stays where it is.

        minimize Σⱼ p_{j|i} log (p_{j|i} / q_{j|i}) over yᵢ,   q_{j|i} = (1 + ‖yᵢ − yⱼ‖²)⁻¹ / Σₗ (1 + ‖yᵢ − yₗ‖²)⁻¹

    with j over the points of the embedding alone, so that what a point gets does not depend on which others come with
    it. A point starts at the median of its nearest neighbours' places.

    Args:
      key: not used: nothing here is random. It is there so that all embeddings are called alike.
      X_train: the points that were embedded.
      embedding: what `embed` gave, or its Y.
      X_new: the points to add.
      perplexity: the effective number of neighbours; small, so that a point goes where its nearest are.
      num_neighbors: nearest points that attract, and of whose places the start is the median; at most n.
      metric: of `neighbors.k_nearest`.
      method: "exact", "fft" or "auto", as in `embed`.
      exaggeration: factor of the attraction.
      num_iterations: steps.
      learning_rate: η, of gradients that are at most 0.25 long.
      momentum: μ.

    Returns:
      One row for each new point.

    Raises:
      ValueError: points that are known to hold NaN, a perplexity that is known and not below the number of
        neighbours, an unknown method or metric, a negative number of iterations.
      AssertionError: shapes that do not fit.

    Source:
      Poličar, Stražar & Zupan (2023), Embedding to reference t-SNE space addresses batch effects in single-cell
      classification, section 2.

    >>> X = jax.random.normal(jax.random.key(0), (40, 3))
    >>> transform(jax.random.key(1), X, X[:, :2], X[:5] + 0.01, num_iterations=10).shape
    (5, 2)
    """
    del key
    if num_iterations < 0:
        raise ValueError(f"transform: num_iterations is {num_iterations}; it must not be negative.")
    (X_train, Y, X_new), dtype = checked(X_train, embedding, X_new)
    k = min(num_neighbors, len(Y))
    check_perplexity("transform", perplexity, k)
    grids = _descent.grids_for("transform", method, len(Y), Y.shape[1])
    numbers = [jnp.asarray(number, Y.dtype) for number in (perplexity, exaggeration, learning_rate, momentum)]
    return _place(X_train, X_new, Y, grids, *numbers, k, metric, num_iterations).astype(dtype)


@functools.partial(jax.jit, static_argnums=(8, 9, 10))
def _place(X_train, X_new, Y, grids, perplexity, exaggeration, rate, momentum, k, metric, num_iterations):
    low, high = (edge(Y, axis=0, keepdims=True) for edge in (jnp.min, jnp.max))
    if grids is None:
        push = functools.partial(_exact_push, Y)
    else:
        field = _repulsion.potential_of(Y, grids, margin=MARGIN)
        push = functools.partial(_read_push, field)

    def place(block):
        indices, distances = k_nearest(X_train, k, queries=block[0], metric=metric)
        squares = distances.astype(Y.dtype) ** 2
        weights = _perplexity.affinities(squares, squares != jnp.inf, perplexity)
        near = Y.at[indices].get(mode="promise_in_bounds")  # [m, k, c]

        def step(now, _):
            y, velocity, gains = now
            difference = y[:, None] - near
            pull = weights / (1 + jnp.sum(difference**2, axis=-1))
            gradient = exaggeration * jnp.sum(pull[..., None] * difference, axis=1) - push(y)
            length = jnp.sqrt(jnp.sum(gradient**2, axis=1, keepdims=True))
            gradient = gradient * (LONGEST_GRADIENT / jnp.maximum(length, LONGEST_GRADIENT))
            gains = _descent.new_gains(gains, velocity, gradient)
            velocity = momentum * velocity - rate * gains * gradient
            return (jnp.clip(y + velocity, low - MARGIN, high + MARGIN), velocity, gains), None

        start = jnp.median(near, axis=1)
        now = (start, jnp.zeros_like(start), jnp.ones_like(start))
        return jax.lax.scan(step, now, length=num_iterations)[0][0]

    return each_by_itself(place, X_new)


def _read_push(field, y):
    potential, slope = _repulsion.read(field, y)
    return -slope / 2 / potential[:, None]


def _exact_push(Y, y):
    force, potential = _repulsion.from_all(y, Y)
    return force / potential[:, None]
