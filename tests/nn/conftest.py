"""Formulas are tested to their last bits, as a user's program rounds them."""

import pytest

from tests.compilation import optimizations


@pytest.fixture(scope="package", autouse=True)
def optimized():
    with optimizations(True):
        yield
