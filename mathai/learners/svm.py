"""A support vector machine for any number of classes, one round of its solver per update.

For fits so large that one wants to see them come: progress, checkpoints and resume as of every learner. Smaller ones
are one call of `mathai.kernel.svm.fit`.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int, Shaped

from mathai.kernel import _blocks, _optimum, _smo, kernels, svm
from mathai.kernel._arrays import contract, over_blocks
from mathai.kernel._smo import Problem
from mathai.kernel._voting import STRATEGIES, machines
from mathai.learners.base import (
    DATA_AXIS,
    Learner,
    check_between,
    check_choices,
    check_positive,
    hyperparameters,
    is_known,
)
from mathai.learners.batches import Examples, as_vectors

KERNELS = ("linear", "polynomial", "rbf")
ROWS_AT_ONCE = 1024  # of kernels with all training examples


@hyperparameters
class Config:
    """Hyperparameters; floats may be traced, all else is static.

    Attributes:
      kernel: "rbf", "polynomial" or "linear", on inputs flattened to vectors.
      gamma: γ of the first two.
      degree: of the polynomial.
      constant: c of the polynomial.
      C: the price of slack.
      strategy: "one_vs_one", a machine for each pair of classes; or "one_vs_rest", one for each class.
      tolerance: the gap, in units of the margin, at which a machine is solved and no longer changes.
      block: examples that a round improves, even.
      num_updates: rounds in all.
    """

    kernel: str = "rbf"
    gamma: float = 0.05
    degree: int = 3
    constant: float = 1.0
    C: float = 1.0
    strategy: str = "one_vs_one"
    tolerance: float = 1e-3
    block: int = 256
    num_updates: int = 100


class State(NamedTuple):
    """Everything that changes, for each machine.

    Attributes:
      beta: αᵢyᵢ, [machines, n].
      gradient: Kβ − y, brought up to date by every round, [machines, n].
      kept: examples that stay for the next round, [machines, block / 2].
      is_kept: False where such a place is empty.
      iterations: pairs changed, [machines].
    """

    beta: Float[Array, "machines n"]
    gradient: Float[Array, "machines n"]
    kept: Int[Array, "machines half"]
    is_kept: Bool[Array, "machines half"]
    iterations: Int[Array, "machines"]


def make(
    config: Config, num_examples: int, num_classes: int, *, mesh: Mesh | None = None, axis: str = DATA_AXIS
) -> Learner[State]:
    """The dual of every machine as a learner: one update is one block of each, improved pair by pair.

    Args:
      config: hyperparameters.
      num_examples: of the batch, which is the whole training set at every update.
      num_classes: labels are 0 … num_classes − 1.
      mesh: devices that share the work, with axes of type Auto; None is one device.
      axis: of the mesh, over which the rows of Gram matrices are spread.

    Returns:
      A learner whose batch is `Examples`. Update metrics: `gap`, the largest of any machine before the round, and
      `converged`, the share of machines at most at the tolerance; `objective`, the sum of the dual objectives;
      `support_vectors`, examples that any machine uses; `iterations` so far. Evaluation takes a third argument, the
      training and the test examples; its metrics: `accuracy` on the test examples, and the largest `gap`, from
      gradients computed anew.

    Raises:
      ValueError: a number is out of its range, or a name is unknown.

    Source:
      Joachims (1999), Making Large-Scale SVM Learning Practical, section 3; Fan, Chen & Lin (2005), Working Set
      Selection Using Second Order Information for Training Support Vector Machines.
    """
    check_choices(config, {"kernel": KERNELS, "strategy": STRATEGIES})
    check_between(config, 0, math.inf, "gamma", "constant", "C", "tolerance")
    check_positive(config, "degree", "num_updates")
    if is_known(config.C, 0):
        raise ValueError("svm: C is 0; a price of slack above 0 is needed.")
    if num_classes < 2:
        raise ValueError(f"svm: num_classes is {num_classes}; there must be at least 2.")
    if config.block < _blocks.SMALLEST or num_examples < 2:
        raise ValueError(
            f"svm: block is {config.block} of {num_examples} examples; "
            f"it must be at least {_blocks.SMALLEST}, of 2 examples or more."
        )
    half = max(_blocks.SMALLEST, min(config.block, num_examples)) // 2
    kernel = kernel_of(config)
    first, second = map(jnp.asarray, machines(config.strategy, num_classes))

    def init(key):
        del key  # nothing here is random
        nothing = jnp.zeros((first.size, num_examples))
        # The gradient of β = 0 is −y, which the first update knows.
        return State(
            nothing,
            jnp.full_like(nothing, jnp.nan),
            jnp.zeros((first.size, half), jnp.int32),
            jnp.zeros((first.size, half), bool),
            jnp.zeros(first.size, jnp.int32),
        )

    def update(state: State, batch: Examples):
        X = _vectors(batch.inputs)

        def improve(machine):
            (beta, gradient, kept, is_kept, iterations), first, second = machine
            problem = _problem_of(config, batch.labels, first, second)
            gradient = jnp.where(jnp.isnan(gradient), -problem.target, gradient)
            now = _smo.at(problem, beta, gradient, iterations)
            rows = functools.partial(rows_of, X)
            blocks = _blocks.Blocks(now, kept, is_kept, rows(kept))
            gap = jnp.where(_smo.has_both(problem), now.gap, jnp.inf)
            is_done = gap <= config.tolerance
            after = jax.lax.cond(
                is_done,
                lambda: blocks,
                lambda: _blocks.one_round(
                    rows,
                    problem,
                    blocks,
                    tolerance=jnp.asarray(config.tolerance, X.dtype),
                    max_steps=jnp.int32(jnp.iinfo(jnp.int32).max),
                ),
            )
            new = State(after.now.beta, after.now.gradient, after.kept, after.is_kept, after.now.steps)
            return new, (jnp.maximum(gap, 0), is_done, _smo.value_of(problem, after.now))

        state, (gap, is_done, objective) = jax.lax.map(improve, (state, first, second))
        return state, {
            "gap": jnp.max(gap),
            "converged": jnp.mean(is_done.astype(jnp.float32)),
            "objective": jnp.sum(objective),
            "support_vectors": jnp.sum(jnp.any(state.beta != 0, axis=0)),
            "iterations": jnp.sum(state.iterations),
        }

    def evaluate(key, state: State, examples: Any = None):
        del key
        train, test = examples  # of training and of test
        model = as_model(config, num_classes, state, train)
        predicted = svm.predict(model, _vectors(test.inputs))
        return {"accuracy": jnp.mean((predicted == test.labels).astype(jnp.float32)), "gap": jnp.max(model.gap)}

    def rows_of(X, indices):
        return kernels.gram(kernel, X[indices], X, mesh=mesh, axis=axis)

    return Learner(init, update, evaluate)


def predict(
    config: Config, num_classes: int, state: State, train: Examples, inputs: Shaped[Array, "m ..."]
) -> Int[Array, "m"]:
    """The class of each input, by the machines of a state that learned from `train`."""
    return svm.predict(as_model(config, num_classes, state, train), _vectors(inputs))


def as_model(config: Config, num_classes: int, state: State, train: Examples) -> svm.SVMModel:
    """The machines of a state as `mathai.kernel.svm.fit` gives them, gaps and biases from gradients computed anew."""
    X, kernel = _vectors(train.inputs), kernels.as_pytree(kernel_of(config))
    first, second = map(jnp.asarray, machines(config.strategy, num_classes))
    gradients = over_blocks(
        lambda rows: contract("mn,kn->mk", kernels.gram(kernel, rows, X), state.beta), X, size=ROWS_AT_ONCE
    )

    def certify(machine):
        beta, gradient, first, second = machine
        problem = _problem_of(config, train.labels, first, second)
        now = _smo.at(problem, beta, gradient - problem.target, jnp.int32(0))
        return jnp.where(_smo.has_both(problem), now.gap, jnp.inf), _optimum.bias_of(problem, now)

    gap, bias = jax.lax.map(certify, (state.beta, gradients.T, first, second))
    classes, is_done = jnp.arange(num_classes), gap <= config.tolerance
    return svm.SVMModel(kernel, X, classes, state.beta, bias, first, second, gap, state.iterations, is_done)


def _problem_of(config: Config, labels: Array, first: Array, second: Array) -> Problem:
    """Class `first` is +1; `second`, or with −1 all others, is −1; the rest takes no part."""
    labels = jnp.asarray(labels)
    against = (labels == second) | ((second < 0) & (labels != first))
    sign = jnp.where(labels == first, 1.0, jnp.where(against, -1.0, 0.0))
    return _smo.classification(sign, jnp.asarray(config.C))


def kernel_of(config: Config) -> kernels.Kernel:
    """Return the kernel that a config names."""
    if config.kernel == "linear":
        return kernels.linear
    if config.kernel == "rbf":
        return functools.partial(kernels.rbf, gamma=config.gamma)
    return functools.partial(kernels.polynomial, degree=config.degree, c=config.constant, gamma=config.gamma)


def _vectors(inputs: Shaped[Array, "n ..."]) -> Float[Array, "n features"]:
    return as_vectors(jnp.asarray(inputs))
