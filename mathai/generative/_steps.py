"""Where a process stands at a step: what its formulas share."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Integer

from mathai.generative.schedules import Schedule
from mathai.nn import _numerics

Step = Integer[ArrayLike, "*batch"]


def log_alpha_bar_at(schedule: Schedule, t: Step, x: Array) -> Float[Array, "..."]:
    """Log ᾱ_t in the dtype of x, NaN outside 0 … T, with an axis of one entry for each axis that t lacks beside x."""
    t = _numerics.as_classes(t, "t")
    if t.ndim > x.ndim or any(m not in (1, n) for m, n in zip(t.shape, x.shape, strict=False)):
        raise ValueError(f"t of shape {t.shape} must be a scalar or have the first axes of x, whose shape is {x.shape}")
    exists = (t >= 0) & (t <= schedule.num_steps)
    values = jnp.where(exists, jnp.asarray(schedule.log_alpha_bar)[jnp.where(exists, t, 0)], jnp.nan)
    return values.astype(x.dtype).reshape(t.shape + (1,) * (x.ndim - t.ndim if t.ndim else 0))


def two_steps(schedule: Schedule, x: Array, t: Step, t_prev: Step | None) -> tuple[Array, Array]:
    """Log ᾱ at t and at the step before, NaN unless it is before."""
    t = _numerics.as_classes(t, "t")
    t_prev = t - 1 if t_prev is None else _numerics.as_classes(t_prev, "t_prev")
    return log_alpha_bar_at(schedule, t, x), log_alpha_bar_at(schedule, jnp.where(t_prev < t, t_prev, -1), x)


@jax.custom_jvp
def root(x: Array) -> Array:
    """√x, with slope 0 at 0, where a schedule has no noise."""
    return jnp.sqrt(x)


@root.defjvp
def _root_jvp(primals, tangents):
    (x,), (dx,) = primals, tangents
    result = root(x)
    return result, jnp.where(x == 0, 0, dx / (2 * jnp.where(x == 0, 1, result)))
