"""Members of one program: each with its own floats, as if it had been made with them."""

import dataclasses
import pathlib
import runpy

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import members
from experiments.sweeping import search_space
from experiments.tasks import make_task, used_outside

ROOT = pathlib.Path(__file__).parents[2]
# One config of each algorithm, with fields that make it smaller; those that take long are left to the slow tests.
QUICK = {"ppo_cartpole": {}, "tabular_q_frozen_lake": {}, "mlp_digits": {}, "svm_moons": {}}
SLOW = {
    **{"dqn_cartpole": {}, "pqn_cartpole": {}, "reinforce_cartpole": {}, "value_iteration_grid": {}, "svm_head": {}},
    **{"vae_digits": {}, "gan_mixture": {}, "diffusion_moons": {}, "transformer_text": {}},
    "parametric_tsne_digits": {"data.num_train": 100, "learner.batch_size": 50},
    "parametric_umap_digits": {"data.num_train": 100},
    "tsne_digits": {"data.num_train": 100, "search.perplexities": ()},
    "umap_digits": {"data.num_train": 100},
}


def config_of(name, changes):
    config = runpy.run_path(str(ROOT / "configs" / f"{name}.py"))["get_config"]()
    config.update_from_flattened_dict(changes)
    return config


def task_of(config):
    task, outside = make_task(config), used_outside(config)
    floats = [field.name for field in dataclasses.fields(task.hyperparameters) if field.type in (float, "float")]
    return task, {name: getattr(task.hyperparameters, name) for name in floats if name not in outside}


@pytest.mark.parametrize(
    ("name", "changes"),
    [*QUICK.items(), *(pytest.param(*item, marks=pytest.mark.slow) for item in SLOW.items())],
    ids=[*QUICK, *SLOW],
)
@pytest.mark.parametrize("backend", ["cpu", "gpu"])  # one member after another, or all in step by vmap
def test_every_float_of_a_learner_may_differ_within_a_program(name, changes, backend, monkeypatch):
    task, floats = task_of(config_of(name, changes))
    assert floats
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    two = members.members_of([0, 1], {name: [value, value] for name, value in floats.items()})
    programs = members.make_programs(task)
    state = jax.eval_shape(programs.init, two)
    after, _ = jax.eval_shape(lambda *rest: programs.chunk(*rest, 2), state, two, task.data, jnp.int32(0))
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(lambda x: (x.shape, x.dtype), state)
    scores = jax.eval_shape(programs.evaluate, members.evaluation_keys(two, 0), state, two, task.evaluation_data)
    assert {score.shape for score in scores.values()} == {(2,)}


@pytest.mark.parametrize(
    ("name", "changes", "floats"),
    [
        pytest.param(
            # a bias before batch normalization has no gradient: Adam would follow what rounding makes of it
            *("mlp_digits", {"learner.hidden_sizes": (8,), "learner.normalization": "none"}),
            {"learning_rate": [0.1, 0.01], "label_smoothing": [0.0, 0.1]},
            marks=pytest.mark.slow,
        ),
        (
            *("tsne_digits", {"data.num_train": 60, "learner.perplexity": 10.0, "search.perplexities": ()}),
            {"learning_rate": [20.0, 50.0], "early_exaggeration": [4.0, 12.0]},
        ),
        pytest.param(
            *("umap_digits", {"data.num_train": 60}, {"min_dist": [0.1, 0.5], "repulsion_strength": [1.0, 2.0]}),
            marks=pytest.mark.slow,
        ),
    ],
    ids=["mlp_digits", "tsne_digits", "umap_digits"],
)
def test_a_member_learns_as_a_learner_that_is_made_with_its_floats(name, changes, floats):
    config = config_of(name, changes)
    task = make_task(config)
    both, programs = members.members_of([3, 4], floats), members.make_programs(task)
    state = programs.init(both)
    state, metrics = programs.chunk(state, both, task.data, jnp.int32(0), 3)
    scores = programs.evaluate(members.evaluation_keys(both, 3), state, both, task.evaluation_data)
    for place, seed in enumerate((3, 4)):
        point = {f"learner.{name}": values[place] for name, values in floats.items()}
        found, score = alone(make_task(search_space.at(config, point)), seed, 3)
        for together, by_itself in ((metrics, found), (scores, score)):
            for name in by_itself.keys() - {"accuracy"}:  # which a last bit may move by an example
                member = together[name][place]
                np.testing.assert_allclose(member, by_itself[name], rtol=2e-4, atol=1e-6, err_msg=name)


def alone(task, seed, num_updates):
    """A run as `train` makes it, of a task with its own learner, data and evaluation: its metrics and its score."""
    one, programs = members.of_seeds(seed, None), members.make_programs(task)
    state, found = programs.chunk(programs.init(one), one, task.data, jnp.int32(0), num_updates)
    return found, programs.evaluate(members.evaluation_keys(one, num_updates), state, one, task.evaluation_data)


def test_seeds_alone_have_the_hyperparameters_of_the_task():
    assert members.of_seeds(5, 3).hyperparameters == {}
    assert not members.of_seeds(5, None).are_several
    assert members.of_seeds(5, 1).are_several
