"""A multilayer perceptron."""

from collections.abc import Sequence

import flax.linen as nn
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Shaped

from mathai.models.layers import Activation, Dropout, Linear, normalize
from mathai.nn import activations


class MLP(nn.Module):
    """Layers of `mathai.nn.feedforward` with Flax's parameters.

        a_l = dropout(f(normalize(W_l a_{l−1} + b_l))),   the last layer is linear

    With no normalization and no dropout this is `feedforward.forward` of the same weights.

    Attributes:
      sizes: widths of the layers; the last is the number of outputs.
      activation: f, of the hidden layers.
      normalization: "none", "batch" or "layer", of the hidden layers. With "batch", running statistics live in the
        collection `batch_stats`, which is mutable while training.
      dropout_rate: of the hidden activations, with keys of the stream `dropout` while training.
      initializer: of the weights, as in `feedforward.init`.

    Raises:
      ValueError: there are no sizes, or a name is unknown.

    Source:
      Goodfellow, Bengio & Courville (2016), Deep Learning, chapter 6.

    >>> import jax, jax.numpy as jnp
    >>> model = MLP(sizes=(16, 10), dropout_rate=0.1)
    >>> params = model.init(jax.random.key(0), jnp.zeros((1, 4)))
    >>> model.apply(params, jnp.zeros((3, 4))).shape
    (3, 10)
    >>> model.apply(params, jnp.zeros((3, 4)), train=True, rngs={"dropout": jax.random.key(1)}).shape
    (3, 10)
    """

    sizes: Sequence[int]
    activation: Activation = activations.relu
    normalization: str = "none"
    dropout_rate: Shaped[ArrayLike, ""] = 0.0
    initializer: str = "he"

    @nn.compact
    def __call__(self, x: Float[Array, "*batch features"], *, train: bool = False) -> Float[Array, "*batch outputs"]:
        """Return the outputs, logits for a classifier."""
        if not self.sizes:
            raise ValueError("MLP: sizes is empty; give at least the number of outputs.")
        *hidden, num_outputs = self.sizes
        for size in hidden:
            x = normalize(self.normalization, Linear(size, self.initializer)(x), train=train)
            x = Dropout(self.dropout_rate)(self.activation(x), train=train)
        return Linear(num_outputs, self.initializer)(x)
