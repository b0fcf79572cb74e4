"""Action-value networks against a forward pass in NumPy, and what a dueling or normalized one promises."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mathai.models.q_network import QNetwork

OBSERVATION = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, 3)), jnp.float32)
SIZES = (8, 4)


@functools.cache
def make(**options):
    """A network with parameters that have no special values, and what it computes, compiled as a whole."""
    model = QNetwork(**{"num_actions": 3, "hidden_sizes": SIZES} | options)
    shapes = jax.eval_shape(model.init, jax.random.key(0), OBSERVATION)
    leaves, structure = jax.tree.flatten(shapes)
    rng = np.random.default_rng(1)
    params = structure.unflatten([jnp.asarray(rng.normal(size=x.shape), jnp.float32) for x in leaves])
    return jax.jit(model.apply), params


def with_leaves(params, **leaves):
    """Parameters with some of their leaves replaced, `Dense_0__kernel=...` say."""
    params = jax.tree.map(lambda x: x, params)
    for name, leaf in leaves.items():
        module, kind = name.split("__")
        params["params"][module][kind] = jnp.asarray(leaf, jnp.float32)
    return params


def dense(params, name, x):
    layer = params["params"][name]
    return x @ np.asarray(layer["kernel"], np.float64) + np.asarray(layer["bias"], np.float64)


def normalized(params, name, x):
    layer = params["params"][name]
    x = (x - x.mean(axis=-1, keepdims=True)) / np.sqrt(x.var(axis=-1, keepdims=True) + 1e-5)
    return x * np.asarray(layer["scale"], np.float64) + np.asarray(layer["offset"], np.float64)


def last_hidden(params, activation, normalization):
    x = np.asarray(OBSERVATION, np.float64)
    for i in range(len(SIZES)):
        x = dense(params, f"Dense_{i}", x)
        x = activation(normalized(params, f"LayerNorm_{i}", x) if normalization == "layer" else x)
    return x


@pytest.mark.parametrize("normalization", ["none", "layer"])
@pytest.mark.parametrize(("name", "activation"), [("tanh", np.tanh), ("relu", lambda x: np.maximum(x, 0))])
def test_the_forward_pass_is_numpys(name, activation, normalization):
    apply, params = make(activation=name, normalization=normalization)
    expected = dense(params, "advantage", last_hidden(params, activation, normalization))
    np.testing.assert_allclose(apply(params, OBSERVATION), expected, rtol=1e-4, atol=1e-4)


# Two heads


def test_the_mean_of_dueling_action_values_is_the_value_head():
    apply, params = make(dueling=True)
    q = np.array(apply(params, OBSERVATION))
    hidden = last_hidden(params, lambda x: np.maximum(x, 0), "none")
    np.testing.assert_allclose(q.mean(axis=-1), dense(params, "value", hidden)[..., 0], rtol=1e-4, atol=1e-4)
    advantage = dense(params, "advantage", hidden)
    # and what tells actions apart is the advantage head
    np.testing.assert_allclose(np.diff(q, axis=-1), np.diff(advantage, axis=-1), rtol=1e-4, atol=1e-4)


def test_a_constant_added_to_all_advantages_changes_nothing():
    apply, params = make(dueling=True)
    bias = np.array([1.0, 2.0, -4.0])
    q = [apply(with_leaves(params, advantage__bias=bias + constant), OBSERVATION) for constant in (0.0, 8.0)]
    np.testing.assert_allclose(*q, rtol=1e-4, atol=1e-4)
    other = apply(with_leaves(params, value__bias=params["params"]["value"]["bias"] + 8.0), OBSERVATION)
    np.testing.assert_allclose(other, apply(params, OBSERVATION) + 8.0, rtol=1e-4, atol=1e-4)


def test_dueling_by_hand():
    # No hidden layers: V = 2 · 3 + 1 = 7 and A = (6, 0) + (1, 3) = (7, 3), whose mean is 5.
    model = QNetwork(num_actions=2, hidden_sizes=(), dueling=True)
    params = {
        "params": {
            "value": {"kernel": jnp.array([[3.0]]), "bias": jnp.array([1.0])},
            "advantage": {"kernel": jnp.array([[3.0, 0.0]]), "bias": jnp.array([1.0, 3.0])},
        }
    }
    np.testing.assert_array_equal(model.apply(params, jnp.array([[2.0]])), [[9.0, 5.0]])


# Normalization


def test_a_normalized_layer_forgets_the_scale_and_the_mean_of_its_units():
    apply, params = make(normalization="layer")
    layer = params["params"]["Dense_0"]
    expected = apply(params, OBSERVATION)
    # The variance is much greater than the 1e-5 that is added to it, before and even more so after.
    larger = with_leaves(params, Dense_0__kernel=100 * layer["kernel"], Dense_0__bias=100 * layer["bias"])
    np.testing.assert_allclose(apply(larger, OBSERVATION), expected, rtol=1e-3, atol=1e-3)
    shifted = with_leaves(params, Dense_0__bias=layer["bias"] + 5.0)
    np.testing.assert_allclose(apply(shifted, OBSERVATION), expected, rtol=1e-3, atol=1e-3)
    apply, params = make(normalization="none")
    shifted = with_leaves(params, Dense_0__bias=params["params"]["Dense_0"]["bias"] + 5.0)
    assert not np.allclose(apply(shifted, OBSERVATION), apply(params, OBSERVATION), atol=0.1)


# Shapes and first values


@pytest.mark.parametrize("batch", [(), (4,), (2, 4)])
@pytest.mark.parametrize("dueling", [False, True])
def test_any_batch_axes_give_a_value_of_each_action(batch, dueling):
    apply, params = make(dueling=dueling)
    assert apply(params, jnp.zeros((*batch, 3))).shape == (*batch, 3)


@pytest.mark.parametrize("dueling", [False, True])
def test_images_pass_a_convolution_that_keeps_their_size(dueling):
    model = QNetwork(num_actions=3, hidden_sizes=(8,), num_channels=5, dueling=dueling)
    images = jnp.zeros((2, 4, 6, 7, 2))
    params = jax.eval_shape(model.init, jax.random.key(0), images)["params"]
    heads = {"advantage": {"kernel": (8, 3), "bias": (3,)}} | (
        {"value": {"kernel": (8, 1), "bias": (1,)}} if dueling else {}
    )
    assert jax.tree.map(lambda x: x.shape, params) == {
        "ImageTorso_0": {"Conv_0": {"kernel": (3, 3, 2, 5), "bias": (5,)}},
        "Dense_0": {"kernel": (6 * 7 * 5, 8), "bias": (8,)},
        **heads,
    }
    assert jax.eval_shape(model.apply, {"params": params}, images).shape == (2, 4, 3)


def test_the_values_of_an_image_do_not_depend_on_the_others():
    model = QNetwork(num_actions=2, hidden_sizes=(4,), num_channels=2)
    images = jnp.asarray(np.random.default_rng(0).normal(size=(3, 5, 5, 1)), jnp.float32)
    params = jax.jit(model.init)(jax.random.key(0), images)
    together = jax.jit(model.apply)(params, images)
    for image, q in zip(images, together, strict=True):
        np.testing.assert_allclose(model.apply(params, image), q, rtol=1e-4, atol=1e-5)
    assert not np.allclose(together[0], together[1])


def test_weights_of_layers_begin_he_normal_and_all_biases_at_0():
    model = QNetwork(num_actions=2, hidden_sizes=(200, 100), dueling=True)
    params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 100)))["params"]
    for name, inputs in (("Dense_0", 100), ("Dense_1", 200)):
        # the standard error of the variance of 20 000 normal numbers is √(2/20 000) = 1 %
        np.testing.assert_allclose(np.var(params[name]["kernel"]), 2 / inputs, rtol=0.05)
    for layer in params.values():
        np.testing.assert_array_equal(layer["bias"], 0.0)


# Mistakes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"activation": "gelu"}, "activation 'gelu' is unknown; use one of tanh, relu"),
        ({"normalization": "batch"}, "normalization 'batch' is unknown; use 'none' or 'layer'"),
    ],
)
def test_unknown_names_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)
