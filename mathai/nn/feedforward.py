"""Feedforward networks as a tuple of layers: forward propagation, and back-propagation written out.

A network is `tuple[Layer, ...]`, a pytree: `jax.grad`, `jax.tree.map` and Optax work on it. Inputs are one example
[n_in] or have leading batch axes [..., n_in].
"""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PRNGKeyArray

from mathai.nn.activations import identity, identity_derivative, relu, relu_derivative

__all__ = ["Layer", "Trace", "backward", "forward", "forward_trace", "init", "linear"]

Activation = Callable[[Array], Array]

# Var(W) · n_in for "he" and "lecun"; "xavier" (also "glorot") averages n_in and n_out.
_VARIANCES: dict[str, Callable[[int, int], float]] = {
    "he": lambda n_in, n_out: 2 / n_in,
    "lecun": lambda n_in, n_out: 1 / n_in,
    "xavier": lambda n_in, n_out: 2 / (n_in + n_out),
    "glorot": lambda n_in, n_out: 2 / (n_in + n_out),
}


class Layer(NamedTuple):
    """Parameters of one affine layer.

    weight: W, [n_out, n_in].
    bias: b, [n_out].
    """

    weight: Float[Array, "n_out n_in"]
    bias: Float[Array, " n_out"]


class Trace(NamedTuple):
    """What forward propagation leaves for back-propagation.

    inputs: x = a₀, [..., n_in].
    pre_activations: z₁ … z_L, one [..., n_out] per layer.
    activations: a₁ … a_L, the same shapes; the last is the network's output.
    """

    inputs: Float[Array, "*batch n_in"]
    pre_activations: tuple[Array, ...]
    activations: tuple[Array, ...]


def init(key: PRNGKeyArray, sizes: Sequence[int], *, initializer: str = "he") -> tuple[Layer, ...]:
    """Random layers: normal weights whose variance keeps the signal's, zero biases.

        W ~ N(0, 2/n_in)               "he", for relu
            N(0, 2/(n_in + n_out))     "xavier" or "glorot", for tanh and sigmoid
            N(0, 1/n_in)               "lecun"

    Args:
      key: PRNG key.
      sizes: widths n₀, n₁, …, n_L from input to output; L ≥ 1 layers.
      initializer: one of the names above.

    Returns:
      L layers in float32 (float64 where that is JAX's default).

    Raises:
      ValueError: the initializer is unknown, there are fewer than two sizes, or one is not positive.

    Source:
      He, Zhang, Ren & Sun (2015), Delving Deep into Rectifiers, eq. 10; Glorot & Bengio (2010), Understanding the
      Difficulty of Training Deep Feedforward Neural Networks, eq. 12; LeCun, Bottou, Orr & Müller (1998), Efficient
      BackProp, eq. 16.

    >>> [layer.weight.shape for layer in init(jax.random.key(0), [4, 16, 3])]
    [(16, 4), (3, 16)]
    """
    if initializer not in _VARIANCES:
        raise ValueError(f"unknown initializer {initializer!r}: use one of {', '.join(sorted(_VARIANCES))}")
    if len(sizes) < 2 or min(sizes) < 1:
        raise ValueError(f"sizes must be at least two positive widths, got {tuple(sizes)}")
    keys = jax.random.split(key, len(sizes) - 1)
    return tuple(
        Layer(
            math.sqrt(_VARIANCES[initializer](n_in, n_out)) * jax.random.normal(layer_key, (n_out, n_in)),
            jnp.zeros(n_out),
        )
        for layer_key, (n_in, n_out) in zip(keys, itertools.pairwise(sizes), strict=True)
    )


def linear(layer: Layer, a: Float[ArrayLike, "*batch n_in"]) -> Float[Array, "*batch n_out"]:
    """Affine map of one layer.

        z = W a + b

    Args:
      layer: W [n_out, n_in] and b [n_out].
      a: activations of the layer below, [..., n_in].

    Returns:
      z, [..., n_out].

    Raises:
      ValueError: a's last axis is not n_in, or b is not [n_out].

    Source:
      Nielsen (2015), Neural Networks and Deep Learning, eq. 25.

    >>> linear(Layer(jnp.array([[1.0, 2.0]]), jnp.array([0.5])), jnp.array([3.0, 4.0]))
    Array([11.5], dtype=float32)
    """
    weight, bias, a = jnp.asarray(layer.weight), jnp.asarray(layer.bias), jnp.asarray(a)
    if weight.ndim != 2 or bias.shape != weight.shape[:1] or a.shape[-1:] != weight.shape[1:]:
        raise ValueError(
            f"shapes do not fit: weight {weight.shape}, bias {bias.shape}, a {a.shape};"
            " they must be [n_out, n_in], [n_out], [..., n_in]"
        )
    z = a @ weight.T
    return z + jnp.broadcast_to(bias, z.shape)


def forward(
    layers: Sequence[Layer],
    x: Float[ArrayLike, "*batch n_in"],
    *,
    activation: Activation = relu,
    output_activation: Activation = identity,
) -> Float[Array, "*batch n_out"]:
    """Forward propagation: the output of a network.

        a₀ = x,   z_l = W_l a_{l−1} + b_l,   a_l = f(z_l),   a_L = g(z_L)

    Args:
      layers: W_l and b_l for l = 1 … L.
      x: inputs, [..., n_in].
      activation: f, of the hidden layers.
      output_activation: g, of the last layer.

    Returns:
      a_L, [..., n_out].

    Raises:
      ValueError: there are no layers, or shapes do not fit.

    Source:
      Goodfellow, Bengio & Courville (2016), Deep Learning, algorithm 6.3.

    >>> layers = (Layer(jnp.array([[1.0], [-1.0]]), jnp.zeros(2)), Layer(jnp.ones((1, 2)), jnp.zeros(1)))
    >>> forward(layers, jnp.array([-3.0]))  # relu(x) + relu(−x) = |x|
    Array([3.], dtype=float32)
    """
    return forward_trace(layers, x, activation=activation, output_activation=output_activation).activations[-1]


def forward_trace(
    layers: Sequence[Layer],
    x: Float[ArrayLike, "*batch n_in"],
    *,
    activation: Activation = relu,
    output_activation: Activation = identity,
) -> Trace:
    """Forward propagation that keeps every zₗ and aₗ for `backward`.

        a₀ = x,   z_l = W_l a_{l−1} + b_l,   a_l = f(z_l),   a_L = g(z_L)

    Args:
      layers: W_l and b_l for l = 1 … L.
      x: inputs, [..., n_in].
      activation: f, of the hidden layers.
      output_activation: g, of the last layer.

    Returns:
      The inputs, pre-activations and activations.

    Raises:
      ValueError: there are no layers, or shapes do not fit.

    Source:
      Goodfellow, Bengio & Courville (2016), Deep Learning, algorithm 6.3.

    >>> trace = forward_trace((Layer(jnp.ones((1, 1)), jnp.zeros(1)),) * 2, jnp.array([-3.0]))
    >>> trace.pre_activations
    (Array([-3.], dtype=float32), Array([0.], dtype=float32))
    """
    if not layers:
        raise ValueError("a network has at least one layer")
    *hidden, last = layers
    inputs = jnp.asarray(x)
    pre_activations: list[Array] = []
    activations = [inputs]
    for layer in hidden:
        pre_activations.append(linear(layer, activations[-1]))
        activations.append(activation(pre_activations[-1]))
    pre_activations.append(linear(last, activations[-1]))
    activations.append(output_activation(pre_activations[-1]))
    return Trace(inputs, tuple(pre_activations), tuple(activations[1:]))


def backward(
    layers: Sequence[Layer],
    trace: Trace,
    output_cotangent: Float[ArrayLike, "*batch n_out"],
    *,
    activation_derivative: Activation = relu_derivative,
    output_activation_derivative: Activation = identity_derivative,
) -> tuple[tuple[Layer, ...], Float[Array, "*batch n_in"]]:
    """Back-propagation: the gradient of a loss in every parameter and in the inputs.

        δ_L = ∂L/∂a_L ⊙ g′(z_L)
        δ_l = (W_{l+1}ᵀ δ_{l+1}) ⊙ f′(z_l)

        ∂L/∂W_l = δ_l a_{l−1}ᵀ,   ∂L/∂b_l = δ_l,   ∂L/∂x = W₁ᵀ δ₁

    It equals `jax.vjp` of `forward`. With batch axes the parameters' gradients are sums over them, as there. g must act
    elementwise; for a softmax output pass its VJP as the cotangent, `softmax_jvp(z_L, ∂L/∂a)`, and leave g′ = 1.

    Args:
      layers: the network.
      trace: of `forward_trace` with the same layers.
      output_cotangent: ∂L/∂a_L, [..., n_out].
      activation_derivative: f′, of the hidden layers.
      output_activation_derivative: g′, of the last layer.

    Returns:
      The gradients as layers, and ∂L/∂x, [..., n_in].

    Raises:
      ValueError: the trace has another number of layers, or the cotangent another shape than the output.

    Source:
      Rumelhart, Hinton & Williams (1986), Learning Representations by Back-Propagating Errors; in this notation Nielsen
      (2015), Neural Networks and Deep Learning, eq. BP1 to BP4.

    >>> layers = (Layer(jnp.array([[2.0]]), jnp.zeros(1)),)
    >>> gradients, input_cotangent = backward(layers, forward_trace(layers, jnp.array([3.0])), jnp.array([1.0]))
    >>> gradients[0].weight, input_cotangent
    (Array([[3.]], dtype=float32), Array([2.], dtype=float32))
    """
    if len(trace.pre_activations) != len(layers):
        raise ValueError(f"the trace has {len(trace.pre_activations)} layers, the network {len(layers)}")
    if jnp.shape(output_cotangent) != trace.activations[-1].shape:
        raise ValueError(
            f"output_cotangent has shape {jnp.shape(output_cotangent)}, the output {trace.activations[-1].shape}"
        )
    inputs_of_layers = (trace.inputs, *trace.activations[:-1])
    delta = jnp.asarray(output_cotangent) * output_activation_derivative(trace.pre_activations[-1])
    gradients = []
    for number in reversed(range(len(layers))):
        gradients.append(_layer_gradient(delta, inputs_of_layers[number]))
        cotangent = delta @ layers[number].weight
        if number:
            delta = cotangent * activation_derivative(trace.pre_activations[number - 1])
    return tuple(reversed(gradients)), cotangent


def _layer_gradient(delta: Array, a: Array) -> Layer:
    """(δ aᵀ, δ), summed over the batch axes."""
    delta, a = delta.reshape(-1, delta.shape[-1]), a.reshape(-1, a.shape[-1])
    return Layer(delta.T @ a, delta.sum(0))
