"""DQN on CartPole-v1 beside PureJaxRL, with the hyperparameters of its example."""

import math
import pathlib

import gymnax
import jax

from experiments import progress
from experiments.benchmarking import work
from experiments.peers import purejaxrl
from experiments.suites.base import Case, Contestant
from experiments.suites.options import Options
from mathai.learners import dqn
from mathai.learners.base import train

UPDATE_STEPS = 1000  # of one update of ours; the peer's are shorter
LEAST = {500_000: 150.0, 100_000: 40.0, 0: 0.0}  # steps: the least return; a random policy has about 22


def cases(options: Options) -> list[Case]:
    """One seed; the score is the mean return over the last quarter of training."""
    env_steps = options.env_steps
    config = dqn.Config(
        total_env_steps=max(env_steps // UPDATE_STEPS, 1) * UPDATE_STEPS,
        learning_starts=min(10_000, env_steps // 10),
        double=False,
        max_gradient_norm=math.inf,
        num_evaluation_episodes=1,
    )
    learner = dqn.make(config, *gymnax.make("CartPole-v1"))
    ours = Contestant(
        "mathai",
        lambda key: train(learner, key, None, config.num_updates)[1]["episode_return"],
        purejaxrl.last_quarter,
    )
    contestants = [ours]
    if options.with_peers and options.purejaxrl is None:
        progress.say("peer", "PureJaxRL is not given; name a checkout of it with --purejaxrl=DIR")
    elif options.with_peers:
        checkout = pathlib.Path(options.purejaxrl)
        contestants.append(Contestant("PureJaxRL", *purejaxrl.dqn_program(checkout, "CartPole-v1", config)))
    steps = config.num_updates * config.num_envs * config.num_steps
    return [
        Case(
            "CartPole-v1",
            contestants,
            steps,
            "env_steps",
            next(least for most, least in LEAST.items() if env_steps >= most),
            flops=work.products(ours.program, jax.random.key(0)),
            variable="env_steps",
            size=steps,
        )
    ]
