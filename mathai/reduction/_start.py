"""Where an embedding begins."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mathai.reduction import _pca_solvers

SCALE = 1e-4  # standard deviation of the first coordinate, so that the first steps are those of a linear map
JITTER = 0.01  # of the scale: tells duplicates apart, and seeds
STARTS = ("pca", "random")

Start = Callable[[Array], Float[Array, "n c"]]  # of a key


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
    model = _pca_solvers.solve(X, None, k, "covariance" if n >= d else "gram", (0, 0))[0]
    Y = (X - model.mean[None]) @ model.components.T
    deviation = jnp.std(Y[:, 0])
    return jnp.pad(Y / jnp.where(deviation > 0, deviation, 1), ((0, 0), (0, num_components - k)))
