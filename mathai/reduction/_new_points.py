"""What placing new points in an embedding demands of its arguments, and blocks in which no point depends on another."""

from collections.abc import Callable

import chex
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array

from mathai.reduction._arrays import check_finite, over_blocks, promote

BLOCK = 128  # new points at a time, always: what a point gets then has no part in how many there are
LEAST_BLOCKS = 2  # a loop of one is compiled to other sums


def checked(X_train: ArrayLike, embedding: object, X_new: ArrayLike) -> tuple[tuple[Array, Array, Array], np.dtype]:
    """Points, their places and new points, to compute with, and the dtype in which results go back."""
    Y = jnp.asarray(getattr(embedding, "Y", embedding))
    chex.assert_rank([X_train, Y, X_new], 2)
    chex.assert_equal_shape_prefix([jnp.asarray(X_train), Y], 1)
    chex.assert_equal_shape_suffix([jnp.asarray(X_train), jnp.asarray(X_new)], 1)
    for name, points in (("the embedding", Y), ("X_train", X_train), ("X_new", X_new)):
        check_finite(f"transform: {name}", points)
    (points, places, new), dtype = promote(X_train, Y, X_new)
    return (points, places, new), dtype


def each_by_itself(place: Callable[[tuple[Array, ...]], Array], X_new: Array) -> Array:
    """A function of blocks of new points, always of one size and more than one."""
    m = len(X_new)
    padding = max(0, LEAST_BLOCKS * BLOCK - m)
    return over_blocks(place, (jnp.pad(X_new, ((0, padding), (0, 0))),), BLOCK)[:m]
