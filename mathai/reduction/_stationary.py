"""Embeddings at which the divergence of t-SNE is stationary, with derivatives in the data."""

import functools

import chex
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Shaped

from mathai.reduction import _distances, _perplexity
from mathai.reduction._arrays import check_finite, contract, promote
from mathai.reduction._neighborhoods import check_perplexity

HALVINGS = 30  # of a step that does not lower the divergence


def stationary_embedding(
    X: Shaped[ArrayLike, "n features"],
    Y: Float[ArrayLike, "n components"],
    *,
    perplexity: ArrayLike = 30.0,
    tolerance: float | None = None,
    max_iterations: int = 200,
) -> Float[Array, "n components"]:
    """The embedding at which the divergence is stationary, near a given one; differentiable in the data.

        ∇_Y KL(P(X) ‖ Q(Y*)) = 0,      dY* = −H⁺ ∂_X ∇_Y KL dX,      H = ∇²_Y KL

    Affinities are of all pairs, and every step is Newton's with |eigenvalues|, halved until the divergence falls.
    Shifts and rotations of Y* change nothing: derivatives are taken at right angles to them, which is what the
    pseudo-inverse H⁺ does. Memory and time grow as (n·components)² and ³: for up to a few hundred points.
    Only reverse mode is defined.

    Args:
      X: the data.
      Y: where to begin: what `embed` gave. It has no derivative.
      perplexity: as in `conditional_affinities`, differentiable too.
      tolerance: of the largest component of the gradient; None takes 10 roundings.
      max_iterations: Newton steps at most.

    Returns:
      Y*, in the dtype of both.

    Raises:
      ValueError: a perplexity that is known and out of range.
      AssertionError: X and Y have not one row for each point.

    Source:
      Krantz & Parks (2002), The Implicit Function Theorem, theorem 3.3.1; Dauphin et al. (2014), Identifying and
      attacking the saddle point problem, algorithm 1.

    >>> X = jax.random.normal(jax.random.key(0), (8, 3))
    >>> stationary_embedding(X, X[:, :2], perplexity=3.0).shape
    (8, 2)
    """
    chex.assert_rank([X, Y], 2)
    chex.assert_equal_shape_prefix([jnp.asarray(X), jnp.asarray(Y)], 1)
    check_finite("stationary_embedding: X", X)
    check_finite("stationary_embedding: Y", Y)
    check_perplexity("stationary_embedding", perplexity, jnp.shape(X)[0] - 1)
    (X, Y, perplexity), dtype = promote(X, Y, perplexity)
    least = 10 * float(jnp.finfo(Y.dtype).eps) if tolerance is None else tolerance
    return _solve(least, max_iterations, X, perplexity, jax.lax.stop_gradient(Y)).astype(dtype)


def _divergence(X, perplexity, Y):
    from mathai.reduction.tsne import joint_affinities, kl_divergence

    squares = _distances.squared_distances(X, X)
    P = joint_affinities(_perplexity.affinities(squares, ~jnp.eye(len(X), dtype=bool), perplexity))
    return kl_divergence(P, Y)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _solve(tolerance, max_iterations, X, perplexity, Y):
    def objective(y):
        return _divergence(X, perplexity, y.reshape(Y.shape))

    def is_open(state):
        step, _, gradient, moved = state
        return (step < max_iterations) & (jnp.max(jnp.abs(gradient)) > tolerance) & moved

    def newton(state):
        step, y, gradient, _ = state
        values, vectors = jnp.linalg.eigh(jax.hessian(objective)(y))
        size = jnp.maximum(jnp.abs(values), 1e-6 * jnp.max(jnp.abs(values)))
        direction = -contract("ij,j->i", vectors, contract("ji,j->i", vectors, gradient) / size)
        now = objective(y)

        def is_too_long(trial):
            length, halvings = trial
            return (halvings < HALVINGS) & ~(objective(y + length * direction) < now)

        length, halvings = jax.lax.while_loop(
            is_too_long, lambda trial: (trial[0] / 2, trial[1] + 1), (jnp.ones((), y.dtype), 0)
        )
        # Where rounding hides the fall of the divergence, a whole step that lowers the gradient still counts.
        whole = jax.grad(objective)(y + direction)
        is_better = jnp.max(jnp.abs(whole)) < jnp.max(jnp.abs(gradient))
        length = jnp.where(halvings < HALVINGS, length, jnp.where(is_better, 1.0, 0.0)).astype(y.dtype)
        y = y + length * direction
        return step + 1, y, jax.grad(objective)(y), length > 0

    y = Y.reshape(-1)
    end = jax.lax.while_loop(is_open, newton, (0, y, jax.grad(objective)(y), jnp.bool_(True)))
    return end[1].reshape(Y.shape)


def _forward(tolerance, max_iterations, X, perplexity, Y):
    solution = _solve(tolerance, max_iterations, X, perplexity, Y)
    return solution, (X, perplexity, solution)


def _backward(tolerance, max_iterations, residuals, cotangent):
    del tolerance, max_iterations
    X, perplexity, Y = residuals
    c = Y.shape[1]
    flat = Y.reshape(-1)
    values, vectors = jnp.linalg.eigh(jax.hessian(lambda y: _divergence(X, perplexity, y.reshape(Y.shape)))(flat))
    # Shifts along c axes and rotations in c (c − 1) / 2 planes have no curvature.
    order = jnp.argsort(jnp.abs(values))
    is_free = jnp.zeros(len(flat), bool).at[order[: c + c * (c - 1) // 2]].set(True)
    inverse = jnp.where(is_free, 0, 1 / jnp.where(is_free, 1, values))
    along = inverse * contract("ji,j->i", vectors, cotangent.reshape(-1))
    adjoint = contract("ij,j->i", vectors, along).reshape(Y.shape)
    _, pull_back = jax.vjp(lambda x, p: jax.grad(_divergence, argnums=2)(x, p, Y), X, perplexity)
    of_X, of_perplexity = pull_back(-adjoint)
    return of_X, of_perplexity, jnp.zeros_like(Y)


_solve.defvjp(_forward, _backward)
