"""Who is trained in one compiled program: seeds, each with floats of its own where a sweep gives it some."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from experiments.placement import OneDevice
from experiments.tasks import Task
from mathai.learners.base import Learner

# Folded into a seed's key, so that evaluation, the order of the data and the learner share no randomness.
EVALUATION_STREAM = 0x6576616C
BATCH_STREAM = 0x62617463


class Members(NamedTuple):
    """The runs of one program: one alone, or several along a leading axis.

    Attributes:
      keys: of the seeds, one or [members].
      batch_keys: of the order of the data, likewise.
      hyperparameters: floats by the names of the learner's, [members]; what is not named is the task's for all.
    """

    keys: jax.Array
    batch_keys: jax.Array
    hyperparameters: dict[str, jax.Array]

    @property
    def are_several(self) -> bool:
        """Whether there is a leading axis."""
        return self.keys.ndim > 0


class Programs(NamedTuple):
    """The jitted functions of a task, for any members: those of the same number share one compilation.

    Attributes:
      init: members → state.
      chunk: (state, members, data or a batch for each update, first step, number of updates) → (state, metrics
        [updates] or [members, updates]).
      evaluate: (keys, state, members, evaluation data) → metrics, scalars or [members].
    """

    init: Any
    chunk: Any
    evaluate: Any


def of_seeds(seed: int, num_seeds: int | None) -> Members:
    """One seed alone, or it and those after it, all with the task's hyperparameters."""
    return members_of(seed if num_seeds is None else range(seed, seed + num_seeds))


def members_of(seeds: int | Sequence[int], hyperparameters: Mapping[str, Sequence[float]] | None = None) -> Members:
    """One member for a seed, or one for each of several; `hyperparameters` give each its own floats."""
    keys = jax.random.key(seeds) if isinstance(seeds, int) else jnp.stack([jax.random.key(seed) for seed in seeds])
    floats = {name: jnp.asarray(values, float) for name, values in (hyperparameters or {}).items()}
    return Members(keys, _fold_in(keys, BATCH_STREAM), floats)


def make_programs(task: Task, placement: OneDevice | None = None) -> Programs:
    """Return the jitted functions of a task, on one device, or where a placement says."""
    place = placement or OneDevice()

    def init(members):
        return _placed(_over(_init, members, (members.keys,), ()), members)

    def chunk(state, members, data, first_step, num_updates):
        update = functools.partial(_chunk, num_updates=num_updates, place=OneDevice() if members.are_several else place)
        state, metrics = _over(update, members, (state, members.batch_keys), (data, first_step))
        return _placed(state, members), place.everywhere(metrics)

    def evaluate(keys, state, members, data):
        return place.everywhere(_over(_evaluate, members, (keys, state), (data,)))

    def _placed(state, members):
        return place.states(state) if members.are_several else place.state(state)

    def _over(function, members, each, shared):
        """Call a function of (task, learner, each, shared): once, or for every member on the devices."""

        def one(each, shared):
            hyperparameters, arguments = each
            return function(task, learner_of(task, hyperparameters), *arguments, *shared)

        if not members.are_several:
            with place.context():
                return one((members.hyperparameters, each), shared)
        return place.over_runs(one, len(members.keys))((members.hyperparameters, each), shared)

    return Programs(jax.jit(init), jax.jit(chunk, static_argnums=4), jax.jit(evaluate))


def learner_of(task: Task, hyperparameters: Mapping[str, Any]) -> Learner:
    """The task's learner, or the one with these hyperparameters instead of its own; they may be traced."""
    if not hyperparameters:
        return task.learner
    assert task.make is not None, f"this task does not say how its learner is made with other {[*hyperparameters]}"
    return task.make(dataclasses.replace(task.hyperparameters, **hyperparameters))


def _init(task: Task, learner: Learner, key: jax.Array) -> PyTree:
    del task
    return learner.init(key)


def _chunk(
    task: Task,
    learner: Learner,
    state: PyTree,
    key: jax.Array,
    data: PyTree,
    first_step: jax.Array,
    *,
    num_updates: int,
    place: OneDevice,
) -> tuple[PyTree, PyTree]:
    def update(state, step):
        batch = batch_of(task, key, data, step)
        return improve(state, batch if task.draw is None else place.batch(batch))

    def improve(state, batch):
        state, metrics = learner.update(place.gathered(state), batch)
        return place.state(state), metrics

    if task.stream is not None:  # a batch for each update
        return jax.lax.scan(improve, state, data)
    return jax.lax.scan(update, state, first_step + jnp.arange(num_updates))


def _evaluate(task: Task, learner: Learner, key: jax.Array, state: PyTree, data: PyTree) -> dict[str, jax.Array]:
    del task
    return learner.evaluate(key, state) if data is None else learner.evaluate(key, state, data)


def batch_of(task: Task, key: jax.Array, data: PyTree, step: jax.Array) -> PyTree:
    """Return the batch of a step: drawn from the data, or all of them."""
    return data if task.draw is None else task.draw(key, data, step)


def trace(task: Task) -> tuple[PyTree, PyTree, PyTree]:
    """The shapes of one member's state, of the metrics of its update and of its evaluation; nothing is computed."""
    key = jax.random.key(0)
    state = jax.eval_shape(task.learner.init, key)
    if task.stream is None:
        batch = jax.eval_shape(functools.partial(batch_of, task), key, task.data, 0)
    else:
        batch = jax.eval_shape(lambda batches: jax.tree.map(lambda x: x[0], batches), task.stream.shapes(1))
    _, metrics = jax.eval_shape(task.learner.update, state, batch)
    evaluation = jax.eval_shape(functools.partial(_evaluate, task, task.learner), key, state, task.evaluation_data)
    return state, metrics, evaluation


def evaluation_keys(members: Members, step: int, seed: int = 0) -> jax.Array:
    """Return the keys of the evaluation at a step: the same whether or not the run was interrupted."""
    return _fold_in(members.keys, EVALUATION_STREAM, seed, step)


def _fold_in(keys: jax.Array, *parts: int) -> jax.Array:
    """Derive a key from each key."""

    def derive(key):
        for part in parts:
            key = jax.random.fold_in(key, part)
        return key

    return jax.vmap(derive)(keys) if keys.ndim else derive(keys)


def restore_target(programs: Programs, members: Members, placement: OneDevice | None = None) -> PyTree:
    """Shapes of a run's state, and where they lie here: not where they lay when the checkpoint was written."""
    shapes = jax.eval_shape(programs.init, members)
    places = (placement or OneDevice()).targets(shapes, len(members.keys) if members.are_several else None)
    return jax.tree.map(lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), shapes, places)
