"""The diffusion process and its reverse: marginals, posterior, loss, and the Gaussian case in closed form."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Key, UInt32

from mathai.generative._steps import Step, log_alpha_bar_at, root, two_steps
from mathai.generative.schedules import Schedule
from mathai.nn import _numerics

__all__ = [
    "add_noise",
    "forward_step",
    "gaussian_optimal_noise",
    "gaussian_reverse_variance",
    "noise_of_velocity",
    "noise_prediction_loss",
    "posterior",
    "predict_x0",
    "velocity",
]

PRNGKey = Key[Array, ""] | UInt32[Array, "..."]


def forward_step(
    key: PRNGKey, schedule: Schedule, x_tm1: Float[ArrayLike, "*shape"], t: Step
) -> Float[Array, "*shape"]:
    """One step of the process that turns data into noise.

        x_t = √(1 − β_t) x_{t−1} + √β_t ε,   ε ∼ N(0, I)

    Args:
      key: of ε.
      schedule: of β.
      x_tm1: x_{t−1}.
      t: in 1 … T, a scalar, or one for each index of the first axes of x.

    Returns:
      x_t.

    Raises:
      TypeError: x is not floating, or t not integer.
      ValueError: the axes of t do not begin those of x.

    Source:
      Ho, Jain & Abbeel (2020), Denoising Diffusion Probabilistic Models, eq. 2.

    >>> forward_step(jax.random.key(0), Schedule(jnp.zeros(2)), jnp.ones(2), 1)  # β₁ = 0
    Array([1., 1.], dtype=float32)
    """
    (x,), dtype = _numerics.upcast(x_tm1)
    late, early = two_steps(schedule, x, t, None)
    log_alpha = late - early
    noise = jax.random.normal(key, x.shape, x.dtype)
    return (jnp.exp(log_alpha / 2) * x + root(-jnp.expm1(log_alpha)) * noise).astype(dtype)


def add_noise(
    schedule: Schedule, x_0: Float[ArrayLike, "*shape"], noise: Float[ArrayLike, "*shape"], t: Step
) -> Float[Array, "*shape"]:
    """All steps up to t at once.

        x_t = √ᾱ_t x_0 + √(1 − ᾱ_t) ε

    Args:
      schedule: of ᾱ.
      x_0: data.
      noise: ε, of the same shape, drawn from N(0, I).
      t: in 0 … T, a scalar, or one for each index of the first axes of x.

    Returns:
      x_t.

    Raises:
      AssertionError: the shapes differ.
      TypeError: x_0 is not floating, or t not integer.
      ValueError: the axes of t do not begin those of x.

    Source:
      Ho, Jain & Abbeel (2020), Denoising Diffusion Probabilistic Models, eq. 4.

    >>> add_noise(Schedule(jnp.log(jnp.array([1.0, 0.64]))), jnp.ones(1), jnp.ones(1), 1).round(4)
    Array([1.4], dtype=float32)
    """
    _numerics.assert_equal_shape(x_0, noise)
    (x_0, noise), dtype = _numerics.upcast(x_0, noise)
    log_alpha_bar = log_alpha_bar_at(schedule, t, x_0)
    return (jnp.exp(log_alpha_bar / 2) * x_0 + root(-jnp.expm1(log_alpha_bar)) * noise).astype(dtype)


def predict_x0(
    schedule: Schedule, x_t: Float[ArrayLike, "*shape"], noise: Float[ArrayLike, "*shape"], t: Step
) -> Float[Array, "*shape"]:
    """The data that a noise prediction stands for: `add_noise` the other way.

        x̂_0 = (x_t − √(1 − ᾱ_t) ε̂)/√ᾱ_t

    Args:
      schedule: of ᾱ.
      x_t: noisy data.
      noise: ε̂, of the same shape.
      t: in 0 … T, a scalar, or one for each index of the first axes of x.

    Returns:
      x̂_0.

    Raises:
      AssertionError: the shapes differ.
      TypeError: x_t is not floating, or t not integer.
      ValueError: the axes of t do not begin those of x.

    Source:
      Ho, Jain & Abbeel (2020), Denoising Diffusion Probabilistic Models, eq. 15.

    >>> predict_x0(Schedule(jnp.log(jnp.array([1.0, 0.64]))), jnp.full(1, 1.4), jnp.ones(1), 1).round(4)
    Array([1.], dtype=float32)
    """
    _numerics.assert_equal_shape(x_t, noise)
    (x_t, noise), dtype = _numerics.upcast(x_t, noise)
    log_alpha_bar = log_alpha_bar_at(schedule, t, x_t)
    return (jnp.exp(-log_alpha_bar / 2) * (x_t - root(-jnp.expm1(log_alpha_bar)) * noise)).astype(dtype)


def velocity(
    schedule: Schedule, x_0: Float[ArrayLike, "*shape"], noise: Float[ArrayLike, "*shape"], t: Step
) -> Float[Array, "*shape"]:
    """The direction in which x_t moves as its angle grows: what a network may predict in place of the noise.

        v = √ᾱ_t ε − √(1 − ᾱ_t) x_0

    Args:
      schedule: of ᾱ.
      x_0: data.
      noise: ε, of the same shape.
      t: in 0 … T, a scalar, or one for each index of the first axes of x.

    Returns:
      v.

    Raises:
      AssertionError: the shapes differ.
      TypeError: x_0 is not floating, or t not integer.
      ValueError: the axes of t do not begin those of x.

    Source:
      Salimans & Ho (2022), Progressive Distillation for Fast Sampling of Diffusion Models, section 4 and appendix D.

    >>> velocity(Schedule(jnp.log(jnp.array([1.0, 0.64]))), jnp.ones(1), jnp.full(1, 2.0), 1).round(1)
    Array([1.], dtype=float32)
    """
    _numerics.assert_equal_shape(x_0, noise)
    (x_0, noise), dtype = _numerics.upcast(x_0, noise)
    log_alpha_bar = log_alpha_bar_at(schedule, t, x_0)
    return (jnp.exp(log_alpha_bar / 2) * noise - root(-jnp.expm1(log_alpha_bar)) * x_0).astype(dtype)


def noise_of_velocity(
    schedule: Schedule, x_t: Float[ArrayLike, "*shape"], predicted_velocity: Float[ArrayLike, "*shape"], t: Step
) -> Float[Array, "*shape"]:
    """The noise prediction that a velocity prediction stands for.

        ε̂ = √(1 − ᾱ_t) x_t + √ᾱ_t v̂

    An error of v̂ shrinks with √ᾱ_t, by which `predict_x0` divides, so that a network's errors stay bounded where
    hardly any data are left. Rounding errors do not: there x̂_0 = √ᾱ_t x_t − √(1 − ᾱ_t) v̂ is the form to take.

    Args:
      schedule: of ᾱ.
      x_t: noisy data.
      predicted_velocity: v̂, of the same shape.
      t: in 0 … T, a scalar, or one for each index of the first axes of x.

    Returns:
      ε̂.

    Raises:
      AssertionError: the shapes differ.
      TypeError: x_t is not floating, or t not integer.
      ValueError: the axes of t do not begin those of x.

    Source:
      Salimans & Ho (2022), Progressive Distillation for Fast Sampling of Diffusion Models, appendix D.

    >>> noise_of_velocity(Schedule(jnp.log(jnp.array([1.0, 0.64]))), jnp.full(1, 2.0), jnp.ones(1), 1).round(1)
    Array([2.], dtype=float32)
    """
    _numerics.assert_equal_shape(x_t, predicted_velocity)
    (x_t, predicted), dtype = _numerics.upcast(x_t, predicted_velocity)
    log_alpha_bar = log_alpha_bar_at(schedule, t, x_t)
    return (root(-jnp.expm1(log_alpha_bar)) * x_t + jnp.exp(log_alpha_bar / 2) * predicted).astype(dtype)


def posterior(
    schedule: Schedule,
    x_0: Float[ArrayLike, "*shape"],
    x_t: Float[ArrayLike, "*shape"],
    t: Step,
    *,
    t_prev: Step | None = None,
) -> tuple[Float[Array, "*shape"], Float[Array, "..."]]:
    """The step back where the data are known: q(x_s | x_t, x_0) for s < t.

        mean     √ᾱ_s β/(1 − ᾱ_t) x_0 + √α (1 − ᾱ_s)/(1 − ᾱ_t) x_t
        variance β̃ = (1 − ᾱ_s)/(1 − ᾱ_t) β,      α = ᾱ_t/ᾱ_s,  β = 1 − α

    Args:
      schedule: of ᾱ.
      x_0: data.
      x_t: noisy data, of the same shape.
      t: in 1 … T, a scalar, or one for each index of the first axes of x.
      t_prev: s, in 0 … t − 1, of the shape of t; None is t − 1.

    Returns:
      The mean, in the dtype of x_0, and the variance, which is 0 for s = 0: a scalar, or with an axis of one entry for
      each axis that x has beyond those of t.

    Raises:
      AssertionError: the shapes differ.
      TypeError: x_0 is not floating, or t not integer.
      ValueError: the axes of t do not begin those of x.

    Source:
      Ho, Jain & Abbeel (2020), Denoising Diffusion Probabilistic Models, eq. 6 and 7.

    >>> schedule = Schedule(jnp.log(jnp.array([1.0, 0.5, 0.25])))
    >>> mean, variance = posterior(schedule, jnp.ones(1), jnp.zeros(1), 2)
    >>> mean.round(4), variance.round(4)
    (Array([0.4714], dtype=float32), Array(0.3333, dtype=float32))
    """
    _numerics.assert_equal_shape(x_0, x_t)
    (x_0, x_t), dtype = _numerics.upcast(x_0, x_t)
    late, early = two_steps(schedule, x_t, t, t_prev)
    beta, left = -jnp.expm1(late - early), -jnp.expm1(early) / -jnp.expm1(late)
    from_data = jnp.exp(early / 2) * beta / -jnp.expm1(late)
    mean = from_data * x_0 + jnp.exp((late - early) / 2) * left * x_t
    return mean.astype(dtype), (left * beta).astype(dtype)


def noise_prediction_loss(
    predicted_noise: Float[ArrayLike, "*shape"], noise: Float[ArrayLike, "*shape"], *, axis: int | Sequence[int] = -1
) -> Float[Array, "..."]:
    """Mean square error of a noise prediction: the variational bound without its weights.

        L = mean (ε̂ − ε)²

    Args:
      predicted_noise: ε̂.
      noise: ε, of the same shape.
      axis: the axes of an example, over which the mean is taken.

    Returns:
      One loss for each index of the other axes.

    Raises:
      AssertionError: the shapes differ.
      TypeError: predicted_noise is not floating.
      ValueError: an axis does not exist.

    Source:
      Ho, Jain & Abbeel (2020), Denoising Diffusion Probabilistic Models, eq. 14.

    >>> noise_prediction_loss(jnp.array([1.0, 3.0]), jnp.array([0.0, 1.0])).item()
    2.5
    """
    _numerics.assert_equal_shape(predicted_noise, noise)
    (predicted, noise), dtype = _numerics.upcast(predicted_noise, noise)
    return jnp.mean((predicted - noise) ** 2, _numerics.normalize_axes(axis, predicted.ndim)).astype(dtype)


def gaussian_optimal_noise(
    schedule: Schedule,
    x_t: Float[ArrayLike, "*shape"],
    t: Step,
    mean: Float[ArrayLike, ""] | float,
    std: Float[ArrayLike, ""] | float,
) -> Float[Array, "*shape"]:
    """The best noise prediction for data that are Gaussian.

        ε*(x, t) = E[ε | x_t = x] = √(1 − ᾱ_t)(x − √ᾱ_t μ)/v_t,   v_t = ᾱ_t s² + 1 − ᾱ_t

    With it every sampler step is affine and every marginal Gaussian: an exact test of any sampler.

    Args:
      schedule: of ᾱ.
      x_t: noisy data.
      t: in 1 … T, a scalar, or one for each index of the first axes of x.
      mean: μ of the data.
      std: s of the data, at least 0.

    Returns:
      ε*.

    Raises:
      TypeError: x_t is not floating, or t not integer.
      ValueError: the axes of t do not begin those of x, or mean or std is no scalar.

    Source:
      Bishop (2006), Pattern Recognition and Machine Learning, eq. 2.116.

    >>> gaussian_optimal_noise(Schedule(jnp.log(jnp.array([1.0, 0.64]))), jnp.full(1, 1.8), 1, 0.8, 1.0).round(2)
    Array([0.7], dtype=float32)
    """
    (x_t,), dtype = _numerics.upcast(x_t)
    for name, value in {"mean": mean, "std": std}.items():
        _numerics.assert_scalar(name, value)
    mean, std = jnp.asarray(mean, x_t.dtype), jnp.asarray(std, x_t.dtype)
    log_alpha_bar = log_alpha_bar_at(schedule, t, x_t)
    noise_variance = -jnp.expm1(log_alpha_bar)
    variance = jnp.exp(log_alpha_bar) * std**2 + noise_variance
    return (root(noise_variance) * (x_t - jnp.exp(log_alpha_bar / 2) * mean) / variance).astype(dtype)


def gaussian_reverse_variance(
    schedule: Schedule, t: Step, t_prev: Step, std: Float[ArrayLike, ""] | float
) -> Float[Array, "*batch"]:
    """The exact variance of a step back, for data that are Gaussian.

        Var[x_s | x_t] = (1 − ᾱ_t/ᾱ_s) v_s/v_t,   v = ᾱ s² + 1 − ᾱ

    It is β for s² = 1 and the posterior's β̃ for s = 0.

    Args:
      schedule: of ᾱ.
      t: in 1 … T.
      t_prev: s, in 0 … t − 1, of the same shape.
      std: standard deviation s of the data.

    Returns:
      The variances.

    Raises:
      TypeError: t is not integer.
      ValueError: std is no scalar.

    Source:
      Bishop (2006), Pattern Recognition and Machine Learning, eq. 2.117.

    >>> gaussian_reverse_variance(Schedule(jnp.log(jnp.array([1.0, 0.5, 0.25]))), 2, 1, 1.0).item()
    0.5
    """
    _numerics.assert_scalar("std", std)
    like = jnp.zeros(jnp.shape(t), schedule.log_alpha_bar.dtype)
    late, early = two_steps(schedule, like, t, t_prev)
    variance = jnp.asarray(std, like.dtype) ** 2
    total_late, total_early = (jnp.exp(a) * variance - jnp.expm1(a) for a in (late, early))
    return -jnp.expm1(late - early) * total_early / total_late
