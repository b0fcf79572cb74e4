"""Activation functions and their closed-form derivatives, accurate in the tails.

`jax.grad` of each function is its derivative function: σ′(40) and tanh′(20) are small numbers, not 0. Inputs are
floating point; bfloat16 and float16 are computed in float32 and rounded once. On a CPU, XLA flushes subnormal results
to 0, so that in float32 a tail ends at 1.2·10⁻³⁸: σ(z) is 0 below z = −87.3.
"""

import math

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from mathai.nn import _numerics
from mathai.nn._softmax import log_softmax, softmax, softmax_jacobian, softmax_jvp

__all__ = [
    "identity",
    "identity_derivative",
    "leaky_relu",
    "leaky_relu_derivative",
    "log_sigmoid",
    "log_softmax",
    "relu",
    "relu_derivative",
    "sigmoid",
    "sigmoid_derivative",
    "softmax",
    "softmax_jacobian",
    "softmax_jvp",
    "softplus",
    "tanh",
    "tanh_derivative",
]


@jax.custom_jvp
def _sigmoid(z: Array) -> Array:
    e = jnp.exp(-jnp.abs(z))
    return jnp.where(z < 0, e, 1) / (1 + e)


@jax.custom_jvp
def _sigmoid_derivative(z: Array) -> Array:
    e = jnp.exp(-jnp.abs(z))
    return e / (1 + e * (2 + e))


@jax.custom_jvp
def _tanh(z: Array) -> Array:
    if z.dtype != jnp.float32:
        return jnp.tanh(z)
    e, _ = _shifted_exponential(z)
    # 1 − e cancels near 0: there the odd series, its coefficients fitted to 10⁻⁸ for |z| ≤ 0.625.
    s = z * z
    series = -0.0537353188493 + s * (0.0206262918229 - 0.00569198566288 * s)
    series = z + z * s * (-0.333332792084 + s * (0.133313813544 + s * series))
    return jnp.where(jnp.abs(z) < 0.625, series, jnp.sign(z) * ((1 - e) / (1 + e)))


@jax.custom_jvp
def _tanh_derivative(z: Array) -> Array:
    e, scale = _shifted_exponential(z)
    return scale * e / jnp.where(scale == 4, 1 + e * (2 + e), 1)


def _shifted_exponential(z: Array) -> tuple[Array, Array]:
    """(e, s) with s·e = 4e^−2|z|. In the far tail, where e^−2|z| would be flushed to 0 before 4e^−2|z|, s is small.

    `_tanh`, which is 1 there, shares the exponential.
    """
    far = jnp.abs(z) > 40
    return jnp.exp(jnp.where(far, 32, 0) - 2 * jnp.abs(z)), jnp.where(far, 4 * math.exp(-32), 4)


@jax.custom_jvp
def _softplus(z: Array) -> Array:
    return jnp.maximum(z, 0) + jnp.log1p(jnp.exp(-jnp.abs(z)))


_sigmoid.defjvps(lambda dz, _, z: _sigmoid_derivative(z) * dz)
_sigmoid_derivative.defjvps(lambda dz, slope, z: -slope * _tanh(0.5 * z) * dz)
_tanh.defjvps(lambda dz, _, z: _tanh_derivative(z) * dz)
_tanh_derivative.defjvps(lambda dz, slope, z: -2 * _tanh(z) * slope * dz)
_softplus.defjvps(lambda dz, _, z: _sigmoid(z) * dz)


def identity(z: Float[ArrayLike, "*shape"]) -> Float[Array, "*shape"]:
    """Identity: the activation of a linear output layer.

        f(z) = z

    Args:
      z: pre-activations, any shape.

    Returns:
      z itself.

    Source:
      Bishop (2006), Pattern Recognition and Machine Learning, section 5.1.

    >>> identity(jnp.array([-1.0, 2.0]))
    Array([-1.,  2.], dtype=float32)
    """
    (z,), dtype = _numerics.upcast(z)
    return z.astype(dtype)


def identity_derivative(z: Float[ArrayLike, "*shape"]) -> Float[Array, "*shape"]:
    """Derivative of the identity.

        f′(z) = 1

    Args:
      z: pre-activations, any shape.

    Returns:
      Ones of z's shape and dtype.

    Source:
      Bishop (2006), Pattern Recognition and Machine Learning, section 5.1.

    >>> identity_derivative(jnp.array([-1.0, 2.0]))
    Array([1., 1.], dtype=float32)
    """
    (z,), dtype = _numerics.upcast(z)
    return jnp.ones_like(z, dtype)


def sigmoid(z: Float[ArrayLike, "*shape"]) -> Float[Array, "*shape"]:
    """Logistic sigmoid: a number in [0, 1], the probability whose log-odds are z.

        σ(z) = 1 / (1 + e⁻ᶻ)

    σ(−∞) = 0, σ(0) = ½, σ(∞) = 1. The gradient is `sigmoid_derivative`, in the tails and in second order too.

    Args:
      z: log-odds, any shape.

    Returns:
      σ(z), in z's dtype.

    Raises:
      TypeError: z is not floating point.

    Source:
      Goodfellow, Bengio & Courville (2016), Deep Learning, eq. 3.30.

    >>> sigmoid(jnp.array([-jnp.inf, 0.0, jnp.inf]))
    Array([0. , 0.5, 1. ], dtype=float32)
    """
    (z,), dtype = _numerics.upcast(z)
    return _sigmoid(z).astype(dtype)


def sigmoid_derivative(z: Float[ArrayLike, "*shape"]) -> Float[Array, "*shape"]:
    """Derivative of the logistic sigmoid; even, ¼ at 0, e^−|z| in the tails, 0 at ±∞.

        σ′(z) = σ(z) (1 − σ(z)) = σ(z) σ(−z)

    Its own derivative is σ″(z) = −σ′(z) tanh(z/2).

    Args:
      z: log-odds, any shape.

    Returns:
      σ′(z), in z's dtype.

    Raises:
      TypeError: z is not floating point.

    Source:
      Goodfellow, Bengio & Courville (2016), Deep Learning, eq. 3.34.

    >>> [f"{slope:.4g}" for slope in sigmoid_derivative(jnp.array([0.0, 40.0]))]
    ['0.25', '4.248e-18']
    """
    # 1 − σ(z) would be 0 from z = 17 on; σ(−z) is not.
    (z,), dtype = _numerics.upcast(z)
    return _sigmoid_derivative(z).astype(dtype)


def softplus(z: Float[ArrayLike, "*shape"]) -> Float[Array, "*shape"]:
    """Softplus: a smooth max(z, 0), and −log(1 − σ(z)).

        ζ(z) = log(1 + eᶻ) = max(z, 0) + log(1 + e^−|z|)

    ζ(−∞) = 0, ζ(∞) = ∞; the gradient is `sigmoid`.

    Args:
      z: any shape.

    Returns:
      ζ(z), in z's dtype.

    Raises:
      TypeError: z is not floating point.

    Source:
      Goodfellow, Bengio & Courville (2016), Deep Learning, eq. 3.31.

    >>> softplus(jnp.array([-jnp.inf, 100.0]))
    Array([  0., 100.], dtype=float32)
    """
    (z,), dtype = _numerics.upcast(z)
    return _softplus(z).astype(dtype)


def log_sigmoid(z: Float[ArrayLike, "*shape"]) -> Float[Array, "*shape"]:
    """Logarithm of the logistic sigmoid, without log 0.

        log σ(z) = −log(1 + e⁻ᶻ) = −ζ(−z)

    log σ(−∞) = −∞, log σ(∞) = 0; the gradient is σ(−z).

    Args:
      z: log-odds, any shape.

    Returns:
      log σ(z) ≤ 0, in z's dtype.

    Raises:
      TypeError: z is not floating point.

    Source:
      Goodfellow, Bengio & Courville (2016), Deep Learning, eq. 3.36.

    >>> log_sigmoid(jnp.array([-100.0, jnp.inf]))
    Array([-100.,   -0.], dtype=float32)
    """
    (z,), dtype = _numerics.upcast(z)
    return (-_softplus(-z)).astype(dtype)


def tanh(z: Float[ArrayLike, "*shape"]) -> Float[Array, "*shape"]:
    """Hyperbolic tangent: odd, in [−1, 1], ±1 at ±∞.

        tanh(z) = (eᶻ − e⁻ᶻ) / (eᶻ + e⁻ᶻ)

    The gradient is `tanh_derivative`, in the tails and in second order too.

    Args:
      z: pre-activations, any shape.

    Returns:
      tanh(z), in z's dtype.

    Raises:
      TypeError: z is not floating point.

    Source:
      LeCun, Bottou, Orr & Müller (1998), Efficient BackProp, section 4.4.

    >>> tanh(jnp.array([-jnp.inf, 0.0, jnp.inf]))
    Array([-1.,  0.,  1.], dtype=float32)
    """
    (z,), dtype = _numerics.upcast(z)
    return _tanh(z).astype(dtype)


def tanh_derivative(z: Float[ArrayLike, "*shape"]) -> Float[Array, "*shape"]:
    """Derivative of the hyperbolic tangent; even, 1 at 0, 4e^−2|z| in the tails, 0 at ±∞.

        tanh′(z) = 1 − tanh²(z) = 4 σ(2z) σ(−2z)

    Its own derivative is tanh″(z) = −2 tanh(z) tanh′(z).

    Args:
      z: pre-activations, any shape.

    Returns:
      tanh′(z), in z's dtype.

    Raises:
      TypeError: z is not floating point.

    Source:
      Bishop (2006), Pattern Recognition and Machine Learning, eq. 5.60.

    >>> [f"{slope:.4g}" for slope in tanh_derivative(jnp.array([0.0, 20.0]))]
    ['1', '1.699e-17']
    """
    # 1 − tanh² would be 0 from z = 9 on; the product is not.
    (z,), dtype = _numerics.upcast(z)
    return _tanh_derivative(z).astype(dtype)


def relu(z: Float[ArrayLike, "*shape"]) -> Float[Array, "*shape"]:
    """Rectified linear unit; NaN stays NaN.

        f(z) = max(z, 0)

    The gradient is `relu_derivative`: 0 at z = 0.

    Args:
      z: pre-activations, any shape.

    Returns:
      max(z, 0), in z's dtype.

    Raises:
      TypeError: z is not floating point.

    Source:
      Glorot, Bordes & Bengio (2011), Deep Sparse Rectifier Neural Networks, section 3.1.

    >>> relu(jnp.array([-1.0, 0.0, 2.0]))
    Array([0., 0., 2.], dtype=float32)
    """
    (z,), dtype = _numerics.upcast(z)
    return jnp.where(z <= 0, 0, z).astype(dtype)


def relu_derivative(z: Float[ArrayLike, "*shape"]) -> Float[Array, "*shape"]:
    """Derivative of the rectified linear unit, with the subgradient 0 at the kink.

        f′(z) = 1   z > 0
                0   z ≤ 0

    Args:
      z: pre-activations, any shape.

    Returns:
      f′(z), in z's dtype; 1 at NaN, as the gradient.

    Raises:
      TypeError: z is not floating point.

    Source:
      Glorot, Bordes & Bengio (2011), Deep Sparse Rectifier Neural Networks, section 3.1.

    >>> relu_derivative(jnp.array([-1.0, 0.0, 2.0]))
    Array([0., 0., 1.], dtype=float32)
    """
    (z,), dtype = _numerics.upcast(z)
    return jnp.where(z <= 0, 0, jnp.ones_like(z)).astype(dtype)


def leaky_relu(z: Float[ArrayLike, "*shape"], alpha: Float[ArrayLike, ""] = 0.01) -> Float[Array, "*shape"]:
    """Leaky rectified linear unit: a slope α for negative values instead of 0.

        f(z) = z     z > 0
               α z   z ≤ 0

    The gradient is `leaky_relu_derivative`: α at z = 0. It is differentiable in α too.

    Args:
      z: pre-activations, any shape.
      alpha: slope α of the negative side, a scalar.

    Returns:
      f(z), in z's dtype.

    Raises:
      TypeError: z is not floating point.
      ValueError: alpha is not a scalar.

    Source:
      Maas, Hannun & Ng (2013), Rectifier Nonlinearities Improve Neural Network Acoustic Models, section 2.

    >>> leaky_relu(jnp.array([-1.0, 0.0, 2.0]), alpha=0.1)
    Array([-0.1,  0. ,  2. ], dtype=float32)
    """
    (z,), dtype = _numerics.upcast(z)
    slope = _scalar(alpha, z)
    # The inner where keeps 0·∞ out of the derivative in α.
    return jnp.where(z > 0, z, slope * jnp.where(z > 0, 0, z)).astype(dtype)


def leaky_relu_derivative(z: Float[ArrayLike, "*shape"], alpha: Float[ArrayLike, ""] = 0.01) -> Float[Array, "*shape"]:
    """Derivative of the leaky rectified linear unit, α at the kink.

        f′(z) = 1   z > 0
                α   z ≤ 0

    Args:
      z: pre-activations, any shape.
      alpha: slope α of the negative side, a scalar.

    Returns:
      f′(z), in z's dtype.

    Raises:
      TypeError: z is not floating point.
      ValueError: alpha is not a scalar.

    Source:
      Maas, Hannun & Ng (2013), Rectifier Nonlinearities Improve Neural Network Acoustic Models, section 2.

    >>> leaky_relu_derivative(jnp.array([-1.0, 0.0, 2.0]), alpha=0.1)
    Array([0.1, 0.1, 1. ], dtype=float32)
    """
    (z,), dtype = _numerics.upcast(z)
    return jnp.where(z > 0, 1, _scalar(alpha, z)).astype(dtype)


def _scalar(alpha: ArrayLike, z: Array) -> Array:
    _numerics.assert_scalar("alpha", alpha)
    return jnp.asarray(alpha, z.dtype)
