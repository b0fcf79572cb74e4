"""Kernel methods: kernels that compose, Gram matrices, support vector machines."""

from mathai.kernel import kernels, svm

__all__ = ["kernels", "svm"]
