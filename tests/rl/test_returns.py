"""Returns against sums written from their definitions, and what an episode's end must stop."""

import functools

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from mathai.rl.returns import (
    discounted_returns,
    generalized_advantage_estimation,
    lambda_returns,
    n_step_returns,
)

SHAPE_ERRORS = (AssertionError, TypeError)  # chex's, or jaxtyping's where it checks first
T = 9
gae = generalized_advantage_estimation


def episode_end(t, discount, truncation):
    """The last step of the episode, or of the stream, to which step t belongs."""
    return next((k for k in range(t, len(discount)) if discount[k] == 0 or truncation[k]), len(discount) - 1)


def bootstrapped_sum(t, stop, r, discount, v):
    """r_t + γ_t r_{t+1} + … up to step `stop`, then the value of the state that it reached."""
    weights = np.cumprod([1.0, *discount[t : stop + 1]])
    return float(np.dot(weights[:-1], r[t : stop + 1]) + (weights[-1] * v[stop] if weights[-1] else 0.0))


def n_step_by_definition(r, discount, v, n, truncation):
    stops = [min(t + n - 1, episode_end(t, discount, truncation)) for t in range(len(r))]
    return np.array([bootstrapped_sum(t, stop, r, discount, v) for t, stop in enumerate(stops)])


def lambda_by_definition(r, discount, v, lambda_, truncation):
    """Σₙ (1 − λ_{t+n−1}) λ_t ⋯ λ_{t+n−2} G⁽ⁿ⁾, the rest of the weight on the longest return."""
    lambda_ = np.broadcast_to(lambda_, r.shape)
    result = []
    for t in range(len(r)):
        end = episode_end(t, discount, truncation)
        remaining, total = 1.0, 0.0
        for stop in range(t, end + 1):
            share = remaining if stop == end else remaining * (1 - lambda_[stop])
            total += share * bootstrapped_sum(t, stop, r, discount, v)
            remaining *= lambda_[stop]
        result.append(total)
    return np.array(result)


def gae_by_definition(r, discount, v_tm1, v_t, lambda_, truncation):
    delta = [r[k] + (discount[k] * v_t[k] if discount[k] else 0.0) - v_tm1[k] for k in range(len(r))]
    return np.array(
        [
            sum(np.prod(discount[t:k] * lambda_) * delta[k] for k in range(t, episode_end(t, discount, truncation) + 1))
            for t in range(len(r))
        ]
    )


def stream(seed, num_steps=T, ends=0.5):
    """Rewards, discounts with terminations, two values and truncations; some steps are both."""
    rng = np.random.default_rng(seed)
    r, v_tm1, v_t = rng.normal(size=(3, num_steps))
    ended = rng.random(num_steps) < ends
    terminated = ended & (rng.random(num_steps) < 0.5)
    truncated = ended & (rng.random(num_steps) < 0.5)
    discount = rng.uniform(0.5, 1.0, num_steps) * ~terminated
    return r, discount, v_tm1, v_t, truncated


jitted_discounted = jax.jit(discounted_returns)
jitted_n_step = jax.jit(n_step_returns, static_argnums=3)
jitted_lambda = jax.jit(lambda_returns)
jitted_gae = jax.jit(gae)

few = hypothesis.settings(max_examples=25, deadline=None, derandomize=True)
seeds = st.integers(0, 2**32 - 1)
close = functools.partial(np.testing.assert_allclose, rtol=2e-5, atol=2e-5)


# Values from the definitions


@few
@hypothesis.given(seeds, st.sampled_from([0.0, 0.3, 1.0]))
def test_discounted_returns_are_the_sum_of_discounted_rewards(seed, ends):
    r, discount, _, v, _ = stream(seed, ends=ends)
    never = np.zeros(T, bool)
    expected = n_step_by_definition(r, discount, v, T, never)
    close(jitted_discounted(r, discount, v[-1]), expected)


@few
@hypothesis.given(seeds, st.sampled_from([1, 2, 3, 5, T, T + 4]))
def test_n_step_returns_are_n_rewards_and_a_value(seed, n):
    r, discount, _, v, truncation = stream(seed)
    close(
        jitted_n_step(r, discount, v, n, truncation_t=truncation), n_step_by_definition(r, discount, v, n, truncation)
    )
    never = np.zeros(T, bool)
    close(jitted_n_step(r, discount, v, n), n_step_by_definition(r, discount, v, n, never))


@few
@hypothesis.given(seeds, st.floats(0, 1))
def test_lambda_returns_are_the_mixture_of_n_step_returns(seed, lambda_):
    r, discount, _, v, truncation = stream(seed)
    expected = lambda_by_definition(r, discount, v, lambda_, truncation)
    close(jitted_lambda(r, discount, v, lambda_, truncation_t=truncation), expected)


@few
@hypothesis.given(seeds)
def test_lambda_may_differ_from_step_to_step(seed):
    r, discount, _, v, truncation = stream(seed, ends=0.2)
    lambda_ = np.random.default_rng(seed + 1).random(T)
    lambda_[seed % T] = 0
    expected = lambda_by_definition(r, discount, v, lambda_, truncation)
    close(jitted_lambda(r, discount, v, lambda_, truncation_t=truncation), expected)


@few
@hypothesis.given(seeds, st.floats(0, 1))
def test_advantages_are_the_weighted_sum_of_td_errors(seed, lambda_):
    r, discount, v_tm1, v_t, truncation = stream(seed)
    expected = gae_by_definition(r, discount, v_tm1, v_t, lambda_, truncation)
    close(jitted_gae(r, discount, v_tm1, v_t, lambda_, truncation_t=truncation), expected)


def test_a_truncation_keeps_its_bootstrap_and_a_termination_loses_it():
    # Three episodes of one step, ended by nothing, a time limit and a terminal state; γ = ½, λ = 1. By hand:
    # A_2 = 1 − 4 = −3 (terminated); A_1 = 1 + ½·20 − 3 = 8 (cut); A_0 = 1 + ½·10 − 2 + ½·8 = 8.
    r = np.ones(3)
    advantages = jitted_gae(
        r, np.array([0.5, 0.5, 0.0]), np.array([2.0, 3.0, 4.0]), np.array([10.0, 20.0, 30.0]), 1.0,
        truncation_t=np.array([False, True, False]),
    )  # fmt: skip
    assert advantages.tolist() == [8.0, 8.0, -3.0]


def test_a_pole_that_never_falls_is_worth_one_over_one_minus_gamma():
    # Episodes cut every 5 steps, reward 1, V = 1/(1 − γ) exact: every advantage is 0 and every return is V.
    gamma, steps = 0.99, 20
    value = np.full(steps, 1 / (1 - gamma), np.float32)
    ones = np.ones(steps, np.float32)
    truncation = np.arange(steps) % 5 == 4
    advantages = jitted_gae(ones, gamma * ones, value, value, 0.95, truncation_t=truncation)
    np.testing.assert_allclose(advantages, 0, atol=1e-4)
    for returns in (
        jitted_lambda(ones, gamma * ones, value, 0.95, truncation_t=truncation),
        jitted_n_step(ones, gamma * ones, value, 3, truncation_t=truncation),
    ):
        np.testing.assert_allclose(returns, 100.0, rtol=1e-5)


# Identities


@few
@hypothesis.given(seeds, st.floats(0, 1))
def test_identities(seed, lambda_):
    r, discount, _, v_t, truncation = stream(seed)
    v_tm1 = np.concatenate([[0.3], v_t[:-1]])  # the value function of one unbroken stream
    never = np.zeros(T, bool)
    td_error = r + discount * v_t - v_tm1
    monte_carlo = np.array([bootstrapped_sum(t, episode_end(t, discount, never), r, discount, v_t) for t in range(T)])
    close(jitted_gae(r, discount, v_tm1, v_t, 0.0), td_error)
    close(jitted_gae(r, discount, v_tm1, v_t, 1.0), monte_carlo - v_tm1)
    close(jitted_lambda(r, discount, v_t, 0.0), r + discount * v_t)
    close(jitted_lambda(r, discount, v_t, 1.0), monte_carlo)
    close(jitted_n_step(r, discount, v_t, 1), r + discount * v_t)
    # Aₜ + vₜ₋₁ is the λ-return, whatever ends where, if each step starts from the value that the one before it reached.
    advantages = jitted_gae(r, discount, v_tm1, v_t, lambda_, truncation_t=truncation)
    expected = jitted_lambda(r, discount, v_t, lambda_, truncation_t=truncation)
    close(advantages + v_tm1, expected)


# Episode ends

ALL = {
    "discounted": lambda r, d, v, tr: discounted_returns(r, d, 1.0),
    "n_step": lambda r, d, v, tr: n_step_returns(r, d, v, 3, truncation_t=tr),
    "lambda": lambda r, d, v, tr: lambda_returns(r, d, v, 0.9, truncation_t=tr),
    "lambda_one": lambda r, d, v, tr: lambda_returns(r, d, v, 1.0, truncation_t=tr),
    "gae": lambda r, d, v, tr: gae(r, d, 0.5 * v, v, 0.9, truncation_t=tr),
}
ALL = {name: jax.jit(f) for name, f in ALL.items()}
TRUNCATING = [name for name in ALL if name != "discounted"]


def border(kind):
    """Six steps; the episode ends after step 2, by termination or by truncation."""
    discount = np.full(6, 0.9, np.float32)
    truncation = np.zeros(6, bool)
    if kind == "terminated":
        discount[2] = 0
    else:
        truncation[2] = True
    r = np.arange(1.0, 7.0, dtype=np.float32)
    v = np.arange(2.0, 8.0, dtype=np.float32)
    return r, discount, v, truncation


@pytest.mark.parametrize(
    ("name", "kind"), [(name, "terminated") for name in ALL] + [(name, "truncated") for name in TRUNCATING]
)
def test_nothing_crosses_the_end_of_an_episode(name, kind):
    r, discount, v, truncation = border(kind)

    @jax.jit
    @functools.partial(jax.value_and_grad, argnums=(0, 1, 2), has_aux=True)
    def first_episode(r, discount, v):
        y = ALL[name](r, discount, v, truncation)
        return jnp.sum(y[:3]), y

    (_, clean), clean_grads = first_episode(r, discount, v)
    assert np.isfinite(clean_grads).all()
    for grad in (clean_grads[0], clean_grads[2]):
        np.testing.assert_array_equal(grad[3:], 0)
    for poison in (np.nan, np.inf, -np.inf):
        r[3:], v[4:] = poison, poison
        (_, y), grads = first_episode(r, discount, v)
        assert not np.isfinite(y[3:]).any()
        np.testing.assert_array_equal(y[:3], clean[:3])
        np.testing.assert_array_equal(np.stack(grads)[:, :3], np.stack(clean_grads)[:, :3])


@pytest.mark.parametrize("name", TRUNCATING)
def test_the_value_of_a_terminal_state_does_not_enter(name):
    r, discount, v, truncation = border("terminated")
    f = {**ALL, "gae": lambda r, d, v, tr: jitted_gae(r, d, jnp.ones(6), v, 0.9, truncation_t=tr)}[name]
    run = jax.jit(jax.value_and_grad(lambda *args: jnp.sum(f(*args, truncation)), argnums=(0, 1, 2)))
    clean, clean_grads = run(r, discount, v)
    assert clean_grads[1][2] == 0  # a termination is a constant
    assert clean_grads[2][2] == 0
    for poison in (np.nan, np.inf):
        v[2] = poison
        value, grads = run(r, discount, v)
        assert value == clean
        np.testing.assert_array_equal(grads, clean_grads)


@pytest.mark.parametrize("name", TRUNCATING)
def test_the_value_at_a_truncation_enters_with_its_discount(name):
    r, discount, v, truncation = border("truncated")
    grad = jax.jit(jax.grad(lambda v: ALL[name](r, discount, v, truncation)[2]))(v)
    assert grad[2] == pytest.approx(0.9 - (0.5 if name == "gae" else 0))
    np.testing.assert_array_equal(np.delete(grad, 2), 0)


def test_a_step_that_is_terminated_and_truncated_is_terminated():
    r, discount, v, truncation = border("terminated")
    both = truncation | (discount == 0)
    for name in TRUNCATING:
        np.testing.assert_array_equal(ALL[name](r, discount, v, both), ALL[name](r, discount, v, truncation))


@pytest.mark.parametrize("dtype", [bool, np.int32, np.float32])
def test_truncation_may_be_a_flag_or_a_number(dtype):
    r, discount, v, truncation = border("truncated")
    expected = gae_by_definition(r, discount, v, v, 0.9, truncation)
    close(jitted_gae(r, discount, v, v, 0.9, truncation_t=truncation.astype(dtype)), expected)


def test_without_truncation_the_stream_is_one_episode():
    r, discount, v, truncation = border("truncated")
    assert jitted_gae(r, discount, v, v, 0.9)[0] != jitted_gae(r, discount, v, v, 0.9, truncation_t=truncation)[0]


def test_an_episode_may_end_at_every_step():
    r, v = np.arange(1.0, 5.0), np.arange(5.0, 9.0)
    zero = np.zeros(4)
    assert jitted_discounted(r, zero, np.nan).tolist() == r.tolist()
    assert jitted_n_step(r, zero, v, 2).tolist() == r.tolist()
    assert jitted_lambda(r, zero, v, 0.5).tolist() == r.tolist()
    assert jitted_gae(r, zero, v, v, 0.5).tolist() == (r - v).tolist()


def test_what_lambda_weighs_by_zero_is_ignored_and_still_has_its_derivative():
    r, discount, v = jnp.array([1.0, 2.0]), jnp.array([0.5, 0.5]), jnp.array([3.0, 4.0])
    assert jitted_lambda(r.at[1].set(jnp.nan), discount, v, 0.0)[0] == 2.5
    assert jitted_gae(r.at[1].set(jnp.inf), discount, v, v, 0.0)[0] == -0.5
    assert jitted_lambda(r, discount, v.at[0].set(jnp.nan), 1.0)[0] == 1 + 0.5 * (2 + 0.5 * 4)
    # dG₀/dλ = γ (G₁ − v₀) = ½ (4 − 3) at every λ, 0 included
    for lambda_ in (0.0, 0.5, 1.0):
        assert jax.grad(lambda x: jitted_lambda(r, discount, v, x)[0])(lambda_) == 0.5


def test_a_lambda_of_zero_at_one_step_cuts_there_too():
    r, discount, v, truncation = border("truncated")
    cut = np.where(truncation, 0, 0.9)
    expected = jitted_lambda(r, discount, v, 0.9, truncation_t=truncation)
    r[4] = np.nan
    np.testing.assert_array_equal(jitted_lambda(r, discount, v, cut)[:3], expected[:3])


# Shapes


@pytest.mark.parametrize("name", ALL)
def test_a_stream_may_have_no_steps_or_one(name):
    empty = jnp.zeros(0)
    assert ALL[name](empty, empty, empty, empty).shape == (0,)
    assert jax.grad(lambda r: jnp.sum(ALL[name](r, empty, empty, empty)))(empty).shape == (0,)
    one = ALL[name](jnp.array([2.0]), jnp.array([0.5]), jnp.array([8.0]), jnp.array([False]))
    assert one.tolist() == [{"discounted": 2 + 0.5 * 1, "gae": 2 + 0.5 * 8 - 4}.get(name, 2 + 0.5 * 8)]


@pytest.mark.parametrize("name", ALL)
def test_batches_by_vmap_or_trailing_axes_are_independent_streams(name):
    columns = [stream(seed) for seed in (1, 2, 3)]  # each alone, then side by side
    r, discount, _, v, truncation = (jnp.asarray(np.stack(x, axis=1)) for x in zip(*columns, strict=True))
    expected = np.stack([ALL[name](a, b, d, e) for a, b, _, d, e in columns], axis=1)
    mapped = jax.jit(jax.vmap(ALL[name], in_axes=1, out_axes=1))(r, discount, v, truncation)
    close(mapped, expected)
    trailing = ALL[name](*(x[:, None] for x in (r, discount, v, truncation)))
    close(trailing[:, 0], expected)


def test_the_bootstrap_may_be_one_per_stream():
    r = jnp.zeros((2, 3))
    returns = jitted_discounted(r, jnp.full((2, 3), 0.5), jnp.array([4.0, 8.0, 12.0]))
    assert returns.tolist() == [[1.0, 2.0, 3.0], [2.0, 4.0, 6.0]]


def test_lambda_may_be_swept_by_vmap_and_traced():
    r, discount, v_tm1, v_t, _ = stream(5)
    lambdas = jnp.array([0.0, 0.5, 1.0])
    swept = jax.jit(jax.vmap(lambda x: gae(r, discount, v_tm1, v_t, x)))(lambdas)
    expected = [gae_by_definition(r, discount, v_tm1, v_t, x, np.zeros(T)) for x in (0.0, 0.5, 1.0)]
    close(swept, np.stack(expected))


@pytest.mark.parametrize("position", range(5))
def test_gae_refuses_to_broadcast(position):
    arguments = [jnp.zeros(4)] * 4 + [jnp.full(4, 0.9)]
    arguments[position] = arguments[position][:, None]
    with pytest.raises(SHAPE_ERRORS):
        gae(*arguments)


@pytest.mark.parametrize("position", range(3))
def test_returns_refuse_to_broadcast(position):
    arguments = [jnp.zeros(4)] * 3
    arguments[position] = jnp.zeros((4, 1))
    with pytest.raises(SHAPE_ERRORS):
        n_step_returns(*arguments, 2)
    with pytest.raises(SHAPE_ERRORS):
        lambda_returns(*arguments, 0.5)
    with pytest.raises(SHAPE_ERRORS):
        discounted_returns(*arguments)


def test_truncation_and_lambda_have_the_shape_of_the_rewards():
    zeros = jnp.zeros(4)
    with pytest.raises(SHAPE_ERRORS):
        gae(zeros, zeros, zeros, zeros, 0.9, truncation_t=jnp.zeros((4, 1)))
    with pytest.raises(SHAPE_ERRORS):
        lambda_returns(zeros, zeros, zeros, jnp.zeros(3))
    with pytest.raises(SHAPE_ERRORS):
        discounted_returns(zeros, 0.9, 0.0)


@pytest.mark.parametrize("n", [0, -1])
def test_n_step_returns_need_a_step(n):
    with pytest.raises(ValueError, match=f"n >= 1.*n = {n}"):
        n_step_returns(jnp.zeros(3), jnp.zeros(3), jnp.zeros(3), n)


# Gradients


@pytest.mark.parametrize("name", ALL)
def test_derivatives_in_every_input_agree_with_differences(name):
    with jax.enable_x64(True):
        r, discount, _, v, truncation = (jnp.asarray(x) for x in stream(11, num_steps=5, ends=0.0))
        truncation = truncation.at[2].set(name != "discounted")
        check_grads(lambda *args: ALL[name](*args, truncation), (r, discount, v), order=1, modes=["rev"])


def test_derivatives_in_lambda_and_bootstrap_agree_with_differences():
    with jax.enable_x64(True):
        r, discount, v_tm1, v_t, truncation = (jnp.asarray(x) for x in stream(12, num_steps=5))
        check_grads(lambda x: jitted_lambda(r, discount, v_t, x, truncation_t=truncation), (0.7,), order=1)
        check_grads(lambda x: jitted_gae(r, discount, v_tm1, v_t, x, truncation_t=truncation), (0.7,), order=1)
        check_grads(lambda x: jitted_discounted(r, discount, x), (0.7,), order=1)
        check_grads(lambda x: jitted_gae(r, discount, x, v_t, 0.7), (v_tm1,), order=1)


# Dtypes


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32, jnp.float64])
@pytest.mark.parametrize("name", ALL)
def test_results_have_the_dtype_of_the_inputs_and_its_accuracy(name, dtype):
    with jax.enable_x64(True):
        r, discount, _, v, _ = stream(21, num_steps=40, ends=0.1)
        r, discount, v = (jnp.asarray(np.abs(x), dtype) for x in (r, discount, v))
        y = ALL[name](r, discount, v, jnp.zeros(40, bool))
        assert y.dtype == dtype
        r, discount, v = (np.asarray(x, np.float64) for x in (r, discount, v))
        never = np.zeros(40, bool)
        expected = {
            "discounted": lambda: n_step_by_definition(r, discount, np.ones(40), 40, never),
            "n_step": lambda: n_step_by_definition(r, discount, v, 3, never),
            "lambda": lambda: lambda_by_definition(r, discount, v, 0.9, never),
            "lambda_one": lambda: lambda_by_definition(r, discount, v, 1.0, never),
            "gae": lambda: gae_by_definition(
                r, discount, np.asarray(jnp.asarray(0.5 * v, dtype), np.float64), v, 0.9, never
            ),
        }[name]()
        tolerance = 4 * float(jnp.finfo(dtype).eps)
        np.testing.assert_allclose(np.asarray(y, np.float64), expected, rtol=tolerance, atol=tolerance)


def test_long_sums_of_half_precision_do_not_stall():
    # Summed in bfloat16, ones stop adding at 256.
    steps = 1000
    ones = jnp.ones(steps, jnp.bfloat16)
    assert jitted_discounted(ones, ones, 0.0)[0] == jnp.bfloat16(steps)


def test_integer_rewards_are_promoted_and_hyperparameters_do_not_widen():
    r = np.array([1, 0, 2])
    discount, v = np.full(3, 0.5, np.float16), np.zeros(3, np.float16)
    assert jitted_discounted(r, np.array([1, 1, 0]), 0).tolist() == [3.0, 2.0, 2.0]
    assert jitted_discounted(r, np.array([1, 1, 0]), 0).dtype == jnp.float32
    assert jitted_gae(r, discount, v, v, 0.9).dtype == jnp.float16
    assert jitted_lambda(r, discount, v, jnp.float32(0.9)).dtype == jnp.float16
    assert jitted_discounted(r, discount, 0.0).dtype == jnp.float16
