"""Kernel methods: kernels that compose, Gram matrices, support vector machines."""

from mathai.kernel import kernels

__all__ = ["kernels"]
