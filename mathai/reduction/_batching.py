"""Decisions that a whole batch takes together, so that `vmap` leaves a branch a branch and does not run both."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Shaped


@jax.custom_batching.custom_vmap
def largest_of_batch(x: Shaped[Array, ""]) -> Shaped[Array, ""]:
    """The scalar itself; under `vmap` the largest of the batch, one number for all.

    >>> jax.vmap(lambda x: largest_of_batch(x))(jnp.array([1, 5, 2])).tolist()
    [5, 5, 5]
    """
    return x


@largest_of_batch.def_vmap
def _largest(axis_size, in_batched, x):
    del axis_size, in_batched
    return largest_of_batch(jnp.max(x)), False
