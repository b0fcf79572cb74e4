"""Models of the generative learners: they are the layers they say, know the time, and refuse what cannot be."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mathai.models import VAE, Denoiser, Discriminator, Generator, UNet
from mathai.nn import activations, feedforward

KEY = jax.random.key(0)


def mlp(params, x, activation):
    layers = [feedforward.Layer(**params[f"Linear_{i}"]) for i in range(len(params))]
    for layer in layers[:-1]:
        x = activation(x @ layer.weight.T + layer.bias[None])
    return x @ layers[-1].weight.T + layers[-1].bias[None]


def test_a_vae_is_two_networks():
    x = jax.random.normal(KEY, (3, 6))
    model = VAE(num_features=6, num_latents=2, hidden_sizes=(5, 4))
    variables = model.init(KEY, x)
    assert variables["params"]["log_variance"].shape == ()
    mean, log_variance = model.apply(variables, x, method="encode")
    outputs = mlp(variables["params"]["encoder"], x, activations.relu)
    np.testing.assert_allclose(jnp.concatenate([mean, log_variance], 1), outputs, rtol=1e-5)
    decoded = model.apply(variables, mean, method="decode")
    np.testing.assert_allclose(decoded, mlp(variables["params"]["decoder"], mean, activations.relu), rtol=1e-5)
    np.testing.assert_allclose(model.apply(variables, x), decoded)
    widths = [variables["params"]["decoder"][f"Linear_{i}"]["weight"].shape[0] for i in range(3)]
    assert widths == [4, 5, 6]


def test_generator_and_discriminator_are_networks():
    z = jax.random.normal(KEY, (3, 4))
    generator = Generator(num_features=2, hidden_sizes=(5,), output_activation=activations.sigmoid)
    variables = generator.init(KEY, z)
    found = generator.apply(variables, z)
    expected = jax.nn.sigmoid(mlp(variables["params"]["MLP_0"], z, activations.relu))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    discriminator = Discriminator(hidden_sizes=(5,))
    variables = discriminator.init(KEY, z)
    expected = mlp(variables["params"]["MLP_0"], z, activations.leaky_relu)[:, 0]
    np.testing.assert_allclose(discriminator.apply(variables, z), expected, rtol=1e-5)


def spread(variables):
    """Parameters of which none is 0, so that all matter."""
    leaves, tree = jax.tree.flatten(variables)
    keys = jax.random.split(KEY, len(leaves))
    return jax.tree.unflatten(
        tree, [x + 0.3 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
    )


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (Denoiser(num_blocks=2, num_features=8, num_time_features=4), (6,)),
        pytest.param(UNet(channels=(4, 6), num_time_features=4), (4, 8, 2), marks=pytest.mark.slow),
        (UNet(channels=(4, 6), patch_size=2, num_time_features=4), (4, 8, 2)),
    ],
)
def test_denoisers_begin_at_zero_and_know_the_time_of_each_example(model, shape):
    x = jax.random.normal(KEY, (3, *shape))
    t = jnp.array([1, 500, 1000])
    variables = jax.jit(model.init)(KEY, x, t)
    apply = jax.jit(model.apply)
    np.testing.assert_array_equal(apply(variables, x, t), np.zeros(x.shape))
    variables = spread(variables)
    together = apply(variables, x, t)
    assert together.shape == x.shape
    for i in range(3):
        alone = apply(variables, x[i : i + 1], t[i])
        np.testing.assert_allclose(together[i], alone[0], rtol=1e-3, atol=1e-3)
    assert np.max(np.abs(apply(variables, x, t + 1) - together)) > 1e-4


@pytest.mark.parametrize(("patch_size", "shift"), [(1, 2), (2, 4)])
def test_a_shift_by_a_unets_cells_shifts_all_that_it_sees(patch_size, shift):
    model = UNet(channels=(3, 4), patch_size=patch_size, num_time_features=4)
    size, center = 48 * patch_size, 24 * patch_size  # borders are out of sight
    x = jnp.zeros((1, size, size, 1)).at[0, center, center, 0].set(1.0)
    variables = spread(jax.jit(model.init)(KEY, x, 5))
    apply = jax.jit(model.apply)
    moved = apply(variables, jnp.roll(x, shift, axis=1), 5) - apply(variables, jnp.zeros_like(x), 5)
    here = apply(variables, x, 5) - apply(variables, jnp.zeros_like(x), 5)
    around = slice(center - shift, center + 2 * shift)
    np.testing.assert_allclose(jnp.roll(moved[0], -shift, axis=0)[around], here[0, around], rtol=1e-3, atol=1e-3)
    assert np.max(np.abs(here[0, center, center + 10])) > 1e-6  # ten pixels away
    assert np.max(np.abs(here[0, center, center])) > 0.01


def test_patches_keep_every_pixel_in_its_cell():
    """With the rest of the network an identity on cells, pixels come back where they were."""
    from mathai.models import denoiser

    x = jnp.arange(2 * 4 * 6 * 3.0).reshape(2, 4, 6, 3)
    cells = denoiser._patches(x, 2)
    assert cells.shape == (2, 2, 3, 12)
    np.testing.assert_array_equal(cells[1, 1, 2], x[1, 2:4, 4:6].reshape(-1))
    np.testing.assert_array_equal(denoiser._pixels(cells, 2), x)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: UNet(channels=(4, 4, 4)).init(KEY, jnp.zeros((1, 6, 8, 1)), 1),
            "6 × 8 cannot be divided by 4: patches of 1, halved 2 times",
        ),
        (
            lambda: Denoiser().init(KEY, jnp.zeros((2, 2, 3)), jnp.zeros(2, int)),
            r"t of shape \(2,\) must be a scalar or",
        ),
        (lambda: VAE(num_features=4, num_latents=0).init(KEY, jnp.zeros((1, 4))), "0 latents"),
    ],
)
def test_mistakes_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
