"""Where last bits are counted, formulas are compiled as a user's program is."""

import jax
import pytest

from tests.compilation import optimizations


@pytest.fixture
def optimized():
    jax.clear_caches()  # what other tests compiled quickly
    with optimizations(True):
        yield
