"""The sampled gradients of policies against the exact gradient of the expected return, on a problem small enough.

The losses have no factor γᵗ. Where γ = 1 that makes no difference to the exact gradient, and the problem here ends
after two steps at most, so that γ = 1 is allowed; where γ < 1 the tests say what they weigh by it.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

from mathai.learners import ppo, reinforce
from mathai.learners.environments import make_environments
from mathai.learners.mdp_environment import make_mdp_environment
from mathai.models.actor_critic import ActorCritic
from mathai.rl import mdp, policy_gradient
from mathai.rl import ppo as formulas
from mathai.rl.returns import discounted_returns, generalized_advantage_estimation

NUM_EPISODES, NUM_STEPS, NUM_STATES, NUM_ACTIONS = 2**13, 2, 5, 3
START = np.array([0.7, 0.3, 0.0, 0.0, 0.0], np.float32)
THETA = jnp.asarray(np.random.default_rng(0).normal(size=(NUM_STATES, NUM_ACTIONS)), jnp.float32)


def make_problem(discount=1.0, ending=0.4):
    """From state 0 or 1 to state 2 or 3, unless the episode ends at once, and then to the end, which is state 4."""
    rng = np.random.default_rng(1)
    transition = np.zeros((NUM_STATES, NUM_ACTIONS, NUM_STATES), np.float32)
    share = rng.uniform(size=(2, NUM_ACTIONS))
    last = ending * rng.uniform(size=(2, NUM_ACTIONS))
    transition[:2, :, 2], transition[:2, :, 3], transition[:2, :, 4] = (
        share * (1 - last),
        (1 - share) * (1 - last),
        last,
    )
    transition[2:4, :, 4] = 1
    reward = rng.normal(size=(NUM_STATES, NUM_ACTIONS)).astype(np.float32)
    reward[4] = 0
    return mdp.MDP(jnp.asarray(transition), jnp.asarray(reward), jnp.float32(discount))


def exact_gradient(problem, params, logits_of=lambda theta: theta):
    """∇J of the policy softmax(logits_of(params)), [S, A]."""
    return jax.grad(lambda p: mdp.expected_return(problem, jax.nn.softmax(logits_of(p)), jnp.asarray(START)))(params)


@jax.jit
def solve(problem):
    """Of the policy softmax(THETA): ∇J, the values and the action values."""
    value = mdp.policy_value(problem, jax.nn.softmax(THETA))
    return exact_gradient(problem, THETA), value, mdp.action_values(problem, value)


class Steps(NamedTuple):
    """Of `NUM_EPISODES` episodes, each field [NUM_STEPS, NUM_EPISODES]; only those `where` belong to one."""

    state: jax.Array
    action: jax.Array
    reward: jax.Array
    terminated: jax.Array
    successor: jax.Array
    where: jax.Array


@jax.jit
def simulate(problem):
    """Episodes of the policy softmax(THETA)."""
    environments = make_environments(*make_mdp_environment(problem, START), NUM_EPISODES)
    reset_key, noise_key, action_key = jax.random.split(jax.random.key(0), 3)
    state, env_state = environments.reset(reset_key)

    def step(carry, noise):
        state, env_state, running = carry
        env_noise, action_noise = noise
        action = jnp.argmax(THETA[state] + action_noise, axis=-1)
        observation, env_state, outcome = environments.step(env_state, action, env_noise)
        record = Steps(state, action, outcome.reward, outcome.terminated, outcome.final_observation, running)
        return (observation, env_state, running & ~outcome.terminated), record

    gumbel = jax.random.gumbel(action_key, (NUM_STEPS, NUM_EPISODES, NUM_ACTIONS))
    noise = environments.draw_noise(noise_key, NUM_STEPS), gumbel
    (_, _, running), steps = jax.lax.scan(step, (state, env_state, jnp.ones(NUM_EPISODES, bool)), noise)
    return steps, jnp.any(running)


@functools.cache
def episodes(discount=1.0):
    problem = make_problem(discount)
    steps, is_unfinished = simulate(problem)
    assert not is_unfinished
    assert 0.6 * steps.where.size < np.sum(steps.where) < 0.98 * steps.where.size  # some are shorter
    return problem, steps


def assert_points_along(gradient, exact):
    gradient, exact = (np.asarray(ravel_pytree(x)[0], np.float64) for x in (gradient, exact))
    assert gradient @ exact >= 0.99 * np.linalg.norm(gradient) * np.linalg.norm(exact)


def assert_near(loss_gradient, exact, steps):
    """The loss is minus the mean over steps of what the return sums: the steps of an episode are between the two."""
    gradient = -loss_gradient * np.sum(steps.where) / NUM_EPISODES
    assert_points_along(gradient, exact)
    assert np.linalg.norm(gradient - exact) < 0.1 * np.linalg.norm(exact)


# Formulas


@jax.jit
def reinforce_gradient(steps, discount, baseline):
    def loss(theta):
        return policy_gradient.reinforce_loss(
            theta[steps.state],
            steps.action,
            steps.reward,
            discount * (1.0 - steps.terminated),
            baseline_t=baseline[steps.state],
            where=steps.where,
        )

    return jax.grad(loss)(THETA)


@pytest.mark.parametrize("with_baseline", [False, True])
def test_reinforce_climbs_the_expected_return(with_baseline):
    problem, steps = episodes()
    exact, value, _ = solve(problem)
    assert_near(reinforce_gradient(steps, 1.0, value if with_baseline else jnp.zeros(NUM_STATES)), exact, steps)


@jax.jit
def surrogate_gradient(problem, steps, gae_lambda):
    """Of PPO's surrogate where the policy has not moved yet, with exact values."""
    value = mdp.policy_value(problem, jax.nn.softmax(THETA))
    advantage = generalized_advantage_estimation(
        jnp.where(steps.where, steps.reward, 0.0),
        problem.discount * (1.0 - steps.terminated) * steps.where,
        value[steps.state],
        value[steps.successor],
        gae_lambda,
    )

    def loss(theta):
        log_probability = policy_gradient.log_probability(theta[steps.state], steps.action)
        ratio = formulas.probability_ratio(log_probability, log_probability)
        return formulas.clipped_surrogate_loss(ratio, advantage, where=steps.where)

    return jax.grad(loss)(THETA)


@pytest.mark.parametrize("gae_lambda", [0.0, 0.5, 0.95, 1.0])
def test_the_surrogate_climbs_the_expected_return_with_any_lambda(gae_lambda):
    problem, steps = episodes()
    assert_near(surrogate_gradient(problem, steps, gae_lambda), solve(problem)[0], steps)


@jax.jit
def weighted_gradient(steps, discount):
    returns = discounted_returns(
        jnp.where(steps.where, steps.reward, 0.0), discount * (1.0 - steps.terminated) * steps.where, 0.0
    )
    weighted = discount ** jnp.arange(NUM_STEPS)[:, None] * returns

    def loss(theta):
        return policy_gradient.policy_gradient_loss(theta[steps.state], steps.action, weighted, where=steps.where)

    return jax.grad(loss)(THETA)


def test_with_a_factor_for_time_the_gradient_is_exact_where_gamma_is_less_than_one():
    problem, steps = episodes(0.3)
    assert_near(weighted_gradient(steps, 0.3), solve(problem)[0], steps)


@pytest.mark.parametrize("gae_lambda", [None, 0.5], ids=["REINFORCE", "surrogate"])
def test_without_it_states_count_as_often_as_they_are_visited(gae_lambda):
    problem, steps = episodes(0.3)
    policy = np.asarray(jax.nn.softmax(THETA), np.float64)
    visits = np.linalg.solve(np.eye(NUM_STATES) - np.einsum("sa,sat->ts", policy, problem.transition), START)
    exact, value, q = solve(problem)
    # of Σ_s visits(s) Σₐ π(a | s) Q(s, a), where only π moves
    expected = visits[:, None] * policy * np.array(q - value[:, None])
    if gae_lambda is None:
        gradient = reinforce_gradient(steps, 0.3, jnp.zeros(NUM_STATES))
    else:
        gradient = surrogate_gradient(problem, steps, gae_lambda)
    assert_near(gradient, expected, steps)
    with pytest.raises(AssertionError):
        assert_near(gradient, exact, steps)


# Learners: Adam's first moment after one update is 0.1 of the gradient


@functools.partial(jax.jit, static_argnums=0)
def learner_and_exact_gradient(module, config, problem):
    """The gradient of the first update, of a policy that is far from uniform, and the exact one."""
    model = ActorCritic(NUM_ACTIONS, config.hidden_sizes)
    learner = module.make(config, *make_mdp_environment(problem, START))
    state = learner.init(jax.random.key(0))
    params, unravel = ravel_pytree(state.params)
    params = unravel(jax.random.normal(jax.random.key(1), params.shape))
    after, _ = learner.update(state._replace(params=params))
    exact = exact_gradient(problem, params, lambda p: model.apply(p, jnp.eye(NUM_STATES))[0])
    return -optax.tree.get(after.optimizer, "mu"), exact


SMALL = {"discount": 1.0, "num_envs": NUM_EPISODES, "hidden_sizes": (4,), "value_coefficient": 0.0}


@pytest.mark.parametrize("ending", [0.0, 0.4])
@pytest.mark.parametrize("baseline", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_the_learner_reinforce_climbs_the_expected_return(baseline, ending):
    config = reinforce.Config(max_episode_steps=5, baseline=baseline, normalize_advantages=baseline, **SMALL)
    gradient, exact = learner_and_exact_gradient(reinforce, config, make_problem(ending=ending))
    assert_points_along(gradient, exact)


def test_the_learner_ppo_climbs_the_expected_return():
    # A rollout is one whole episode in each environment, and λ = 1 needs no exact values.
    config = ppo.Config(
        num_steps=NUM_STEPS, num_epochs=1, num_minibatches=1, gae_lambda=1.0, entropy_coefficient=0.0, **SMALL
    )
    config = dataclasses.replace(config, total_env_steps=2**20)
    gradient, exact = learner_and_exact_gradient(ppo, config, make_problem(ending=0.0))
    assert_points_along(gradient, exact)
