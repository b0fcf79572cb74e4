"""The curve of distances in an embedding of fuzzy neighbourhoods: 1 / (1 + a d²ᵇ)."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from mathai.reduction._arrays import promote

NUM_POINTS = 300  # on [0, 3 spread]
NUM_STEPS = 60  # of the damped Gauss–Newton method; 10 are usual


@jax.jit
def fit(spread: Float[Array, ""], min_dist: Float[Array, ""]) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The a and b whose curve is nearest, in squares, to 1 up to min_dist and exp(−(d − min_dist)/spread) beyond.

    The logarithms of a and b move, so that both stay positive. A step that would not improve is not made; its damping
    grows.
    """
    d = jnp.linspace(0, 3, NUM_POINTS, dtype=spread.dtype) * spread
    target = jnp.where(d < min_dist, 1, jnp.exp(-(d - min_dist) / spread))
    log_d = jnp.log(jnp.where(d > 0, d, 1))

    def curve(parameters):
        log_a, log_b = parameters
        power = jnp.where(d > 0, jnp.exp(log_a + 2 * jnp.exp(log_b) * log_d), 0)
        value = 1 / (1 + power)
        slope = -power * value * value  # in log a
        return value - target, jnp.stack([slope, slope * 2 * jnp.exp(log_b) * log_d], axis=1)

    def step(_, state):
        parameters, damping = state
        gap, jacobian = curve(parameters)
        gram = jacobian.T @ jacobian
        change = _solve_2(gram + damping * jnp.diag(jnp.diag(gram) + 1e-12), jacobian.T @ gap)
        proposal = parameters - jnp.clip(change, -2, 2)
        is_better = jnp.sum(curve(proposal)[0] ** 2) <= jnp.sum(gap**2)
        damping = jnp.clip(jnp.where(is_better, damping / 10, damping * 10), 1e-9, 1e9)
        return jnp.where(is_better, proposal, parameters), damping

    start = (jnp.zeros(2, spread.dtype), jnp.asarray(1e-3, spread.dtype))
    a, b = jnp.exp(jax.lax.fori_loop(0, NUM_STEPS, step, start)[0])
    return a, b


def check_and_fit(name: str, spread: ArrayLike, min_dist: ArrayLike) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """`fit` of numbers of any kind; what is known and out of range is an error."""
    chex.assert_rank([spread, min_dist], 0)
    if not isinstance(spread, jax.core.Tracer) and not 0 < np.asarray(spread) < np.inf:
        raise ValueError(f"{name}: spread is {spread}; it must be above 0.")
    if not isinstance(min_dist, jax.core.Tracer) and not 0 <= np.asarray(min_dist) < np.inf:
        raise ValueError(f"{name}: min_dist is {min_dist}; it must be at least 0.")
    both_known = not isinstance(spread, jax.core.Tracer) and not isinstance(min_dist, jax.core.Tracer)
    if both_known and np.asarray(min_dist) > np.asarray(spread):
        raise ValueError(f"{name}: min_dist is {min_dist} and spread {spread}; min_dist must not be above spread.")
    return fit(*promote(spread, min_dist)[0])


def _solve_2(A, y):
    """A⁻¹ y of a 2 × 2 matrix."""
    determinant = A[0, 0] * A[1, 1] - A[0, 1] * A[1, 0]
    return jnp.stack([A[1, 1] * y[0] - A[0, 1] * y[1], A[0, 0] * y[1] - A[1, 0] * y[0]]) / determinant
