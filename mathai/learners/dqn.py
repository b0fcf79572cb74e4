"""Deep Q-learning on a gymnax environment, with a replay memory on the device."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree, UInt32

from mathai.learners import policies, replay
from mathai.learners.base import (
    Learner,
    Metrics,
    PRNGKey,
    adam,
    check_between,
    check_choices,
    check_positive,
    hyperparameters,
    moving_average,
)
from mathai.learners.environments import (
    TORSO_CHANNELS,
    EpisodeStatistics,
    make_environments,
    make_evaluate,
)
from mathai.learners.policies import epsilon_greedy, falling_epsilon
from mathai.nn import losses
from mathai.rl import q_learning


@hyperparameters
class Config:
    """Hyperparameters; floats may be traced, all else is static.

    Attributes:
      num_envs: environments that step together.
      num_steps: steps of each of them in one update.
      train_every: steps of each of them between gradient updates; must divide num_steps.
      num_gradient_steps: gradient updates each time.
      batch_size: transitions in a gradient update.
      buffer_size: transitions kept.
      learning_starts: environment steps before the first gradient update.
      total_env_steps: environment steps in all, for the schedules.
      learning_rate: η of Adam.
      anneal_learning_rate: let η fall linearly to 0 over all gradient updates.
      discount: γ.
      n_step: rewards before the bootstrap.
      double: let the network choose the action that the target network values.
      dueling: a network with two heads.
      target_update_interval: gradient updates between updates of the target network.
      target_step_size: τ of such an update, φ ← φ + τ (θ − φ); 1 copies.
      epsilon_start: ε, the probability of a random action, at first,
      epsilon_end: and at last;
      exploration_fraction: share of all environment steps over which it falls linearly.
      huber_delta: δ of the Huber loss; ∞ is half the squared error.
      max_gradient_norm: largest global norm of a gradient; ∞ does not clip.
      hidden_sizes: widths of the network.
      activation: "tanh" or "relu".
      normalization: "none" or "layer".
      torso: "mlp" on vectors, or "conv" on images.
      bootstrap_on_truncation: take the value of the state where a time limit cut an episode. False treats a cut as
        an end, the well-known bug, and is there to measure it.
      num_evaluation_episodes: episodes of `evaluate`.
      max_evaluation_steps: where `evaluate` stops an episode that does not end.
    """

    num_envs: int = 10
    num_steps: int = 100
    train_every: int = 1
    num_gradient_steps: int = 1
    batch_size: int = 128
    buffer_size: int = 10_000
    learning_starts: int = 1000
    total_env_steps: int = 500_000
    learning_rate: float = 2.5e-4
    anneal_learning_rate: bool = False
    discount: float = 0.99
    n_step: int = 1
    double: bool = True
    dueling: bool = False
    target_update_interval: int = 50
    target_step_size: float = 1.0
    epsilon_start: float = 1.0
    epsilon_end: float = 0.05
    exploration_fraction: float = 0.5
    huber_delta: float = math.inf
    max_gradient_norm: float = 10.0
    hidden_sizes: tuple[int, ...] = (120, 84)
    activation: str = "relu"
    normalization: str = "none"
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
      params: θ of the `QNetwork`.
      target: φ of the target network.
      optimizer: Adam's moments and counts.
      memory: the last transitions.
      observation: what each environment shows, [num_envs, ...].
      env_state: the state of each environment.
      episodes: returns and lengths, of running episodes and of those that ended.
      env_steps: environment steps so far.
      gradient_steps: gradient updates so far.
    """

    key: PRNGKey
    params: PyTree
    target: PyTree
    optimizer: optax.OptState
    memory: replay.Memory
    observation: Array
    env_state: PyTree
    episodes: EpisodeStatistics
    env_steps: Int[Array, ""]
    gradient_steps: Int[Array, ""]


class Noise(NamedTuple):
    """All randomness of some steps of the environments and the gradient updates that follow them."""

    env: PyTree
    exploration: Float[Array, "..."]
    indices: UInt32[Array, "..."]


def make(config: Config, env: Any, env_params: Any) -> Learner[State]:
    """Deep Q-learning as a learner: one update is `num_steps` steps of all environments, and gradient updates between.

        L(θ) = mean ℓ(r + γ (1 − terminated) Q_φ(o', argmaxⱼ Q_θ(o', j)) − Q_θ(o, a))

    with ℓ the Huber loss, o' the observation that the step led to before any reset, and without `double` the maximum
    of Q_φ(o', ·). Time limits do not bias the values: only termination removes them (`bootstrap_on_truncation`).

    Args:
      config: hyperparameters.
      env: a gymnax environment with discrete actions.
      env_params: its parameters.

    Returns:
      A learner whose batch is None. Update metrics: `episode_return` and `episode_length`, means over the episodes
      that ended in the last update in which any did; `episodes`, `env_steps` and `gradient_steps` since the start;
      `loss`, `q_value` of the actions replayed, `gradient_norm`, means over the gradient updates; `epsilon`.
      Evaluation metrics: `episode_return`, `episode_return_std`, `episode_length` of the greedy policy.

    Raises:
      ValueError: a number is out of its range, or an action space that is not discrete.

    Source:
      Mnih et al. (2015), Human-level Control through Deep Reinforcement Learning, algorithm 1; Hessel et al. (2018),
      Rainbow, for its variants.
    """
    _check(config)
    action_values = policies.action_values(config, env, env_params, dueling=config.dueling)
    environments = make_environments(env, env_params, config.num_envs)
    num_rows, num_phases = config.buffer_size // config.num_envs, config.num_steps // config.train_every
    num_skipped = max(-(-config.learning_starts // (config.num_envs * config.train_every)) - 1, 0)
    optimizer = adam(
        config.learning_rate,
        max_gradient_norm=config.max_gradient_norm,
        schedule="linear" if config.anneal_learning_rate else "constant",
        num_steps=max((config.num_updates * num_phases - num_skipped) * config.num_gradient_steps, 1),
        flatten=True,
    )

    def init(key: PRNGKey) -> State:
        key, params_key, env_key = jax.random.split(key, 3)
        observation, env_state = environments.reset(env_key)
        params = action_values.init(params_key, observation)
        zeros = jnp.zeros(config.num_envs)
        example = replay.Transition(
            jnp.stack([observation, observation], axis=1), zeros.astype(jnp.int32), zeros, zeros > 0, zeros > 0
        )
        return State(
            key,
            params,
            params,
            optimizer.init(params),
            replay.empty(example, num_rows),
            observation,
            env_state,
            EpisodeStatistics.zeros(config.num_envs),
            jnp.int32(0),
            jnp.int32(0),
        )

    def act(state: State, env_noise: PyTree, exploration: Array) -> tuple[State, Array, Array]:
        """One step of all environments, into the memory."""
        epsilon = falling_epsilon(config, state.env_steps)
        action = epsilon_greedy(action_values(state.params, state.observation), epsilon, exploration)
        observation, env_state, outcome = environments.step(state.env_state, action, env_noise)
        observations = jnp.stack([state.observation, outcome.final_observation], axis=1)
        row = replay.Transition(observations, action, outcome.reward, outcome.terminated, outcome.truncated)
        state = state._replace(
            memory=replay.write(state.memory, row),
            observation=observation,
            env_state=env_state,
            env_steps=state.env_steps + config.num_envs,
        )
        return state, outcome.reward, outcome.terminated | outcome.truncated

    def loss(params: PyTree, target: PyTree, batch: replay.Samples) -> tuple[Array, Array]:
        q_tm1 = action_values(params, batch.observation_tm1)
        q_t = action_values(target, batch.observation_t)
        selector = action_values(jax.lax.stop_gradient(params), batch.observation_t) if config.double else q_t
        error = q_learning.double_q_learning_error(q_tm1, batch.action, batch.reward, batch.discount, q_t, selector)
        of_error = losses.huber(jnp.zeros_like(error), error, delta=config.huber_delta)
        chosen = jnp.take_along_axis(q_tm1, batch.action[:, None], axis=1)
        return jnp.mean(of_error), jnp.mean(chosen)

    def improve(learned, memory: replay.Memory, bits: Array):
        """One gradient update, and where its turn has come one of the target network."""
        params, target, optimizer_state, count = learned
        batch = replay.draw(memory, bits, discount=config.discount, num_steps=config.n_step)
        if not config.bootstrap_on_truncation:
            batch = batch._replace(discount=jnp.where(batch.cut, 0.0, batch.discount))
        (value, q_value), gradient = jax.value_and_grad(loss, has_aux=True)(params, target, batch)
        updates, optimizer_state = optimizer.update(gradient, optimizer_state, params)
        params = optax.apply_updates(params, updates)
        count = count + 1
        target = jax.lax.cond(
            count % config.target_update_interval == 0,
            lambda: moving_average(params, target, config.target_step_size),  # in this order, 1 copies to the bit
            lambda: target,
        )
        metrics = {"loss": value, "q_value": q_value, "gradient_norm": optax.tree.norm(gradient)}
        return (params, target, optimizer_state, count), metrics

    def run_phase(state: State, noise: Noise):
        """Steps of the environments, then gradient updates, unless it is too early for them."""

        def step(state, noise_t):
            state, reward, done = act(state, *noise_t)
            return state, (reward, done)

        state, (rewards, done) = jax.lax.scan(step, state, (noise.env, noise.exploration))
        learned = state.params, state.target, state.optimizer, state.gradient_steps
        is_time = (state.env_steps >= config.learning_starts) & (state.memory.num_written >= config.n_step)

        def train():
            return jax.lax.scan(lambda learned, u: improve(learned, state.memory, u), learned, noise.indices)

        shapes = jax.eval_shape(train)[1]
        learned, metrics = jax.lax.cond(
            is_time, train, lambda: (learned, jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes))
        )
        params, target, optimizer_state, count = learned
        state = state._replace(params=params, target=target, optimizer=optimizer_state, gradient_steps=count)
        return state, (rewards, done, metrics, is_time)

    def update(state: State, batch: None = None) -> tuple[State, Metrics]:
        del batch  # the state makes its own data
        key, env_key, exploration_key, index_key = jax.random.split(state.key, 4)
        by_phase = lambda x: x.reshape(num_phases, config.train_every, *x.shape[1:])  # noqa: E731
        noise = Noise(
            jax.tree.map(by_phase, environments.draw_noise(env_key, config.num_steps)),
            by_phase(jax.random.uniform(exploration_key, (config.num_steps, config.num_envs, 2))),
            jax.random.bits(index_key, (num_phases, config.num_gradient_steps, config.batch_size)),
        )
        state, (rewards, done, metrics, trained) = jax.lax.scan(run_phase, state, noise)
        rewards, done = (x.reshape(config.num_steps, config.num_envs) for x in (rewards, done))
        episodes = state.episodes.after(rewards, done)
        count = jnp.maximum(jnp.sum(trained), 1) * config.num_gradient_steps
        return state._replace(key=key, episodes=episodes), {
            **jax.tree.map(lambda x: jnp.sum(x) / count, metrics),
            "epsilon": falling_epsilon(config, state.env_steps),
            "episode_return": episodes.mean_return,
            "episode_length": episodes.mean_length,
            "episodes": episodes.episodes,
            "env_steps": state.env_steps,
            "gradient_steps": state.gradient_steps,
        }

    return Learner(init, update, make_evaluate(config, env, env_params, make_actor(config, env, env_params)))


def make_actor(config: Config, env: Any, env_params: Any) -> Callable[[State, PRNGKey, Array], Array]:
    """Return how `evaluate` plays: (state, key, observations [n, ...]) → the best actions."""
    return policies.action_values(config, env, env_params, dueling=config.dueling).best_action


def _check(config: Config) -> None:
    check_choices(config, {"torso": tuple(TORSO_CHANNELS)})
    check_between(config, 0, 1, "epsilon_start", "epsilon_end", "exploration_fraction", "discount", "target_step_size")
    check_positive(
        config,
        "num_envs",
        "num_steps",
        "train_every",
        "num_gradient_steps",
        "batch_size",
        "n_step",
        "target_update_interval",
        "num_evaluation_episodes",
        "max_evaluation_steps",
        "hidden_sizes",
    )
    if config.num_steps % config.train_every:
        raise ValueError(f"dqn: train_every = {config.train_every} does not divide num_steps = {config.num_steps}.")
    if config.learning_starts >= config.total_env_steps:
        raise ValueError(
            f"dqn: learning_starts = {config.learning_starts} leaves nothing to learn of total_env_steps = "
            f"{config.total_env_steps}."
        )
    if config.buffer_size < config.num_envs * config.n_step:
        raise ValueError(
            f"dqn: buffer_size = {config.buffer_size} is less than num_envs * n_step = {config.num_envs} * "
            f"{config.n_step}; nothing could be replayed."
        )
