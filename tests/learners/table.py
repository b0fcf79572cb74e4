"""The problem on which all deep learners are held against numbers known by hand: a finite decision process as a table.

A problem is an argument of its environment and may be traced, so that one compiled program serves many of them.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from gymnax.environments import environment, spaces

from mathai.rl import mdp, small_mdps

COUNTERS = {"episodes", "env_steps", "gradient_steps"}
EVALUATION_METRICS = {"episode_return", "episode_return_std", "episode_length"}


@struct.dataclass
class TableState(environment.EnvState):
    state: jax.Array
    cut: jax.Array


@struct.dataclass
class Table(environment.EnvParams):
    """What each action does in each of three states; an episode starts in one of the states marked `start`."""

    max_steps_in_episode: int = 10**6
    start: tuple = (1, 0, 0)
    reward: tuple = ((1, 1), (1, 1), (1, 1))
    successor: tuple = ((0, 0), (1, 1), (2, 2))
    terminates: tuple = ((1, 1), (1, 1), (1, 1))
    is_cut: tuple = ((0, 0), (0, 0), (0, 0))


class TableEnvironment(environment.Environment):
    """Shows its state, a number from 0 to 2."""

    @property
    def default_params(self):
        return Table()

    def reset_env(self, key, params):
        start = jnp.log(jnp.array(params.start, jnp.float32))
        state = TableState(time=jnp.int32(0), state=jax.random.categorical(key, start), cut=jnp.array(False))
        return state.state, state

    def step_env(self, key, state, action, params):
        def look_up(table):
            return jnp.stack([jnp.stack(row) for row in table])[state.state, action]

        successor = jnp.asarray(look_up(params.successor), jnp.int32)
        after = TableState(time=state.time + 1, state=successor, cut=look_up(params.is_cut) > 0)
        return successor, after, jnp.float32(look_up(params.reward)), look_up(params.terminates) > 0, {}

    def is_truncated(self, state, params):
        return state.cut

    def action_space(self, params=None):
        return spaces.Discrete(2)

    def observation_space(self, params):
        return spaces.Discrete(3)


class StrangeSpaces(TableEnvironment):
    """Claims to have other spaces."""

    def __init__(self, action_space, observation_space):
        self._spaces = action_space, observation_space

    def action_space(self, params=None):
        return self._spaces[0]

    def observation_space(self, params):
        return self._spaces[1]


TABLE = TableEnvironment()
OBSERVATIONS = np.eye(3, dtype=np.float32)  # as networks see the three states
ALL, NONE = ((1, 1), (1, 1), (1, 1)), ((0, 0), (0, 0), (0, 0))
BY_STATE = ((1, 1), (-1, -1), (0, 0))
LATER = ((0, 0), (1, 1), (0, 0))
CHAIN = {"successor": ((1, 1), (1, 1), (2, 2)), "reward": LATER, "terminates": LATER}

# Problems in which actions make no difference, changes of a learner's hyperparameters where γ = ½, and the values that
# states then have.
VALUES = [
    (Table(), {}, {0: 1.0}),  # one step, reward 1
    (Table(is_cut=ALL), {}, {0: 1.0}),  # cut where it ended anyway: nothing is to come
    (Table(start=(1, 1, 0), reward=BY_STATE), {}, {0: 1.0, 1: -1.0}),  # the value of what is seen
    (Table(**CHAIN), {}, {0: 0.5, 1: 1.0}),  # reward 1 a step later: γ
    (Table(**CHAIN), {"discount": 0.9}, {0: 0.9, 1: 1.0}),
    (Table(terminates=NONE), {}, {0: 2.0}),  # reward 1 for ever: 1 / (1 − γ)
    (Table(terminates=NONE, is_cut=ALL), {}, {0: 2.0}),  # cut after each step: the same
    # the bug: one step, and nothing to come
    (Table(terminates=NONE, is_cut=ALL), {"bootstrap_on_truncation": False}, {0: 1.0}),
    # State 0 leads to state 1 and is cut there: γ · V(1). An episode starts anew in 0 or 1, so that the value of
    # the next observation, instead of the final one, would give V(0) = γ (V(0) + 1) / 2 = 1/3.
    (Table(start=(1, 1, 0), is_cut=((1, 1), (0, 0), (0, 0)), **CHAIN), {}, {0: 0.5, 1: 1.0}),
    (
        Table(start=(1, 1, 0), is_cut=((1, 1), (0, 0), (0, 0)), **CHAIN),
        {"bootstrap_on_truncation": False},
        {0: 0.0, 1: 1.0},
    ),
]
UNBIASED_VALUES = [case for case in VALUES if "bootstrap_on_truncation" not in case[1]]
FIRST_MATTERS = {"terminates": ((0, 0), (1, 1), (1, 1)), "successor": ((1, 2), (1, 1), (2, 2))}
# Problems, the best action in each state, and the steps of an episode, whose return is 1 at best.
BEST_ACTIONS = [
    (Table(reward=((0, 1), (0, 0), (0, 0))), {0: 1}, 1),
    (Table(reward=((1, 0), (0, 0), (0, 0))), {0: 0}, 1),
    (Table(start=(1, 1, 0), reward=((1, 0), (0, 1), (0, 0))), {0: 0, 1: 1}, 1),  # it depends on what is seen
    (Table(reward=((0, 0), (0, 0), (1, 1)), **FIRST_MATTERS), {0: 1}, 2),  # the reward comes a step later
]
# Episodes of two steps, from state 0 to state 1 and on to state 2, that end in several ways or not at all.
TO_STATE_2 = {"successor": ((1, 1), (2, 2), (2, 2)), "reward": ((3, 3), (1, 1), (0, 0))}
ENDS = {
    "terminates": Table(terminates=LATER, **TO_STATE_2),
    "is cut": Table(terminates=NONE, is_cut=LATER, **TO_STATE_2),
    "both": Table(terminates=LATER, is_cut=LATER, **TO_STATE_2),
    "never ends": Table(terminates=NONE, successor=((1, 1), (0, 0), (2, 2)), reward=((3, 3), (1, 1), (0, 0))),
}
# Problems whose exact action values are to be learned, where γ = 0.8; made when needed.
PLANNED = {
    "chain": lambda: small_mdps.chain(4, discount=0.8, small_reward=0.3),
    "grid": lambda: small_mdps.grid_world(["SF", "FG"], discount=0.8, step_reward=-0.1),
    "garnet": lambda: small_mdps.garnet(jax.random.key(1), num_states=4, num_actions=3, branching=4, discount=0.8),
}


def assert_exact(q, problem):
    """Near the solution of the problem in all states that are not terminal."""
    expected = mdp.action_values(problem, mdp.value_iteration(problem).value)
    lives = np.any(problem.transition > 0, axis=(1, 2))
    np.testing.assert_allclose(q[lives], expected[lives], atol=0.1 * np.max(np.abs(expected)))


def assert_equal(a, b):
    """Bit for bit, keys included."""

    def data(x):
        return jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x

    jax.tree.map(lambda x, y: np.testing.assert_array_equal(data(x), data(y)), a, b)


def assert_sound(metrics, names):
    """Finite scalars of these names; counters are integers, all others are not."""
    assert set(metrics) == names
    for name, value in metrics.items():
        assert value.shape == ()
        assert np.isfinite(value), name
        assert jnp.issubdtype(value.dtype, jnp.integer if name in COUNTERS else jnp.floating), name
