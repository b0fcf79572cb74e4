"""UMAP whose embedding is a function of the data: any Flax encoder, trained on edges of the fuzzy neighbour graph.

What is learned places new examples without any search, and changes smoothly with them.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, PyTree, Shaped, UInt32

from mathai.learners.base import Learner, PRNGKey, adam, check_between, check_choices, check_positive, hyperparameters
from mathai.learners.batches import inputs_of
from mathai.models.mlp import MLP
from mathai.reduction import _curve, _layout
from mathai.reduction import umap as formulas
from mathai.reduction._neighborhoods import lists_with_self
from mathai.reduction.neighbors import METRICS


@hyperparameters
class Config:
    """Hyperparameters.

    Attributes:
      num_neighbors: of the fuzzy neighbourhoods, the point itself counted.
      min_dist: how close points may lie.
      spread: over which the curve falls.
      num_components: of the embedding.
      metric: of the data.
      hidden_sizes: of the MLP that encodes, unless another model is given.
      batch_size: edges of one update.
      num_updates: gradient steps.
      num_negatives: other examples of the batch that push for each edge.
      learning_rate: η of Adam at the start; it falls linearly to 0.
    """

    num_neighbors: int = 15
    min_dist: float = 0.1
    spread: float = 1.0
    num_components: int = 2
    metric: str = "euclidean"
    hidden_sizes: tuple[int, ...] = (256, 256)
    batch_size: int = 1000
    num_updates: int = 3000
    num_negatives: int = 5
    learning_rate: float = 3e-3


class Edges(NamedTuple):
    """A data set and the edges between its examples, to draw from.

    Attributes:
      inputs: examples as vectors.
      rows: one end of each edge.
      columns: the other.
      below: the sum of the weights of all edges before this one and of its own, as whole numbers: sums of floats would
        let entries of weight 0 be drawn, and lose those of many edges that are weak.
    """

    inputs: Float[Array, "n features"]
    rows: Int[Array, "edges"]
    columns: Int[Array, "edges"]
    below: UInt32[Array, "edges"]


class Batch(NamedTuple):
    """The ends of edges.

    Attributes:
      here: examples.
      there: their neighbours.
    """

    here: Float[Array, "m features"]
    there: Float[Array, "m features"]


class State(NamedTuple):
    """Everything that changes.

    Attributes:
      key: of the pairs that push.
      params: of the encoder.
      optimizer: Adam's moments and counts.
      updates: that were made.
    """

    key: PRNGKey
    params: PyTree
    optimizer: optax.OptState
    updates: Int[Array, ""]


def make(config: Config, inputs: Shaped[Array, "n ..."], *, model: nn.Module | None = None) -> Learner[State]:
    """Parametric UMAP as a learner: one update is one gradient step on edges and random pairs of a batch.

        L(θ) = mean_(i,j) [−log q(f_θ(xᵢ), f_θ(xⱼ)) + Σ_m −log (1 − q(f_θ(xᵢ), f_θ(x_k)))],   k of other edges

    Args:
      config: hyperparameters.
      inputs: the data, of which only the shape is used.
      model: f, from vectors [m, features] to [m, components]; None makes an MLP of `hidden_sizes`.

    Returns:
      A learner whose batch is what `draw` gives. Update metrics: `loss`, `gradient_norm`. Evaluation, with such a batch
      as its third argument, gives its `loss`.

    Raises:
      ValueError: a number is out of its range, or an evaluation without a batch.

    Source:
      Sainburg, McInnes & Gentner (2021), Parametric UMAP Embeddings for Representation and Semisupervised Learning,
      section 2.
    """
    check_positive(config, "num_components", "batch_size", "num_updates", "num_negatives", "hidden_sizes")
    check_between(config, 0.0, float("inf"), "learning_rate")
    check_choices(config, {"metric": METRICS})
    if config.batch_size < 2:
        raise ValueError(f"parametric_umap: batch_size is {config.batch_size}; pairs that push need at least 2 edges.")
    curve = _layout.Curve(*_curve.check_and_fit("parametric_umap", config.spread, config.min_dist))
    model = model or MLP((*config.hidden_sizes, config.num_components))
    optimizer = adam(config.learning_rate, schedule="linear", num_steps=config.num_updates)
    num_features = inputs_of(jnp.zeros((1, *jnp.shape(inputs)[1:]))).shape[1]

    def init(key):
        key, start = jax.random.split(key)
        params = model.init(start, jnp.zeros((1, num_features)))
        return State(key, params, optimizer.init(params), jnp.int32(0))

    def loss_of(params, batch: Batch, key):
        size = len(batch.here)
        both = jnp.asarray(model.apply(params, jnp.concatenate([batch.here, batch.there])))
        here, there = both[:size], both[size:]
        attraction = jax.nn.softplus(_layout.log_power(here - there, curve))
        shifts = jax.random.randint(key, (config.num_negatives,), 1, size)
        others = jax.vmap(lambda shift: jnp.roll(there, shift, axis=0))(shifts)
        repulsion = jax.nn.softplus(-_layout.log_power(here[None] - others, curve))
        return jnp.mean(attraction) + config.num_negatives * jnp.mean(repulsion)

    def update(state: State, batch: Batch):
        loss, gradient = jax.value_and_grad(loss_of)(state.params, batch, jax.random.fold_in(state.key, state.updates))
        step, moments = optimizer.update(gradient, state.optimizer, state.params)
        params = optax.apply_updates(state.params, step)
        metrics = {"loss": loss, "gradient_norm": optax.tree.norm(gradient)}
        return State(state.key, params, moments, state.updates + 1), metrics

    def evaluate(key, state: State, batch: Batch | None = None):
        if batch is None:
            raise ValueError("parametric_umap: evaluate takes a batch of `draw` as its third argument.")
        return {"loss": loss_of(state.params, batch, key)}

    return Learner(init, update, evaluate)


def prepare(config: Config, inputs: Shaped[ArrayLike, "n ..."]) -> Edges:
    """The edges of the fuzzy graph of a data set.

    Raises:
      ValueError: fewer than 4 points, or NaN among them.
    """
    X = inputs_of(jnp.asarray(inputs))
    graph = formulas.fuzzy_simplicial_set(
        *lists_with_self("parametric_umap", X, config.num_neighbors, config.metric, "auto", None)
    )
    return edges_of(X, graph)


def edges_of(inputs: Float[Array, "n features"], graph: formulas.FuzzyGraph) -> Edges:
    """Edges to draw from: weights in units of their sum over 2³² or so."""
    total = jnp.maximum(jnp.sum(graph.weights), jnp.finfo(graph.weights.dtype).tiny)
    unit = 2.0**32 * 0.99 - len(graph.weights)  # rounding adds at most ½ each
    whole = jnp.round(graph.weights / total * unit).astype(jnp.uint32)
    return Edges(inputs, graph.rows, graph.columns, jnp.cumsum(whole, dtype=jnp.uint32))


def draw(key: PRNGKey, edges: Edges, step: Int[Array, ""] | int, *, batch_size: int) -> Batch:
    """The batch of a step: edges drawn in proportion to their weights; it depends on key and step alone."""
    bits = jax.random.bits(jax.random.fold_in(key, step), (batch_size,), jnp.uint32)
    chosen = _high_half(bits, edges.below[-1])
    index = jnp.searchsorted(edges.below, chosen, side="right")
    rows, columns = (jnp.take(ends, index, mode="clip") for ends in (edges.rows, edges.columns))
    return Batch(*(jnp.take(edges.inputs, ends, axis=0, mode="clip") for ends in (rows, columns)))


def _high_half(a: UInt32[Array, "m"], b: UInt32[Array, ""]) -> UInt32[Array, "m"]:
    """⌊a b / 2³²⌋, which for random a is uniform below b; `jax.random.randint` is not, of numbers as large."""
    half = jnp.uint32(2**16 - 1)
    a_high, a_low, b_high, b_low = a >> 16, a & half, b >> 16, b & half
    middle = a_high * b_low + (a_low * b_low >> 16)
    return a_high * b_high + (middle >> 16) + (a_low * b_high + (middle & half) >> 16)


def embedding(
    config: Config, state: State, *, model: nn.Module | None = None
) -> Callable[[Any], Float[Array, "m components"]]:
    """Return what places examples: f with the parameters of a state."""
    model = model or MLP((*config.hidden_sizes, config.num_components))
    return lambda examples: jnp.asarray(model.apply(state.params, inputs_of(examples)))
