"""Support vector machines for any number of classes, of any kernel, whether or not the Gram matrix fits."""

import functools
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int, Integer

from mathai.kernel import _optimum
from mathai.kernel._arrays import check_at_least, contract, over_blocks, promote
from mathai.kernel._checks import check_class_prices, check_finite, check_prices, known_classes
from mathai.kernel._devices import devices_for, spread
from mathai.kernel._smo import classification, has_both
from mathai.kernel._voting import STRATEGIES, machines, winners
from mathai.kernel.kernels import Kernel, as_pytree, gram, gram_diagonal

PREDICTED_AT_ONCE = 1024  # examples whose kernels with all training examples are held together


class SVMModel(NamedTuple):
    """A support vector machine that decides between classes by several machines for two.

    Attributes:
      kernel: k, a pytree of its parameters.
      X: the training examples, like all numbers here in at least float32.
      classes: the labels, ascending, [classes].
      weights: αᵢyᵢ of each machine and example; 0 where an example is no support vector, [machines, n].
      bias: b of each machine, [machines].
      positive: the class, as an index, that each machine votes for where it decides above 0, [machines].
      negative: the class that it votes for otherwise; −1 where that is all others (one against the rest), [machines].
      gap: the largest violation of optimality in each machine, [machines].
      iterations: pairs changed by each machine, [machines].
      converged: whether each gap is at most the tolerance, [machines].
    """

    kernel: Any
    X: Float[Array, "n features"]
    classes: Int[Array, "classes"]
    weights: Float[Array, "machines n"]
    bias: Float[Array, "machines"]
    positive: Int[Array, "machines"]
    negative: Int[Array, "machines"]
    gap: Float[Array, "machines"]
    iterations: Int[Array, "machines"]
    converged: Bool[Array, "machines"]


def fit(
    X: Float[ArrayLike, "n features"],
    y: Integer[ArrayLike, "n"],
    *,
    kernel: Kernel,
    C: ArrayLike,
    strategy: str = "one_vs_one",
    class_weights: Float[ArrayLike, "classes"] | None = None,
    example_weights: Float[ArrayLike, "n"] | None = None,
    tolerance: ArrayLike = 1e-3,
    max_iterations: ArrayLike = 10_000_000,
    memory_budget: float | int = 2 * 2**30,
) -> SVMModel:
    """Fit a support vector machine to examples of two or more classes.

    One against one solves a problem for each pair of classes, with the examples of these two; one against the rest one
    for each class, with all. The price of example i is C times the weight of its class times its own.

    Args:
      X: one example in each row.
      y: integer labels.
      kernel: k, any kernel.
      C: the price of slack, ≥ 0.
      strategy: "one_vs_one" or "one_vs_rest"; the same for two classes.
      class_weights: ≥ 0, one per class in ascending order of labels; None is 1 for all.
      example_weights: ≥ 0, one per example; None is 1 for all.
      tolerance: the largest gap that counts as solved, in units of the margin.
      max_iterations: pairs of α to change at most, in each problem.
      memory_budget: bytes that the Gram matrix of one problem may take; beyond, its rows are computed on demand.

    Returns:
      The model; look at `converged`.

    Raises:
      AssertionError: shapes do not match.
      ValueError: an unknown strategy, labels that are no integers, traced or too large, one class, a negative price or
        weight, 0 for all of a class, NaN or infinite features or kernels, a negative k(x, x).

    Source:
      Knerr, Personnaz & Dreyfus (1990), Single-layer Learning Revisited, for one against one; Rifkin & Klautau (2004),
      In Defense of One-Vs-All Classification.

    >>> from mathai.kernel.kernels import linear
    >>> X, y = jnp.array([[0.0], [1.0], [4.0], [5.0]]), jnp.array([7, 7, 9, 9])
    >>> predict(fit(X, y, kernel=linear, C=10.0), jnp.array([[2.0], [3.0]])).tolist()
    [7, 9]
    """
    if strategy not in STRATEGIES:
        raise ValueError(f"fit: strategy {strategy!r} is unknown; use {' or '.join(STRATEGIES)}.")
    (X,), _ = promote(X)
    chex.assert_rank(X, 2)
    # Parameters that make no kernel are errors here, where they are known.
    jax.eval_shape(lambda row: gram(kernel, row), X[:1])
    kernel = as_pytree(kernel)
    check_at_least("fit: tolerance", tolerance, 0)
    labels, classes = known_classes("fit", y, len(X))
    check_finite("fit: X", X)
    price = _prices(C, class_weights, example_weights, labels, len(classes), X.dtype)
    check_class_prices("fit", price, labels, classes)
    rows, sign, positive, negative = _machines(labels, len(classes), strategy)
    longest = rows.shape[1]
    num_devices = devices_for(X, price, *jax.tree.leaves(kernel))
    fits = longest * longest * X.dtype.itemsize <= memory_budget
    beta, bias, gap, steps = _solve_all(
        X,
        kernel,
        price,
        rows,
        sign.astype(X.dtype),
        jnp.asarray(tolerance, X.dtype),
        jnp.asarray(max_iterations, jnp.int32),
        in_memory=fits,
        num_devices=num_devices,
    )
    if num_devices > 1:  # no longer on all of them
        beta, bias, gap, steps = (jnp.asarray(np.asarray(x)) for x in (beta, bias, gap, steps))
    if not isinstance(gap, jax.core.Tracer) and bool(jnp.any(jnp.isnan(gap))):
        raise ValueError("fit: the kernel gives NaN or infinite numbers, or a negative k(x, x).")
    weights = jax.vmap(lambda row, b: jnp.zeros(len(X), X.dtype).at[row].add(b))(jnp.asarray(rows), beta)
    return SVMModel(
        kernel,
        X,
        jnp.asarray(classes),
        weights,
        bias,
        jnp.asarray(positive),
        jnp.asarray(negative),
        gap,
        steps,
        gap <= tolerance,
    )


def decisions(model: SVMModel, X: Float[ArrayLike, "m features"]) -> Float[Array, "m machines"]:
    """What each machine decides of new examples.

        d(x) = Σᵢ αᵢyᵢk(xᵢ, x) + b

    Args:
      model: of `fit`.
      X: one example in each row.

    Returns:
      d: above 0 for a machine's `positive` class.

    Raises:
      AssertionError: X has other features than the model.

    Source:
      Cortes & Vapnik (1995), Support-Vector Networks, eq. 34.

    >>> from mathai.kernel.kernels import linear
    >>> model = fit(jnp.array([[0.0], [2.0]]), jnp.array([0, 1]), kernel=linear, C=10.0)
    >>> decisions(model, jnp.array([[0.0], [3.0]]))[:, 0].round(3)
    Array([ 1., -2.], dtype=float32)
    """
    X, dtype = _examples_like(model, X)
    return over_blocks(functools.partial(_decisions, model), X, size=PREDICTED_AT_ONCE).astype(dtype)


def predict(model: SVMModel, X: Float[ArrayLike, "m features"]) -> Int[Array, "m"]:
    """The label of each new example: that of most votes, or against the rest that of the highest decision.

        c(x) = argmax_c Σ_machines [machine votes for c],   or   argmax_c d_c(x)

    Args:
      model: of `fit`.
      X: one example in each row.

    Returns:
      Labels as they were given to `fit`; the smaller label of equal ones.

    Raises:
      AssertionError: X has other features than the model.

    Source:
      Hsu & Lin (2002), A Comparison of Methods for Multi-class Support Vector Machines, sections 2 and 3.

    >>> from mathai.kernel.kernels import linear
    >>> model = fit(jnp.array([[0.0], [2.0], [4.0]]), jnp.array([5, 3, 8]), kernel=linear, C=10.0)
    >>> predict(model, jnp.array([[0.5], [2.2], [9.0]])).tolist()
    [5, 3, 8]
    """
    X, _ = _examples_like(model, X)

    def of_block(block):
        return winners(_decisions(model, block), model.positive, model.negative, model.classes.size)

    return model.classes[over_blocks(of_block, X, size=PREDICTED_AT_ONCE)]


def _examples_like(model: SVMModel, X: ArrayLike) -> tuple[Float[Array, "m features"], np.dtype]:
    """New examples in the model's dtype, and the dtype of what is said of them."""
    (X,), dtype = promote(X)
    chex.assert_equal_shape_suffix([X, model.X], 1)
    return X.astype(model.X.dtype), dtype


def _decisions(model: SVMModel, X: Float[Array, "m features"]) -> Float[Array, "m machines"]:
    return contract("mn,kn->mk", gram(model.kernel, X, model.X), model.weights) + model.bias[None]


@functools.partial(jax.jit, static_argnames=("in_memory", "num_devices"))
def _solve_all(X, kernel, price, rows, sign, tolerance, max_steps, *, in_memory: bool, num_devices: int):
    """β, bias, gap and steps of every machine."""

    def solve(machine, shared):
        rows, sign = machine
        X, price, kernel = shared
        mine, prices = X[rows], price[rows]
        problem = classification(sign, prices)
        if in_memory:
            K = _gram_by_blocks(kernel, mine)
            diagonal = jnp.diagonal(K)
            best = _optimum.optimum(K, problem, jnp.zeros_like(sign), tolerance, max_steps)
        else:
            diagonal = jax.vmap(kernel)(mine, mine)
            best = _optimum.optimum_on_demand(lambda i: gram(kernel, mine[i], mine), problem, tolerance, max_steps)
        is_problem = has_both(problem) & jnp.all(prices >= 0)
        is_valid = is_problem & jnp.all(jnp.isfinite(best.gradient)) & jnp.all(diagonal >= 0)
        gap = jnp.where(is_valid, best.gap, jnp.nan)
        return best.beta, _optimum.bias_of(problem, best), gap, best.steps

    return spread(solve, (jnp.asarray(rows), sign), (X, price, kernel), num_devices=num_devices)


def _gram_by_blocks(kernel: Kernel, X: Array) -> Float[Array, "n n"]:
    """The Gram matrix, where it is large in blocks of rows: beside it there is never another matrix of its size."""
    n, size = len(X), PREDICTED_AT_ONCE
    if n <= 4 * size:
        return gram(kernel, X)

    def add_block(index, K):
        begin = jnp.minimum(index * size, n - size)
        rows = jax.lax.dynamic_slice_in_dim(X, begin, size)
        return jax.lax.dynamic_update_slice_in_dim(K, gram(kernel, rows, X), begin, axis=0)

    K = jax.lax.fori_loop(0, -(-n // size), add_block, jnp.zeros((n, n), X.dtype))
    return jnp.fill_diagonal(K, gram_diagonal(kernel, X), inplace=False)


def _machines(labels: np.ndarray, num_classes: int, strategy: str):
    """The examples of each machine, padded, their signs with 0 for padding, and the classes it votes for."""
    positive, negative = machines(strategy, num_classes)
    sets = [np.flatnonzero((b < 0) | (labels == a) | (labels == b)) for a, b in zip(positive, negative, strict=True)]
    rows = padded(sets)
    sign = np.where(rows < 0, 0, np.where(labels[rows] == positive[:, None], 1, -1))
    return np.maximum(rows, 0), jnp.asarray(sign), positive, negative


def padded(sets: list[np.ndarray]) -> np.ndarray:
    """Sets of indices as the rows of one array, with −1 after the end of each."""
    longest = max(map(len, sets))
    return np.stack([np.pad(rows, (0, longest - len(rows)), constant_values=-1) for rows in sets]).astype(np.int32)


def _prices(C, class_weights, example_weights, labels: np.ndarray, num_classes: int, dtype) -> Float[Array, "n"]:
    check_prices("fit", C)
    price = jnp.asarray(C, dtype)
    chex.assert_rank(price, 0)
    for name, weights in (("class_weights", class_weights), ("example_weights", example_weights)):
        if weights is None:
            continue
        check_prices(f"fit: {name}", weights)
        weights = jnp.asarray(weights, dtype)
        chex.assert_shape(weights, (num_classes if name == "class_weights" else labels.size,))
        price = price * (weights[labels] if name == "class_weights" else weights)
    return jnp.broadcast_to(price, labels.shape)
