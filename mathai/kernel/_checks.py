"""What solvers demand of labels, prices and matrices: errors where they are known, NaN where only a run can tell."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float


def check_classes(name: str, y: ArrayLike) -> None:
    """Raise a `ValueError` unless labels that are known are −1 and +1, and both are there."""
    if isinstance(y, jax.core.Tracer):
        return
    classes = np.unique(np.asarray(y))
    if not np.all(np.isin(classes, (-1, 1))):
        shown = ", ".join(map(str, classes[:5].tolist()))
        raise ValueError(f"{name}: y holds {shown}; classes must be -1 and +1 (`fit` takes any integers).")
    if len(classes) < 2:
        raise ValueError(f"{name}: there is one class only; y must hold both -1 and +1.")


def check_prices(name: str, C: ArrayLike, y: ArrayLike | None = None, *, finite: bool = False) -> None:
    """Raise a `ValueError` for a known price C: negative, NaN, infinite where it must not, or 0 for all of a class."""
    if isinstance(C, jax.core.Tracer):
        return
    prices = np.asarray(C)
    if not np.all(prices >= 0):
        raise ValueError(f"{name}: C is {_shown(prices[~(prices >= 0)])}; every price must be at least 0.")
    if finite and not np.all(np.isfinite(prices)):
        raise ValueError(f"{name}: C is infinite; use solve_dual for a margin without slack.")
    if y is not None and not isinstance(y, jax.core.Tracer) and prices.shape in ((), np.shape(y)):
        labels = (np.asarray(y) > 0).astype(int)
        check_class_prices(name, np.broadcast_to(prices, labels.shape), labels, np.array([-1, 1]))


def check_class_prices(name: str, prices: ArrayLike, labels: np.ndarray, classes: np.ndarray) -> None:
    """Raise a `ValueError` where known prices, one per example, are 0 for all of a class."""
    if isinstance(prices, jax.core.Tracer):
        return
    has_price = np.asarray(prices) > 0
    for index, label in enumerate(classes):
        if not np.any(has_price & (labels == index)):
            raise ValueError(f"{name}: C is 0 for all examples of class {label}; each class needs one with a price.")


def check_finite(name: str, X: Array) -> None:
    """Raise a `ValueError` for an array that is known and holds NaN or infinities."""
    if isinstance(X, jax.core.Tracer):
        return
    with jax.ensure_compile_time_eval():  # it may be a constant of a program that is being traced
        is_finite = bool(jnp.all(jnp.isfinite(X)))
    if not is_finite:
        raise ValueError(f"{name} holds NaN or infinite numbers.")


def check_gram(name: str, K: Array) -> None:
    """Raise a `ValueError` for a Gram matrix that is known and no kernel's."""
    if isinstance(K, jax.core.Tracer):
        return
    check_finite(f"{name}: K", K)
    with jax.ensure_compile_time_eval():
        is_negative = bool(jnp.any(jnp.diagonal(K) < 0))
    if is_negative:
        raise ValueError(f"{name}: K has a negative number on its diagonal; no kernel has k(x, x) < 0.")


def is_gram(K: Array) -> Bool[Array, ""]:
    """Whether a matrix is finite, with no negative number on its diagonal."""
    return jnp.all(jnp.isfinite(K)) & jnp.all(jnp.diagonal(K) >= 0)


def known_classes(name: str, y: ArrayLike, num_examples: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels as 0 … c − 1, and the integers that they stand for; they must be known outside of any program."""
    if isinstance(y, jax.core.Tracer):
        raise ValueError(f"{name}: y is traced; the classes must be known, so do not jit this call.")
    y = np.asarray(y)
    chex.assert_shape(y, (num_examples,))
    if not np.issubdtype(y.dtype, np.integer):
        raise ValueError(f"{name}: labels are {y.dtype}; they must be integers.")
    classes, labels = np.unique(y, return_inverse=True)
    if len(classes) < 2:
        raise ValueError(f"{name}: there is one class only.")
    if not np.array_equal(classes.astype(jax.dtypes.canonicalize_dtype(classes.dtype)), classes):
        raise ValueError(
            f"{name}: labels up to {np.abs(classes).max()} do not fit 32 bits; enable 64 or number them anew."
        )
    return labels.astype(np.int32), classes


def classes_like(y: ArrayLike, like: Array) -> Float[Array, "n"]:
    """The classes as numbers in the dtype of an array with as many rows."""
    y = jnp.asarray(y)
    chex.assert_shape(y, like.shape[:1])
    return y.astype(like.dtype)


def both_classes(y: Array, C: Array) -> Bool[Array, ""]:
    """Whether y is −1 and +1, prices are at least 0, and both classes have examples with a price."""
    both = jnp.any((y > 0) & (C > 0)) & jnp.any((y < 0) & (C > 0))
    return jnp.all(jnp.abs(y) == 1) & jnp.all(C >= 0) & both


def slack_of(margin: Array) -> Array:
    """What a margin falls short of 1, NaN of NaN; the derivative at 1 is that of no slack."""
    return jnp.where(margin >= 1, 0, 1 - margin)


def price_of(slack: Array, C: Array) -> Array:
    """Σ C ξ, where no slack costs nothing even at an infinite price."""
    return jnp.sum(jnp.where(slack > 0, C, 0) * slack)


def nan_unless(is_valid: Array, x: Array, dtype: np.dtype) -> Array:
    """A part of a solution in the inputs' dtype; NaN, or False, where there is none."""
    if jnp.issubdtype(x.dtype, jnp.floating):
        return jnp.where(is_valid, x, jnp.nan).astype(dtype)
    return x & is_valid if x.dtype == bool else x


def _shown(values: np.ndarray) -> str:
    return ", ".join(f"{value:g}" for value in values.ravel()[:3])
