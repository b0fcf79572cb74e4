"""Errors of action values by hand, at the edges, and the tabular update."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mathai.rl import q_learning

Q, A, R, GAMMA = jnp.array([1.0, -2.0, 0.5]), jnp.int32(1), jnp.float32(3.0), jnp.float32(0.5)
Q_NEXT, SELECTOR, POLICY = jnp.array([4.0, -1.0, 2.0]), jnp.array([0.0, 1.0, 1.0]), jnp.array([0.5, 0.25, 0.25])
ERRORS = {
    # 3 + ½·4 + 2;  3 + ½·(−1) + 2 (the selector ties, the first wins);  3 + ½·2 + 2;  3 + ½·2.25 + 2
    "q_learning": (q_learning.q_learning_error, (Q_NEXT,), 7.0),
    "double": (q_learning.double_q_learning_error, (Q_NEXT, SELECTOR), 4.5),
    "sarsa": (q_learning.sarsa_error, (Q_NEXT, jnp.int32(2)), 6.0),
    "expected_sarsa": (q_learning.expected_sarsa_error, (Q_NEXT, POLICY), 6.125),
}
every_error = pytest.mark.parametrize(("error", "rest", "expected"), ERRORS.values(), ids=ERRORS)


@every_error
def test_value_by_hand(error, rest, expected):
    assert error(Q, A, R, GAMMA, *rest) == expected
    assert jax.jit(error)(Q, A, R, GAMMA, *rest) == expected


@every_error
def test_only_the_chosen_value_has_a_gradient(error, rest, expected):
    arguments = (Q, R, GAMMA, *(x for x in rest if x.ndim))

    def of_floats(q, r, discount, *following):
        following = [*following, *(x for x in rest if not x.ndim)]
        return error(q, A, r, discount, *following)

    by_q, *others = jax.jit(jax.grad(of_floats, argnums=tuple(range(len(arguments)))))(*arguments)
    np.testing.assert_array_equal(by_q, [0, -1, 0])
    for gradient in others:
        np.testing.assert_array_equal(gradient, 0)


@every_error
@pytest.mark.parametrize("beyond", [jnp.inf, -jnp.inf, jnp.nan])
def test_nothing_beyond_a_terminal_state_counts(error, rest, expected, beyond):
    rest = tuple(jnp.full_like(x, beyond) if x.ndim else x for x in rest)
    assert error(Q, A, R, jnp.float32(0), *rest) == 5.0  # 3 − (−2)


@every_error
def test_masked_actions_are_not_chosen(error, rest, expected):
    """The best action is masked; Sarsa took another."""
    masked = (Q_NEXT.at[0].set(-jnp.inf), *rest[1:])
    values = {7.0: 6.0, 4.5: 4.5, 6.0: 6.0, 6.125: -jnp.inf}
    assert error(Q, A, R, GAMMA, *masked) == values[expected]
    if error is q_learning.expected_sarsa_error:
        policy = jnp.array([0.0, 0.5, 0.5])
        assert error(Q, A, R, GAMMA, masked[0], policy) == 5.25  # 0 · −∞ = 0


@every_error
@pytest.mark.parametrize("action", [-1, 3])
def test_an_action_that_does_not_exist_gives_nan(error, rest, expected, action):
    assert jnp.isnan(error(Q, jnp.int32(action), R, GAMMA, *rest))


@every_error
def test_leading_axes_are_a_vmap(error, rest, expected):
    keys = jax.random.split(jax.random.key(0), 10)
    shape = (5, 2)

    def draw(index, like):
        return jax.random.normal(keys[index], (*shape, *like.shape)) if like.ndim else None

    q, next_rest = draw(0, Q), [draw(i + 3, x) for i, x in enumerate(rest)]
    actions = jax.random.randint(keys[7], shape, 0, 3)
    next_rest = [actions if x is None else x for x in next_rest]
    reward, discount = jax.random.normal(keys[1], shape), jax.random.uniform(keys[2], shape)
    found = error(q, actions, reward, discount, *next_rest)
    by_vmap = jax.vmap(jax.vmap(error))(q, actions, reward, discount, *next_rest)
    np.testing.assert_allclose(found, by_vmap, rtol=1e-6)


@every_error
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_dtype_of_the_arrays_comes_back(error, rest, expected, dtype):
    def cast(x):
        return x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x

    result = error(*(cast(x) for x in (Q, A, R, GAMMA, *rest)))
    assert result.dtype == dtype
    assert result == jnp.asarray(expected, dtype)


@every_error
def test_shapes_and_types_are_checked(error, rest, expected):
    with pytest.raises((AssertionError, TypeError), match=r"shape|Type-check"):
        error(jnp.zeros(4), A, R, GAMMA, *rest)
    with pytest.raises((AssertionError, TypeError), match=r"shape|Type-check"):
        error(Q, A, jnp.zeros(3), GAMMA, *rest)
    with pytest.raises(TypeError):
        error(Q, jnp.float32(1), R, GAMMA, *rest)


# The table


def test_update_changes_one_entry():
    q = jnp.arange(6.0).reshape(3, 2)
    new = jax.jit(functools.partial(q_learning.q_learning_update, step_size=0.25))(q, 1, 0, 1.0, 0.5, 2)
    # 2 + ¼ (1 + ½·5 − 2)
    np.testing.assert_array_equal(new, q.at[1, 0].set(2.375))


def test_update_with_step_one_and_no_future_stores_the_reward():
    q = jnp.full((2, 2), jnp.nan).at[0, 0].set(3.0)
    new = q_learning.q_learning_update(q, 0, 0, 7.0, 0.0, 1, step_size=1.0)
    assert new[0, 0] == 7.0


@pytest.mark.parametrize(("state", "action"), [(-1, 0), (3, 0), (0, -1), (0, 2)])
def test_a_step_from_outside_the_table_changes_nothing(state, action):
    q = jnp.arange(6.0).reshape(3, 2)
    np.testing.assert_array_equal(q_learning.q_learning_update(q, state, action, 1.0, 0.5, 0, step_size=0.5), q)


@pytest.mark.parametrize("successor", [-1, 3])
def test_a_step_out_of_the_table_is_seen(successor):
    q = jnp.arange(6.0).reshape(3, 2)
    new = q_learning.q_learning_update(q, 0, 0, 1.0, 0.5, successor, step_size=0.5)
    assert jnp.isnan(new[0, 0])
    np.testing.assert_array_equal(new.ravel()[1:], q.ravel()[1:])


def test_float16_table_stays_float16():
    new = q_learning.q_learning_update(jnp.zeros((2, 2), jnp.float16), 0, 1, 1.0, 0.9, 1, step_size=0.5)
    assert new.dtype == jnp.float16
    assert new[0, 1] == 0.5
