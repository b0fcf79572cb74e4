"""What the formulas of this package do to their arrays before and after the mathematics."""

import chex
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array


def promote(*inputs: ArrayLike) -> tuple[tuple[Array, ...], np.dtype]:
    """The arrays in a dtype fit to accumulate in, and the dtype in which results go back."""
    arrays = tuple(jnp.asarray(x) for x in inputs)
    dtype = jnp.result_type(*arrays, float)
    accumulator = jnp.promote_types(dtype, jnp.float32)
    return tuple(x.astype(accumulator) for x in arrays), dtype


def per_step(parameter, r_t):
    """A hyperparameter for each step, from a scalar or as given, in the dtype of the rewards."""
    parameter = jnp.asarray(parameter, r_t.dtype)
    if parameter.ndim:
        chex.assert_equal_shape([r_t, parameter])
    return jnp.broadcast_to(parameter, r_t.shape)


def mean_where(losses, where):
    """The mean over the elements `where`, or over all; 0 if there are none."""
    if where is None:
        return jnp.sum(losses) / max(losses.size, 1)
    return jnp.sum(jnp.where(where, losses, 0)) / jnp.maximum(jnp.sum(where), 1).astype(losses.dtype)
