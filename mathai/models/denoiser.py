"""Networks that predict the noise in data: on vectors, and U-shaped on images."""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer

from mathai.models.layers import Activation, Conv, LayerNorm, Linear
from mathai.nn import activations
from mathai.nn.attention import sinusoidal_position_encoding


def swish(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Smooth and not monotone: x σ(x), the usual choice of denoisers.

    >>> swish(jnp.array([0.0, 100.0]))
    Array([  0., 100.], dtype=float32)
    """
    return x * activations.sigmoid(x)


class Denoiser(nn.Module):
    """(x_t, t) → ε̂ on vectors: residual blocks, each told the time.

        h ← h + W₂ f(W₁ norm(h) + V τ(t)),   τ(t) = f(W sinusoid(t))

    The last layer begins at 0, so that training begins from ε̂ = 0.

    Attributes:
      num_blocks: residual blocks.
      num_features: width of h.
      num_time_features: of the sinusoid, even.
      activation: f.

    Source:
      Ho, Jain & Abbeel (2020), Denoising Diffusion Probabilistic Models, appendix B, for the time's embedding.

    >>> import jax
    >>> model = Denoiser(num_blocks=1, num_features=16, num_time_features=8)
    >>> variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 2)), jnp.zeros(1, int))
    >>> model.apply(variables, jnp.zeros((3, 2)), 5).shape
    (3, 2)
    """

    num_blocks: int = 3
    num_features: int = 128
    num_time_features: int = 64
    activation: Activation = swish

    @nn.compact
    def __call__(
        self, x: Float[Array, "*batch features"], t: Integer[Array, "..."] | int
    ) -> Float[Array, "*batch features"]:
        """Return ε̂; t is a scalar or [*batch]."""
        time = _time(self.num_time_features, self.num_features, self.activation, t, x.shape[:-1])
        h = Linear(self.num_features)(x)
        for _ in range(self.num_blocks):
            inner = Linear(self.num_features)(LayerNorm()(h)) + Linear(self.num_features, "lecun")(time)
            h = h + Linear(self.num_features, "lecun")(self.activation(inner))
        return _zero_linear(self.activation(LayerNorm()(h)), x.shape[-1], self)


class UNet(nn.Module):
    """(x_t, t) → ε̂ on images: residual convolutions at falling and again at rising resolution, with bridges.

    Attributes:
      channels: at each resolution; every one after the first halves height and width.
      patch_size: p; cells of p × p pixels are the pixels of the first resolution, with p² as many channels.
      num_time_features: of the sinusoid, even.
      activation: f.

    Raises:
      ValueError: height or width cannot be divided so often.

    Source:
      Ronneberger, Fischer & Brox (2015), U-Net; Ho, Jain & Abbeel (2020), Denoising Diffusion Probabilistic Models,
      appendix B.

    >>> import jax
    >>> model = UNet(channels=(4, 8), num_time_features=8)
    >>> variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 1)), jnp.zeros(1, int))
    >>> jax.jit(model.apply)(variables, jnp.zeros((3, 8, 8, 1)), 5).shape
    (3, 8, 8, 1)
    """

    channels: Sequence[int] = (32, 64)
    patch_size: int = 1
    num_time_features: int = 64
    activation: Activation = swish

    @nn.compact
    def __call__(
        self, x: Float[Array, "*batch height width channels"], t: Integer[Array, "..."] | int
    ) -> Float[Array, "*batch height width channels"]:
        """Return ε̂; t is a scalar or [*batch]."""
        divisor = self.patch_size * 2 ** (len(self.channels) - 1)
        if x.shape[-3] % divisor or x.shape[-2] % divisor:
            raise ValueError(
                f"UNet: images of {x.shape[-3]} × {x.shape[-2]} cannot be divided by {divisor}: patches of "
                f"{self.patch_size}, halved {len(self.channels) - 1} times."
            )
        x = _patches(x, self.patch_size)
        time = _time(self.num_time_features, self.channels[-1], self.activation, t, x.shape[:-3])
        h, bridges = Conv(self.channels[0])(x), []
        for level, channels in enumerate(self.channels):
            h = _halved(h) if level else h
            h = _ResidualBlock(channels, self.activation)(h, time)
            bridges.append(h)
        h = _ResidualBlock(self.channels[-1], self.activation)(h, time)
        for level in reversed(range(len(self.channels))):
            h = jnp.concatenate([h, bridges[level]], -1)
            h = _ResidualBlock(self.channels[level], self.activation)(h, time)
            h = _doubled(h) if level else h
        return _pixels(_zero_linear(self.activation(LayerNorm()(h)), x.shape[-1], self), self.patch_size)


class _ResidualBlock(nn.Module):
    """h ← W h + K₂ f(norm(K₁ f(norm(h)) + V τ)), with convolutions K."""

    num_channels: int
    activation: Activation

    @nn.compact
    def __call__(self, h: Array, time: Array) -> Array:
        inner = Conv(self.num_channels)(self.activation(LayerNorm()(h)))
        shift = Linear(self.num_channels, "lecun")(time)[..., None, None, :]
        inner = LayerNorm()(inner + jnp.broadcast_to(shift, inner.shape))
        inner = Conv(self.num_channels)(self.activation(inner))
        return (h if h.shape[-1] == self.num_channels else Linear(self.num_channels, "lecun")(h)) + inner


def _time(num_frequencies: int, size: int, activation: Activation, t: Array | int, shape: tuple[int, ...]) -> Array:
    """Features of the time, one vector for each example."""
    t = jnp.asarray(t)
    if t.shape not in ((), shape):
        raise ValueError(f"t of shape {t.shape} must be a scalar or have the batch axes of x, {shape}.")
    t = jnp.broadcast_to(t, shape)
    return activation(Linear(size)(sinusoidal_position_encoding(t, num_frequencies)))


def _zero_linear(x: Array, size: int, parent: nn.Module) -> Array:
    weight = parent.param("output", nn.initializers.zeros, (size, x.shape[-1]))
    return x @ weight.T + jnp.broadcast_to(
        parent.param("output_bias", nn.initializers.zeros, (size,)), (*x.shape[:-1], size)
    )


def _patches(x: Array, size: int) -> Array:
    """[..., h p, w p, c] → [..., h, w, p p c]."""
    *batch, height, width, channels = x.shape
    x = x.reshape(*batch, height // size, size, width // size, size * channels)
    return x.swapaxes(-3, -2).reshape(*batch, height // size, width // size, size * size * channels)


def _pixels(x: Array, size: int) -> Array:
    """The inverse of `_patches`."""
    *batch, height, width, features = x.shape
    x = x.reshape(*batch, height, width, size, features // size).swapaxes(-3, -2)
    return x.reshape(*batch, height * size, width * size, features // size**2)


def _halved(x: Array) -> Array:
    """Means of 2 × 2 cells."""
    return (x[..., ::2, ::2, :] + x[..., 1::2, ::2, :] + x[..., ::2, 1::2, :] + x[..., 1::2, 1::2, :]) / 4


def _doubled(x: Array) -> Array:
    """Every cell four times."""
    return jnp.repeat(jnp.repeat(x, 2, axis=-3), 2, axis=-2)
