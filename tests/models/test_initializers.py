"""Initial weights against Flax's, which factorizes with LAPACK."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mathai.models.initializers import orthogonal


@pytest.mark.parametrize("shape", [(64, 64), (4, 64), (64, 2), (64, 1), (1, 1), (3, 3, 2, 16), (400, 64)])
def test_orthogonal_weights_are_those_of_flax(shape):
    key = jax.random.key(7)
    expected = nn.initializers.orthogonal(2**0.5)(key, shape)
    found = orthogonal(2**0.5)(key, shape)
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    np.testing.assert_allclose(found, expected, atol=2e-5)


@pytest.mark.parametrize(("rows", "columns"), [(64, 64), (30, 64), (257, 19)])
def test_columns_or_rows_are_orthonormal_to_rounding(rows, columns):
    weights = np.float64(orthogonal(3.0)(jax.random.key(1), (rows, columns))) / 3
    products = weights.T @ weights if rows >= columns else weights @ weights.T
    np.testing.assert_allclose(products, np.eye(min(rows, columns)), atol=2e-6)


def test_a_batch_of_weights_calls_no_library_that_might_wait_for_its_own_threads():
    program = jax.jit(jax.vmap(lambda key: orthogonal(1.0)(key, (8, 8))))
    keys = jax.random.split(jax.random.key(0), 3)
    assert "custom_call" not in program.lower(keys).as_text()
    assert jnp.all(jnp.isfinite(program(keys)))
