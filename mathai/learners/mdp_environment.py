"""An exact MDP as a gymnax environment, so that every learner can be held against the exact solution."""

import functools
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mathai.rl.mdp import MDP


class Parameters(NamedTuple):
    """Of the environment: the problem, where episodes begin, and after how many steps they are cut."""

    problem: MDP
    initial_distribution: Float[Array, "S"]
    max_steps_in_episode: int


class EnvState(NamedTuple):
    """Where an episode stands, and after how many steps."""

    state: Int[Array, ""]
    time: Int[Array, ""]


def make_mdp_environment(
    problem: MDP, initial_distribution: Array | None = None, max_steps_in_episode: int = 1000
) -> tuple[Any, Parameters]:
    """Return (env, env_params): observations and actions are numbers, episodes end in terminal states.

    Args:
      problem: the MDP; its reward is given as it is, its discount is the learner's to apply.
      initial_distribution: [S]; None is uniform over the states that are not terminal.
      max_steps_in_episode: where an episode is truncated.

    Raises:
      ValueError: a limit below 1.
      AssertionError: a distribution of another length.

    >>> from mathai.rl import small_mdps
    >>> env, params = make_mdp_environment(small_mdps.frozen_lake())
    >>> observation, state = env.reset(jax.random.key(0), params)
    >>> observation.shape, env.action_space(params).n
    ((), 4)
    """
    if max_steps_in_episode < 1:
        raise ValueError(f"max_steps_in_episode is {max_steps_in_episode}; it must be at least 1.")
    if initial_distribution is None:
        alive = ~is_terminal(problem)
        initial_distribution = alive / jnp.maximum(jnp.sum(alive), 1)
    chex.assert_shape(initial_distribution, (problem.num_states,))
    return _environment(problem.num_states, problem.num_actions), Parameters(
        problem, jnp.asarray(initial_distribution, jnp.float32), max_steps_in_episode
    )


def is_terminal(problem: MDP) -> Bool[Array, "S"]:
    """The states that nothing follows."""
    return jnp.all(problem.transition == 0, axis=(1, 2))


def draw_initial(uniform: Float[Array, ""], initial_distribution: Float[Array, "S"]) -> Int[Array, ""]:
    """A first state, from one number of [0, 1)."""
    return jnp.minimum(_inverse(uniform, initial_distribution), initial_distribution.size - 1)


def draw_successor(
    uniform: Float[Array, ""], problem: MDP, state: Int[Array, ""], action: Int[Array, ""]
) -> tuple[Int[Array, ""], Bool[Array, ""]]:
    """What follows, from one number of [0, 1), and whether the episode ended; where probability was lost, it stays."""
    successor = _inverse(uniform, problem.transition[state, action])
    lost = successor == problem.num_states
    successor = jnp.where(lost, state, successor)
    return successor, lost | jnp.all(problem.transition[successor] == 0)


def _inverse(uniform: Array, probabilities: Array) -> Array:
    """The first index up to which the probabilities exceed a number; one past the end for what they lack to 1."""
    possible = probabilities > 0
    cumulative = jnp.cumsum(probabilities)  # summed as a tree, so that rounding can make it fall
    total = jnp.max(cumulative, where=possible, initial=0.0)
    is_whole = total > 1 - 1e-5  # rounding is no end of an episode
    reached = (cumulative > uniform * jnp.where(is_whole, total, 1.0)) & possible
    return jnp.where(jnp.any(reached), jnp.argmax(reached), probabilities.size).astype(jnp.int32)


@functools.cache
def _environment(num_states: int, num_actions: int) -> Any:
    from gymnax.environments import spaces  # here, because importing gymnax starts JAX's backend
    from gymnax.environments.environment import Environment

    class MDPEnvironment(Environment):
        """Steps of a finite MDP."""

        def step_env(self, key, state, action, params):
            uniform = jax.random.uniform(key)
            successor, terminated = draw_successor(uniform, params.problem, state.state, action)
            reward = params.problem.reward[state.state, action]
            return successor, EnvState(successor, state.time + 1), reward, terminated, {}

        def reset_env(self, key, params):
            state = draw_initial(jax.random.uniform(key), params.initial_distribution)
            return state, EnvState(state, jnp.int32(0))

        @property
        def num_actions(self):
            return num_actions

        def action_space(self, params=None):
            del params
            return spaces.Discrete(num_actions)

        def observation_space(self, params=None):
            del params
            return spaces.Discrete(num_states)

    return MDPEnvironment()
