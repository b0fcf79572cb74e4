"""Where an embedding begins."""

import functools
from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Shaped

from mathai.reduction import _pca_solvers, _spectral
from mathai.reduction._arrays import check_finite, contract, promote
from mathai.reduction._edge_ranks import EdgeRanks
from mathai.reduction._fuzzy_graph import FuzzyGraph

SCALE = 1e-4  # standard deviation of the first coordinate, so that the first steps are those of a linear map
JITTER = 0.01  # of the scale: tells duplicates apart, and seeds
LARGE = 2000  # points and features beyond which principal components are projected
STARTS = ("pca", "random")
GRAPH_STARTS = ("spectral", "pca", "random")
GRAPH_EXTENT = 10.0  # of each coordinate, where edges of a graph are to become short
WHOLE = 0.9  # of the points, that the largest part of a graph holds if it is laid out by eigenvectors
GRAPH_JITTER = 1e-4

Start = Callable[[Array], Float[Array, "n c"]]  # of a key


def of_data(
    X: Shaped[ArrayLike, "n features"], *, num_components: int, init: str | Float[ArrayLike, "n components"]
) -> Start:
    """Where `tsne.embed` starts, as a function of the key; see its arguments."""
    (points,), _ = promote(X)
    if not isinstance(init, str):
        return _given(init, points, num_components)
    _check_known(init, STARTS)
    return (principal if init == "pca" else random)(points, num_components)


def of_graph(
    X: Shaped[ArrayLike, "n features"],
    graph: FuzzyGraph,
    ranks: EdgeRanks,
    *,
    num_components: int,
    init: str | Float[ArrayLike, "n components"],
) -> Start:
    """Where `umap.embed` starts, as a function of the key; see its arguments. What is random is little."""
    (points,), _ = promote(X)
    if not isinstance(init, str):
        return _given(init, points, num_components)
    _check_known(init, GRAPH_STARTS)
    if init == "random":
        shape = (len(points), num_components)
        return lambda key: jax.random.uniform(key, shape, points.dtype, -GRAPH_EXTENT, GRAPH_EXTENT)
    if init == "pca":
        return functools.partial(_stretched, _projection(points, num_components))
    parts = _spectral.components(graph, len(points))
    hangs_together = parts.sizes[0] >= WHOLE * len(points)

    def spectral():
        # The key of the iteration is always the same: its end depends on it by rounding alone.
        return _spectral.layout(jax.random.key(0), ranks, parts, num_components).astype(points.dtype)

    def projected():
        return _projection(points, num_components)

    if isinstance(hangs_together, jax.core.Tracer):
        return functools.partial(_stretched, jax.lax.cond(hangs_together, spectral, projected))
    return functools.partial(_stretched, spectral() if hangs_together else projected())


def _given(init: Float[ArrayLike, "n c"], points: Float[Array, "n d"], num_components: int) -> Start:
    """The start that is given, one row for each point."""
    chex.assert_shape(init, (len(points), num_components))
    check_finite("embed: init", init)
    start = jnp.asarray(init, points.dtype)
    return lambda key: start


def _check_known(init: str, known: tuple[str, ...]) -> None:
    if init not in known:
        raise ValueError(f"embed: init {init!r} is unknown; use an array or one of {', '.join(known)}.")


@jax.jit
def _stretched(Y, key):
    """Coordinates from 0 to 10, a little off."""
    largest = jnp.max(jnp.abs(Y))
    Y = Y / jnp.where(largest > 0, largest, 1) * GRAPH_EXTENT
    Y = Y + GRAPH_JITTER * jax.random.normal(key, Y.shape, Y.dtype)
    low, high = jnp.min(Y, axis=0, keepdims=True), jnp.max(Y, axis=0, keepdims=True)
    return (Y - low) / jnp.where(high > low, high - low, 1) * GRAPH_EXTENT


def principal(X: Float[Array, "n d"], num_components: int) -> Start:
    """The first principal components at a small scale, with a little noise."""
    projection = _projection(X, num_components)
    return lambda key: SCALE * (projection + JITTER * jax.random.normal(key, projection.shape, projection.dtype))


def random(X: Float[Array, "n d"], num_components: int) -> Start:
    """Normal noise at a small scale."""
    n, dtype = len(X), X.dtype
    return lambda key: SCALE * jax.random.normal(key, (n, num_components), dtype)


@functools.partial(jax.jit, static_argnums=1)
def _projection(X, num_components):
    n, d = X.shape
    X = jnp.where(jnp.isfinite(X), X, 0)
    k = min(num_components, n, d)
    # Few components of what is large both ways need no more than a projection, the same for all keys.
    solver = "randomized" if min(n, d) > LARGE else "covariance" if n >= d else "gram"
    model = _pca_solvers.solve(X, jax.random.key(0) if solver == "randomized" else None, k, solver, (10, 4))[0]
    Y = contract("nd,kd->nk", X - model.mean[None], model.components)
    deviation = jnp.std(Y[:, 0])
    return jnp.pad(Y / jnp.where(deviation > 0, deviation, 1), ((0, 0), (0, num_components - k)))
