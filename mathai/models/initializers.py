"""Initial weights that Flax has not, or has in a form that cannot run everywhere."""

import math

import jax
import jax.numpy as jnp
from flax.typing import Initializer
from jaxtyping import Array, Float


def orthogonal(gain: float) -> Initializer:
    """Return an initializer of matrices with orthonormal columns, or rows where there are fewer, times a gain.

    The numbers are those of `flax.linen.initializers.orthogonal` up to rounding. That one factorizes with LAPACK,
    whose batched calls wait on a CPU for the threads they occupy: two at once, of two stacks or of seeds on two
    devices, may wait forever. This one is made of products.

    Args:
      gain: the length of every column, or row.

    Source:
      Saxe et al. (2014), Exact Solutions to the Nonlinear Dynamics of Learning in Deep Linear Neural Networks.

    >>> weights = orthogonal(2.0)(jax.random.key(0), (5, 3))
    >>> bool(jnp.allclose(weights.T @ weights, 4 * jnp.eye(3), atol=1e-5))
    True
    """

    def init(key, shape, dtype=jnp.float32, out_sharding=None):
        del out_sharding
        rows, columns = math.prod(shape[:-1]), shape[-1]
        normal = jax.random.normal(key, (max(rows, columns), min(rows, columns)), dtype)
        basis = _orthonormalize(normal)
        return (gain * (basis if rows >= columns else basis.T)).reshape(shape).astype(dtype)

    return init


def _orthonormalize(x: Float[Array, "rows columns"]) -> Float[Array, "rows columns"]:
    """Gram and Schmidt's process, each column cleared twice: the second time takes what rounding left of the first."""

    def clear(vector, basis):
        along = jnp.einsum("nd,n->d", basis, vector, precision=jax.lax.Precision.HIGHEST)
        return vector - jnp.einsum("nd,d->n", basis, along, precision=jax.lax.Precision.HIGHEST)

    def step(basis, index):
        vector = clear(clear(x[:, index], basis), basis)
        return basis.at[:, index].set(vector / jnp.sqrt(jnp.sum(vector * vector))), None

    return jax.lax.scan(step, jnp.zeros_like(x), jnp.arange(x.shape[1]))[0]
