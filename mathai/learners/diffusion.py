"""A diffusion model: noise prediction, an average of parameters, samples and the variational bound."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree, Shaped

from mathai.generative import diffusion
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
    weights_only,
)
from mathai.learners.batches import as_floats
from mathai.learners.samples import compare
from mathai.models.denoiser import Denoiser, UNet
from mathai.nn import _numerics

SCHEDULES: dict[str, Callable[[int], diffusion.Schedule]] = {
    "linear": diffusion.linear_schedule,
    "cosine": diffusion.cosine_schedule,
}
EVALUATION_BLOCK, SAMPLING_BLOCK = 100, 500


@hyperparameters
class Config:
    """Hyperparameters; floats may be traced, all else is static.

    Attributes:
      model: "mlp", on vectors, or "unet", on images.
      num_blocks: of an mlp.
      num_features: width of an mlp.
      channels: of a unet, at each resolution.
      patch_size: of a unet; it sees cells of so many pixels in height and width as one.
      prediction: what the network gives: "noise" ε̂, or "velocity" v̂, from which ε̂ = √(1 − ᾱ) x_t + √ᾱ v̂.
      noise_schedule: "linear" or "cosine". The end of "cosine" has so little of the data in it that errors of ε̂ have
        no bound there: take "velocity" with it, or clip.
      num_noise_steps: T.
      minimum: of the data, which are mapped to [−1, 1],
      maximum: together with this.
      num_levels: values that the data can have, evenly spaced, for bits per dimension; 0 for continuous data.
      batch_size: examples in an update.
      num_updates: updates in all.
      learning_rate: η of Adam.
      schedule: of η: "constant", "linear" or "cosine".
      warmup_updates: updates over which η first grows linearly.
      weight_decay: λ, decoupled; of weights alone.
      max_gradient_norm: largest global norm of a gradient; ∞ does not clip.
      ema_decay: d of the average of parameters, which is sampled and evaluated; 0 evaluates the parameters themselves.
        After n updates it is at most (1 + n)/(10 + n), so that what the parameters began from has soon no part in it.
      sampler: "ddpm", "ddim" or "heun".
      num_sampling_steps: of the sampler, at most T.
      clips: whether a sampler's prediction of the data is clipped to their range.
    """

    model: str = "mlp"
    num_blocks: int = 3
    num_features: int = 128
    channels: tuple[int, ...] = (32, 64)
    patch_size: int = 1
    prediction: str = "noise"
    noise_schedule: str = "linear"
    num_noise_steps: int = 1000
    minimum: float = -1.0
    maximum: float = 1.0
    num_levels: int = 0
    batch_size: int = 128
    num_updates: int = 10_000
    learning_rate: float = 1e-3
    schedule: str = "cosine"
    warmup_updates: int = 0
    weight_decay: float = 0.0
    max_gradient_norm: float = 1.0
    ema_decay: float = 0.999
    sampler: str = "ddim"
    num_sampling_steps: int = 50
    clips: bool = False


class State(NamedTuple):
    """Everything that changes.

    Attributes:
      key: of all randomness to come: times and noise.
      params: of the model.
      average: of the parameters; empty where ema_decay is 0.
      optimizer: Adam's moments and counts.
      num_examples: training examples seen.
    """

    key: PRNGKey
    params: PyTree
    average: PyTree
    optimizer: optax.OptState
    num_examples: Int[Array, ""]


def make(
    config: Config,
    train: Shaped[Array, "n ..."],
    test: PyTree,
    score: Callable[[PRNGKey, Array, PyTree], Metrics] | None = None,
) -> Learner[State]:
    """A diffusion model as a learner: one update is one gradient step on a minibatch of inputs.

        L(θ) = 1/B Σᵢ mean (f_θ(√ᾱ_t xᵢ + √(1 − ᾱ_t) ε, t) − ε)²,   t uniform in 1 … T, ε ∼ N(0, I)

    with the velocity √ᾱ_t ε − √(1 − ᾱ_t) xᵢ in place of the last ε where that is what the network predicts.

    Unsigned bytes are divided by 255. An mlp sees inputs as vectors, a unet as images [n, height, width (, channels)].

    Args:
      config: hyperparameters.
      train: the training inputs, of which only the shape is used here.
      test: what `evaluate` compares samples with, unless it is given another: `evaluate(key, state, test)`. Its first
        leaf is an array of inputs [m, ...].
      score: (key, samples [m, features], test) → metrics; None is `samples.compare`, for which test is just that array.

    Returns:
      A learner whose batch is an array of inputs. Update metrics: `loss` L, `gradient_norm`, and `examples` seen.
      Evaluation metrics: those of the score, of m samples; `noise_error`, the mean of (ε̂ − ε)² on the test inputs; and
      with `num_levels` `bits_per_dimension`, the variational bound of −log₂ p(x) on them, of one time drawn per input.

    Raises:
      ValueError: a name in the config is unknown, or a number is out of its range.

    Source:
      Ho, Jain & Abbeel (2020), Denoising Diffusion Probabilistic Models, algorithm 1 and eq. 5.
    """
    _check(config)
    shape = _example_shape(config, train.shape[1:])
    model, schedule = make_model(config), make_schedule(config)
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
        params = model.init(params_key, jnp.zeros((1, *shape)), jnp.zeros(1, jnp.int32))["params"]
        return State(key, params, params if averages else {}, optimizer.init(params), jnp.int32(0))

    def objective(params, key, inputs):
        time_key, noise_key = jax.random.split(key)
        x_0 = prepare(config, inputs)
        t = jax.random.randint(time_key, (len(inputs),), 1, config.num_noise_steps + 1)
        noise = jax.random.normal(noise_key, x_0.shape)
        target = noise if config.prediction == "noise" else diffusion.velocity(schedule, x_0, noise, t)
        predicted = jnp.asarray(model.apply({"params": params}, diffusion.add_noise(schedule, x_0, noise, t), t))
        return jnp.mean(diffusion.noise_prediction_loss(predicted, target, axis=range(1, noise.ndim)))

    def update(state, batch):
        key, update_key = jax.random.split(state.key)
        loss, gradient = jax.value_and_grad(objective)(state.params, update_key, batch)
        steps, optimizer_state = optimizer.update(gradient, state.optimizer, state.params)
        params = optax.apply_updates(state.params, steps)
        average = state.average
        if averages:
            num_updates = state.num_examples // len(batch)
            decay = jnp.minimum(config.ema_decay, (1 + num_updates) / (10 + num_updates))
            average = moving_average(average, params, decay)
        num_examples = state.num_examples + len(batch)
        metrics = {"loss": loss, "gradient_norm": optax.tree.norm(gradient), "examples": num_examples}
        return State(key, params, average, optimizer_state, num_examples), metrics

    def evaluate(key, state, test=test):
        samples_key, score_key, times_key, errors_key = jax.random.split(key, 4)
        inputs = jax.tree.leaves(test)[0]
        found = sample(samples_key, config, shape, state, len(inputs))
        metrics = (score or compare)(score_key, found.reshape(len(inputs), -1), test)
        # Times of equal spacing, so that all are met alike.
        offset = jax.random.randint(times_key, (), 0, config.num_noise_steps)
        t = 1 + (offset + jnp.arange(len(inputs)) * config.num_noise_steps // len(inputs)) % config.num_noise_steps
        keys = jax.random.split(errors_key, len(inputs))
        score_one = functools.partial(_score, config, schedule, evaluated(state))
        of_inputs = jax.lax.map(lambda one: score_one(*one), (keys, inputs, t), batch_size=EVALUATION_BLOCK)
        return metrics | {name: jnp.mean(value) for name, value in of_inputs.items()}

    return Learner(init, update, evaluate)


def make_model(config: Config) -> nn.Module:
    """The Flax model of a config."""
    if config.model == "mlp":
        return Denoiser(config.num_blocks, config.num_features)
    return UNet(config.channels, config.patch_size)


def make_schedule(config: Config) -> diffusion.Schedule:
    """The noise schedule of a config."""
    return SCHEDULES[config.noise_schedule](config.num_noise_steps)


def prepare(config: Config, inputs: Shaped[Array, "n ..."]) -> Float[Array, "n ..."]:
    """Inputs as the model takes them: in [−1, 1], vectors for an mlp, images with channels for a unet."""
    x = 2 * (as_floats(inputs) - config.minimum) / (config.maximum - config.minimum) - 1
    return x.reshape(len(x), *_example_shape(config, x.shape[1:]))


def restore(config: Config, x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """From [−1, 1] back to the range of the data."""
    return (x + 1) / 2 * (config.maximum - config.minimum) + config.minimum


def evaluated(state: State) -> PyTree:
    """The parameters that are sampled from and scored: the average where there is one."""
    return state.average or state.params


def sample(
    key: PRNGKey,
    config: Config,
    shape: tuple[int, ...],
    state: State,
    num_samples: int,
    *,
    return_trajectory: bool = False,
) -> Float[Array, "..."]:
    """Samples [num_samples, *shape] in the range of the data, or all steps to them.

    Args:
      key: of all draws.
      config: the hyperparameters that the state was made with.
      shape: of an example as the model takes it.
      state: of the learner.
      num_samples: how many.
      return_trajectory: as in `diffusion.sample`.

    Returns:
      The samples; with `return_trajectory` [steps + 1, num_samples, *shape].
    """
    schedule = make_schedule(config)
    denoise_fn = denoiser(config, evaluated(state))
    if config.clips:
        denoise_fn = diffusion.clip_prediction(schedule, denoise_fn)
    x = diffusion.sample(
        key,
        schedule,
        functools.partial(_in_blocks, denoise_fn),
        (num_samples, *shape),
        method=config.sampler,
        num_steps=config.num_sampling_steps,
        return_trajectory=return_trajectory,
    )
    return restore(config, x)


def _in_blocks(denoise_fn: Callable[[Any, Any], Any], x: Array, t: Array) -> Array:
    """A noise prediction whose memory does not grow with the number of samples."""
    if len(x) <= SAMPLING_BLOCK:
        return denoise_fn(x, t)
    return jax.lax.map(lambda one: denoise_fn(one[None], t)[0], x, batch_size=SAMPLING_BLOCK)


def denoiser(config: Config, params: PyTree) -> Callable[[Any, Any], Any]:
    """(x_t, t) → ε̂."""
    model, schedule = make_model(config), make_schedule(config)

    def denoise(x, t):
        output = jnp.asarray(model.apply({"params": params}, x, t))
        return output if config.prediction == "noise" else diffusion.noise_of_velocity(schedule, x, output, t)

    return denoise


def _example_shape(config: Config, shape: tuple[int, ...]) -> tuple[int, ...]:
    if config.model == "mlp":
        return (math.prod(shape),)
    if len(shape) not in (2, 3):
        raise ValueError(f"a unet takes images [n, height, width (, channels)], got examples of shape {shape}.")
    return shape if len(shape) == 3 else (*shape, 1)


def _score(
    config: Config, schedule: diffusion.Schedule, params: PyTree, key: PRNGKey, example: Array, t: Array
) -> Metrics:
    """Of one example: the squared error of the noise prediction at t, and one draw of the bound of its bits."""
    x_0 = prepare(config, example[None])[0]
    denoise_fn = denoiser(config, params)
    noise, first_noise = jax.random.normal(key, (2, *x_0.shape))
    predicted = denoise_fn(diffusion.add_noise(schedule, x_0, noise, t), t)
    metrics = {"noise_error": jnp.mean((predicted - noise) ** 2)}
    if not config.num_levels:
        return metrics
    step = jnp.where(t > 1, diffusion.step_kl(schedule, predicted, noise, jnp.maximum(t, 2)), 0)
    # log p(x_0 | x_1): a Gaussian of variance β₁ about the predicted data, on the data's levels
    x_1 = diffusion.add_noise(schedule, x_0, first_noise, 1)
    log_likelihood = diffusion.discretized_gaussian_log_likelihood(
        x_0,
        diffusion.predict_x0(schedule, x_1, denoise_fn(x_1, jnp.int32(1)), 1),
        jnp.log(-jnp.expm1(schedule.log_alpha_bar[1])),
        bin_width=2 / (config.num_levels - 1),
    )
    nats = config.num_noise_steps * step - log_likelihood + diffusion.prior_kl(schedule, x_0)
    return metrics | {"bits_per_dimension": jnp.mean(nats) / math.log(2)}


def _check(config: Config) -> None:
    check_choices(
        config,
        {
            "model": ("mlp", "unet"),
            "prediction": ("noise", "velocity"),
            "noise_schedule": tuple(SCHEDULES),
            "sampler": ("ddpm", "ddim", "heun"),
        },
    )
    check_positive(
        config,
        "num_noise_steps",
        "num_sampling_steps",
        "batch_size",
        "num_updates",
        "num_blocks",
        "num_features",
        "patch_size",
    )
    if config.num_sampling_steps > config.num_noise_steps:
        raise ValueError(
            f"num_sampling_steps is {config.num_sampling_steps}, more than num_noise_steps = {config.num_noise_steps}."
        )
    if not config.channels or min(config.channels) < 1:
        raise ValueError(f"channels is {config.channels}; it must hold at least one positive number.")
    low, high = (_numerics.static_value(value) for value in (config.minimum, config.maximum))
    if low is not None and high is not None and not low < high:
        raise ValueError(f"the data go from minimum = {low} to maximum = {high}; the first must be less.")
    if config.num_levels < 0 or config.num_levels == 1:
        raise ValueError(f"num_levels is {config.num_levels}; it must be 0, or at least 2.")
