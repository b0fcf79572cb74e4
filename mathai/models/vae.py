"""A variational autoencoder's networks."""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Shaped

from mathai.models.layers import Activation
from mathai.models.mlp import MLP
from mathai.nn import activations


class VAE(nn.Module):
    """An encoder x → q(z|x) = N(μ, e^λ) and a decoder z → outputs, each an `MLP`.

    The outputs are what a likelihood takes: logits of `vae.bernoulli_log_likelihood`, or means of
    `vae.gaussian_log_likelihood`, whose log variance is the parameter `log_variance`, one number. Without hidden layers
    and with that likelihood this is probabilistic PCA.

    Attributes:
      num_features: of x.
      num_latents: of z.
      hidden_sizes: widths of the encoder's hidden layers; the decoder has them in reverse.
      activation: of the hidden layers.
      initial_log_variance: of the Gaussian likelihood. Where it begins far above the data's spread, codes are of no use
        at first, and may stay so.

    Source:
      Kingma & Welling (2014), Auto-Encoding Variational Bayes, appendix C.

    >>> import jax
    >>> model = VAE(num_features=6, num_latents=2, hidden_sizes=(8,))
    >>> variables = model.init(jax.random.key(0), jnp.zeros((1, 6)))
    >>> mean, log_variance = model.apply(variables, jnp.zeros((3, 6)), method="encode")
    >>> mean.shape, model.apply(variables, mean, method="decode").shape
    ((3, 2), (3, 6))
    """

    num_features: int
    num_latents: int = 20
    hidden_sizes: Sequence[int] = (500, 500)
    activation: Activation = activations.relu
    initial_log_variance: Shaped[ArrayLike, ""] = -6.0

    def setup(self) -> None:
        """Make both networks and the likelihood's log variance."""
        if min(self.num_features, self.num_latents) < 1:
            raise ValueError(f"VAE: {self.num_features} features and {self.num_latents} latents; each needs one.")
        self.encoder = MLP((*self.hidden_sizes, 2 * self.num_latents), self.activation)
        self.decoder = MLP((*reversed(self.hidden_sizes), self.num_features), self.activation)
        self.log_variance = self.param("log_variance", lambda key: jnp.asarray(self.initial_log_variance, jnp.float32))

    def encode(
        self, x: Float[Array, "*batch features"]
    ) -> tuple[Float[Array, "*batch latents"], Float[Array, "*batch latents"]]:
        """Return μ and λ."""
        mean, log_variance = jnp.split(self.encoder(x), 2, axis=-1)
        return mean, log_variance

    def decode(self, z: Float[Array, "*batch latents"]) -> Float[Array, "*batch features"]:
        """Return logits or means."""
        return self.decoder(z)

    def __call__(self, x: Float[Array, "*batch features"]) -> Float[Array, "*batch features"]:
        """Decode the mean of q(z|x)."""
        return self.decode(self.encode(x)[0])
