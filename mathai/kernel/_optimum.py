"""The optimum of the boxed quadratic with its certificate, and derivatives of it by the implicit function theorem."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mathai.kernel import _blocks, _smo
from mathai.kernel._arrays import contract
from mathai.kernel._smo import Iterate, Problem

BLOCKS_FROM = 3000  # examples; below, pairs among all of them are faster than blocks
BLOCK = 256
SPELL_PER_EXAMPLE, LEAST_SPELL = 20, 2000  # pairs changed before the gradient is computed anew
PATIENCE = 5  # spells without any gain after which the precision is at its end


class Optimum(NamedTuple):
    """A solution of the boxed quadratic.

    Attributes:
      beta: β.
      value: pᵀβ − ½ βᵀKβ, the dual objective.
      gradient: f = Kβ − p, from β as it is returned.
      gap: of the optimality conditions.
      steps: pairs changed.
    """

    beta: Float[Array, "n"]
    value: Float[Array, ""]
    gradient: Float[Array, "n"]
    gap: Float[Array, ""]
    steps: Int[Array, ""]


@jax.custom_vjp
def optimum(
    K: Float[Array, "n n"], problem: Problem, beta: Float[Array, "n"], tolerance: Array, max_steps: Array
) -> Optimum:
    """Return the optimum, from a feasible β; differentiable in K and in the problem's vectors."""
    return optimum_from(K, problem, beta, contract("nm,m->n", K, beta) - problem.target, tolerance, max_steps)


def optimum_from(
    K: Array, problem: Problem, beta: Array, gradient: Array, tolerance: Array, max_steps: Array
) -> Optimum:
    """Return the optimum, from a feasible β whose gradient is known, without a derivative."""
    if problem.target.size < BLOCKS_FROM:
        improve = functools.partial(_smo.minimize, K)
    else:
        improve = functools.partial(_blocks.minimize, lambda indices: K[indices], block=BLOCK)

    def exact(beta, steps):
        return _smo.at(problem, beta, contract("nm,m->n", K, beta) - problem.target, steps)

    begin = _smo.at(problem, beta, gradient, jnp.int32(0))
    return _repaired(improve, exact, problem, begin, tolerance, max_steps)


def optimum_on_demand(rows: _blocks.Rows, problem: Problem, tolerance: Array, max_steps: Array) -> Optimum:
    """Return the optimum where the matrix is never held: its rows are computed block by block.

    The gradient that proves it is summed anew over the support vectors. It has no derivative.
    """
    n = problem.target.size
    block = max(_blocks.SMALLEST, min(BLOCK, 2 * (n // 2)))

    def exact(beta, steps):
        order = jnp.argsort(beta == 0, stable=True).astype(jnp.int32)  # support vectors first
        count = jnp.sum(beta != 0)

        def add_block(carry):
            gradient, begin = carry
            place = begin + jnp.arange(block)
            indices = order[jnp.minimum(place, n - 1)]
            part = jnp.where(place < count, beta[indices], 0)
            return gradient + contract("m,mn->n", part, rows(indices)), begin + block

        begin = (-problem.target, jnp.int32(0))
        gradient, _ = jax.lax.while_loop(lambda carry: carry[1] < count, add_block, begin)
        return _smo.at(problem, beta, gradient, steps)

    improve = functools.partial(_blocks.minimize, rows, block=block)
    begin = _smo.at(problem, jnp.zeros_like(problem.target), -problem.target, jnp.int32(0))
    return _repaired(improve, exact, problem, begin, tolerance, max_steps)


def _repaired(improve, exact, problem: Problem, begin: Iterate, tolerance: Array, max_steps: Array) -> Optimum:
    """Improve β until the gap of its exact gradient is below the tolerance, or rounding lets nothing more come of it.

    Steps keep the gradient up to date, and their rounding adds up: now and then it is computed anew. Where a few such
    spells lower neither the gap nor the objective, the tolerance is beyond the precision, and the best is returned.
    """
    spell = max(LEAST_SPELL, SPELL_PER_EXAMPLE * begin.beta.size)
    rounding = 4 * jnp.finfo(begin.beta.dtype).eps

    def goes_on(carry):
        now, best, _, idle = carry
        return (best.gap > tolerance) & (now.steps < max_steps) & (idle < PATIENCE)

    def repair(carry):
        now, best, highest, idle = carry
        # A little below, so that what rounding adds to the gap of the exact gradient does not call for a repair.
        last = now.steps + jnp.minimum(max_steps - now.steps, spell)
        end = improve(problem, now, tolerance=0.9 * tolerance, max_steps=last)
        now = exact(end.beta, end.steps)
        value = _smo.value_of(problem, now)
        margin = rounding * jnp.abs(highest)
        is_higher, is_alike = value > highest + margin, value >= highest - margin
        gains = (now.gap < 0.99 * best.gap) | is_higher
        # The objective only rises, but for rounding; the gap does not only fall. NaN is passed on.
        is_better = is_higher | (is_alike & (now.gap < best.gap)) | (now.gap <= tolerance) | jnp.isnan(now.gap)
        best = jax.tree.map(lambda old, new: jnp.where(is_better, new, old), best, now)
        return now, best, jnp.maximum(highest, value), jnp.where(gains, 0, idle + 1)

    now, best, _, _ = jax.lax.while_loop(goes_on, repair, (begin, begin, _smo.value_of(problem, begin), jnp.int32(0)))
    return Optimum(best.beta, _smo.value_of(problem, best), best.gradient, best.gap, now.steps)


def bias_of(problem: Problem, now: Iterate | Optimum) -> Float[Array, ""]:
    """b: minus the gradient of the free β, which have it in common; where none is free, the middle of its bounds."""
    rises, falls = _smo.has_room(problem, now.beta)  # one rounding short of a bound is at it
    free = rises & falls
    count = jnp.sum(free)
    mean = jnp.sum(jnp.where(free, now.gradient, 0)) / jnp.maximum(count, 1)
    least = jnp.min(jnp.where(rises, now.gradient, jnp.inf))
    largest = jnp.max(jnp.where(falls, now.gradient, -jnp.inf))
    return -jnp.where(count > 0, mean, 0.5 * (least + largest))


def _forward(K, problem, beta, tolerance, max_steps):
    result = optimum(K, problem, beta, tolerance, max_steps)
    # Behind a barrier: arguments that are residuals as they stand are mixed up by second derivatives of a scan (seen
    # with jax 0.10.2), of which some then are wrong without a word.
    return result, jax.lax.optimization_barrier((K, problem, result))


def _backward(residuals, cotangent: Optimum):
    """Both outputs of use have one: the value by the envelope theorem, for free, and β by a linear system.

    With F the free β, all others staying at their bounds, and b the multiplier of the sum,

        ⎡K_FF 1⎤ ⎡dβ_F⎤   ⎡dp_F − (dK β)_F − K_FB dβ_B⎤
        ⎣1ᵀ   0⎦ ⎣db  ⎦ = ⎣          −1ᵀ dβ_B         ⎦

    so that the cotangent of β needs one solution (u, ν) with the same symmetric matrix.
    """
    K, problem, result = residuals
    beta = result.beta
    free = _smo.is_free(problem, beta)
    of_beta, of_gradient = cotangent.beta, cotangent.gradient
    # f = Kβ − p: what comes to it goes on to K, p and β.
    of_beta = of_beta + contract("nm,n->m", K, of_gradient)
    u, multiplier = jax.lax.cond(
        jnp.any(of_beta != 0),
        lambda: _solve(K, free, jnp.where(free, of_beta, 0)),
        lambda: (jnp.zeros_like(beta), jnp.zeros((), beta.dtype)),
    )
    of_value = cotangent.value
    of_K = -u[:, None] * beta[None] + (of_gradient[:, None] - 0.5 * of_value * beta[:, None]) * beta[None]
    of_target = u - of_gradient + of_value * beta
    pull = -(result.gradient + bias_of(problem, result))  # ∂ value / ∂ bound, for β at a bound
    of_bound = jnp.where(free, 0, of_beta - contract("nm,n->m", K, u) - multiplier + of_value * pull)
    room_above, room_below = problem.high - beta, beta - problem.low
    # Where both bounds are one, the derivative is of the one that gives way.
    at_high = (room_above < room_below) | ((room_above == room_below) & (pull > 0))
    problem_cotangent = Problem(of_target, jnp.where(at_high, 0, of_bound), jnp.where(at_high, of_bound, 0))
    return of_K, problem_cotangent, jnp.zeros_like(beta), None, None


def _solve(K: Array, free: Bool[Array, "n"], right: Array) -> tuple[Array, Array]:
    """The solution (u, ν) of the system of the free β; u is 0 elsewhere."""
    n = free.size
    scale = jnp.max(jnp.where(free, jnp.diagonal(K), 0))
    ridge = 10 * jnp.finfo(K.dtype).eps * jnp.where(scale > 0, scale, 1)  # duplicated points are no reason to fail
    both = free[:, None] & free[None, :]
    matrix = jnp.where(both, K, 0) + jnp.diag(jnp.where(free, ridge, 1))
    border = free.astype(K.dtype)
    # With no β free the last row would be empty: ν is then 0.
    corner = jnp.where(jnp.any(free), 0, 1).astype(K.dtype)
    system = jnp.block([[matrix, border[:, None]], [border[None, :], corner[None, None]]])
    solution = jnp.linalg.solve(system, jnp.append(right, 0))
    return jnp.where(free, solution[:n], 0), solution[n]


optimum.defvjp(_forward, _backward)
