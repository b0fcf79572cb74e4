"""Many classes by machines for two: which machines there are, and what they decide together."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from mathai.kernel._arrays import contract

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
    for_first = (decision > 0).astype(decision.dtype)
    of_first, of_second = (jax.nn.one_hot(classes, num_classes, dtype=decision.dtype) for classes in (first, second))
    votes = contract("mk,kc->mc", for_first, of_first) + contract("mk,kc->mc", 1 - for_first, of_second)
    highest = first[jnp.argmax(decision, axis=1)]
    return jnp.where(second[0] < 0, highest, jnp.argmax(votes, axis=1))
