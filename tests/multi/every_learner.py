"""Every learner in its smallest size, for one update on one device and on a mesh, in a process with several devices."""

import jax
import numpy as np

from experiments import members
from experiments.configuration import make_config
from experiments.mesh import placement_of
from experiments.placement import OneDevice, Placement
from experiments.tasks import make_task

SMALLEST_SCALE = 1e-2  # below which errors are absolute
DIGITS = {"name": "digits", "num_train": 203}  # which no number of devices divides
NET = {"hidden_sizes": (16, 8)}
CARTPOLE = {"environment": "CartPole-v1", "environment_params": {"max_steps_in_episode": 20}}
ACTING = {**CARTPOLE, "learner": {"num_envs": 4, "num_steps": 8, "num_evaluation_episodes": 2, **NET}}
LEARNERS = {
    "classifier": {"data": DIGITS, "learner": {**NET, "batch_size": 12, "normalization": "batch", "dropout_rate": 0.1}},
    "language_model": {
        "text": {"name": "tests/multi/every_learner.py"},
        "learner": {
            **{"num_layers": 2, "num_heads": 2, "num_features": 16, "hidden_size": 32, "context_length": 8},
            **{"batch_size": 8, "num_microbatches": 2, "dropout_rate": 0.1},
        },
    },
    "vae": {"data": DIGITS, "learner": {**NET, "batch_size": 12}},
    "gan": {"data": {"name": "ring"}, "learner": {"generator_sizes": (16, 8), "batch_size": 12}},
    "diffusion": {"data": {"name": "moons"}, "learner": {"batch_size": 12, "num_features": 16, "num_blocks": 1}},
    "svm": {"data": DIGITS, "learner": {"block": 16}},
    "svm_head": {"data": DIGITS, "learner": {**NET, "batch_size": 12}},
    "pca": {"data": DIGITS, "learner": {"batch_size": 102, "num_components": 3}},
    "tsne": {"data": DIGITS, "learner": {"perplexity": 5.0}},
    "parametric_tsne": {"data": DIGITS, "learner": {**NET, "batch_size": 40, "perplexity": 5.0}},
    "umap": {"data": DIGITS, "learner": {"num_neighbors": 5}},
    "parametric_umap": {"data": DIGITS, "learner": {**NET, "batch_size": 12, "num_neighbors": 5}},
    "value_iteration": {"problem": {"name": "grid_world"}},
    "tabular_q": {"problem": {"name": "grid_world"}},
    "ppo": {**ACTING, "learner": {**ACTING["learner"], "num_minibatches": 2, "normalize_observations": True}},
    "dqn": {**CARTPOLE, "learner": {**NET, "num_envs": 4, "num_steps": 8, "buffer_size": 64, "learning_starts": 8}},
    "pqn": {**ACTING, "learner": {**ACTING["learner"], "num_minibatches": 2}},
    "reinforce": {**CARTPOLE, "learner": {**NET, "num_envs": 4, "max_episode_steps": 20, "num_evaluation_episodes": 2}},
}
RUN = {"num_updates": 1, "best_metric": "loss"}


def compared(mesh, shard_parameters, names):
    """Of each learner, how far a mesh's results lie from one device's, and what lies where on the mesh."""
    return {name: _compared(name, mesh, shard_parameters) for name in names or LEARNERS}


def _compared(algorithm, mesh, shard_parameters):
    task = make_task(make_config(algorithm, **LEARNERS[algorithm], run=RUN))
    place = placement_of(task, None, mesh, shard_parameters=shard_parameters)
    assert isinstance(place, Placement)
    here, alone = _programs(task, OneDevice())
    there, many = _programs(task, place)
    one, one_metrics = here.chunk(*alone, 1)
    other, other_metrics = there.chunk(*many, 1)
    # Of the same state: what rounding has made of it is not evaluated.
    same = jax.tree.map(lambda x, y: jax.device_put(x, y.sharding), one, other)
    scores = [
        programs.evaluate(members.evaluation_keys(start[1], 1), state, start[1], where.evaluation_data)
        for programs, start, state, where in ((here, alone, one, task), (there, many, same, place.place(task, None)))
    ]
    return {
        "state": _errors(one, other),
        "metrics": _errors(one_metrics, other_metrics),
        "scores": _errors(*scores),
        "over": {path: spec for path, leaf in _leaves(other) if (spec := [str(x) for x in leaf.sharding.spec if x])},
        "share": sum(_bytes_here(leaf) for _, leaf in _leaves(other)) / sum(leaf.nbytes for _, leaf in _leaves(other)),
    }


def _programs(task, place):
    """The programs, and what a chunk from the start takes."""
    task = place.place(task, None)
    programs, who = members.make_programs(task, place), place.put(members.of_seeds(3, None))
    return programs, (programs.init(who), who, task.data, np.int32(0))


def bytes_of_long_windows(sizes):
    """What an update of a language model needs of each device, beside its arguments, its windows over so many."""
    config = make_config(
        "language_model",
        text={"name": "pydoc_topics"},
        learner={
            **{"num_layers": 2, "num_heads": 2, "num_features": 32, "hidden_size": 64, "context_length": 16384},
            **{"batch_size": 1},
        },
        run=RUN | {"best_metric": "bits_per_token"},
    )
    task, found = make_task(config), []
    for size in sizes:
        place = OneDevice() if size == 1 else placement_of(task, None, f"sequence:{size}")
        programs, start = _programs(task, place)
        found.append(programs.chunk.lower(*start, 1).compile().memory_analysis().temp_size_in_bytes)
    return found


def _leaves(tree):
    return [(jax.tree_util.keystr(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)]


def _bytes_here(leaf):
    return leaf.addressable_shards[0].data.nbytes


def _errors(expected, found):
    """The largest error of each leaf, relative to its largest number; NaN is NaN."""

    def error(a, b):
        a, b = (jax.random.key_data(x) if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else x for x in (a, b))
        a, b = np.asarray(a, float), np.asarray(b, float)
        if not np.array_equal(np.isnan(a), np.isnan(b)):
            return float("inf")
        a, b = np.nan_to_num(a), np.nan_to_num(b)
        return float(np.max(np.abs(a - b), initial=0) / max(np.max(np.abs(a), initial=0), SMALLEST_SCALE))

    return {
        path: error(leaf, other) for (path, leaf), (_, other) in zip(_leaves(expected), _leaves(found), strict=True)
    }
