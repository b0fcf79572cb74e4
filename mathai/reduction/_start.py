"""Where an embedding begins."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mathai.reduction import _pca_solvers

SCALE = 1e-4  # standard deviation of the first coordinate, so that the first steps are those of a linear map
JITTER = 0.01  # of the scale: tells duplicates apart, and seeds


def principal(key: Array, X: Float[Array, "n d"], num_components: int) -> Float[Array, "n c"]:
    """The first principal components at a small scale, with a little noise."""
    n, d = X.shape
    X = jnp.where(jnp.isfinite(X), X, 0)
    noise = jax.random.normal(key, (n, num_components), X.dtype)
    k = min(num_components, n, d)
    model = _pca_solvers.solve(X, None, k, "covariance" if n >= d else "gram", (0, 0))[0]
    Y = (X - model.mean) @ model.components.T
    deviation = jnp.std(Y[:, 0])
    Y = jnp.pad(Y / jnp.where(deviation > 0, deviation, 1), ((0, 0), (0, num_components - k)))
    return SCALE * (Y + JITTER * noise)


def random(key: Array, X: Float[Array, "n d"], num_components: int) -> Float[Array, "n c"]:
    """Normal noise at a small scale."""
    return SCALE * jax.random.normal(key, (len(X), num_components), X.dtype)
