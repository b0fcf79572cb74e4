"""t-SNE whose embedding is a function of the data: any Flax encoder, trained on the same divergence.

What is learned places new examples without any search, and changes smoothly with them.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree, Shaped

from mathai.learners.base import Learner, PRNGKey, adam, check_between, check_positive, hyperparameters
from mathai.learners.batches import inputs_of
from mathai.models.mlp import MLP
from mathai.reduction import _distances, tsne


@hyperparameters
class Config:
    """Hyperparameters.

    Attributes:
      perplexity: the effective number of neighbours within a batch.
      num_components: of the embedding.
      hidden_sizes: of the MLP that encodes, unless another model is given.
      batch_size: examples whose affinities to one another one update matches.
      num_epochs: passes over the data.
      learning_rate: η of Adam, constant.
    """

    perplexity: float = 30.0
    num_components: int = 2
    hidden_sizes: tuple[int, ...] = (256, 256)
    batch_size: int = 500
    num_epochs: int = 200
    learning_rate: float = 1e-3


class State(NamedTuple):
    """Everything that changes.

    Attributes:
      key: of the start.
      params: of the encoder.
      optimizer: Adam's moments and counts.
      num_examples: training examples seen.
    """

    key: PRNGKey
    params: PyTree
    optimizer: optax.OptState
    num_examples: Int[Array, ""]


def make(config: Config, inputs: Shaped[Array, "n ..."], *, model: nn.Module | None = None) -> Learner[State]:
    """Parametric t-SNE as a learner: one update is one gradient step on the divergence within a minibatch.

        L(θ) = KL(P(X_B) ‖ Q(f_θ(X_B)))

    Args:
      config: hyperparameters.
      inputs: the data, of which only the shape is used.
      model: f, from vectors [m, features] to [m, components]; None makes an MLP of `hidden_sizes`.

    Returns:
      A learner whose batch is an array [m, ...] or `Examples`, whose labels it ignores. Update metrics: `loss`,
      `gradient_norm`, `examples` seen. Evaluation, with examples as its third argument, gives their `kl_divergence`.

    Raises:
      ValueError: a number is out of its range, the perplexity too large for the batch, or an evaluation without
        examples.

    Source:
      van der Maaten (2009), Learning a Parametric Embedding by Preserving Local Structure, section 2.
    """
    check_positive(config, "num_components", "batch_size", "num_epochs", "hidden_sizes")
    check_between(config, 1.0, config.batch_size - 2.0, "perplexity")
    model = model or MLP((*config.hidden_sizes, config.num_components))
    optimizer = adam(config.learning_rate)
    num_features = inputs_of(jnp.zeros((1, *jnp.shape(inputs)[1:]))).shape[1]

    def init(key):
        key, start = jax.random.split(key)
        params = model.init(start, jnp.zeros((1, num_features)))
        return State(key, params, optimizer.init(params), jnp.int32(0))

    def divergence(params, X):
        conditional = tsne.conditional_affinities(_distances.squared_distances(X, X), config.perplexity)
        return tsne.kl_divergence(tsne.joint_affinities(conditional), jnp.asarray(model.apply(params, X)))

    def update(state: State, batch: Any):
        X = inputs_of(batch)
        loss, gradient = jax.value_and_grad(divergence)(state.params, X)
        step, moments = optimizer.update(gradient, state.optimizer, state.params)
        params = optax.apply_updates(state.params, step)
        seen = state.num_examples + len(X)
        metrics = {"loss": loss, "gradient_norm": optax.tree.norm(gradient), "examples": seen}
        return State(state.key, params, moments, seen), metrics

    def evaluate(key, state: State, data: Any = None):
        del key  # deterministic
        if data is None:
            raise ValueError("parametric_tsne: evaluate takes examples as its third argument.")
        return {"kl_divergence": divergence(state.params, inputs_of(data))}

    return Learner(init, update, evaluate)


def embedding(
    config: Config, state: State, *, model: nn.Module | None = None
) -> Callable[[Any], Float[Array, "m components"]]:
    """Return what places examples: f with the parameters of a state."""
    model = model or MLP((*config.hidden_sizes, config.num_components))
    return lambda examples: jnp.asarray(model.apply(state.params, inputs_of(examples)))
