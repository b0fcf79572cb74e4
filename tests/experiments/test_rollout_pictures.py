"""An episode in pictures: what is played, and what of it is drawn."""

import functools

import gymnax
import jax
import jax.numpy as jnp
import matplotlib.figure
import numpy as np
import pytest

from experiments import rollout_pictures
from mathai.learners.mdp_environment import make_mdp_environment
from mathai.rl import small_mdps


def constant(action, key, observation):
    del key
    return jnp.full(observation.shape[:1], action, jnp.int32)


def test_an_episode_ends_where_it_ends():
    """On a corridor to the right, the goal is three moves away and worth 1."""
    layout = ["S..G"]
    environment = make_mdp_environment(
        small_mdps.grid_world(layout, discount=0.9), small_mdps.start_distribution(layout)
    )
    observations, total = rollout_pictures.play(*environment, functools.partial(constant, 2))
    np.testing.assert_array_equal(observations, [0, 1, 2, 3])
    assert total == 1


def test_an_environment_of_no_known_look_is_not_drawn(tmp_path):
    environment = make_mdp_environment(small_mdps.frozen_lake())
    assert rollout_pictures.draw_rollout(tmp_path, "lake", *environment, functools.partial(constant, 2)) == []


def test_a_pole_that_is_pushed_to_one_side_falls_in_pictures(tmp_path):
    environment = gymnax.make("CartPole-v1")
    paths = rollout_pictures.draw_rollout(tmp_path, "CartPole-v1", *environment, functools.partial(constant, 1))
    assert [path.name for path in paths] == ["rollout.png", "rollout.gif"]
    assert paths[0].read_bytes().startswith(b"\x89PNG")
    assert paths[1].read_bytes().startswith(b"GIF89a")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rollout.gif", "rollout.png"]


@pytest.mark.parametrize(
    "name", ["CartPole-v1", "Acrobot-v1", "MountainCar-v0", "Pendulum-v1", "Breakout-MinAtar", "Asterix-MinAtar"]
)
def test_every_look_draws_what_its_environment_shows(name):
    env, params = gymnax.make(name)
    observation, _ = env.reset(jax.random.key(0), params)
    panel = matplotlib.figure.Figure().subplots()
    rollout_pictures._look(name, env, params)(panel, np.asarray(observation))
    assert panel.lines or panel.images


def test_an_acrobot_that_hangs_down_is_drawn_hanging_down():
    panel = matplotlib.figure.Figure().subplots()
    rollout_pictures._acrobot(panel, np.array([1.0, 0.0, 1.0, 0.0, 0.0, 0.0]))
    np.testing.assert_allclose(panel.lines[-1].get_xydata(), [[0, 0], [0, -1], [0, -2]], atol=1e-12)
