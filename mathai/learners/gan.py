"""A generative adversarial network: one step of each player in an update."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree, Shaped

from mathai.generative import gan
from mathai.learners.base import (
    Learner,
    Metrics,
    PRNGKey,
    adam,
    check_choices,
    check_positive,
    hyperparameters,
    is_known,
    moving_average,
)
from mathai.learners.batches import as_vectors
from mathai.learners.classifier import ACTIVATIONS
from mathai.learners.samples import compare
from mathai.models.gan import Discriminator, Generator
from mathai.nn import activations

OUTPUTS = {"linear": None, "sigmoid": activations.sigmoid, "tanh": activations.tanh}


@hyperparameters
class Config:
    """Hyperparameters; floats may be traced, all else is static.

    Attributes:
      num_latents: of z ∼ N(0, I).
      generator_sizes: widths of the generator's hidden layers.
      discriminator_sizes: widths of the discriminator's.
      generator_activation: "relu", "leaky_relu", "tanh" or "sigmoid".
      discriminator_activation: likewise.
      generator_normalization: "none" or "layer".
      output: of the generator: "linear", "sigmoid" (data in [0, 1]) or "tanh".
      variant: of the generator's loss: "non_saturating" or "minimax".
      r1_penalty: γ of the penalty γ/2 E‖∇D(x)‖² on the logit's slope at data; 0 is none.
      instance_noise: standard deviation of noise on all that the discriminator sees, which falls linearly to 0.
      batch_size: examples, and samples, in an update.
      num_updates: updates in all.
      generator_learning_rate: η of the generator's Adam.
      discriminator_learning_rate: η of the discriminator's.
      schedule: of both: "constant", "linear" or "cosine".
      beta1: β₁ of both.
      ema_decay: d of the average of the generator, which is sampled; 0 samples from the generator itself.
    """

    num_latents: int = 16
    generator_sizes: tuple[int, ...] = (128, 128)
    discriminator_sizes: tuple[int, ...] = (128, 128)
    generator_activation: str = "relu"
    discriminator_activation: str = "leaky_relu"
    generator_normalization: str = "none"
    output: str = "linear"
    variant: str = "non_saturating"
    r1_penalty: float = 0.0
    instance_noise: float = 0.0
    batch_size: int = 128
    num_updates: int = 10_000
    generator_learning_rate: float = 1e-3
    discriminator_learning_rate: float = 1e-3
    schedule: str = "constant"
    beta1: float = 0.5
    ema_decay: float = 0.0


class State(NamedTuple):
    """Everything that changes.

    Attributes:
      key: of all randomness to come.
      generator: parameters.
      discriminator: parameters.
      average: of the generator's parameters; empty where ema_decay is 0.
      generator_optimizer: Adam's moments and counts.
      discriminator_optimizer: likewise.
      num_examples: training examples seen.
      num_updates: updates made.
    """

    key: PRNGKey
    generator: PyTree
    discriminator: PyTree
    average: PyTree
    generator_optimizer: optax.OptState
    discriminator_optimizer: optax.OptState
    num_examples: Int[Array, ""]
    num_updates: Int[Array, ""]


def make(
    config: Config,
    train: Shaped[Array, "n ..."],
    test: PyTree,
    score: Callable[[PRNGKey, Array, PyTree], Metrics] | None = None,
) -> Learner[State]:
    """A generative adversarial network as a learner: an update is a step of the discriminator, then of the generator.

        L_D = mean (softplus(−l) + softplus(l̃)) + γ/2 mean ‖∇l(x)‖²

        L_G = mean softplus(−l̃)   or   −mean softplus(l̃)

    Both steps see the same samples. Inputs of more than one axis are vectors to it; unsigned bytes are divided by 255.

    Args:
      config: hyperparameters.
      train: the training inputs, of which only the shape is used here.
      test: what `evaluate` compares samples with, unless it is given another: `evaluate(key, state, test)`.
      score: (key, samples [m, features], test) → metrics; None is `samples.compare`, for which test is an array of
        inputs [m, ...].

    Returns:
      A learner whose batch is an array of inputs. Update metrics: `discriminator_loss` and `generator_loss`,
      `discriminator_accuracy`, and `examples` seen. Evaluation metrics: those of the score, of as many samples as test
      has examples.

    Raises:
      ValueError: a name in the config is unknown, or a number is out of its range.

    Source:
      Goodfellow et al. (2014), Generative Adversarial Nets, algorithm 1; penalty: Mescheder, Geiger & Nowozin (2018),
      Which Training Methods for GANs do actually Converge?, eq. 9.
    """
    _check(config)
    num_features = math.prod(train.shape[1:])
    generator, discriminator = make_generator(config, num_features), make_discriminator(config)
    optimizers = [
        adam(rate, schedule=config.schedule, num_steps=config.num_updates, beta1=config.beta1)
        for rate in (config.generator_learning_rate, config.discriminator_learning_rate)
    ]
    averages, penalizes = not is_known(config.ema_decay, 0), not is_known(config.r1_penalty, 0)

    def init(key):
        key, *keys = jax.random.split(key, 3)
        of_generator = generator.init(keys[0], jnp.zeros((1, config.num_latents)))["params"]
        of_discriminator = discriminator.init(keys[1], jnp.zeros((1, num_features)))["params"]
        return State(
            key,
            of_generator,
            of_discriminator,
            of_generator if averages else {},
            optimizers[0].init(of_generator),
            optimizers[1].init(of_discriminator),
            jnp.int32(0),
            jnp.int32(0),
        )

    def logits(params, x):
        return jnp.asarray(discriminator.apply({"params": params}, x))

    def discriminator_objective(params, real, fake):
        real_logits, fake_logits = logits(params, real), logits(params, fake)
        loss = jnp.mean(gan.discriminator_loss(real_logits, fake_logits))
        if penalizes:
            slopes = jax.grad(lambda x: jnp.sum(logits(params, x)))(real)
            loss += config.r1_penalty / 2 * jnp.mean(jnp.sum(slopes**2, -1))
        return loss, (jnp.mean(real_logits > 0) + jnp.mean(fake_logits < 0)) / 2

    def update(state, batch):
        key, latent_key, real_key, fake_key = jax.random.split(state.key, 4)
        z = jax.random.normal(latent_key, (len(batch), config.num_latents))
        spread = config.instance_noise * jnp.maximum(1 - state.num_updates / config.num_updates, 0)
        blur = jax.random.normal(fake_key, (len(batch), num_features)) * spread
        real = as_vectors(batch) + jax.random.normal(real_key, blur.shape) * spread

        def generate(params):
            return jnp.asarray(generator.apply({"params": params}, z)) + blur

        (loss, accuracy), gradient = jax.value_and_grad(discriminator_objective, has_aux=True)(
            state.discriminator, real, generate(state.generator)
        )
        steps, discriminator_state = optimizers[1].update(gradient, state.discriminator_optimizer)
        of_discriminator = optax.apply_updates(state.discriminator, steps)

        def generator_objective(params):
            return jnp.mean(gan.generator_loss(logits(of_discriminator, generate(params)), variant=config.variant))

        generator_loss, gradient = jax.value_and_grad(generator_objective)(state.generator)
        steps, generator_state = optimizers[0].update(gradient, state.generator_optimizer)
        of_generator = optax.apply_updates(state.generator, steps)
        average = state.average
        if averages:
            average = moving_average(average, of_generator, config.ema_decay)
        num_examples = state.num_examples + len(batch)
        metrics = {
            "discriminator_loss": loss,
            "generator_loss": generator_loss,
            "discriminator_accuracy": accuracy,
            "examples": num_examples,
        }
        return State(
            key,
            of_generator,
            of_discriminator,
            average,
            generator_state,
            discriminator_state,
            num_examples,
            state.num_updates + 1,
        ), metrics

    def evaluate(key, state, test=test):
        samples_key, score_key = jax.random.split(key)
        num_samples = len(jax.tree.leaves(test)[0])
        samples = sample(samples_key, config, num_features, state, num_samples)
        return (score or compare)(score_key, samples, test)

    return Learner(init, update, evaluate)


def make_generator(config: Config, num_features: int) -> Generator:
    """The Flax model of the generator."""
    return Generator(
        num_features,
        config.generator_sizes,
        ACTIVATIONS[config.generator_activation],
        config.generator_normalization,
        OUTPUTS[config.output],
    )


def make_discriminator(config: Config) -> Discriminator:
    """The Flax model of the discriminator."""
    return Discriminator(config.discriminator_sizes, ACTIVATIONS[config.discriminator_activation])


def sample(
    key: PRNGKey, config: Config, num_features: int, state: State, num_samples: int
) -> Float[Array, "num_samples features"]:
    """Samples of the averaged generator, or of the generator itself."""
    z = jax.random.normal(key, (num_samples, config.num_latents))
    return jnp.asarray(make_generator(config, num_features).apply({"params": state.average or state.generator}, z))


def _check(config: Config) -> None:
    check_choices(
        config,
        {
            "generator_activation": ACTIVATIONS,
            "discriminator_activation": ACTIVATIONS,
            "generator_normalization": ("none", "layer"),
            "output": OUTPUTS,
            "variant": ("non_saturating", "minimax"),
        },
    )
    check_positive(config, "num_latents", "batch_size", "num_updates")
