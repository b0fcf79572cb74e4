"""Kernels on vectors, their Gram matrices by matrix products, and compositions.

A kernel is any callable (x, z) → scalar. Parameters are bound by `functools.partial`, or by `jax.tree_util.Partial`,
which makes them leaves: the kernel may then be an argument of a jitted function, batched and differentiated.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Shaped

from mathai.kernel._arrays import check_at_least, contract, promote
from mathai.kernel._products import linear_gram, on_devices, polynomial_gram, power, rbf_gram, widths
from mathai.nn._sharding import check_mesh

__all__ = ["add", "as_pytree", "gram", "gram_diagonal", "linear", "multiply", "polynomial", "rbf", "scale"]

Kernel = Callable[..., Any]
STRANGERS_AT_ONCE = 64  # rows of a kernel that is not ours: what it computes of pairs may be as long as vectors


def linear(x: Shaped[ArrayLike, "features"], z: Shaped[ArrayLike, "features"]) -> Float[Array, ""]:
    """The linear kernel, the dot product.

        k(x, z) = xᵀz

    Args:
      x: one vector.
      z: another, of the same length.

    Returns:
      A scalar in the inputs' dtype, accumulated in at least float32.

    Raises:
      AssertionError: x and z are not two vectors of one length.

    Source:
      Schölkopf & Smola (2002), Learning with Kernels, section 1.1.

    >>> linear(jnp.array([1.0, 2.0]), jnp.array([3.0, 4.0]))
    Array(11., dtype=float32)
    """
    (x, z), dtype = _vectors(x, z)
    return contract("d,d->", x, z).astype(dtype)


def polynomial(
    x: Shaped[ArrayLike, "features"],
    z: Shaped[ArrayLike, "features"],
    *,
    degree: int = 3,
    c: ArrayLike = 1.0,
    gamma: ArrayLike = 1.0,
) -> Float[Array, ""]:
    """The polynomial kernel: the dot product of all monomials up to a degree.

        k(x, z) = (γ xᵀz + c)ᵖ

    Args:
      x: one vector.
      z: another, of the same length.
      degree: p, an integer ≥ 1.
      c: weight of the lower degrees, ≥ 0; 0 leaves the monomials of degree p alone.
      gamma: γ ≥ 0, the scale of the dot product.

    Returns:
      A scalar in the inputs' dtype.

    Raises:
      AssertionError: x and z are not two vectors of one length.
      ValueError: degree is below 1, or c or γ is negative: the Gram matrix would not be positive semidefinite.

    Source:
      Schölkopf & Smola (2002), Learning with Kernels, eq. 2.27.

    >>> polynomial(jnp.array([1.0, 2.0]), jnp.array([3.0, 4.0]), degree=2)
    Array(144., dtype=float32)
    """
    (x, z), dtype = _vectors(x, z)
    return power(contract("d,d->", x, z), degree, c, gamma).astype(dtype)


def rbf(
    x: Shaped[ArrayLike, "features"],
    z: Shaped[ArrayLike, "features"],
    *,
    gamma: ArrayLike,
) -> Float[Array, ""]:
    """The Gaussian kernel (radial basis function), with one width or one for each feature.

        k(x, z) = exp(−γ ‖x − z‖²),   or   exp(−Σⱼ γⱼ (xⱼ − zⱼ)²)

    With γⱼ = 1 / (2ℓⱼ²), ℓⱼ is the length over which feature j matters (automatic relevance determination).

    Args:
      x: one vector.
      z: another, of the same length.
      gamma: γ ≥ 0, in units of 1 / x², a scalar or one per feature; 0 gives k = 1.

    Returns:
      A scalar in the inputs' dtype, in [0, 1]; exactly 1 where x = z. The gradient there is 0.

    Raises:
      AssertionError: x and z are not two vectors of one length, or γ is neither scalar nor of that length.
      ValueError: γ is negative.

    Source:
      Schölkopf & Smola (2002), Learning with Kernels, eq. 2.68; MacKay (1994), Bayesian Non-linear Modelling for the
      Prediction Competition, for one width per feature.

    >>> rbf(jnp.array([0.0, 1.0]), jnp.array([1.0, 1.0]), gamma=2.0).round(4)
    Array(0.1353, dtype=float32)
    """
    (x, z), dtype = _vectors(x, z)
    difference = x - z
    return jnp.exp(-jnp.sum(widths(gamma, x) * difference * difference)).astype(dtype)


def add(first: Kernel, second: Kernel) -> Kernel:
    """The sum of two kernels, a kernel again.

        k(x, z) = k₁(x, z) + k₂(x, z)

    Args:
      first: k₁, any kernel.
      second: k₂, any kernel.

    Returns:
      k, a pytree whose leaves are the parameters of both.

    Source:
      Schölkopf & Smola (2002), Learning with Kernels, proposition 13.1.

    >>> add(linear, functools.partial(rbf, gamma=1.0))(jnp.ones(2), jnp.ones(2))
    Array(3., dtype=float32)
    """
    return _Sum(as_pytree(first), as_pytree(second))


def multiply(first: Kernel, second: Kernel) -> Kernel:
    """The product of two kernels, a kernel again.

        k(x, z) = k₁(x, z) · k₂(x, z)

    Args:
      first: k₁, any kernel.
      second: k₂, any kernel.

    Returns:
      k, a pytree whose leaves are the parameters of both.

    Source:
      Schölkopf & Smola (2002), Learning with Kernels, proposition 13.1.

    >>> multiply(linear, linear)(jnp.array([1.0, 2.0]), jnp.array([3.0, 4.0]))
    Array(121., dtype=float32)
    """
    return _Product(as_pytree(first), as_pytree(second))


def scale(kernel: Kernel, factor: ArrayLike) -> Kernel:
    """A kernel times a number, a kernel again.

        k(x, z) = s · k₁(x, z)

    Args:
      kernel: k₁, any kernel.
      factor: s ≥ 0.

    Returns:
      k, a pytree whose leaves are s and the parameters of k₁.

    Raises:
      ValueError: s is negative.

    Source:
      Schölkopf & Smola (2002), Learning with Kernels, proposition 13.1.

    >>> scale(linear, 0.5)(jnp.array([1.0, 2.0]), jnp.array([3.0, 4.0]))
    Array(5.5, dtype=float32)
    """
    check_at_least("scale: factor", factor, 0)
    chex.assert_rank(factor, 0)
    return _Scaled(as_pytree(kernel), factor)


def gram(
    kernel: Kernel,
    X: Shaped[ArrayLike, "n features"],
    Z: Shaped[ArrayLike, "m features"] | None = None,
    *,
    mesh: Mesh | None = None,
    axis: str = "data",
) -> Float[Array, "n m"]:
    """The Gram matrix: a kernel between all pairs of two sets of vectors, or of one set with itself.

        Kᵢⱼ = k(xᵢ, zⱼ)

    The kernels of this module and their compositions take one matrix product, at the highest precision; any other
    kernel is mapped over all pairs. Squared distances are of centred vectors, never negative, and exactly 0 between a
    vector and itself where Z is None.

    Args:
      kernel: k, any kernel.
      X: the rows' vectors; integers and booleans count as JAX's default float.
      Z: the columns' vectors; None takes X.
      mesh: devices that take a block of rows each, and all columns, with axes of type Auto; None is one device.
      axis: of the mesh, over which rows are spread; over its other axes all is replicated.

    Returns:
      K, in the inputs' dtype, its rows on their devices. A NaN feature makes NaN in its row and its column; an infinite
      one NaN, infinities or, at an infinite distance, 0.

    Raises:
      AssertionError: X and Z are not matrices with the same number of columns, or a parameter is of another rank.
      ValueError: a parameter is out of the kernel's range, or the mesh has no such axis.

    Source:
      Schölkopf & Smola (2002), Learning with Kernels, definition 2.3.

    >>> gram(functools.partial(polynomial, degree=2), jnp.array([[0.0], [1.0]]))
    Array([[1., 1.],
           [1., 4.]], dtype=float32)
    """
    (X, *rest), dtype = promote(X) if Z is None else promote(X, Z)
    (Z,) = rest or (None,)
    chex.assert_rank([X] if Z is None else [X, Z], 2)
    chex.assert_equal_shape_suffix([X, X if Z is None else Z], 1)
    check_mesh("gram", mesh, axis)
    if mesh is None or not len(X):
        return _gram(kernel, X, Z, None).astype(dtype)
    kernel = as_pytree(kernel)
    jax.eval_shape(lambda: _gram(kernel, X, Z, None))  # parameters that are known are refused while they are
    return on_devices(_gram, kernel, X, Z, mesh, axis).astype(dtype)


def gram_diagonal(kernel: Kernel, X: Shaped[ArrayLike, "n features"]) -> Float[Array, "n"]:
    """The diagonal of the Gram matrix, without the rest of it.

        dᵢ = k(xᵢ, xᵢ)

    Args:
      kernel: k, any kernel.
      X: the vectors.

    Returns:
      d, in the inputs' dtype.

    Raises:
      AssertionError: X is not a matrix.
      ValueError: a parameter is out of the kernel's range.

    Source:
      Schölkopf & Smola (2002), Learning with Kernels, definition 2.3.

    >>> gram_diagonal(linear, jnp.array([[1.0, 2.0], [0.0, 3.0]]))
    Array([5., 9.], dtype=float32)
    """
    (X,), dtype = promote(X)
    chex.assert_rank(X, 2)
    return jax.vmap(kernel)(X, X).astype(dtype)


def as_pytree(kernel: Kernel) -> Kernel:
    """The same kernel as a pytree whose leaves are its parameters, fit to be an argument of a jitted function.

        k(x, z) = k(x, z; θ),   leaves θ

    Args:
      kernel: any kernel; of a function that is no partial there are no leaves.

    Returns:
      The kernel itself if it is a pytree, and otherwise a `jax.tree_util.Partial`. An integer degree of `polynomial`
      is no leaf, so that the result can be differentiated.

    Source:
      The documentation of `jax.tree_util.Partial`.

    >>> jax.tree.leaves(as_pytree(functools.partial(rbf, gamma=0.5)))
    [0.5]
    """
    function, arguments, keywords = _unbound(kernel)
    if function is polynomial and isinstance(keywords.get("degree"), int | np.integer):
        rest = {name: value for name, value in keywords.items() if name != "degree"}
        return jax.tree_util.Partial(_OfDegree(int(keywords["degree"])), *arguments, **rest)
    if not jax.tree_util.all_leaves([kernel]):  # a node: a `Partial`, a composition, a class of one's own
        return kernel
    return jax.tree_util.Partial(function, *arguments, **keywords)


@dataclasses.dataclass(frozen=True)
class _OfDegree:
    """The polynomial kernel of an integer degree, which is no leaf: nothing can be differentiated in it."""

    degree: int

    def __call__(self, x: Any, z: Any, **parameters: Any) -> Any:
        return polynomial(x, z, degree=self.degree, **parameters)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Sum:
    first: Kernel
    second: Kernel

    def __call__(self, x: Any, z: Any) -> Any:
        return self.first(x, z) + self.second(x, z)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Product:
    first: Kernel
    second: Kernel

    def __call__(self, x: Any, z: Any) -> Any:
        return self.first(x, z) * self.second(x, z)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Scaled:
    kernel: Kernel
    factor: ArrayLike

    def __call__(self, x: Any, z: Any) -> Any:
        return self.factor * self.kernel(x, z)


def _gram(kernel: Kernel, X: Array, Z: Array | None, places: Array | None) -> Array:
    """K of rows X and columns Z; `places` says which columns the rows are, if they are some of them."""
    if isinstance(kernel, _Sum):
        return _gram(kernel.first, X, Z, places) + _gram(kernel.second, X, Z, places)
    if isinstance(kernel, _Product):
        return _gram(kernel.first, X, Z, places) * _gram(kernel.second, X, Z, places)
    if isinstance(kernel, _Scaled):
        return jnp.asarray(kernel.factor) * _gram(kernel.kernel, X, Z, places)
    function, arguments, keywords = _unbound(kernel)
    for known, by_products in _BY_PRODUCTS:
        if function is known and not arguments:
            return by_products(X, Z, places, **keywords)
    to_all = lambda x: jax.vmap(lambda z: kernel(x, z))(X if Z is None else Z)  # noqa: E731
    return jax.vmap(to_all)(X) if len(X) <= STRANGERS_AT_ONCE else jax.lax.map(to_all, X, batch_size=STRANGERS_AT_ONCE)


_BY_PRODUCTS: tuple[tuple[Callable, Callable[..., Array]], ...] = (
    (linear, linear_gram),
    (polynomial, polynomial_gram),
    (rbf, rbf_gram),
)


def _unbound(kernel: Kernel) -> tuple[Callable, tuple, Mapping[str, Any]]:
    """A kernel's function, and what is bound to it; `jax.tree_util.Partial` is a `functools.partial` too."""
    if isinstance(kernel, _OfDegree):
        return polynomial, (), {"degree": kernel.degree}
    if not isinstance(kernel, functools.partial):
        return kernel, (), {}
    function, arguments, keywords = _unbound(kernel.func)
    return function, (*arguments, *kernel.args), {**keywords, **kernel.keywords}


def _vectors(x: ArrayLike, z: ArrayLike) -> tuple[tuple[Array, ...], np.dtype]:
    vectors, dtype = promote(x, z)
    chex.assert_rank(list(vectors), 1)
    chex.assert_equal_shape(list(vectors))
    return vectors, dtype
