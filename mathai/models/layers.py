"""Flax modules around single formulas: a linear layer, a convolution, normalizations, dropout."""

from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Shaped

from mathai.nn import feedforward, regularization
from mathai.nn.regularization import BatchStatistics

Activation = Callable[[Array], Array]


class Linear(nn.Module):
    """`feedforward.linear` with its weight [size, features] and bias [size] as parameters.

    Attributes:
      size: outputs.
      initializer: of the weight, as in `feedforward.init`; the bias begins at 0.
    """

    size: int
    initializer: str = "he"

    @nn.compact
    def __call__(self, x: Float[Array, "*batch features"]) -> Float[Array, "*batch size"]:
        """Return W x + b."""
        sizes = (x.shape[-1], self.size)
        weight = self.param("weight", lambda key: feedforward.init(key, sizes, initializer=self.initializer)[0].weight)
        bias = self.param("bias", nn.initializers.zeros, (self.size,))
        return feedforward.linear(feedforward.Layer(weight, bias), x)


class Conv(nn.Module):
    """Convolution of images with the borders padded by zeros, so that height and width stay.

        y[h, w, o] = b[o] + Σᵢⱼ꜀ K[i, j, c, o] x[h + i − p, w + j − p, c],   p = (size − 1) // 2

    Attributes:
      num_channels: output channels.
      size: height and width of the kernel.
      use_bias: whether b is added; it begins at 0.
    """

    num_channels: int
    size: int = 3
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "*batch height width channels"]) -> Float[Array, "*batch height width outputs"]:
        """Return y."""
        shape = (self.size, self.size, x.shape[-1], self.num_channels)
        kernel = self.param("kernel", nn.initializers.he_normal(), shape)
        images = x.reshape(-1, *x.shape[-3:])
        y = lax.platform_dependent(images, kernel, cpu=_convolve_by_product, default=_convolve)
        y = y.reshape(*x.shape[:-1], self.num_channels)
        if not self.use_bias:
            return y
        bias = self.param("bias", nn.initializers.zeros, (self.num_channels,))
        return y + jnp.broadcast_to(bias, y.shape)


def _convolve(images: Array, kernel: Array) -> Array:
    dimensions = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(images, kernel, (1, 1), "SAME", dimension_numbers=dimensions)


def _convolve_by_product(images: Array, kernel: Array) -> Array:
    """Patches times kernel: in a compiled loop on a CPU, XLA's convolution has a gradient thirty times slower."""
    size, (height, width) = kernel.shape[0], images.shape[1:3]
    before = (size - 1) // 2
    border = (before, size - 1 - before)
    padded = jnp.pad(images, ((0, 0), border, border, (0, 0)))
    patches = [padded[:, i : i + height, j : j + width] for i in range(size) for j in range(size)]
    return jnp.concatenate(patches, -1) @ kernel.reshape(-1, kernel.shape[-1])


class BatchNorm(nn.Module):
    """`regularization.batch_norm` over all axes but the last; running statistics in the collection `batch_stats`.

    Attributes:
      decay: weight of the past in the running statistics.
      epsilon: ε, added to the variance.
    """

    decay: float = 0.99
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: Float[Array, "*batch features"], *, train: bool = False) -> Float[Array, "*batch features"]:
        """Normalize with the batch's statistics while training, with the running ones otherwise."""
        shape = x.shape[-1:]
        scale = self.param("scale", nn.initializers.ones, shape)
        offset = self.param("offset", nn.initializers.zeros, shape)
        running = self.variable(
            "batch_stats", "running", lambda: BatchStatistics(jnp.zeros(shape), jnp.ones(shape), jnp.zeros(shape))
        )
        if not train:
            return regularization.batch_norm_inference(x, running.value, scale, offset, epsilon=self.epsilon)
        y, batch = regularization.batch_norm(x, scale, offset, axes=range(x.ndim - 1), epsilon=self.epsilon)
        if not self.is_initializing():
            running.value = regularization.update_running_statistics(running.value, batch, decay=self.decay)
        return y


class LayerNorm(nn.Module):
    """`regularization.layer_norm` over the last axis, with scale and offset.

    Attributes:
      epsilon: ε, added to the variance.
    """

    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: Float[Array, "*batch features"]) -> Float[Array, "*batch features"]:
        """Normalize each example."""
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:])
        offset = self.param("offset", nn.initializers.zeros, x.shape[-1:])
        return regularization.layer_norm(x, scale, offset, epsilon=self.epsilon)


class Dropout(nn.Module):
    """`regularization.dropout` with keys of the stream `dropout`.

    Attributes:
      rate: probability of dropping; may be traced.
    """

    rate: Shaped[ArrayLike, ""]

    @nn.compact
    def __call__(self, x: Float[Array, "*shape"], *, train: bool = False) -> Float[Array, "*shape"]:
        """Drop while training."""
        needs_key = train and not (isinstance(self.rate, (int, float)) and self.rate in (0, 1))
        key = self.make_rng("dropout") if needs_key else None
        return regularization.dropout(key, x, self.rate, deterministic=not train)


def normalize(
    normalization: str, x: Float[Array, "*batch features"], *, train: bool
) -> Float[Array, "*batch features"]:
    """Apply the normalization that a name stands for, as a submodule of the module that calls.

    Raises:
      ValueError: the name is none of "none", "batch" and "layer".
    """
    if normalization == "batch":
        return BatchNorm()(x, train=train)
    if normalization == "layer":
        return LayerNorm()(x)
    if normalization != "none":
        raise ValueError(f"normalization {normalization!r} is unknown; use 'none', 'batch' or 'layer'")
    return x
