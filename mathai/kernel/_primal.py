"""The linear machine where features are few: Newton's method for squared slack, an interior point for slack itself.

Both cost O(n d²) in each of a few dozen steps, and need no Gram matrix.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int, Num

from mathai.kernel._arrays import contract, per_example, promote
from mathai.kernel._checks import both_classes, check_classes, check_finite, check_prices, classes_like, nan_unless

LOSSES = ("hinge", "squared_hinge")
HALVINGS = 40  # of a Newton step at most
SUFFICIENT = 1e-4  # share of the promised descent that a step must bring
TO_THE_BOUNDARY = 0.995  # share of the way that an interior step may go


class PrimalSolution(NamedTuple):
    """A solution of the linear primal, with what proves it.

    Attributes:
      weight: w of the decision wᵀx + b.
      bias: b.
      objective: the primal objective at w and b.
      gap: the objective less that of a feasible point of the dual: how far it can be from the optimum.
      iterations: steps of the method.
      converged: whether the gap is at most tolerance · max(1, objective).
    """

    weight: Float[Array, "features"]
    bias: Float[Array, ""]
    objective: Float[Array, ""]
    gap: Float[Array, ""]
    iterations: Int[Array, ""]
    converged: Bool[Array, ""]


def solve_primal(
    X: Float[ArrayLike, "n features"],
    y: Num[ArrayLike, "n"],
    C: ArrayLike,
    *,
    loss: str = "hinge",
    tolerance: ArrayLike = 1e-4,
    max_iterations: ArrayLike = 200,
) -> PrimalSolution:
    """Solve the primal of a linear support vector machine, whose bias is not penalized.

        minimize ½‖w‖² + Σᵢ Cᵢ ℓ(ξᵢ),   ξᵢ = max(0, 1 − yᵢ (wᵀxᵢ + b)),   ℓ(ξ) = ξ or ξ²

    Squared slack by Newton's method with a line search; slack by a primal-dual interior point whose systems are
    d × d (Woodbury). It runs under `jit` and `vmap`; for derivatives of a solution use `solve_dual`.

    Args:
      X: one example in each row.
      y: its class, −1 or +1.
      C: the price of slack, ≥ 0 and finite: a scalar, or one per example; 0 takes an example out.
      loss: "hinge" (slack) or "squared_hinge".
      tolerance: the duality gap that counts as solved, relative to the objective where that is above 1.
      max_iterations: steps at most.

    Returns:
      The solution. Where y, C or X are not as above and only a running program can know, it is NaN and not converged.

    Raises:
      AssertionError: shapes do not match.
      ValueError: an unknown loss; outside jit: y holds anything but −1 and +1 or one class only, C is negative or
        infinite, 0 for all of a class, X holds NaN or infinities.

    Source:
      Mangasarian (2002), A Finite Newton Method for Classification; Ferris & Munson (2002), Interior-Point Methods
      for Massive Support Vector Machines, section 3.

    >>> solution = solve_primal(jnp.array([[2.0], [0.0]]), jnp.array([1, -1]), 10.0)
    >>> solution.weight.round(3), solution.bias.round(3)
    (Array([1.], dtype=float32), Array(-1., dtype=float32))
    """
    if loss not in LOSSES:
        raise ValueError(f"solve_primal: loss {loss!r} is unknown; use {' or '.join(LOSSES)}.")
    (X, C), dtype = promote(X, C)
    chex.assert_rank(X, 2)
    check_classes("solve_primal", y)
    check_prices("solve_primal", C, y, finite=True)
    check_finite("solve_primal: X", X)
    y = classes_like(y, X)
    C = per_example(C, y)
    is_valid = both_classes(y, C) & jnp.all(jnp.isfinite(X)) & jnp.all(jnp.isfinite(C))
    X, C = jnp.where(is_valid, X, 0), jnp.where(is_valid, C, 0)
    tolerance = jnp.asarray(tolerance, X.dtype)
    solve = _interior_point if loss == "hinge" else _newton
    weight, bias, objective, gap, iterations = solve(X, y, C, tolerance, jnp.asarray(max_iterations, jnp.int32))
    converged = gap <= tolerance * jnp.maximum(1, objective)
    solution = PrimalSolution(weight, bias, objective, gap, iterations, converged)
    return jax.tree.map(lambda x: nan_unless(is_valid, x, dtype), solution)


def _duality_gap(A: Array, y: Array, C: Array, w: Array, b: Array, alpha: Array, *, squared: bool):
    """The primal objective, and what it is above the dual one at α made feasible; A has the rows yᵢxᵢ."""
    slack = jnp.maximum(0, 1 - contract("nd,d->n", A, w) - y * b)
    primal = 0.5 * jnp.sum(w * w) + jnp.sum(C * (slack * slack if squared else slack))
    alpha = jnp.maximum(alpha, 0) if squared else jnp.clip(alpha, 0, C)
    positive, negative = jnp.sum(alpha, where=y > 0), jnp.sum(alpha, where=y < 0)
    least = jnp.minimum(positive, negative)
    share = jnp.where(y > 0, least / jnp.where(positive > 0, positive, 1), least / jnp.where(negative > 0, negative, 1))
    alpha = alpha * share
    dual_w = contract("nd,n->d", A, alpha)
    penalty = jnp.sum(jnp.where(C > 0, alpha * alpha / (4 * jnp.where(C > 0, C, 1)), 0)) if squared else 0.0
    return primal, primal - (jnp.sum(alpha) - 0.5 * jnp.sum(dual_w * dual_w) - penalty)


def _newton(X, y, C, tolerance, max_steps):
    """Newton's method on the squared slack: its derivative is piecewise linear, and a few pieces are passed."""
    A = X * y[:, None]
    size = X.shape[1]
    penalty = jnp.append(jnp.ones(size, X.dtype), 0)
    columns = jnp.concatenate([A, y[:, None]], axis=1)
    tiny = 10 * jnp.finfo(X.dtype).eps

    def objective(v):
        slack = jnp.maximum(0, 1 - contract("nd,d->n", columns, v))
        return 0.5 * jnp.sum(penalty * v * v) + jnp.sum(C * slack * slack)

    def certificate(v):
        slack = jnp.maximum(0, 1 - contract("nd,d->n", columns, v))
        return _duality_gap(A, y, C, v[:-1], v[-1], 2 * C * slack, squared=True)

    def goes_on(carry):
        _, value, gap, steps, moved = carry
        return (gap > tolerance * jnp.maximum(1, value)) & (steps < max_steps) & moved

    def step(carry):
        v, _, _, steps, _ = carry
        slack = jnp.maximum(0, 1 - contract("nd,d->n", columns, v))
        gradient = penalty * v - 2 * contract("nd,n->d", columns, C * slack)
        curvature = 2 * contract("nd,n,ne->de", columns, jnp.where(slack > 0, C, 0), columns) + jnp.diag(penalty)
        curvature += tiny * jnp.diag(jnp.maximum(jnp.diagonal(curvature), 1))
        direction = -jax.scipy.linalg.solve(curvature, gradient, assume_a="pos")
        slope, here = jnp.sum(direction * gradient), objective(v)

        def is_too_long(search):
            length, count = search
            return (objective(v + length * direction) > here + SUFFICIENT * length * slope) & (count < HALVINGS)

        length, count = jax.lax.while_loop(is_too_long, lambda s: (0.5 * s[0], s[1] + 1), (v.dtype.type(1), 0))
        v = jnp.where(count < HALVINGS, v + length * direction, v)
        return v, *certificate(v), steps + 1, count < HALVINGS

    v = jnp.zeros(size + 1, X.dtype)
    v, value, gap, steps, _ = jax.lax.while_loop(goes_on, step, (v, *certificate(v), jnp.int32(0), jnp.bool_(True)))
    return v[:-1], v[-1], value, gap, steps


class _Interior(NamedTuple):
    """A point inside: α in (0, C), the multipliers of its bounds above 0, and b."""

    alpha: Array
    at_zero: Array
    at_price: Array
    bias: Array


def _interior_point(X, y, C, tolerance, max_steps):
    """Mehrotra's predictor and corrector on the dual, whose matrix AAᵀ has the rank of the features."""
    A = X * y[:, None]
    takes_part = C > 0
    safe_C = jnp.where(takes_part, C, 1)

    def masked(x):
        return jnp.where(takes_part, x, 0)

    def certificate(p: _Interior):
        alpha = masked(p.alpha)
        return _duality_gap(A, y, C, contract("nd,n->d", A, alpha), p.bias, alpha, squared=False)

    def step(carry):
        p, _, _, steps, best = carry
        room = safe_C - p.alpha
        w = contract("nd,n->d", A, masked(p.alpha))
        dual_residual = masked(contract("nd,d->n", A, w) + y * p.bias - 1 - p.at_zero + p.at_price)
        primal_residual = jnp.sum(masked(y * p.alpha))
        inverse = masked(1 / (p.at_zero / p.alpha + p.at_price / room))
        inner = jnp.eye(X.shape[1], dtype=X.dtype) + contract("nd,n,ne->de", A, inverse, A)
        factor = jax.scipy.linalg.cho_factor(inner)

        def invert(v):
            along = contract("nd,n->d", A, inverse * v)
            return inverse * (v - contract("nd,d->n", A, jax.scipy.linalg.cho_solve(factor, along)))

        of_classes = invert(y)

        def direction(to_zero, to_price):
            right = -dual_residual + to_zero / p.alpha - to_price / room
            solved = invert(right)
            bias = (jnp.sum(y * solved) + primal_residual) / jnp.sum(y * of_classes)
            alpha = solved - bias * of_classes
            return _Interior(
                alpha, (to_zero - p.at_zero * alpha) / p.alpha, (to_price + p.at_price * alpha) / room, bias
            )

        def longest(d):
            """The share of a direction that keeps all above 0."""
            pairs = ((p.alpha, d.alpha), (room, -d.alpha), (p.at_zero, d.at_zero), (p.at_price, d.at_price))
            limits = [
                jnp.min(jnp.where(takes_part & (dx < 0), -x / jnp.where(dx < 0, dx, -1), jnp.inf)) for x, dx in pairs
            ]
            return jnp.minimum(1, TO_THE_BOUNDARY * jnp.min(jnp.stack(limits)))

        def complementarity(q):
            products = q.alpha * q.at_zero + (safe_C - q.alpha) * q.at_price
            return jnp.sum(masked(products)) / (2 * jnp.sum(takes_part))

        now = complementarity(p)
        ahead = direction(-p.alpha * p.at_zero, -room * p.at_price)
        length = longest(ahead)
        reached = complementarity(jax.tree.map(lambda x, dx: x + length * dx, p, ahead))
        target = now * (reached / now) ** 3
        corrected = direction(
            target - p.alpha * p.at_zero - ahead.alpha * ahead.at_zero,
            target - room * p.at_price + ahead.alpha * ahead.at_price,
        )
        length = longest(corrected)
        q = jax.tree.map(lambda x, dx: x + length * dx, p, corrected)
        q = q._replace(
            alpha=jnp.where(takes_part, q.alpha, 0.5),
            at_zero=jnp.where(takes_part, q.at_zero, 1),
            at_price=jnp.where(takes_part, q.at_price, 1),
        )
        value, gap = certificate(q)
        # Rounding ends the descent some time; what was best then is the answer.
        best = jax.tree.map(lambda old, new: jnp.where(gap < best[2], new, old), best, (q, value, gap))
        return q, value, gap, steps + 1, best

    def goes_on(carry):
        _, _, gap, steps, best = carry
        is_solved = best[2] <= tolerance * jnp.maximum(1, best[1])
        return ~is_solved & (steps < max_steps) & jnp.isfinite(gap)

    ones = jnp.ones_like(y)
    begin = _Interior(0.5 * safe_C, ones, ones, jnp.zeros((), X.dtype))
    value, gap = certificate(begin)
    carry = (begin, value, gap, jnp.int32(0), (begin, value, gap))
    *_, steps, (p, value, gap) = jax.lax.while_loop(goes_on, step, carry)
    return contract("nd,n->d", A, masked(p.alpha)), p.bias, value, gap, steps
