"""Proximal policy optimization on a gymnax environment, one rollout and its epochs per update."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree
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
    is_known,
    shuffled_minibatches,
)
from mathai.learners.environments import TORSO_CHANNELS, EpisodeStatistics, make_environments, make_evaluate
from mathai.learners.normalization import RewardScale, RunningMoments
from mathai.models.actor_critic import ActorCritic
from mathai.nn.scores import explained_variance
from mathai.rl import ppo as formulas
from mathai.rl.returns import generalized_advantage_estimation


@hyperparameters
class Config:
    """Hyperparameters; floats may be traced, all else is static.

    Attributes:
      num_envs: environments that step together.
      num_steps: steps of each of them in one rollout.
      num_epochs: passes over a rollout.
      num_minibatches: gradient updates in one pass; must divide num_envs · num_steps.
      total_env_steps: environment steps in all, for the schedule.
      learning_rate: η of Adam.
      anneal_learning_rate: let η fall linearly to 0 over all gradient updates.
      discount: γ.
      gae_lambda: λ of the generalized advantage estimate.
      clip_epsilon: ε, of the ratio and of the value.
      entropy_coefficient: weight of the entropy bonus.
      value_coefficient: weight of the value loss.
      max_gradient_norm: largest global norm of a gradient; ∞ does not clip.
      hidden_sizes: widths of a torso.
      activation: "tanh" or "relu".
      torso: "mlp" on vectors, or "conv" on images, with one convolution before the layers, of policy and value alike.
      normalize_observations: standardize observations by the mean and variance of all so far.
      normalize_rewards: divide rewards by the standard deviation of discounted returns so far.
      max_kl: leave out the rest of an update's minibatches once one has a larger approximate KL divergence from the
        policy that acted, in nats; they do not count in the schedule. ∞ leaves out none.
      bootstrap_on_truncation: take the value of the state where a time limit cut an episode. False treats a cut as
        an end, the well-known bug, and is there to measure it.
      shared_torso: one torso for policy and value.
      num_evaluation_episodes: episodes of `evaluate`.
      max_evaluation_steps: where `evaluate` stops an episode that does not end.
      greedy_evaluation: evaluate the most probable action rather than a sampled one.
    """

    num_envs: int = 4
    num_steps: int = 128
    num_epochs: int = 4
    num_minibatches: int = 4
    total_env_steps: int = 500_000
    learning_rate: float = 2.5e-4
    anneal_learning_rate: bool = True
    discount: float = 0.99
    gae_lambda: float = 0.95
    clip_epsilon: float = 0.2
    entropy_coefficient: float = 0.01
    value_coefficient: float = 0.5
    max_gradient_norm: float = 0.5
    hidden_sizes: tuple[int, ...] = (64, 64)
    activation: str = "tanh"
    torso: str = "mlp"
    normalize_observations: bool = False
    normalize_rewards: bool = False
    max_kl: float = math.inf
    bootstrap_on_truncation: bool = True
    shared_torso: bool = False
    num_evaluation_episodes: int = 128
    max_evaluation_steps: int = 10_000
    greedy_evaluation: bool = True

    @property
    def num_updates(self) -> int:
        """Updates in all: the rollouts that fit in `total_env_steps`."""
        return self.total_env_steps // (self.num_envs * self.num_steps)


class State(NamedTuple):
    """Everything that changes.

    Attributes:
      key: of all randomness to come.
      params: of the `ActorCritic`.
      optimizer: Adam's moments and counts.
      observation: what each environment shows, [num_envs, ...].
      env_state: the state of each environment.
      episodes: returns and lengths, of running episodes and of those that ended.
      env_steps: environment steps so far.
      observation_moments: of the features of observations; None where they are not normalized.
      reward_scale: None where rewards are not normalized.
    """

    key: PRNGKey
    params: PyTree
    optimizer: optax.OptState
    observation: Array
    env_state: PyTree
    episodes: EpisodeStatistics
    env_steps: Int[Array, ""]
    observation_moments: RunningMoments | None = None
    reward_scale: RewardScale | None = None


class Rollout(NamedTuple):
    """`num_steps` steps of `num_envs` environments; every field is [num_steps, num_envs, ...]."""

    observation_tm1: Array
    head_tm1: PyTree
    action_tm1: Array
    reward_t: Float[Array, "num_steps num_envs"]
    terminated_t: Bool[Array, "num_steps num_envs"]
    truncated_t: Bool[Array, "num_steps num_envs"]
    observation_t: Array


class Sample(NamedTuple):
    """What the loss needs of a step."""

    observation: Array
    action: Array
    old_log_prob: Array
    old_value: Array
    advantage: Array
    target: Array


def make(config: Config, env: Any, env_params: Any) -> Learner[State]:
    """PPO as a learner: one update is one rollout of all environments and the epochs over it.

        δₜ = rₜ + γ (1 − terminatedₜ) V(final observationₜ) − V(oₜ₋₁)
        L(θ) = −mean min(ρA, clip(ρ, 1 ± ε)A) + c_v · mean L_value − c_e · mean entropy

    Advantages are normalized within each minibatch. Time limits do not bias the value: an episode that was cut still
    has the value of the state where it stood (`bootstrap_on_truncation`).

    Args:
      config: hyperparameters.
      env: a gymnax environment with discrete or continuous actions.
      env_params: its parameters.

    Returns:
      A learner whose batch is None. Update metrics: `episode_return` and `episode_length`, means over the episodes
      that ended in the update (of the last update in which any ended, where none did; 0 before the first);
      `episodes` and `env_steps` since the start; `policy_loss`, `value_loss`, `entropy`, `approximate_kl`,
      `clip_fraction` and `gradient_norm`, means over the update's minibatches; `explained_variance` of the targets
      by the values before the update. Evaluation metrics: `episode_return`, `episode_return_std`, `episode_length`.

    Raises:
      ValueError: minibatches that do not divide the rollout, a count below 1, or an action space that is neither
        discrete nor a box.

    Source:
      Schulman et al. (2017), Proximal Policy Optimization Algorithms, algorithm 1.
    """
    _check(config)
    policy, model, features, seen = _parts(config, env, env_params)
    may_stop = not is_known(config.max_kl, math.inf)
    environments = make_environments(env, env_params, config.num_envs)
    optimizer = adam(
        config.learning_rate,
        max_gradient_norm=config.max_gradient_norm,
        schedule="linear" if config.anneal_learning_rate else "constant",
        num_steps=config.num_updates * config.num_epochs * config.num_minibatches,
        epsilon=1e-5,
        flatten=True,
    )

    def init(key: PRNGKey) -> State:
        key, params_key, env_key = jax.random.split(key, 3)
        observation, env_state = environments.reset(env_key)
        params = model.init(params_key, features(observation))
        return State(
            key,
            params,
            optimizer.init(params),
            observation,
            env_state,
            EpisodeStatistics.zeros(config.num_envs),
            jnp.int32(0),
            RunningMoments.zeros(features(observation).shape[1:]) if config.normalize_observations else None,
            RewardScale.zeros(config.num_envs) if config.normalize_rewards else None,
        )

    def roll_out(state: State, key: PRNGKey) -> tuple[State, Rollout]:
        action_key, env_key = jax.random.split(key)
        noise = (
            policy.draw_noise(action_key, (config.num_steps, config.num_envs)),
            environments.draw_noise(env_key, config.num_steps),
        )

        actor, actor_params = model.policy_alone(state.params)

        def step(carry, noise_t):
            observation_tm1, env_state = carry
            action_noise, env_noise = noise_t
            head: Any = actor.apply(actor_params, seen(state, observation_tm1), method="policy")
            action = policy.sample(head, action_noise)
            observation, env_state, outcome = environments.step(env_state, policy.to_environment(action), env_noise)
            observation_t = outcome.final_observation
            return (observation, env_state), Rollout(observation_tm1, head, action, *outcome[:3], observation_t)

        (observation, env_state), rollout = jax.lax.scan(step, (state.observation, state.env_state), noise)
        episodes = state.episodes.after(rollout.reward_t, rollout.terminated_t | rollout.truncated_t)
        env_steps = state.env_steps + config.num_steps * config.num_envs
        return state._replace(
            observation=observation, env_state=env_state, episodes=episodes, env_steps=env_steps
        ), rollout

    def samples_of(state: State, rollout: Rollout) -> Sample:
        """Advantages, targets and old log-probabilities, each in one pass over the whole rollout."""

        def value_of(observation):
            value: Any = model.apply(state.params, seen(state, observation), method="value")
            return value

        values = value_of(jnp.concatenate([rollout.observation_tm1, state.observation[None]]))
        v_tm1, v_t = values[:-1], values[1:]  # v_t is wrong where an episode ended, and matters where it was cut
        ended_t = rollout.terminated_t
        if config.bootstrap_on_truncation:
            v_t = jax.lax.cond(
                jnp.any(rollout.truncated_t),
                lambda: jnp.where(rollout.truncated_t, value_of(rollout.observation_t), v_t),
                lambda: v_t,
            )
        else:
            ended_t |= rollout.truncated_t
        reward_t = rollout.reward_t
        if state.reward_scale is not None:
            reward_t = state.reward_scale.scaled(reward_t)
        advantage = generalized_advantage_estimation(
            reward_t,
            config.discount * (1.0 - ended_t),
            v_tm1,
            v_t,
            config.gae_lambda,
            truncation_t=rollout.truncated_t,
        )
        log_prob = policy.log_probability(rollout.head_tm1, rollout.action_tm1)
        observation = seen(state, rollout.observation_tm1)
        sample = Sample(observation, rollout.action_tm1, log_prob, v_tm1, advantage, advantage + v_tm1)
        return jax.tree.map(lambda x: x.reshape((-1,) + x.shape[2:]), sample)

    def objective(head: Any, value: Array, sample: Sample) -> tuple[Array, Metrics]:
        """The loss of one minibatch as a function of what the network gave for it, and the terms to watch."""
        log_ratio = policy.log_probability(head, sample.action) - sample.old_log_prob
        ratio = formulas.probability_ratio(log_ratio, jnp.zeros_like(log_ratio))
        policy_loss = formulas.clipped_surrogate_loss(ratio, sample.advantage, epsilon=config.clip_epsilon)
        value_loss = jnp.mean(
            formulas.clipped_value_loss(value, sample.old_value, sample.target, epsilon=config.clip_epsilon)
        )
        entropy = jnp.mean(policy.entropy(head))
        total = policy_loss + config.value_coefficient * value_loss - config.entropy_coefficient * entropy
        return total, {
            "policy_loss": policy_loss,
            "value_loss": value_loss,
            "entropy": entropy,
            "approximate_kl": jnp.mean(formulas.approximate_kl(log_ratio)),
            "clip_fraction": jnp.mean(jnp.abs(ratio - 1.0) > config.clip_epsilon),
        }

    def loss(params: PyTree, sample: Sample) -> tuple[Array, tuple[Any, Array]]:
        outputs: Any = model.apply(params, sample.observation)
        head, value = outputs
        return objective(head, value, sample)[0], (head, value)

    def improve(carry, minibatch: Sample):
        """One gradient update. It is called many times, and on small networks each operation counts."""
        params, optimizer_state, stopped = carry
        gradients, outputs = jax.grad(loss, has_aux=True)(params, minibatch)
        updates, new_optimizer_state = optimizer.update(gradients, optimizer_state, params)
        gradient_norm = optax.tree.norm(ravel_pytree(gradients)[0])  # of the vector that the optimizer joins, too
        learned = optax.apply_updates(params, updates), new_optimizer_state
        if may_stop:
            log_ratio = policy.log_probability(outputs[0], minibatch.action) - minibatch.old_log_prob
            stopped |= jnp.mean(formulas.approximate_kl(log_ratio)) > config.max_kl
            learned = jax.tree.map(lambda old, new: jnp.where(stopped, old, new), (params, optimizer_state), learned)
        return (*learned, stopped), (outputs, gradient_norm)

    def run_epoch(carry, key: PRNGKey, samples: Sample):
        """One pass over the rollout in random order; what is not recurrent is done for all minibatches at once."""
        minibatches = shuffled_minibatches(key, samples, config.num_minibatches)
        minibatches = minibatches._replace(advantage=_normalize(minibatches.advantage))
        carry, (outputs, gradient_norm) = jax.lax.scan(improve, carry, minibatches)
        _, metrics = jax.vmap(objective)(outputs[0], outputs[1], minibatches)
        return carry, jax.tree.map(jnp.mean, {**metrics, "gradient_norm": gradient_norm})

    def update(state: State, batch: None = None) -> tuple[State, Metrics]:
        del batch  # the state makes its own data
        key, rollout_key, shuffle_key = jax.random.split(state.key, 3)
        state, rollout = roll_out(state, rollout_key)
        if state.reward_scale is not None:
            done = rollout.terminated_t | rollout.truncated_t
            scale = state.reward_scale.after(rollout.reward_t, done, config.discount)
            state = state._replace(reward_scale=scale)
        samples = samples_of(state, rollout)
        (params, optimizer_state, _), metrics = jax.lax.scan(
            lambda carry, key: run_epoch(carry, key, samples),
            (state.params, state.optimizer, jnp.asarray(False)),
            jax.random.split(shuffle_key, config.num_epochs),
        )
        metrics = jax.tree.map(jnp.mean, metrics)
        metrics["explained_variance"] = explained_variance(samples.old_value, samples.target)
        metrics["episode_return"] = state.episodes.mean_return
        metrics["episode_length"] = state.episodes.mean_length
        metrics["episodes"] = state.episodes.episodes
        metrics["env_steps"] = state.env_steps
        if state.observation_moments is not None:
            # Only now, so that all of an update sees observations alike.
            moments = state.observation_moments.after(features(rollout.observation_tm1))
            state = state._replace(observation_moments=moments)
        return state._replace(key=key, params=params, optimizer=optimizer_state), metrics

    return Learner(init, update, make_evaluate(config, env, env_params, make_actor(config, env, env_params)))


def make_actor(config: Config, env: Any, env_params: Any) -> Callable[[State, PRNGKey, Array], Array]:
    """Return how `evaluate` plays: (state, key, observations [n, ...]) → actions."""
    policy, model, _, seen = _parts(config, env, env_params)

    def act(state, key, observation):
        head: Any = model.apply(state.params, seen(state, observation), method="policy")
        return policy.act(key, head, observation.shape[:1], greedy=config.greedy_evaluation)

    return act


def _parts(
    config: Config, env: Any, env_params: Any
) -> tuple[policies.Policy, ActorCritic, Callable[[Array], Array], Callable[[State, Array], Array]]:
    """The policy, the model, what it would see of observations, and what it sees where they are normalized."""
    policy, model, features = policies.actor_critic(config, env, env_params, shared_torso=config.shared_torso)

    def seen(state, observation):
        x = features(observation)
        return x if state.observation_moments is None else state.observation_moments.standardize(x)

    return policy, model, features, seen


def _check(config: Config) -> None:
    check_choices(config, {"torso": tuple(TORSO_CHANNELS)})
    check_between(config, 0, 1, "discount", "gae_lambda")
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
    check_minibatches("ppo", config)


def _normalize(advantage: Float[Array, "minibatches samples"]) -> Float[Array, "minibatches samples"]:
    """Mean 0 and standard deviation 1 within each minibatch."""
    centred = advantage - jnp.mean(advantage, axis=1, keepdims=True)
    return centred / (jnp.std(advantage, axis=1, keepdims=True) + 1e-8)
