"""A convolutional network for small images."""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Shaped

from mathai.models.layers import Activation, Conv, Dropout, normalize
from mathai.models.mlp import MLP
from mathai.nn import activations


class ConvNet(nn.Module):
    """Blocks of convolution, 2 × 2 max pooling, normalization and activation, then an `MLP`.

    Pooling comes before normalization, on four times as many numbers as all that follows it.

    Attributes:
      channels: output channels of the blocks; every block halves height and width.
      sizes: widths of the layers after the blocks; the last is the number of outputs.
      kernel_size: height and width of the kernels; borders are padded with zeros.
      activation: of all but the last layer.
      normalization: "none", "batch" or "layer".
      dropout_rate: of the features that the blocks give and of the hidden activations after them.

    Raises:
      ValueError: a name is unknown, or an image is too small to be halved once more.

    Source:
      LeCun, Bottou, Bengio & Haffner (1998), Gradient-Based Learning Applied to Document Recognition, section 2.

    >>> import jax
    >>> model = ConvNet(channels=(4, 8), sizes=(10,))
    >>> variables = model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
    >>> model.apply(variables, jnp.zeros((3, 8, 8, 1))).shape
    (3, 10)
    """

    channels: Sequence[int] = (32, 64)
    sizes: Sequence[int] = (128, 10)
    kernel_size: int = 3
    activation: Activation = activations.relu
    normalization: str = "batch"
    dropout_rate: Shaped[ArrayLike, ""] = 0.0

    @nn.compact
    def __call__(
        self, x: Float[Array, "*batch height width channels"], *, train: bool = False
    ) -> Float[Array, "*batch outputs"]:
        """Return the outputs, logits for a classifier."""
        for num_channels in self.channels:
            if min(x.shape[-3:-1]) < 2:
                raise ValueError(f"ConvNet: {len(self.channels)} blocks are too many; nothing is left to halve.")
            x = Conv(num_channels, self.kernel_size, use_bias=self.normalization != "batch")(x)
            x = self.activation(normalize(self.normalization, _max_pool(x), train=train))
        x = x.reshape(*x.shape[:-3], -1)
        x = Dropout(self.dropout_rate)(x, train=train)
        return MLP(self.sizes, self.activation, self.normalization, self.dropout_rate)(x, train=train)


def _max_pool(x: Float[Array, "*batch height width channels"]) -> Float[Array, "*batch rows columns channels"]:
    """Maximum of 2 × 2 cells; an odd last row or column is left out, as without padding.

    Two that tie for the maximum of a pair share its gradient. As maxima of slices: on a CPU the gradient is twenty
    times faster than that of a windowed reduction.
    """
    height, width = x.shape[-3] // 2 * 2, x.shape[-2] // 2 * 2
    rows = jnp.maximum(x[..., 0:height:2, :, :], x[..., 1:height:2, :, :])
    return jnp.maximum(rows[..., 0:width:2, :], rows[..., 1:width:2, :])
