"""Sequential minimal optimization: a quadratic in a box, with a sum of zero, two numbers at a time.

    minimize ½ βᵀKβ − pᵀβ   subject to   Σβ = 0,  lo ≤ β ≤ hi

is the dual of every support vector machine here. An example outside the problem (a held-out fold, another class,
padding) has lo = hi = 0 and is never chosen, so that one Gram matrix serves many problems.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

SMALLEST_CURVATURE = 1e-12  # of a pair of duplicated points, as in LIBSVM


class Problem(NamedTuple):
    """The vectors of the quadratic, each [n]; its matrix is passed beside it."""

    target: Float[Array, "n"]
    low: Float[Array, "n"]
    high: Float[Array, "n"]


def classification(sign: Array, C: Array) -> Problem:
    """The problem of classes −1 and +1, at a price or one for each example; a sign of 0 takes no part."""
    return Problem(sign, jnp.where(sign < 0, sign * C, 0), jnp.where(sign > 0, sign * C, 0))


def has_both(problem: Problem) -> Bool[Array, ""]:
    """Whether some β may be above 0 and some below: without both, nothing can move."""
    return jnp.any(problem.high > 0) & jnp.any(problem.low < 0)


class Iterate(NamedTuple):
    """Where the method stands.

    Attributes:
      beta: β, within its bounds, with a sum of zero.
      gradient: f = Kβ − p.
      first: the index of the smallest gradient among those that may grow.
      gap: the largest gradient among those that may shrink, less that one: 0 or less where β is optimal.
      steps: pairs changed so far.
    """

    beta: Float[Array, "n"]
    gradient: Float[Array, "n"]
    first: Int[Array, ""]
    gap: Float[Array, ""]
    steps: Int[Array, ""]


def may_grow(problem: Problem, beta: Array) -> Bool[Array, "n"]:
    """Which β are below their upper bound."""
    return beta < problem.high


def may_shrink(problem: Problem, beta: Array) -> Bool[Array, "n"]:
    """Which β are above their lower bound."""
    return beta > problem.low


def has_room(problem: Problem, beta: Array) -> tuple[Bool[Array, "n"], Bool[Array, "n"]]:
    """Which β are below their upper bound, and which above their lower one, by more than what rounding can leave."""
    largest = jnp.max(jnp.abs(beta), initial=0)  # and not the price, which may be far above all β

    def near(bound):
        size = jnp.where(jnp.isfinite(bound), jnp.maximum(jnp.abs(bound), largest), 0)
        return 16 * jnp.finfo(beta.dtype).eps * size

    return problem.high - beta > near(problem.high), beta - problem.low > near(problem.low)


def is_free(problem: Problem, beta: Array) -> Bool[Array, "n"]:
    """Which β are inside their bounds."""
    rises, falls = has_room(problem, beta)
    return rises & falls


def feasible(problem: Problem, beta: Array) -> Array:
    """β within its bounds, its sum 0: what is too much is taken from the free of that sign where they have it."""
    beta = jnp.clip(jnp.where(jnp.isfinite(beta), beta, 0), problem.low, problem.high)
    surplus = jnp.sum(beta)
    too_much = jnp.where(surplus > 0, beta > 0, beta < 0)
    free = too_much & is_free(problem, beta)
    held = jnp.abs(jnp.sum(beta, where=free))
    giving = jnp.where(held >= jnp.abs(surplus), free, too_much)
    total = jnp.abs(jnp.sum(beta, where=giving))
    share = jnp.abs(surplus) / jnp.where(total > 0, total, 1)
    return jnp.where(giving, beta * (1 - jnp.minimum(share, 1)), beta)


def value_of(problem: Problem, now: Iterate) -> Float[Array, ""]:
    """pᵀβ − ½ βᵀKβ, the dual objective."""
    return 0.5 * jnp.sum(now.beta * (problem.target - now.gradient))


def at(problem: Problem, beta: Array, gradient: Array, steps: Array) -> Iterate:
    """The iterate of a β and its gradient; the gap is −∞ where no pair may move."""
    grows = jnp.where(may_grow(problem, beta), gradient, jnp.inf)
    least = jnp.min(grows)
    largest = jnp.max(jnp.where(may_shrink(problem, beta), gradient, -jnp.inf))
    return Iterate(beta, gradient, _first_equal(grows, least), largest - least, steps)


def minimize(
    K: Float[Array, "n n"], problem: Problem, start: Iterate, *, tolerance: Array, max_steps: Array
) -> Iterate:
    """Change pairs until the gap is below the tolerance, or for as many steps as may be.

    The second of a pair is the one whose step lowers the objective most, of those that violate optimality with the
    first: (f_j − f_i)² / (2η), η = K_ii + K_jj − 2K_ij.
    """
    diagonal = jnp.diagonal(K)
    index = jnp.arange(diagonal.size, dtype=jnp.int32)

    def goes_on(now: Iterate):
        return (now.gap > tolerance) & (now.steps < max_steps)

    def step(now: Iterate) -> Iterate:
        beta, gradient, i = now.beta, now.gradient, now.first
        row_i, beta_i = K[i], now.beta[i]
        rise = gradient - gradient[i]
        curvature = jnp.maximum(diagonal[i] + diagonal - 2 * row_i, SMALLEST_CURVATURE)
        gain = jnp.where(may_shrink(problem, beta) & (rise > 0), rise * rise / curvature, -jnp.inf)
        j = _first_equal(gain, jnp.max(gain))
        room_i, room_j = problem.high[i] - beta_i, beta[j] - problem.low[j]
        moved = jnp.minimum(rise[j] / curvature[j], jnp.minimum(room_i, room_j))
        # At a bound to the bit: what is one rounding short of it would be chosen again and again.
        new_i = jnp.where(moved >= room_i, problem.high[i], beta_i + moved)
        new_j = jnp.where(moved >= room_j, problem.low[j], beta[j] - moved)
        # One pass over all, where two updates would first copy: a tenth faster for a few hundred examples.
        beta = jnp.where(index == i, new_i, jnp.where(index == j, new_j, beta))
        return at(problem, beta, gradient + moved * (row_i - K[j]), now.steps + 1)

    return jax.lax.while_loop(goes_on, step, start)


def _first_equal(x: Array, value: Array) -> Int[Array, ""]:
    """The first index of a value that is in x: two simple reductions, faster on a CPU than one over pairs."""
    return jnp.min(jnp.where(x == value, jnp.arange(x.size, dtype=jnp.int32), x.size - 1))
