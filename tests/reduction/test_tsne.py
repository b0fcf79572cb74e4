"""Affinities, divergence and stationary embeddings of t-SNE against float64, scikit-learn and closed forms."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from sklearn.manifold import _t_sne
from sklearn.manifold._utils import _binary_search_perplexity

from mathai.reduction import tsne

conditional_affinities = jax.jit(tsne.conditional_affinities)
refused = functools.partial(pytest.raises, (AssertionError, TypeError), match=r"shape|rank|square|Type-check")


def points(n=30, d=4, seed=0):
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


def squares_of(X):
    """‖xᵢ − xⱼ‖² in float64."""
    X = np.asarray(X, np.float64)
    return ((X[:, None] - X[None]) ** 2).sum(-1)


def perplexities(P):
    """exp of each row's entropy, in float64."""
    P = np.asarray(P, np.float64)
    return np.exp(-np.sum(P * np.log(np.where(P > 0, P, 1)), axis=1))


def conditional_by_bisection(squares, perplexity):
    """p_{j|i} by its definition in float64, bisecting log β to the last digit."""
    squares = np.array(squares, np.float64)
    np.fill_diagonal(squares, np.inf)
    squares -= squares.min(1, keepdims=True)
    low, high = np.full((len(squares), 1), -90.0), np.full((len(squares), 1), 90.0)
    for _ in range(120):
        log_beta = (low + high) / 2
        P = np.exp(-np.exp(log_beta) * squares)
        P /= P.sum(1, keepdims=True)
        is_wide = (perplexities(P) > perplexity)[:, None]
        low, high = np.where(is_wide, log_beta, low), np.where(is_wide, high, log_beta)
    return P


def joint(X, perplexity):
    P = conditional_by_bisection(squares_of(X), perplexity)
    return (P + P.T) / (2 * len(P))


def divergence(P, Y):
    """KL(P ‖ Q) in float64."""
    kernel = 1 / (1 + squares_of(Y))
    np.fill_diagonal(kernel, 0)
    P, Q = np.asarray(P, np.float64), kernel / kernel.sum()
    counts = P > 0
    return np.sum(P[counts] * np.log(P[counts] / Q[counts]))


# Conditional affinities


@pytest.mark.parametrize("perplexity", [1.001, 1.5, 5.0, 15.0, 27.0, 28.9])
def test_every_row_has_the_perplexity_and_the_affinities_of_the_definition(perplexity):
    squares = squares_of(points()).astype(np.float32)
    P = np.asarray(conditional_affinities(squares, perplexity))
    np.testing.assert_allclose(perplexities(P), perplexity, atol=1e-4)
    np.testing.assert_allclose(P.sum(1), 1, rtol=1e-6)
    np.testing.assert_array_equal(np.diag(P), 0)
    if 1.1 < perplexity < 28:
        expected = conditional_by_bisection(squares, perplexity)
        counts = expected > 1e-6
        np.testing.assert_allclose(P[counts], expected[counts], rtol=2e-5 if perplexity < 2 else 1e-5)


def test_conditional_and_joint_affinities_are_those_of_scikit_learn():
    squares = squares_of(points()).astype(np.float32)
    P = np.asarray(conditional_affinities(squares, 7.0))
    others = ~np.eye(30, dtype=bool)
    peer = np.zeros((30, 30))
    peer[others] = _binary_search_perplexity(squares[others].reshape(30, 29), 7.0, 0).reshape(-1)
    counts = peer > 1e-6
    np.testing.assert_allclose(P[counts], peer[counts], rtol=2e-4)  # its entropies are right to 1e-5
    of_all = np.asarray(tsne.joint_affinities(jnp.asarray(P)))
    peer = _t_sne._joint_probabilities(squares, 7.0, 0)
    np.testing.assert_allclose(of_all[np.triu_indices(30, 1)], peer, rtol=2e-4, atol=1e-8)


def test_lists_of_neighbours_have_the_affinities_of_the_matrix():
    squares = squares_of(points()).astype(np.float32)
    others = ~np.eye(30, dtype=bool)
    P = tsne.neighbor_affinities(squares[others].reshape(30, 29), 7.0)
    np.testing.assert_allclose(P.reshape(-1), np.asarray(conditional_affinities(squares, 7.0))[others], rtol=1e-6)


@pytest.mark.parametrize("unit", [1e-24, 1e-12, 1e-3, 1e3, 1e12, 1e24])
def test_units_change_nothing(unit):
    """Distances of 1e-12 … 1e12 times; an outlier and duplicates included."""
    X = points()
    X[0], X[1:4] = 1e3, X[4]
    squares = squares_of(X).astype(np.float32)
    P = conditional_affinities((squares * unit).astype(np.float32), 5.0)
    np.testing.assert_allclose(perplexities(P), 5, atol=1e-4)
    np.testing.assert_allclose(P, conditional_by_bisection(squares, 5.0), rtol=1e-3, atol=1e-5)
    alike = np.zeros((8, 8), np.float32) + unit * np.repeat([0, 1], [6, 2]).astype(np.float32)
    P = tsne.neighbor_affinities(alike, 3.0)
    np.testing.assert_allclose(P, np.tile([1 / 6] * 6 + [0] * 2, (8, 1)), rtol=1e-6)


@pytest.mark.parametrize("unit", [1e-24, 1.0, 1e24])
def test_derivatives_have_the_inverse_unit_of_the_distances(unit):
    """p of d² at the unit has 1 / unit times the derivatives, and those in perplexity are the same."""
    squares = squares_of(points(9)).astype(np.float32)
    first = jax.jit(jax.grad(lambda d2, u: tsne.conditional_affinities(d2, u)[0, 1], argnums=(0, 1)))
    of_squares, of_perplexity = first((squares * unit).astype(np.float32), 3.0)
    expected = first(squares, 3.0)
    np.testing.assert_allclose(np.asarray(of_squares, np.float64) * unit, expected[0], rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(of_perplexity, expected[1], rtol=1e-3)


@pytest.mark.parametrize("distance", [0.0, 1e-6, 1.0, 1e6])
def test_points_at_one_distance_share_a_row_evenly(distance):
    squares = np.full((8, 8), distance, np.float32)
    value, gradient = jax.jit(jax.value_and_grad(lambda u: tsne.conditional_affinities(squares, u)[0, 1]))(3.0)
    assert (value, gradient) == (pytest.approx(1 / 7), 0)
    np.testing.assert_allclose(conditional_affinities(squares, 3.0), (1 - np.eye(8)) / 7, rtol=1e-6)


def test_duplicates_beyond_the_perplexity_share_a_row_evenly():
    X = np.concatenate([np.zeros((6, 2)), points(4, 2) + 5]).astype(np.float32)
    P = np.asarray(conditional_affinities(squares_of(X).astype(np.float32), 3.0))
    np.testing.assert_allclose(P[:6, :6], (1 - np.eye(6)) / 5, rtol=1e-6)
    np.testing.assert_array_equal(P[:6, 6:], 0)
    np.testing.assert_allclose(perplexities(P[6:]), np.maximum(3, perplexities(P[6:])), atol=1e-4)
    gradient = jax.grad(
        lambda X: jnp.sum(tsne.conditional_affinities(jnp.sum((X[:, None] - X[None]) ** 2, -1), 3.0)[:, 0])
    )
    assert np.isfinite(gradient(jnp.asarray(X))).all()


def test_infinite_distances_are_no_neighbours():
    near = squares_of(points(12))[:, 1:].astype(np.float32)
    far = np.full((12, 3), np.inf, np.float32)
    P = np.asarray(tsne.neighbor_affinities(np.concatenate([near, far], axis=1), 4.0))
    np.testing.assert_array_equal(P[:, 11:], 0)
    np.testing.assert_allclose(P[:, :11], tsne.neighbor_affinities(near, 4.0), rtol=1e-6)
    np.testing.assert_array_equal(tsne.neighbor_affinities(far, 2.0), np.zeros((12, 3)))
    gradient = jax.grad(lambda u: tsne.neighbor_affinities(np.concatenate([near, far], axis=1), u)[0, 0])(4.0)
    assert np.isfinite(gradient)


@pytest.mark.parametrize("perplexity", [1.5, 3.0, 6.5])
def test_derivatives_of_affinities_agree_with_differences(perplexity):
    with jax.enable_x64(True):
        squares = jnp.asarray(squares_of(points(9)))
        check_grads(jax.jit(tsne.conditional_affinities), (squares, perplexity), 1, modes=("fwd", "rev"), rtol=1e-5)
        lists = squares[:, 1:].at[:, 0].set(jnp.inf)
        of_lists = jax.jit(lambda d2, u: tsne.neighbor_affinities(lists.at[:, 1:].set(d2), u))
        check_grads(of_lists, (lists[:, 1:], min(perplexity, 5.0)), 1, modes=("fwd", "rev"), rtol=1e-5)


def test_affinities_map_over_perplexities():
    squares = squares_of(points()).astype(np.float32)
    values = np.array([2.0, 5.0, 20.0], np.float32)
    together = jax.vmap(conditional_affinities, (None, 0))(squares, values)
    for P, perplexity in zip(together, values, strict=True):
        np.testing.assert_allclose(P, conditional_affinities(squares, perplexity), rtol=2e-5, atol=1e-9)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64", "int32"])
def test_affinities_in_every_dtype(dtype):
    with jax.enable_x64(dtype == "float64"):
        squares = jnp.asarray(4 * squares_of(points(12)), dtype)
        P = tsne.conditional_affinities(squares, 4.0)
        expected = "float32" if dtype == "int32" else dtype
        assert P.dtype == tsne.joint_affinities(P).dtype == expected
        eps = max(float(jnp.finfo(P.dtype).eps), 1e-6) if dtype != "float64" else 1e-9
        exact = conditional_by_bisection(squares.astype(float), 4.0)
        np.testing.assert_allclose(P.astype(float), exact, rtol=10 * eps, atol=eps)
        Y = jnp.asarray(points(12, 2), P.dtype)
        loss, force = tsne.kl_divergence(tsne.joint_affinities(P), Y), tsne.gradient(tsne.joint_affinities(P), Y)
        assert loss.dtype == force.dtype == tsne.student_t_affinities(Y).dtype == expected
        np.testing.assert_allclose(
            loss.astype(float), divergence((exact + exact.T) / 24, Y.astype(float)), rtol=4 * eps, atol=4 * eps
        )


@pytest.mark.parametrize("perplexity", [0.5, 0.0, -1.0, 7.0, 30.0, np.nan])
def test_a_perplexity_out_of_range_is_refused(perplexity):
    with pytest.raises(ValueError, match=r"conditional_affinities: perplexity is .* less than the number of .* 7"):
        tsne.conditional_affinities(np.zeros((8, 8), np.float32), perplexity)
    with pytest.raises(ValueError, match="neighbor_affinities: perplexity"):
        tsne.neighbor_affinities(np.zeros((8, 7), np.float32), perplexity)


def test_affinities_of_other_shapes_are_refused():
    Y = np.zeros((3, 2), np.float32)
    for call in (
        lambda: tsne.conditional_affinities(np.zeros((8, 7), np.float32), 3.0),
        lambda: tsne.conditional_affinities(np.zeros(8, np.float32), 3.0),
        lambda: tsne.neighbor_affinities(np.zeros(8, np.float32), 3.0),
        lambda: tsne.joint_affinities(jnp.zeros((8, 7))),
        lambda: tsne.student_t_affinities(jnp.zeros(8)),
        lambda: tsne.kl_divergence(jnp.zeros((3, 1)), jnp.asarray(Y)),
        lambda: tsne.gradient(jnp.zeros((1, 3)), jnp.asarray(Y)),
    ):
        with refused():
            call()


# Joint affinities, those of the embedding, and their divergence


def test_joint_affinities_are_one_symmetric_distribution():
    P = np.asarray(tsne.joint_affinities(conditional_affinities(squares_of(points()).astype(np.float32), 5.0)))
    np.testing.assert_array_equal(P, P.T)
    np.testing.assert_array_equal(np.diag(P), 0)
    assert P.sum() == pytest.approx(1, rel=1e-6)
    np.testing.assert_allclose(P, joint(points(), 5.0), rtol=1e-4, atol=1e-9)


def test_student_t_affinities_by_hand():
    """At 0, 1 and 3 on a line: kernels ½, ⅒ and ⅕, each of two ordered pairs."""
    expected = np.array([[0, 0.5, 0.1], [0.5, 0, 0.2], [0.1, 0.2, 0]]) / 1.6
    np.testing.assert_allclose(tsne.student_t_affinities(jnp.array([[0.0], [1.0], [3.0]])), expected, rtol=1e-6)
    np.testing.assert_allclose(tsne.student_t_affinities(jnp.zeros((4, 2))), (1 - np.eye(4)) / 12, rtol=1e-6)


def test_the_divergence_from_itself_is_zero_and_so_is_its_slope():
    Y = jnp.asarray(points(12, 2))
    Q = tsne.student_t_affinities(Y)
    value, slope = jax.value_and_grad(tsne.kl_divergence, argnums=1)(Q, Y)
    assert abs(value) < 3e-6
    np.testing.assert_allclose(slope, np.zeros((12, 2)), atol=1e-6)
    np.testing.assert_allclose(tsne.gradient(Q, Y), np.zeros((12, 2)), atol=1e-6)


def test_divergence_by_hand():
    """All of p on one pair of three equidistant points, a sixth of q on each ordered pair: KL = log 3."""
    P = jnp.zeros((3, 3)).at[0, 1].set(0.5).at[1, 0].set(0.5)
    assert tsne.kl_divergence(P, jnp.zeros((3, 2))) == pytest.approx(np.log(3), rel=1e-6)
    assert tsne.kl_divergence(P + 7 * jnp.eye(3), jnp.zeros((3, 2))) == pytest.approx(np.log(3), rel=1e-6)


@pytest.mark.parametrize("num_components", [1, 2, 3])
def test_divergence_and_gradient_in_float64(num_components):
    with jax.enable_x64(True):
        P = joint(points(12), 3.0)
        P[:3, 5:], P[5:, :3] = 0, 0
        P = jnp.asarray(P / P.sum())
        Y = jnp.asarray(points(12, num_components), jnp.float64)
        value, (of_P, of_Y) = jax.jit(jax.value_and_grad(tsne.kl_divergence, argnums=(0, 1)))(P, Y)
        assert value == pytest.approx(divergence(P, Y), rel=1e-13)
        np.testing.assert_allclose(jax.jit(tsne.gradient)(P, Y), of_Y, rtol=1e-10, atol=1e-14)
        np.testing.assert_allclose(tsne.gradient(P + jnp.eye(12), Y), of_Y, rtol=1e-10, atol=1e-14)
        counts = np.asarray(P) > 0
        Q = np.where(counts, tsne.student_t_affinities(Y), 1)
        expected = np.where(counts, np.log(np.where(counts, P, 1) / Q) + 1, 0)
        np.testing.assert_allclose(of_P, expected, rtol=1e-12, atol=1e-12)
        check_grads(lambda Y: tsne.kl_divergence(P, jnp.asarray(Y)), (Y,), 1, modes=("fwd", "rev"))


def test_coincident_points_have_a_gradient():
    P, Y = jnp.asarray(joint(points(6), 2.0), jnp.float32), jnp.zeros((6, 2))
    np.testing.assert_array_equal(tsne.gradient(P, Y), np.zeros((6, 2)))
    np.testing.assert_array_equal(jax.grad(tsne.kl_divergence, argnums=1)(P, Y), np.zeros((6, 2)))


def test_divergence_maps_over_embeddings():
    P, Y = jnp.asarray(joint(points(12), 3.0), jnp.float32), jnp.asarray(points(24, 2).reshape(2, 12, 2))
    for y, value, force in zip(
        Y, jax.vmap(tsne.kl_divergence, (None, 0))(P, Y), jax.vmap(tsne.gradient, (None, 0))(P, Y), strict=True
    ):
        assert value == pytest.approx(divergence(P, y), rel=1e-5)
        np.testing.assert_allclose(force, tsne.gradient(P, y), atol=1e-6)


# Stationary embeddings


@pytest.fixture(scope="module")
def stationary():
    """A compiled solver of 8 points in float64, the data, where it ends, and derivatives there."""
    with jax.enable_x64(True):
        X = jnp.asarray(points(8, 3), jnp.float64)
        solve = jax.jit(lambda X, Y, u: tsne.stationary_embedding(X, Y, perplexity=u))
        Y = solve(X, X[:, :2], 5.0)
        derivatives = jax.jit(jax.jacrev(lambda X, u: solve(X, Y, u), argnums=(0, 1)))(X, 5.0)
    return solve, X, Y, derivatives


def test_a_stationary_embedding_has_no_gradient_and_is_a_minimum(stationary):
    solve, X, Y, _ = stationary
    with jax.enable_x64(True):
        P = joint(X, 5.0)  # affinities of ours have perplexities that are right to 1e-10
        np.testing.assert_allclose(tsne.gradient(jnp.asarray(P), Y), np.zeros((8, 2)), atol=1e-11)
        ours = tsne.joint_affinities(tsne.conditional_affinities(jnp.asarray(squares_of(X)), 5.0))
        np.testing.assert_allclose(tsne.gradient(ours, Y), np.zeros((8, 2)), atol=1e-14)
        curvature = jax.hessian(lambda y: tsne.kl_divergence(jnp.asarray(P), y.reshape(8, 2)))(Y.reshape(-1))
        values = np.linalg.eigvalsh(curvature)
        np.testing.assert_allclose(np.sort(np.abs(values))[:3], 0, atol=1e-9)  # two shifts and a rotation
        assert values.min() > -1e-9
        np.testing.assert_allclose(solve(X, Y, 5.0), Y, atol=1e-9)


@pytest.mark.parametrize("direction", [1, 2, 3, "perplexity"])
def test_derivatives_of_a_stationary_embedding_agree_with_differences(stationary, direction):
    """Differences are freed of shifts and of the rotation, along which an end is where the way has led."""
    solve, X, Y, (of_X, of_perplexity) = stationary
    step = 1e-5
    with jax.enable_x64(True):
        if direction == "perplexity":
            difference = (solve(X, Y, 5 + step) - solve(X, Y, 5 - step)) / (2 * step)
            derivative = of_perplexity
        else:
            towards = jnp.asarray(np.random.default_rng(direction).normal(size=(8, 3)))
            difference = (solve(X + step * towards, Y, 5.0) - solve(X - step * towards, Y, 5.0)) / (2 * step)
            derivative = jnp.einsum("ncmd,md->nc", of_X, towards)
        difference = np.asarray(difference) - np.mean(np.asarray(difference), axis=0)
        turn = (np.asarray(Y) - np.asarray(Y).mean(0)) @ np.array([[0.0, 1.0], [-1.0, 0.0]])
        difference = difference - turn * np.sum(turn * difference) / np.sum(turn**2)
    assert np.linalg.norm(difference) > 1e-3
    np.testing.assert_allclose(derivative, difference, atol=1e-5 * np.abs(difference).max() + 1e-7)


def test_the_size_of_the_data_does_not_move_a_stationary_embedding(stationary):
    _, X, _, (of_X, _) = stationary
    np.testing.assert_allclose(np.einsum("ncmd,md->nc", of_X, X), np.zeros((8, 2)), atol=1e-7)


def test_a_stationary_embedding_refuses_what_does_not_fit():
    X = points(8, 3)
    with refused():
        tsne.stationary_embedding(X, X[:5, :2], perplexity=3.0)
    with refused():
        tsne.stationary_embedding(X, X[:, 0], perplexity=3.0)
    with pytest.raises(ValueError, match="stationary_embedding: perplexity is 30"):
        tsne.stationary_embedding(X, X[:, :2])
