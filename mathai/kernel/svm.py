"""Support vector machines for two classes: the primal and the dual, the dual's solution, and what it decides."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int, Num

from mathai.kernel import _optimum
from mathai.kernel._arrays import check_at_least, contract, per_example, promote
from mathai.kernel._checks import (
    both_classes,
    check_classes,
    check_gram,
    check_prices,
    classes_like,
    is_gram,
    nan_unless,
    price_of,
    slack_of,
)
from mathai.kernel._cross_validation import cross_validate
from mathai.kernel._model import SVMModel, decisions, fit, predict
from mathai.kernel._platt import PlattScaling, platt_probability, platt_scaling
from mathai.kernel._primal import PrimalSolution, solve_primal
from mathai.kernel._regression import RegressionSolution, solve_regression
from mathai.kernel._smo import classification, feasible

__all__ = [
    "DualSolution",
    "PlattScaling",
    "PrimalSolution",
    "RegressionSolution",
    "SVMModel",
    "cross_validate",
    "decision_function",
    "decisions",
    "dual_objective",
    "fit",
    "platt_probability",
    "platt_scaling",
    "predict",
    "primal_objective",
    "solve_dual",
    "solve_primal",
    "solve_regression",
]


class DualSolution(NamedTuple):
    """A solution of the dual, with what proves it.

    Attributes:
      alpha: α, one number in [0, C] per example; those above 0 are the support vectors.
      bias: b of the decision Σᵢ αᵢyᵢk(xᵢ, x) + b.
      objective: the dual objective at α.
      gap: the largest violation of the optimality conditions by a pair of examples, in units of the margin; computed
        anew from α at the end. 0 or less is optimal.
      iterations: pairs of α changed.
      converged: whether the gap is at most the tolerance.
      duality_gap: the primal objective less the dual one, both from α and b: how far each can be from the optimum.
    """

    alpha: Float[Array, "n"]
    bias: Float[Array, ""]
    objective: Float[Array, ""]
    gap: Float[Array, ""]
    iterations: Int[Array, ""]
    converged: Bool[Array, ""]
    duality_gap: Float[Array, ""]


def primal_objective(
    w: Float[ArrayLike, "features"],
    b: Float[ArrayLike, ""],
    X: Float[ArrayLike, "n features"],
    y: Num[ArrayLike, "n"],
    C: ArrayLike,
) -> Float[Array, ""]:
    """The primal objective of the linear machine: a wide margin, and the price of what falls short of it.

        P(w, b) = ½‖w‖² + C Σᵢ ξᵢ,      ξᵢ = max(0, 1 − yᵢ (wᵀxᵢ + b))

    Args:
      w: the weights.
      b: the bias.
      X: one example in each row.
      y: its class, −1 or +1.
      C: the price of slack, ≥ 0: a scalar, or one per example.

    Returns:
      P, a scalar. The gradient at a kink (margin exactly 1) is that of zero slack.

    Raises:
      AssertionError: shapes do not match.

    Source:
      Cortes & Vapnik (1995), Support-Vector Networks, eq. 20 with F(u) = u.

    >>> primal_objective(jnp.array([1.0]), 0.0, jnp.array([[2.0], [-0.5]]), jnp.array([1, -1]), 10.0)
    Array(5.5, dtype=float32)
    """
    (w, b, X, C), dtype = promote(w, b, X, C)
    chex.assert_rank([w, b, X], [1, 0, 2])
    chex.assert_equal_shape_suffix([w, X], 1)
    y = classes_like(y, X)
    slack = slack_of(y * (contract("nd,d->n", X, w) + b))
    return (0.5 * jnp.sum(w * w) + price_of(slack, per_example(C, y))).astype(dtype)


def dual_objective(
    alpha: Float[ArrayLike, "n"], K: Float[ArrayLike, "n n"], y: Num[ArrayLike, "n"]
) -> Float[Array, ""]:
    """The dual objective.

        D(α) = Σᵢ αᵢ − ½ Σᵢⱼ αᵢαⱼyᵢyⱼKᵢⱼ

    Args:
      alpha: α, one number per example.
      K: the Gram matrix of the examples.
      y: their classes, −1 or +1.

    Returns:
      D, a scalar: for every feasible α a lower bound of the primal objective.

    Raises:
      AssertionError: shapes do not match.

    Source:
      Cortes & Vapnik (1995), Support-Vector Networks, eq. 26.

    >>> dual_objective(jnp.array([0.5, 0.5]), jnp.array([[1.0, -1.0], [-1.0, 1.0]]), jnp.array([1, -1]))
    Array(0.5, dtype=float32)
    """
    (alpha, K), dtype = promote(alpha, K)
    chex.assert_shape(K, (alpha.size, alpha.size))
    beta = alpha * classes_like(y, K)
    return (jnp.sum(alpha) - 0.5 * jnp.dot(beta, contract("nm,m->n", K, beta))).astype(dtype)


def solve_dual(
    K: Float[ArrayLike, "n n"],
    y: Num[ArrayLike, "n"],
    C: ArrayLike,
    *,
    tolerance: ArrayLike = 1e-3,
    max_iterations: ArrayLike = 10_000_000,
    warm_start: Float[ArrayLike, "n"] | None = None,
) -> DualSolution:
    """Solve the dual of a support vector machine.

        maximize D(α)   subject to   0 ≤ αᵢ ≤ Cᵢ,  Σᵢ αᵢyᵢ = 0

    by sequential minimal optimization with working sets of second order; from 3000 examples on in blocks. It runs
    under `jit` and `vmap`. Gradients in K and C are those of the solution (implicit differentiation of the optimality
    conditions, where no α is about to reach or leave a bound); that of `objective` needs no further solution.

    Args:
      K: the Gram matrix of the examples, symmetric and positive semidefinite.
      y: their classes, −1 or +1.
      C: the price of slack, ≥ 0: a scalar, or one per example (the product of class and example weights, say). 0
        takes an example out.
      tolerance: the largest gap that counts as solved, in units of the margin.
      max_iterations: pairs of α to change at most.
      warm_start: α to begin from, made feasible first; None begins from 0.

    Returns:
      The solution. Where y, C or K are not as above and only a running program can know, it is NaN and not converged.

    Raises:
      AssertionError: shapes do not match.
      ValueError: outside jit: y holds anything but −1 and +1 or one class only, C is negative, or 0 for all of a class,
        K holds NaN or infinities or a negative k(x, x).

    Source:
      Fan, Chen & Lin (2005), Working Set Selection Using Second Order Information for Training Support Vector
      Machines, algorithm 2; Joachims (1999), Making Large-Scale SVM Learning Practical, for blocks.

    >>> solution = solve_dual(jnp.array([[1.0, -1.0], [-1.0, 1.0]]), jnp.array([1, -1]), 10.0)
    >>> solution.alpha, bool(solution.converged)
    (Array([0.5, 0.5], dtype=float32), True)
    """
    (K, C), dtype = promote(K, C)
    chex.assert_rank(K, 2)
    chex.assert_equal(K.shape[0], K.shape[1])
    check_at_least("solve_dual: tolerance", tolerance, 0)
    check_classes("solve_dual", y)
    check_prices("solve_dual", C, y)
    check_gram("solve_dual", K)
    y = classes_like(y, K)
    C = per_example(C, y)
    is_valid = both_classes(y, C) & is_gram(K)
    problem = classification(y, jnp.where(is_valid, C, 0))
    start = jnp.zeros_like(y)
    if warm_start is not None:
        warm_start = jnp.asarray(warm_start, K.dtype)
        chex.assert_equal_shape([warm_start, y])
        start = feasible(problem, warm_start * y)
    safe_K = jnp.where(is_valid, K, 0)
    tolerance, max_steps = jnp.maximum(jnp.asarray(tolerance, K.dtype), 0), jnp.asarray(max_iterations, jnp.int32)
    best = _optimum.optimum(safe_K, problem, start, tolerance, max_steps)
    bias = _optimum.bias_of(problem, best)
    slack = slack_of(y * (best.gradient + problem.target + bias))
    norm = jnp.sum(best.beta * (best.gradient + problem.target))
    primal = 0.5 * norm + price_of(slack, C)
    solution = DualSolution(
        jnp.where(best.beta == 0, 0, best.beta * y),
        bias,
        best.value,
        best.gap,
        best.steps,
        best.gap <= tolerance,
        primal - best.value,
    )
    return jax.tree.map(lambda x: nan_unless(is_valid, x, dtype), solution)


def decision_function(
    K_test_train: Float[ArrayLike, "m n"], y: Num[ArrayLike, "n"], solution: DualSolution
) -> Float[Array, "m"]:
    """What a solution decides of new examples: positive for class +1; ±1 on the margins.

        d(x) = Σᵢ αᵢyᵢk(xᵢ, x) + b

    Args:
      K_test_train: the kernel of each new example (rows) with each training example (columns).
      y: classes of the training examples, −1 or +1.
      solution: of `solve_dual`.

    Returns:
      d, one number per new example.

    Raises:
      AssertionError: shapes do not match.

    Source:
      Cortes & Vapnik (1995), Support-Vector Networks, eq. 34.

    >>> K, y = jnp.array([[1.0, -1.0], [-1.0, 1.0]]), jnp.array([1, -1])
    >>> decision_function(K, y, solve_dual(K, y, 10.0))
    Array([ 1., -1.], dtype=float32)
    """
    (K, alpha, bias), dtype = promote(K_test_train, solution.alpha, solution.bias)
    chex.assert_equal_shape_suffix([K, alpha], 1)
    return (contract("mn,n->m", K, alpha * classes_like(y, alpha)) + bias).astype(dtype)
