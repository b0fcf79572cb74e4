"""The perceptron is `feedforward.forward` of the same weights, and a composition of Flax's own layers with the rest."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mathai.models import MLP
from mathai.nn import activations, feedforward

X = jnp.asarray(np.random.default_rng(0).normal(size=(6, 3)), jnp.float32)
SIZES = (5, 4, 2)


@functools.cache
def make(**options):
    model = MLP(**{"sizes": SIZES} | options)
    return model, jax.jit(model.init)(jax.random.key(0), X)


def shaken(variables):
    """Parameters with no special values: biases and offsets that are not 0, scales that are not 1."""
    leaves, structure = jax.tree.flatten(variables["params"])
    rng = np.random.default_rng(1)
    return variables | {
        "params": structure.unflatten([jnp.asarray(rng.normal(size=x.shape), jnp.float32) for x in leaves])
    }


def apply(model, variables, x=X, **options):
    """`model.apply`, compiled as a whole: operation by operation it takes much longer."""
    return jax.jit(functools.partial(model.apply, **options))(variables, x)


def layers_of(variables):
    params = variables["params"]
    return tuple(feedforward.Layer(**params[f"Linear_{i}"]) for i in range(len(SIZES)))


@pytest.mark.parametrize("activation", [activations.relu, jnp.tanh], ids=["relu", "tanh"])
@pytest.mark.parametrize("batch", [(), (6,), (2, 3)])
def test_it_is_the_feedforward_network_of_its_weights(activation, batch):
    model, variables = make(activation=activation)
    variables = shaken(variables)
    x = X[0] if batch == () else X.reshape(*batch, 3)
    expected = jax.jit(functools.partial(feedforward.forward, activation=activation))(layers_of(variables), x)
    assert expected.shape == (*batch, 2)
    for train in (False, True):
        np.testing.assert_array_equal(apply(model, variables, x, train=train), expected)


@pytest.mark.parametrize("initializer", ["he", "lecun", "xavier"])
def test_its_weights_begin_with_the_variance_of_their_layer(initializer):
    model = MLP((200, 100), initializer=initializer)
    params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 50)))["params"]
    variances = {"he": (2 / 50, 2 / 200), "lecun": (1 / 50, 1 / 200), "xavier": (2 / 250, 2 / 300)}[initializer]
    for number, variance in enumerate(variances):
        # 10 000 weights or more: a standard error of 1.4 % at most
        np.testing.assert_allclose(np.var(params[f"Linear_{number}"]["weight"]), variance, rtol=0.06)


@pytest.mark.parametrize(
    ("normalization", "names"),
    [("none", set()), ("batch", {"BatchNorm_0", "BatchNorm_1"}), ("layer", {"LayerNorm_0", "LayerNorm_1"})],
)
def test_names_and_shapes_of_the_parameters(normalization, names):
    _, variables = make(normalization=normalization)
    shapes = jax.tree.map(jnp.shape, variables["params"])
    linear = {"Linear_0": (5, 3), "Linear_1": (4, 5), "Linear_2": (2, 4)}
    expected = {name: {"weight": shape, "bias": shape[:1]} for name, shape in linear.items()}
    expected |= {name: {"scale": (SIZES[int(name[-1])],), "offset": (SIZES[int(name[-1])],)} for name in names}
    assert shapes == expected
    assert set(variables) == ({"params", "batch_stats"} if normalization == "batch" else {"params"})


@pytest.mark.parametrize("normalization", ["batch", "layer"])
@pytest.mark.parametrize("train", [False, True])
def test_hidden_layers_are_normalized_before_their_activation(normalization, train):
    model, variables = make(normalization=normalization)
    variables = shaken(variables)
    y = apply(model, variables, X, train=train, mutable=["batch_stats"])[0]

    def dense(params, a):
        flax = {"kernel": params["weight"].T, "bias": params["bias"]}
        return nn.Dense(len(params["bias"])).apply({"params": flax}, a)

    def normalize(params, z):
        norm = {"params": {"scale": params["scale"], "bias": params["offset"]}}
        if normalization == "layer":
            return nn.LayerNorm(epsilon=1e-5).apply(norm, z)
        norm["batch_stats"] = {"mean": jnp.zeros(z.shape[-1]), "var": jnp.ones(z.shape[-1])}
        return nn.BatchNorm(use_running_average=not train, epsilon=1e-5).apply(norm, z, mutable=["batch_stats"])[0]

    @jax.jit
    def expected(params, a):
        for i in range(2):
            z = dense(params[f"Linear_{i}"], a)
            a = nn.relu(normalize(params[f"{normalization.title()}Norm_{i}"], z))
        return dense(params["Linear_2"], a)

    np.testing.assert_allclose(y, expected(variables["params"], X), rtol=1e-4, atol=1e-4)


def test_dropout_acts_on_hidden_activations_while_training_alone():
    model, variables = make(activation=activations.sigmoid, dropout_rate=1.0)  # sigmoid(0) is not 0
    variables = shaken(variables)
    bias = variables["params"]["Linear_2"]["bias"]
    np.testing.assert_array_equal(apply(model, variables, X, train=True), jnp.broadcast_to(bias, (6, 2)))
    expected = feedforward.forward(layers_of(variables), X, activation=activations.sigmoid)
    np.testing.assert_allclose(apply(model, variables, X), expected, rtol=1e-5, atol=1e-6)


def test_inverted_dropout_keeps_the_mean_of_a_linear_network():
    model = MLP((400, 1), activation=activations.identity, dropout_rate=0.5)
    params = {
        "Linear_0": {"weight": jnp.ones((400, 1)), "bias": jnp.zeros(400)},
        "Linear_1": {"weight": jnp.full((1, 400), 1 / 400), "bias": jnp.zeros(1)},
    }
    y = model.apply({"params": params}, jnp.ones((300, 1)), train=True, rngs={"dropout": jax.random.key(0)})
    # every output is the mean of 400 numbers that are 0 or 2, each with probability ½: standard deviation 1/20
    np.testing.assert_allclose(np.mean(y), 1.0, atol=5 / 20 / 300**0.5)
    np.testing.assert_allclose(np.std(y), 1 / 20, rtol=0.2)


def test_batch_statistics_change_while_training_alone():
    model, variables = make(normalization="batch")
    _, changed = apply(model, variables, X, train=True, mutable=["batch_stats"])
    for name in ("BatchNorm_0", "BatchNorm_1"):
        np.testing.assert_array_equal(changed["batch_stats"][name]["running"].count, 6)
    _, unchanged = apply(model, variables, X, mutable=["batch_stats"])
    jax.tree.map(np.testing.assert_array_equal, unchanged["batch_stats"], variables["batch_stats"])


def test_without_hidden_layers_it_is_linear():
    model, variables = make(sizes=(2,), normalization="batch", dropout_rate=0.5)
    assert jax.tree.map(jnp.shape, variables) == {"params": {"Linear_0": {"weight": (2, 3), "bias": (2,)}}}
    expected = np.asarray(X) @ np.asarray(variables["params"]["Linear_0"]["weight"]).T
    np.testing.assert_allclose(apply(model, variables, X, train=True), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sizes": ()}, "sizes is empty"),
        ({"normalization": "group"}, "normalization 'group' is unknown"),
        ({"initializer": "zeros"}, "unknown initializer 'zeros'"),
        ({"sizes": (0, 2)}, "positive widths"),
    ],
)
def test_mistakes_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)
