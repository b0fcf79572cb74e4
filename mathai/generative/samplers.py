"""From noise to data: the steps of DDPM, DDIM and Heun, and whole samplers as one scan."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Key, Shaped, UInt32

from mathai.generative._steps import Step, log_alpha_bar_at, root, two_steps
from mathai.generative.processes import posterior, predict_x0
from mathai.generative.schedules import Schedule
from mathai.nn import _numerics

__all__ = [
    "classifier_free_guidance",
    "clip_prediction",
    "ddim_step",
    "ddpm_step",
    "heun_step",
    "sample",
]

PRNGKey = Key[Array, ""] | UInt32[Array, "..."]
DenoiseFn = Callable[[Any, Any], Any]  # (x_t, t) → ε̂
Variance = str | Callable[[Array, Array], Array]


def ddpm_step(
    key: PRNGKey,
    schedule: Schedule,
    x_t: Float[ArrayLike, "*shape"],
    predicted_noise: Float[ArrayLike, "*shape"],
    t: Step,
    *,
    t_prev: Step | None = None,
    variance: Variance = "posterior",
) -> Float[Array, "*shape"]:
    """One random step back.

        x_s = mean(x_t, x̂_0) + σ z,   z ∼ N(0, I),   x̂_0 = (x_t − √(1 − ᾱ_t) ε̂)/√ᾱ_t

    with the mean of `posterior` and σ² = β̃ ("posterior", so that nothing is added at the last step) or σ² = β = 1 −
    ᾱ_t/ᾱ_s ("beta", which adds noise at the last step too).

    Args:
      key: of z.
      schedule: of ᾱ.
      x_t: noisy data.
      predicted_noise: ε̂(x_t, t), of the same shape.
      t: in 1 … T, a scalar, or one for each index of the first axes of x.
      t_prev: s, in 0 … t − 1; None is t − 1.
      variance: "posterior", "beta", or a function (t, s) → σ²: a scalar, one for each t, or of the shape of x.

    Returns:
      x_s.

    Raises:
      AssertionError: the shapes differ.
      TypeError: x_t is not floating, or t not integer.
      ValueError: the variance is unknown, or the axes of t do not begin those of x.

    Source:
      Ho, Jain & Abbeel (2020), Denoising Diffusion Probabilistic Models, algorithm 2.

    >>> schedule = Schedule(jnp.log(jnp.array([1.0, 0.64])))
    >>> ddpm_step(jax.random.key(0), schedule, jnp.full(1, 1.4), jnp.ones(1), 1).round(4)
    Array([1.], dtype=float32)
    """
    _numerics.assert_equal_shape(x_t, predicted_noise)
    (x_t, noise), dtype = _numerics.upcast(x_t, predicted_noise)
    mean, of_posterior = posterior(schedule, predict_x0(schedule, x_t, noise, t), x_t, t, t_prev=t_prev)
    if callable(variance):
        t = _numerics.as_classes(t, "t")
        given = jnp.asarray(variance(t, t - 1 if t_prev is None else jnp.asarray(t_prev)), x_t.dtype)
        # one for all, one for each t, or one for each entry of x
        chosen = given.reshape(of_posterior.shape) if given.ndim and given.shape != x_t.shape else given
    elif variance == "posterior":
        chosen = of_posterior
    elif variance == "beta":
        late, early = two_steps(schedule, x_t, t, t_prev)
        chosen = -jnp.expm1(late - early)
    else:
        raise ValueError(f"variance {variance!r} is unknown; use 'posterior', 'beta' or a function of t and t_prev")
    return (mean + root(chosen) * jax.random.normal(key, x_t.shape, x_t.dtype)).astype(dtype)


def ddim_step(
    schedule: Schedule,
    x_t: Float[ArrayLike, "*shape"],
    predicted_noise: Float[ArrayLike, "*shape"],
    t: Step,
    t_prev: Step,
    *,
    eta: Shaped[ArrayLike, ""] | float = 0.0,
    key: PRNGKey | None = None,
) -> Float[Array, "*shape"]:
    """One step back with as much randomness as is wanted; every η has the same marginals.

        x_s = √ᾱ_s x̂_0 + √(1 − ᾱ_s − σ²) ε̂ + σ z,   σ² = η² (1 − ᾱ_s)/(1 − ᾱ_t) (1 − ᾱ_t/ᾱ_s)

    η = 0 is deterministic, η = 1 is `ddpm_step` with the posterior's variance.

    Args:
      schedule: of ᾱ.
      x_t: noisy data.
      predicted_noise: ε̂(x_t, t), of the same shape.
      t: in 1 … T, a scalar, or one for each index of the first axes of x.
      t_prev: s, in 0 … t − 1, of the same shape.
      eta: η, from 0 to 1; NaN beyond.
      key: of z; not needed where η is 0.

    Returns:
      x_s.

    Raises:
      AssertionError: the shapes differ.
      TypeError: x_t is not floating, or t not integer.
      ValueError: the axes of t do not begin those of x, or there is no key though η is not known to be 0.

    Source:
      Song, Meng & Ermon (2021), Denoising Diffusion Implicit Models, eq. 12 and 16.

    >>> schedule = Schedule(jnp.log(jnp.array([1.0, 0.64])))
    >>> ddim_step(schedule, jnp.full(1, 1.4), jnp.ones(1), 1, 0).round(4)
    Array([1.], dtype=float32)
    """
    _numerics.assert_equal_shape(x_t, predicted_noise)
    _numerics.assert_scalar("eta", eta)
    (x_t, noise), dtype = _numerics.upcast(x_t, predicted_noise)
    late, early = two_steps(schedule, x_t, t, t_prev)
    x_0 = predict_x0(schedule, x_t, noise, t)
    if _numerics.static_value(eta) == 0:
        return (jnp.exp(early / 2) * x_0 + root(-jnp.expm1(early)) * noise).astype(dtype)
    if key is None:
        raise ValueError(f"ddim_step with eta = {eta} is random; give it a key")
    # σ² = (1 − ᾱ_s) η² f and 1 − ᾱ_s − σ² = (1 − ᾱ_s)(1 − η² f)
    eta = jnp.asarray(eta, x_t.dtype)
    eta = jnp.where((eta >= 0) & (eta <= 1), eta, jnp.nan)
    fraction = jnp.expm1(late - early) / jnp.expm1(late)
    direction = root(1 - eta**2 * fraction) * noise
    direction += eta * root(fraction) * jax.random.normal(key, x_t.shape, x_t.dtype)
    return (jnp.exp(early / 2) * x_0 + root(-jnp.expm1(early)) * direction).astype(dtype)


def heun_step(
    denoise_fn: DenoiseFn, schedule: Schedule, x_t: Float[ArrayLike, "*shape"], t: Step, t_prev: Step
) -> Float[Array, "*shape"]:
    """One step back along the probability flow, of second order, with two noise predictions.

        x = cos φ x̂_0 + sin φ ε̂,   cos² φ = ᾱ,   dx/dφ = v = cos φ ε̂ − sin φ x̂_0

        x' = cos Δ x_t + sin Δ v(x_t, t),   x_s = cos Δ x_t + sin Δ (v(x_t, t) + v'(x', s))/2,   Δ = φ_s − φ_t

    where v' = cos φ_t ε̂ − sin φ_t x̂_0 has the predictions at s and the angle of t: constant predictions cost no error.
    Steps in the angle stay small where the noise level √((1 − ᾱ)/ᾱ) has no bound.

    The step to clean data is x', which is DDIM's: there is no prediction at s = 0.

    Args:
      denoise_fn: (x_t, t) → ε̂.
      schedule: of ᾱ.
      x_t: noisy data.
      t: in 1 … T, a scalar.
      t_prev: s, in 0 … t − 1.

    Returns:
      x_s.

    Raises:
      AssertionError: a prediction has another shape than x.
      TypeError: x_t is not floating, or t not integer.

    Source:
      Karras, Aittala, Aila & Laine (2022), Elucidating the Design Space of Diffusion-Based Generative Models,
      algorithm 1, in the angle of Salimans & Ho (2022), Progressive Distillation, appendix D.

    >>> schedule = Schedule(jnp.log(jnp.array([1.0, 0.64])))
    >>> heun_step(lambda x, t: jnp.ones_like(x), schedule, jnp.full(1, 1.4), 1, 0).round(4)
    Array([1.], dtype=float32)
    """
    (x,), dtype = _numerics.upcast(x_t)
    noise = _predicted(denoise_fn, x_t, t, x)
    late, early = two_steps(schedule, x, t, t_prev)
    cos_t, sin_t = jnp.exp(late / 2), root(-jnp.expm1(late))
    cos_s, sin_s = jnp.exp(early / 2), root(-jnp.expm1(early))
    x_0 = (x - sin_t * noise) / cos_t
    euler = cos_s * x_0 + sin_s * noise

    def corrected():
        noise_s = _predicted(denoise_fn, euler.astype(dtype), t_prev, x)
        velocity = cos_t * noise - sin_t * x_0
        velocity_s = cos_t * noise_s - sin_t * (euler - sin_s * noise_s) / cos_s
        return (cos_s * cos_t + sin_s * sin_t) * x + (sin_s * cos_t - cos_s * sin_t) * (velocity + velocity_s) / 2

    return jax.lax.cond(jnp.asarray(t_prev) == 0, lambda: euler, corrected).astype(dtype)


def sample(
    key: PRNGKey,
    schedule: Schedule,
    denoise_fn: DenoiseFn,
    shape: Sequence[int],
    *,
    method: str = "ddpm",
    num_steps: int | None = None,
    variance: Variance = "posterior",
    eta: Shaped[ArrayLike, ""] | float = 0.0,
    return_trajectory: bool = False,
) -> Float[Array, "..."]:
    """Draw x_T ∼ N(0, I) and go back to x_0, in one scan.

        t = round(linspace(T, 1, num_steps)), then 0

    Args:
      key: of all draws.
      schedule: of ᾱ, whose dtype the samples have.
      denoise_fn: (x_t, t) → ε̂, with x_t of `shape` and a scalar integer t in 1 … T.
      shape: of the samples, all of them.
      method: "ddpm", "ddim" or "heun"; the last predicts noise twice in a step.
      num_steps: steps to take, 1 … T; None is T.
      variance: of "ddpm", as in `ddpm_step`.
      eta: of "ddim", as in `ddim_step`.
      return_trajectory: whether to return all x_t on the way.

    Returns:
      x_0 of `shape`; with `return_trajectory` [num_steps + 1, *shape], from x_T to x_0.

    Raises:
      ValueError: method or variance is unknown, num_steps does not fit, or an argument is of another method.

    Source:
      Ho, Jain & Abbeel (2020), Denoising Diffusion Probabilistic Models, algorithm 2; Song, Meng & Ermon (2021),
      Denoising Diffusion Implicit Models, section 4.2.

    >>> from mathai.generative.schedules import linear_schedule
    >>> sample(jax.random.key(0), linear_schedule(10), lambda x, t: jnp.zeros_like(x), (2, 3), method="ddim").shape
    (2, 3)
    """
    if method not in ("ddpm", "ddim", "heun"):
        raise ValueError(f"method {method!r} is unknown; use 'ddpm', 'ddim' or 'heun'")
    if method != "ddpm" and variance != "posterior":
        raise ValueError(f"method {method!r} takes no variance")
    if method != "ddim" and _numerics.static_value(eta) != 0:
        raise ValueError(f"method {method!r} takes no eta")
    indices = _indices(schedule.num_steps, num_steps)
    start_key, steps_key = jax.random.split(key)

    def step(x, inputs):
        t, t_prev, step_key = inputs
        if method == "heun":
            x = heun_step(denoise_fn, schedule, x, t, t_prev)
        elif method == "ddim":
            x = ddim_step(schedule, x, denoise_fn(x, t), t, t_prev, eta=eta, key=step_key)
        else:
            x = ddpm_step(step_key, schedule, x, denoise_fn(x, t), t, t_prev=t_prev, variance=variance)
        return x, x if return_trajectory else None

    start = jax.random.normal(start_key, tuple(shape), jnp.asarray(schedule.log_alpha_bar).dtype)
    inputs = indices[:-1], indices[1:], jax.random.split(steps_key, len(indices) - 1)
    x, trajectory = jax.lax.scan(step, start, inputs)
    return jnp.concatenate([start[None], trajectory]) if return_trajectory else x


def classifier_free_guidance(
    conditional_fn: DenoiseFn, unconditional_fn: DenoiseFn, scale: Shaped[ArrayLike, ""] | float
) -> DenoiseFn:
    """A noise prediction that exaggerates what a condition changes.

        ε̂ = ε̂(x, t) + w (ε̂(x, t | c) − ε̂(x, t))

    Args:
      conditional_fn: (x_t, t) → ε̂(x_t, t | c).
      unconditional_fn: (x_t, t) → ε̂(x_t, t).
      scale: w; 0 is unconditional, 1 conditional, more exaggerates.

    Returns:
      (x_t, t) → ε̂, for any sampler.

    Source:
      Ho & Salimans (2022), Classifier-Free Diffusion Guidance, eq. 6, where w is one less.

    >>> guided = classifier_free_guidance(lambda x, t: 2 * x, lambda x, t: x, 3.0)
    >>> guided(jnp.ones(1), 1)
    Array([4.], dtype=float32)
    """

    def denoise(x, t):
        unconditional = unconditional_fn(x, t)
        return unconditional + scale * (conditional_fn(x, t) - unconditional)

    return denoise


def clip_prediction(
    schedule: Schedule, denoise_fn: DenoiseFn, *, minimum: float = -1.0, maximum: float = 1.0
) -> DenoiseFn:
    """A noise prediction whose x̂_0 stays in the range of the data.

        ε̂' = (x_t − √ᾱ_t clip(x̂_0))/√(1 − ᾱ_t),   and ε̂ itself where x̂_0 is in range

    Args:
      schedule: of ᾱ.
      denoise_fn: (x_t, t) → ε̂.
      minimum: of the data.
      maximum: of the data.

    Returns:
      (x_t, t) → ε̂', for any sampler.

    Source:
      Ho, Jain & Abbeel (2020), Denoising Diffusion Probabilistic Models, section 3.2: data are in [−1, 1].

    >>> schedule = Schedule(jnp.log(jnp.array([1.0, 0.64])))
    >>> clip_prediction(schedule, lambda x, t: jnp.zeros_like(x))(jnp.full(1, 1.4), 1).round(4)  # x̂_0 was 1.75
    Array([1.], dtype=float32)
    """

    def denoise(x_t, t):
        (x,), dtype = _numerics.upcast(x_t)
        noise = _predicted(denoise_fn, x_t, t, x)
        x_0 = predict_x0(schedule, x, noise, t)
        clipped = jnp.clip(x_0, minimum, maximum)
        log_alpha_bar = log_alpha_bar_at(schedule, t, x)
        clipped_noise = (x - jnp.exp(log_alpha_bar / 2) * clipped) / root(-jnp.expm1(log_alpha_bar))
        return jnp.where(clipped == x_0, noise, clipped_noise).astype(dtype)

    return denoise


def _predicted(denoise_fn: DenoiseFn, x_t: ArrayLike, t: Step, wide: Array) -> Array:
    """The noise prediction in the precision of the computation; one of another shape would broadcast."""
    noise = jnp.asarray(denoise_fn(x_t, t), wide.dtype)
    _numerics.assert_equal_shape(noise, wide)
    return noise


def _indices(most: int, num_steps: int | None) -> Array:
    num_steps = most if num_steps is None else num_steps
    if not 1 <= num_steps <= most:
        raise ValueError(f"num_steps is {num_steps}; the schedule has steps 1 to {most}")
    return jnp.asarray(np.append(np.round(np.linspace(most, 1, num_steps)), 0).astype(np.int32))
