"""A Transformer: pre-norm, sinusoidal positions, tied output, a cache for decoding."""

import functools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Integer, Shaped

from mathai.models.layers import Activation, Dropout, LayerNorm, Linear
from mathai.nn import _numerics, activations, attention
from mathai.nn.attention import KeyValueCache, MultiHeadParams
from mathai.nn.ring_attention import ring_attention


class MultiHeadAttention(nn.Module):
    """`attention.multi_head_attention` with its projections as parameters.

    Attributes:
      num_heads: query heads; they divide the features.
      num_key_heads: key and value heads, a divisor of `num_heads`; None is as many.
      is_causal: whether a token sees only those up to itself.
      block_size: as in `attention.scaled_dot_product_attention`.
      mesh: devices with an axis `sequence`, over which tokens are spread; None is one device.
    """

    num_heads: int
    num_key_heads: int | None = None
    is_causal: bool = False
    block_size: int | None = None
    mesh: Mesh | None = None

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "*shape features"],
        context: Float[Array, "*context_shape context_features"] | None = None,
        *,
        mask: Bool[Array, "..."] | None = None,
        cache: KeyValueCache | None = None,
    ) -> tuple[Float[Array, "*shape features"], KeyValueCache | None]:
        """Return y, and the cache with the one new token if there is a cache: x is then [..., features].

        Raises:
          ValueError: a size does not fit, a cache is given to attention that is not causal self-attention, or a mask
            where tokens are spread over devices.
        """
        features = x.shape[-1]
        if features % self.num_heads:
            raise ValueError(f"num_heads is {self.num_heads}; it must divide the {features} features.")
        head, num_key_heads = features // self.num_heads, self.num_key_heads or self.num_heads
        context_features = features if context is None else context.shape[-1]
        into = nn.initializers.lecun_normal(in_axis=0, out_axis=(1, 2))
        params = MultiHeadParams(
            query=self.param("query", into, (features, self.num_heads, head)),
            key=self.param("key", into, (context_features, num_key_heads, head)),
            value=self.param("value", into, (context_features, num_key_heads, head)),
            output=self.param(
                "output",
                nn.initializers.lecun_normal(in_axis=(0, 1), out_axis=2),
                (self.num_heads, head, features),
            ),
        )
        if cache is not None:
            if context is not None or mask is not None or not self.is_causal:
                raise ValueError("a cache decodes causal self-attention, without mask and context.")
            return attention.multi_head_attention_step(params, x, cache)
        options: dict[str, Any] = {"is_causal": self.is_causal, "block_size": self.block_size}
        if self.mesh is None:
            return attention.multi_head_attention(params, x, context, mask=mask, **options), None
        if mask is not None:
            raise ValueError("tokens that are spread over devices take no mask.")
        axes: dict[str, Any] = _axes(self.mesh, x.ndim, math.gcd(self.num_heads, num_key_heads))
        attend: Any = functools.partial(ring_attention, mesh=self.mesh, **axes)
        return attention.multi_head_attention(params, x, context, attend=attend, **options), None


class Block(nn.Module):
    """x ← x + dropout(attention(norm(x))), then x ← x + dropout(W₂ f(W₁ norm(x))).

    Attributes:
      num_heads: as in `MultiHeadAttention`; so are `num_key_heads`, `is_causal`, `block_size` and `mesh`.
      hidden_size: width of the hidden layer.
      activation: f.
      dropout_rate: of what each half adds.
    """

    num_heads: int
    num_key_heads: int | None
    is_causal: bool
    block_size: int | None
    hidden_size: int
    activation: Activation
    dropout_rate: Shaped[ArrayLike, ""]
    mesh: Mesh | None = None

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "*shape"],
        *,
        mask: Bool[Array, "..."] | None = None,
        cache: KeyValueCache | None = None,
        train: bool = False,
    ) -> tuple[Float[Array, "*shape"], KeyValueCache | None]:
        """Return x, and the cache if there is one."""
        heads = MultiHeadAttention(self.num_heads, self.num_key_heads, self.is_causal, self.block_size, self.mesh)
        added, cache = heads(LayerNorm()(x), mask=mask, cache=cache)
        x = x + Dropout(self.dropout_rate)(added, train=train)
        hidden = self.activation(Linear(self.hidden_size)(LayerNorm()(x)))
        added = Linear(x.shape[-1], "lecun")(hidden)
        return x + Dropout(self.dropout_rate)(added, train=train), cache


class Transformer(nn.Module):
    """Tokens → logits of tokens: a decoder (each token sees those up to itself) or an encoder (each sees all).

        x₀ = √d E[token] + position,   x ← block(x) …,   logits = norm(x) Eᵀ

    The output is tied to the embedding E, whose entries begin with variance 1/d. Normalization comes before each half
    of a block, so that x is a sum that gradients pass through unchanged. `init_cache` and `step` decode one token at a
    time.

    Attributes:
      num_tokens: size of the vocabulary.
      num_layers: blocks.
      num_heads: attention heads; they divide `num_features`.
      num_features: d.
      hidden_size: of the blocks' hidden layers; None is 4 d.
      num_key_heads: key and value heads, a divisor of `num_heads`; None is as many.
      is_causal: True is a decoder, False an encoder.
      activation: of the hidden layers.
      dropout_rate: of the embeddings and of what each half of a block adds; keys of the stream `dropout`.
      block_size: of the attention, as in `attention.scaled_dot_product_attention`.
      mesh: devices with an axis `sequence`, over which tokens are spread, by ring attention; their axes `data` and
        `model` have batches and heads, where they divide them. None is one device.

    Raises:
      ValueError: num_features is odd, num_heads does not divide it, or num_key_heads does not divide num_heads.

    Source:
      Vaswani et al. (2017), Attention Is All You Need; pre-norm: Xiong et al. (2020), On Layer Normalization in the
      Transformer Architecture; tied output: Press & Wolf (2017), Using the Output Embedding to Improve Language Models.

    >>> import jax
    >>> model = Transformer(num_tokens=11, num_layers=1, num_heads=2, num_features=8)
    >>> variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 4), int))
    >>> jax.jit(model.apply)(variables, jnp.zeros((3, 5), int)).shape
    (3, 5, 11)
    """

    num_tokens: int
    num_layers: int = 4
    num_heads: int = 4
    num_features: int = 128
    hidden_size: int | None = None
    num_key_heads: int | None = None
    is_causal: bool = True
    activation: Activation = activations.relu
    dropout_rate: Shaped[ArrayLike, ""] = 0.0
    block_size: int | None = None
    mesh: Mesh | None = None

    def setup(self) -> None:
        """Make the embedding, the blocks and the last normalization."""
        initializer = nn.initializers.normal(self.num_features**-0.5)
        self.embedding = self.param("embedding", initializer, (self.num_tokens, self.num_features))
        self.dropout = Dropout(self.dropout_rate)
        self.norm = LayerNorm()
        self.blocks = [
            Block(
                self.num_heads,
                self.num_key_heads,
                self.is_causal,
                self.block_size,
                4 * self.num_features if self.hidden_size is None else self.hidden_size,
                self.activation,
                self.dropout_rate,
                self.mesh,
            )
            for _ in range(self.num_layers)
        ]

    def __call__(
        self,
        tokens: Integer[Array, "*batch length"],
        *,
        mask: Bool[Array, "*batch length"] | None = None,
        train: bool = False,
    ) -> Float[Array, "*batch length num_tokens"]:
        """Return the logits at every position; positions that `mask` leaves out are not seen by others."""
        positions = attention.sinusoidal_position_encoding(tokens.shape[-1], self.num_features)
        tokens = _numerics.as_classes(tokens)
        x = self.dropout(self._embed(tokens, positions), train=train)
        if self.mesh is not None:
            axes = _axes(self.mesh, x.ndim, 1)
            spec = PartitionSpec(*[axes.get("batch_axis")] * (x.ndim - 2), "sequence", None)
            x = jax.lax.with_sharding_constraint(x, NamedSharding(self.mesh, spec))
        seen = None if mask is None else mask[..., None, None, :]
        for block in self.blocks:
            x, _ = block(x, mask=seen, train=train)
        return self._logits(x, tokens)

    def step(
        self, token: Integer[Array, "*batch"], caches: tuple[KeyValueCache, ...]
    ) -> tuple[Float[Array, "*batch num_tokens"], tuple[KeyValueCache, ...]]:
        """Return the logits after one more token, and the caches with it; the decoder only.

        Raises:
          ValueError: the model is an encoder.
        """
        if not self.is_causal:
            raise ValueError("an encoder sees all tokens at once; it has no step.")
        position = attention.sinusoidal_position_encoding(caches[0].length, self.num_features)
        token = _numerics.as_classes(token)
        x = self._embed(token, position)
        after: list[Any] = []
        for block, cache in zip(self.blocks, caches, strict=True):
            x, longer = block(x, cache=cache)
            after.append(longer)
        return self._logits(x, token), tuple(after)

    def init_cache(self, capacity: int, *, batch_shape: tuple[int, ...] = ()) -> tuple[KeyValueCache, ...]:
        """Return empty caches for so many tokens, one for each block; needs no parameters."""
        num_key_heads, head = self.num_key_heads or self.num_heads, self.num_features // self.num_heads
        zeros = jnp.zeros((*batch_shape, capacity, num_key_heads, head))
        return tuple(KeyValueCache(zeros, zeros, jnp.int32(0)) for _ in range(self.num_layers))

    def _embed(self, tokens: Array, positions: Array) -> Array:
        x = jnp.take(self.embedding, tokens, axis=0, mode="clip") * self.num_features**0.5
        x = jnp.where(self._exists(tokens), x, 0)
        return x + jnp.broadcast_to(positions, x.shape)

    def _logits(self, x: Array, tokens: Array) -> Array:
        # A token that does not exist gives NaN in its own place: in others' places 0 · NaN would pass every mask.
        return jnp.where(self._exists(tokens), self.norm(x) @ self.embedding.T, jnp.nan)

    def _exists(self, tokens: Array) -> Array:
        return ((tokens >= 0) & (tokens < self.num_tokens))[..., None]


def _axes(mesh: Mesh, ndim: int, num_heads: int) -> dict[str, str]:
    """Names of the axes over which [..., T, features] and heads are spread, beside the sequence."""
    found = {}
    if "data" in mesh.axis_names and ndim == 3:
        found["batch_axis"] = "data"
    if num_heads % mesh.shape.get("model", num_heads + 1) == 0:
        found["head_axis"] = "model"
    return found
