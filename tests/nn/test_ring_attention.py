"""Ring attention on one device; on several, in tests/multi."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from mathai.nn.attention import scaled_dot_product_attention
from mathai.nn.ring_attention import ring_attention
from tests.nn.test_attention import arrays


def mesh_of(*axes):
    return jax.make_mesh((1,) * len(axes), axes, axis_types=(AxisType.Auto,) * len(axes))


def abstract_mesh(**sizes):
    """Of devices that there are not, for errors that come before they are used."""
    return jax.sharding.AbstractMesh(tuple(sizes.values()), tuple(sizes), axis_types=(AxisType.Auto,) * len(sizes))


def data(dtype="float32"):
    q, k, v = arrays((2, 6, 4, 8), (2, 6, 2, 8), (2, 6, 2, 3))
    return [jnp.asarray(x, dtype) for x in (q, k, v)]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("is_causal", [False, True])
def test_a_ring_of_one_is_attention(is_causal, dtype):
    mask = np.arange(6) != 2
    ring = functools.partial(ring_attention, mesh=mesh_of("sequence"), key_mask=mask, is_causal=is_causal)
    one = functools.partial(scaled_dot_product_attention, mask=mask, is_causal=is_causal)
    for ours, theirs in zip(
        ring(*data(dtype), return_lse=True), jax.jit(functools.partial(one, return_lse=True))(*data(dtype)), strict=True
    ):
        assert ours.dtype == theirs.dtype
        np.testing.assert_allclose(*(np.asarray(x, np.float32) for x in (ours, theirs)), rtol=1e-6, atol=1e-6)
    loss = lambda attend, *x: jnp.sum(jnp.sin(attend(*x).astype(jnp.float32)))  # noqa: E731
    slopes = [jax.jit(jax.grad(functools.partial(loss, attend), (0, 1, 2)))(*data(dtype)) for attend in (ring, one)]
    tolerance = 1e-5 if dtype == "float32" else 2.0**-7
    for ours, theirs in zip(*slopes, strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_allclose(*(np.asarray(x, np.float32) for x in (ours, theirs)), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    ("sizes", "options", "message"),
    [
        (
            {"sequence": 4},
            {},
            "6 queries cannot be spread evenly over the 4 devices of mesh axis 'sequence'; pad",
        ),
        ({"ring": 2}, {}, "no axis 'sequence'; its axes are ring"),
        ({"sequence": 2, "batch": 3}, {"batch_axis": "batch"}, "2 batch entries cannot be spread evenly over the 3"),
        ({"sequence": 2, "heads": 4}, {"head_axis": "heads"}, "2 key heads cannot be spread evenly over the 4"),
        ({"sequence": 2}, {"key_mask": np.ones(5, bool)}, r"key_mask of shape \(5,\) does not broadcast"),
    ],
)
def test_what_cannot_be_spread_is_an_error(sizes, options, message):
    with pytest.raises(ValueError, match=message):
        ring_attention(*data(), mesh=abstract_mesh(**sizes), **options)


def test_causal_queries_are_as_many_as_keys():
    q, k, v = data()
    with pytest.raises(ValueError, match="3 queries and 6 keys; with is_causal they are as many"):
        ring_attention(q[:, :3], k, v, mesh=mesh_of("sequence"), is_causal=True)
    with pytest.raises(ValueError, match="has no batch axis"):
        ring_attention(q[0], k[0], v[0], mesh=mesh_of("sequence", "batch"), batch_axis="batch")


def test_numbers_and_masks_are_of_their_types():
    q, k, v = data()
    with pytest.raises(TypeError, match=r"must be boolean|Type-check"):
        ring_attention(q, k, v, mesh=mesh_of("sequence"), key_mask=np.ones(6))
    with pytest.raises(TypeError, match=r"floating|Type-check"):
        ring_attention(q, k.astype(int), v, mesh=mesh_of("sequence"))
