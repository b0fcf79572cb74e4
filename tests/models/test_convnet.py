"""The convolutional network against a composition of Flax's own layers; its pooling, shapes and ties."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mathai.models import ConvNet
from mathai.models.convnet import _max_pool

rng = np.random.default_rng(0)
X = jnp.asarray(rng.normal(size=(4, 9, 6, 2)), jnp.float32)


@functools.cache
def make(**options):
    model = ConvNet(**{"channels": (3, 5), "sizes": (4, 2)} | options)
    return model, jax.jit(model.init)(jax.random.key(0), X)


def shaken(variables):
    """Parameters with no special values."""
    leaves, structure = jax.tree.flatten(variables["params"])
    rng = np.random.default_rng(1)
    return variables | {
        "params": structure.unflatten([jnp.asarray(rng.normal(size=x.shape), jnp.float32) for x in leaves])
    }


def apply(model, variables, x=X, **options):
    """`model.apply`, compiled as a whole: operation by operation it takes much longer."""
    return jax.jit(functools.partial(model.apply, **options))(variables, x)


pool, pool_of_flax = jax.jit(_max_pool), jax.jit(functools.partial(nn.max_pool, window_shape=(2, 2), strides=(2, 2)))
pool_gradient = jax.jit(jax.grad(lambda x: jnp.sum(_max_pool(x))))


# Pooling


@pytest.mark.parametrize("batch", [(), (2,), (2, 3)])
@pytest.mark.parametrize("shape", [(4, 6), (5, 7), (2, 3)])
def test_max_pooling_is_that_of_flax_odd_sizes_included(shape, batch):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(*batch, *shape, 3)), jnp.float32)
    expected = pool_of_flax(x.reshape(-1, *shape, 3))
    y = pool(x)
    assert y.shape == (*batch, shape[0] // 2, shape[1] // 2, 3)
    np.testing.assert_array_equal(y.reshape(expected.shape), expected)


@pytest.mark.parametrize(
    ("cell", "gradient"),
    [
        ([[1, 2], [4, 3]], [[0, 0], [1, 0]]),
        ([[5, 5], [1, 1]], [[0.5, 0.5], [0, 0]]),  # ties share equally
        ([[5, 1], [5, 1]], [[0.5, 0], [0.5, 0]]),
        ([[5, 1], [1, 5]], [[0.5, 0], [0, 0.5]]),
        ([[7, 7], [7, 7]], [[0.25, 0.25], [0.25, 0.25]]),
        ([[7, 7], [7, 0]], [[0.25, 0.5], [0.25, 0]]),  # of three, the two in one column share its half
    ],
)
def test_the_gradient_of_a_maximum_is_shared_by_ties_and_sums_to_1(cell, gradient):
    cell = jnp.array(cell, jnp.float32)[..., None]
    found = pool_gradient(cell)[..., 0]
    np.testing.assert_array_equal(found, gradient)


def test_what_an_odd_border_holds_has_no_gradient():
    found = pool_gradient(jnp.full((3, 5, 1), 2.0))[..., 0]
    np.testing.assert_array_equal(found, [[0.25] * 4 + [0.0]] * 2 + [[0.0] * 5])


# The network


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("normalization", ["none", "batch", "layer"])
def test_it_is_a_composition_of_flax_layers(normalization, train):
    model, variables = make(normalization=normalization)
    variables = shaken(variables)
    y = apply(model, variables, X, train=train, mutable=["batch_stats"])[0]

    def normalize(params, z):
        if normalization == "none":
            return z
        norm = {"params": {"scale": params["scale"], "bias": params["offset"]}}
        if normalization == "layer":
            return nn.LayerNorm(epsilon=1e-5).apply(norm, z)
        norm["batch_stats"] = {"mean": jnp.zeros(z.shape[-1]), "var": jnp.ones(z.shape[-1])}
        return nn.BatchNorm(use_running_average=not train, epsilon=1e-5).apply(norm, z, mutable=["batch_stats"])[0]

    def dense(params, a):
        flax = {"kernel": params["weight"].T, "bias": params["bias"]}
        return nn.Dense(len(params["bias"])).apply({"params": flax}, a)

    @jax.jit
    def expected(params, a):
        norm = f"{normalization.title()}Norm"
        for i, size in enumerate((3, 5)):
            conv = nn.Conv(size, (3, 3), use_bias="bias" in params[f"Conv_{i}"])
            z = nn.max_pool(conv.apply({"params": params[f"Conv_{i}"]}, a), (2, 2), strides=(2, 2))
            a = nn.relu(normalize(params.get(f"{norm}_{i}"), z))
        mlp = params["MLP_0"]
        a = nn.relu(normalize(mlp.get(f"{norm}_0"), dense(mlp["Linear_0"], a.reshape(4, -1))))
        return dense(mlp["Linear_1"], a)

    np.testing.assert_allclose(y, expected(variables["params"], X), rtol=1e-4, atol=2e-4)


def test_a_convolution_is_a_correlation_padded_with_zeros():
    model = ConvNet(channels=(1,), sizes=(1,), normalization="none")
    kernel = np.zeros((3, 3, 1, 1), np.float32)
    kernel[1, 2] = 1.0  # looks one pixel to the right, from the last column at the border's 0
    params = {
        "Conv_0": {"kernel": jnp.asarray(kernel), "bias": jnp.array([0.25])},
        "MLP_0": {"Linear_0": {"weight": jnp.ones((1, 2)), "bias": jnp.zeros(1)}},
    }
    image = jnp.array([[9.0, 1.0, 2.0, 3.0], [9.0, 4.0, 0.0, -5.0]])[..., None]
    # to the right: [[1, 2, 3, 0], [4, 0, −5, 0]]; the maxima of the two halves are 4 and 3, and ¼ comes to each
    np.testing.assert_array_equal(apply(model, {"params": params}, image), [7.5])


@pytest.mark.parametrize(
    ("normalization", "bias"), [("none", True), ("batch", False), ("layer", True)]
)  # an offset makes a bias before batch normalization idle
def test_names_and_shapes_of_the_parameters(normalization, bias):
    _, variables = make(normalization=normalization)
    shapes = jax.tree.map(jnp.shape, variables["params"])
    for name, shape in (("Conv_0", (3, 3, 2, 3)), ("Conv_1", (3, 3, 3, 5))):
        assert shapes.pop(name) == {"kernel": shape} | ({"bias": shape[-1:]} if bias else {})
    mlp = shapes.pop("MLP_0")
    # 9 × 6 is halved to 4 × 3 and 2 × 1, in 5 channels
    assert (mlp.pop("Linear_0"), mlp.pop("Linear_1")) == (
        {"weight": (4, 10), "bias": (4,)},
        {"weight": (2, 4), "bias": (2,)},
    )
    name = f"{normalization.title()}Norm"
    norms = {f"{name}_{i}": {"scale": (size,), "offset": (size,)} for i, size in enumerate((3, 5))}
    assert shapes == (norms if normalization != "none" else {})
    assert mlp == ({f"{name}_0": {"scale": (4,), "offset": (4,)}} if normalization != "none" else {})


def test_kernels_begin_with_hes_variance():
    model = ConvNet(channels=(32, 64), sizes=(2,), kernel_size=5)
    params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 4, 4, 3)))["params"]
    assert params["Conv_1"]["kernel"].shape == (5, 5, 32, 64)
    np.testing.assert_allclose(np.var(params["Conv_1"]["kernel"]), 2 / (5 * 5 * 32), rtol=0.03)


@pytest.mark.parametrize("batch", [(), (2, 2)])
def test_any_batch_axes_will_do(batch):
    model, variables = make(normalization="layer")
    y = apply(model, variables, X)
    x = X.reshape(*batch, 9, 6, 2) if batch else X[0]
    expected = y.reshape(*batch, 2) if batch else y[0]
    np.testing.assert_allclose(apply(model, variables, x), expected, rtol=1e-5, atol=1e-5)


def test_dropout_acts_on_features_and_hidden_activations():
    model, variables = make(normalization="none", dropout_rate=1.0)
    params = shaken(variables)
    bias = params["params"]["MLP_0"]["Linear_1"]["bias"]
    np.testing.assert_array_equal(apply(model, params, X, train=True), jnp.broadcast_to(bias, (4, 2)))
    plain, _ = make(normalization="none")
    np.testing.assert_array_equal(apply(model, params, X), apply(plain, params, X))
    # with no hidden layer only the features are left to drop
    model, variables = make(sizes=(2,), normalization="none", dropout_rate=1.0)
    params = shaken(variables)
    bias = params["params"]["MLP_0"]["Linear_0"]["bias"]
    np.testing.assert_array_equal(apply(model, params, X, train=True), jnp.broadcast_to(bias, (4, 2)))


def test_statistics_change_while_training_alone():
    model, variables = make()
    _, changed = apply(model, variables, X, train=True, mutable=["batch_stats"])
    counts = {name: changed["batch_stats"][name]["running"].count for name in ("BatchNorm_0", "BatchNorm_1")}
    np.testing.assert_array_equal(counts["BatchNorm_0"], 4 * 4 * 3)  # images × pooled rows × columns
    np.testing.assert_array_equal(counts["BatchNorm_1"], 4 * 2 * 1)
    _, unchanged = apply(model, variables, X, mutable=["batch_stats"])
    jax.tree.map(np.testing.assert_array_equal, unchanged["batch_stats"], variables["batch_stats"])


@pytest.mark.parametrize(
    ("shape", "num_blocks", "fits"), [((2, 2), 1, True), ((3, 9), 1, True), ((3, 9), 2, False), ((1, 8), 1, False)]
)
def test_an_image_must_be_large_enough_for_its_blocks(shape, num_blocks, fits):
    model = ConvNet(channels=(2,) * num_blocks, sizes=(2,))
    init = functools.partial(jax.eval_shape, model.init, jax.random.key(0), jnp.zeros((1, *shape, 1)))
    if fits:
        init()
    else:
        with pytest.raises(ValueError, match=f"{num_blocks} blocks are too many; nothing is left to halve"):
            init()


@pytest.mark.parametrize(
    ("options", "message"),
    [({"sizes": ()}, "sizes is empty"), ({"normalization": "group"}, "normalization 'group' is unknown")],
)
def test_mistakes_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)
