"""Learners compile long; their tests are of what they compute."""

import contextlib

import pytest

from tests.compilation import compiled_quickly, is_slow_tier


@pytest.fixture(scope="package", autouse=True)
def compile_quickly(pytestconfig):
    with contextlib.nullcontext() if is_slow_tier(pytestconfig) else compiled_quickly():
        yield
