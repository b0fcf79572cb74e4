"""PyTorch's functions on the same arrays and, where JAX computes on a GPU, on that GPU; as they come, uncompiled."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

NAME = "PyTorch, eager"


def is_here() -> bool:
    """Whether PyTorch is installed, which no extra does, and computes where JAX does: on a CPU or a GPU."""
    try:
        import torch
    except ImportError:
        return False
    return jax.default_backend() == "cpu" or (jax.default_backend() == "gpu" and torch.cuda.is_available())


def program(function: Callable[..., Any], arguments: tuple[jax.Array, ...], *, needs_gradient: bool = False) -> Any:
    """Return a program of a case: it takes the case's arguments and works on copies of them that it already has.

    Args:
      function: of tensors.
      arguments: arrays.
      needs_gradient: record operations, so that the function can differentiate.
    """
    tensors = functools.cache(lambda: [as_tensor(array) for array in arguments])  # made by the first call

    def call(*given: Any) -> Any:
        del given
        import torch

        with torch.set_grad_enabled(needs_gradient):
            return function(*tensors())

    return call


def with_gradient(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function of (first, …, cotangent) that gives its value and its gradient in the first argument."""

    def value_and_gradient(first: Any, *rest: Any) -> Any:
        import torch

        *others, cotangent = rest
        first = first.detach().requires_grad_(True)
        value = function(first, *others)
        return value.detach(), torch.autograd.grad(value, first, cotangent)[0]

    return value_and_gradient


def as_tensor(array: jax.Array) -> Any:
    """Copy an array into a tensor of the same type, on the GPU where JAX computes on one; integers become int64."""
    import torch

    is_integer = jax.numpy.issubdtype(array.dtype, jax.numpy.integer)
    kind = torch.int64 if is_integer else getattr(torch, array.dtype.name)
    wide = np.array(array, np.int64 if is_integer else np.float64)
    return torch.from_numpy(wide).to(kind).to("cuda" if jax.default_backend() == "gpu" else "cpu")


def as_numpy(result: Any) -> Any:
    """Copy the tensors of a result into arrays of float64."""
    return jax.tree.map(lambda tensor: tensor.detach().double().cpu().numpy(), result)
