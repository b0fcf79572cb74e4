"""Small Markov decision processes whose solutions are known exactly: random ones, a chain, grids, the frozen lake."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mathai.rl.mdp import MDP

FROZEN_LAKE = ("SFFF", "FHFH", "FFFH", "HFFG")
FROZEN_LAKE_8 = ("SFFFFFFF", "FFFFFFFF", "FFFHFFFF", "FFFFFHFF", "FFFHFFFF", "FHHFFFHF", "FHFFHFHF", "FFFHFFFG")
MOVES = ((0, -1), (1, 0), (0, 1), (-1, 0))  # left, down, right, up
FREE, TERMINAL = ".FS", "HG#"


def garnet(key: Array, *, num_states: int, num_actions: int, branching: int, discount: float | Float[Array, ""]) -> MDP:
    """A random problem: every action leads to `branching` states, drawn anew.

        P(· | s, a) are the gaps between uniform cuts of [0, 1], on `branching` distinct states;   r(s, a) ∼ N(0, 1)

    Args:
      key: of all draws.
      num_states: S.
      num_actions: A.
      branching: successors of each state and action, from 1 to S.
      discount: γ.

    Returns:
      The problem; `jax.vmap` over keys gives many.

    Raises:
      ValueError: a size below 1, or a branching out of its range.

    Source:
      Archibald, McKinnon & Thomas (1995), On the Generation of Markov Decision Processes.

    >>> problem = garnet(jax.random.key(0), num_states=5, num_actions=2, branching=3, discount=0.9)
    >>> (problem.transition > 0).sum(axis=2).tolist()[0], problem.reward.shape
    ([3, 3], (5, 2))
    """
    _check_sizes("garnet", num_states=num_states, num_actions=num_actions)
    if not 1 <= branching <= num_states:
        raise ValueError(f"garnet: branching is {branching}; it must be from 1 to num_states = {num_states}.")
    order_key, cut_key, reward_key = jax.random.split(key, 3)
    order = jnp.argsort(jax.random.uniform(order_key, (num_states, num_actions, num_states)), axis=-1)
    cuts = jnp.sort(jax.random.uniform(cut_key, (num_states, num_actions, branching - 1)), axis=-1)
    ends = jnp.broadcast_to(jnp.array([0.0, 1.0]), (num_states, num_actions, 2))
    gaps = jnp.diff(jnp.concatenate([ends[..., :1], cuts, ends[..., 1:]], axis=-1), axis=-1)
    gaps = jnp.pad(gaps, ((0, 0), (0, 0), (0, num_states - branching)))
    transition = jnp.take_along_axis(gaps, order, axis=-1)
    return MDP(transition, jax.random.normal(reward_key, (num_states, num_actions)), jnp.asarray(discount, jnp.float32))


def chain(num_states: int, *, discount: float, slip: float = 0.0, small_reward: float = 0.2) -> MDP:
    """A chain that rewards patience: action 1 goes on, action 0 takes a small reward and returns to the start.

    At the last state going on stays there and earns 1. With probability `slip` the other action happens instead, with
    its reward. Without slips the last state is worth 1/(1 − γ), and one k before it at least γᵏ/(1 − γ).

    Args:
      num_states: S ≥ 1.
      discount: γ.
      slip: probability of the other action.
      small_reward: of the return to the start.

    Returns:
      The problem with two actions.

    Raises:
      ValueError: no states, or a slip that is no probability.

    Source:
      Strens (2000), A Bayesian Framework for Reinforcement Learning, section 5, scaled to a largest reward of 1.

    >>> chain(3, discount=0.9).reward
    Array([[0.2, 0. ],
           [0.2, 0. ],
           [0.2, 1. ]], dtype=float32)
    """
    _check_sizes("chain", num_states=num_states)
    _check_slip(slip)
    back, ahead = np.zeros((num_states, num_states)), np.zeros((num_states, num_states))
    back[:, 0] = 1
    ahead[np.arange(num_states), np.minimum(np.arange(num_states) + 1, num_states - 1)] = 1
    transition = np.stack([back, ahead], axis=1)
    reward = np.stack([np.full(num_states, small_reward), np.eye(num_states)[-1]], axis=1)
    transition = (1 - slip) * transition + slip * transition[:, ::-1]
    reward = (1 - slip) * reward + slip * reward[:, ::-1]
    return MDP(jnp.asarray(transition, jnp.float32), jnp.asarray(reward, jnp.float32), jnp.float32(discount))


def grid_world(
    layout: Sequence[str],
    *,
    discount: float,
    slip: float = 0.0,
    goal_reward: float = 1.0,
    hole_reward: float = 0.0,
    step_reward: float = 0.0,
) -> MDP:
    """A grid to walk in: left, down, right, up.

    Each letter is a state, row after row: `G` a goal and `H` a hole end the episode, `#` is a wall; `.`, `F` and `S`
    are free, and `S` marks a start. A move into a wall or over the border stays. With probability `slip` the move goes
    to one of the two sides instead, each as often.

    Args:
      layout: the rows, all of one length.
      discount: γ.
      slip: probability of going astray.
      goal_reward: of the move that reaches a goal.
      hole_reward: of the move that falls into a hole.
      step_reward: of every other move.

    Returns:
      The problem with four actions; the rows of P at `G`, `H` and `#` are 0.

    Raises:
      ValueError: no rows, rows of several lengths, another letter, or a slip that is no probability.

    Source:
      Sutton & Barto (2018), Reinforcement Learning, 2nd ed., example 3.5.

    >>> grid_world(["SG"], discount=0.9).reward
    Array([[0., 0., 1., 0.],
           [0., 0., 0., 0.]], dtype=float32)
    """
    rows, columns = _shape(layout)
    _check_slip(slip)
    transition = np.zeros((rows * columns, 4, rows * columns))
    for row in range(rows):
        for column in range(columns):
            if layout[row][column] in TERMINAL:
                continue
            for action in range(4):
                for turn, probability in ((0, 1 - slip), (1, slip / 2), (-1, slip / 2)):
                    down, right = MOVES[(action + turn) % 4]
                    target = row + down, column + right
                    inside = 0 <= target[0] < rows and 0 <= target[1] < columns
                    if not inside or layout[target[0]][target[1]] == "#":
                        target = row, column
                    transition[row * columns + column, action, target[0] * columns + target[1]] += probability
    of_arrival = {"G": goal_reward, "H": hole_reward}
    arrival = np.array([of_arrival.get(letter, step_reward) for line in layout for letter in line])
    return MDP(
        jnp.asarray(transition, jnp.float32), jnp.asarray(transition @ arrival, jnp.float32), jnp.float32(discount)
    )


def frozen_lake(layout: Sequence[str] = FROZEN_LAKE, *, discount: float = 0.99, slippery: bool = True) -> MDP:
    """The frozen lake of gymnasium: reach the goal over ice, on which two of three moves go to a side.

    Args:
      layout: rows of `S`, `F`, `H` and `G`; `FROZEN_LAKE` or `FROZEN_LAKE_8`, or one's own.
      discount: γ.
      slippery: whether moves go astray.

    Returns:
      The problem, with gymnasium's order of states and actions; its reward of an action is the expected one.

    Source:
      Towers et al. (2024), Gymnasium: A Standard Interface for Reinforcement Learning Environments.

    >>> problem = frozen_lake()
    >>> problem.num_states, problem.num_actions, problem.reward[14].round(3).tolist()
    (16, 4, [0.0, 0.3330000042915344, 0.3330000042915344, 0.3330000042915344])
    """
    return grid_world(layout, discount=discount, slip=2 / 3 if slippery else 0.0)


def start_distribution(layout: Sequence[str]) -> Float[Array, "S"]:
    """The distribution of the first state on a grid: uniform on its `S`, or on all free cells where there is none.

    Args:
      layout: as of `grid_world`.

    Returns:
      d₀, [S].

    Raises:
      ValueError: nowhere to start.

    Source:
      None: a convention of this module.

    >>> start_distribution(["S.", "SG"])
    Array([0.5, 0. , 0.5, 0. ], dtype=float32)
    """
    _shape(layout)
    letters = "".join(layout)
    starts = np.array([letter == "S" for letter in letters])
    if not starts.any():
        starts = np.array([letter not in TERMINAL for letter in letters])
    if not starts.any():
        raise ValueError(f"the layout {list(layout)} has no free cell to start in.")
    return jnp.asarray(starts / starts.sum(), jnp.float32)


def _shape(layout: Sequence[str]) -> tuple[int, int]:
    if not layout or not layout[0] or len({len(row) for row in layout}) > 1:
        raise ValueError(f"the layout {list(layout)} must have rows of one length, at least one letter long.")
    if strange := sorted(set("".join(layout)) - set(FREE + TERMINAL)):
        raise ValueError(
            f"the layout {list(layout)} has {', '.join(strange)}; use the letters {' '.join(FREE + TERMINAL)}."
        )
    return len(layout), len(layout[0])


def _check_sizes(name: str, **sizes: int) -> None:
    for size, value in sizes.items():
        if value < 1:
            raise ValueError(f"{name}: {size} is {value}; it must be at least 1.")


def _check_slip(slip: float) -> None:
    if not 0 <= slip <= 1:
        raise ValueError(f"slip is {slip}; it must be a probability, from 0 to 1.")
