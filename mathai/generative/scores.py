"""How far samples are from data: sliced Wasserstein distance, maximum mean discrepancy, Fréchet distance.

Of finite samples of one law none of them is exactly 0: read them beside the same number for two samples of the data.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Key, UInt32

from mathai.generative._steps import root
from mathai.nn import _numerics

__all__ = ["frechet_distance", "maximum_mean_discrepancy", "sliced_wasserstein"]

PRNGKey = Key[Array, ""] | UInt32[Array, "..."]


def sliced_wasserstein(
    key: PRNGKey, x: Float[ArrayLike, "n features"], y: Float[ArrayLike, "n features"], *, num_projections: int = 128
) -> Float[Array, ""]:
    """Wasserstein distance of order 2 along random lines: sorting instead of transport.

        SW₂² = mean over unit vectors θ of 1/n Σᵢ (⟨θ, x⟩₍ᵢ₎ − ⟨θ, y⟩₍ᵢ₎)²

    Args:
      key: of the lines.
      x: n points.
      y: as many.
      num_projections: lines.

    Returns:
      SW₂, in the units of x; at 0 its gradient is 0.

    Raises:
      AssertionError: the shapes differ.
      TypeError: x is not floating.
      ValueError: there are no points or no lines, or x is not [points, features].

    Source:
      Bonneel, Rabin, Peyré & Pfister (2015), Sliced and Radon Wasserstein Barycenters of Measures, section 2.

    >>> x = jax.random.normal(jax.random.key(0), (100, 1))
    >>> round(float(sliced_wasserstein(jax.random.key(1), x, x + 2)), 3)
    2.0
    """
    _numerics.assert_equal_shape(x, y)
    (x, y), dtype = _numerics.upcast(x, y)
    _check_points(x, y, least=1)
    if num_projections < 1:
        raise ValueError(f"num_projections is {num_projections}; it must be at least 1")
    lines = jax.random.normal(key, (x.shape[1], num_projections), x.dtype)
    lines = lines / jnp.linalg.norm(lines, axis=0, keepdims=True)
    difference = jnp.sort(_product(x, lines), 0) - jnp.sort(_product(y, lines), 0)
    return root(jnp.mean(difference**2)).astype(dtype)


def maximum_mean_discrepancy(
    x: Float[ArrayLike, "n features"], y: Float[ArrayLike, "m features"], *, bandwidth: Float[ArrayLike, ""] | float
) -> Float[Array, ""]:
    """Squared distance of the laws' mean embeddings in a Gaussian kernel's space, without bias.

        MMD² = mean_{i≠j} k(xᵢ, xⱼ) + mean_{i≠j} k(yᵢ, yⱼ) − 2 mean k(xᵢ, yⱼ),   k(a, b) = exp(−‖a − b‖²/(2h²))

    Its mean is 0 where the laws are one, so that it may be negative. Memory grows with n m.

    Args:
      x: n ≥ 2 points.
      y: m ≥ 2 points.
      bandwidth: h > 0, in the units of x.

    Returns:
      MMD².

    Raises:
      TypeError: x is not floating.
      ValueError: x or y is not [points, features], they do not fit, or bandwidth is no scalar.

    Source:
      Gretton, Borgwardt, Rasch, Schölkopf & Smola (2012), A Kernel Two-Sample Test, lemma 6.

    >>> x, y = jnp.zeros((2, 1)), jnp.full((2, 1), 100.0)
    >>> maximum_mean_discrepancy(x, y, bandwidth=1.0).item()
    2.0
    """
    (x, y), dtype = _numerics.upcast(x, y)
    _numerics.assert_scalar("bandwidth", bandwidth)
    _check_points(x, y, least=2)
    h = jnp.asarray(bandwidth, x.dtype)
    middle = jax.lax.stop_gradient(jnp.mean(x, 0, keepdims=True))  # far from the origin squares would cancel
    x, y = x - middle, y - middle

    def kernel(a, b):
        squares = jnp.sum(a**2, 1)[:, None] + jnp.sum(b**2, 1)[None] - 2 * _product(a, b.T)
        return jnp.exp(-jnp.maximum(squares, 0) / (2 * h**2))

    def within(a):
        n = len(a)
        return jnp.sum(jnp.where(jnp.eye(n, dtype=bool), 0, kernel(a, a))) / (n * (n - 1))

    return (within(x) + within(y) - 2 * jnp.mean(kernel(x, y))).astype(dtype)


def frechet_distance(x: Float[ArrayLike, "n features"], y: Float[ArrayLike, "m features"]) -> Float[Array, ""]:
    """Squared Wasserstein distance of the Gaussians that have the points' means and covariances.

        FD = ‖μ − ν‖² + tr(Σ + Ω − 2(Σ^½ Ω Σ^½)^½)

    Of a classifier's features it is the Fréchet inception distance. It shrinks with the number of points: compare
    equal numbers. Differentiable where both covariances have distinct and positive eigenvalues.

    Args:
      x: n ≥ 2 points.
      y: m ≥ 2 points.

    Returns:
      FD, in squared units of x.

    Raises:
      TypeError: x is not floating.
      ValueError: x or y is not [points, features], or they do not fit.

    Source:
      Dowson & Landau (1982), The Fréchet Distance between Multivariate Normal Distributions; Heusel et al. (2017),
      GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium, eq. 6.

    >>> x = jnp.array([[0.0], [2.0]])
    >>> round(float(frechet_distance(x, 3 * x)), 3)  # means 1 and 3, standard deviations √2 and 3√2
    12.0
    """
    (x, y), dtype = _numerics.upcast(x, y)
    _check_points(x, y, least=2)
    (mean_x, root_x, total_x), (mean_y, root_y, total_y) = _moments(x), _moments(y)
    # tr (Σ^½ Ω Σ^½)^½ is the sum of the singular values of Ω^½ Σ^½: none of them can come out negative.
    cross = jnp.sum(jnp.linalg.svd(_product(root_y, root_x), compute_uv=False))
    distance = jnp.sum((mean_x - mean_y) ** 2) + total_x + total_y - 2 * cross
    return jnp.maximum(distance, 0).astype(dtype)


def _check_points(x: Array, y: Array, *, least: int) -> None:
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or min(len(x), len(y)) < least or not x.shape[1]:
        raise ValueError(
            f"x has shape {x.shape} and y {y.shape}; both must be [points, features], with as many features "
            f"and at least {least} of the points"
        )


def _moments(x: Array) -> tuple[Array, Array, Array]:
    """The mean, a root R of the covariance RᵀR, and the covariance's trace."""
    mean = jnp.mean(x, 0)
    centered = (x - mean[None]) / jnp.sqrt(jnp.asarray(len(x) - 1, x.dtype))
    values, vectors = jnp.linalg.eigh(_product(centered.T, centered))
    root = vectors * jnp.sqrt(jnp.maximum(values, 0))[None]
    return mean, _product(root, vectors.T), jnp.sum(centered**2)


def _product(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b, precision="highest")
