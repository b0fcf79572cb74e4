"""Support vector regression: errors below a threshold cost nothing."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from mathai.kernel import _optimum
from mathai.kernel._arrays import check_at_least, contract, per_example, promote
from mathai.kernel._checks import check_finite, check_gram, check_prices, is_gram, nan_unless
from mathai.kernel._smo import Problem


class RegressionSolution(NamedTuple):
    """A solution of the dual of support vector regression, with what proves it.

    Attributes:
      beta: β of the prediction Σᵢ βᵢk(xᵢ, x) + b, each in [−C, C]; those that are not 0 are the support vectors.
      bias: b.
      objective: the dual objective at β.
      gap: the largest violation of the optimality conditions by a pair, in units of the targets.
      iterations: pairs changed.
      converged: whether the gap is at most the tolerance.
      duality_gap: the primal objective less the dual one, both from β and b.
    """

    beta: Float[Array, "n"]
    bias: Float[Array, ""]
    objective: Float[Array, ""]
    gap: Float[Array, ""]
    iterations: Int[Array, ""]
    converged: Bool[Array, ""]
    duality_gap: Float[Array, ""]


def solve_regression(
    K: Float[ArrayLike, "n n"],
    targets: Float[ArrayLike, "n"],
    C: ArrayLike,
    *,
    epsilon: ArrayLike = 0.1,
    tolerance: ArrayLike = 1e-3,
    max_iterations: ArrayLike = 10_000_000,
) -> RegressionSolution:
    """Solve the dual of support vector regression.

        maximize tᵀβ − ε Σᵢ|βᵢ| − ½ βᵀKβ   subject to   |βᵢ| ≤ Cᵢ,  Σᵢ βᵢ = 0

    whose primal is ½‖w‖² + Σᵢ Cᵢ max(0, |tᵢ − d(xᵢ)| − ε). It runs under `jit` and `vmap`, with gradients in K, C, ε
    and the targets as in `solve_dual`.

    Args:
      K: the Gram matrix of the examples, symmetric and positive semidefinite.
      targets: t.
      C: the price of an error beyond ε, ≥ 0: a scalar, or one per example; 0 takes an example out.
      epsilon: ε ≥ 0, the error that costs nothing, in units of the targets.
      tolerance: the largest gap that counts as solved, in units of the targets.
      max_iterations: pairs to change at most.

    Returns:
      The solution. Where C or K are not as above and only a running program can know, it is NaN and not converged.

    Raises:
      AssertionError: shapes do not match.
      ValueError: outside jit: C or ε is negative, C is 0 for all examples, K or the targets hold NaN or infinities, a
        negative k(x, x).

    Source:
      Smola & Schölkopf (2004), A Tutorial on Support Vector Regression, eq. 10.

    >>> solution = solve_regression(jnp.array([[0.0, 0.0], [0.0, 1.0]]), jnp.array([0.0, 1.0]), 10.0, epsilon=0.25)
    >>> solution.beta.round(3), solution.bias.round(3)
    (Array([-0.5,  0.5], dtype=float32), Array(0.25, dtype=float32))
    """
    (K, targets, C, epsilon), dtype = promote(K, targets, C, epsilon)
    chex.assert_rank(targets, 1)
    chex.assert_shape(K, (targets.size, targets.size))
    check_prices("solve_regression", C)
    if not isinstance(C, jax.core.Tracer) and targets.size and not np.any(np.asarray(C) > 0):
        raise ValueError("solve_regression: C is 0 for all examples; one needs a price.")
    check_at_least("solve_regression: epsilon", epsilon, 0)
    check_at_least("solve_regression: tolerance", tolerance, 0)
    check_finite("solve_regression: targets", targets)
    check_gram("solve_regression", K)
    C = per_example(C, targets)
    is_valid = is_gram(K) & jnp.all(C >= 0) & jnp.any(C > 0) & jnp.all(jnp.isfinite(targets)) & (epsilon >= 0)
    C = jnp.where(is_valid, C, 0)
    nothing = jnp.zeros_like(C)
    # β = β⁺ + β⁻, of which one is above 0 or the other below: their targets are t ∓ ε.
    problem = Problem(
        jnp.where(is_valid, jnp.concatenate([targets - epsilon, targets + epsilon]), 0),
        jnp.concatenate([nothing, -C]),
        jnp.concatenate([C, nothing]),
    )
    twice = jnp.tile(jnp.where(is_valid, K, 0), (2, 2))
    tolerance, max_steps = jnp.maximum(jnp.asarray(tolerance, K.dtype), 0), jnp.asarray(max_iterations, jnp.int32)
    best = _optimum.optimum(twice, problem, jnp.zeros_like(problem.target), tolerance, max_steps)
    bias = _optimum.bias_of(problem, best)
    positive, negative = jnp.split(best.beta, 2)
    beta = positive + negative
    values = contract("nm,m->n", K, beta)
    excess = jnp.maximum(0, jnp.abs(targets - values - bias) - epsilon)
    primal = 0.5 * jnp.sum(beta * values) + jnp.sum(jnp.where(excess > 0, C * excess, 0))
    solution = RegressionSolution(
        beta, bias, best.value, best.gap, best.steps, best.gap <= tolerance, primal - best.value
    )
    return jax.tree.map(lambda x: nan_unless(is_valid, x, dtype), solution)
