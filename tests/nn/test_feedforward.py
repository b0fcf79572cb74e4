"""Feedforward networks: hand-worked values, and back-propagation against jax.vjp."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mathai.nn import activations, feedforward, losses
from mathai.nn.feedforward import Layer

HAND = (
    Layer(jnp.array([[1.0, -1.0], [2.0, 0.5]]), jnp.array([0.0, -3.0])),
    Layer(jnp.array([[3.0, -2.0]]), jnp.array([0.25])),
)


def test_forward_and_backward_by_hand():
    # z₁ = (2 − 1, 4 + 0.5 − 3) = (1, 1.5), relu leaves it; z₂ = 3·1 − 2·1.5 + 0.25 = 0.25.
    x = jnp.array([2.0, 1.0])
    trace = feedforward.forward_trace(HAND, x)
    np.testing.assert_array_equal(trace.pre_activations[0], [1.0, 1.5])
    np.testing.assert_array_equal(trace.activations[1], [0.25])
    np.testing.assert_array_equal(feedforward.forward(HAND, x), [0.25])
    # δ₂ = 2, ∂W₂ = 2 (1, 1.5), δ₁ = W₂ᵀδ₂ = (6, −4), ∂W₁ = δ₁ xᵀ, ∂x = W₁ᵀδ₁.
    (first, second), input_cotangent = feedforward.backward(HAND, trace, jnp.array([2.0]))
    np.testing.assert_array_equal(second.weight, [[2.0, 3.0]])
    np.testing.assert_array_equal(second.bias, [2.0])
    np.testing.assert_array_equal(first.weight, [[12.0, 6.0], [-8.0, -4.0]])
    np.testing.assert_array_equal(first.bias, [6.0, -4.0])
    np.testing.assert_array_equal(input_cotangent, [-2.0, -8.0])


NETWORKS = [
    ([3, 2], "relu", "identity"),
    ([4, 7, 3], "tanh", "sigmoid"),
    ([2, 5, 1, 6], "leaky_relu", "tanh"),
    ([5, 16, 16, 16, 4], "sigmoid", "identity"),
]


@pytest.mark.parametrize(("sizes", "hidden", "output"), NETWORKS)
@pytest.mark.parametrize("batch", [(), (6,), (2, 3)])
def test_backward_equals_vjp(sizes, hidden, output, batch):
    f, g = getattr(activations, hidden), getattr(activations, output)
    slope_f, slope_g = getattr(activations, hidden + "_derivative"), getattr(activations, output + "_derivative")
    keys = jax.random.split(jax.random.key(1), 3)
    layers = feedforward.init(keys[0], sizes)
    x = jax.random.normal(keys[1], (*batch, sizes[0]))
    cotangent = jax.random.normal(keys[2], (*batch, sizes[-1]))

    def by_hand(layers, x, cotangent):
        trace = feedforward.forward_trace(layers, x, activation=f, output_activation=g)
        return feedforward.backward(
            layers, trace, cotangent, activation_derivative=slope_f, output_activation_derivative=slope_g
        )

    def by_vjp(layers, x, cotangent):
        return jax.vjp(functools.partial(feedforward.forward, activation=f, output_activation=g), layers, x)[1](
            cotangent
        )

    ours, theirs = jax.jit(lambda *args: (by_hand(*args), by_vjp(*args)))(layers, x, cotangent)
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), ours, theirs)


def test_backward_at_the_kink_of_relu_equals_vjp():
    layers = (Layer(jnp.eye(2), jnp.zeros(2)), Layer(jnp.ones((1, 2)), jnp.zeros(1)))
    x = jnp.array([0.0, 1.0])
    _, ours = feedforward.backward(layers, feedforward.forward_trace(layers, x), jnp.ones(1))
    np.testing.assert_array_equal(ours, [0, 1])
    np.testing.assert_array_equal(jax.vjp(lambda x: feedforward.forward(layers, x), x)[1](jnp.ones(1))[0], ours)


def test_vmap_gives_one_gradient_per_example_and_batch_axes_give_their_sum():
    layers = feedforward.init(jax.random.key(0), [3, 4, 2])
    x, cotangent = jax.random.normal(jax.random.key(1), (5, 3)), jnp.ones((5, 2))

    def gradients(x, cotangent):
        return feedforward.backward(layers, feedforward.forward_trace(layers, x), cotangent)[0]

    each, total = jax.jit(lambda *args: (jax.vmap(gradients)(*args), gradients(*args)))(x, cotangent)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a.sum(0), b, rtol=1e-5, atol=1e-6), each, total)


def test_softmax_output_through_its_cotangent():
    layers = feedforward.init(jax.random.key(0), [3, 4, 3])
    x, labels = jnp.array([0.3, -1.0, 2.0]), jnp.array([0.0, 1.0, 0.0])
    expected = jax.grad(lambda layers: losses.categorical_cross_entropy(feedforward.forward(layers, x), labels))(layers)
    trace = feedforward.forward_trace(layers, x, output_activation=activations.softmax)
    cotangent = activations.softmax_jvp(trace.pre_activations[-1], -labels / trace.activations[-1])
    gradients, _ = feedforward.backward(layers, trace, cotangent)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), gradients, expected)


@pytest.mark.parametrize(
    ("initializer", "variance"),
    [("he", 2 / 400), ("lecun", 1 / 400), ("xavier", 2 / 1000), ("glorot", 2 / 1000)],
)
def test_init_has_the_variance_of_its_name(initializer, variance):
    (layer,) = feedforward.init(jax.random.key(0), [400, 600], initializer=initializer)
    assert layer.weight.shape == (600, 400)
    assert layer.weight.dtype == jnp.float32
    # The standard deviation of a sample variance over n = 240000 normals is σ²√(2/n) = 0.3 %: five of them.
    assert np.var(layer.weight) == pytest.approx(variance, rel=0.0145)
    assert abs(np.mean(layer.weight)) < 5 * np.sqrt(variance / 240000)
    np.testing.assert_array_equal(layer.bias, np.zeros(600))


def test_init_layers_are_independent_and_reproducible():
    a, b = (feedforward.init(jax.random.key(3), [4, 4, 4]) for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, a, b)
    assert not np.allclose(a[0].weight, a[1].weight)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float64])
def test_dtype_is_kept(dtype):
    with jax.enable_x64(True):
        layers = jax.tree.map(lambda leaf: leaf.astype(dtype), HAND)
        x = jnp.array([2.0, 1.0], dtype)
        trace = feedforward.forward_trace(layers, x)
        gradients = feedforward.backward(layers, trace, jnp.array([2.0], dtype))
    assert {leaf.dtype for leaf in jax.tree.leaves((trace, gradients))} == {jnp.dtype(dtype)}
    assert trace.activations[-1].astype(np.float32) == 0.25


def test_numpy_inputs():
    layers = jax.tree.map(np.asarray, HAND)
    np.testing.assert_array_equal(feedforward.forward(layers, np.array([2.0, 1.0], np.float32)), [0.25])


def test_refuses():
    with pytest.raises(ValueError, match="glorot, he, lecun, xavier"):
        feedforward.init(jax.random.key(0), [2, 3], initializer="best")
    for sizes in ([3], [3, 0], []):
        with pytest.raises(ValueError, match="sizes"):
            feedforward.init(jax.random.key(0), sizes)
    with pytest.raises(ValueError, match="at least one layer"):
        feedforward.forward((), jnp.zeros(2))
    with pytest.raises((ValueError, TypeError)):
        feedforward.forward(HAND, jnp.zeros(3))
    with pytest.raises((ValueError, TypeError)):
        feedforward.linear(Layer(jnp.zeros((2, 3)), jnp.zeros(1)), jnp.zeros(3))
    trace = feedforward.forward_trace(HAND, jnp.zeros(2))
    with pytest.raises((ValueError, TypeError)):
        feedforward.backward(HAND, trace, jnp.zeros((4, 1)))
    with pytest.raises(ValueError, match="layers"):
        feedforward.backward(HAND[:1], trace, jnp.zeros(1))
