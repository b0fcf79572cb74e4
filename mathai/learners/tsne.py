"""t-SNE, one iteration in an update: for long runs with progress, checkpoints and resume.

A small data set is one call of `mathai.reduction.tsne.embed`, which makes the same iterations.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from jax.sharding import Mesh
from jaxtyping import Array, Float, Shaped

from mathai.learners import pca
from mathai.learners.base import (
    DATA_AXIS,
    Learner,
    PRNGKey,
    check_between,
    check_choices,
    check_positive,
    hyperparameters,
)
from mathai.reduction import _descent, _start, tsne
from mathai.reduction._descent import METHODS, Iterate
from mathai.reduction._repulsion import Grids
from mathai.reduction.neighbors import METRICS


@hyperparameters
class Config:
    """Hyperparameters; those of `mathai.reduction.tsne.embed` mean what they mean there.

    Attributes:
      perplexity: the effective number of neighbours.
      num_neighbors: of each point; 0 takes three times the perplexity, at most n − 1.
      num_input_components: principal components of the data in which distances are taken; 0 takes the data as they are.
      num_components: of the embedding.
      metric: of the data.
      method: "auto", "exact" or "fft".
      init: "pca" or "random".
      early_exaggeration: of the attraction, in the first iterations.
      exaggeration: in the others.
      num_early_iterations: how many the first are.
      num_iterations: of the others.
      learning_rate: η; 0 takes max(n / exaggeration, 200) / 4.
      momentum: μ.
    """

    perplexity: float = 30.0
    num_neighbors: int = 0
    num_input_components: int = 0
    num_components: int = 2
    metric: str = "euclidean"
    method: str = "auto"
    init: str = "pca"
    early_exaggeration: float = 12.0
    exaggeration: float = 1.0
    num_early_iterations: int = 250
    num_iterations: int = 500
    learning_rate: float = 0.0
    momentum: float = 0.8


class Batch(NamedTuple):
    """What every iteration reads and none changes.

    Attributes:
      graph: affinities of the data.
      grids: of the repulsion; None sums over all pairs.
    """

    graph: tsne.AffinityGraph
    grids: Grids | None


class State(NamedTuple):
    """Everything that changes.

    Attributes:
      key: of no use after the start; nothing here is random.
      iterate: the embedding, its last step, the gains, and the number of iterations.
    """

    key: PRNGKey
    iterate: Iterate


def make(
    config: Config, inputs: Shaped[Array, "n ..."], *, mesh: Mesh | None = None, axis: str = DATA_AXIS
) -> Learner[State]:
    """t-SNE as a learner: one update is one iteration.

        g = 4 (e Σⱼ p_ij q̃_ij (yᵢ − yⱼ) − Σⱼ q̃²_ij (yᵢ − yⱼ) / Z),   v ← μ v − η (gain ∘ g),   Y ← Y + v

    Args:
      config: hyperparameters.
      inputs: the data, from which the start is made: what `prepare` is given too.
      mesh: devices that share the work, with axes of type Auto; None is one device.
      axis: of the mesh, over which points share the sum of their repulsion; the embedding is on every device.

    Returns:
      A learner whose batch is `prepare(config, inputs)`, the same at every step. Update metrics: `exaggeration`,
      `gradient_norm`, `span` of the embedding. Evaluation, which takes the batch as its third argument, gives
      `kl_divergence`.

    Raises:
      ValueError: a number out of its range, an unknown choice, or an evaluation without a batch.

    Source:
      van der Maaten & Hinton (2008), Visualizing Data using t-SNE; see `mathai.reduction.tsne.embed`.
    """
    _check(config)
    begin = _start.of_data(vectors(config, inputs), num_components=config.num_components, init=config.init)

    def init(key):
        return State(key, _descent.start(begin(key)))

    def update(state: State, batch: Batch):
        iterate, metrics = _descent.step(
            state.iterate, batch.graph, batch.grids, _schedule(config), mesh=mesh, axis=axis
        )
        return State(state.key, iterate), metrics

    def evaluate(key, state: State, batch: Batch | None = None):
        del key  # deterministic
        if batch is None:
            raise ValueError("tsne: evaluate takes the batch of `prepare` as its third argument.")
        divergence = _descent.divergence(state.iterate.Y, batch.graph, batch.grids, mesh=mesh, axis=axis)
        return {"kl_divergence": divergence}

    return Learner(init, update, evaluate)


def prepare(config: Config, inputs: Shaped[Array, "n ..."]) -> Batch:
    """The affinities of a data set, and the grids for so many points.

    Raises:
      ValueError: fewer than 4 points, NaN among them, a perplexity that is too large for them.
    """
    _check(config)
    X = vectors(config, inputs)
    graph = tsne.affinity_graph(
        X, perplexity=config.perplexity, num_neighbors=config.num_neighbors or None, metric=config.metric
    )
    return Batch(graph, _descent.grids_for("tsne", config.method, len(X), config.num_components))


def embedding(state: State) -> Float[Array, "n components"]:
    """Where the points are."""
    return state.iterate.Y


def vectors(config: Config, inputs: Any) -> Float[Array, "n features"]:
    """The data in which distances are taken: flattened, bytes divided by 255, projected if the config says so."""
    return projection(config, inputs)(inputs)


def projection(config: Config, inputs: Any) -> Callable[[Any], Float[Array, "m features"]]:
    """What takes examples into the space in which distances are taken, for new ones too."""
    return pca.projection(config.num_input_components, inputs)


def _schedule(config: Config) -> _descent.Schedule:
    return _descent.schedule_of(
        config.early_exaggeration,
        config.exaggeration,
        config.num_early_iterations,
        config.learning_rate,
        config.momentum,
    )


def _check(config: Config) -> None:
    check_positive(config, "num_components")
    check_choices(config, {"metric": METRICS, "method": METHODS, "init": _start.STARTS})
    check_between(config, 0.0, 1.0, "momentum")
    check_between(config, 0.0, float("inf"), "learning_rate", "early_exaggeration", "exaggeration")
    for name in ("num_neighbors", "num_input_components", "num_early_iterations", "num_iterations"):
        if getattr(config, name) < 0:
            raise ValueError(f"tsne: {name} is {getattr(config, name)}; it must be at least 0.")
