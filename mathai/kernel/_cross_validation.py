"""Cross-validation of a support vector machine over widths, prices and folds, in one compiled program."""

import functools
from collections.abc import Sequence

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Integer

from mathai.kernel import _optimum
from mathai.kernel._arrays import check_at_least, contract, promote
from mathai.kernel._checks import check_finite, known_classes
from mathai.kernel._devices import devices_for, spread
from mathai.kernel._model import padded
from mathai.kernel._smo import classification
from mathai.kernel._voting import machines, winners
from mathai.kernel.kernels import gram, rbf

PRNGKey = Array


def cross_validate(
    X: Float[ArrayLike, "n features"],
    y: Integer[ArrayLike, "n"],
    *,
    gammas: ArrayLike | Sequence[float],
    Cs: ArrayLike | Sequence[float],
    folds: int | np.integer | Integer[ArrayLike, "n"] = 5,
    key: PRNGKey | None = None,
    tolerance: ArrayLike = 1e-3,
    max_iterations: ArrayLike = 10_000_000,
) -> Float[Array, "widths prices folds"]:
    """Accuracies of RBF machines, one against one, on held-out folds: all widths, prices and folds in one program.

    One Gram matrix per width serves all folds, prices and pairs of classes, and a price begins where the one below it
    ended. Several devices share the problems: a process that begins with `jax.config.update("jax_num_cpu_devices", 2)`
    uses two cores.

    Args:
      X: one example in each row.
      y: integer labels, at least two classes.
      gammas: γ > 0 of the kernel exp(−γ‖x − z‖²).
      Cs: prices of slack, > 0.
      folds: how many, stratified by class and shuffled by the key; or the fold of each example, 0 … F − 1.
      key: of the shuffling; None leaves the order as it is.
      tolerance: of each solution, as in `solve_dual`.
      max_iterations: of each solution.

    Returns:
      Accuracies in [0, 1]; NaN where a solution did not converge.

    Raises:
      AssertionError: shapes do not match.
      ValueError: labels that are no integers or traced, one class, a class with fewer examples than folds, a fold
        without examples or with a class that no other fold has, γ or C not above 0, NaN or infinite features.

    Source:
      Hsu, Chang & Lin (2003), A Practical Guide to Support Vector Classification, section 3.2; Knerr, Personnaz &
      Dreyfus (1990), Single-layer Learning Revisited, for one against one.

    >>> X, y = jnp.array([[0.0], [0.1], [1.0], [1.1]]), jnp.array([3, 3, 8, 8])
    >>> cross_validate(X, y, gammas=[1.0, 2.0], Cs=[1.0], folds=2).shape
    (2, 1, 2)
    """
    (X,), dtype = promote(X)
    chex.assert_rank(X, 2)
    labels, classes = known_classes("cross_validate", y, len(X))
    gammas, Cs = (_positive(name, np.asarray(values), X.dtype) for name, values in (("gammas", gammas), ("Cs", Cs)))
    check_finite("cross_validate: X", X)
    check_at_least("cross_validate: tolerance", tolerance, 0)
    fold_of = (
        stratified_folds(key, labels, int(folds))
        if isinstance(folds, int | np.integer)
        else _given_folds(folds, labels)
    )
    train, sign, pairs = _training_sets(labels, fold_of, len(classes))
    test = padded([np.flatnonzero(fold_of == fold) for fold in range(fold_of.max() + 1)])
    ascending = np.argsort(np.asarray(Cs), kind="stable")
    accuracies = _accuracies(
        X,
        jnp.asarray(labels),
        gammas,
        Cs[ascending],
        train,
        jnp.asarray(sign, X.dtype),
        test,
        tolerance,
        max_iterations,
        pairs=pairs,
        num_devices=devices_for(X),
    )
    return accuracies[:, np.argsort(ascending)].astype(dtype)


def stratified_folds(key: PRNGKey | None, labels: np.ndarray, num_folds: int) -> np.ndarray:
    """A fold for each example, so that every fold has its share of every class, and folds differ by few examples."""
    if num_folds < 2:
        raise ValueError(f"cross_validate: folds is {num_folds}; there must be at least 2.")
    order = np.arange(labels.size) if key is None else np.asarray(jax.random.permutation(key, labels.size))
    fold_of, begin = np.empty(labels.size, np.int32), 0
    for label in np.unique(labels):
        members = order[labels[order] == label]
        if members.size < num_folds:
            raise ValueError(
                f"cross_validate: a class has {members.size} examples, fewer than the {num_folds} folds; use fewer."
            )
        fold_of[members] = (begin + np.arange(members.size)) % num_folds
        begin += members.size  # where one class leaves off, the next begins
    return fold_of


@functools.partial(jax.jit, static_argnames=("pairs", "num_devices"))
def _accuracies(
    X, labels, gammas, Cs, train, sign, test, tolerance, max_iterations, *, pairs: tuple, num_devices: int
) -> Float[Array, "widths prices folds"]:
    num_folds, num_pairs, num_classes = len(test), len(pairs), max(b for _, b in pairs) + 1
    tolerance, max_steps = jnp.asarray(tolerance, X.dtype), jnp.int32(max_iterations)

    def solve(problem, shared):
        """One pair of classes without one fold: all prices, each from the solution of the one below."""
        rows, sign = problem
        K, Cs = shared
        sub_K = jnp.where((sign != 0)[:, None] & (sign != 0)[None, :], K[rows[:, None], rows[None, :]], 0)

        def at_price(start, C):
            boxed = classification(sign, C)
            beta, gradient = start
            best = _optimum.optimum_from(sub_K, boxed, beta, gradient, tolerance, max_steps)
            bias = jnp.where(best.gap <= tolerance, _optimum.bias_of(boxed, best), jnp.nan)
            return (best.beta, best.gradient), (best.beta, bias)

        return jax.lax.scan(at_price, (jnp.zeros_like(sign), -sign), Cs)[1]

    def of_width(gamma):
        K = gram(functools.partial(rbf, gamma=gamma), X)
        beta, bias = spread(solve, (train, sign), (K, Cs), num_devices=num_devices)
        beta = beta.reshape(num_folds, num_pairs, *beta.shape[1:])  # [folds, pairs, prices, m]
        bias = bias.reshape(num_folds, num_pairs, -1)
        rows = train.reshape(num_folds, num_pairs, -1)
        return jax.lax.map(lambda fold: of_fold(K, *fold), (beta, bias, rows, test)).T  # [prices, folds]

    def of_fold(K, beta, bias, rows, held_out):
        place = jnp.arange(num_pairs)[:, None], rows
        weights = jax.vmap(lambda b: jnp.zeros((num_pairs, len(X)), X.dtype).at[place].add(b), 1)(beta)
        decision = contract("tn,cpn->ctp", K[jnp.maximum(held_out, 0)], weights) + bias.T[:, None, :]
        first, second = jnp.array(pairs).T
        predicted = jax.vmap(lambda d: winners(d, first, second, num_classes))(decision)
        is_example = held_out >= 0
        right = jnp.sum((predicted == labels[jnp.maximum(held_out, 0)][None]) & is_example[None], axis=1)
        share = right / jnp.sum(is_example)
        return jnp.where(jnp.any(jnp.isnan(bias), axis=0), jnp.nan, share)

    return jax.lax.map(of_width, gammas)


def _training_sets(labels: np.ndarray, fold_of: np.ndarray, num_classes: int):
    """For every fold and pair of classes: the examples to learn from, padded, and their signs, 0 for padding."""
    pairs = tuple((int(a), int(b)) for a, b in zip(*machines("one_vs_one", num_classes), strict=True))
    sets = []
    for fold in range(fold_of.max() + 1):
        kept = fold_of != fold
        for label in range(num_classes):
            if not np.any(kept & (labels == label)):
                raise ValueError(f"cross_validate: all examples of a class are in fold {fold}; no other has any.")
        sets += [np.flatnonzero(kept & ((labels == a) | (labels == b))) for a, b in pairs]
    rows = padded(sets)
    first = np.array([a for a, _ in pairs] * (fold_of.max() + 1))[:, None]
    sign = np.where(rows < 0, 0, np.where(labels[rows] == first, 1, -1))
    return np.maximum(rows, 0), sign, pairs


def _given_folds(folds: ArrayLike, labels: np.ndarray) -> np.ndarray:
    fold_of = np.asarray(folds)
    chex.assert_equal_shape([fold_of, labels])
    if not np.issubdtype(fold_of.dtype, np.integer):
        raise ValueError(f"cross_validate: folds are {fold_of.dtype}; they must be integers.")
    if sorted(set(fold_of.tolist())) != list(range(fold_of.max() + 1)) or fold_of.max() < 1:
        raise ValueError("cross_validate: folds must hold every number from 0 to F - 1, with F at least 2.")
    return fold_of


def _positive(name: str, values: np.ndarray, dtype) -> Array:
    check_at_least(f"cross_validate: {name}", values, float(np.finfo(dtype).tiny))
    chex.assert_rank(values, 1)
    return jnp.asarray(values, dtype)
