"""Variational autoencoders: reparameterization, divergence, likelihoods and the bounds that they make."""

import math

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Key, UInt32

from mathai.nn import _numerics, losses

__all__ = [
    "bernoulli_log_likelihood",
    "gaussian_kl",
    "gaussian_log_likelihood",
    "importance_weighted_bound",
    "negative_elbo",
    "reparameterize",
]

PRNGKey = Key[Array, ""] | UInt32[Array, "..."]


def reparameterize(
    key: PRNGKey, mean: Float[ArrayLike, "*shape"], log_variance: Float[ArrayLike, "*shape"]
) -> Float[Array, "*shape"]:
    """A draw from N(μ, e^λ) that is differentiable in μ and λ.

        z = μ + e^{λ/2} ε,   ε ∼ N(0, 1)

    Args:
      key: of ε.
      mean: μ, any shape.
      log_variance: λ, the same shape; −∞ gives z = μ.

    Returns:
      z, in the dtype of the mean.

    Raises:
      AssertionError: the shapes differ.
      TypeError: the mean is not floating.

    Source:
      Kingma & Welling (2014), Auto-Encoding Variational Bayes, section 2.4.

    >>> reparameterize(jax.random.key(0), jnp.ones(2), jnp.full(2, -jnp.inf))
    Array([1., 1.], dtype=float32)
    """
    _numerics.assert_equal_shape(mean, log_variance)
    (mean, log_variance), dtype = _numerics.upcast(mean, log_variance)
    return (mean + jnp.exp(log_variance / 2) * jax.random.normal(key, mean.shape, mean.dtype)).astype(dtype)


def gaussian_kl(
    mean: Float[ArrayLike, "*batch features"], log_variance: Float[ArrayLike, "*batch features"]
) -> Float[Array, "*batch"]:
    """Divergence of a diagonal Gaussian from the standard one.

        KL(N(μ, e^λ) ‖ N(0, 1)) = ½ Σ (μ² + e^λ − 1 − λ)

    e^λ − 1 − λ has full relative precision near λ = 0, where the difference of its terms would have none.

    Args:
      mean: μ, [..., features].
      log_variance: λ, the same shape.

    Returns:
      Nats, summed over the last axis.

    Raises:
      AssertionError: the shapes differ.
      TypeError: the mean is not floating.

    Source:
      Kingma & Welling (2014), Auto-Encoding Variational Bayes, appendix B.

    >>> gaussian_kl(jnp.array([1.0, 2.0]), jnp.zeros(2)).item()
    2.5
    """
    _numerics.assert_equal_shape(mean, log_variance)
    (mean, log_variance), dtype = _numerics.upcast(mean, log_variance)
    return (0.5 * jnp.sum(mean**2 + _excess_exponential(log_variance), -1)).astype(dtype)


@jax.custom_jvp
def _excess_exponential(x: Array) -> Array:
    """eˣ − 1 − x; by its series Σ xᵏ/k!, k ≥ 2, where the terms cancel."""
    is_small = jnp.abs(x) < 0.5
    small = jnp.where(is_small, x, 0)
    series = jnp.zeros_like(x)
    for k in range(15, 1, -1):
        series = (series + 1) * (small / k)  # ends as x/2 (1 + x/3 (1 + …))
    return jnp.where(is_small, series * small, jnp.where(x == jnp.inf, jnp.inf, jnp.expm1(x) - x))


@_excess_exponential.defjvp
def _excess_exponential_jvp(primals, tangents):
    (x,), (dx,) = primals, tangents
    return _excess_exponential(x), jnp.expm1(x) * dx


def gaussian_log_likelihood(
    x: Float[ArrayLike, "*batch features"],
    mean: Float[ArrayLike, "*batch features"],
    log_variance: Float[ArrayLike, "..."],
) -> Float[Array, "*batch"]:
    """Log density of a diagonal Gaussian.

        log N(x; μ, e^λ) = −½ Σ ((x − μ)² e^{−λ} + λ + log 2π)

    Args:
      x: where, [..., features].
      mean: μ, the same shape.
      log_variance: λ, finite: the same shape, or one for all.

    Returns:
      Nats, summed over the last axis.

    Raises:
      AssertionError: the shapes differ.
      TypeError: x is not floating.

    Source:
      Kingma & Welling (2014), Auto-Encoding Variational Bayes, appendix C.2.

    >>> gaussian_log_likelihood(jnp.zeros(2), jnp.zeros(2), 0.0).item()
    -1.8378770351409912
    """
    _numerics.assert_equal_shape(x, mean)
    if jnp.ndim(log_variance):
        _numerics.assert_equal_shape(x, log_variance)
    (x, mean, log_variance), dtype = _numerics.upcast(x, mean, log_variance)
    log_variance = jnp.broadcast_to(log_variance, x.shape)
    scaled = (x - mean) * jnp.exp(-log_variance / 2)
    return (-0.5 * jnp.sum(scaled**2 + log_variance + math.log(2 * math.pi), -1)).astype(dtype)


def bernoulli_log_likelihood(
    logits: Float[ArrayLike, "*batch features"], x: Float[ArrayLike, "*batch features"]
) -> Float[Array, "*batch"]:
    """Log probability of binary values, on logits.

        log p(x) = Σ (x log σ(z) + (1 − x) log(1 − σ(z))) = Σ (x z − softplus(z))

    Args:
      logits: z, [..., features].
      x: 0 or 1, or between: then it is no likelihood, but a cross-entropy with its sign reversed.

    Returns:
      Nats, summed over the last axis.

    Raises:
      AssertionError: the shapes differ.
      TypeError: the logits are not floating.

    Source:
      Kingma & Welling (2014), Auto-Encoding Variational Bayes, appendix C.1.

    >>> bernoulli_log_likelihood(jnp.zeros(2), jnp.array([0.0, 1.0])).item()
    -1.3862943649291992
    """
    (logits, x), dtype = _numerics.upcast(logits, x)
    return -jnp.sum(losses.binary_cross_entropy(logits, x), -1).astype(dtype)


def negative_elbo(
    log_likelihood: Float[ArrayLike, "*batch"],
    kl: Float[ArrayLike, "*batch"],
    *,
    beta: Float[ArrayLike, ""] | float = 1.0,
) -> Float[Array, "*batch"]:
    """What a variational autoencoder minimizes: an upper bound of −log p(x) where β = 1.

        −ELBO = −E_q[log p(x|z)] + β KL(q(z|x) ‖ p(z))

    Args:
      log_likelihood: log p(x|z) of one draw of z, or a mean of several.
      kl: the divergence, of the same shape.
      beta: β.

    Returns:
      Nats, unreduced.

    Raises:
      AssertionError: the shapes differ.
      TypeError: log_likelihood is not floating.
      ValueError: beta is no scalar.

    Source:
      Kingma & Welling (2014), Auto-Encoding Variational Bayes, eq. 3; β: Higgins et al. (2017), β-VAE, eq. 4.

    >>> negative_elbo(jnp.array([-3.0]), jnp.array([2.0]), beta=0.5)
    Array([4.], dtype=float32)
    """
    _numerics.assert_equal_shape(log_likelihood, kl)
    _numerics.assert_scalar("beta", beta)
    (log_likelihood, kl), dtype = _numerics.upcast(log_likelihood, kl)
    return (jnp.asarray(beta, kl.dtype) * kl - log_likelihood).astype(dtype)


def importance_weighted_bound(log_weights: Float[ArrayLike, "*shape"], *, axis: int = 0) -> Float[Array, "*rest"]:
    """A lower bound of log p(x) from K draws, tighter the more there are.

        L_K = log (1/K) Σₖ wₖ,   wₖ = p(x, zₖ)/q(zₖ|x),   zₖ ∼ q(·|x)

    L₁ is the ELBO of one draw, and E L_K grows with K to log p(x). Weights that are all 0 give −∞, with gradients 0.

    Args:
      log_weights: log wₖ.
      axis: the axis of the draws.

    Returns:
      Nats, without that axis.

    Raises:
      TypeError: log_weights is not floating.
      ValueError: the axis does not exist or is empty.

    Source:
      Burda, Grosse & Salakhutdinov (2016), Importance Weighted Autoencoders, eq. 8.

    >>> importance_weighted_bound(jnp.log(jnp.array([1.0, 3.0]))).round(4).item()
    0.6930999755859375
    """
    (log_weights,), dtype = _numerics.upcast(log_weights)
    axis = _numerics.normalize_axis(axis, log_weights.ndim)
    num_draws = log_weights.shape[axis]
    if not num_draws:
        raise ValueError("importance_weighted_bound needs at least one draw")
    largest = jax.lax.stop_gradient(jnp.max(log_weights, axis, keepdims=True))
    largest = jnp.where(jnp.isfinite(largest), largest, 0)
    total = jnp.sum(jnp.exp(log_weights - largest), axis)
    bound = jnp.log(jnp.where(total == 0, 1, total)) + jnp.squeeze(largest, axis) - math.log(num_draws)
    return jnp.where(total == 0, -jnp.inf, bound).astype(dtype)
