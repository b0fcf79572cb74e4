"""Action values of an observation."""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from mathai.models.actor_critic import ACTIVATIONS, ImageTorso
from mathai.models.layers import normalize


class QNetwork(nn.Module):
    """Q(o, ·): dense layers and a linear head, or the two heads of a dueling network.

        dueling:   Q(o, a) = V(o) + A(o, a) − meanⱼ A(o, j)

    Weights of the layers are He-normal, of the heads LeCun-normal, and biases 0. A normalization comes before the
    activation.

    Attributes:
      num_actions: number of actions.
      hidden_sizes: widths of the layers.
      activation: "tanh" or "relu".
      normalization: "none" or "layer".
      dueling: two heads instead of one.
      num_channels: of a convolution before the layers, for images [height, width, channels]; 0 takes vectors.

    Raises:
      ValueError: an unknown activation or normalization.

    Source:
      Mnih et al. (2015), Human-level Control through Deep Reinforcement Learning; Wang et al. (2016), Dueling Network
      Architectures for Deep Reinforcement Learning, eq. 9.

    >>> import jax
    >>> model = QNetwork(num_actions=2)
    >>> params = model.init(jax.random.key(0), jnp.zeros((1, 4)))
    >>> model.apply(params, jnp.zeros((3, 4))).shape
    (3, 2)
    """

    num_actions: int
    hidden_sizes: Sequence[int] = (64, 64)
    activation: str = "relu"
    normalization: str = "none"
    dueling: bool = False
    num_channels: int = 0

    @nn.compact
    def __call__(self, observation: Float[ArrayLike, "*observation"]) -> Float[Array, "*batch actions"]:
        """Return Q(o, ·) of each observation."""
        if self.activation not in ACTIVATIONS:
            raise ValueError(
                f"QNetwork: activation {self.activation!r} is unknown; use one of {', '.join(ACTIVATIONS)}."
            )
        if self.normalization not in ("none", "layer"):
            raise ValueError(f"QNetwork: normalization {self.normalization!r} is unknown; use 'none' or 'layer'.")
        x = jnp.asarray(observation)
        x = ImageTorso(self.num_channels)(x) if self.num_channels else x
        for size in self.hidden_sizes:
            x = nn.Dense(size, kernel_init=nn.initializers.he_normal())(x)
            x = ACTIVATIONS[self.activation](normalize(self.normalization, x, train=False))
        advantage = nn.Dense(self.num_actions, name="advantage")(x)
        if not self.dueling:
            return advantage
        return nn.Dense(1, name="value")(x) + advantage - jnp.mean(advantage, axis=-1, keepdims=True)
