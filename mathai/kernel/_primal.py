"""The linear machine where features are few: Newton's method, for slack itself on ever sharper corners.

It costs O(n d²) in each of a few dozen steps, and needs no Gram matrix.
"""

from typing import Any, NamedTuple

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
FIRST_WIDTH = 2.0  # of the smoothed corner: all slack is within it where w = 0
SHARPER = 0.25  # width of a smoothed corner, in that of the one before
WIDTHS_DOWN_TO = 64  # roundings of 1: a corner narrower than that is not seen


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

    By Newton's method with a line search, whose systems are (d + 1) × (d + 1). The corner of slack itself is rounded,

        ℓ_μ(ξ) = ξ²/2μ   for ξ < μ,   ξ − μ/2   beyond,

    with μ that falls until the duality gap of the sharp problem is small enough. It runs under `jit` and `vmap`; for
    derivatives of a solution use `solve_dual`. Features of order 1 serve it best: with large ones and a high price, the
    sum that proves the gap, Σ αᵢyᵢxᵢ, may lose more digits than float32 has; a good solution is then not called
    converged.

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
      Mangasarian (2002), A Finite Newton Method for Classification; Lee & Mangasarian (2001), SSVM: A Smooth Support
      Vector Machine, for smoothing; Chapelle (2007), Training a Support Vector Machine in the Primal, section 4.

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
    # The bias takes up what is common to all examples, and with it the digits that it would cost.
    weights = jnp.where(C > 0, 1, 0).astype(X.dtype)
    centre = contract("nd,n->d", X, weights) / jnp.maximum(jnp.sum(weights), 1)
    steps = jnp.asarray(max_iterations, jnp.int32)
    weight, bias, objective, gap, iterations = _newton(
        X - centre[None], y, C, tolerance, steps, squared=loss == "squared_hinge"
    )
    bias = bias - jnp.sum(weight * centre)
    converged = gap <= tolerance * jnp.maximum(1, objective)
    solution = PrimalSolution(weight, bias, objective, gap, iterations, converged)
    return jax.tree.map(lambda x: nan_unless(is_valid, x, dtype), solution)


class _Search(NamedTuple):
    """Where the method stands: the point, the width of the corner, and the best of both sides so far."""

    v: Array
    width: Array
    best: Array
    primal: Array
    dual: Array
    steps: Any
    is_sharp: Any


def _newton(X: Array, y: Array, C: Array, tolerance: Array, max_steps: Array, *, squared: bool):
    """Newton's method: derivatives are piecewise linear, and a few pieces are passed at every width of the corner."""
    size = X.shape[1]
    columns = jnp.concatenate([X, jnp.ones_like(y)[:, None]], axis=1) * y[:, None]
    penalty = jnp.append(jnp.ones(size, X.dtype), 0)
    epsilon = jnp.finfo(X.dtype).eps

    def slack_at(v):
        return jnp.maximum(0, 1 - contract("nd,d->n", columns, v))

    def loss_of(slack, width):
        if squared:
            return slack * slack
        return jnp.where(slack < width, 0.5 * slack * slack / width, slack - 0.5 * width)

    def slope_of(slack, width):
        return 2 * slack if squared else jnp.minimum(slack / width, 1)

    def curvature_of(slack, width):
        return jnp.where(slack > 0, 2.0, 0.0) if squared else jnp.where((slack > 0) & (slack < width), 1 / width, 0)

    def smooth(v, width):
        return 0.5 * jnp.sum(penalty * v * v) + jnp.sum(C * loss_of(slack_at(v), width))

    def bounds(v, width):
        """The sharp objective at v, and the dual one at the α that v suggests."""
        slack = slack_at(v)
        primal = 0.5 * jnp.sum(penalty * v * v) + jnp.sum(C * (slack * slack if squared else slack))
        return primal, _dual_bound(columns[:, :-1], y, C, C * slope_of(slack, width), squared=squared)

    def goes_on(now: _Search):
        is_solved = now.primal - now.dual <= tolerance * jnp.maximum(1, now.primal)
        return ~is_solved & (now.steps < max_steps) & ~now.is_sharp

    def step(now: _Search) -> _Search:
        v, width = now.v, now.width
        slack = slack_at(v)
        gradient = penalty * v - contract("nd,n->d", columns, C * slope_of(slack, width))
        second = contract("nd,n,ne->de", columns, C * curvature_of(slack, width), columns) + jnp.diag(penalty)
        second += 10 * epsilon * jnp.diag(jnp.maximum(jnp.diagonal(second), 1))
        direction = -jax.scipy.linalg.solve(second, gradient, assume_a="pos")
        direction = jnp.where(jnp.all(jnp.isfinite(direction)), direction, -gradient)
        descent = jnp.sum(direction * gradient)
        allowed = smooth(v, width) * (1 + 2 * epsilon)

        def is_too_long(search):
            length, count = search
            return (smooth(v + length * direction, width) > allowed + SUFFICIENT * length * descent) & (
                count < HALVINGS
            )

        length, count = jax.lax.while_loop(is_too_long, lambda s: (0.5 * s[0], s[1] + 1), (v.dtype.type(1), 0))
        moved = count < HALVINGS
        v = jnp.where(moved, v + length * direction, v)
        primal, dual = bounds(v, width)
        best = jnp.where(primal < now.primal, v, now.best)
        primal, dual = jnp.minimum(primal, now.primal), jnp.maximum(dual, now.dual)
        # At the bottom of this corner, as far as it matters: to a sharper one.
        is_done = ~moved | (-descent <= jnp.maximum(1e-3 * tolerance, epsilon) * jnp.maximum(1, primal))
        if squared:
            return _Search(v, width, best, primal, dual, now.steps + 1, ~moved)
        is_last = width <= WIDTHS_DOWN_TO * epsilon
        return _Search(
            v, jnp.where(is_done, SHARPER * width, width), best, primal, dual, now.steps + 1, is_done & is_last
        )

    v, width = jnp.zeros(size + 1, X.dtype), jnp.full((), FIRST_WIDTH, X.dtype)
    primal, dual = bounds(v, width)
    begin = _Search(v, width, v, primal, jnp.maximum(dual, 0), jnp.int32(0), jnp.bool_(False))
    end = jax.lax.while_loop(goes_on, step, begin)
    return end.best[:-1], end.best[-1], end.primal, end.primal - end.dual, end.steps


def _dual_bound(A: Array, y: Array, C: Array, alpha: Array, *, squared: bool) -> Array:
    """The dual objective at α made feasible, a lower bound of the primal one; A has the rows yᵢxᵢ.

    α is also stretched to the best multiple that is feasible.
    """
    alpha = jnp.maximum(alpha, 0) if squared else jnp.clip(alpha, 0, C)
    positive, negative = jnp.sum(alpha, where=y > 0), jnp.sum(alpha, where=y < 0)
    least = jnp.minimum(positive, negative)
    share = jnp.where(y > 0, least / jnp.where(positive > 0, positive, 1), least / jnp.where(negative > 0, negative, 1))
    alpha = alpha * share
    dual_w = contract("nd,n->d", A, alpha)
    quadratic = jnp.sum(dual_w * dual_w)
    if squared:
        quadratic += jnp.sum(jnp.where(C > 0, alpha * alpha / (2 * jnp.where(C > 0, C, 1)), 0))
    total = jnp.sum(alpha)
    # t Σα − ½t² q is largest at t = Σα / q; of slack itself t is at most what keeps α below the prices.
    stretch = total / jnp.where(quadratic > 0, quadratic, 1)
    if not squared:
        room = jnp.min(jnp.where(alpha > 0, C / jnp.where(alpha > 0, alpha, 1), jnp.inf))
        stretch = jnp.minimum(stretch, jnp.where(jnp.isfinite(room), room, 1))
    stretch = jnp.where(quadratic > 0, stretch, 1)
    return stretch * total - 0.5 * stretch * stretch * quadratic
