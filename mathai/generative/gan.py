"""Generative adversarial networks: the losses of both players on logits, and the optimum."""

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from mathai.nn import _numerics, activations

__all__ = ["discriminator_loss", "generator_loss", "minimax_value", "optimal_discriminator_logit"]


def discriminator_loss(
    real_logits: Float[ArrayLike, "*batch"], fake_logits: Float[ArrayLike, "*batch"]
) -> Float[Array, "*batch"]:
    """What the discriminator minimizes: the cross-entropy of telling real from made.

        L_D = −log D(x) − log(1 − D(x̃)) = softplus(−l) + softplus(l̃),   D = σ(l)

    Finite with finite gradients at every finite logit.

    Args:
      real_logits: l, of data.
      fake_logits: l̃, of as many samples.

    Returns:
      One loss per pair, unreduced.

    Raises:
      AssertionError: the shapes differ.
      TypeError: real_logits is not floating.

    Source:
      Goodfellow et al. (2014), Generative Adversarial Nets, algorithm 1.

    >>> discriminator_loss(jnp.zeros(1), jnp.zeros(1))
    Array([1.3862944], dtype=float32)
    """
    _numerics.assert_equal_shape(real_logits, fake_logits)
    (real, fake), dtype = _numerics.upcast(real_logits, fake_logits)
    return (activations.softplus(-real) + activations.softplus(fake)).astype(dtype)


def generator_loss(
    fake_logits: Float[ArrayLike, "*batch"], *, variant: str = "non_saturating"
) -> Float[Array, "*batch"]:
    """What the generator minimizes.

        non-saturating  L_G = −log D(x̃) = softplus(−l̃)
        minimax         L_G = log(1 − D(x̃)) = −softplus(l̃)

    The second has no gradient where the discriminator is sure; both have the same fixed point.

    Args:
      fake_logits: l̃, of samples.
      variant: "non_saturating" or "minimax".

    Returns:
      One loss per sample, unreduced.

    Raises:
      TypeError: fake_logits is not floating.
      ValueError: the variant is unknown.

    Source:
      Goodfellow et al. (2014), Generative Adversarial Nets, eq. 1 and section 3.

    >>> generator_loss(jnp.zeros(1))
    Array([0.6931472], dtype=float32)
    """
    if variant == "non_saturating":
        return activations.softplus(-jnp.asarray(fake_logits))
    if variant == "minimax":
        return -activations.softplus(jnp.asarray(fake_logits))
    raise ValueError(f"variant {variant!r} is unknown; use 'non_saturating' or 'minimax'")


def minimax_value(
    real_logits: Float[ArrayLike, "*batch"], fake_logits: Float[ArrayLike, "*batch"]
) -> Float[Array, "*batch"]:
    """The value of the game, which the discriminator raises and the generator lowers.

        V(D, G) = log D(x) + log(1 − D(x̃))

    Against the best discriminator its mean is −log 4 + 2 JSD(p‖q), and −log 4 once the samples have the data's law.

    Args:
      real_logits: l, of data; D = σ(l).
      fake_logits: l̃, of as many samples.

    Returns:
      One value per pair, unreduced.

    Raises:
      AssertionError: the shapes differ.
      TypeError: real_logits is not floating.

    Source:
      Goodfellow et al. (2014), Generative Adversarial Nets, eq. 1 and theorem 1.

    >>> minimax_value(jnp.zeros(1), jnp.zeros(1))
    Array([-1.3862944], dtype=float32)
    """
    return -discriminator_loss(real_logits, fake_logits)


def optimal_discriminator_logit(
    log_p: Float[ArrayLike, "*batch"], log_q: Float[ArrayLike, "*batch"]
) -> Float[Array, "*batch"]:
    """Logit of the best discriminator between densities p (data) and q (samples).

        D* = p/(p + q),   logit D* = log p − log q

    Where neither density is positive no sample falls, and the logit is 0 with gradients 0.

    Args:
      log_p: log p(x).
      log_q: log q(x), of the same shape.

    Returns:
      The logits.

    Raises:
      AssertionError: the shapes differ.
      TypeError: log_p is not floating.

    Source:
      Goodfellow et al. (2014), Generative Adversarial Nets, proposition 1.

    >>> optimal_discriminator_logit(jnp.zeros(1), jnp.full(1, -2.0))
    Array([2.], dtype=float32)
    """
    _numerics.assert_equal_shape(log_p, log_q)
    (log_p, log_q), dtype = _numerics.upcast(log_p, log_q)
    neither = jnp.isneginf(log_p) & jnp.isneginf(log_q)
    return jnp.where(neither, 0, jnp.where(neither, 0, log_p) - jnp.where(neither, 0, log_q)).astype(dtype)
