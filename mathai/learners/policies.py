"""What a policy's head means: categories for discrete actions, a Gaussian for continuous ones.

Sampling is split in two. The noise depends on no parameters, so a learner draws it for a whole rollout in one call;
`sample` then is a deterministic function of the head and its noise.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from mathai.learners.base import PRNGKey
from mathai.learners.environments import TORSO_CHANNELS, observation_features
from mathai.models.actor_critic import ActorCritic
from mathai.models.q_network import QNetwork
from mathai.rl import policy_gradient

Head = Any  # logits [..., actions], or (mean, log_std), each [..., actions]


class Policy(NamedTuple):
    """A family of distributions over actions, as functions of the head of an `ActorCritic`.

    Attributes:
      num_actions: number of actions, or dimensions of a continuous action; also the size of the noise.
      continuous: whether the head is `(mean, log_std)` rather than logits.
      draw_noise: (key, batch shape) → noise [*batch, num_actions].
      sample: (head, noise) → action.
      mode: head → the most probable action.
      log_probability: (head, action) → log π(action) [*batch].
      entropy: head → entropy [*batch], in nats.
      to_environment: action → the action that the environment takes: clipped to its bounds where it has any.
    """

    num_actions: int
    continuous: bool
    draw_noise: Callable[[PRNGKey, tuple[int, ...]], Array]
    sample: Callable[[Head, Array], Array]
    mode: Callable[[Head], Array]
    log_probability: Callable[[Head, Array], Array]
    entropy: Callable[[Head], Array]
    to_environment: Callable[[Array], Array]

    def act(self, key: PRNGKey, head: Head, shape: tuple[int, ...], *, greedy: bool) -> Array:
        """Return what the environment takes: the most probable actions, or sampled ones; shape is the batch's."""
        action = self.mode(head) if greedy else self.sample(head, self.draw_noise(key, shape))
        return self.to_environment(action)


def for_action_space(space: Any) -> Policy:
    """Return the policy for an action space: `Discrete` gives categories, a `Box` of one axis a Gaussian.

    Raises:
      ValueError: any other space.

    >>> from gymnax.environments import spaces
    >>> for_action_space(spaces.Discrete(3)).sample(jnp.array([0.0, 9.0, 0.0]), jnp.zeros(3))
    Array(1, dtype=int32)
    """
    from gymnax.environments import spaces  # here, because importing gymnax starts JAX's backend

    if isinstance(space, spaces.Discrete):
        return _categorical(int(space.n))
    if isinstance(space, spaces.Box) and len(space.shape) <= 1:
        return _gaussian(space)
    raise ValueError(f"the action space {space} is not supported; it must be Discrete, or a Box of at most one axis.")


def actor_critic(
    config: Any, env: Any, env_params: Any, *, shared_torso: bool = False
) -> tuple[Policy, ActorCritic, Callable[[Array], Array]]:
    """Return the policy, the model that a config describes, and what the model sees of observations."""
    policy = for_action_space(env.action_space(env_params))
    model = ActorCritic(
        policy.num_actions,
        config.hidden_sizes,
        config.activation,
        policy.continuous,
        shared_torso,
        TORSO_CHANNELS[config.torso],
    )
    return policy, model, observation_features(env.observation_space(env_params), torso=config.torso)


class ActionValues(NamedTuple):
    """A `QNetwork` on what an environment shows: (params, observations) → Q [..., A]."""

    model: QNetwork
    features: Callable[[Array], Array]

    def init(self, key: PRNGKey, observation: Array) -> PyTree:
        """Return first parameters."""
        return self.model.init(key, self.features(observation))

    def __call__(self, params: PyTree, observation: Array) -> Any:
        """Return the values of all actions."""
        return self.model.apply(params, self.features(observation))

    def best_action(self, state: Any, key: PRNGKey, observation: Array) -> Array:
        """Return the best actions by `state.params`; the key is for actors that draw."""
        del key
        return jnp.argmax(self(state.params, observation), axis=-1)


def action_values(config: Any, env: Any, env_params: Any, *, dueling: bool = False) -> ActionValues:
    """Return the action values that a config describes."""
    model = QNetwork(
        num_actions_of(env.action_space(env_params)),
        config.hidden_sizes,
        config.activation,
        config.normalization,
        dueling,
        TORSO_CHANNELS[config.torso],
    )
    return ActionValues(model, observation_features(env.observation_space(env_params), torso=config.torso))


def num_actions_of(space: Any) -> int:
    """Return how many actions a discrete space has.

    Raises:
      ValueError: any other space.
    """
    from gymnax.environments import spaces  # here, because importing gymnax starts JAX's backend

    if not isinstance(space, spaces.Discrete):
        raise ValueError(f"the action space {space} is not supported; action values need Discrete actions.")
    return int(space.n)


def epsilon_greedy(q: Array, epsilon: Array, uniform: Array) -> Array:
    """A random action with probability ε, and otherwise the best, of several the first.

    Args:
      q: action values [..., A].
      epsilon: ε.
      uniform: numbers in [0, 1), [..., 2]: whether to explore, and which action then.

    >>> epsilon_greedy(jnp.array([[0.0, 1.0], [0.0, 1.0]]), jnp.float32(0.5), jnp.array([[0.9, 0.1], [0.1, 0.1]]))
    Array([1, 0], dtype=int32)
    """
    random = (uniform[..., 1] * q.shape[-1]).astype(jnp.int32)
    return jnp.where(uniform[..., 0] < epsilon, random, jnp.argmax(q, axis=-1).astype(jnp.int32))


def falling_epsilon(config: Any, env_steps: Array) -> Array:
    """ε after so many environment steps: from `epsilon_start` linearly to `epsilon_end`, and constant then."""
    duration = jnp.maximum(config.exploration_fraction * config.total_env_steps, 1.0)
    fraction = jnp.clip(env_steps / duration, 0.0, 1.0)
    return config.epsilon_start + fraction * (config.epsilon_end - config.epsilon_start)


def _categorical(num_actions: int) -> Policy:
    return Policy(
        num_actions=num_actions,
        continuous=False,
        # Gumbel's trick: argmax(logits + Gumbel noise) is distributed as softmax(logits).
        draw_noise=lambda key, shape: jax.random.gumbel(key, (*shape, num_actions)),
        sample=lambda logits, noise: jnp.argmax(logits + noise, axis=-1),
        mode=lambda logits: jnp.argmax(logits, axis=-1),
        log_probability=policy_gradient.log_probability,
        entropy=policy_gradient.entropy,
        to_environment=lambda action: action,
    )


def _gaussian(space: Any) -> Policy:
    size = int(space.shape[0]) if space.shape else 1
    low = jnp.broadcast_to(jnp.asarray(space.low, jnp.float32), space.shape)
    high = jnp.broadcast_to(jnp.asarray(space.high, jnp.float32), space.shape)

    def sample(head, noise):
        mean, log_std = head
        return mean + jnp.broadcast_to(jnp.exp(log_std), mean.shape) * noise

    def to_environment(action):
        action = action.reshape(action.shape[:-1] + space.shape)
        return jnp.clip(action, jnp.broadcast_to(low, action.shape), jnp.broadcast_to(high, action.shape))

    return Policy(
        num_actions=size,
        continuous=True,
        draw_noise=lambda key, shape: jax.random.normal(key, (*shape, size)),
        sample=sample,
        mode=lambda head: head[0],
        log_probability=lambda head, action: policy_gradient.gaussian_log_probability(head[0], head[1], action),
        entropy=lambda head: policy_gradient.gaussian_entropy(head[1]),
        to_environment=to_environment,
    )
