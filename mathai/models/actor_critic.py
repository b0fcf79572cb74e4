"""A policy and a value of the same observation."""

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PyTree

from mathai.models.initializers import orthogonal
from mathai.models.layers import Conv

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {"tanh": jnp.tanh, "relu": jax.nn.relu}


class ImageTorso(nn.Module):
    """One 3 × 3 convolution with ReLU, flattened: what small games like MinAtar's need.

    Attributes:
      num_channels: of the convolution.
    """

    num_channels: int = 16

    @nn.compact
    def __call__(self, x: Float[Array, "*batch height width channels"]) -> Float[Array, "*batch features"]:
        """Return one vector for each image."""
        x = jax.nn.relu(Conv(self.num_channels)(x))
        return x.reshape(*x.shape[:-3], -1)


class Torsos(nn.Module):
    """Stacks of dense layers side by side, with orthogonal weights of gain √2, zero biases and an activation each.

    All stacks have the same widths, and their weights lie in one array per layer, [stacks, inputs, outputs]: on small
    layers one batched product is faster than several products.

    Attributes:
      num_stacks: how many stacks.
      hidden_sizes: widths of the layers.
      activation: applied after each layer.
    """

    num_stacks: int
    hidden_sizes: Sequence[int]
    activation: Callable[[Array], Array]

    @nn.compact
    def __call__(
        self, x: Float[Array, "*batch features"], only: int | None = None
    ) -> Float[Array, "stacks *batch hidden"] | Float[Array, "*batch hidden"]:
        """Return what every stack makes of the same input, or what one of them does."""
        layers, num_inputs = [], x.shape[-1]
        for index, size in enumerate(self.hidden_sizes):
            kernel = self.param(f"kernel_{index}", _orthogonal, self.num_stacks, num_inputs, size)
            bias = self.param(f"bias_{index}", nn.initializers.zeros, (self.num_stacks, size))
            layers.append((kernel, bias))
            num_inputs = size

        def apply(layers):
            a = x
            for kernel, bias in layers:
                a = self.activation(a @ kernel + bias.reshape((1,) * (a.ndim - 1) + bias.shape))
            return a

        if only is not None:
            return apply([(kernel[only], bias[only]) for kernel, bias in layers])
        return jax.vmap(apply, axis_size=self.num_stacks)(layers)


def _orthogonal(
    key: Array, num_stacks: int, num_inputs: int, num_outputs: int
) -> Float[Array, "stacks inputs outputs"]:
    init = orthogonal(2**0.5)
    return jax.vmap(lambda key: init(key, (num_inputs, num_outputs)))(jax.random.split(key, num_stacks))


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
      num_channels: of one convolution before all torsos, for images [height, width, channels]; 0 takes vectors.

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
    num_channels: int = 0

    def setup(self):
        if self.activation not in ACTIVATIONS:
            raise ValueError(
                f"ActorCritic: activation {self.activation!r} is unknown; use one of {', '.join(ACTIVATIONS)}."
            )
        if self.num_channels:
            self.image_torso = ImageTorso(self.num_channels)
        num_torsos = 1 if self.shared_torso else 2
        self.torsos = Torsos(num_torsos, self.hidden_sizes, ACTIVATIONS[self.activation])
        self.policy_head = nn.Dense(self.num_actions, kernel_init=orthogonal(0.01))
        self.value_head = nn.Dense(1, kernel_init=orthogonal(1.0))
        if self.continuous:
            self.log_std = self.param("log_std", nn.initializers.zeros, (self.num_actions,))

    def __call__(self, observation: Float[ArrayLike, "*observation"]):
        """Return `(head, value)` of each observation; value is [*batch]."""
        hidden = self.torsos(self._vectors(observation))
        return self._policy(hidden[0]), self._value(hidden[-1])

    def policy(self, observation: Float[ArrayLike, "*observation"]):
        """Return the policy's head alone: logits [*batch, actions], or mean and log_std, alike."""
        return self._policy(self.torsos(self._vectors(observation), only=0))

    def value(self, observation: Float[ArrayLike, "*observation"]) -> Float[Array, "..."]:
        """Return the value alone, the return expected from each observation."""
        return self._value(self.torsos(self._vectors(observation), only=-1))

    def policy_alone(self, params: PyTree) -> tuple["ActorCritic", PyTree]:
        """Return a model whose only torso is the policy's, and its parameters cut from those of this one.

        Before a loop that acts and needs no values, this cuts the stacked weights once instead of at every step.
        """
        torso = jax.tree.map(lambda x: x[:1], params["params"].get("torsos", {}))  # without layers there is none
        return self.clone(shared_torso=True), {"params": {**params["params"], "torsos": torso}}

    def _vectors(self, observation):
        observation = jnp.asarray(observation)
        return self.image_torso(observation) if self.num_channels else observation

    def _policy(self, hidden):
        output = self.policy_head(hidden)
        return (output, jnp.broadcast_to(self.log_std, output.shape)) if self.continuous else output

    def _value(self, hidden):
        return self.value_head(hidden)[..., 0]
