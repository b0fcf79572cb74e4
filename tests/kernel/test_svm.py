"""The dual of support vector machines against libsvm, cases by hand, its own certificate and central differences."""

import functools
import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from jax.tree_util import Partial
from sklearn import datasets, preprocessing
from sklearn.svm import SVC

from mathai.kernel import _blocks, _optimum, svm
from mathai.kernel.kernels import gram, rbf

NUM_EXAMPLES = 150
SETTINGS = ((None, 1.0), (0.5, 1.0), (0.05, 0.1))  # γ, None for the linear kernel, and C
PRECISIONS = (("float32", 1e-3), ("float64", 1e-3), ("float64", 1e-9))
NAN, INF = np.nan, np.inf

solve = jax.jit(svm.solve_dual)


class Task(NamedTuple):
    """A problem and its optimum to the last digits."""

    name: str
    X: np.ndarray
    K: np.ndarray
    y: np.ndarray
    C: float
    alpha: np.ndarray
    bias: float

    @property
    def objective(self):
        return dual(self.alpha, self.K, self.y)

    @property
    def decision(self):
        return self.K @ (self.alpha * self.y) + self.bias


def examples(name):
    """150 examples of two classes."""
    X, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    if name == "digits":
        X, y = X[(y == 3) | (y == 8)] / 16, y[(y == 3) | (y == 8)]
    elif name != "iris":
        X = preprocessing.scale(X)
    chosen = np.random.default_rng(0).permutation(len(X))[:NUM_EXAMPLES]
    return X[chosen], np.where(y[chosen] == (3 if name == "digits" else 1), 1, -1)


def matrix(X, gamma):
    return X @ X.T if gamma is None else np.exp(-gamma * ((X[:, None] - X[None]) ** 2).sum(-1))


def dual(alpha, K, y):
    """Σ α − ½ βᵀKβ in float64."""
    beta = np.asarray(alpha, np.float64) * y
    return (beta * y).sum() - 0.5 * beta @ np.asarray(K, np.float64) @ beta


def libsvm(K, y, C, tolerance=1e-10, weights=None):
    """Its α, bias and number of iterations."""
    machine = SVC(kernel="precomputed", C=C, tol=tolerance).fit(K, y, weights)
    alpha = np.zeros(len(y))
    alpha[machine.support_] = np.abs(machine.dual_coef_[0])
    return alpha, machine.intercept_[0], machine.n_iter_[0]


def exact_solution(K, y, C):
    """Where libsvm stops, corrected by one step of Newton on the free β and the bias; its optimality is checked."""
    alpha, bias, _ = libsvm(K, y, C)
    beta = alpha * y
    free = np.flatnonzero((alpha > 1e-7 * C) & (alpha < (1 - 1e-7) * C))
    system = np.ones((len(free) + 1, len(free) + 1))
    system[:-1, :-1], system[-1, -1] = K[np.ix_(free, free)], 0
    residual = np.append(y[free] - K[free] @ beta - bias, -beta.sum())
    step = np.linalg.lstsq(system, residual)[0]
    beta[free] += step[:-1]
    alpha, bias = beta * y, bias + step[-1]
    margin = 1 - y * (K @ beta + bias)
    assert alpha.min() >= 0
    assert alpha.max() <= C
    assert np.abs(margin[free]).max(initial=0) < 1e-10
    assert margin[alpha == 0].max() < 1e-10
    assert margin[alpha == C].min(initial=0) > -1e-10
    return alpha, bias


@pytest.fixture(scope="module")
def tasks():
    tasks = []
    for name in ("breast_cancer", "digits", "iris", "wine"):
        X, y = examples(name)
        for gamma, C in SETTINGS:
            K = matrix(X, gamma)
            tasks.append(Task(f"{name}, gamma {gamma}, C {C}", X, K, y, C, *exact_solution(K, y, C)))
    return tasks


def solved_in(dtype, tolerance, task, **kwargs):
    """The solution as NumPy arrays."""
    with jax.enable_x64(dtype == "float64"):
        C = jnp.asarray(kwargs.pop("C", task.C), dtype)
        K, y = jnp.asarray(kwargs.pop("K", task.K), dtype), jnp.asarray(kwargs.pop("y", task.y), jnp.int32)
        solution = solve(K, y, C, tolerance=jnp.asarray(tolerance, dtype), **kwargs)
        return jax.tree.map(np.asarray, solution)


@pytest.fixture(scope="module", params=PRECISIONS, ids=lambda precision: f"{precision[0]}-{precision[1]:g}")
def solved(request, tasks):
    """A precision, a tolerance, and pairs of a task and its solution."""
    return *request.param, [(task, solved_in(*request.param, task)) for task in tasks]


def certificate(solution, K, y, C):
    """The gap of the optimality conditions, the primal and the dual objective, in float64 from α and the bias."""
    dtype = solution.alpha.dtype
    C = np.broadcast_to(np.asarray(C, dtype), y.shape)
    K, C, alpha = (np.asarray(x, np.float64) for x in (np.asarray(K, dtype), C, solution.alpha))
    beta = alpha * y
    gradient = K @ beta - y
    grows, shrinks = beta < np.maximum(0, y * C), beta > np.minimum(0, y * C)
    slack = np.maximum(0, 1 - y * (K @ beta + solution.bias))
    return (
        gradient[shrinks].max() - gradient[grows].min(),
        0.5 * beta @ K @ beta + (C[slack > 0] * slack[slack > 0]).sum(),
        dual(alpha, K, y),
    )


def rounding(solution, task):
    """What sums of the size of those behind the gap, and behind the objectives, lose in the solution's dtype."""
    epsilon, sizes = 4 * np.finfo(solution.alpha.dtype).eps, 1 + np.abs(task.K) @ solution.alpha.astype(np.float64)
    return epsilon * sizes.max(), epsilon * (task.C * sizes.sum() + solution.alpha @ sizes)


# Against libsvm


def test_the_objective_is_the_optimum(solved):
    dtype, tolerance, pairs = solved
    bound = {("float32", 1e-3): 1e-5, ("float64", 1e-3): 1e-6, ("float64", 1e-9): 1e-9}[dtype, tolerance]
    for task, solution in pairs:
        np.testing.assert_allclose(solution.objective, task.objective, rtol=bound, err_msg=task.name)
        np.testing.assert_allclose(dual(solution.alpha, task.K, task.y), task.objective, rtol=bound, err_msg=task.name)


def test_bias_and_decisions_are_those_of_the_optimum(solved):
    """Of ten tolerances at most, in units of the margin; so are predictions, but for who stands on the border."""
    dtype, tolerance, pairs = solved
    for task, solution in pairs:
        with jax.enable_x64(dtype == "float64"):
            decision = svm.decision_function(jnp.asarray(task.K, dtype), task.y, solution)
        assert decision.dtype == dtype
        np.testing.assert_allclose(solution.bias, task.bias, atol=10 * tolerance, err_msg=task.name)
        np.testing.assert_allclose(decision, task.decision, atol=10 * tolerance, err_msg=task.name)
        decided = np.abs(task.decision) > 10 * tolerance
        assert decided.mean() > 0.98
        np.testing.assert_array_equal(np.sign(decision)[decided], np.sign(task.decision)[decided])


def test_support_vectors_are_those_of_the_optimum(solved):
    _, _, pairs = solved
    for task, solution in pairs:
        ours, theirs = solution.alpha > 0, task.alpha > 0
        assert (ours & theirs).sum() >= 0.98 * (ours | theirs).sum(), task.name


def test_iterations_in_all_are_at_most_a_fifth_more_than_libsvm_s(solved):
    _, tolerance, pairs = solved
    theirs = sum(libsvm(task.K, task.y, task.C, tolerance)[2] for task, _ in pairs)
    assert sum(solution.iterations for _, solution in pairs) <= 1.2 * theirs


def test_the_gap_is_proved_anew(solved):
    dtype, tolerance, pairs = solved
    for task, solution in pairs:
        gap = certificate(solution, task.K, task.y, task.C)[0]
        assert gap <= tolerance * (2 if dtype == "float32" else 1 + 1e-3), task.name
        np.testing.assert_allclose(solution.gap, gap, atol=rounding(solution, task)[0], err_msg=task.name)
        assert solution.converged


def test_the_gap_is_that_of_alpha_after_thousands_of_steps(tasks):
    """Of a tolerance that float32 cannot meet: the gradient that was kept up to date has long been off."""
    for task in tasks[:: len(SETTINGS)]:
        solution = solved_in("float32", 1e-7, task, max_iterations=5000)
        gap = certificate(solution, task.K, task.y, task.C)[0]
        np.testing.assert_allclose(solution.gap, gap, atol=rounding(solution, task)[0], err_msg=task.name)
        assert solution.converged == (solution.gap <= 1e-7)


def test_the_duality_gap_is_primal_less_dual(solved):
    _, _, pairs = solved
    for task, solution in pairs:
        _, primal, lower = certificate(solution, task.K, task.y, task.C)
        lost = rounding(solution, task)[1]
        np.testing.assert_allclose(solution.duality_gap, primal - lower, atol=lost, err_msg=task.name)
        assert solution.duality_gap >= -lost
        assert lower - lost <= task.objective <= primal + lost  # the optimum is between the two


def test_the_duality_gap_is_that_of_the_objectives_of_the_linear_machine(solved):
    dtype, _, pairs = solved
    for task, solution in pairs[:: len(SETTINGS)]:
        with jax.enable_x64(dtype == "float64"):
            X = jnp.asarray(task.X, dtype)
            w = X.T @ (solution.alpha * task.y.astype(dtype))
            primal = svm.primal_objective(w, solution.bias, X, task.y, jnp.asarray(task.C, dtype))
            lower = svm.dual_objective(solution.alpha, jnp.asarray(task.K, dtype), task.y)
        lost = rounding(solution, task)[1]
        np.testing.assert_allclose(solution.duality_gap, primal - lower, atol=lost, err_msg=task.name)


def test_alpha_is_feasible(solved):
    dtype, _, pairs = solved
    for task, solution in pairs:
        assert solution.alpha.dtype == solution.bias.dtype == solution.duality_gap.dtype == dtype
        assert solution.alpha.min() >= 0
        assert solution.alpha.max() <= np.asarray(task.C, dtype)
        at_bound = np.isclose(solution.alpha, task.C, rtol=8 * np.finfo(dtype).eps)
        np.testing.assert_array_equal(solution.alpha[at_bound], np.asarray(task.C, dtype))  # to the bit
        lost = NUM_EXAMPLES * np.finfo(dtype).eps * task.C
        assert abs((solution.alpha.astype(np.float64) * task.y).sum()) <= lost, task.name


def test_swapped_classes_swap_the_sides(tasks):
    for task in tasks[:3]:
        swapped = solved_in("float64", 1e-9, task, y=-task.y)
        np.testing.assert_allclose(swapped.bias, -task.bias, atol=1e-8)
        np.testing.assert_allclose(swapped.objective, task.objective, rtol=1e-9)


def test_each_example_may_have_its_price(tasks):
    weights = np.random.default_rng(0).uniform(0.2, 3.0, NUM_EXAMPLES)
    for task in tasks[1::3]:
        alpha, bias, _ = libsvm(task.K, task.y, task.C, weights=weights)
        solution = solved_in("float64", 1e-9, task, C=task.C * weights)
        np.testing.assert_allclose(solution.objective, dual(alpha, task.K, task.y), rtol=1e-9)
        np.testing.assert_allclose(solution.alpha, alpha, atol=1e-5)
        np.testing.assert_allclose(solution.bias, bias, atol=1e-6)


def test_an_example_without_a_price_is_out_of_the_problem(tasks):
    inside = np.random.default_rng(1).random(NUM_EXAMPLES) < 0.5
    for task in tasks[1::3]:
        alpha, bias, _ = libsvm(task.K[np.ix_(inside, inside)], task.y[inside], task.C)
        solution = solved_in("float64", 1e-9, task, C=task.C * inside)
        np.testing.assert_array_equal(solution.alpha[~inside], 0)
        np.testing.assert_allclose(solution.alpha[inside], alpha, atol=1e-5)
        np.testing.assert_allclose(solution.bias, bias, atol=1e-6)
        assert solution.converged
        gap, primal, lower = certificate(solution, task.K, task.y, task.C * inside)
        assert gap <= 1e-9
        np.testing.assert_allclose(solution.duality_gap, primal - lower, atol=1e-10)


def test_examples_given_twice_are_examples_at_twice_the_price(tasks):
    half = NUM_EXAMPLES // 2
    for task in tasks[1::3]:
        K, y = task.K[:half, :half], task.y[:half]
        alpha, _, _ = libsvm(K, y, 2 * task.C)
        for dtype, tolerance, bound in [("float32", 1e-3, 1e-5), ("float64", 1e-9, 1e-9)]:
            solution = solved_in(dtype, tolerance, task, K=np.tile(K, (2, 2)), y=np.tile(y, 2))
            np.testing.assert_allclose(solution.objective, dual(alpha, K, y), rtol=bound)
            assert solution.converged


@pytest.mark.parametrize(("dtype", "bound"), [("float32", 1e-5), ("float64", 1e-6)])
def test_a_huge_price_is_a_margin_without_slack(tasks, dtype, bound):
    """Where a narrow kernel separates all examples, the price is beside the point."""
    for task in (tasks[1], tasks[4], tasks[10]):
        alpha, _, _ = libsvm(task.K, task.y, 1e6)
        assert alpha.max() < 1e3
        for C in (1e6, INF):
            solution = solved_in(dtype, 1e-3, task, C=C)
            assert solution.converged
            np.testing.assert_allclose(solution.objective, dual(alpha, task.K, task.y), rtol=bound, err_msg=task.name)
            assert certificate(solution, task.K, task.y, C)[0] <= 2e-3


# Iterations and starts


@pytest.mark.parametrize("max_iterations", [0, 1, 7, 40])
def test_what_is_cut_short_says_so(tasks, max_iterations):
    for task in tasks:
        solution = solved_in("float32", 1e-3, task, max_iterations=max_iterations)
        gap, primal, lower = certificate(solution, task.K, task.y, task.C)
        assert solution.iterations == max_iterations
        assert not solution.converged
        assert gap > 1e-3
        np.testing.assert_allclose(solution.gap, gap, atol=1e-4)
        np.testing.assert_allclose(solution.duality_gap, primal - lower, rtol=1e-4)
        assert lower <= task.objective * (1 + 1e-6)
        if max_iterations == 0:
            np.testing.assert_array_equal(solution.alpha, 0)
            assert (solution.gap, solution.objective) == (2, 0)  # f = −y


def test_a_warm_start_never_changes_the_answer(tasks):
    rng = np.random.default_rng(0)
    for task in tasks[1::3]:
        starts = {
            "solution": task.alpha,
            "another price": np.minimum(task.alpha, 0.5 * task.C),
            "random": rng.uniform(0, task.C, NUM_EXAMPLES),
            "all at the bound": np.full(NUM_EXAMPLES, task.C),
            "outside": rng.normal(size=NUM_EXAMPLES) * 1e6,
            "one class": np.where(task.y > 0, task.C, 0),
            "NaN and infinite": np.where(rng.random(NUM_EXAMPLES) < 0.5, NAN, INF),
        }
        for name, start in starts.items():
            start = start.astype(np.float32)
            begun = solved_in("float32", 1e-3, task, warm_start=start, max_iterations=0)
            assert begun.iterations == 0
            assert begun.alpha.min() >= 0, name
            assert begun.alpha.max() <= np.float32(task.C), name
            assert abs((begun.alpha * task.y).sum()) <= NUM_EXAMPLES * 2**-23 * task.C, name
            solution = solved_in("float32", 1e-3, task, warm_start=start)
            assert solution.converged
            assert certificate(solution, task.K, task.y, task.C)[0] <= 2e-3, name
            np.testing.assert_allclose(solution.objective, task.objective, rtol=1e-5, err_msg=name)


def test_a_warm_start_that_is_feasible_is_where_it_begins():
    """α = ½, ½ is the solution of x = 1 and x = −1, and ¼, ¼ is on the way there: D = ½ − ½ · 4 / 16."""
    K, y = np.array([[1, -1], [-1, 1]], np.float32), np.array([1, -1])
    start = np.array([0.5, 0.5], np.float32)
    solution = solve(K, y, np.ones(2, np.float32), warm_start=start)
    assert solution.iterations == 0
    np.testing.assert_array_equal(solution.alpha, start)
    halfway = solve(K, y, np.ones(2, np.float32), warm_start=start / 2, max_iterations=0)
    np.testing.assert_array_equal(halfway.alpha, start / 2)
    assert halfway.objective == 0.375


# By hand

ONE = np.array([[1, -1], [-1, 1]], np.float32)  # of x = 1 and x = −1
Y = np.array([1, -1])
TWO = np.array([[4, -2], [-2, 1]], np.float32)  # the linear kernel of x = 2 and x = −1


@pytest.mark.parametrize("C", [10.0, INF, 2 / 9])
def test_two_points_have_the_widest_margin_between_them(C):
    """‖2 − (−1)‖ = 3: α = 2/3², w = 2/3, the border at ½: b = −⅓, D = ½w²."""
    solution = solve(TWO, np.array([1, -1]), np.full(2, C, np.float32))
    np.testing.assert_allclose(solution.alpha, [2 / 9, 2 / 9], rtol=1e-6)
    np.testing.assert_allclose(solution.bias, -1 / 3, rtol=1e-6)
    np.testing.assert_allclose(solution.objective, 2 / 9, rtol=1e-6)
    decision = svm.decision_function(
        np.array([[4.0, -2.0], [1.0, -0.5], [-2.0, 1.0]], np.float32), np.array([1, -1]), solution
    )
    np.testing.assert_allclose(decision, [1, 0, -1], atol=1e-6)  # at x = 2, ½ and −1


@pytest.mark.parametrize("sign", [1, -1])
def test_with_no_free_alpha_the_bias_is_in_the_middle(sign):
    """C = 1/20 binds both: w = 3/20, f = 6/20 − 1 and 1 − 3/20, b = −½ (f₁ + f₂) = −3/40: slack 31/40 for both.

    P = ½w² + C · 62/40 is then the dual 2C − ½ · 9C².
    """
    solution = solve(TWO, np.array([sign, -sign]), np.full(2, 0.05, np.float32))
    np.testing.assert_array_equal(solution.alpha, np.full(2, 0.05, np.float32))
    np.testing.assert_allclose(solution.bias, sign * -0.075, rtol=1e-5)
    np.testing.assert_allclose(solution.objective, 0.08875, rtol=1e-6)
    np.testing.assert_allclose(solution.duality_gap, 0, atol=1e-7)
    np.testing.assert_allclose(solution.gap, 9 * 0.05 - 2, rtol=1e-6)
    assert solution.converged


def test_an_alpha_that_reaches_its_price_is_at_it_to_the_bit():
    """s + (C − s) is not always C, and what is a rounding below would count as free."""
    price = np.full(2, 0.05, np.float32)
    starts = price * np.linspace(0.01, 0.49, 25, dtype=np.float32)[:, None]
    assert np.any(starts + (price - starts) != price)
    for start in starts:
        np.testing.assert_array_equal(solve(TWO, np.array([1, -1]), price, warm_start=start).alpha, price)


def test_no_slack_costs_nothing_at_any_price():
    """x = ±1: α = ½ puts both on their margin, to the bit."""
    solution = solve(np.array([[1, -1], [-1, 1]], np.float32), np.array([1, -1]), np.full(2, INF, np.float32))
    np.testing.assert_array_equal(solution.alpha, [0.5, 0.5])
    assert (solution.objective, solution.bias, solution.gap, solution.duality_gap) == (0.5, 0, 0, 0)


def test_one_free_alpha_alone_decides_the_bias():
    """C = 1/20 for x = 2 and more for x = −1, which is therefore on its margin: −w + b = −1, w = 3/20."""
    solution = solve(TWO, np.array([1, -1]), np.array([0.05, 0.1], np.float32))
    np.testing.assert_allclose(solution.alpha, [0.05, 0.05], rtol=1e-6)
    np.testing.assert_allclose(solution.bias, -0.85, rtol=1e-6)


def test_two_points_under_the_gaussian_kernel():
    """α = 2 / (k₁₁ + k₂₂ − 2k₁₂) = 1 / (1 − k)."""
    k = np.exp(-0.5)
    solution = solve(np.array([[1, k], [k, 1]], np.float32), np.array([-1, 1]), np.full(2, INF, np.float32))
    np.testing.assert_allclose(solution.alpha, np.full(2, 1 / (1 - k)), rtol=1e-6)
    np.testing.assert_allclose(solution.bias, 0, atol=1e-6)


def test_one_point_of_both_classes_is_at_its_bound():
    """K = [1 1; 1 1], y = ±1: D = 2α grows to 2C, and b is in the middle."""
    solution = solve(np.ones((2, 2), np.float32), np.array([1, -1]), np.full(2, 3.0, np.float32))
    np.testing.assert_array_equal(solution.alpha, [3, 3])
    assert (solution.objective, solution.bias, solution.duality_gap) == (6, 0, 0)


def test_points_behind_the_margin_take_no_part():
    """Between (1, 1) and (−1, 0): α = 2/5, w = α(2, 1), and the border through the middle (0, ½): b = −½α."""
    X, y = np.array([[1, 1], [-1, 0], [3, 4], [-5, -2]], np.float32), np.array([1, -1, 1, -1])
    solution = solve(X @ X.T, y, np.full(4, INF, np.float32))
    np.testing.assert_allclose(solution.alpha, [0.4, 0.4, 0, 0], rtol=1e-5)
    np.testing.assert_allclose(solution.bias, -0.2, rtol=1e-5)
    np.testing.assert_allclose(solution.objective, 0.4, rtol=1e-5)
    np.testing.assert_allclose(X.T @ (solution.alpha * y), [0.8, 0.4], rtol=1e-5)


def test_where_all_examples_are_alike_the_larger_class_decides():
    """γ = 0, k = 1: w = 0 as far as decisions go, D = Σα = 2C, and P = 2C at b = −1 of three against one."""
    y = np.array([1, -1, -1, -1])
    K = gram(Partial(rbf, gamma=0.0), np.arange(4, dtype=np.float32)[:, None])
    solution = solve(K, y, np.full(4, 0.5, np.float32))
    assert solution.converged
    np.testing.assert_allclose(solution.alpha[0], 0.5, rtol=1e-6)
    np.testing.assert_allclose((solution.objective, solution.bias, solution.duality_gap), (1, -1, 0), atol=1e-6)
    np.testing.assert_allclose(svm.decision_function(K, y, solution), np.full(4, -1), rtol=1e-6)


def test_a_matrix_of_zeros_is_where_all_examples_are_alike_too():
    solution = solve(np.zeros((4, 4), np.float32), np.array([1, -1, -1, -1]), np.full(4, 0.5, np.float32))
    np.testing.assert_allclose((solution.objective, solution.bias, solution.duality_gap), (1, -1, 0), atol=1e-6)


# Objectives


def test_objectives_are_their_formulas():
    rng = np.random.default_rng(0)
    X, w, b, y = rng.normal(size=(20, 3)), rng.normal(size=3), 0.3, rng.choice([-1, 1], 20)
    alpha, prices = rng.uniform(size=20), rng.uniform(size=20)
    slack = np.maximum(0, 1 - y * (X @ w + b))
    with jax.enable_x64(True):
        for C in (2.0, prices):
            found = jax.jit(svm.primal_objective)(w, b, X, y, C)
            np.testing.assert_allclose(found, 0.5 * w @ w + (C * slack).sum(), rtol=1e-14)
        found = jax.jit(svm.dual_objective)(alpha, X @ X.T, y)
        np.testing.assert_allclose(found, alpha.sum() - 0.5 * np.sum((X.T @ (alpha * y)) ** 2), rtol=1e-13)
        assert found.dtype == jnp.float64
        # no example is within 10⁻³ of its kink
        assert np.abs(1 - y * (X @ w + b)).min() > 1e-3
        check_grads(jax.jit(lambda *args: svm.primal_objective(*args[:3], y, args[3])), (w, b, X, prices), order=1)
        check_grads(jax.jit(lambda alpha, K: svm.dual_objective(alpha, K, y)), (alpha, X @ X.T), order=1)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64"])
def test_objectives_round_once_to_the_precision_of_their_inputs(dtype):
    """½ · 1 + 10 · ½ = 5½, and ¾ − ½ · 4 · (3/8)² = 15/32, are exact in all."""
    with jax.enable_x64(dtype == "float64"):
        w, X, K, alpha = (jnp.asarray(x, dtype) for x in ([1], [[2], [-0.5]], [[1, -1], [-1, 1]], [0.375, 0.375]))
        y = jnp.array([1, -1])
        primal, lower = svm.primal_objective(w, jnp.asarray(0, dtype), X, y, 10.0), svm.dual_objective(alpha, K, y)
    assert primal.dtype == lower.dtype == dtype
    assert (float(primal), float(lower)) == (5.5, 0.46875)


def test_no_feasible_alpha_is_above_any_w():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(20, 3)).astype(np.float32), np.repeat([1, -1], 10)
    primal = jax.jit(jax.vmap(svm.primal_objective, (0, 0, None, None, None)))
    lower = jax.jit(jax.vmap(svm.dual_objective, (0, None, None)))
    half = rng.uniform(0, 0.7, (50, 10))
    above = primal(rng.normal(size=(50, 3)).astype(np.float32), rng.normal(size=50).astype(np.float32), X, y, 0.7)
    below = lower(np.concatenate([half, half[:, ::-1]], 1).astype(np.float32), X @ X.T, y)
    assert below.max() <= above.min()


# Transformations and precisions


def test_broken_problems_in_a_batch_are_nan_and_the_others_right():
    K, y, C = (np.stack([x] * 8) for x in (np.pad(TWO, (0, 2)), np.array([1, -1, 1, -1]), np.array([10.0, 10, 0, 0])))
    K, C = K.astype(np.float32), C.astype(np.float32)
    K[1, 0, 1] = K[2, 2, 2] = NAN
    K[2, 2, 2] = INF
    K[3, 3, 3] = -1
    y[4] = [1, -1, 0, 1]
    y[5] = 1
    C[6, 1] = -1
    solution = jax.jit(jax.vmap(svm.solve_dual))(K, y, C)
    alone = [solve(*problem) for problem in zip(K, y, C, strict=True)]
    for i, one in enumerate(alone):
        for found in (one, jax.tree.map(lambda x, i=i: x[i], solution)):
            if i in {0, 7}:
                assert found.converged
                np.testing.assert_allclose(found.alpha, [2 / 9, 2 / 9, 0, 0], rtol=1e-6)
                np.testing.assert_allclose(found.bias, -1 / 3, rtol=1e-6)
            else:
                assert not found.converged
                values = (found.alpha, found.bias, found.objective, found.gap, found.duality_gap)
                assert all(np.isnan(value).all() for value in values)


def test_prices_are_batched_over_one_matrix():
    """α = min(C, 2/9)."""
    prices = np.array([0.0625, 0.125, 1.0, INF], np.float32)
    y = np.array([1, -1])
    solution = jax.jit(jax.vmap(svm.solve_dual, (None, None, 0)))(TWO, y, np.stack([prices, prices], 1))
    np.testing.assert_allclose(solution.alpha[:, 0], np.minimum(prices, 2 / 9), rtol=1e-6)
    assert solution.converged.all()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64"])
def test_a_solution_has_the_precision_of_its_matrix(dtype):
    """What bfloat16 holds of ⅑ and ⅓ is 2⁻⁹ of it off at most."""
    with jax.enable_x64(dtype == "float64"):
        solution = solve(jnp.asarray(TWO, dtype), jnp.array([1, -1]), jnp.full(2, 10, dtype))
        decision = svm.decision_function(jnp.asarray(TWO, dtype), jnp.array([1, -1]), solution)
    floats = (solution.alpha, solution.bias, solution.objective, solution.gap, solution.duality_gap, decision)
    assert {x.dtype for x in floats} == {jnp.dtype(dtype)}
    assert solution.iterations.dtype == jnp.int32
    epsilon = float(jnp.finfo(dtype).eps)
    for found, exact in [(solution.alpha, [2 / 9] * 2), (solution.bias, -1 / 3), (solution.objective, 2 / 9)]:
        np.testing.assert_allclose(np.asarray(found, np.float64), exact, rtol=2 * epsilon)
    np.testing.assert_allclose(np.asarray(decision, np.float64), [1, -1], rtol=4 * epsilon)


@pytest.mark.parametrize("dtype", [np.int8, np.int32, np.float32, np.float16])
def test_classes_may_be_of_any_number_type(dtype):
    solution = solve(TWO, np.array([1, -1], dtype), np.full(2, 10.0, np.float32))
    np.testing.assert_allclose(solution.bias, -1 / 3, rtol=1e-6)
    assert solution.alpha.dtype == jnp.float32


def test_decisions_on_no_example_are_none():
    solution = solve(TWO, np.array([1, -1]), np.full(2, 10.0, np.float32))
    assert svm.decision_function(np.zeros((0, 2), np.float32), np.array([1, -1]), solution).shape == (0,)


# Blocks


@pytest.fixture(params=[16, 64, 512], ids="blocks_of_{}".format)
def solve_in_blocks(request, monkeypatch):
    """A solver that takes blocks of 150 examples on; of 512 places, most are empty."""
    used, minimize = [], _blocks.minimize

    def minimize_and_tell(*args, **kwargs):
        used.append(kwargs["block"])
        return minimize(*args, **kwargs)

    monkeypatch.setattr(_blocks, "minimize", minimize_and_tell)
    monkeypatch.setattr(_optimum, "BLOCKS_FROM", NUM_EXAMPLES)
    monkeypatch.setattr(_optimum, "BLOCK", request.param)
    solve_anew = jax.jit(lambda K, y, C: svm.solve_dual(K, y, C))  # `solve` may know these shapes already

    def solve(K, y, C):
        return jax.tree.map(np.asarray, solve_anew(K.astype(np.float32), y.astype(np.int32), C.astype(np.float32)))

    yield solve
    assert set(used) == {request.param}


def test_blocks_find_the_same_optimum(solve_in_blocks, tasks):
    for task in tasks:
        solution = solve_in_blocks(task.K, task.y, np.full(NUM_EXAMPLES, task.C))
        assert solution.converged
        assert certificate(solution, task.K, task.y, task.C)[0] <= 2e-3, task.name
        np.testing.assert_allclose(solution.objective, task.objective, rtol=1e-5, err_msg=task.name)
        np.testing.assert_allclose(solution.bias, task.bias, atol=1e-2, err_msg=task.name)
        ours, theirs = solution.alpha > 0, task.alpha > 0
        assert (ours & theirs).sum() >= 0.98 * (ours | theirs).sum(), task.name
        assert abs((solution.alpha.astype(np.float64) * task.y).sum()) <= NUM_EXAMPLES * 2**-23 * task.C


def test_few_examples_leave_places_of_a_block_empty(solve_in_blocks, tasks):
    """Six of each class have a price."""
    for task in tasks[1::3]:
        inside = np.zeros(NUM_EXAMPLES, bool)
        inside[[*np.flatnonzero(task.y == 1)[-6:], *np.flatnonzero(task.y == -1)[-6:]]] = True
        K, y = task.K[np.ix_(inside, inside)], task.y[inside]
        alpha, _, _ = libsvm(K, y, task.C)
        solution = solve_in_blocks(task.K, task.y, task.C * inside)
        assert solution.converged
        np.testing.assert_array_equal(solution.alpha[~inside], 0)
        np.testing.assert_allclose(solution.objective, dual(alpha, K, y), rtol=1e-5, err_msg=task.name)
        assert certificate(solution, task.K, task.y, task.C * inside)[0] <= 2e-3, task.name


# Derivatives


class Small(NamedTuple):
    """Sixteen examples, of which some are free, some at their bound and some out; and four to decide."""

    X: np.ndarray
    K: np.ndarray
    K_test: np.ndarray
    y: np.ndarray
    C: np.ndarray


@pytest.fixture(scope="module")
def small():
    rng = np.random.default_rng(2)
    X = rng.normal(size=(20, 2))
    y = np.where(X[:16, 0] + 0.2 * rng.normal(size=16) > 0, 1, -1)
    K = matrix(X, 0.5)
    return Small(X[:16], K[:16, :16], K[16:, :16], y, rng.uniform(0.5, 1.5, 16))


def outputs(K, C, K_test, y):
    """Four numbers: a mean of α, the bias, the objective and a mean of decisions, with weights of no meaning."""
    solution = svm.solve_dual(K, y, C, tolerance=1e-12)
    decision = svm.decision_function(K_test, y, solution)
    of_alpha, of_decision = (np.random.default_rng(n).normal(size=n) for n in (16, 4))
    weighted = jnp.sum(of_alpha * solution.alpha), jnp.sum(of_decision * decision)
    return jnp.stack([weighted[0], solution.bias, solution.objective, weighted[1]]), solution


@pytest.fixture(scope="module")
def derivatives(small):
    """The solution and the derivatives of all four outputs in K and C, in float64."""
    with jax.enable_x64(True):
        jacobian = jax.jit(jax.jacrev(outputs, (0, 1), has_aux=True))
        (in_K, in_C), solution = jacobian(small.K, small.C, small.K_test, small.y)
        return jax.tree.map(np.asarray, (in_K, in_C, solution))


def test_derivatives_are_those_of_the_solution(small, derivatives):
    """All pairs of entries of a symmetric K, and every price, by central differences."""
    in_K, in_C, solution = derivatives
    free, bound = (solution.alpha > 0) & (solution.alpha < small.C), solution.alpha == small.C
    assert min(free.sum(), bound.sum(), (solution.alpha == 0).sum()) >= 3
    h, pairs = 1e-6, [(i, j) for i in range(16) for j in range(i + 1)]
    with jax.enable_x64(True):
        f = jax.jit(lambda K, C: outputs(K, C, small.K_test, small.y)[0])

        def central(K_step, C_step):
            ends = (f(small.K + sign * K_step, small.C + sign * C_step) for sign in (h, -h))
            return np.subtract(*ends) / (2 * h)

        of_C = np.stack([central(0, np.eye(16)[i]) for i in range(16)], 1)
        of_K = np.stack([central(np.maximum(e := np.outer(np.eye(16)[i], np.eye(16)[j]), e.T), 0) for i, j in pairs], 1)
    in_pairs = np.stack([in_K[:, i, j] + (in_K[:, j, i] if i != j else 0) for i, j in pairs], 1)
    for row in range(4):
        np.testing.assert_allclose(in_C[row], of_C[row], rtol=1e-4, atol=1e-4 * np.abs(of_C[row]).max())
        np.testing.assert_allclose(in_pairs[row], of_K[row], rtol=1e-4, atol=1e-4 * np.abs(of_K[row]).max())


def test_the_objective_s_derivatives_are_free(small, derivatives):
    """Of the envelope theorem: −½ββᵀ in K, and the slack in the price of who is at it."""
    in_K, in_C, solution = derivatives
    beta = solution.alpha * small.y
    slack = 1 - small.y * (small.K @ beta + solution.bias)
    np.testing.assert_allclose(in_K[2], -0.5 * np.outer(beta, beta), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(in_C[2], np.where(solution.alpha == small.C, slack, 0), rtol=1e-8, atol=1e-12)


def test_the_width_of_a_kernel_is_learned_by_the_gradient(small):
    """d/dγ of max D by libsvm at γ ± h; C the same for all."""

    def optimum(gamma):
        alpha, _, _ = libsvm(matrix(small.X, gamma), small.y, 1.0)
        return dual(alpha, matrix(small.X, gamma), small.y)

    with jax.enable_x64(True):

        @jax.jit
        @jax.grad
        def slope(gamma):
            return svm.solve_dual(gram(Partial(rbf, gamma=gamma), small.X), small.y, 1.0, tolerance=1e-10).objective

        np.testing.assert_allclose(slope(0.5), (optimum(0.5001) - optimum(0.4999)) / 0.0002, rtol=1e-5)


def test_derivatives_with_no_free_alpha_by_hand():
    """α = C, b = −½ · 3C, D = 2C − 4½C²: 1, −1½, 2 − 9C. P = D for every C, so that their gap has derivative 0."""

    def of_price(C):
        solution = svm.solve_dual(TWO, np.array([1, -1]), C)
        return jnp.stack([*solution.alpha, solution.bias, solution.objective, solution.duality_gap])

    found = jax.jit(jax.jacrev(of_price))(np.float32(0.05))
    np.testing.assert_allclose(found, [1, 1, -1.5, 1.55, 0], rtol=1e-5, atol=1e-6)


def test_duplicates_leave_derivatives_of_decisions_right(small):
    """Eight examples twice: α of the two is anything of their sum, the system is singular, decisions are unique."""
    K = np.tile(small.K[:8, :8], (2, 2))
    K_test, y, C = np.tile(small.K_test[:, :8], (1, 2)), np.tile(small.y[:8], 2), np.full(16, 0.6)
    step = matrix(np.random.default_rng(3).normal(size=(8, 2)), 0.5)
    step, h = np.tile(step, (2, 2)), 1e-6
    with jax.enable_x64(True):
        jacobian = jax.jit(jax.jacrev(outputs, (0, 1), has_aux=True))
        (in_K, _), solution = jax.tree.map(np.asarray, jacobian(K, C, K_test, y))
        f = jax.jit(lambda K: outputs(K, C, K_test, y)[0])
        central = (f(K + h * step) - f(K - h * step)) / (2 * h)
    assert ((solution.alpha > 0) & (solution.alpha < 0.6)).sum() >= 2
    assert np.isfinite(in_K).all()
    np.testing.assert_allclose((in_K * step).sum((1, 2))[1:], central[1:], rtol=1e-4)


# Refusals


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y": np.array([0, 1, 1, 0])}, "y holds 0, 1; classes must be -1 and \\+1"),
        ({"y": np.array([1, 2, 3, 2])}, "y holds 1, 2, 3"),
        ({"y": np.array([1, -1, NAN, 1], np.float32)}, "y holds .*nan"),
        ({"y": np.ones(4, int)}, "one class"),
        ({"C": -1.0}, "C is -1; every price must be at least 0|C is -1.0"),
        ({"C": np.array([1, 1, -2, 1], np.float32)}, "C is .*-2"),
        ({"C": NAN}, "C is nan"),
        ({"K": np.full((4, 4), NAN, np.float32)}, "K holds NaN or infinite"),
        ({"K": np.diag([1, 1, 1, INF]).astype(np.float32)}, "K holds NaN or infinite"),
        ({"K": np.diag([1, 1, 1, -0.1]).astype(np.float32)}, "negative number on its diagonal"),
    ],
)
def test_a_problem_that_is_none_is_refused(changes, message):
    problem = {"K": np.eye(4, dtype=np.float32), "y": np.array([1, -1, 1, -1]), "C": 1.0} | changes
    with pytest.raises(ValueError, match=message):
        svm.solve_dual(**problem)


K4, Y4 = np.eye(4, dtype=np.float32), np.array([1, -1, 1, -1])


@pytest.mark.parametrize(
    "call",
    [
        lambda: svm.solve_dual(K4[:3], Y4, 1.0),
        lambda: svm.solve_dual(K4[None], Y4, 1.0),
        lambda: svm.solve_dual(K4, Y4[:3], 1.0),
        lambda: svm.solve_dual(K4, Y4[:, None], 1.0),
        lambda: svm.solve_dual(K4, Y4, np.ones(3, np.float32)),
        lambda: svm.solve_dual(K4, Y4, np.ones(1, np.float32)),  # would broadcast
        lambda: svm.solve_dual(K4, Y4, 1.0, warm_start=np.zeros(3, np.float32)),
        lambda: svm.dual_objective(np.ones(3, np.float32), K4, Y4),
        lambda: svm.dual_objective(np.ones(4, np.float32), K4, Y4[:1]),
        lambda: svm.primal_objective(np.ones(3, np.float32), 0.0, K4, Y4, 1.0),
        lambda: svm.primal_objective(np.ones(4, np.float32), np.ones(1, np.float32), K4, Y4, 1.0),
        lambda: svm.primal_objective(np.ones(4, np.float32), 0.0, K4, Y4, np.ones(1, np.float32)),
        lambda: svm.decision_function(K4[:, :3], Y4, solve(K4, Y4, np.ones(4, np.float32))),
        lambda: svm.decision_function(K4, Y4[:1], solve(K4, Y4, np.ones(4, np.float32))),
    ],
)
def test_shapes_that_do_not_match_are_refused(call):
    with pytest.raises((AssertionError, TypeError, ValueError), match=r"shape|rank|assert_equal|Type-check"):
        call()


def test_what_is_known_is_refused_while_a_program_is_traced_too():
    program = jax.jit(functools.partial(svm.solve_dual, y=np.array([1, 2, 1, 2]), C=1.0))
    with pytest.raises(ValueError, match="y holds 1, 2"):
        program(K4)


def test_a_program_may_close_over_its_matrix():
    K, negative, y = jnp.asarray(TWO), jnp.asarray(-TWO), jnp.array([1, -1])
    np.testing.assert_allclose(jax.jit(lambda C: svm.solve_dual(K, y, C).bias)(10.0), -1 / 3, rtol=1e-6)
    with pytest.raises(ValueError, match="negative number on its diagonal"):
        jax.jit(lambda C: svm.solve_dual(negative, y, C).bias)(10.0)


def test_the_primal_objective_of_what_is_no_number_is_none():
    X = np.array([[np.nan], [1.0]], np.float32)
    assert np.isnan(svm.primal_objective(np.ones(1, np.float32), np.float32(0), X, np.array([1, -1]), 1.0))


# At the edge of the precision, of a price, of a budget


def test_the_gradient_at_a_kink_is_that_of_no_slack():
    slope = jax.grad(svm.primal_objective)(jnp.ones(1), 0.0, jnp.array([[1.0], [-1.0]]), Y, 10.0)
    np.testing.assert_array_equal(slope, [1])  # w


def test_no_slack_costs_nothing_in_the_primal_at_any_price():
    assert svm.primal_objective(jnp.ones(1), 0.0, jnp.array([[2.0], [-2.0]]), Y, INF) == 0.5


def overlapping(seed):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(60, 2)).astype(np.float32)
    y = np.where(X[:, 0] + 0.7 * rng.normal(size=60) > 0, 1, -1)
    return np.exp(-0.5 * ((X[:, None] - X[None]) ** 2).sum(-1)), y


def test_a_solution_is_the_start_that_needs_no_step():
    iterations = []
    for seed in range(40):
        K, y = overlapping(seed)
        solution = solve(K, y, np.float32(0.3))
        iterations.append(solve(K, y, np.float32(0.3), warm_start=solution.alpha).iterations)
    assert max(iterations) <= 2


def test_the_bias_does_not_turn_on_one_rounding():
    """No α is free but by 7e-9; the middle is libsvm's 0.490036."""
    rng = np.random.default_rng(251)
    X = rng.normal(size=(16, 2)).astype(np.float32)
    y = np.where(X[:, 0] + 0.7 * rng.normal(size=16) > 0, 1, -1)
    np.testing.assert_allclose(solve(X @ X.T, y, np.float32(0.1)).bias, 0.490036, atol=1e-3)


def test_blocks_change_no_more_pairs_than_they_may(monkeypatch):
    monkeypatch.setattr(_optimum, "BLOCKS_FROM", 10)
    monkeypatch.setattr(_optimum, "BLOCK", 16)
    K, y = overlapping(0)
    solution = jax.jit(lambda K, y, C: svm.solve_dual(K, y, C, max_iterations=1))(K, y, np.float32(1.0))
    assert solution.iterations <= 1


@pytest.mark.parametrize("C", [0.0, np.array([1.0, 0.0], np.float32)])
def test_a_class_without_price_is_refused(C):
    with pytest.raises(ValueError, match="C is 0 for all examples of class -1"):
        svm.solve_dual(ONE, Y, C)


def test_a_warm_start_does_not_broadcast():
    with pytest.raises((AssertionError, TypeError, ValueError)):
        svm.solve_dual(ONE, Y, 1.0, warm_start=np.ones(1, np.float32))


def test_the_derivative_in_a_price_of_0_is_that_to_the_right():
    """x = 2, −1 and, without a price, 0: D rises by its slack, 1 − b = 4/3."""
    x = jnp.array([[2.0], [-1.0], [0.0]])
    slope = jax.grad(lambda C: svm.solve_dual(x @ x.T, jnp.array([1, -1, 1]), C).objective)(jnp.array([1.0, 1.0, 0.0]))
    np.testing.assert_allclose(slope, [0, 0, 4 / 3], atol=1e-5)


def test_more_steps_do_not_make_it_worse():
    """A tolerance that float32 cannot meet."""
    from sklearn import datasets, preprocessing

    X, y = datasets.load_wine(return_X_y=True)
    X, y = preprocessing.scale(X), np.where(y == 1, 1, -1)
    K = (X @ X.T).astype(np.float32)
    gaps = [solve(K, y, 1.0, tolerance=1e-7, max_iterations=m).gap for m in (7_000, 300_000)]
    assert gaps[1] <= 2 * gaps[0]


def test_a_tolerance_beyond_the_precision_ends_soon():
    K, y = overlapping(0)
    solution = solve(K, y, np.float32(100.0), tolerance=0.0)
    assert not solution.converged
    assert solution.gap < 1e-2
    assert solution.iterations < 100_000  # of the ten million that it may


def test_no_alpha_is_minus_zero():
    K, y = overlapping(0)
    assert not np.signbit(solve(K, y, np.float32(1.0)).alpha).any()


def test_second_derivatives_are_those_of_first_ones_in_a_scan_too():
    """Of the bias in the width of a kernel, for two prices one after another; central differences."""
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        X = rng.normal(size=(12, 2))
        y, distances = np.where(X[:, 0] + 0.3 * rng.normal(size=12) > 0, 1, -1), ((X[:, None] - X[None]) ** 2).sum(-1)

        def biases(gamma):
            K = jnp.exp(-gamma * distances)
            return jax.lax.map(lambda C: svm.solve_dual(K, y, C, tolerance=1e-12).bias, jnp.array([1.0, 2.0])).sum()

        slope, width, step = jax.jit(jax.grad(biases)), 0.5, 1e-5
        expected = (slope(width + step) - slope(width - step)) / (2 * step)
        np.testing.assert_allclose(jax.jit(jax.grad(jax.grad(biases)))(width), expected, rtol=1e-6)


def test_the_objective_only_rises_with_more_steps():
    """The gap, which rises and falls, is at first above that of α = 0."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 2)).astype(np.float32)
    y = np.where(X[:, 0] + 0.3 * rng.normal(size=300) > 0, 1, -1)
    objectives = [float(solve(X @ X.T, y, 1e3, max_iterations=steps).objective) for steps in (0, 50, 200, 2000, 6000)]
    assert objectives[0] == 0
    assert all(before < after for before, after in itertools.pairwise(objectives))


@pytest.mark.parametrize("C", [10.0, 3e5, 1e7, INF])
def test_a_price_far_above_all_alphas_leaves_derivatives_alone(C):
    """x = ±1 and K s: α = 1/(2s) each."""
    slope = jax.grad(lambda s: jnp.sum(svm.solve_dual(ONE * s, Y, C).alpha))(1.0)
    np.testing.assert_allclose(slope, -1, rtol=1e-5)


def test_a_negative_tolerance_is_refused_and_in_a_program_0():
    with pytest.raises(ValueError, match=r"tolerance is -1.*; it must be at least 0"):
        svm.solve_dual(ONE, Y, 1.0, tolerance=-1.0)
    np.testing.assert_allclose(solve(ONE, Y, 1.0, tolerance=-1.0).alpha, 0.5)
