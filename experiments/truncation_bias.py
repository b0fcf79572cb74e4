"""Measure what it costs to take a time limit for the end of an episode.

    python -m experiments.truncation_bias --seeds=32 --out=runs/truncation_bias

Every learner meets a chain in which patience pays: four steps ahead earn nothing, then every step earns 1, while a
return to the start earns 0.6 at once. An episode is cut after six steps. Who takes the cut for an end sees, from the
first state, two steps of that at most, and learns to be impatient; who bootstraps from the state where the episode was
cut does not notice the cut. Policies are scored by their exact discounted return, without a time limit.
"""

import functools
import importlib
import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from jaxtyping import Array

from experiments import progress
from experiments.errors import UserError, run_program
from experiments.pictures import save
from experiments.statistics import interquartile_mean
from mathai.learners.base import train
from mathai.learners.mdp_environment import make_mdp_environment
from mathai.rl import mdp, small_mdps

FLAGS = flags.FLAGS
DISCOUNT, TIME_LIMIT, NUM_STATES, SMALL_REWARD = 0.95, 6, 5, 0.6
SMALL: dict[str, Any] = {
    "discount": DISCOUNT,
    "hidden_sizes": (16,),
    "num_evaluation_episodes": 1,
    "max_evaluation_steps": 1,
}
LEARNERS: dict[str, dict[str, Any]] = {
    "ppo": {"num_envs": 16, "num_steps": 32, "total_env_steps": 80_000, "learning_rate": 3e-3},
    "pqn": {"num_envs": 16, "num_steps": 32, "num_minibatches": 4, "total_env_steps": 80_000, "learning_rate": 3e-3},
    "dqn": {"num_steps": 50, "total_env_steps": 50_000, "learning_rate": 1e-3, "batch_size": 64},
    "reinforce": {"num_envs": 32, "num_updates": 600, "max_episode_steps": TIME_LIMIT, "learning_rate": 1e-2},
}


def define_flags() -> None:
    """Define the flags of this program."""
    flags.DEFINE_integer("seeds", 32, "Seeds of each learner, all in one program.", lower_bound=1)
    flags.DEFINE_list("learners", list(LEARNERS), f"Which learners: {', '.join(LEARNERS)}.")
    flags.DEFINE_string("out", None, "Folder for truncation_bias.json and .png; nothing is written without it.")


def main(argv: list[str]) -> None:
    """Train all learners both ways, say what their policies are worth, and draw it."""
    del argv
    for name in FLAGS.learners:
        if name not in LEARNERS:
            raise UserError(f"learner {name!r} is unknown; use {', '.join(LEARNERS)}.")
    if FLAGS.out:
        _make_folder(pathlib.Path(FLAGS.out))
    problem = make_problem()
    best = float(jnp.mean(mdp.policy_iteration(problem).value))
    progress.say("best", f"exact return of the best policy {best:.2f}; of returning at once {impatient(problem):.2f}")
    results = {}
    for name in FLAGS.learners:
        for bootstraps in (True, False):
            returns = np.asarray(measure(name, FLAGS.seeds, bootstraps))
            results[f"{name}, {'bootstraps' if bootstraps else 'takes cuts for ends'}"] = returns.tolist()
            wrong = float(np.mean(returns < best - 1e-3))
            label = "bootstrap_on_truncation=" + str(bootstraps)
            progress.say(
                name,
                f"{label:32s} interquartile mean {interquartile_mean(returns):.2f}; "
                f"{wrong:.0%} of {FLAGS.seeds} seeds are not optimal",
            )
    if FLAGS.out:
        _write(pathlib.Path(FLAGS.out), results, best)


def make_problem() -> mdp.MDP:
    """Return the chain."""
    return small_mdps.chain(NUM_STATES, discount=DISCOUNT, small_reward=SMALL_REWARD)


def impatient(problem: mdp.MDP) -> float:
    """Return what always taking the small reward is worth."""
    policy = jnp.tile(jnp.array([[1.0, 0.0]]), (NUM_STATES, 1))
    return float(jnp.mean(mdp.policy_value(problem, policy)))


def measure(name: str, num_seeds: int, bootstraps: bool, **changes: Any) -> Array:
    """Return the exact return of the greedy policy of each seed, [num_seeds]."""
    module = importlib.import_module(f"mathai.learners.{name}")
    config = module.Config(**SMALL, **(LEARNERS[name] | changes), bootstrap_on_truncation=bootstraps)
    problem, start = make_problem(), jnp.full(NUM_STATES, 1 / NUM_STATES)
    environment = make_mdp_environment(problem, start, TIME_LIMIT)
    learner, act = module.make(config, *environment), module.make_actor(config, *environment)

    @jax.jit
    @jax.vmap
    def run(key):
        state, _ = train(learner, key, None, config.num_updates)
        actions = act(state, key, jnp.arange(NUM_STATES))
        return mdp.expected_return(problem, jax.nn.one_hot(actions, 2), start)

    return run(jax.random.split(jax.random.key(0), num_seeds))


def _make_folder(directory: pathlib.Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out={directory} cannot be written: {error.strerror}") from error


def _write(directory: pathlib.Path, results: dict[str, list[float]], best: float) -> None:
    (directory / "truncation_bias.json").write_text(json.dumps({"best": best, **results}, indent=2))
    draw = functools.partial(_draw, results, best)
    progress.say("wrote", str(save(directory / "truncation_bias.png", draw, (7, 1.2 + 0.5 * len(results)))))


def _draw(results: dict[str, list[float]], best: float, figure: Any) -> None:
    panel = figure.subplots()
    rng = np.random.default_rng(0)
    for row, returns in enumerate(results.values()):
        height = row + rng.uniform(-0.2, 0.2, len(returns))
        panel.plot(returns, height, ".", color=("tab:blue", "tab:red")[row % 2], alpha=0.6)
    panel.axvline(best, color="gray", linestyle="--", label="the best policy")
    panel.set_yticks(range(len(results)), results)
    panel.invert_yaxis()
    panel.set_xlabel("exact discounted return of the learned policy, one dot for each seed")
    panel.set_title("taking a time limit for an end")
    figure.legend(loc="outside lower right")


if __name__ == "__main__":
    define_flags()
    run_program(main)
