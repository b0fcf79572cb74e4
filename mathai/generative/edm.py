"""The sampler of Karras et al.: Heun's method in noise levels, for data with noise added and nothing shrunk."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from mathai.generative.samplers import DenoiseFn, PRNGKey
from mathai.nn import _numerics

__all__ = ["edm_noise_levels", "edm_sample"]


def edm_noise_levels(
    num_steps: int, *, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0
) -> Float[Array, "levels"]:
    """Noise levels that are dense where they are small, then 0.

        σᵢ = (σ_max^{1/ρ} + i/(N − 1) (σ_min^{1/ρ} − σ_max^{1/ρ}))^ρ,   i = 0 … N − 1

    Args:
      num_steps: N, at least 2.
      sigma_min: the last level before 0.
      sigma_max: the first.
      rho: ρ; 1 is evenly spaced.

    Returns:
      N + 1 falling levels.

    Raises:
      ValueError: num_steps is below 2, ρ is not positive, or the levels are not 0 < σ_min < σ_max.

    Source:
      Karras, Aittala, Aila & Laine (2022), Elucidating the Design Space of Diffusion-Based Generative Models, eq. 5.

    >>> edm_noise_levels(3, sigma_min=1.0, sigma_max=4.0, rho=1.0)
    Array([4. , 2.5, 1. , 0. ], dtype=float32)
    """
    if num_steps < 2 or not 0 < sigma_min < sigma_max or not rho > 0:
        raise ValueError(
            f"num_steps is {num_steps}, rho is {rho}, and the levels go from {sigma_max} to {sigma_min}; "
            "there must be at least two, which fall and are positive, and rho too"
        )
    roots = np.linspace(sigma_max ** (1 / rho), sigma_min ** (1 / rho), num_steps)
    return jnp.asarray(np.append(roots**rho, 0.0))


def edm_sample(
    key: PRNGKey, denoise_fn: DenoiseFn, shape: Sequence[int], noise_levels: Float[ArrayLike, "levels"]
) -> Float[Array, "..."]:
    """Heun's method on the probability flow of data with noise added and nothing shrunk.

        y = x_0 + σ ε,   dy/dσ = ε̂(y, σ),   from y ∼ N(0, σ₀² I) down to σ = 0

    Args:
      key: of the start; all else is deterministic.
      denoise_fn: (y, σ) → ε̂ = (y − E[x_0 | y])/σ, with y of `shape` and a scalar σ.
      shape: of the samples, all of them.
      noise_levels: falling σ, of which the last may be 0, as `edm_noise_levels` gives them.

    Returns:
      Samples of `shape`, in the dtype of the levels.

    Raises:
      AssertionError: a prediction has another shape than y.
      TypeError: the levels are not floating.

    Source:
      Karras, Aittala, Aila & Laine (2022), Elucidating the Design Space of Diffusion-Based Generative Models,
      algorithm 1.

    >>> edm_sample(jax.random.key(0), lambda y, sigma: y / sigma, (2,), edm_noise_levels(5)).shape  # data are all 0
    (2,)
    """
    (levels,), dtype = _numerics.upcast(noise_levels)

    def slope_at(y, sigma):
        slope = jnp.asarray(denoise_fn(y.astype(dtype), sigma.astype(dtype)), y.dtype)
        _numerics.assert_equal_shape(slope, y)
        return slope

    start = levels[0] * jax.random.normal(key, tuple(shape), levels.dtype)

    def step(y, pair):
        late, early = pair
        slope = slope_at(y, late)
        euler = y + (early - late) * slope

        def corrected():
            return y + (early - late) * (slope + slope_at(euler, early)) / 2

        return jax.lax.cond(early == 0, lambda: euler, corrected), None

    return jax.lax.scan(step, start, (levels[:-1], levels[1:]))[0].astype(dtype)
