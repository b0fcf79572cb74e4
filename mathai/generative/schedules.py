"""Noise schedules of diffusion in log space."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from mathai.nn import _numerics

__all__ = ["Schedule", "cosine_schedule", "linear_schedule"]


class Schedule(NamedTuple):
    """How much of the data is left at each step.

        q(x_t | x_0) = N(√ᾱ_t x_0, (1 − ᾱ_t) I),   ᾱ_t = ∏_{s ≤ t} (1 − β_s)

    In log space ᾱ has relative errors of 1e-6 in float32 and 1 − ᾱ = −expm1(log ᾱ) of 4e-7, where a cumulative product
    has 2e-4. A difference of neighbours, 1 − ᾱ_t/ᾱ_{t−1}, has up to 4e-5 at the end of 1000 steps. log ᾱ must be
    finite: formulas divide by √ᾱ.

    Attributes:
      log_alpha_bar: log ᾱ_t for t = 0 … T; index 0 is clean data, where it is 0.
    """

    log_alpha_bar: Float[Array, "levels"]

    @property
    def num_steps(self) -> int:
        """T."""
        return self.log_alpha_bar.shape[-1] - 1


def linear_schedule(
    num_steps: int, *, beta_min: Float[ArrayLike, ""] | float = 1e-4, beta_max: Float[ArrayLike, ""] | float = 0.02
) -> Schedule:
    """β that grows linearly.

        β_t = β_min + (t − 1)/(T − 1) (β_max − β_min),   t = 1 … T

    Args:
      num_steps: T.
      beta_min: β₁.
      beta_max: β_T, below 1.

    Returns:
      The schedule; float64 with x64 enabled, else float32.

    Raises:
      ValueError: num_steps is not positive, a β is no scalar, or one that is known is not in [0, 1).

    Source:
      Ho, Jain & Abbeel (2020), Denoising Diffusion Probabilistic Models, section 4.

    >>> jnp.exp(linear_schedule(2, beta_min=0.1, beta_max=0.5).log_alpha_bar).round(2)
    Array([1.  , 0.9 , 0.45], dtype=float32)
    """
    _check_num_steps(num_steps)
    for name, beta in {"beta_min": beta_min, "beta_max": beta_max}.items():
        _numerics.assert_scalar(name, beta)
        known = _numerics.static_value(beta)
        if known is not None and not 0 <= known < 1:
            raise ValueError(f"{name} is {known}; it must be in [0, 1)")
    traced = isinstance(beta_min, jax.core.Tracer) or isinstance(beta_max, jax.core.Tracer)
    numbers = jnp if traced else np  # NumPy sums in double precision what is known
    betas = numbers.linspace(beta_min, beta_max, num_steps)
    return Schedule(jnp.pad(jnp.asarray(numbers.cumsum(numbers.log1p(-betas))), (1, 0)))


def cosine_schedule(num_steps: int, *, offset: float = 0.008, max_beta: float = 0.999) -> Schedule:
    """ᾱ that falls as a squared cosine: slowly at both ends.

        ᾱ_t = f(t)/f(0),   f(t) = cos²(π/2 (t/T + s)/(1 + s)),   with β_t = 1 − ᾱ_t/ᾱ_{t−1} clipped to β_max

    Args:
      num_steps: T.
      offset: s, a number that keeps β₁ from being tiny.
      max_beta: β_max < 1, a number that keeps the last ᾱ from being 0.

    Returns:
      The schedule; float64 with x64 enabled, else float32.

    Raises:
      ValueError: num_steps or offset is not positive, or max_beta is not in (0, 1).

    Source:
      Nichol & Dhariwal (2021), Improved Denoising Diffusion Probabilistic Models, eq. 17.

    >>> jnp.exp(cosine_schedule(2, max_beta=0.75).log_alpha_bar[1:]).round(1)
    Array([0.5, 0.1], dtype=float32)
    """
    _check_num_steps(num_steps)
    if not offset > 0:
        raise ValueError(f"offset is {offset}; it must be positive")
    if not 0 < max_beta < 1:
        raise ValueError(f"max_beta is {max_beta}; it must be in (0, 1)")
    # cos²(a) = sin²(π/2 − a), without cancellation near the end
    angles = np.pi / 2 * (np.arange(num_steps, -1, -1) / num_steps) / (1 + offset)
    with np.errstate(divide="ignore"):
        log_f = 2 * np.log(np.sin(angles))
    log_alpha = np.maximum(np.diff(log_f), np.log1p(-max_beta))
    return Schedule(jnp.asarray(np.concatenate([[0.0], np.cumsum(log_alpha)])))


def _check_num_steps(num_steps: int) -> None:
    if num_steps < 1:
        raise ValueError(f"num_steps is {num_steps}; it must be at least 1")
