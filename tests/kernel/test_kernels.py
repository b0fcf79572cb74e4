"""Kernels and Gram matrices against their formulas in float64, scikit-learn's pairwise kernels and cases by hand."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.test_util import check_grads
from jax.tree_util import Partial
from sklearn.metrics import pairwise

from mathai.kernel import kernels
from mathai.kernel.kernels import add, gram_diagonal, linear, multiply, polynomial, rbf, scale

NUM_ROWS, NUM_COLUMNS, NUM_FEATURES = 9, 6, 3
WIDTHS = np.array([0.1, 0.5, 2.0], np.float32)  # one for each feature
EPSILON = {"bfloat16": 2.0**-8, "float16": 2.0**-11, "float32": 2.0**-24, "float64": 2.0**-53}  # of rounding once

gram = jax.jit(kernels.gram)


def vectors(offset=0.0, seed=0):
    """Rows X and columns Z; the offset is rounded in, so that float32 holds exactly what the reference is given."""
    rng = np.random.default_rng(seed)
    X, Z = rng.normal(size=(NUM_ROWS, NUM_FEATURES)), rng.normal(size=(NUM_COLUMNS, NUM_FEATURES))
    return (X + offset).astype(np.float32), (Z + offset).astype(np.float32)


def squared_distances(X, Z, widths=1.0):
    """The definition in float64, pair by pair."""
    difference = np.asarray(X, np.float64)[:, None] - np.asarray(Z, np.float64)[None]
    return (np.asarray(widths, np.float64) * difference**2).sum(-1)


def laplacian(x, z):
    """A stranger to the module."""
    return jnp.exp(-0.5 * jnp.sum(jnp.abs(x - z)))


def weighted_dot(weight, x, z):
    return weight * jnp.dot(x, z)


# A kernel of ours, and its Gram matrix by scikit-learn or by the definition, of arrays in float64
CASES = {
    "linear": (Partial(linear), pairwise.linear_kernel),
    "polynomial": (Partial(polynomial), functools.partial(pairwise.polynomial_kernel, degree=3, gamma=1, coef0=1)),
    "polynomial_of_degree_1": (
        Partial(polynomial, degree=1, c=0.5, gamma=2.0),
        functools.partial(pairwise.polynomial_kernel, degree=1, gamma=2, coef0=0.5),
    ),
    "homogeneous_polynomial": (
        Partial(polynomial, degree=4, c=0.0, gamma=0.5),
        functools.partial(pairwise.polynomial_kernel, degree=4, gamma=0.5, coef0=0),
    ),
    "rbf": (Partial(rbf, gamma=0.7), functools.partial(pairwise.rbf_kernel, gamma=0.7)),
    "rbf_with_a_width_for_each_feature": (
        Partial(rbf, gamma=WIDTHS),
        lambda X, Z: np.exp(-squared_distances(X, Z, WIDTHS)),
    ),
    "stranger": (Partial(laplacian), functools.partial(pairwise.laplacian_kernel, gamma=0.5)),
    "bound_by_position": (Partial(weighted_dot, 1.5), lambda X, Z: 1.5 * X @ Z.T),
    "sum": (
        add(linear, functools.partial(rbf, gamma=0.7)),
        lambda X, Z: X @ Z.T + pairwise.rbf_kernel(X, Z, gamma=0.7),
    ),
    "product_of_a_stranger": (
        multiply(laplacian, functools.partial(polynomial, degree=2)),
        lambda X, Z: pairwise.laplacian_kernel(X, Z, gamma=0.5) * (X @ Z.T + 1) ** 2,
    ),
    "composition_of_compositions": (
        scale(add(multiply(linear, linear), scale(functools.partial(rbf, gamma=WIDTHS), 3.0)), 0.25),
        lambda X, Z: 0.25 * ((X @ Z.T) ** 2 + 3 * np.exp(-squared_distances(X, Z, WIDTHS))),
    ),
}
every_kernel = pytest.mark.parametrize("name", CASES)
HAVE_ANY_LENGTH = [name for name in CASES if not any(np.ndim(leaf) for leaf in jax.tree.leaves(CASES[name][0]))]


# Values


@pytest.mark.parametrize(
    ("kernel", "value"),
    [
        (linear, 11.0),  # 1·3 + 2·4
        (polynomial, 1728.0),  # (11 + 1)³
        (functools.partial(polynomial, degree=2, c=0.5, gamma=0.5), 36.0),  # (5½ + ½)²
        (functools.partial(polynomial, degree=1, c=0.0), 11.0),
        (functools.partial(rbf, gamma=0.25), np.exp(-2.0)),  # ‖x − z‖² = 8
        (functools.partial(rbf, gamma=np.array([0.5, 0.125], np.float32)), np.exp(-2.5)),  # 4 · ½ + 4 · ⅛
        (functools.partial(rbf, gamma=0.0), 1.0),
        (add(linear, functools.partial(rbf, gamma=0.0)), 12.0),
        (multiply(linear, linear), 121.0),
        (scale(linear, 0.5), 5.5),
        (scale(linear, 0.0), 0.0),
    ],
)
def test_kernels_of_two_vectors_by_hand(kernel, value):
    x, z = np.array([1.0, 2.0], np.float32), np.array([3.0, 4.0], np.float32)
    np.testing.assert_allclose(kernel(x, z), value, rtol=4 * EPSILON["float32"])
    np.testing.assert_allclose(kernel(z, x), value, rtol=4 * EPSILON["float32"])


@every_kernel
def test_a_gram_matrix_is_that_of_the_reference(name):
    kernel, reference = CASES[name]
    X, Z = vectors()
    for columns in (None, Z):
        exact = reference(X.astype(np.float64), (X if columns is None else Z).astype(np.float64))
        found = gram(kernel, X, columns)
        assert found.dtype == jnp.float32
        # a few roundings of a sum over the features, and as many of each factor of a power
        np.testing.assert_allclose(found, exact, rtol=1e-5, atol=2e-6)


@every_kernel
def test_a_gram_matrix_holds_the_kernel_of_every_pair_and_its_diagonal(name):
    kernel, reference = CASES[name]
    X, Z = vectors()
    exact = reference(X.astype(np.float64), Z.astype(np.float64))
    for i, j in [(0, 0), (4, 2), (8, 5)]:
        np.testing.assert_allclose(kernel(X[i], Z[j]), exact[i, j], rtol=1e-5, atol=2e-6)
    diagonal = np.diagonal(reference(X.astype(np.float64), X.astype(np.float64)))
    np.testing.assert_allclose(gram_diagonal(kernel, X), diagonal, rtol=1e-5, atol=2e-6)


def test_the_diagonal_is_made_without_the_matrix():
    X = np.full((200_000, 2), 2.0, np.float32)  # K would take 160 GB
    np.testing.assert_array_equal(gram_diagonal(linear, X), np.full(200_000, 8.0))


@every_kernel
def test_gram_matrices_are_symmetric_and_positive_semidefinite(name):
    kernel, _ = CASES[name]
    X = np.concatenate([vectors()[0], vectors()[0][:4]])  # duplicates, so that it is singular
    K = np.asarray(kernels.gram(kernel, X), np.float64)
    np.testing.assert_allclose(K, K.T, rtol=1e-6, atol=1e-6)
    assert np.linalg.eigvalsh(K).min() >= -len(X) * EPSILON["float32"] * np.abs(K).max() * 4


# Accuracy and precision


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64"])
@pytest.mark.parametrize("name", ["linear", "polynomial", "rbf", "rbf_with_a_width_for_each_feature", "stranger"])
def test_every_precision_is_kept_and_rounds_once(name, dtype):
    kernel, reference = CASES[name]
    with jax.enable_x64(dtype == "float64"):
        X, Z = (jnp.asarray(x, dtype) for x in vectors())
        found = (gram(kernel, X, Z), gram(kernel, X), gram_diagonal(kernel, X), kernel(X[0], Z[0]))
        held, held_Z = np.asarray(X, np.float64), np.asarray(Z, np.float64)
        exact = (
            reference(held, held_Z),
            reference(held, held),
            np.diagonal(reference(held, held)),
            reference(held, held_Z)[0, 0],
        )
    # in half precision the last rounding counts alone; otherwise those of the sums do
    epsilon = EPSILON[dtype] * (1 if dtype in {"bfloat16", "float16"} else 64)
    is_ours = name != "stranger"  # who rounds as he likes between one vector and the next
    for ours, theirs in zip(found[: 4 if is_ours else 3], exact, strict=False):
        assert ours.dtype == dtype
        np.testing.assert_allclose(np.asarray(ours, np.float64), theirs, rtol=1.01 * epsilon, atol=epsilon)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_sums_in_float32(dtype):
    """4096 ones: a sum in bfloat16 would stay at 256, one in float16 at 2048."""
    ones = jnp.ones((2, 4096), dtype)
    assert linear(ones[0], ones[1]) == 4096
    np.testing.assert_array_equal(np.asarray(kernels.gram(linear, ones), np.float32), np.full((2, 2), 4096))


@pytest.mark.parametrize("gamma", [0.7, WIDTHS], ids=["one_width", "widths"])
@pytest.mark.parametrize("offset", [1e4, np.array([1e4, -3e4, 100.0])], ids=["common", "of_each_feature"])
def test_a_common_offset_costs_distances_no_digits(gamma, offset):
    """‖x‖² + ‖z‖² − 2xᵀz as it stands would be off by 16 at 10⁴."""
    X, Z = vectors(offset)
    for columns in (None, Z):
        exact = np.exp(-squared_distances(X, X if columns is None else Z, gamma))
        np.testing.assert_allclose(gram(Partial(rbf, gamma=gamma), X, columns), exact, atol=2e-6)


@pytest.mark.parametrize(
    "gamma", [0.0, 0.1, 1e4, np.linspace(0, 0.1, 64, dtype=np.float32)], ids=["zero", "wide", "narrow", "widths"]
)
@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_similarity_is_1_of_a_vector_with_itself_and_never_more(gamma, offset):
    """Of 64 features, over which the two sums of a distance's expansion do not round alike."""
    X = np.tile((np.random.default_rng(0).normal(size=(NUM_ROWS, 64)) + offset).astype(np.float32), (2, 1))
    K = np.asarray(gram(Partial(rbf, gamma=gamma), X))
    np.testing.assert_array_equal(np.diagonal(K), 1)
    np.testing.assert_array_equal(gram_diagonal(Partial(rbf, gamma=gamma), X), 1)
    assert K.min() >= 0
    assert K.max() <= 1
    assert rbf(X[0], X[NUM_ROWS], gamma=gamma) == 1
    squares = ((X.astype(np.float64) - X.mean(0, np.float64)) ** 2).sum(1).max()
    duplicates = np.diagonal(K[NUM_ROWS:])
    np.testing.assert_allclose(-np.log(duplicates), 0, atol=np.max(gamma) * squares * 8 * EPSILON["float32"])


@pytest.mark.parametrize("gamma", [0.0, np.zeros(NUM_FEATURES, np.float32)], ids=["one_width", "widths"])
def test_without_width_all_vectors_are_alike(gamma):
    X, Z = vectors()
    for columns in (None, Z):
        K = gram(Partial(rbf, gamma=gamma), X, columns)
        np.testing.assert_array_equal(K, np.ones(K.shape))


def test_a_feature_of_width_0_does_not_count():
    X, Z = vectors()
    K = gram(Partial(rbf, gamma=np.array([0.5, 0.0, 0.5], np.float32)), X, Z)
    np.testing.assert_allclose(K, np.exp(-0.5 * squared_distances(X[:, ::2], Z[:, ::2])), atol=2e-6)


# Edges


@every_kernel
def test_one_example(name):
    kernel, reference = CASES[name]
    X = vectors()[0][:1]
    np.testing.assert_allclose(gram(kernel, X), reference(*[X.astype(np.float64)] * 2), rtol=1e-5)


@pytest.mark.parametrize("name", HAVE_ANY_LENGTH)
def test_one_feature(name):
    kernel, reference = CASES[name]
    X = vectors()[0][:, :1]
    np.testing.assert_allclose(gram(kernel, X), reference(*[X.astype(np.float64)] * 2), rtol=1e-5, atol=2e-6)


def test_one_width_of_one_feature():
    X = vectors()[0][:, :1]
    exact = np.exp(-0.5 * squared_distances(X, X))
    np.testing.assert_allclose(gram(Partial(rbf, gamma=np.array([0.5], np.float32)), X), exact, atol=2e-6)


@pytest.mark.parametrize("name", ["polynomial", "rbf", "rbf_with_a_width_for_each_feature", "product_of_a_stranger"])
def test_without_rows_or_columns_the_matrix_is_empty(name):
    kernel = CASES[name][0]
    X, none = vectors()[0], np.zeros((0, NUM_FEATURES), np.float32)
    assert gram(kernel, none).shape == (0, 0)
    assert gram(kernel, none, X).shape == (0, NUM_ROWS)
    assert gram(kernel, X, none).shape == (NUM_ROWS, 0)
    assert gram_diagonal(kernel, none).shape == (0,)


@every_kernel
def test_nan_stays_nan(name):
    kernel = CASES[name][0]
    X, Z = vectors()
    X[2, 1] = np.nan
    K = np.asarray(gram(kernel, X))
    assert np.isnan(K[2]).all()
    assert np.isnan(K[:, 2]).all()
    assert np.isnan(np.asarray(gram(kernel, X, Z))[2]).all()
    assert np.isnan(gram_diagonal(kernel, X)[2])


@pytest.mark.parametrize("name", ["linear", "polynomial", "stranger", "bound_by_position"])
def test_nan_is_only_in_what_it_takes_part_in(name):
    kernel, reference = CASES[name]
    X = vectors()[0]
    exact = reference(X.astype(np.float64), X.astype(np.float64))
    X[2, 1] = np.nan
    others = np.arange(NUM_ROWS) != 2
    found = np.asarray(gram(kernel, X))[np.ix_(others, others)]
    np.testing.assert_allclose(found, exact[np.ix_(others, others)], rtol=1e-5, atol=2e-6)


# Kernels as arguments


def test_partials_of_every_kind_are_one_kernel():
    X, Z = vectors()
    nested = functools.partial(functools.partial(polynomial, degree=2, c=3.0), c=0.5)
    kinds = [
        functools.partial(polynomial, degree=2, c=0.5),
        nested,
        Partial(polynomial, degree=2, c=0.5),
        Partial(nested),
        lambda x, z: polynomial(x, z, degree=2, c=0.5),
    ]
    exact = (X.astype(np.float64) @ Z.T.astype(np.float64) + 0.5) ** 2
    for kernel in kinds:
        np.testing.assert_allclose(kernels.gram(kernel, X, Z), exact, rtol=1e-5, atol=2e-6)


def test_a_composition_is_a_pytree_of_all_parameters():
    kernel = add(
        scale(functools.partial(rbf, gamma=0.5), 2.0), multiply(linear, Partial(polynomial, degree=2, c=3.0, gamma=4.0))
    )
    assert sorted(jax.tree.leaves(kernel)) == [0.5, 2.0, 3.0, 4.0]  # a degree cannot be differentiated


def test_new_parameters_do_not_compile_again():
    traces = []

    @jax.jit
    def matrix(kernel, X):
        traces.append(kernel)
        return kernels.gram(kernel, X)

    X = vectors()[0]
    for factor, gamma in [(1.0, 0.5), (2.0, 0.25), (0.0, 0.0)]:
        K = matrix(add(linear, scale(functools.partial(rbf, gamma=gamma), factor)), X)
        exact = X.astype(np.float64) @ X.T.astype(np.float64) + factor * np.exp(-gamma * squared_distances(X, X))
        np.testing.assert_allclose(K, exact, rtol=1e-5, atol=2e-6)
    assert len(traces) == 1


def test_a_degree_may_be_traced():
    """xᵀz + c is negative here for some pairs, whose odd powers are negative."""
    X, Z = vectors()
    for degree in (1, 2, 3):
        K = gram(Partial(polynomial, degree=degree, c=0.0), X, Z)
        np.testing.assert_allclose(K, (X.astype(np.float64) @ Z.T) ** degree, rtol=1e-5, atol=2e-6)


def test_parameters_and_vectors_are_batched():
    X, gammas = np.stack([vectors(seed=seed)[0] for seed in range(3)]), np.array([0.0, 0.5, 2.0], np.float32)
    batched = jax.jit(jax.vmap(lambda gamma, X: kernels.gram(scale(Partial(rbf, gamma=gamma), gamma), X)))(gammas, X)
    widths = np.stack([WIDTHS, 2 * WIDTHS, 0 * WIDTHS])
    relevance = jax.jit(jax.vmap(lambda gamma, X: kernels.gram(Partial(rbf, gamma=gamma), X)))(widths, X)
    for i in range(3):
        exact = gammas[i] * np.exp(-gammas[i] * squared_distances(X[i], X[i]))
        np.testing.assert_allclose(batched[i], exact, atol=4e-6)
        np.testing.assert_allclose(relevance[i], np.exp(-squared_distances(X[i], X[i], widths[i])), atol=2e-6)


# Derivatives


@pytest.mark.parametrize("name", ["polynomial", "rbf", "composition_of_compositions"])
def test_gram_matrices_are_differentiable_in_their_vectors(name):
    """Forwards and backwards."""
    kernel = CASES[name][0]
    with jax.enable_x64(True):
        X, Z = (jnp.asarray(x[:3], jnp.float64) for x in vectors())
        check_grads(jax.jit(lambda X, Z: kernels.gram(kernel, X, Z)), (X, Z), order=1, rtol=1e-5, atol=1e-5)
        check_grads(jax.jit(lambda X: kernels.gram(kernel, X)), (X,), order=1, rtol=1e-5, atol=1e-5)
        check_grads(jax.jit(kernel), (X[0], Z[0]), order=1, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_the_gradient_between_duplicates_is_0(offset):
    """∂/∂xᵢ Σᵢⱼ k(xᵢ, xⱼ) = −4γ Σⱼ (xᵢ − xⱼ) k(xᵢ, xⱼ), to which vectors at the same place add nothing."""
    gamma = 0.7
    slope = jax.jit(jax.grad(lambda X: jnp.sum(kernels.gram(Partial(rbf, gamma=gamma), X))))
    pairs = np.concatenate([vectors(offset)[0][:3]] * 2)
    alike = np.tile(pairs[:1], (6, 1))
    for X in (pairs, alike):
        difference = X.astype(np.float64)[:, None] - X[None]
        exact = -4 * gamma * (difference * np.exp(-gamma * (difference**2).sum(-1))[..., None]).sum(1)
        np.testing.assert_allclose(slope(X), exact, atol=1e-5)
    np.testing.assert_array_equal(jax.jit(jax.grad(Partial(rbf, gamma=gamma)))(alike[0], alike[0]), np.zeros(3))


def test_derivatives_in_the_parameters_are_those_of_the_formula():
    """Of s · exp(−γd) + (g xᵀz + c)²: e^(−γd), −s d e^(−γd), 2 (g xᵀz + c) xᵀz, 2 (g xᵀz + c)."""
    X, Z = vectors()
    weights = np.random.default_rng(1).normal(size=(NUM_ROWS, NUM_COLUMNS)).astype(np.float32)
    distances, products = squared_distances(X, Z), X.astype(np.float64) @ Z.T
    s, gamma, g, c = 1.5, 0.4, 0.5, 2.0

    @jax.jit
    @jax.grad
    def slope(parameters):
        s, gamma, g, c = parameters
        kernel = add(scale(Partial(rbf, gamma=gamma), s), Partial(polynomial, degree=2, gamma=g, c=c))
        return jnp.sum(weights * kernels.gram(kernel, X, Z))

    powers = 2 * (g * products + c)
    slopes = [np.exp(-gamma * distances), -s * distances * np.exp(-gamma * distances), powers * products, powers]
    exact = [(weights * slope).sum() for slope in slopes]
    np.testing.assert_allclose(slope((s, gamma, g, c)), exact, rtol=2e-5)


def test_a_kernel_has_a_gradient_that_is_a_kernel():
    """Its leaves are the derivatives: of Σ s e^(−Σγⱼdⱼ) in s and in each γⱼ."""
    X = vectors()[0]
    parts = (X.astype(np.float64)[:, None] - X[None]) ** 2
    gradient = jax.jit(jax.grad(lambda kernel: jnp.sum(kernels.gram(kernel, X))))(
        scale(Partial(rbf, gamma=WIDTHS), 2.0)
    )
    K = np.exp(-(WIDTHS * parts).sum(-1))
    by_width, by_factor = sorted(jax.tree.leaves(gradient), key=np.ndim, reverse=True)
    np.testing.assert_allclose(by_factor, K.sum(), rtol=1e-5)
    np.testing.assert_allclose(by_width, -2 * (parts * K[..., None]).sum((0, 1)), rtol=1e-5)


def test_the_derivative_in_the_width_at_width_0_is_minus_the_distance():
    X, Z = vectors()
    slope = jax.jit(jax.jacfwd(lambda gamma: kernels.gram(Partial(rbf, gamma=gamma), X, Z)))(0.0)
    np.testing.assert_allclose(slope, -squared_distances(X, Z), rtol=1e-5, atol=2e-6)


# Kernels of one's own, far groups, lists


def test_the_derivative_in_a_width_of_0_is_whole():
    """k = exp(−γ₂) of (0, 0) and (0, 1), twice: −2 at γ₂ = 0."""
    X = jnp.array([[0.0, 0.0], [0.0, 1.0]])
    slope = jax.grad(lambda gamma: kernels.gram(Partial(rbf, gamma=gamma), X).sum())
    np.testing.assert_allclose(slope(jnp.array([1.0, 0.0])), [0, -2])


def test_nan_of_one_example_leaves_the_others_alone():
    X = np.array([[0.0, 1.0], [np.nan, 1.0], [0.0, 0.0]], np.float32)
    K = kernels.gram(Partial(rbf, gamma=1.0), X)
    np.testing.assert_allclose(
        K[jnp.array([0, 2])][:, jnp.array([0, 2])], [[1, np.exp(-1)], [np.exp(-1), 1]], rtol=1e-6
    )


@dataclasses.dataclass
class Unhashable:
    factor: float

    def __call__(self, x, z):
        return self.factor * jnp.dot(x, z)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Registered:
    factor: jax.Array

    def __call__(self, x, z):
        return self.factor * jnp.dot(x, z)


@pytest.mark.parametrize("kernel", [Unhashable(2.0), Registered(jnp.float32(2.0))])
def test_any_callable_is_a_kernel(kernel):
    np.testing.assert_array_equal(kernels.gram(kernel, jnp.eye(2)), 2 * np.eye(2))


def test_the_leaves_of_a_registered_kernel_stay_leaves():
    assert len(jax.tree.leaves(add(Registered(jnp.float32(2.0)), linear))) == 1


def test_a_kernel_with_a_degree_has_a_gradient():
    kernel = add(Partial(polynomial, degree=2, c=1.0), Partial(rbf, gamma=1.0))
    jax.grad(lambda kernel: kernels.gram(kernel, jnp.eye(2)).sum())(kernel)


@pytest.mark.parametrize("widths", [0.5, np.array([0.5, 0.25], np.float32)], ids=["one_width", "widths"])
@pytest.mark.parametrize("far", ["an_outlier", "two_groups"])
def test_distances_within_a_group_keep_their_digits_however_far_another_is(far, widths):
    """‖x‖² + ‖z‖² − 2xᵀz is off by whole units here."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(24, 2)).astype(np.float32)
    X[23 if far == "an_outlier" else slice(12, None)] += 2**14  # which leaves 10 bits of the fraction
    for columns in (None, X[::2]):
        exact = np.exp(-squared_distances(X, X if columns is None else columns, widths))
        np.testing.assert_allclose(kernels.gram(Partial(rbf, gamma=widths), X, columns), exact, atol=2e-6)


# Refusals


@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        (functools.partial(polynomial, degree=0), "degree is 0; it must be at least 1"),
        (functools.partial(polynomial, degree=-2), "degree is -2"),
        (functools.partial(polynomial, degree=2.5), "degree is 2.5; it must be an integer"),
        (functools.partial(polynomial, c=-0.5), "c is -0.5; it must be at least 0"),
        (functools.partial(polynomial, gamma=-1.0), "polynomial: gamma is -1.0"),
        (functools.partial(rbf, gamma=-1.0), "rbf: gamma is -1.0; it must be at least 0"),
        (functools.partial(rbf, gamma=np.nan), "gamma is nan"),
        (functools.partial(rbf, gamma=np.array([1.0, 2.0, -3.0], np.float32)), "gamma is .*-3"),
    ],
)
def test_a_parameter_that_makes_no_kernel_is_refused(kernel, message):
    X = vectors()[0]
    for call in (lambda: kernel(X[0], X[1]), lambda: kernels.gram(kernel, X), lambda: gram_diagonal(kernel, X)):
        with pytest.raises((ValueError, TypeError), match=f"{message}|Type-check"):
            call()
    with pytest.raises(
        (ValueError, TypeError), match=f"{message}|Type-check"
    ):  # which is known while a program is traced, too
        jax.jit(lambda X: kernels.gram(kernel, X))(X)


def test_a_negative_multiple_of_a_kernel_is_refused():
    with pytest.raises(ValueError, match=r"scale: factor is -1.0; it must be at least 0"):
        scale(linear, -1.0)


@pytest.mark.parametrize(
    "call",
    [
        lambda x: kernels.gram(linear, x[0]),
        lambda x: kernels.gram(linear, x[None]),
        lambda x: kernels.gram(linear, x, x[:, :2]),
        lambda x: kernels.gram(Partial(rbf, gamma=1.0), x, x[:, :1]),  # would broadcast
        lambda x: kernels.gram(Partial(rbf, gamma=np.ones(2, np.float32)), x),
        lambda x: kernels.gram(Partial(rbf, gamma=np.ones(1, np.float32)), x),  # would broadcast
        lambda x: gram_diagonal(linear, x[0]),
        lambda x: linear(x[0], x[0, :2]),
        lambda x: linear(x, x),
        lambda x: rbf(x[0], x[0, :1], gamma=1.0),  # would broadcast
        lambda x: rbf(x[0], x[0], gamma=np.ones((1, 3), np.float32)),
        lambda x: polynomial(x[0], x[0, 0]),
    ],
)
def test_shapes_that_do_not_match_are_refused(call):
    with pytest.raises((AssertionError, TypeError), match=r"shape|rank|Type-check"):
        call(jnp.zeros((4, NUM_FEATURES)))


# Devices; more than one of them are in tests/multi


def test_a_mesh_of_one_device_gives_the_matrix_that_it_gives_alone():
    mesh = jax.make_mesh((1,), ("data",), axis_types=(AxisType.Auto,))
    X, Z = vectors()
    for kernel in (linear, functools.partial(rbf, gamma=WIDTHS), laplacian):
        for columns in (None, Z):
            ours = kernels.gram(kernel, X, columns, mesh=mesh)
            np.testing.assert_allclose(ours, kernels.gram(kernel, X, columns), rtol=1e-6, atol=1e-6)
    with pytest.raises(ValueError, match="gamma is -1"):
        kernels.gram(functools.partial(rbf, gamma=-1.0), X, mesh=mesh)
    with pytest.raises(ValueError, match="no axis 'rows'"):
        kernels.gram(linear, X, mesh=mesh, axis="rows")
    assert kernels.gram(linear, X[:0], mesh=mesh).shape == (0, 0)
