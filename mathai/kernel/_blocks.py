"""The same quadratic where it is large: pairs within blocks of examples, whose rows of the matrix are made on demand.

Each round takes the block that violates optimality most, half of it kept from the round before; improves the block
by sequential minimal optimization on its small matrix; and brings the gradient of all examples up to date with one
product. Rows are computed when a block enters, so that the whole matrix is never held.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mathai.kernel import _smo
from mathai.kernel._arrays import contract
from mathai.kernel._smo import Iterate, Problem

FALL = 0.1  # of the gap within a block, in one round
STEPS_PER_EXAMPLE = 20  # at most, in one round
SMALLEST = 4  # block: half of it is new in each round, and that half must hold a pair

Rows = Callable[[Int[Array, "m"]], Float[Array, "m n"]]


class Blocks(NamedTuple):
    """Where the method stands between rounds.

    Attributes:
      now: β and the gradient of all examples.
      kept: the examples that stay for the next round, [block / 2].
      is_kept: False where such a place is empty.
      rows: their rows of the matrix.
    """

    now: Iterate
    kept: Int[Array, "half"]
    is_kept: Bool[Array, "half"]
    rows: Float[Array, "half n"]


def minimize(
    rows: Rows, problem: Problem, start: Iterate, *, tolerance: Array, max_steps: Array, block: int
) -> Iterate:
    """Rounds until the gap is below the tolerance, or pairs have changed for as many steps as may be."""

    def goes_on(blocks: Blocks):
        return (blocks.now.gap > tolerance) & (blocks.now.steps < max_steps)

    def go_on(blocks: Blocks):
        return one_round(rows, problem, blocks, tolerance=tolerance, max_steps=max_steps - blocks.now.steps)

    return jax.lax.while_loop(goes_on, go_on, begin(start, block)).now


def begin(now: Iterate, block: int) -> Blocks:
    """Nothing kept yet."""
    half, n = block // 2, now.beta.size
    return Blocks(now, jnp.zeros(half, jnp.int32), jnp.zeros(half, bool), jnp.zeros((half, n), now.beta.dtype))


def one_round(rows: Rows, problem: Problem, blocks: Blocks, *, tolerance: Array, max_steps: Array) -> Blocks:
    """Choose a block, improve it by as many steps as may be, and bring the gradient up to date."""
    now = blocks.now
    fresh, is_fresh = _most_violating(problem, now, blocks.kept, blocks.is_kept)
    fresh_rows = rows(fresh)
    chosen = jnp.concatenate([blocks.kept, fresh])
    is_chosen = jnp.concatenate([blocks.is_kept, is_fresh])
    block_rows = jnp.concatenate([blocks.rows, fresh_rows])
    beta = now.beta[chosen]
    # An empty place may repeat an example: it is frozen, and moves nothing.
    within = Problem(
        problem.target[chosen],
        jnp.where(is_chosen, problem.low[chosen], beta),
        jnp.where(is_chosen, problem.high[chosen], beta),
    )
    start = _smo.at(within, beta, now.gradient[chosen], jnp.int32(0))
    end = _smo.minimize(
        block_rows[:, chosen],
        within,
        start,
        tolerance=jnp.maximum(FALL * start.gap, 0.5 * tolerance),
        max_steps=jnp.minimum(STEPS_PER_EXAMPLE * chosen.size, max_steps),
    )
    moved = jnp.where(is_chosen, end.beta - beta, 0)
    new_beta = now.beta.at[jnp.where(is_chosen, chosen, now.beta.size)].set(end.beta, mode="drop")
    gradient = now.gradient + contract("m,mn->n", moved, block_rows)
    return Blocks(_smo.at(problem, new_beta, gradient, now.steps + end.steps), fresh, is_fresh, fresh_rows)


def _most_violating(
    problem: Problem, now: Iterate, kept: Int[Array, "half"], is_kept: Bool[Array, "half"]
) -> tuple[Int[Array, "half"], Bool[Array, "half"]]:
    """Examples that are not kept: those of small gradients that may grow, then those of large ones that may shrink."""
    n, half = now.beta.size, kept.size
    free = jnp.ones(n, bool).at[jnp.where(is_kept, kept, n)].set(False, mode="drop")
    few = half // 2
    grows = jnp.where(_smo.may_grow(problem, now.beta) & free, -now.gradient, -jnp.inf)
    grow_values, growing = jax.lax.top_k(grows, half - few)
    free = free.at[jnp.where(grow_values > -jnp.inf, growing, n)].set(False, mode="drop")
    shrinks = jnp.where(_smo.may_shrink(problem, now.beta) & free, now.gradient, -jnp.inf)
    shrink_values, shrinking = jax.lax.top_k(shrinks, few)
    values = jnp.concatenate([grow_values, shrink_values])
    return jnp.concatenate([growing, shrinking]).astype(jnp.int32), values > -jnp.inf
