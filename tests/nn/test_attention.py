"""Attention against the definition in NumPy's float64, in blocks and at once; positions against long doubles."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mathai.nn import attention
from mathai.nn.attention import (
    MultiHeadParams,
    empty_cache,
    merge_attention,
    multi_head_attention,
    multi_head_attention_step,
    scaled_dot_product_attention,
    sinusoidal_position_encoding,
)
from tests.nn.reference import check_derivatives

INF = np.inf
attend = jax.jit(scaled_dot_product_attention, static_argnames=("is_causal", "block_size", "return_lse"))


def by_definition(q, k, v, bias=0.0, mask=True, is_causal=False, scale=None):
    """Outputs, log-sum-exps and probabilities [..., H, T, S] in float64."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    repeats = q.shape[-2] // k.shape[-2]
    k, v = np.repeat(k, repeats, -2), np.repeat(v, repeats, -2)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    s = scale * np.einsum("...thd,...shd->...hts", q, k) + np.asarray(bias, np.float64)
    seen = np.broadcast_to(mask, s.shape) & (np.tri(*s.shape[-2:], dtype=bool) if is_causal else True)
    s = np.where(seen, s, -INF)
    largest = np.max(s, -1, keepdims=True, initial=-INF)
    e = np.exp(s - np.where(largest == -INF, 0, largest))
    total = e.sum(-1, keepdims=True)
    p = e / np.where(total > 0, total, 1)
    with np.errstate(divide="ignore"):
        lse = (np.where(largest == -INF, 0, largest) + np.log(total))[..., 0]
    return np.einsum("...hts,...shv->...thv", p, v), np.swapaxes(lse, -1, -2), p


def gradients_by_definition(q, k, v, cotangent, **options):
    """Of Σ cotangent · o, in q, k, v and the scores; heads of q, k and v are as many."""
    _, _, p = by_definition(q, k, v, **options)
    q, k, v, cotangent = (np.asarray(x, np.float64) for x in (q, k, v, cotangent))
    scale = options.get("scale") or q.shape[-1] ** -0.5
    dp = np.einsum("...thv,...shv->...hts", cotangent, v)
    ds = p * (dp - np.sum(p * dp, -1, keepdims=True))
    dq = scale * np.einsum("...hts,...shd->...thd", ds, k)
    dk = scale * np.einsum("...hts,...thd->...shd", ds, q)
    return dq, dk, np.einsum("...hts,...thv->...shv", p, cotangent), ds


def arrays(*shapes, seed=0, dtype=np.float32):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=shape).astype(dtype) for shape in shapes]


def worst(found, exact):
    return np.max(np.abs(np.asarray(found, np.float64) - exact))


# The definition


@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize(
    ("is_causal", "block_size"),
    [
        pytest.param(False, 10_000, marks=pytest.mark.slow),
        (True, None),
        pytest.param(False, None, marks=pytest.mark.slow),
        pytest.param(True, 256, marks=pytest.mark.slow),
    ],
)
def test_float32_is_within_1e_6_and_its_gradient_within_2e_6(is_causal, block_size):
    q, k, v, cotangent = arrays(*[(2, 1024, 4, 64)] * 4)
    f = functools.partial(scaled_dot_product_attention, is_causal=is_causal, block_size=block_size)
    out, pull_back = jax.jit(lambda *args: (lambda y, f: (y, f(cotangent)))(*jax.vjp(f, *args)))(q, k, v)
    assert worst(out, by_definition(q, k, v, is_causal=is_causal)[0]) <= 1e-6
    for found, exact in zip(pull_back, gradients_by_definition(q, k, v, cotangent, is_causal=is_causal), strict=False):
        assert worst(found, exact) <= 2e-6 * max(1, np.abs(exact).max())


@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize(("dtype", "tolerance"), [("bfloat16", 1e-2), ("float16", 5e-4), ("float64", 1e-12)])
@pytest.mark.parametrize("block_size", [pytest.param(None, marks=pytest.mark.slow), 16])
def test_other_precisions(dtype, tolerance, block_size):
    with jax.enable_x64(dtype == "float64"):
        q, k, v, cotangent = (jnp.asarray(x, dtype) for x in arrays(*[(2, 40, 2, 8)] * 4, dtype=np.float64))
        f = functools.partial(scaled_dot_product_attention, is_causal=True, block_size=block_size)
        out, pull_back = jax.vjp(f, q, k, v)
        gradients = pull_back(cotangent)
    assert {out.dtype, *(x.dtype for x in gradients)} == {jnp.dtype(dtype)}
    assert worst(out, by_definition(q, k, v, is_causal=True)[0]) <= tolerance
    for found, exact in zip(gradients, gradients_by_definition(q, k, v, cotangent, is_causal=True), strict=False):
        assert worst(found, exact) <= 2 * tolerance * max(1, np.abs(exact).max())


LENGTHS = (1, 3, 4, 5, 7, 8, 9)


@pytest.mark.parametrize(("num_queries", "num_keys"), list(itertools.product(LENGTHS, LENGTHS))[::3])
@pytest.mark.parametrize("is_causal", [False, True])
def test_blocks_agree_with_the_definition_around_their_borders(num_queries, num_keys, is_causal):
    q, k, v = arrays((num_queries, 2, 3), (num_keys, 2, 3), (num_keys, 2, 5))
    bias, mask = arrays((2, num_queries, num_keys))[0], np.random.default_rng(1).random((num_queries, num_keys)) < 0.7
    found = attend(q, k, v, bias=bias, mask=mask, is_causal=is_causal, block_size=4, return_lse=True)
    exact = by_definition(q, k, v, bias, mask, is_causal)
    for ours, theirs in zip(found, exact, strict=False):
        np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("block_size", [None, 4, 1])
def test_gradients_of_everything_in_blocks(block_size):
    q, k, v, cotangent = arrays((2, 6, 3, 4), (2, 9, 3, 4), (2, 9, 3, 2), (2, 6, 3, 2))
    bias = arrays((3, 6, 9), seed=1)[0]
    mask = np.random.default_rng(1).random((2, 1, 6, 9)) < 0.6
    mask[0, 0, 2] = False
    options = {"mask": mask, "is_causal": True, "scale": 0.7}
    f = functools.partial(scaled_dot_product_attention, block_size=block_size, **options)
    gradients = jax.jit(jax.grad(lambda q, k, v, b: jnp.sum(cotangent * f(q, k, v, bias=b)), (0, 1, 2, 3)))
    exact = gradients_by_definition(q, k, v, cotangent, bias=bias, **options)
    for found, expected in zip(gradients(q, k, v, bias), (*exact[:3], exact[3].sum(0)), strict=True):
        np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("shape", [(9,), (1, 9), (6, 1), (3, 1, 1), (1, 6, 9), (2, 1, 1, 9), (2, 3, 6, 9)])
@pytest.mark.parametrize("block_size", [None, 4])
def test_bias_and_mask_broadcast_to_heads_queries_and_keys(shape, block_size):
    q, k, v, bias = arrays((2, 6, 3, 4), (2, 9, 3, 4), (2, 9, 3, 2), shape)
    mask = np.random.default_rng(1).random(shape) < 0.8
    gradient = jax.grad(lambda b: scaled_dot_product_attention(q, k, v, bias=b, block_size=block_size).sum())(bias)
    ds = gradients_by_definition(q, k, v, np.ones((2, 6, 3, 2)), bias=bias)[3]
    summed = tuple(i for i, n in enumerate((1,) * (4 - len(shape)) + shape) if n == 1)
    np.testing.assert_allclose(gradient, ds.sum(summed, keepdims=True).reshape(shape), atol=3e-6)
    found = attend(q, k, v, bias=bias, mask=mask, block_size=block_size)
    np.testing.assert_allclose(found, by_definition(q, k, v, bias, mask)[0], rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("block_size", [None, 4])
def test_grouped_queries_share_a_key_head(block_size):
    q, k, v = arrays((5, 6, 4), (7, 2, 4), (7, 2, 3))
    found = attend(q, k, v, block_size=block_size)
    np.testing.assert_allclose(found, by_definition(q, k, v)[0], rtol=1e-5, atol=1e-6)
    repeated = [np.repeat(x, 3, 1) for x in (k, v)]
    gradient = jax.grad(lambda k: scaled_dot_product_attention(q, k, v, block_size=block_size).sum())(k)
    of_each = jax.grad(lambda k: scaled_dot_product_attention(q, k, repeated[1], block_size=block_size).sum())
    np.testing.assert_allclose(gradient, of_each(repeated[0]).reshape(7, 2, 3, 4).sum(2), atol=1e-5)


# Rows that see nothing


@pytest.mark.parametrize("block_size", [None, 2])
@pytest.mark.parametrize("by", ["mask", "bias"])
def test_a_query_that_sees_no_key_gives_0_and_gradient_0(block_size, by):
    q, k, v = arrays((3, 1, 4), (5, 1, 4), (5, 1, 2))
    seen = np.array([[True] * 5, [False] * 5, [False, True, False, False, False]])
    options = {"mask": seen} if by == "mask" else {"bias": np.where(seen, 0, -INF).astype(np.float32)}
    f = functools.partial(scaled_dot_product_attention, block_size=block_size, return_lse=True, **options)
    out, lse = f(q, k, v)
    np.testing.assert_array_equal(out[1], 0)
    assert lse[1, 0] == -INF
    np.testing.assert_allclose(out[2], v[1], rtol=1e-6)
    gradients = jax.grad(lambda q, k, v: jnp.sum(f(q, k, v)[0] ** 2), (0, 1, 2))(q, k, v)
    assert all(np.isfinite(x).all() for x in gradients)
    np.testing.assert_array_equal(gradients[0][1], 0)
    curvature = jax.grad(lambda q: jnp.sum(jax.grad(lambda q: jnp.sum(f(q, k, v)[0] ** 2))(q) ** 2))(q)
    assert np.isfinite(curvature).all()


@pytest.mark.parametrize("block_size", [None, 2])
@pytest.mark.parametrize(("num_queries", "num_keys"), [(3, 0), (0, 3), (0, 0)])
def test_no_keys_give_0_and_no_queries_nothing(block_size, num_queries, num_keys):
    q, k, v = (jnp.ones((n, 2, 4)) for n in (num_queries, num_keys, num_keys))
    mask = jnp.ones((2, num_queries, num_keys), bool)
    out, lse = scaled_dot_product_attention(q, k, v, mask=mask, block_size=block_size, return_lse=True)
    np.testing.assert_array_equal(out, np.zeros((num_queries, 2, 4)))
    np.testing.assert_array_equal(lse, np.full((num_queries, 2), -INF))


def test_large_scores_do_not_overflow():
    q, k, v = (1e4 * x for x in arrays((3, 1, 4), (5, 1, 4), (5, 1, 2)))
    for block_size in (None, 2):
        np.testing.assert_allclose(attend(q, k, v, block_size=block_size), by_definition(q, k, v)[0], rtol=1e-5)


# Derivatives of any order, and transformations


@pytest.mark.parametrize("block_size", [pytest.param(None, marks=pytest.mark.slow), 2])
def test_forward_and_reverse_mode_of_second_order(block_size):
    with jax.enable_x64(True):
        q, k, v, bias = arrays((3, 2, 2), (3, 1, 2), (3, 1, 2), (2, 3, 3), dtype=np.float64)
        f = functools.partial(scaled_dot_product_attention, is_causal=True, block_size=block_size, return_lse=True)
        check_derivatives(lambda q, k, v, b: f(q, k, v, bias=b), (q, k, v, bias))


@pytest.mark.parametrize("block_size", [None, 4])
def test_the_derivative_of_the_log_sum_exp_is_the_probability(block_size):
    q, k, v = arrays((5, 1, 4), (7, 1, 4), (7, 1, 4))
    lse = lambda bias: scaled_dot_product_attention(q, k, v, bias=bias, block_size=block_size, return_lse=True)[1]  # noqa: E731
    found = jax.grad(lambda bias: lse(bias).sum())(jnp.zeros((5, 7)))
    np.testing.assert_allclose(found, by_definition(q, k, v)[2][0], rtol=1e-5, atol=1e-7)


def test_vmap_is_a_batch_axis():
    q, k, v = arrays((3, 5, 2, 4), (3, 7, 2, 4), (3, 7, 2, 4))
    f = functools.partial(scaled_dot_product_attention, is_causal=True, block_size=4)
    np.testing.assert_allclose(jax.jit(jax.vmap(f))(q, k, v), f(q, k, v), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        jax.vmap(f, (0, None, None))(q, k[0], v[0])[1], f(q[1], k[0], v[0]), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize(("gradient", "most"), [(False, 128), (True, 400)])
def test_memory_of_16384_tokens_is_linear(gradient, most):
    shape = jax.ShapeDtypeStruct((1, 16384, 8, 64), jnp.float32)
    f = functools.partial(scaled_dot_product_attention, is_causal=True)
    g = (
        (lambda q, k, v, c: (lambda y, pull: (y, pull(c)))(*jax.vjp(f, q, k, v)))
        if gradient
        else lambda q, k, v, c: f(q, k, v)
    )
    memory = jax.jit(g).lower(shape, shape, shape, shape).compile().memory_analysis()
    assert memory.temp_size_in_bytes <= most * 2**20


# Parts


@pytest.mark.parametrize("cut", [0, 1, 4, 9])
def test_merged_parts_are_the_whole_with_its_gradients(cut):
    q, k, v, cotangent = arrays((5, 2, 4), (9, 2, 4), (9, 2, 3), (5, 2, 3))
    whole = functools.partial(scaled_dot_product_attention, return_lse=True)

    def merged(q, k, v):
        return merge_attention(*whole(q, k[:cut], v[:cut]), *whole(q, k[cut:], v[cut:]))

    for found, exact in zip(merged(q, k, v), by_definition(q, k, v), strict=False):
        np.testing.assert_allclose(found, exact, rtol=1e-5, atol=1e-6)
    gradients = jax.grad(lambda *args: jnp.sum(cotangent * merged(*args)[0]), (0, 1, 2))(q, k, v)
    for found, exact in zip(gradients, gradients_by_definition(q, k, v, cotangent), strict=False):
        np.testing.assert_allclose(found, exact, rtol=1e-4, atol=1e-6)


def test_parts_in_half_precision_merge_as_one():
    q, k, v = (jnp.asarray(x, "bfloat16") for x in arrays((5, 2, 4), (900, 2, 4), (900, 2, 3)))
    parts = [scaled_dot_product_attention(q, k[i], v[i], return_lse=True) for i in (slice(450), slice(450, 900))]
    out, lse = merge_attention(*parts[0], *parts[1])
    exact = by_definition(q, k, v)
    assert worst(out, exact[0]) <= 1e-2
    np.testing.assert_allclose(lse, exact[1], rtol=1e-5)
    assert (out.dtype, lse.dtype) == (jnp.bfloat16, jnp.float32)


def test_nan_is_not_taken_for_a_row_that_sees_nothing():
    q, k, v = arrays((2, 1, 4), (3, 1, 4), (3, 1, 4))
    for block_size in (None, 2):
        out, lse = scaled_dot_product_attention(
            q * np.float32([[[np.nan]], [[1]]]), k, v, block_size=block_size, return_lse=True
        )
        assert np.isnan(lse[0, 0])
        assert np.isfinite(lse[1, 0])
        assert np.isnan(out[0]).all()


def test_two_parts_that_saw_nothing_saw_nothing():
    nothing, lse = jnp.zeros((2, 1, 3)), jnp.full((2, 1), -INF)
    out, merged = merge_attention(nothing, lse, nothing, lse)
    np.testing.assert_array_equal(out, 0)
    np.testing.assert_array_equal(merged, -INF)
    gradients = jax.grad(lambda *args: merge_attention(*args)[0].sum(), (0, 1))(nothing, lse, nothing, lse)
    np.testing.assert_array_equal(jnp.concatenate([x.ravel() for x in gradients]), 0)


# Heads and the cache


def params_of(features, heads, key_heads, head_features, context_features=None, seed=3):
    context_features = context_features or features
    shapes = (features, heads), (context_features, key_heads), (context_features, key_heads)
    weights = arrays(*((*shape, head_features) for shape in shapes), (heads, head_features, features), seed=seed)
    return MultiHeadParams(*map(jnp.asarray, weights))


def test_multi_head_attention_is_attention_of_projections():
    params = params_of(6, 4, 2, 3, context_features=5)
    x, context = arrays((2, 7, 6), (2, 9, 5))
    projected = [np.einsum("bte,ehd->bthd", a, w) for a, w in zip((x, context, context), params[:3], strict=True)]
    exact = np.einsum("bthd,hde->bte", by_definition(*projected)[0], params.output)
    np.testing.assert_allclose(multi_head_attention(params, x, context), exact, rtol=2e-4, atol=1e-4)


@pytest.mark.parametrize("key_heads", [4, 2, 1])
def test_step_by_step_with_a_cache_is_all_at_once(key_heads):
    params = params_of(6, 4, key_heads, 3)
    (x,) = arrays((2, 7, 6))
    step = jax.jit(multi_head_attention_step)
    cache, found = empty_cache(params, 7, batch_shape=(2,)), []
    for t in range(7):
        y, cache = step(params, x[:, t], cache)
        found.append(y)
    exact = multi_head_attention(params, x, is_causal=True)
    np.testing.assert_allclose(np.stack(found, 1), exact, rtol=1e-4, atol=1e-5)
    assert cache.length == 7
    assert np.isnan(step(params, x[:, 0], cache)[0]).all()  # the cache is full


# Positions


def encodings(positions, dim, base=10000.0):
    """The definition in long doubles."""
    positions = np.asarray(positions, np.longdouble)[..., None]
    angle = positions * np.longdouble(base) ** (-np.arange(0, dim, 2, dtype=np.longdouble) / dim)
    return np.stack([np.sin(angle), np.cos(angle)], -1).reshape(*positions.shape[:-1], dim).astype(float)


def test_sines_and_cosines_are_interleaved():
    found = sinusoidal_position_encoding(3, 4)
    w = 0.01  # 10000^(−2/4)
    exact = [[np.sin(t), np.cos(t), np.sin(t * w), np.cos(t * w)] for t in range(3)]
    np.testing.assert_allclose(found, exact, atol=1e-7)
    assert found.dtype == jnp.float32


@pytest.mark.parametrize("traced", [False, True])
def test_far_positions_have_all_their_digits(traced):
    positions = np.array([[0, 1, -3], [1000, 65_537, 1_000_000]])
    f = functools.partial(sinusoidal_position_encoding, dim=64)
    found = jax.jit(f)(positions) if traced else f(positions)
    np.testing.assert_allclose(found, encodings(positions, 64), atol=4e-7)


def test_fractional_positions_and_other_bases():
    positions = np.array([0.5, 7.25, 99.0], np.float32)
    found = sinusoidal_position_encoding(positions, 8, base=100.0)
    np.testing.assert_allclose(found, encodings(positions, 8, 100.0), atol=1e-5)


# Mistakes


@pytest.mark.parametrize(
    ("shapes", "options", "message"),
    [
        ([(5, 4), (5, 2, 4), (5, 2, 4)], {}, "length, heads, features"),
        ([(5, 2, 4), (5, 2, 3), (5, 2, 4)], {}, "same features"),
        ([(5, 2, 4), (5, 2, 4), (6, 2, 4)], {}, "same length"),
        ([(5, 3, 4), (5, 2, 4), (5, 2, 4)], {}, "divide the query heads"),
        ([(2, 5, 2, 4), (1, 5, 2, 4), (1, 5, 2, 4)], {}, "batch axes differ"),
        ([(5, 2, 4)] * 3, {"bias": np.zeros((3, 5))}, "bias of shape .* does not broadcast"),
        ([(5, 2, 4)] * 3, {"mask": np.ones((1, 1, 1, 5), bool)}, "mask of shape .* does not broadcast"),
        ([(5, 2, 4)] * 3, {"block_size": 0}, "block_size must be at least 1, got 0"),
        ([(5, 2, 4)] * 3, {"scale": np.ones(2)}, "scale"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(shapes, options, message):
    function = attention.scaled_dot_product_attention
    function = getattr(function, "__wrapped__", function)  # our own messages
    with pytest.raises((ValueError, TypeError), match=message):
        function(*map(jnp.zeros, shapes), **options)


def test_other_mistakes_are_refused():
    with pytest.raises(TypeError):
        scaled_dot_product_attention(*[jnp.zeros((5, 2, 4), int)] * 3)
    with pytest.raises(TypeError):
        scaled_dot_product_attention(*[jnp.zeros((5, 2, 4))] * 3, mask=jnp.ones((5, 5)))
    for dim in (0, 3):
        with pytest.raises(ValueError, match=f"dim must be positive and even, got {dim}"):
            sinusoidal_position_encoding(4, dim)
    with pytest.raises((AssertionError, TypeError)):
        merge_attention(jnp.zeros((2, 1, 3)), jnp.zeros((2, 2)), jnp.zeros((2, 1, 3)), jnp.zeros((2, 2)))
