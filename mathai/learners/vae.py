"""A variational autoencoder."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree, Shaped

from mathai.generative import vae
from mathai.learners.base import (
    Learner,
    PRNGKey,
    adam,
    check_choices,
    check_positive,
    hyperparameters,
    is_known,
    weights_only,
)
from mathai.learners.batches import as_vectors, steps_per_epoch
from mathai.learners.classifier import ACTIVATIONS
from mathai.models.vae import VAE
from mathai.nn import _numerics

EVALUATION_BLOCK = 100
DRAWS_AT_ONCE = 50


@hyperparameters
class Config:
    """Hyperparameters; floats may be traced, all else is static.

    Attributes:
      num_latents: of z.
      hidden_sizes: widths of the encoder's hidden layers, in the decoder in reverse; () is linear.
      activation: "relu", "leaky_relu", "tanh" or "sigmoid".
      likelihood: "bernoulli", of values in [0, 1], or "gaussian", with one variance that is learned.
      initial_log_variance: of the Gaussian likelihood, as in `VAE`.
      binarization: "none", or "dynamic": whenever an example is used, each value x becomes 1 with probability x.
      dequantization: w: whenever an example is used, noise from [0, w) is added to each value. With w the spacing of
        discrete values, the density has a bound, and −ELBO bounds their −log probability plus log w for each of them;
        without, it has none where a value is always the same.
      beta: β, the weight of the divergence in training.
      num_draws: importance-weighted draws of z in evaluation.
      batch_size: examples in an update.
      num_epochs: passes over the training data.
      learning_rate: η of Adam.
      schedule: of η: "constant", "linear" or "cosine".
      warmup_epochs: epochs over which η first grows linearly.
      weight_decay: λ, decoupled; of weights alone.
      max_gradient_norm: largest global norm of a gradient; ∞ does not clip.
    """

    num_latents: int = 20
    hidden_sizes: tuple[int, ...] = (500, 500)
    activation: str = "relu"
    likelihood: str = "bernoulli"
    initial_log_variance: float = -6.0
    binarization: str = "none"
    dequantization: float = 0.0
    beta: float = 1.0
    num_draws: int = 50
    batch_size: int = 128
    num_epochs: int = 10
    learning_rate: float = 1e-3
    schedule: str = "cosine"
    warmup_epochs: int = 0
    weight_decay: float = 0.0
    max_gradient_norm: float = math.inf


class State(NamedTuple):
    """Everything that changes.

    Attributes:
      key: of all randomness to come: draws of z and binarization.
      params: of the model.
      optimizer: Adam's moments and counts.
      num_examples: training examples seen.
    """

    key: PRNGKey
    params: PyTree
    optimizer: optax.OptState
    num_examples: Int[Array, ""]


def make(config: Config, train: Shaped[Array, "n ..."], test: Shaped[Array, "m ..."]) -> Learner[State]:
    """A variational autoencoder as a learner: one update is one gradient step on a minibatch of inputs.

        L(θ, φ) = 1/B Σᵢ (β KL(q_φ(z|xᵢ) ‖ p(z)) − log p_θ(xᵢ|zᵢ)),   zᵢ ∼ q_φ(·|xᵢ)

    Inputs of more than one axis are vectors to it; unsigned bytes are divided by 255.

    Args:
      config: hyperparameters.
      train: the training inputs, of which only shape and dtype are used here.
      test: what `evaluate` scores, unless it is given other inputs: `evaluate(key, state, inputs)`.

    Returns:
      A learner whose batch is an array of inputs. Update metrics: `loss` L, `kl`, `reconstruction` (−log p(x|z)),
      `gradient_norm`, and `examples` seen. Evaluation metrics, in nats per example with β = 1 and means over all
      draws: `negative_elbo`, its parts `kl` and `reconstruction`, and `negative_log_likelihood`, the importance-
      weighted estimate −L_K of `num_draws` draws, which is an upper bound in expectation.

    Raises:
      ValueError: a name in the config is unknown, a number is out of its range, batch_size does not fit, or
        `binarization` meets the Gaussian likelihood or `dequantization` the other.

    Source:
      Kingma & Welling (2014), Auto-Encoding Variational Bayes; evaluation: Burda, Grosse & Salakhutdinov (2016),
      Importance Weighted Autoencoders.
    """
    _check(config)
    num_features = math.prod(train.shape[1:])
    model = make_model(config, num_features)
    updates_per_epoch = steps_per_epoch(len(train), config.batch_size)
    optimizer = adam(
        config.learning_rate,
        weight_decay=config.weight_decay,
        max_gradient_norm=config.max_gradient_norm,
        schedule=config.schedule,
        num_steps=config.num_epochs * updates_per_epoch,
        warmup_steps=config.warmup_epochs * updates_per_epoch,
        mask=weights_only,
    )

    def init(key):
        key, params_key = jax.random.split(key)
        params = model.init(params_key, jnp.zeros((1, num_features)))["params"]
        return State(key, params, optimizer.init(params), jnp.int32(0))

    def objective(params, key, inputs):
        binarize_key, draw_key = jax.random.split(key)
        x = prepare(config, binarize_key, inputs)
        mean, log_variance = _encode(model, params, x)
        z = vae.reparameterize(draw_key, mean, log_variance)
        log_likelihood = _log_likelihood(config, model, params, z, x)
        kl = vae.gaussian_kl(mean, log_variance)
        return jnp.mean(vae.negative_elbo(log_likelihood, kl, beta=config.beta)), (
            jnp.mean(kl),
            -jnp.mean(log_likelihood),
        )

    def update(state, batch):
        key, update_key = jax.random.split(state.key)
        (loss, (kl, reconstruction)), gradient = jax.value_and_grad(objective, has_aux=True)(
            state.params, update_key, batch
        )
        steps, optimizer_state = optimizer.update(gradient, state.optimizer, state.params)
        num_examples = state.num_examples + len(batch)
        metrics = {
            "loss": loss,
            "kl": kl,
            "reconstruction": reconstruction,
            "gradient_norm": optax.tree.norm(gradient),
            "examples": num_examples,
        }
        return State(key, optax.apply_updates(state.params, steps), optimizer_state, num_examples), metrics

    def evaluate(key, state, inputs=test):
        def score(arguments):
            example_key, example = arguments
            return _bounds(config, model, state.params, example_key, example)

        keys = jax.random.split(key, len(inputs))
        kl, reconstruction, bound = jax.lax.map(score, (keys, inputs), batch_size=EVALUATION_BLOCK)
        return {
            "negative_elbo": jnp.mean(kl + reconstruction),
            "kl": jnp.mean(kl),
            "reconstruction": jnp.mean(reconstruction),
            "negative_log_likelihood": -jnp.mean(bound),
        }

    return Learner(init, update, evaluate)


def make_model(config: Config, num_features: int) -> VAE:
    """The Flax model of a config."""
    return VAE(
        num_features,
        config.num_latents,
        config.hidden_sizes,
        ACTIVATIONS[config.activation],
        config.initial_log_variance,
    )


def prepare(config: Config, key: PRNGKey, inputs: Shaped[Array, "n ..."]) -> Float[Array, "n features"]:
    """Inputs as vectors, binarized or dequantized if the config says so."""
    x = as_vectors(inputs)
    if config.binarization == "dynamic":
        return jax.random.bernoulli(key, x).astype(x.dtype)
    if config.likelihood == "bernoulli" or is_known(config.dequantization, 0):
        return x
    return x + config.dequantization * jax.random.uniform(key, x.shape, x.dtype)


def expected(config: Config, outputs: Float[Array, "*batch features"]) -> Float[Array, "*batch features"]:
    """The mean of x that a decoder's outputs stand for."""
    return jax.nn.sigmoid(outputs) if config.likelihood == "bernoulli" else outputs


def _encode(model: VAE, params: Any, x: Array) -> tuple[Array, Array]:
    mean, log_variance = model.apply({"params": params}, x, method="encode")
    return jnp.asarray(mean), jnp.asarray(log_variance)


def _log_likelihood(config: Config, model: VAE, params: Any, z: Array, x: Array) -> Array:
    outputs = jnp.asarray(model.apply({"params": params}, z, method="decode"))
    if config.likelihood == "bernoulli":
        return vae.bernoulli_log_likelihood(outputs, x)
    return vae.gaussian_log_likelihood(x, outputs, params["log_variance"])


def _bounds(config: Config, model: VAE, params: Any, key: PRNGKey, example: Array) -> tuple[Array, Array, Array]:
    """The divergence, the mean of −log p(x|z) over draws, and the importance-weighted bound of one example."""
    binarize_key, draws_key = jax.random.split(key)
    x = prepare(config, binarize_key, example[None])[0]
    mean, log_variance = _encode(model, params, x)

    def draw(draw_key):
        z = vae.reparameterize(draw_key, mean, log_variance)
        log_likelihood = _log_likelihood(config, model, params, z, x)
        log_prior = vae.gaussian_log_likelihood(z, jnp.zeros_like(z), 0.0)
        return log_likelihood, log_likelihood + log_prior - vae.gaussian_log_likelihood(z, mean, log_variance)

    keys = jax.random.split(draws_key, config.num_draws)
    log_likelihoods, log_weights = jax.lax.map(draw, keys, batch_size=DRAWS_AT_ONCE)
    bound = vae.importance_weighted_bound(log_weights)
    return vae.gaussian_kl(mean, log_variance), -jnp.mean(log_likelihoods), bound


def _check(config: Config) -> None:
    check_choices(
        config,
        {
            "activation": tuple(ACTIVATIONS),
            "likelihood": ("bernoulli", "gaussian"),
            "binarization": ("none", "dynamic"),
        },
    )
    if config.binarization == "dynamic" and config.likelihood == "gaussian":
        raise ValueError("binarization is 'dynamic': binary values have no Gaussian likelihood; use 'bernoulli'.")
    if config.likelihood == "bernoulli" and _numerics.static_value(config.dequantization) not in (None, 0):
        raise ValueError("dequantization is for the Gaussian likelihood; a Bernoulli likelihood has no density.")
    check_positive(config, "num_latents", "num_draws", "num_epochs")
