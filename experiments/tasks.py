"""From a config to what the run loop runs."""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import ml_collections
from jax.sharding import Mesh
from jaxtyping import PyTree

from experiments.configuration import learner_config, learner_module
from experiments.errors import UserError
from experiments.feed import Streamed
from mathai.learners.base import Learner
from mathai.learners.batches import num_rows, take

SEQUENCE = "sequence"  # of a mesh: devices that share the tokens of a row
# What an algorithm learns on, if not an environment.
SECTIONS = {
    "classifier": "data",
    "language_model": "text",
    "vae": "data",
    "gan": "data",
    "diffusion": "data",
    "svm": "data",
    "svm_head": "data",
    "pca": "data",
    "tsne": "data",
    "parametric_tsne": "data",
    "umap": "data",
    "parametric_umap": "data",
    "value_iteration": "problem",
    "tabular_q": "problem",
}
STREAMING = ("classifier", "vae", "gan", "diffusion", "pca")  # whose batches may come from disk
GENERATIVE = {"vae", "gan", "diffusion"}
EMBEDDING = {"pca", "tsne", "parametric_tsne", "umap", "parametric_umap"}


@dataclasses.dataclass(frozen=True)
class Rows:
    """A draw that takes rows of the data, which may therefore be spread over devices.

    Attributes:
      choose: (key, number of rows, step) → the rows of a batch [batch, ...].
    """

    choose: Callable[[jax.Array, int, jax.Array], jax.Array]

    def __call__(self, key: jax.Array, data: PyTree, step: jax.Array) -> PyTree:
        return take(data, self.choose(key, num_rows(data), step))


class Task(NamedTuple):
    """A learner, how often to update it, and with what.

    Attributes:
      learner: the three functions.
      num_updates: updates in all.
      data: what batches are drawn from, a pytree on the device or in host memory; an argument of the compiled
        program, no part of the state or its checkpoints.
      draw: (key, data, step) → the batch of a step, inside the compiled program; `Rows` where it takes rows of the
        data; None gives `data` at every step.
      evaluation_data: a third argument of the learner's `evaluate`; None gives it two.
      problem: what is learned on: an environment, a data set.
      curves: metrics to draw over the run; none draws the best metric.
      work: how much of `unit` one update does.
      unit: what the speed is counted in.
      on_evaluation: (workdir, step, state), called at every evaluation; of several seeds it gets the first.
      pictures: (workdir, state) → files drawn of a finished run.
      hyperparameters: from which the learner was made.
      stream: batches that come from disk, instead of `data`.
      make: hyperparameters → learner, for others whose floats differ and may be traced; None has but the one.
      sequence: tokens of a row, which may be spread over an axis of devices; None has none.
      over_devices: (mesh, axis) → the same learner with its formulas spread over an axis of devices; None leaves all
        to the compiler.
    """

    learner: Learner
    num_updates: int
    data: PyTree = None
    draw: Callable[[jax.Array, PyTree, jax.Array], PyTree] | None = None
    evaluation_data: PyTree = None
    problem: str = ""
    curves: tuple[str, ...] = ()
    work: float = 0
    unit: str = ""
    on_evaluation: Callable[[pathlib.Path, int, PyTree], None] | None = None
    pictures: Callable[[pathlib.Path, PyTree], list[pathlib.Path]] = lambda workdir, state: []
    hyperparameters: Any = None
    stream: Streamed | None = None
    make: Callable[[Any], Learner] | None = None
    sequence: int | None = None
    over_devices: Callable[[Mesh, str], Learner] | None = None


def at_once(config: ml_collections.ConfigDict) -> int:
    """Return how many programs of one seed can run side by side: the fits of a search."""
    search = config.get("search", {})
    return max(1, len(search.get("gammas", ())) * len(search.get("prices", ())))


def used_outside(config: ml_collections.ConfigDict) -> frozenset[str]:
    """Return the floats of `config.learner` that a task reads outside its compiled program: to prepare or to search."""
    names: dict[str, tuple[str, ...]] = {"tsne": ("perplexity",), "umap": ("target_weight",)}
    chosen = chosen_by_search(config)
    return frozenset(names.get(config.algorithm, ())) | chosen | ({"tolerance"} if chosen else set())


def chosen_by_search(config: ml_collections.ConfigDict) -> frozenset[str]:
    """Return the floats of `config.learner` that `config.search` puts its own values in place of."""
    is_searched = config.algorithm == "svm" and (config.search.gammas or config.search.prices)
    return frozenset(("gamma", "C")) if is_searched else frozenset()


def maker(module: Any, *arguments: Any, **options: Any) -> Callable[..., Learner]:
    """Return `make` of a learner's module as a function of the hyperparameters, and of options that are left."""
    return lambda hyperparameters, **more: module.make(hyperparameters, *arguments, **options, **more)


def make_task(config: ml_collections.ConfigDict) -> Task:
    """Build the task of a config; every mistake in it is a `UserError`."""
    module, hyperparameters = learner_module(config.algorithm), learner_config(config)
    task = _builder(config)(config, module, hyperparameters)
    if config.run.num_updates is not None:
        task = task._replace(num_updates=config.run.num_updates)
    if task.num_updates < 1:
        raise UserError(
            f"the run would make {task.num_updates} updates; raise config.run.num_updates or the learner's budget."
        )
    return task


def _builder(config: ml_collections.ConfigDict) -> Callable[[ml_collections.ConfigDict, Any, Any], Task]:
    """Choose who builds the task: by what the algorithm learns on."""
    section = SECTIONS.get(config.algorithm, "environment")
    if section not in config:
        raise UserError(f"algorithm {config.algorithm!r} learns on config.{section}, which this config lacks.")
    if section == "data" and config.data.get("shards") and config.algorithm not in STREAMING:
        raise UserError(
            f"config.data.shards are streamed to {', '.join(STREAMING)} only; {config.algorithm} takes a data set "
            "that lies on the device: leave shards empty."
        )
    if config.algorithm in GENERATIVE:
        from experiments.generation import make_task
    elif config.algorithm == "svm":
        from experiments.kernel_machines import make_task
    elif config.algorithm in EMBEDDING:
        from experiments.embedding import make_task
    elif section == "data":
        from experiments.classification import make_task
    elif section == "text":
        from experiments.language import make_task
    elif section == "problem":
        from experiments.planning import make_task
    else:
        from experiments.reinforcement import make_task
    return make_task
