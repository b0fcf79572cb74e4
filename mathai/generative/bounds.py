"""The variational bound of diffusion, term by term, and the likelihood of discrete values."""

import jax.numpy as jnp
import numpy as np
from jax.scipy.special import log_ndtr
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from mathai.generative._steps import Step, log_alpha_bar_at, two_steps
from mathai.generative.schedules import Schedule
from mathai.nn import _numerics

__all__ = ["discretized_gaussian_log_likelihood", "prior_kl", "step_kl"]

# Of Gauss and Legendre on [−1, 1]; exact to 1e-13 for e^u, |u| ≤ 1.
NODES, WEIGHTS = np.polynomial.legendre.leggauss(8)


def step_kl(
    schedule: Schedule,
    predicted_noise: Float[ArrayLike, "*shape"],
    noise: Float[ArrayLike, "*shape"],
    t: Step,
    *,
    t_prev: Step | None = None,
    variance: Float[ArrayLike, "..."] | None = None,
) -> Float[Array, "*shape"]:
    """A step's term of the variational bound, elementwise.

        KL(q(x_s | x_t, x_0) ‖ N(mean(x̂_0), ν)) = ½ (r − 1 − log r + r (SNR_s/SNR_t − 1)(ε̂ − ε)²)

        r = β̃/ν,   SNR = ᾱ/(1 − ᾱ)

    Infinite for s = 0, where β̃ = 0: there the bound has log p(x_0 | x_1) in its place.

    Args:
      schedule: of ᾱ.
      predicted_noise: ε̂(x_t, t).
      noise: ε, of the same shape, with which x_t was made.
      t: in 1 … T, a scalar, or one for each index of the first axes.
      t_prev: s, in 1 … t − 1; None is t − 1.
      variance: ν > 0, of the step back, a scalar or with as many axes as the noise; None is β̃, so that r = 1.

    Returns:
      Nats, to be summed over the axes of an example.

    Raises:
      AssertionError: the shapes differ.
      TypeError: predicted_noise is not floating, or t not integer.
      ValueError: the axes of t do not begin those of the noise.

    Source:
      Kingma, Salimans, Poole & Ho (2021), Variational Diffusion Models, eq. 13 and 14.

    >>> schedule = Schedule(jnp.log(jnp.array([1.0, 0.5, 0.25])))
    >>> step_kl(schedule, jnp.ones(1), jnp.zeros(1), 2).round(4)  # SNR₁ = 1, SNR₂ = 1/3
    Array([1.], dtype=float32)
    """
    _numerics.assert_equal_shape(predicted_noise, noise)
    (predicted, noise), dtype = _numerics.upcast(predicted_noise, noise)
    late, early = two_steps(schedule, noise, t, t_prev)
    # SNR_s/SNR_t − 1 = (1 − ᾱ_t/ᾱ_s)/((1 − ᾱ_s) ᾱ_t/ᾱ_s), in which nothing cancels
    is_last = early == 0
    noise_early = jnp.where(is_last, 1, -jnp.expm1(early))
    squares = -jnp.expm1(late - early) / (noise_early * jnp.exp(late - early)) * (predicted - noise) ** 2
    kl = squares
    if variance is not None:
        of_posterior = noise_early / -jnp.expm1(late) * -jnp.expm1(late - early)
        r = of_posterior / jnp.asarray(variance, of_posterior.dtype)
        kl = r - 1 - jnp.log(r) + r * squares
    return jnp.where(is_last, jnp.inf, 0.5 * kl).astype(dtype)


def prior_kl(schedule: Schedule, x_0: Float[ArrayLike, "*shape"]) -> Float[Array, "*shape"]:
    """The variational bound's last term, elementwise: what the end of the process still tells about the data.

        KL(q(x_T | x_0) ‖ N(0, I)) = ½ (ᾱ_T x_0² − ᾱ_T − log(1 − ᾱ_T))

    Args:
      schedule: of ᾱ.
      x_0: data.

    Returns:
      Nats, to be summed over the axes of an example.

    Raises:
      TypeError: x_0 is not floating.

    Source:
      Ho, Jain & Abbeel (2020), Denoising Diffusion Probabilistic Models, eq. 5, L_T.

    >>> prior_kl(Schedule(jnp.array([0.0, -jnp.inf])), jnp.ones(1))
    Array([0.], dtype=float32)
    """
    (x_0,), dtype = _numerics.upcast(x_0)
    log_alpha_bar = log_alpha_bar_at(schedule, schedule.num_steps, x_0)
    alpha_bar = jnp.exp(log_alpha_bar)
    # −a − log(1 − a) = a²/2 + a³/3 + …, whose two terms cancel where a is small
    is_small = alpha_bar < 0.25
    small, series = jnp.where(is_small, alpha_bar, 0), jnp.zeros_like(alpha_bar)
    for k in range(24, 1, -1):
        series = 1 / k + small * series
    rest = jnp.where(is_small, small**2 * series, -alpha_bar - jnp.log(-jnp.expm1(log_alpha_bar)))
    return (0.5 * (alpha_bar * x_0**2 + rest)).astype(dtype)


def discretized_gaussian_log_likelihood(
    x: Float[ArrayLike, "*shape"],
    mean: Float[ArrayLike, "*shape"],
    log_variance: Float[ArrayLike, "..."],
    *,
    bin_width: Float[ArrayLike, ""] | float,
    minimum: Float[ArrayLike, ""] | float = -1.0,
    maximum: Float[ArrayLike, ""] | float = 1.0,
) -> Float[Array, "*shape"]:
    """Log probability that a Gaussian falls into the bin of a discrete value, elementwise.

        log p(x) = log(Φ(b) − Φ(a)),   a, b = (x ∓ w/2 − μ)/e^{λ/2}

    The first bin begins at −∞ and the last ends at ∞, so that the bins' probabilities add up to 1. Exact in the tails,
    where differences of Φ are 0: the difference is taken of logarithms, on the side where Φ is small.

    Args:
      x: discrete values, from `minimum` to `maximum` in steps of w.
      mean: μ, of the same shape.
      log_variance: λ, finite, a scalar or of the same shape.
      bin_width: w > 0.
      minimum: the first value.
      maximum: the last one.

    Returns:
      Nats, to be summed over the axes of an example.

    Raises:
      AssertionError: the shapes differ.
      TypeError: x is not floating.

    Source:
      Ho, Jain & Abbeel (2020), Denoising Diffusion Probabilistic Models, eq. 13.

    >>> discretized_gaussian_log_likelihood(jnp.array([-1.0, 1.0]), jnp.zeros(2), 0.0, bin_width=2.0).round(4)
    Array([-0.6931, -0.6931], dtype=float32)
    """
    _numerics.assert_equal_shape(x, mean)
    if jnp.ndim(log_variance):
        _numerics.assert_equal_shape(x, log_variance)
    (x, mean, log_variance), dtype = _numerics.upcast(x, mean, log_variance)
    half, scale = jnp.asarray(bin_width, x.dtype) / 2, jnp.broadcast_to(jnp.exp(-log_variance / 2), x.shape)
    # By symmetry the mean is on the right, where both Φ are at most about ½ and logarithms keep their digits.
    above = x > mean
    center = jnp.where(above, mean - x, x - mean) * scale
    is_first, is_last = x < jnp.asarray(minimum, x.dtype) + half, x > jnp.asarray(maximum, x.dtype) - half
    is_open_below, is_open_above = jnp.where(above, is_last, is_first), jnp.where(above, is_first, is_last)
    half = half * scale
    is_narrow = ~is_first & ~is_last & (half * jnp.maximum(jnp.abs(center), 1) < 1)
    narrow = _log_of_narrow_bin(jnp.where(is_narrow, center, 0), jnp.where(is_narrow, half, 1))
    high = jnp.where(is_open_above | is_narrow, 0, log_ndtr(center + half))
    gap = log_ndtr(center - half) - high  # log Φ(a)/Φ(b) < 0
    wide = high + jnp.where(is_open_below, 0, _log_complement(jnp.where(is_open_below | is_narrow, -1, gap)))
    return jnp.where(is_narrow, narrow, wide).astype(dtype)


def _log_complement(x: Array) -> Array:
    """Log(1 − eˣ) for x < 0, by the form that keeps its digits for x near 0 and by the one for x far from it."""
    is_near = x > -np.log(2)
    near = jnp.log(-jnp.expm1(jnp.where(is_near, x, -1)))
    return jnp.where(is_near, near, jnp.log1p(-jnp.exp(jnp.where(is_near, -1, x))))


def _log_of_narrow_bin(center: Array, half: Array) -> Array:
    """Log of ∫ φ(c + u) du over |u| ≤ h = log φ(c) h + log ∫ exp(−c h u − h² u²/2) du over |u| ≤ 1, by quadrature."""
    terms = [w * jnp.exp(-center * half * u - (half * u) ** 2 / 2) for u, w in zip(NODES, WEIGHTS, strict=True)]
    return jnp.log(sum(terms)) + jnp.log(half) - center**2 / 2 - np.log(2 * np.pi) / 2
