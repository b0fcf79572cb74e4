"""The two networks of a generative adversarial network."""

from collections.abc import Sequence

import flax.linen as nn
from jaxtyping import Array, Float

from mathai.models.layers import Activation
from mathai.models.mlp import MLP
from mathai.nn import activations


class Generator(nn.Module):
    """z → x: an `MLP` from noise to samples.

    Attributes:
      num_features: of x.
      hidden_sizes: widths of the hidden layers.
      activation: of the hidden layers.
      normalization: of the hidden layers: "none" or "layer".
      output_activation: of the samples; None is linear.

    Source:
      Goodfellow et al. (2014), Generative Adversarial Nets, section 3.

    >>> import jax, jax.numpy as jnp
    >>> model = Generator(num_features=2, hidden_sizes=(8,))
    >>> variables = model.init(jax.random.key(0), jnp.zeros((1, 4)))
    >>> model.apply(variables, jnp.zeros((3, 4))).shape
    (3, 2)
    """

    num_features: int
    hidden_sizes: Sequence[int] = (128, 128)
    activation: Activation = activations.relu
    normalization: str = "none"
    output_activation: Activation | None = None

    @nn.compact
    def __call__(self, z: Float[Array, "*batch latents"]) -> Float[Array, "*batch features"]:
        """Return samples."""
        x = MLP((*self.hidden_sizes, self.num_features), self.activation, self.normalization)(z)
        return x if self.output_activation is None else self.output_activation(x)


class Discriminator(nn.Module):
    """x → logit that x is data: an `MLP`.

    Attributes:
      hidden_sizes: widths of the hidden layers.
      activation: of the hidden layers.

    Source:
      Goodfellow et al. (2014), Generative Adversarial Nets, section 3.

    >>> import jax, jax.numpy as jnp
    >>> model = Discriminator(hidden_sizes=(8,))
    >>> variables = model.init(jax.random.key(0), jnp.zeros((1, 2)))
    >>> model.apply(variables, jnp.zeros((3, 2))).shape
    (3,)
    """

    hidden_sizes: Sequence[int] = (128, 128)
    activation: Activation = activations.leaky_relu

    @nn.compact
    def __call__(self, x: Float[Array, "*batch features"]) -> Float[Array, "*batch"]:
        """Return the logits."""
        return MLP((*self.hidden_sizes, 1), self.activation)(x)[..., 0]
