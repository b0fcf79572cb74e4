"""Gram matrices whose rows lie on eight devices, against the definitions in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mathai.kernel import kernels
from tests.multi.meshes import bytes_of_device, mesh_of, shard_shapes, spread
from tests.multi.processes import on_devices

pytestmark = pytest.mark.multi

DEVICES = 8
WIDTHS = (0.1, 0.5, 2.0)
SIZES = (3, 16, 101)


def vectors(n, seed=0):
    return np.random.default_rng(seed).normal(size=(n, 3)).astype(np.float32)


def laplacian(x, z):
    """A stranger to the module, which has no derivative at 0."""
    return jnp.exp(-jnp.sqrt(jnp.sum((x - z) ** 2) + 1e-6 * jnp.sum(x**2)))


KERNELS = {
    "linear": kernels.linear,
    "polynomial": functools.partial(kernels.polynomial, degree=2, gamma=0.5),
    "rbf": functools.partial(kernels.rbf, gamma=0.3),
    "widths": functools.partial(kernels.rbf, gamma=np.float32(WIDTHS)),
    "composed": kernels.add(kernels.scale(functools.partial(kernels.rbf, gamma=0.3), 2.0), kernels.linear),
    "stranger": laplacian,
}


def by_definition(name, X, Z):
    X, Z = (np.asarray(x, np.float64) for x in (X, Z))
    products, squares = X @ Z.T, (X[:, None] - Z[None]) ** 2
    rbf = np.exp(-0.3 * squares.sum(-1))
    return {
        "linear": products,
        "polynomial": (0.5 * products + 1) ** 2,
        "rbf": rbf,
        "widths": np.exp(-squares @ np.array(WIDTHS)),
        "composed": 2 * rbf + products,
        "stranger": np.exp(-np.sqrt(squares.sum(-1) + 1e-6 * np.sum(X**2, axis=1)[:, None])),
    }[name]


def measured():
    mesh, two = mesh_of(data=DEVICES), mesh_of(data=4, model=2)
    found = {}
    for name, kernel in KERNELS.items():
        for n in SIZES:
            found[f"{name} {n}"] = kernels.gram(kernel, vectors(n), mesh=mesh)
            found[f"{name} {n} 5"] = kernels.gram(kernel, vectors(n), vectors(5, seed=1), mesh=mesh)
    far = vectors(101) + np.float32(1e4)

    def loss(gamma, X, mesh):
        return jnp.sum(jnp.sin(kernels.gram(functools.partial(kernels.rbf, gamma=gamma), X, mesh=mesh)))

    def loss_of_stranger(gamma, mesh):
        lengths = lambda x, z: jnp.sqrt(gamma * jnp.sum(x * x)) * jnp.sum(z * z)  # noqa: E731  # no derivative at 0
        return jnp.sum(jnp.sin(kernels.gram(lengths, vectors(13), mesh=mesh)))

    slopes = jax.jit(jax.grad(loss, (0, 1)), static_argnums=2)
    with_nan = vectors(13)
    with_nan[4, 1] = np.nan
    return {
        **found,
        "two axes": jax.jit(lambda gamma, X: kernels.gram(functools.partial(kernels.rbf, gamma=gamma), X, mesh=two))(
            0.3, vectors(101)
        ),
        "far": kernels.gram(KERNELS["rbf"], far, mesh=mesh),
        "shapes": shard_shapes(kernels.gram(KERNELS["rbf"], vectors(16), mesh=mesh)),
        "slopes": slopes(0.3, vectors(13), mesh),
        "slopes of one": slopes(0.3, vectors(13), None),
        "slope of stranger": jax.grad(loss_of_stranger)(0.7, mesh),
        "slope of stranger on one": jax.grad(loss_of_stranger)(0.7, None),
        "with NaN": np.isnan(kernels.gram(KERNELS["rbf"], with_nan, mesh=mesh)),
        "memory": {count: memory(count) for count in (1, DEVICES)},
    }


def memory(count):
    mesh = mesh_of(data=count)
    X = spread(mesh, "data", shape=(2048, 16))
    return bytes_of_device(lambda X: kernels.gram(KERNELS["linear"], X, mesh=mesh), X)


@pytest.fixture(scope="module")
def found():
    return on_devices(DEVICES, f"{__name__}:measured", timeout=400)


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("n", SIZES)
def test_gram_matrices_are_those_of_the_definition(found, name, n):
    X, Z = vectors(n), vectors(5, seed=1)
    np.testing.assert_allclose(found[f"{name} {n}"], by_definition(name, X, X), rtol=1e-5, atol=3e-6)
    np.testing.assert_allclose(found[f"{name} {n} 5"], by_definition(name, X, Z), rtol=1e-5, atol=3e-6)


@pytest.mark.parametrize("n", SIZES)
def test_the_diagonal_is_exactly_one(found, n):
    for name in ("rbf", "widths"):
        assert np.all(np.diagonal(found[f"{name} {n}"]) == 1)
    assert np.all(np.diagonal(found["two axes"]) == 1)


def test_an_offset_costs_no_digits(found):
    X = vectors(101) + np.float32(1e4)
    np.testing.assert_allclose(found["far"], by_definition("rbf", X, X), atol=1e-5)
    assert np.all(np.diagonal(found["far"]) == 1)


def test_rows_on_one_axis_of_two_with_a_traced_width(found):
    np.testing.assert_allclose(found["two axes"], by_definition("rbf", vectors(101), vectors(101)), atol=3e-6)


def test_rows_lie_on_their_devices(found):
    assert found["shapes"] == [[2, 16]]


def test_derivatives_in_parameters_and_vectors(found):
    for ours, one in zip(found["slopes"], found["slopes of one"], strict=True):
        np.testing.assert_allclose(ours, one, rtol=1e-4, atol=1e-5)


def test_what_fills_up_the_last_rows_has_no_part_in_derivatives(found):
    assert found["slope of stranger"] == pytest.approx(found["slope of stranger on one"], rel=1e-5)


def test_a_nan_stays_in_its_row_and_its_column(found):
    is_nan = np.zeros((13, 13), bool)
    is_nan[4] = is_nan[:, 4] = True
    np.testing.assert_array_equal(found["with NaN"], is_nan)


def test_a_device_holds_its_share_of_rows(found):
    one, many = found["memory"]["1"], found["memory"][str(DEVICES)]
    for kind in ("arguments", "results"):
        assert one[kind] == DEVICES * many[kind]
    assert many["work"] <= 2 * one["arguments"]  # all columns
