"""A language model: a Transformer decoder that predicts the next token."""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, Integer, PyTree

from mathai.learners.base import (
    Learner,
    PRNGKey,
    adam,
    check_positive,
    hyperparameters,
    is_known,
    moving_average,
    over_data,
    weights_only,
)
from mathai.models.transformer import Transformer
from mathai.nn import losses

EVALUATION_BLOCK = 16


@hyperparameters
class Config:
    """Hyperparameters; floats may be traced, all else is static.

    Attributes:
      num_layers: blocks of the Transformer.
      num_heads: attention heads; they divide num_features.
      num_features: width of the Transformer.
      hidden_size: width of the blocks' hidden layers.
      context_length: tokens that are predicted in a window, and the most that a prediction sees.
      batch_size: windows in an update.
      num_microbatches: equal parts of a batch, whose gradients are computed one after the other and averaged.
      num_updates: updates in all.
      dropout_rate: of the Transformer.
      learning_rate: η of Adam.
      schedule: of η: "constant", "linear" or "cosine".
      warmup_updates: updates over which η first grows linearly.
      weight_decay: λ, decoupled; of weights alone, not of biases, scales and offsets.
      max_gradient_norm: largest global norm of a gradient; ∞ does not clip.
      ema_decay: d of the average of parameters φ ← d φ + (1 − d) θ that is evaluated; 0 evaluates θ itself.
    """

    num_layers: int = 4
    num_heads: int = 4
    num_features: int = 128
    hidden_size: int = 512
    context_length: int = 128
    batch_size: int = 32
    num_microbatches: int = 1
    num_updates: int = 1000
    dropout_rate: float = 0.0
    learning_rate: float = 1e-3
    schedule: str = "cosine"
    warmup_updates: int = 100
    weight_decay: float = 0.1
    max_gradient_norm: float = 1.0
    ema_decay: float = 0.0


class State(NamedTuple):
    """Everything that changes.

    Attributes:
      key: of all randomness to come: dropout.
      params: θ of the model.
      average: φ, the average of θ; empty where ema_decay is 0.
      optimizer: Adam's moments and counts.
      num_tokens: tokens predicted so far.
    """

    key: PRNGKey
    params: PyTree
    average: PyTree
    optimizer: optax.OptState
    num_tokens: Int[Array, ""]


def make(
    config: Config, vocabulary_size: int, test: Integer[Array, "length"], *, mesh: Mesh | None = None
) -> Learner[State]:
    """A language model as a learner: one update is one gradient step on windows of tokens [B, context_length + 1].

        L(θ) = −1/(B T) Σ log p_θ(x_{t+1} | x_1 … x_t)

    Args:
      config: hyperparameters.
      vocabulary_size: tokens are 0 … vocabulary_size − 1; others make the loss NaN.
      test: the text that `evaluate` scores, unless it is given another: `evaluate(key, state, tokens)`.
      mesh: devices with an axis `sequence`, over which the windows of an update are spread; None is one device.

    Returns:
      A learner whose batch is an array of tokens. Update metrics: `loss` L, `bits_per_token` L / log 2,
      `gradient_norm`, and `tokens` predicted so far. Evaluation metric: `bits_per_token` over the text, in windows that
      follow one another, each of which begins without context; a last part of a window is left out.

    Raises:
      ValueError: a name in the config is unknown, a size does not fit, or the text is shorter than a window.

    Source:
      Vaswani et al. (2017), Attention Is All You Need; decoder alone: Radford et al. (2018), Improving Language
      Understanding by Generative Pre-Training, section 3.1.
    """
    _check(config, test)
    model = make_model(config, vocabulary_size)
    trained = model.clone(mesh=mesh)
    optimizer = adam(
        config.learning_rate,
        weight_decay=config.weight_decay,
        max_gradient_norm=config.max_gradient_norm,
        schedule=config.schedule,
        num_steps=config.num_updates,
        warmup_steps=config.warmup_updates,
        mask=weights_only,
    )
    averages = not is_known(config.ema_decay, 0)

    def init(key):
        key, params_key = jax.random.split(key)
        params = model.init(params_key, jnp.zeros((1, config.context_length), jnp.int32))["params"]
        return State(key, params, params if averages else {}, optimizer.init(params), jnp.int32(0))

    def objective(params, key, tokens):
        inputs, targets = tokens[:, :-1], tokens[:, 1:]
        logits = jnp.asarray(trained.apply({"params": params}, inputs, train=True, rngs={"dropout": key}))
        return jnp.mean(losses.categorical_cross_entropy_with_integer_labels(logits, targets))

    def update(state, batch):
        key, update_key = jax.random.split(state.key)
        loss, gradient = _accumulated(objective, state.params, update_key, batch, config.num_microbatches)
        steps, optimizer_state = optimizer.update(gradient, state.optimizer, state.params)
        params = optax.apply_updates(state.params, steps)
        average = state.average
        if averages:
            average = moving_average(average, params, config.ema_decay)
        num_tokens = state.num_tokens + len(batch) * (batch.shape[1] - 1)
        metrics = {
            "loss": loss,
            "bits_per_token": loss / math.log(2),
            "gradient_norm": optax.tree.norm(gradient),
            "tokens": num_tokens,
        }
        return State(key, params, average, optimizer_state, num_tokens), metrics

    def evaluate(key, state, tokens=test):
        del key  # deterministic
        length = config.context_length
        num_windows = (len(tokens) - 1) // length
        starts = length * jnp.arange(num_windows)

        def score(start):
            window = jax.lax.dynamic_slice(tokens, (start,), (length + 1,)).astype(jnp.int32)
            logits = jnp.asarray(model.apply({"params": evaluated(state)}, window[:-1]))
            return jnp.mean(losses.categorical_cross_entropy_with_integer_labels(logits, window[1:]))

        return {"bits_per_token": jnp.mean(jax.lax.map(score, starts, batch_size=EVALUATION_BLOCK)) / math.log(2)}

    return Learner(init, update, evaluate)


def make_model(config: Config, vocabulary_size: int) -> Transformer:
    """The Flax model of a config."""
    return Transformer(
        vocabulary_size,
        num_layers=config.num_layers,
        num_heads=config.num_heads,
        num_features=config.num_features,
        hidden_size=config.hidden_size,
        dropout_rate=config.dropout_rate,
    )


def evaluated(state: State) -> PyTree:
    """The parameters that are scored and sampled from: the average where there is one."""
    return state.average or state.params


def sample(
    key: PRNGKey,
    config: Config,
    vocabulary_size: int,
    state: State,
    prompt: Integer[Array, "prompt"],
    length: int,
    *,
    temperature: float | Float[Array, ""] = 1.0,
) -> Int[Array, "length"]:
    """Continue a text, token by token, with a cache of keys and values: O(length) for each token.

        x_{t+1} ∼ softmax(logits / τ)

    Args:
      key: of the draws.
      config: the hyperparameters that the state was made with.
      vocabulary_size: likewise.
      state: of the learner.
      prompt: the beginning, at least one token.
      length: tokens to draw.
      temperature: τ > 0.

    Returns:
      The tokens after the prompt. Beyond `config.context_length` tokens in all the model is where it was not trained.
    """
    model, variables = make_model(config, vocabulary_size), {"params": evaluated(state)}
    step = functools.partial(model.apply, variables, method="step")
    prompt = jnp.asarray(prompt, jnp.int32)

    def read(caches, token):
        logits, caches = step(token, caches)
        return caches, logits

    def write(carry, key):
        caches, token = carry
        logits, caches = step(token, caches)
        token = jax.random.categorical(key, logits / temperature)
        return (caches, token), token

    caches, _ = jax.lax.scan(read, model.init_cache(len(prompt) + length), prompt[:-1])
    return jax.lax.scan(write, (caches, prompt[-1]), jax.random.split(key, length))[1]


def windows(key: PRNGKey, tokens: Integer[Array, "n"], *, batch_size: int, length: int) -> Int[Array, "batch length"]:
    """Pieces of a text that begin anywhere, each place as likely as the others.

    Raises:
      ValueError: the text is shorter than a piece.

    >>> windows(jax.random.key(0), jnp.arange(5), batch_size=1, length=5).tolist()
    [[0, 1, 2, 3, 4]]
    """
    return jnp.take(
        tokens, window_indices(key, len(tokens), batch_size=batch_size, length=length), axis=0, mode="clip"
    ).astype(jnp.int32)


def window_indices(key: PRNGKey, num_tokens: int, *, batch_size: int, length: int) -> Int[Array, "batch length"]:
    """Which tokens of a text of so many `windows` takes.

    Raises:
      ValueError: the text is shorter than a piece.

    >>> window_indices(jax.random.key(0), 5, batch_size=1, length=5).tolist()
    [[0, 1, 2, 3, 4]]
    """
    if num_tokens < length:
        raise ValueError(f"a text of {num_tokens} tokens has no piece of {length}.")
    starts = jax.random.randint(key, (batch_size, 1), 0, num_tokens - length + 1)
    return starts + jnp.arange(length)[None]


def _accumulated(objective, params, key, batch, num_parts):
    """Mean loss and gradient over equal parts of a batch, one part at a time."""
    if num_parts == 1:
        return jax.value_and_grad(objective)(params, key, batch)
    parts = over_data(batch.reshape(num_parts, -1, *batch.shape[1:]), axis=1)

    def add(total, part):
        return jax.tree.map(jnp.add, total, jax.value_and_grad(objective)(params, *part)), None

    zeros = (jnp.zeros(()), jax.tree.map(jnp.zeros_like, params))
    total, _ = jax.lax.scan(add, zeros, (jax.random.split(key, num_parts), parts))
    return jax.tree.map(lambda x: x / num_parts, total)


def _check(config: Config, test: Array) -> None:
    check_positive(config, "num_layers", "num_heads", "num_features", "hidden_size", "context_length", "num_updates")
    if config.batch_size < 1 or config.num_microbatches < 1 or config.batch_size % config.num_microbatches:
        raise ValueError(
            f"batch_size is {config.batch_size} and num_microbatches {config.num_microbatches}; "
            "the second must divide the first."
        )
    if len(test) <= config.context_length:
        raise ValueError(
            f"the held-out text has {len(test)} tokens; context_length = {config.context_length} needs one more."
        )
