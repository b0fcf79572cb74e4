"""DQN on CartPole-v1 beside PureJaxRL, with the hyperparameters of its example."""

import math
import pathlib

import gymnax

from experiments.errors import UserError
from experiments.peers import purejaxrl
from experiments.suites.base import Case, Contestant
from mathai.learners import dqn
from mathai.learners.base import train

UPDATE_STEPS = 1000  # of one update of ours; the peer's are shorter


def cases(*, with_peers: bool, purejaxrl_checkout: str | None, env_steps: int) -> list[Case]:
    """One seed; the score is the mean return over the last quarter of training."""
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
    if with_peers:
        if purejaxrl_checkout is None:
            raise UserError("suite dqn has one peer, PureJaxRL; name a checkout of it with --purejaxrl=DIR.")
        checkout = pathlib.Path(purejaxrl_checkout)
        contestants.append(Contestant("PureJaxRL", *purejaxrl.dqn_program(checkout, "CartPole-v1", config)))
    work = config.num_updates * config.num_envs * config.num_steps
    return [Case("CartPole-v1", contestants, work, "env_steps", 150.0 if env_steps >= 500_000 else 0.0)]
