"""Four ways to the principal axes of a matrix, which all centre first and multiply then, and the model of the axes."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int, Key, Shaped, UInt32

from mathai.reduction._arrays import accumulator, contract
from mathai.reduction._moments import Moments, centred, moments_of

FEW_COMPONENTS = 0.1  # of min(n, d): so few are iterated more often, as their subspace is the harder to separate


class PCA(NamedTuple):
    """Principal components, the first that of the largest variance.

    Attributes:
      mean: μ of the rows.
      components: W, orthonormal rows; the loading of largest magnitude is positive in each.
      explained_variance: λ, the variance of the rows along each component, with divisor n − 1; descending.
      explained_variance_ratio: λ over the total variance, of all features; 0 where there is none.
      singular_values: √((n − 1)λ), those of the centred rows.
      noise_variance: σ², the mean variance along the axes that were left out; 0 where none was.
    """

    mean: Float[Array, "features"]
    components: Float[Array, "k features"]
    explained_variance: Float[Array, "k"]
    explained_variance_ratio: Float[Array, "k"]
    singular_values: Float[Array, "k"]
    noise_variance: Float[Array, ""]


class Spectrum(NamedTuple):
    """What a solver finds.

    Attributes:
      mean: μ.
      components: the first k principal axes, orthonormal rows.
      variances: along all min(n, d) axes where the solver knows them, else along the first k; descending, ≥ 0.
      total: the total variance, of the axes that are not known too.
    """

    mean: Float[Array, "features"]
    components: Float[Array, "k features"]
    variances: Float[Array, "r"]
    total: Float[Array, ""]


@functools.partial(jax.jit, static_argnums=(2, 3, 4, 5, 6))
def solve(
    X: Shaped[Array, "n features"],
    key: Key[Array, ""] | UInt32[Array, "..."] | None,
    num_components: int,
    solver: str,
    options: tuple[int, int | None],
    mesh: Mesh | None = None,
    axis: str | None = None,
) -> tuple[PCA, Bool[Array, ""]]:
    """The model by a solver, and whether it is finite; options are oversamples and power iterations.

    A mesh goes with "covariance" alone.
    """
    if not jnp.issubdtype(X.dtype, jnp.floating):
        X = X.astype(accumulator(X.dtype))
    if mesh is not None:
        spectrum = by_covariance(X, num_components, mesh=mesh, axis=axis)
    elif key is None:
        spectrum = {"covariance": by_covariance, "gram": by_gram, "svd": by_svd}[solver](X, num_components)
    else:
        spectrum = by_random_projection(X, num_components, key, options)
    return _model(spectrum, jnp.int32(len(X)), min(X.shape)), jnp.isfinite(spectrum.total)


@functools.partial(jax.jit, static_argnums=1)
def solve_moments(moments: Moments, num_components: int) -> PCA:
    """The model of the rows that moments were made of."""
    num_features = len(moments.mean)
    spectrum = of_scatter(moments.mean, moments.scatter, moments.count, num_components, num_features)
    return _model(spectrum, moments.count, jnp.minimum(moments.count, num_features))


def by_covariance(
    X: Shaped[Array, "n features"], num_components: int, *, mesh: Mesh | None = None, axis: str | None = None
) -> Spectrum:
    """The eigenvectors of the covariance matrix [d, d]; X is read once, block by block, on devices of a mesh or one."""
    moments = moments_of(X, mesh=mesh, axis=axis)
    return of_scatter(moments.mean, moments.scatter, jnp.int32(len(X)), num_components, min(X.shape))


def of_scatter(
    mean: Float[Array, "features"],
    scatter: Float[Array, "features features"],
    num_rows: Int[Array, ""],
    num_components: int,
    num_variances: int,
) -> Spectrum:
    """The eigenvectors of a scatter matrix over n − 1."""
    covariance = scatter / jnp.maximum(num_rows - 1, 1).astype(scatter.dtype)
    variances, vectors = jnp.linalg.eigh(covariance)
    components = with_signs(vectors[:, ::-1][:, :num_components].T)
    return Spectrum(mean, components, _clipped(variances[::-1][:num_variances]), jnp.trace(covariance))


def by_gram(X: Shaped[Array, "n features"], num_components: int) -> Spectrum:
    """The eigenvectors U of the Gram matrix YYᵀ [n, n] of centred rows; the axes are the directions of YᵀU.

    Those are orthogonal but for rounding, and at least one of them is 0: QR makes all orthonormal, the largest first.
    """
    Y, mean = centred(X)
    gram = contract("nd,md->nm", Y, Y) / (len(X) - 1)
    variances, vectors = jnp.linalg.eigh(gram)
    axes, _ = jnp.linalg.qr(contract("nd,nk->dk", Y, vectors[:, ::-1][:, :num_components]))
    return Spectrum(mean, with_signs(axes.T), _clipped(variances[::-1][: min(X.shape)]), jnp.trace(gram))


def by_svd(X: Shaped[Array, "n features"], num_components: int) -> Spectrum:
    """The right singular vectors of the centred rows: nothing is squared, so that small variances keep their digits."""
    Y, mean = centred(X)
    _, singular_values, axes = jnp.linalg.svd(Y, full_matrices=False)
    variances = singular_values**2 / (len(X) - 1)
    return Spectrum(mean, with_signs(axes[:num_components]), variances, jnp.sum(variances))


def by_random_projection(
    X: Shaped[Array, "n features"],
    num_components: int,
    key: Key[Array, ""] | UInt32[Array, "..."],
    options: tuple[int, int | None],
) -> Spectrum:
    """The singular vectors of the centred rows within the range of their product with a few random vectors."""
    Y, mean = centred(X)
    num_oversamples, num_power_iterations = options
    if num_power_iterations is None:
        num_power_iterations = 7 if num_components < FEW_COMPONENTS * min(X.shape) else 4
    sketch = jax.random.normal(key, (X.shape[1], min(num_components + num_oversamples, *X.shape)), Y.dtype)
    to_rows = lambda V: jnp.linalg.qr(contract("nd,dk->nk", Y, V))[0]  # noqa: E731
    to_features = lambda U: jnp.linalg.qr(contract("nd,nk->dk", Y, U))[0]  # noqa: E731
    basis = jax.lax.fori_loop(0, num_power_iterations, lambda _, U: to_rows(to_features(U)), to_rows(sketch))
    _, singular_values, axes = jnp.linalg.svd(contract("nk,nd->kd", basis, Y), full_matrices=False)
    variances = singular_values[:num_components] ** 2 / (len(X) - 1)
    return Spectrum(mean, with_signs(axes[:num_components]), variances, jnp.sum(Y * Y) / (len(X) - 1))


def with_signs(components: Float[Array, "k features"]) -> Float[Array, "k features"]:
    """The same axes, each in the direction in which its largest loading is positive."""
    largest = jnp.argmax(jnp.abs(components), axis=1, keepdims=True)
    return jnp.where(jnp.take_along_axis(components, largest, axis=1) < 0, -components, components)


def _clipped(variances: Float[Array, "r"]) -> Float[Array, "r"]:
    """No variance is negative, but for rounding; NaN stays."""
    return jnp.where(variances < 0, 0, variances)


def _model(spectrum: Spectrum, num_rows: Array, num_axes: int | Array) -> PCA:
    """The model of a spectrum; `num_axes`, min(n, d), are those that can have variance."""
    mean, components, variances, total = spectrum
    k = len(components)
    has_variance = total != 0
    ratios = jnp.where(has_variance, variances[:k] / jnp.where(has_variance, total, 1), 0)
    left_out = jnp.sum(variances[k:]) if len(variances) > k else jnp.maximum(total - jnp.sum(variances), 0)
    noise = jnp.where(num_axes > k, left_out / jnp.maximum(num_axes - k, 1), 0).astype(total.dtype)
    squares = variances[:k] * jnp.maximum(num_rows - 1, 1).astype(total.dtype)
    singular_values = jnp.where(squares == 0, 0, jnp.sqrt(jnp.where(squares == 0, 1, squares)))
    return PCA(mean, components, variances[:k], ratios, singular_values, noise)
