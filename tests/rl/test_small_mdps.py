"""Builders of small problems, against gymnasium's frozen lake and closed forms."""

import functools

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mathai.rl import mdp, small_mdps


@pytest.mark.parametrize("slippery", [True, False])
@pytest.mark.parametrize(("name", "layout"), [("4x4", small_mdps.FROZEN_LAKE), ("8x8", small_mdps.FROZEN_LAKE_8)])
def test_frozen_lake_is_gymnasium_s(name, layout, slippery):
    table = gymnasium.make("FrozenLake-v1", map_name=name, is_slippery=slippery).unwrapped.P
    problem = small_mdps.frozen_lake(layout, slippery=slippery)
    expected, reward = np.zeros(problem.transition.shape), np.zeros(problem.reward.shape)
    terminal = np.array([letter in "HG" for row in layout for letter in row])
    for state, actions in table.items():
        for action, outcomes in actions.items():
            for probability, successor, r, _ in outcomes:
                if not terminal[state]:
                    expected[state, action, successor] += probability
                    reward[state, action] += probability * r
    np.testing.assert_allclose(problem.transition, expected, atol=1e-7)
    np.testing.assert_allclose(problem.reward, reward, atol=1e-7)


def test_chain_without_slips_has_its_closed_form():
    """Going on from k before the end is worth γᵏ/(1 − γ) once that exceeds the small reward's 0.2/(1 − γ) and more."""
    discount, n = 0.9, 5
    solution = mdp.policy_iteration(small_mdps.chain(n, discount=discount))
    expected = discount ** np.arange(n - 1, -1, -1) / (1 - discount)
    np.testing.assert_allclose(solution.value, expected, rtol=1e-5)
    np.testing.assert_array_equal(solution.policy[:, 1], 1)


def test_an_impatient_agent_returns_to_the_start_of_the_chain():
    """At γ = 0.1 the small reward for ever, 0.2/(1 − γ), beats γ⁴/(1 − γ)."""
    solution = mdp.policy_iteration(small_mdps.chain(5, discount=0.1))
    np.testing.assert_allclose(solution.value[0], 0.2 / 0.9, rtol=1e-5)


@pytest.mark.parametrize("branching", [1, 3, 6])
def test_garnet_has_so_many_successors(branching):
    draw = functools.partial(small_mdps.garnet, num_states=6, num_actions=4, branching=branching, discount=0.5)
    problem = jax.jit(draw)(jax.random.key(0))
    np.testing.assert_array_equal((problem.transition > 0).sum(-1), branching)
    np.testing.assert_allclose(problem.transition.sum(-1), 1, atol=1e-6)


def test_garnet_chooses_successors_alike():
    """Each of 6 states is among 2 successors with probability ⅓, and the mean probability is ⅙."""
    draw = functools.partial(small_mdps.garnet, num_states=6, num_actions=4, branching=2, discount=0.5)
    transition = jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(1), 500)).transition.reshape(-1, 6)
    np.testing.assert_allclose((transition > 0).mean(0), 1 / 3, atol=0.02)  # four standard errors
    np.testing.assert_allclose(transition.mean(0), 1 / 6, atol=0.01)


def test_walls_and_borders_stop_a_move():
    problem = small_mdps.grid_world(["S#", ".G"], discount=0.9, slip=0.5)
    left_down_right_up = problem.transition[0]
    # from S: left, right (a wall) and up stay; down goes to cell 2
    np.testing.assert_allclose(left_down_right_up[0], [0.75, 0, 0.25, 0])
    np.testing.assert_allclose(left_down_right_up[1], [0.5, 0, 0.5, 0])
    np.testing.assert_array_equal(problem.transition[1], 0)
    np.testing.assert_array_equal(problem.transition[3], 0)


def test_rewards_are_of_the_arrival():
    problem = small_mdps.grid_world(["HSG"], discount=0.9, goal_reward=5.0, hole_reward=-2.0, step_reward=-0.5)
    np.testing.assert_array_equal(problem.reward[1], [-2.0, -0.5, 5.0, -0.5])


def test_starts():
    np.testing.assert_array_equal(small_mdps.start_distribution(["S#", "HG"]), [1, 0, 0, 0])
    np.testing.assert_array_equal(small_mdps.start_distribution([".#", ".G"]), [0.5, 0, 0.5, 0])
    assert small_mdps.start_distribution(small_mdps.FROZEN_LAKE)[0] == 1


def test_layouts_that_are_none_are_refused():
    with pytest.raises(ValueError, match="one length"):
        small_mdps.grid_world(["..", "."], discount=0.9)
    with pytest.raises(ValueError, match="one length"):
        small_mdps.grid_world([], discount=0.9)
    with pytest.raises(ValueError, match="no free cell"):
        small_mdps.start_distribution(["#G"])
    with pytest.raises(ValueError, match="branching"):
        small_mdps.garnet(jax.random.key(0), num_states=3, num_actions=1, branching=4, discount=jnp.float32(0.5))
