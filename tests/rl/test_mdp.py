"""Exact planning against linear algebra in NumPy, enumeration of all policies, and the theorems about it."""

import functools
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from mathai.rl import mdp, small_mdps
from mathai.rl.mdp import MDP

GAMMA = 0.9
NUM_PROBLEMS, NUM_STATES, NUM_ACTIONS = 100, 8, 3


@pytest.fixture(scope="module")
def problems():
    """100 random problems, stacked."""

    @jax.jit
    @jax.vmap
    def draw(key):
        return small_mdps.garnet(key, num_states=NUM_STATES, num_actions=NUM_ACTIONS, branching=3, discount=GAMMA)

    return draw(jax.random.split(jax.random.key(0), NUM_PROBLEMS))


@pytest.fixture(scope="module")
def planned(problems):
    return jax.jit(jax.vmap(functools.partial(mdp.value_iteration, tolerance=1e-6)))(problems)


@pytest.fixture(scope="module")
def improved(problems):
    return jax.jit(jax.vmap(mdp.policy_iteration))(problems)


def exact_value(problem, policy):
    """(I − γ P^π)⁻¹ r^π in float64, by NumPy."""
    transition, reward = np.asarray(problem.transition, np.float64), np.asarray(problem.reward, np.float64)
    of_policy = np.einsum("sa,sat->st", policy, transition)
    return np.linalg.solve(np.eye(len(reward)) - float(problem.discount) * of_policy, (policy * reward).sum(1))


def one_of(problems, index):
    return jax.tree.map(lambda x: x[index], problems)


def all_policies(num_states, num_actions):
    for choice in itertools.product(range(num_actions), repeat=num_states):
        yield np.eye(num_actions)[list(choice)]


# Operators


def test_operators_are_their_sums(problems):
    problem = one_of(problems, 0)
    transition, reward = np.asarray(problem.transition, np.float64), np.asarray(problem.reward, np.float64)
    rng = np.random.default_rng(0)
    value = rng.normal(size=NUM_STATES).astype(np.float32)
    policy = rng.dirichlet(np.ones(NUM_ACTIONS), NUM_STATES).astype(np.float32)
    q = reward + GAMMA * np.einsum("sat,t->sa", transition, value.astype(np.float64))
    np.testing.assert_allclose(jax.jit(mdp.action_values)(problem, value), q, atol=1e-6)
    np.testing.assert_allclose(jax.jit(mdp.bellman_optimality)(problem, value), q.max(1), atol=1e-6)
    expected = (policy * q).sum(1)
    np.testing.assert_allclose(jax.jit(mdp.bellman_expectation)(problem, policy, value), expected, atol=1e-6)


def test_optimality_operator_contracts_and_is_monotone(problems):
    low = jax.random.normal(jax.random.key(1), (NUM_PROBLEMS, NUM_STATES))
    high = low + jax.random.exponential(jax.random.key(2), low.shape)
    operator = jax.jit(jax.vmap(mdp.bellman_optimality))
    below, above = operator(problems, low), operator(problems, high)
    distance = jnp.max(jnp.abs(high - low), axis=1)
    assert jnp.all(jnp.max(jnp.abs(above - below), axis=1) <= GAMMA * distance * (1 + 1e-5))
    assert jnp.all(above >= below)


def test_greedy_policy_takes_the_first_maximum():
    q = jnp.array([[1.0, 3.0, 3.0], [2.0, 2.0, 2.0], [-jnp.inf, -jnp.inf, 0.0]])
    np.testing.assert_array_equal(mdp.greedy_policy(q), [[0, 1, 0], [1, 0, 0], [0, 0, 1]])
    assert mdp.greedy_policy(q.astype(jnp.bfloat16)).dtype == jnp.bfloat16


# Solvers


def test_value_iteration_ends_within_its_bound_of_the_linear_solve(problems, planned):
    for index in range(NUM_PROBLEMS):
        exact = exact_value(one_of(problems, index), np.asarray(planned.policy[index], np.float64))
        # γ/(1 − γ) · tolerance, and what float32 loses at values near 10
        assert np.abs(planned.value[index] - exact).max() <= GAMMA / (1 - GAMMA) * 1e-6 + 1e-5
    assert jnp.all(planned.residual <= 1e-6)


def test_value_iteration_contracts_at_rate_gamma(problems):
    problem = one_of(problems, 3)
    optimum = mdp.policy_iteration(problem).value
    value, error = jnp.zeros(NUM_STATES), jnp.max(jnp.abs(optimum))
    operator = jax.jit(mdp.bellman_optimality)
    for _ in range(60):
        value = operator(problem, value)
        new_error = jnp.max(jnp.abs(value - optimum))
        assert new_error <= GAMMA * error + 2e-6
        error = new_error
    assert error <= GAMMA**60 * jnp.max(jnp.abs(optimum)) + 2e-5


def test_policy_iteration_agrees_with_value_iteration(problems, planned, improved):
    np.testing.assert_allclose(improved.value, planned.value, atol=2e-5)
    np.testing.assert_array_equal(improved.policy, planned.policy)  # random rewards have no ties
    assert jnp.all(improved.residual <= 1e-5)
    assert jnp.max(improved.iterations) <= 10


def test_no_policy_is_better(problems):
    small = small_mdps.garnet(jax.random.key(5), num_states=5, num_actions=3, branching=2, discount=GAMMA)
    best = np.max([exact_value(small, policy) for policy in all_policies(5, 3)], axis=0)
    np.testing.assert_allclose(jax.jit(mdp.policy_iteration)(small).value, best, atol=2e-5)


def test_value_iteration_counts_its_backups():
    """One state, one action, r = 1, γ = ½: V_k = 2 − 2¹⁻ᵏ, so the residual is 2¹⁻ᵏ, first ≤ 2⁻⁴ at k = 5."""
    problem = MDP(jnp.ones((1, 1, 1)), jnp.ones((1, 1)), 0.5)
    solution = mdp.value_iteration(problem, tolerance=2.0**-4, max_iterations=100)
    assert (solution.value[0], solution.iterations, solution.residual) == (2 - 2.0**-4, 5, 2.0**-4)
    cut = mdp.value_iteration(problem, tolerance=0.0, max_iterations=3)
    assert (cut.value[0], cut.iterations, cut.residual) == (1.75, 3, 0.25)


@pytest.mark.parametrize("seed", range(4))
def test_policy_iteration_does_not_cycle_on_ties(seed):
    """All actions alike up to rounding: copies of one action whose successors come in another order."""
    rng = np.random.default_rng(seed)
    row, reward = rng.dirichlet(np.ones(6), 6), rng.normal(size=6)
    transition = np.stack([row] * 4, axis=1).astype(np.float32)
    reward = np.stack([reward] * 4, axis=1).astype(np.float32)
    jitter = rng.choice([0.0, 1e-7, -1e-7], size=reward.shape).astype(np.float32)
    problem = MDP(jnp.asarray(transition), jnp.asarray(reward + jitter), 0.999)
    solution = jax.jit(mdp.policy_iteration)(problem)
    assert solution.iterations < 20
    exact = exact_value(problem, np.asarray(solution.policy, np.float64))
    np.testing.assert_allclose(solution.value, exact, rtol=1e-3)


def test_a_small_improvement_of_one_of_many_states_is_not_lost():
    """999 states are worth 100 for ever; in the other one, the second action is better by 0.001."""
    num_states = 1000
    transition = np.zeros((num_states, 2, num_states), np.float32)
    transition[np.arange(num_states), :, np.arange(num_states)] = 1
    transition[0, :, 0], transition[0, 1, 1] = 0, 1
    transition[0, 0, 2] = 1
    reward = np.ones((num_states, 2), np.float32)
    reward[0] = [1.0, 0.5]
    reward[1] = 1.00001 + 0.5 / 99  # makes the move to state 1 worth it, though its reward is less
    solution = jax.jit(mdp.policy_iteration)(MDP(jnp.asarray(transition), jnp.asarray(reward), 0.99))
    assert solution.policy[0, 1] == 1
    assert solution.residual < 1e-4


def test_an_exact_tie_keeps_the_first_action():
    solution = mdp.policy_iteration(MDP(jnp.full((3, 4, 3), 1 / 3), jnp.ones((3, 4)), 0.5))
    np.testing.assert_array_equal(solution.policy, np.eye(4)[[0, 0, 0]])
    assert solution.iterations == 2  # the second finds nothing better


def test_rows_of_zeros_end_the_episode_even_without_discount():
    """A corridor of four cells, −1 a step, γ = 1: the value is minus the distance."""
    problem = small_mdps.grid_world(["G..."], discount=1.0, step_reward=-1.0, goal_reward=-1.0)
    np.testing.assert_allclose(mdp.value_iteration(problem, tolerance=1e-6).value, [0, -1, -2, -3], atol=1e-6)
    left = np.eye(4)[[0] * 4]
    np.testing.assert_allclose(mdp.policy_value(problem, jnp.asarray(left)), [0, -1, -2, -3], atol=1e-6)


def test_lost_probability_is_an_end():
    """P(stay) = ½, r = 1, γ = 1: the value is the expected number of steps, 2."""
    problem = MDP(jnp.full((1, 1, 1), 0.5), jnp.ones((1, 1)), 1.0)
    assert mdp.policy_value(problem, jnp.ones((1, 1)))[0] == 2


# Derivatives, transformations, types


@pytest.mark.parametrize("solve", [mdp.value_iteration, mdp.policy_iteration])
def test_optimal_value_is_differentiable_in_reward_and_discount(problems, solve):
    """∂V*/∂r(s, a) = (I − γ P^π)⁻¹ on the optimal actions; ∂V*/∂γ = (I − γP)⁻¹ P V."""
    problem = one_of(problems, 7)
    policy = np.asarray(mdp.policy_iteration(problem).policy, np.float64)
    of_policy = np.einsum("sa,sat->st", policy, np.asarray(problem.transition, np.float64))
    resolvent = np.linalg.inv(np.eye(NUM_STATES) - GAMMA * of_policy)
    by_reward = np.einsum("st,ta->sta", resolvent, policy)
    by_discount = resolvent @ of_policy @ exact_value(problem, policy)

    def value(reward, discount):
        return solve(problem._replace(reward=reward, discount=discount)).value

    for jacobian in (jax.jacrev, jax.jacfwd):
        found = jax.jit(jacobian(value, argnums=(0, 1)))(problem.reward, problem.discount)
        np.testing.assert_allclose(found[0], by_reward, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(found[1], by_discount, rtol=1e-4, atol=1e-3)


def test_gradient_of_expected_return_is_the_policy_gradient_theorem(problems):
    """∂J/∂θ(s, a) = Σ_t γᵗ P(s_t = s) π(a|s) (Q(s, a) − V(s)), for softmax θ."""
    problem = one_of(problems, 11)
    rng = np.random.default_rng(1)
    theta, start = rng.normal(size=(NUM_STATES, NUM_ACTIONS)), np.full(NUM_STATES, 1 / NUM_STATES)
    policy = np.exp(theta) / np.exp(theta).sum(1, keepdims=True)
    value = exact_value(problem, policy)
    transition = np.asarray(problem.transition, np.float64)
    q = np.asarray(problem.reward, np.float64) + GAMMA * transition @ value
    occupancy = np.linalg.solve((np.eye(NUM_STATES) - GAMMA * np.einsum("sa,sat->st", policy, transition)).T, start)
    expected = occupancy[:, None] * policy * (q - value[:, None])

    def objective(theta):
        return mdp.expected_return(problem, jax.nn.softmax(theta), jnp.asarray(start, jnp.float32))

    found, gradient = jax.jit(jax.value_and_grad(objective))(jnp.asarray(theta, jnp.float32))
    np.testing.assert_allclose(found, start @ value, rtol=1e-5)
    np.testing.assert_allclose(gradient, expected, atol=1e-5)


def test_policy_value_passes_finite_differences():
    with jax.enable_x64():
        problem = small_mdps.garnet(jax.random.key(2), num_states=3, num_actions=2, branching=2, discount=0.3)
        policy = jnp.array([[0.3, 0.7], [0.5, 0.5], [0.9, 0.1]])
        problem = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), problem)
        check_grads(lambda *p: mdp.policy_value(MDP(*p), policy), problem, order=2)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32, jnp.float64])
def test_results_keep_the_dtype_and_sum_in_float32(dtype):
    with jax.enable_x64():
        problem = MDP(jnp.full((4, 2, 4), 0.25, dtype), jnp.ones((4, 2), dtype), 0.5)
        for value in (
            mdp.value_iteration(problem, tolerance=1e-5).value,
            mdp.policy_iteration(problem).value,
            mdp.policy_value(problem, jnp.full((4, 2), 0.5, dtype)),
            mdp.bellman_optimality(problem, jnp.full(4, 2.0, dtype)),
        ):
            assert value.dtype == dtype
            np.testing.assert_allclose(value.astype(jnp.float64), 2.0, rtol=1e-5)


def test_problems_of_wrong_shapes_are_refused():
    with pytest.raises((AssertionError, TypeError), match=r"shape|Type-check"):
        mdp.value_iteration(MDP(jnp.ones((2, 3, 3)), jnp.ones((2, 3)), 0.9))
    with pytest.raises((AssertionError, TypeError), match=r"shape|Type-check"):
        mdp.policy_value(MDP(jnp.ones((2, 3, 2)), jnp.ones((2, 3)), 0.9), jnp.ones((2, 2)))
    with pytest.raises((AssertionError, TypeError), match=r"shape|Type-check"):
        mdp.bellman_optimality(MDP(jnp.ones((2, 3, 2)), jnp.ones((2, 3)), 0.9), jnp.ones(3))


def test_discounts_can_be_batched():
    """The value of an endless reward of 1 is 1/(1 − γ)."""
    solve = jax.vmap(lambda discount: mdp.policy_iteration(MDP(jnp.ones((1, 1, 1)), jnp.ones((1, 1)), discount)))
    chex.assert_trees_all_close(solve(jnp.array([0.0, 0.5, 0.75])).value[:, 0], jnp.array([1.0, 2.0, 4.0]))
