"""Principal component analysis: of a matrix, of a stream, and as a probabilistic model.

A model holds its statistics in at least float32; what is computed of rows comes back in the dtype of the rows.
"""

import math
import operator

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, Key, Shaped, UInt32

from mathai.nn._sharding import check_mesh
from mathai.reduction import _pca_solvers
from mathai.reduction._arrays import accumulator, contract
from mathai.reduction._moments import (
    Moments,
    check_finite,
    init_moments,
    merge_moments,
    update_moments,
)
from mathai.reduction._pca_solvers import PCA

__all__ = [
    "PCA",
    "SOLVERS",
    "Moments",
    "choose_num_components",
    "fit",
    "fit_from_moments",
    "init_moments",
    "inverse_transform",
    "log_likelihood",
    "merge_moments",
    "transform",
    "update_moments",
]

SOLVERS = ("auto", "covariance", "gram", "svd", "randomized")
ROUNDINGS = 4  # units in the last place that sums of ratios may fall short of a threshold


def fit(
    X: Shaped[ArrayLike, "n features"],
    *,
    num_components: int | float | None = None,
    solver: str = "auto",
    key: Key[Array, ""] | UInt32[Array, "..."] | None = None,
    num_oversamples: int = 10,
    num_power_iterations: int | None = None,
    mesh: Mesh | None = None,
    axis: str = "data",
) -> PCA:
    """The principal components of the rows of a matrix.

        Σ = 1/(n − 1) Σᵢ (xᵢ − μ)(xᵢ − μ)ᵀ = Σⱼ λⱼ wⱼwⱼᵀ,   λ₁ ≥ λ₂ ≥ …,   W = (w₁, …, w_k)ᵀ

    Rows are centred first and multiplied then, so that in float32 an offset of 10⁴ standard deviations costs nothing.
    The variances are differentiable where they are distinct, the components too (by "covariance" and "svd").

    Args:
      X: one example in each row, n ≥ 2; integers and booleans count as JAX's default float.
      num_components: k, from 1 to min(n, d); or a float in (0, 1), for the fewest whose ratios sum to it, which needs
        an X that is known; None keeps min(n, d).
      solver: "covariance", eigenvectors of a d × d matrix, for which X is read block by block and never copied; "gram",
        of an n × n matrix; "svd", of X centred, the slowest, which squares nothing and so tells variances below 10⁻⁷ of
        the largest from 0 in float32; "randomized", a projection for few components of large matrices, approximate.
        "auto" takes "covariance" where n ≥ d, else "gram".
      key: of "randomized", which needs it.
      num_oversamples: random directions of "randomized" beyond k.
      num_power_iterations: of "randomized"; None takes 7 where k < min(n, d) / 10, else 4.
      mesh: devices to share the rows, with axes of type Auto; None is one device. "auto" is then "covariance", the only
        solver that a mesh goes with.
      axis: of the mesh, over which rows are spread; over its other axes all is replicated.

    Returns:
      The model, in the dtype of X but at least float32; on all devices of the mesh.

    Raises:
      AssertionError: X is not a matrix.
      ValueError: X has fewer than 2 rows or no columns, num_components is out of range or a float that cannot be met
        (X is traced, or the solver is "randomized"), the solver is unknown, has no key or goes with no mesh, the mesh
        has no such axis; outside jit: X holds NaN or infinite numbers, or overflows. Inside, such X gives NaN.

    Source:
      Jolliffe (2002), Principal Component Analysis, section 3.5 (the singular value decomposition); Chan, Golub &
      LeVeque (1983), Algorithms for Computing the Sample Variance, for blocks; Halko, Martinsson & Tropp (2011),
      Finding Structure with Randomness, algorithms 4.4 and 5.1.

    >>> model = fit(jnp.array([[0.0, 1.0], [2.0, 1.0], [4.0, 1.0]]), num_components=1)
    >>> model.mean, model.components, model.explained_variance
    (Array([2., 1.], dtype=float32), Array([[1., 0.]], dtype=float32), Array([4.], dtype=float32))
    """
    X = jnp.asarray(X)
    chex.assert_rank(X, 2)
    if X.shape[0] < 2 or X.shape[1] < 1:
        raise ValueError(
            f"fit: X has {X.shape[0]} rows and {X.shape[1]} columns; it needs 2 rows and 1 column or more."
        )
    if solver not in SOLVERS:
        raise ValueError(f"fit: solver {solver!r} is unknown; use one of {', '.join(SOLVERS)}.")
    share = _share_of(num_components)
    check_mesh("fit", mesh, axis)
    if solver == "auto":
        solver = "covariance" if mesh is not None or X.shape[0] >= X.shape[1] else "gram"
    if mesh is not None and solver != "covariance":
        raise ValueError(
            f"fit: solver {solver!r} does not go by moments, which is what devices share; "
            "with a mesh use 'covariance' or 'auto'."
        )
    if solver == "randomized" and (key is None or share):
        raise ValueError(
            "fit: solver 'randomized' needs a key and an integer num_components or None; "
            f"got key {key} and num_components {num_components}."
        )
    if num_oversamples < 0 or (num_power_iterations is not None and num_power_iterations < 0):
        raise ValueError(
            f"fit: num_oversamples is {num_oversamples} and num_power_iterations {num_power_iterations}; "
            "neither may be negative."
        )
    most = min(X.shape)
    k = most if num_components is None or share else _checked(num_components, most, "min(n, d)")
    options = (num_oversamples, num_power_iterations)
    model, is_finite = _pca_solvers.solve(X, key if solver == "randomized" else None, k, solver, options, mesh, axis)
    check_finite("fit: X", is_finite, X)
    return _first(model, share) if share else model


def fit_from_moments(moments: Moments, *, num_components: int | None = None) -> PCA:
    """The principal components of all rows that moments were made of.

        Σ = S / (n − 1) = Σⱼ λⱼ wⱼwⱼᵀ

    Args:
      moments: of 2 rows or more.
      num_components: k, from 1 to d; None keeps d, as n is no shape. Beyond n − 1 of them variances are 0.

    Returns:
      The model, equal up to rounding to that of `fit` on the rows together. Where only a running program can know that
      there are fewer than 2 rows, all variances are 0.

    Raises:
      ValueError: num_components is out of range; outside jit: there are fewer than 2 rows.

    Source:
      Chan, Golub & LeVeque (1983), Algorithms for Computing the Sample Variance, section 2.

    >>> moments = update_moments(init_moments(2), jnp.array([[0.0, 1.0], [2.0, 1.0]]))
    >>> fit_from_moments(update_moments(moments, jnp.array([[4.0, 1.0]])), num_components=1).explained_variance
    Array([4.], dtype=float32)
    """
    num_features = moments.mean.shape[-1]
    chex.assert_shape(moments.scatter, (num_features, num_features))
    if not isinstance(moments.count, jax.core.Tracer) and int(moments.count) < 2:
        raise ValueError(f"fit_from_moments: the moments hold {int(moments.count)} rows; 2 are needed.")
    k = num_features if num_components is None else _checked(num_components, num_features, "d")
    return _pca_solvers.solve_moments(moments, k)


def transform(model: PCA, X: Shaped[ArrayLike, "*batch features"], *, whiten: bool = False) -> Float[Array, "*batch k"]:
    """The coordinates of rows along the components.

        z = W (x − μ),   whitened   zⱼ / √λⱼ

    Args:
      model: of `fit`.
      X: rows, with any axes before the features.
      whiten: give each coordinate unit variance; one without variance stays 0.

    Returns:
      Z in the dtype of X, integers as JAX's default float.

    Raises:
      AssertionError: X has another number of features.

    Source:
      Jolliffe (2002), Principal Component Analysis, section 2.1.

    >>> model = fit(jnp.array([[0.0, 1.0], [2.0, 1.0], [4.0, 1.0]]))
    >>> transform(model, jnp.array([[4.0, 1.0]])), transform(model, jnp.array([[4.0, 1.0]]), whiten=True)
    (Array([[2., 0.]], dtype=float32), Array([[1., 0.]], dtype=float32))
    """
    (X, model), dtype = _promoted(X, model)
    chex.assert_equal_shape_suffix([X, model.mean], 1)
    Z = contract("...d,kd->...k", _centred(X, model), model.components)
    if whiten:
        deviation = _deviations(model)
        scale = jnp.where(deviation > 0, 1 / jnp.where(deviation > 0, deviation, 1), 0)
        Z = Z * _like(scale, Z)
    return Z.astype(dtype)


def inverse_transform(
    model: PCA, Z: Shaped[ArrayLike, "*batch k"], *, whiten: bool = False
) -> Float[Array, "*batch features"]:
    """The rows that coordinates stand for: the best reconstruction from k numbers, in the least squares.

        x̂ = μ + Wᵀz,   whitened   z = (√λⱼ zⱼ)ⱼ

    Args:
      model: of `fit`.
      Z: coordinates, of `transform` with the same `whiten`.
      whiten: whether they have unit variance.

    Returns:
      X̂ in the dtype of Z; all of X where no component with variance was left out.

    Raises:
      AssertionError: Z has another number of components.

    Source:
      Jolliffe (2002), Principal Component Analysis, section 3.5.

    >>> model = fit(jnp.array([[0.0, 1.0], [2.0, 1.0], [4.0, 1.0]]), num_components=1)
    >>> inverse_transform(model, jnp.array([[2.0]]))
    Array([[4., 1.]], dtype=float32)
    """
    (Z, model), dtype = _promoted(Z, model)
    chex.assert_equal_shape_suffix([Z, model.explained_variance], 1)
    if whiten:
        Z = Z * _like(_deviations(model), Z)
    X = contract("...k,kd->...d", Z, model.components)
    return (X + _like(model.mean, X)).astype(dtype)


def choose_num_components(
    explained_variance_ratio: Float[ArrayLike, "k"], threshold: ArrayLike = 0.95
) -> Int[Array, ""]:
    """The fewest components that explain a share of the variance.

        min { m : r₁ + … + r_m ≥ threshold }

    Args:
      explained_variance_ratio: r, of a model.
      threshold: the share, in (0, 1]; sums that rounding alone keeps below it reach it.

    Returns:
      m, from 1 to k; k where not even all of them reach the threshold. It may be traced, so that it is no shape: slice
      with it outside of jit, or weigh the components by `jnp.arange(k) < m`.

    Raises:
      AssertionError: the ratios are not a vector.
      ValueError: there are none, or a threshold that is known lies outside (0, 1].

    Source:
      Jolliffe (2002), Principal Component Analysis, section 6.1.1 (cumulative percentage of total variation).

    >>> choose_num_components(jnp.array([0.5, 0.25, 0.125, 0.125]), 0.75)
    Array(2, dtype=int32)
    """
    ratios = jnp.asarray(explained_variance_ratio)
    chex.assert_rank(ratios, 1)
    if not ratios.size:
        raise ValueError("choose_num_components: there are no ratios; at least 1 is needed.")
    if not isinstance(threshold, jax.core.Tracer) and not np.all(
        (np.asarray(threshold) > 0) & (np.asarray(threshold) <= 1)
    ):
        raise ValueError(f"choose_num_components: threshold is {threshold}; it must lie above 0 and at most at 1.")
    ratios = ratios.astype(accumulator(ratios.dtype))
    reached = jnp.asarray(threshold, ratios.dtype) * (1 - ROUNDINGS * jnp.finfo(ratios.dtype).eps)
    return 1 + jnp.sum(jnp.cumsum(ratios)[:-1] < reached, dtype=jnp.int32)


def log_likelihood(model: PCA, X: Shaped[ArrayLike, "*batch features"]) -> Float[Array, "*batch"]:
    """The log-density of rows under probabilistic PCA, a Gaussian with the same noise in all directions left out.

        log N(x; μ, C),   C = Wᵀ diag(λ − σ²) W + σ²I
          = −½ (d log 2π + Σⱼ log λⱼ + (d − k) log σ² + Σⱼ zⱼ²/λⱼ + ‖x − x̂‖²/σ²),   z = W (x − μ)

    Args:
      model: of `fit`; with all d components it is the Gaussian of mean μ and covariance Σ.
      X: rows, with any axes before the features.

    Returns:
      One value per row, in the dtype of X. A variance below rounding, ε²λ₁, counts as ε²λ₁: data that fill no volume
      have a density all the same, finite and large among them. Only rows all equal give −∞ elsewhere.

    Raises:
      AssertionError: X has another number of features.

    Source:
      Tipping & Bishop (1999), Probabilistic Principal Component Analysis, eqs. 4, 7 and 8; λ with divisor n − 1.

    >>> model = fit(jnp.array([[-1.0], [0.0], [1.0]]))
    >>> log_likelihood(model, jnp.array([[0.0], [1.0]])) + 0.5 * math.log(2 * math.pi)
    Array([ 0. , -0.5], dtype=float32)
    """
    (X, model), dtype = _promoted(X, model)
    chex.assert_equal_shape_suffix([X, model.mean], 1)
    k, num_features = model.components.shape
    floor = _floor(model)
    noise = jnp.maximum(model.noise_variance, floor)
    variances = jnp.maximum(model.explained_variance, jnp.maximum(model.noise_variance, floor))
    Y = _centred(X, model)
    Z = contract("...d,kd->...k", Y, model.components)
    distance = jnp.sum(Z * Z / _like(variances, Z), axis=-1)
    log_determinant = jnp.sum(jnp.log(variances))
    if k < num_features:
        residual = Y - contract("...k,kd->...d", Z, model.components)
        distance += jnp.sum(residual * residual, axis=-1) / noise
        log_determinant += (num_features - k) * jnp.log(noise)
    return (-0.5 * (num_features * math.log(2 * math.pi) + log_determinant + distance)).astype(dtype)


def _first(model: PCA, share: float) -> PCA:
    """As few components as explain a share of the variance."""
    if isinstance(model.explained_variance_ratio, jax.core.Tracer):
        raise ValueError(
            f"fit: num_components is {share}, but X is traced: how many components reach it is not known. "
            "Call fit outside of jit and vmap, or with an integer and choose_num_components on its result."
        )
    k = int(choose_num_components(model.explained_variance_ratio, share))
    left_out = model.explained_variance[k:]
    return PCA(
        model.mean,
        model.components[:k],
        model.explained_variance[:k],
        model.explained_variance_ratio[:k],
        model.singular_values[:k],
        jnp.mean(left_out) if left_out.size else jnp.zeros_like(model.noise_variance),
    )


def _share_of(num_components: int | float | None) -> float | None:
    """The share of the variance that a float asks for."""
    if not isinstance(num_components, float | np.floating):
        return None
    if not 0 < num_components < 1:
        raise ValueError(
            f"fit: num_components is {num_components}; a float is a share of the variance, between 0 and 1."
        )
    return float(num_components)


def _checked(num_components: int | float, most: int, most_name: str) -> int:
    """The number of components as an integer in range."""
    if isinstance(num_components, bool) or not 1 <= operator.index(num_components) <= most:  # type: ignore[arg-type]
        raise ValueError(f"num_components is {num_components}; it must be an integer from 1 to {most_name} = {most}.")
    return operator.index(num_components)  # type: ignore[arg-type]


def _promoted(rows: ArrayLike, model: PCA) -> tuple[tuple[Array, PCA], np.dtype]:
    """Rows and a model in a dtype fit for both, and the dtype in which rows go back."""
    rows = jnp.asarray(rows)
    dtype = rows.dtype if jnp.issubdtype(rows.dtype, jnp.floating) else accumulator(rows.dtype)
    common = jnp.promote_types(accumulator(dtype), model.mean.dtype)
    return (rows.astype(common), jax.tree.map(lambda x: x.astype(common), model)), dtype


def _like(vector: Array, x: Array) -> Array:
    """A vector with axes before its own, to go with rows."""
    return vector.reshape((1,) * (x.ndim - 1) + vector.shape)


def _centred(X: Array, model: PCA) -> Array:
    return X - _like(model.mean, X)


def _floor(model: PCA) -> Array:
    """What no variance can be told from 0 below: ε of the largest singular value, squared; above 0 in any case."""
    info = jnp.finfo(model.mean.dtype)
    return jnp.maximum(model.explained_variance[0] * info.eps**2, info.tiny)


def _deviations(model: PCA) -> Array:
    """√λ, 0 where there is no variance but rounding."""
    is_some = model.explained_variance > _floor(model)
    return jnp.where(is_some, jnp.sqrt(jnp.where(is_some, model.explained_variance, 1)), 0)
