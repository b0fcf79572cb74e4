"""Features learned under a support vector machine: the gradient goes through the solution of its dual.

Beside it the same network under a softmax, for comparison.
"""

import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree, Shaped

from mathai.kernel._arrays import contract
from mathai.kernel.svm import decision_function, solve_dual
from mathai.learners.base import (
    Learner,
    adam,
    check_between,
    check_choices,
    check_positive,
    hyperparameters,
    is_known,
    weights_only,
)
from mathai.learners.batches import Examples, as_vectors, steps_per_epoch
from mathai.models.layers import Linear
from mathai.models.mlp import MLP
from mathai.nn import losses, scores

HEADS = ("svm", "softmax")


@hyperparameters
class Config:
    """Hyperparameters; floats may be traced, all else is static.

    Attributes:
      head: "svm", or "softmax": a linear layer and the cross entropy.
      hidden_sizes: widths of the network's hidden layers.
      num_features: that the network gives to the head.
      C: the price of slack in the machines of the head.
      tolerance: of their solutions, in units of the margin.
      num_support: training examples, the first so many, that the machines are fitted to for evaluation.
      batch_size: examples in an update; half of them support the machines, the other half is decided.
      num_epochs: passes over the training data.
      learning_rate: η of Adam.
      schedule: of η: "constant", "linear" or "cosine".
      weight_decay: λ, decoupled, of weights alone.
    """

    head: str = "svm"
    hidden_sizes: tuple[int, ...] = (128,)
    num_features: int = 32
    C: float = 1.0
    tolerance: float = 1e-3
    num_support: int = 1000
    batch_size: int = 128
    num_epochs: int = 10
    learning_rate: float = 1e-3
    schedule: str = "cosine"
    weight_decay: float = 0.0


class State(NamedTuple):
    """Everything that changes.

    Attributes:
      params: of the network, and of its head: the scale of an SVM's decisions, or a linear layer.
      optimizer: Adam's moments and counts.
      num_examples: training examples seen.
    """

    params: PyTree
    optimizer: optax.OptState
    num_examples: Int[Array, ""]


class _Network(nn.Module):
    """A multilayer perceptron to features, and what the head has of parameters."""

    config: Config
    num_classes: int

    def setup(self):
        self.body = MLP((*self.config.hidden_sizes, self.config.num_features))
        if self.config.head == "softmax":
            self.linear = Linear(self.num_classes)
        else:
            self.log_scale = self.param("log_scale", nn.initializers.zeros, ())

    def __call__(self, x: Float[Array, "n features"]) -> tuple[Array, Array]:
        """Features, and logits of the linear layer, or the scale of decisions."""
        features = self.body(x)
        return features, self.linear(features) if self.config.head == "softmax" else jnp.exp(self.log_scale)


def make(config: Config, train: Examples, test: Examples, *, num_classes: int) -> Learner[State]:
    """A network with an SVM for its head as a learner: one update is one gradient step on a minibatch of `Examples`.

    Half of a batch (S) is what the machines, one against the rest for each class c, are fitted to; the network's
    features φ_θ are their kernel, and they decide the other half (Q):

        α_c(θ) = argmax D(α; K_θ, y_c),   K_θ[i, j] = φ_θ(x_i)ᵀφ_θ(x_j),   i, j in S
        L(θ, s) = 1/|Q| Σ_{q in Q} H(y_q, softmax_c(s · d_c(x_q)))

    The gradient of L passes through α_c by implicit differentiation of the conditions that make it optimal.

    Args:
      config: hyperparameters.
      train: the training data, of which only shapes and dtypes are used here.
      test: not used here; learners of labelled data are made alike.
      num_classes: C.

    Returns:
      A learner whose batch is `Examples`, in random order. Update metrics: `loss` and `accuracy` of the half that is
      decided (of a softmax: of the whole batch), `gradient_norm`, `converged` (the share of machines; 1 of a softmax)
      and `examples` seen. Evaluation takes a third argument, the training and the test examples: the machines are
      fitted to the first `num_support` of the former. Its metrics: `accuracy` and `cross_entropy` on the latter,
      `svm_accuracy` of machines on the same features (of a head that is one, the same), and `converged`.

    Raises:
      ValueError: a name in the config is unknown, a number is out of its range, or batch_size does not fit.

    Source:
      Lee, Maji, Ravichandran & Soatto (2019), Meta-Learning with Differentiable Convex Optimization, sections 3.2 and
      3.3, for machines of one class against the rest in place of theirs of all classes at once.
    """
    del test
    check_choices(config, {"head": HEADS})
    check_positive(config, "num_features", "num_support", "batch_size", "num_epochs")
    check_between(config, 0, math.inf, "C", "tolerance", "learning_rate", "weight_decay")
    if is_known(config.C, 0):
        raise ValueError("svm_head: C is 0; a price of slack above 0 is needed.")
    updates_per_epoch = steps_per_epoch(len(train.labels), config.batch_size)
    if config.head == "svm" and config.batch_size < 4:
        raise ValueError(f"svm_head: batch_size is {config.batch_size}; a half of it must hold two examples or more.")
    if num_classes < 2:
        raise ValueError(f"svm_head: num_classes is {num_classes}; there must be at least 2.")
    network = _Network(config, num_classes)
    optimizer = adam(
        config.learning_rate,
        weight_decay=config.weight_decay,
        schedule=config.schedule,
        num_steps=config.num_epochs * updates_per_epoch,
        mask=weights_only,
    )

    def init(key):
        params = network.init(key, as_vectors(jnp.zeros_like(train.inputs[:1])))["params"]
        return State(params, optimizer.init(params), jnp.int32(0))

    def objective(params, batch):
        features, head = _apply(network, params, batch.inputs)
        if config.head == "softmax":
            logits, labels, converged = head, batch.labels, jnp.float32(1)
        else:
            half = len(batch.labels) // 2
            decision, converged = _decide(config, num_classes, features[:half], batch.labels[:half], features[half:])
            logits, labels = head * decision, batch.labels[half:]
        loss = jnp.mean(losses.categorical_cross_entropy_with_integer_labels(logits, labels))
        return loss, (scores.accuracy(logits, labels), converged)

    def update(state: State, batch: Examples):
        (loss, (accuracy, converged)), gradient = jax.value_and_grad(objective, has_aux=True)(state.params, batch)
        steps, optimizer_state = optimizer.update(gradient, state.optimizer, state.params)
        num_examples = state.num_examples + len(batch.labels)
        metrics = {
            "loss": loss,
            "accuracy": accuracy,
            "gradient_norm": optax.tree.norm(gradient),
            "converged": converged,
            "examples": num_examples,
        }
        return State(optax.apply_updates(state.params, steps), optimizer_state, num_examples), metrics

    def evaluate(key, state: State, examples: Any = None):
        del key  # deterministic
        train, test = examples
        logits, decision, converged = _both_heads(config, num_classes, state, train, test.inputs)
        cross_entropy = losses.categorical_cross_entropy_with_integer_labels(logits, test.labels)
        return {
            "accuracy": scores.accuracy(logits, test.labels),
            "cross_entropy": jnp.mean(cross_entropy),
            "svm_accuracy": scores.accuracy(decision, test.labels),
            "converged": converged,
        }

    return Learner(init, update, evaluate)


def predict(
    config: Config, num_classes: int, state: State, train: Examples, inputs: Shaped[Array, "m ..."]
) -> Float[Array, "m classes"]:
    """Logits of new inputs, by a head fitted to the first `num_support` examples of `train` where it is an SVM."""
    return _both_heads(config, num_classes, state, train, inputs)[0]


def _apply(network: _Network, params: PyTree, inputs: Array) -> tuple[Array, Array]:
    outputs: Any = network.apply({"params": params}, as_vectors(jnp.asarray(inputs)))
    return outputs


def _both_heads(config: Config, num_classes: int, state: State, train: Examples, inputs: Array):
    """The head's logits, the decisions of machines on the same features, and the share of these that converged."""
    network = _Network(config, num_classes)
    support = jax.tree.map(lambda array: array[: config.num_support], train)
    features, _ = _apply(network, state.params, support.inputs)
    of_inputs, head = _apply(network, state.params, inputs)
    decision, converged = _decide(config, num_classes, features, support.labels, of_inputs)
    return head if config.head == "softmax" else head * decision, decision, converged


def _decide(
    config: Config,
    num_classes: int,
    support: Float[Array, "n features"],
    labels: Int[Array, "n"],
    queries: Float[Array, "m features"],
) -> tuple[Float[Array, "m classes"], Float[Array, ""]]:
    """Decisions of a machine for each class against the rest, −1 of a class that has no example in the support."""
    K, K_queries = (contract("md,nd->mn", x, support) for x in (support, queries))
    first = jnp.arange(len(labels)) == 0

    def of_class(label):
        mine = labels == label
        is_problem = jnp.any(mine) & ~jnp.all(mine)
        # Without two classes there is nothing to solve: one that can be is solved in its place, and not used.
        y = jnp.where(jnp.where(is_problem, mine, first), 1, -1)
        solution = solve_dual(K, y, config.C, tolerance=config.tolerance)
        decision = decision_function(K_queries, y, solution)
        constant = jnp.where(jnp.any(mine), 1.0, -1.0)
        return jnp.where(is_problem, decision, constant), solution.converged

    # One after another: on a CPU in step all would wait for the slowest.
    decision, converged = jax.lax.map(of_class, jnp.arange(num_classes))
    return decision.T, jnp.mean(converged.astype(jnp.float32))
