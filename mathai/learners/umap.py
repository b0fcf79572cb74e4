"""UMAP, one epoch in an update: for long runs with progress, checkpoints and resume.

A small data set is one call of `mathai.reduction.umap.embed`, which makes the same epochs.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, Shaped

from mathai.learners import pca
from mathai.learners.base import (
    Learner,
    PRNGKey,
    check_between,
    check_choices,
    check_positive,
    hyperparameters,
)
from mathai.reduction import _curve, _edge_ranks, _fuzzy_graph, _layout, _start
from mathai.reduction import umap as formulas
from mathai.reduction._edge_ranks import EdgeRanks
from mathai.reduction._neighborhoods import SEARCHES, lists_with_self
from mathai.reduction.neighbors import METRICS


@hyperparameters
class Config:
    """Hyperparameters; those of `mathai.reduction.umap.embed` mean what they mean there.

    Attributes:
      num_neighbors: of the fuzzy neighbourhoods, the point itself counted.
      min_dist: how close points may lie.
      spread: over which the curve falls.
      num_input_components: principal components of the data in which distances are taken; 0 takes the data as they are.
      num_components: of the embedding.
      metric: of the data.
      neighbor_search: "auto", "exact" or "approximate".
      init: "spectral", "pca" or "random".
      supervised: whether the classes of the data, where it has some, shape the graph.
      target_weight: how much these count, 0 … 1.
      num_epochs: passes over the edges; 0 makes 500 up to 10 000 points, else 200.
      learning_rate: α at the start; it falls linearly to 0.
      repulsion_strength: factor of the pushes.
      num_negatives: points that push for each pull.
    """

    num_neighbors: int = 15
    min_dist: float = 0.1
    spread: float = 1.0
    num_input_components: int = 0
    num_components: int = 2
    metric: str = "euclidean"
    neighbor_search: str = "auto"
    init: str = "spectral"
    supervised: bool = False
    target_weight: float = 0.5
    num_epochs: int = 0
    learning_rate: float = 1.0
    repulsion_strength: float = 1.0
    num_negatives: int = 5


class Batch(NamedTuple):
    """What every epoch reads and none changes.

    Attributes:
      ranks: the edges.
      graph: the same, as a list.
    """

    ranks: EdgeRanks
    graph: formulas.FuzzyGraph


class State(NamedTuple):
    """Everything that changes.

    Attributes:
      key: of the points that push.
      Y: the embedding.
      epoch: how many were made.
    """

    key: PRNGKey
    Y: Float[Array, "n components"]
    epoch: Int[Array, ""]


def make(
    config: Config,
    inputs: Shaped[Array, "n ..."],
    *,
    labels: Int[ArrayLike, "n"] | None = None,
    batch: Batch | None = None,
) -> Learner[State]:
    """UMAP as a learner: one update is one epoch, in which every edge pulls once.

        minimize Σ_ij w_ij (−log q_ij) + m Σ_ij w_ij E_k[−log (1 − q_ik)],   q = 1 / (1 + a d²ᵇ)

    Args:
      config: hyperparameters.
      inputs: the data, from which the start is made: what `prepare` is given too.
      labels: classes, as given to `prepare`.
      batch: what `prepare` gave, so that the neighbours are not sought twice; None prepares it.

    Returns:
      A learner whose batch is `prepare(config, inputs)`, the same at every step. Update metrics: `learning_rate`, and
      `span` of the embedding. Evaluation, which takes the batch as its third argument, gives `loss`, per edge of
      weight 1 with pushes of the same random pairs every time.

    Raises:
      ValueError: a number out of its range, an unknown choice, or an evaluation without a batch.

    Source:
      McInnes, Healy & Melville (2018), UMAP; see `mathai.reduction.umap.embed`.
    """
    _check(config)
    batch = prepare(config, inputs, labels) if batch is None else batch
    X = vectors(config, inputs)
    begin = _start.of_graph(X, batch.graph, batch.ranks, num_components=config.num_components, init=config.init)
    curve = _layout.Curve(*_curve.check_and_fit("umap", config.spread, config.min_dist))
    schedule = _layout.schedule_of(config.learning_rate, config.repulsion_strength, num_epochs(config, len(X)))

    def init(key):
        return State(key, begin(key), jnp.int32(0))

    def update(state: State, batch: Batch):
        places = _edge_ranks.placed(batch.ranks, state.Y)
        places = _layout.epoch(state.key, state.epoch, places, batch.ranks, curve, schedule, config.num_negatives)
        Y = _edge_ranks.taken_back(batch.ranks, places)
        metrics = {
            "learning_rate": _layout.rate(schedule, state.epoch),
            "span": jnp.max(jnp.max(Y, axis=0) - jnp.min(Y, axis=0)),
        }
        return State(state.key, Y, state.epoch + 1), metrics

    def evaluate(key, state: State, batch: Batch | None = None):
        del key  # deterministic
        if batch is None:
            raise ValueError("umap: evaluate takes the batch of `prepare` as its third argument.")
        places = _edge_ranks.placed(batch.ranks, state.Y)
        return {"loss": _layout.loss(places, batch.ranks, curve, config.num_negatives)}

    return Learner(init, update, evaluate)


def prepare(config: Config, inputs: Shaped[Array, "n ..."], labels: Int[ArrayLike, "n"] | None = None) -> Batch:
    """The fuzzy graph of a data set, supervised by labels if the config says so.

    Raises:
      ValueError: fewer than 4 points, NaN among them, or a supervised config without labels.
    """
    _check(config)
    _curve.check_and_fit("umap", config.spread, config.min_dist)  # what cannot be is refused before the search
    X = vectors(config, inputs)
    lists = lists_with_self("umap", X, config.num_neighbors, config.metric, config.neighbor_search, None)
    graph = formulas.fuzzy_simplicial_set(*lists)
    if config.supervised:
        if labels is None:
            raise ValueError("umap: supervised is True, and there are no labels.")
        chex.assert_shape(labels, (len(X),))
        graph = formulas.intersect_labels(graph, labels, target_weight=config.target_weight)
    graph = _fuzzy_graph.without_rare(graph, num_epochs(config, len(X)))
    return Batch(_edge_ranks.by_rank(graph, len(X)), graph)


def num_epochs(config: Config, num_points: int) -> int:
    """How many updates a run makes."""
    return config.num_epochs or _layout.default_epochs(num_points)


def embedding(state: State) -> Float[Array, "n components"]:
    """Where the points are."""
    return state.Y


def vectors(config: Config, inputs: Any) -> Float[Array, "n features"]:
    """The data in which distances are taken: flattened, bytes divided by 255, projected if the config says so."""
    return projection(config, inputs)(inputs)


def projection(config: Config, inputs: Any) -> Callable[[Any], Float[Array, "m features"]]:
    """What takes examples into the space in which distances are taken, for new ones too."""
    return pca.projection(config.num_input_components, inputs)


def _check(config: Config) -> None:
    check_positive(config, "num_components")
    check_choices(config, {"metric": METRICS, "neighbor_search": SEARCHES, "init": _start.GRAPH_STARTS})
    check_between(config, 0.0, float("inf"), "min_dist", "learning_rate", "repulsion_strength")
    check_between(config, 0.0, 1.0, "target_weight")
    _layout.check_counts("umap", 2, num_neighbors=config.num_neighbors)
    names = ("num_input_components", "num_epochs", "num_negatives")
    _layout.check_counts("umap", 0, **{name: getattr(config, name) for name in names})
