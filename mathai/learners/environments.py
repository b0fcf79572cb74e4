"""Many copies of a gymnax environment in step, right at the ends of episodes.

gymnax's own `step` computes a reset at every step and loses itself in small random draws. Here all randomness of a
rollout, fresh first states included, is drawn in one batch before it, so that the loop over time does only what
depends on the actions.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from mathai.learners.base import Metrics, PRNGKey, over_data

RESETS_AT_ONCE = 256  # on a CPU, more would make XLA split each tiny kernel over threads, at a loss


TORSO_CHANNELS = {"mlp": 0, "conv": 16}  # of the convolution before a network's layers, by a learner's `torso`


class Step(NamedTuple):
    """What one step of `num_envs` environments gave.

    Attributes:
      reward: [num_envs].
      terminated: the episode ended by its own rules: nothing is to come, [num_envs].
      truncated: the episode was cut, by a time limit say, and would have gone on, [num_envs].
      final_observation: what the step led to, before any reset, [num_envs, ...].
    """

    reward: Float[Array, "num_envs"]
    terminated: Bool[Array, "num_envs"]
    truncated: Bool[Array, "num_envs"]
    final_observation: PyTree


class Environments(NamedTuple):
    """`num_envs` copies of an environment as three functions.

    Attributes:
      reset: key → (observation [num_envs, ...], state).
      draw_noise: (key, num_steps) → all randomness of so many steps; each leaf [num_steps, num_envs, ...].
      step: (state, action, noise of one step) → (next observation, next state, Step). Where an episode ended, the next
        observation and state are the first ones of a new episode.
    """

    reset: Callable[[PRNGKey], tuple[Array, PyTree]]
    draw_noise: Callable[[PRNGKey, int], PyTree]
    step: Callable[[PyTree, Array, PyTree], tuple[Array, PyTree, Step]]


def make_environments(env: Any, env_params: Any, num_envs: int) -> Environments:
    """Return `num_envs` copies of a gymnax environment, or of a wrapper around one."""
    from gymnax.environments.environment import Environment  # here, because importing gymnax starts JAX's backend

    if isinstance(env, Environment) and (type(env).step, type(env).reset) == (Environment.step, Environment.reset):
        return _raw_environments(env, env_params, num_envs)
    return _wrapped_environments(env, env_params, num_envs)


def _raw_environments(env: Any, env_params: Any, num_envs: int) -> Environments:
    """Use `step_env` and `reset_env`, and reset from states drawn before the rollout."""
    reset_env = jax.vmap(env.reset_env, in_axes=(0, None))
    step_env = jax.vmap(env.step_env, in_axes=(0, 0, 0, None))
    is_truncated = jax.vmap(env.is_truncated, in_axes=(0, None))

    def reset(key):
        return over_data(reset_env(jax.random.split(key, num_envs), env_params))

    def draw_noise(key, num_steps):
        step_key, reset_key = jax.random.split(key)
        step_keys = jax.random.split(step_key, (num_steps, num_envs))
        resets = jax.lax.map(
            lambda key: env.reset_env(key, env_params),
            jax.random.split(reset_key, num_steps * num_envs),
            batch_size=RESETS_AT_ONCE,
        )
        return step_keys, jax.tree.map(lambda x: x.reshape((num_steps, num_envs) + x.shape[1:]), resets)

    def step(state, action, noise):
        step_keys, (first_observation, first_state) = noise
        observation, state, reward, terminated, _ = step_env(step_keys, state, action, env_params)
        truncated = jnp.asarray(is_truncated(state, env_params), bool)
        terminated = jnp.asarray(terminated, bool)
        done = terminated | truncated
        outcome = Step(jnp.asarray(reward, jnp.float32), terminated, truncated, observation)
        return _select(done, first_observation, observation), _select(done, first_state, state), outcome

    return Environments(reset, draw_noise, step)


def _wrapped_environments(env: Any, env_params: Any, num_envs: int) -> Environments:
    """Use `step` with its own reset, where a class overrides it: what it adds must not be lost."""
    reset_all = jax.vmap(env.reset, in_axes=(0, None))
    step_all = jax.vmap(env.step, in_axes=(0, 0, 0, None))

    def reset(key):
        return over_data(reset_all(jax.random.split(key, num_envs), env_params))

    def draw_noise(key, num_steps):
        return jax.random.split(key, (num_steps, num_envs))

    def step(state, action, noise):
        observation, state, reward, terminated, truncated, info = step_all(noise, state, action, env_params)
        outcome = Step(
            jnp.asarray(reward, jnp.float32),
            jnp.asarray(terminated, bool),
            jnp.asarray(truncated, bool),
            info["final_observation"],
        )
        return observation, state, outcome

    return Environments(reset, draw_noise, step)


def _select(mask: Bool[Array, "num_envs"], on_true: PyTree, on_false: PyTree) -> PyTree:
    """Choose whole rows of every leaf."""

    def choose(x, y):
        return jnp.where(mask.reshape(mask.shape + (1,) * (jnp.ndim(y) - 1)), x, y)

    return jax.tree.map(choose, on_true, on_false)


def observation_features(space: Any, *, torso: str = "mlp") -> Callable[[Array], Float[Array, "..."]]:
    """Return the function that makes one vector of an observation: boxes are flattened, discrete ones are one-hot.

    With the torso "conv", boxes of three axes stay images instead.

    Raises:
      ValueError: a space that is neither a `Box` nor `Discrete`, or for "conv" anything but images.

    >>> from gymnax.environments import spaces
    >>> observation_features(spaces.Box(0.0, 1.0, (2, 3)))(jnp.zeros((5, 7, 2, 3), bool)).shape
    (5, 7, 6)
    """
    from gymnax.environments import spaces  # here, because importing gymnax starts JAX's backend

    if torso == "conv":
        if not isinstance(space, spaces.Box) or len(space.shape) != 3:
            raise ValueError(f"the torso 'conv' takes images [height, width, channels], not the observations {space}.")
        return lambda x: x.astype(jnp.float32)
    if isinstance(space, spaces.Discrete):
        return lambda x: jax.nn.one_hot(x, int(space.n), dtype=jnp.float32)
    if isinstance(space, spaces.Box):
        num_axes = len(space.shape)
        return lambda x: x.reshape(x.shape[: x.ndim - num_axes] + (-1,)).astype(jnp.float32)
    raise ValueError(f"the observation space {space} is not supported; it must be a Box or Discrete.")


class EpisodeStatistics(NamedTuple):
    """Episodes so far: what is known of the running ones, and of those that ended.

    Attributes:
      running_return: undiscounted return so far of each running episode, [num_envs].
      running_length: its steps so far, [num_envs].
      mean_return: mean return of the episodes that ended in the last rollout in which any did; 0 before.
      mean_length: their mean length.
      episodes: how many have ended since the start.
    """

    running_return: Float[Array, "num_envs"]
    running_length: Float[Array, "num_envs"]
    mean_return: Float[Array, ""]
    mean_length: Float[Array, ""]
    episodes: Int[Array, ""]

    @classmethod
    def zeros(cls, num_envs: int) -> "EpisodeStatistics":
        """Return the statistics before the first step."""
        return cls(jnp.zeros(num_envs), jnp.zeros(num_envs), jnp.float32(0), jnp.float32(0), jnp.int32(0))

    def after(
        self, reward: Float[Array, "num_steps num_envs"], done: Bool[Array, "num_steps num_envs"]
    ) -> "EpisodeStatistics":
        """Return the statistics after a rollout; only its sums are kept."""
        num_steps = reward.shape[0]
        steps = jnp.arange(num_steps, dtype=jnp.int32)[:, None]
        last_end = jnp.max(jnp.where(done, steps, -1), axis=0)
        ended, running = (steps <= last_end[None]), (steps > last_end[None])
        any_end = last_end >= 0

        def split(so_far, x):
            finished = jnp.where(any_end, so_far + jnp.sum(x, axis=0, where=ended), 0.0)
            return jnp.sum(finished), jnp.where(any_end, 0.0, so_far) + jnp.sum(x, axis=0, where=running)

        finished_return, running_return = split(self.running_return, reward)
        finished_length, running_length = split(self.running_length, jnp.ones_like(reward))
        count = jnp.sum(done, dtype=jnp.int32)
        divisor = jnp.maximum(count, 1)
        return EpisodeStatistics(
            running_return,
            running_length,
            jnp.where(count > 0, finished_return / divisor, self.mean_return),
            jnp.where(count > 0, finished_length / divisor, self.mean_length),
            self.episodes + count,
        )


def make_evaluate(
    config: Any, env: Any, env_params: Any, act: Callable[[PyTree, PRNGKey, Array], Array]
) -> Callable[[PRNGKey, PyTree], Metrics]:
    """Return a learner's `evaluate`: (key, state) → the metrics of `num_evaluation_episodes` of its actor."""

    def evaluate(key, state):
        return evaluate_policy(
            key,
            functools.partial(act, state),
            env,
            env_params,
            num_episodes=config.num_evaluation_episodes,
            max_steps=config.max_evaluation_steps,
        )

    return evaluate


def evaluate_policy(
    key: PRNGKey,
    act: Callable[[PRNGKey, Array], Array],
    env: Any,
    env_params: Any,
    *,
    num_episodes: int,
    max_steps: int,
) -> Metrics:
    """Play one episode in each of `num_episodes` environments, all in step, until the last has ended.

    Args:
      key: the key of everything random here.
      act: (key, observations [num_episodes, ...]) → actions.
      env: a gymnax environment.
      env_params: its parameters.
      num_episodes: how many episodes.
      max_steps: where to stop an episode that does not end; it then counts with its return so far.

    Returns:
      `episode_return`, its standard deviation over episodes `episode_return_std`, and `episode_length`.
    """
    environments = make_environments(env, env_params, num_episodes)
    key, reset_key = jax.random.split(key)
    observation, env_state = environments.reset(reset_key)

    def is_running(carry):
        step, _, _, _, running, _, _ = carry
        return (step < max_steps) & jnp.any(running)

    def play(carry):
        step, key, observation, env_state, running, total, length = carry
        key, act_key, noise_key = jax.random.split(key, 3)
        noise = jax.tree.map(lambda x: x[0], environments.draw_noise(noise_key, 1))
        observation, env_state, outcome = environments.step(env_state, act(act_key, observation), noise)
        total = total + jnp.where(running, outcome.reward, 0.0)
        length = length + running
        running = running & ~(outcome.terminated | outcome.truncated)
        return step + 1, key, observation, env_state, running, total, length

    carry = (
        jnp.int32(0),
        key,
        observation,
        env_state,
        jnp.ones(num_episodes, bool),
        jnp.zeros(num_episodes),
        jnp.zeros(num_episodes),
    )
    *_, total, length = jax.lax.while_loop(is_running, play, carry)
    return {
        "episode_return": jnp.mean(total),
        "episode_return_std": jnp.std(total),
        "episode_length": jnp.mean(length),
    }
