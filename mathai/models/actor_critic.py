"""A policy and a value of the same observation."""

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {"tanh": jnp.tanh, "relu": jax.nn.relu}


class Torso(nn.Module):
    """Dense layers with orthogonal weights of gain √2 and zero biases, each followed by the activation."""

    hidden_sizes: Sequence[int]
    activation: Callable[[Array], Array]

    @nn.compact
    def __call__(self, x: Float[Array, "*batch features"]) -> Float[Array, "*batch hidden"]:
        for size in self.hidden_sizes:
            x = self.activation(nn.Dense(size, kernel_init=nn.initializers.orthogonal(2**0.5))(x))
        return x


class ActorCritic(nn.Module):
    """Policy head and value of an observation, from separate torsos or a shared one.

    The heads are linear with orthogonal weights: gain 0.01 for the policy, so that it begins nearly uniform, 1 for
    the value. A discrete policy's head is its logits; a Gaussian policy's head is `(mean, log_std)`, where `log_std`
    does not depend on the observation and begins at 0.

    Attributes:
      num_actions: number of actions, or the dimension of a continuous action.
      hidden_sizes: widths of a torso's layers.
      activation: "tanh" or "relu".
      continuous: a Gaussian head instead of logits.
      shared_torso: one torso serves both heads.

    Raises:
      ValueError: an unknown activation.

    Source:
      Schulman et al. (2017), Proximal Policy Optimization Algorithms, section 6.1; Andrychowicz et al. (2021), What
      Matters for On-Policy Deep Actor-Critic Methods, section 3.2, for the initial weights.

    >>> model = ActorCritic(num_actions=2)
    >>> params = model.init(jax.random.key(0), jnp.zeros((1, 4)))
    >>> logits, value = model.apply(params, jnp.zeros((3, 4)))
    >>> logits.shape, value.shape
    ((3, 2), (3,))
    """

    num_actions: int
    hidden_sizes: Sequence[int] = (64, 64)
    activation: str = "tanh"
    continuous: bool = False
    shared_torso: bool = False

    def setup(self):
        if self.activation not in ACTIVATIONS:
            raise ValueError(
                f"ActorCritic: activation {self.activation!r} is unknown; use one of {', '.join(ACTIVATIONS)}."
            )
        activation = ACTIVATIONS[self.activation]
        self.policy_torso = Torso(self.hidden_sizes, activation)
        self.value_torso = self.policy_torso if self.shared_torso else Torso(self.hidden_sizes, activation)
        self.policy_head = nn.Dense(self.num_actions, kernel_init=nn.initializers.orthogonal(0.01))
        self.value_head = nn.Dense(1, kernel_init=nn.initializers.orthogonal(1.0))
        if self.continuous:
            self.log_std = self.param("log_std", nn.initializers.zeros, (self.num_actions,))

    def __call__(self, observation: Float[Array, "*batch features"]):
        """Return `(head, value)` of each observation; value is [*batch]."""
        return self.policy(observation), self.value(observation)

    def policy(self, observation: Float[Array, "*batch features"]):
        """Return the policy's head alone: logits [*batch, actions], or mean [*batch, actions] and log_std [actions]."""
        output = self.policy_head(self.policy_torso(observation))
        return (output, self.log_std) if self.continuous else output

    def value(self, observation: Float[Array, "*batch features"]) -> Float[Array, "*batch"]:
        """Return the value alone, the return expected from each observation."""
        return self.value_head(self.value_torso(observation))[..., 0]
