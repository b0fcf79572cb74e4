"""Many classes by machines for two: which machines there are, and what they decide together."""

import itertools

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

STRATEGIES = ("one_vs_one", "one_vs_rest")


def machines(strategy: str, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """The class that each machine decides for, and the one it decides against, −1 for all others."""
    if strategy == "one_vs_one" or num_classes == 2:
        first, second = np.array(list(itertools.combinations(range(num_classes), 2)), np.int32).T
        return first, second
    return np.arange(num_classes, dtype=np.int32), np.full(num_classes, -1, np.int32)


def winners(
    decision: Float[Array, "m machines"],
    first: Int[Array, "machines"],
    second: Int[Array, "machines"],
    num_classes: int,
) -> Int[Array, "m"]:
    """The class of most votes; against all others, that of the highest decision; of equal ones the first."""
    chosen = jnp.where(decision > 0, first[None], second[None])
    votes = jnp.sum(chosen[:, :, None] == jnp.arange(num_classes)[None, None], axis=1)
    highest = first[jnp.argmax(decision, axis=1)]
    return jnp.where(second[0] < 0, highest, jnp.argmax(votes, axis=1))
