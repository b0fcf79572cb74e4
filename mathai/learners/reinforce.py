"""REINFORCE with a learned baseline on a gymnax environment, some whole episodes per update."""

import math
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
    check_positive,
    hyperparameters,
)
from mathai.learners.environments import TORSO_CHANNELS, make_environments, make_evaluate
from mathai.rl.returns import discounted_returns


@hyperparameters
class Config:
    """Hyperparameters; floats may be traced, all else is static.

    Attributes:
      num_envs: episodes in one update, played together.
      max_episode_steps: where an episode is cut, if the environment does not cut it before.
      num_updates: updates in all.
      learning_rate: η of Adam.
      anneal_learning_rate: let η fall linearly to 0 over all updates.
      discount: γ.
      baseline: subtract a learned value from the returns.
      value_coefficient: weight of the value loss.
      normalize_advantages: give the advantages of an update mean 0 and standard deviation 1.
      entropy_coefficient: weight of the entropy bonus.
      max_gradient_norm: largest global norm of a gradient; ∞ does not clip.
      hidden_sizes: widths of a torso.
      activation: "tanh" or "relu".
      torso: "mlp" on vectors, or "conv" on images, where one convolution serves policy and value.
      bootstrap_on_truncation: with a baseline, add the value of the state where a time limit cut an episode to its
        last reward. False treats a cut as an end, the well-known bug, and is there to measure it.
      num_evaluation_episodes: episodes of `evaluate`.
      max_evaluation_steps: where `evaluate` stops an episode that does not end.
      greedy_evaluation: evaluate the most probable action rather than a sampled one.
    """

    num_envs: int = 16
    max_episode_steps: int = 500
    num_updates: int = 400
    learning_rate: float = 3e-3
    anneal_learning_rate: bool = True
    discount: float = 0.99
    baseline: bool = True
    value_coefficient: float = 0.5
    normalize_advantages: bool = True
    entropy_coefficient: float = 0.0
    max_gradient_norm: float = math.inf
    hidden_sizes: tuple[int, ...] = (64, 64)
    activation: str = "tanh"
    torso: str = "mlp"
    bootstrap_on_truncation: bool = True
    num_evaluation_episodes: int = 128
    max_evaluation_steps: int = 10_000
    greedy_evaluation: bool = True


class State(NamedTuple):
    """Everything that changes.

    Attributes:
      key: of all randomness to come.
      params: of the `ActorCritic`.
      optimizer: Adam's moments and counts.
      episodes: episodes so far.
      env_steps: environment steps so far, without those after an episode's end.
    """

    key: PRNGKey
    params: PyTree
    optimizer: optax.OptState
    episodes: Int[Array, ""]
    env_steps: Int[Array, ""]


class Episodes(NamedTuple):
    """One episode of each environment; every field is [max_episode_steps, num_envs, ...], padded after its end."""

    observation_tm1: Array
    action_tm1: Array
    reward_t: Float[Array, "T num_envs"]
    terminated_t: Bool[Array, "T num_envs"]
    cut_t: Bool[Array, "T num_envs"]
    observation_t: Array
    where: Bool[Array, "T num_envs"]


def make(config: Config, env: Any, env_params: Any) -> Learner[State]:
    """REINFORCE as a learner: one update is `num_envs` whole episodes and one gradient step on them.

        Gₜ = rₜ + γ (1 − terminatedₜ) Gₜ₊₁,      L(θ) = −mean (Gₜ − V(oₜ)) log π(aₜ | oₜ) + c_v ½ mean (Gₜ − V(oₜ))²

    over all steps of all episodes, each as often as it happened, so without a factor γᵗ. Where a time limit cut an
    episode, G goes on with γ V of the state where it stood (`bootstrap_on_truncation`).

    Args:
      config: hyperparameters.
      env: a gymnax environment with discrete or continuous actions.
      env_params: its parameters.

    Returns:
      A learner whose batch is None. Update metrics: `episode_return` and `episode_length`, means over the update's
      episodes; `episodes` and `env_steps` since the start; `policy_loss`, `value_loss`, `entropy`, `gradient_norm`.
      Evaluation metrics: `episode_return`, `episode_return_std`, `episode_length`.

    Raises:
      ValueError: a number out of its range, or an action space that is neither discrete nor a box.

    Source:
      Williams (1992), Simple Statistical Gradient-Following Algorithms for Connectionist Reinforcement Learning;
      Sutton & Barto (2018), Reinforcement Learning, 2nd ed., section 13.4.
    """
    _check(config)
    policy, model, features = policies.actor_critic(config, env, env_params)
    environments = make_environments(env, env_params, config.num_envs)
    optimizer = adam(
        config.learning_rate,
        max_gradient_norm=config.max_gradient_norm,
        schedule="linear" if config.anneal_learning_rate else "constant",
        num_steps=config.num_updates,
        flatten=True,
    )

    def init(key: PRNGKey) -> State:
        key, params_key, env_key = jax.random.split(key, 3)
        params = model.init(params_key, features(environments.reset(env_key)[0]))
        return State(key, params, optimizer.init(params), jnp.int32(0), jnp.int32(0))

    def play(params: PyTree, key: PRNGKey) -> Episodes:
        """Whole episodes. The loop ends with the longest of them."""
        actor, actor_params = model.policy_alone(params)
        reset_key, key = jax.random.split(key)
        observation, env_state = environments.reset(reset_key)

        def step(observation_tm1, env_state, running, time):
            action_key, env_key = jax.random.split(jax.random.fold_in(key, time))
            head: Any = actor.apply(actor_params, features(observation_tm1), method="policy")
            action = policy.sample(head, policy.draw_noise(action_key, (config.num_envs,)))
            noise = jax.tree.map(lambda x: x[0], environments.draw_noise(env_key, 1))
            observation, env_state, outcome = environments.step(env_state, policy.to_environment(action), noise)
            is_last = time == config.max_episode_steps - 1
            cut = (outcome.truncated | is_last) & ~outcome.terminated
            record = Episodes(
                observation_tm1, action, outcome.reward, outcome.terminated, cut, outcome.final_observation, running
            )
            return observation, env_state, running & ~(outcome.terminated | outcome.truncated), record

        running = jnp.ones(config.num_envs, bool)
        shapes = jax.eval_shape(step, observation, env_state, running, jnp.int32(0))[-1]
        history = jax.tree.map(lambda x: jnp.zeros((config.max_episode_steps, *x.shape), x.dtype), shapes)

        def is_running(carry):
            _, _, running, time, _ = carry
            return (time < config.max_episode_steps) & jnp.any(running)

        def go_on(carry):
            observation, env_state, running, time, history = carry
            observation, env_state, running, record = step(observation, env_state, running, time)
            history = jax.tree.map(lambda x, new: jax.lax.dynamic_update_index_in_dim(x, new, time, 0), history, record)
            return observation, env_state, running, time + 1, history

        return jax.lax.while_loop(is_running, go_on, (observation, env_state, running, jnp.int32(0), history))[-1]

    def loss(params: PyTree, episodes: Episodes) -> tuple[Array, Metrics]:
        outputs: Any = model.apply(params, features(episodes.observation_tm1))
        head, value = outputs
        reward_t, where = episodes.reward_t, episodes.where
        if config.baseline and config.bootstrap_on_truncation:
            last_value: Any = model.apply(params, features(episodes.observation_t), method="value")
            reward_t = reward_t + jnp.where(episodes.cut_t, config.discount * jax.lax.stop_gradient(last_value), 0.0)
        goes_on = where & ~(episodes.terminated_t | episodes.cut_t)
        returns = discounted_returns(jnp.where(where, reward_t, 0.0), config.discount * goes_on, jnp.float32(0))
        advantage = returns - jax.lax.stop_gradient(value) if config.baseline else returns
        mean = lambda x: jnp.sum(jnp.where(where, x, 0.0)) / jnp.sum(where)  # noqa: E731
        if config.normalize_advantages:
            centred = advantage - mean(advantage)
            advantage = centred / (jnp.sqrt(mean(centred**2)) + 1e-8)
        policy_loss = -mean(advantage * policy.log_probability(head, episodes.action_tm1))
        value_loss = 0.5 * mean((returns - value) ** 2)
        entropy = mean(jnp.broadcast_to(policy.entropy(head), where.shape))
        total = policy_loss - config.entropy_coefficient * entropy
        if config.baseline:
            total += config.value_coefficient * value_loss
        return total, {"policy_loss": policy_loss, "value_loss": value_loss, "entropy": entropy}

    def update(state: State, batch: None = None) -> tuple[State, Metrics]:
        del batch  # the state makes its own data
        key, play_key = jax.random.split(state.key)
        episodes = play(state.params, play_key)
        gradient, metrics = jax.grad(loss, has_aux=True)(state.params, episodes)
        updates, optimizer_state = optimizer.update(gradient, state.optimizer, state.params)
        num_steps = jnp.sum(episodes.where)
        state = State(
            key,
            optax.apply_updates(state.params, updates),
            optimizer_state,
            state.episodes + config.num_envs,
            state.env_steps + num_steps,
        )
        return state, {
            **metrics,
            "gradient_norm": optax.tree.norm(gradient),
            "episode_return": jnp.sum(jnp.where(episodes.where, episodes.reward_t, 0.0)) / config.num_envs,
            "episode_length": num_steps / config.num_envs,
            "episodes": state.episodes,
            "env_steps": state.env_steps,
        }

    return Learner(init, update, make_evaluate(config, env, env_params, make_actor(config, env, env_params)))


def make_actor(config: Config, env: Any, env_params: Any) -> Callable[[State, PRNGKey, Array], Array]:
    """Return how `evaluate` plays: (state, key, observations [n, ...]) → actions."""
    policy, model, features = policies.actor_critic(config, env, env_params)

    def act(state, key, observation):
        head: Any = model.apply(state.params, features(observation), method="policy")
        return policy.act(key, head, observation.shape[:1], greedy=config.greedy_evaluation)

    return act


def _check(config: Config) -> None:
    check_choices(config, {"torso": tuple(TORSO_CHANNELS)})
    check_between(config, 0, 1, "discount")
    check_positive(
        config,
        "num_envs",
        "max_episode_steps",
        "num_updates",
        "num_evaluation_episodes",
        "max_evaluation_steps",
        "hidden_sizes",
    )
