"""Q-learning without replay memory or target network: λ-returns of parallel environments, and normalized layers."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, PyTree

from mathai.learners import policies
from mathai.learners.base import (
    Learner,
    Metrics,
    PRNGKey,
    adam,
    check_between,
    check_choices,
    check_minibatches,
    check_positive,
    hyperparameters,
    shuffled_minibatches,
)
from mathai.learners.environments import (
    TORSO_CHANNELS,
    EpisodeStatistics,
    make_environments,
    make_evaluate,
)
from mathai.learners.policies import epsilon_greedy, falling_epsilon
from mathai.rl.returns import lambda_returns


@hyperparameters
class Config:
    """Hyperparameters; floats may be traced, all else is static.

    Attributes:
      num_envs: environments that step together.
      num_steps: steps of each of them in one rollout.
      num_epochs: passes over a rollout.
      num_minibatches: gradient updates in one pass; must divide num_envs · num_steps.
      total_env_steps: environment steps in all, for the schedules.
      learning_rate: η of Adam.
      anneal_learning_rate: let η fall linearly to 0 over all gradient updates.
      discount: γ.
      q_lambda: λ of the returns.
      reward_scale: factor of rewards, of those learned from alone.
      epsilon_start: ε, the probability of a random action, at first,
      epsilon_end: and at last;
      exploration_fraction: share of all environment steps over which it falls linearly.
      max_gradient_norm: largest global norm of a gradient; ∞ does not clip.
      hidden_sizes: widths of the network.
      activation: "tanh" or "relu".
      normalization: "none" or "layer"; without a target network, layer normalization is what keeps learning stable.
      torso: "mlp" on vectors, or "conv" on images.
      bootstrap_on_truncation: take the value of the state where a time limit cut an episode. False treats a cut as
        an end, the well-known bug, and is there to measure it.
      num_evaluation_episodes: episodes of `evaluate`.
      max_evaluation_steps: where `evaluate` stops an episode that does not end.
    """

    num_envs: int = 32
    num_steps: int = 64
    num_epochs: int = 4
    num_minibatches: int = 16
    total_env_steps: int = 500_000
    learning_rate: float = 2.5e-4
    anneal_learning_rate: bool = True
    discount: float = 0.99
    q_lambda: float = 0.95
    reward_scale: float = 1.0
    epsilon_start: float = 1.0
    epsilon_end: float = 0.05
    exploration_fraction: float = 0.2
    max_gradient_norm: float = 10.0
    hidden_sizes: tuple[int, ...] = (128, 128)
    activation: str = "relu"
    normalization: str = "layer"
    torso: str = "mlp"
    bootstrap_on_truncation: bool = True
    num_evaluation_episodes: int = 128
    max_evaluation_steps: int = 10_000

    @property
    def num_updates(self) -> int:
        """Updates in all: the rollouts that fit in `total_env_steps`."""
        return self.total_env_steps // (self.num_envs * self.num_steps)


class State(NamedTuple):
    """Everything that changes.

    Attributes:
      key: of all randomness to come.
      params: of the `QNetwork`.
      optimizer: Adam's moments and counts.
      observation: what each environment shows, [num_envs, ...].
      env_state: the state of each environment.
      episodes: returns and lengths, of running episodes and of those that ended.
      env_steps: environment steps so far.
    """

    key: PRNGKey
    params: PyTree
    optimizer: optax.OptState
    observation: Array
    env_state: PyTree
    episodes: EpisodeStatistics
    env_steps: Int[Array, ""]


class Rollout(NamedTuple):
    """`num_steps` steps of `num_envs` environments; every field is [num_steps, num_envs, ...]."""

    observation_tm1: Array
    action_tm1: Array
    reward_t: Float[Array, "num_steps num_envs"]
    terminated_t: Bool[Array, "num_steps num_envs"]
    truncated_t: Bool[Array, "num_steps num_envs"]
    observation_t: Array


def make(config: Config, env: Any, env_params: Any) -> Learner[State]:
    """Parallel Q-learning as a learner: one update is one rollout of all environments and the epochs over it.

        Gₜ = rₜ + γ (1 − terminatedₜ) ((1 − λ) maxₐ Q(oₜ, a) + λ Gₜ₊₁),      L(θ) = ½ mean (Gₜ − Q_θ(oₜ₋₁, aₜ₋₁))²

    where oₜ is the observation that the step led to before any reset, and the recursion is cut where an episode ends.
    Returns are computed once for all epochs. There is neither a replay memory nor a target network.

    Args:
      config: hyperparameters.
      env: a gymnax environment with discrete actions.
      env_params: its parameters.

    Returns:
      A learner whose batch is None. Update metrics: `episode_return` and `episode_length`, means over the episodes
      that ended in the last update in which any did; `episodes` and `env_steps` since the start; `loss`, `q_value`,
      `gradient_norm`, means over the minibatches; `epsilon`. Evaluation metrics: `episode_return`,
      `episode_return_std`, `episode_length` of the greedy policy.

    Raises:
      ValueError: minibatches that do not divide the rollout, a number out of its range, or an action space that is
        not discrete.

    Source:
      Gallici et al. (2025), Simplifying Deep Temporal Difference Learning, algorithm 1.
    """
    _check(config)
    action_values = policies.action_values(config, env, env_params)
    environments = make_environments(env, env_params, config.num_envs)
    optimizer = adam(
        config.learning_rate,
        max_gradient_norm=config.max_gradient_norm,
        schedule="linear" if config.anneal_learning_rate else "constant",
        num_steps=max(config.num_updates * config.num_epochs * config.num_minibatches, 1),
        epsilon=1e-5,
        flatten=True,
    )

    def init(key: PRNGKey) -> State:
        key, params_key, env_key = jax.random.split(key, 3)
        observation, env_state = environments.reset(env_key)
        params = action_values.init(params_key, observation)
        episodes = EpisodeStatistics.zeros(config.num_envs)
        return State(key, params, optimizer.init(params), observation, env_state, episodes, jnp.int32(0))

    def roll_out(state: State, key: PRNGKey) -> tuple[State, Rollout]:
        exploration_key, env_key = jax.random.split(key)
        noise = (
            jax.random.uniform(exploration_key, (config.num_steps, config.num_envs, 2)),
            environments.draw_noise(env_key, config.num_steps),
        )
        epsilon = falling_epsilon(config, state.env_steps)

        def step(carry, noise_t):
            observation_tm1, env_state = carry
            exploration, env_noise = noise_t
            action = epsilon_greedy(action_values(state.params, observation_tm1), epsilon, exploration)
            observation, env_state, outcome = environments.step(env_state, action, env_noise)
            record = Rollout(observation_tm1, action, *outcome[:3], outcome.final_observation)
            return (observation, env_state), record

        (observation, env_state), rollout = jax.lax.scan(step, (state.observation, state.env_state), noise)
        episodes = state.episodes.after(rollout.reward_t, rollout.terminated_t | rollout.truncated_t)
        env_steps = state.env_steps + config.num_steps * config.num_envs
        return state._replace(
            observation=observation, env_state=env_state, episodes=episodes, env_steps=env_steps
        ), rollout

    def targets(params: PyTree, rollout: Rollout) -> Array:
        """λ-returns, from one pass over the whole rollout."""
        v_t = jnp.max(action_values(params, rollout.observation_t), axis=-1)
        ended_t = rollout.terminated_t
        if not config.bootstrap_on_truncation:
            ended_t |= rollout.truncated_t
        return lambda_returns(
            config.reward_scale * rollout.reward_t,
            config.discount * (1.0 - ended_t),
            v_t,
            config.q_lambda,
            truncation_t=rollout.truncated_t,
        )

    def loss(params: PyTree, minibatch: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        observation, action, target = minibatch
        q = jnp.take_along_axis(action_values(params, observation), action[:, None], axis=1)[:, 0]
        return 0.5 * jnp.mean((target - q) ** 2), jnp.mean(q)

    def improve(carry, minibatch):
        params, optimizer_state = carry
        (value, q_value), gradient = jax.value_and_grad(loss, has_aux=True)(params, minibatch)
        updates, optimizer_state = optimizer.update(gradient, optimizer_state, params)
        metrics = {"loss": value, "q_value": q_value, "gradient_norm": optax.tree.norm(gradient)}
        return (optax.apply_updates(params, updates), optimizer_state), metrics

    def run_epoch(carry, key: PRNGKey, samples):
        minibatches = shuffled_minibatches(key, samples, config.num_minibatches)
        return jax.lax.scan(improve, carry, minibatches)

    def update(state: State, batch: None = None) -> tuple[State, Metrics]:
        del batch  # the state makes its own data
        key, rollout_key, shuffle_key = jax.random.split(state.key, 3)
        state, rollout = roll_out(state, rollout_key)
        samples = rollout.observation_tm1, rollout.action_tm1, targets(state.params, rollout)
        samples = jax.tree.map(lambda x: x.reshape((-1,) + x.shape[2:]), samples)
        (params, optimizer_state), metrics = jax.lax.scan(
            lambda carry, key: run_epoch(carry, key, samples),
            (state.params, state.optimizer),
            jax.random.split(shuffle_key, config.num_epochs),
        )
        return state._replace(key=key, params=params, optimizer=optimizer_state), {
            **jax.tree.map(jnp.mean, metrics),
            "epsilon": falling_epsilon(config, state.env_steps),
            "episode_return": state.episodes.mean_return,
            "episode_length": state.episodes.mean_length,
            "episodes": state.episodes.episodes,
            "env_steps": state.env_steps,
        }

    return Learner(init, update, make_evaluate(config, env, env_params, make_actor(config, env, env_params)))


def make_actor(config: Config, env: Any, env_params: Any) -> Callable[[State, PRNGKey, Array], Array]:
    """Return how `evaluate` plays: (state, key, observations [n, ...]) → the best actions."""
    return policies.action_values(config, env, env_params).best_action


def _check(config: Config) -> None:
    check_choices(config, {"torso": tuple(TORSO_CHANNELS)})
    check_between(config, 0, 1, "epsilon_start", "epsilon_end", "exploration_fraction", "discount", "q_lambda")
    check_positive(
        config,
        "num_envs",
        "num_steps",
        "num_epochs",
        "num_minibatches",
        "num_evaluation_episodes",
        "max_evaluation_steps",
        "hidden_sizes",
    )
    check_minibatches("pqn", config)
