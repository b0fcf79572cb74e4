"""PPO on CartPole-v1 beside PureJaxRL."""

import pathlib

import gymnax

from experiments.errors import UserError
from experiments.peers import purejaxrl
from experiments.suites.base import Case, Contestant
from mathai.learners import ppo
from mathai.learners.base import train


def cases(*, with_peers: bool, purejaxrl_checkout: str | None, env_steps: int) -> list[Case]:
    """4 environments, 128 steps, 4 epochs and 4 minibatches; the score is the return of the last 50 updates."""
    config = ppo.Config(total_env_steps=env_steps)
    learner = ppo.make(config, *gymnax.make("CartPole-v1"))
    ours = Contestant(
        "mathai",
        lambda key: train(learner, key, None, config.num_updates)[1]["episode_return"],
        lambda returns: float(returns[-50:].mean()),
    )
    contestants = [ours]
    if with_peers:
        if purejaxrl_checkout is None:
            raise UserError("suite ppo has one peer, PureJaxRL; name a checkout of it with --purejaxrl=DIR.")
        program, score = purejaxrl.ppo_on_cartpole(pathlib.Path(purejaxrl_checkout), config)
        contestants.append(Contestant("PureJaxRL", program, score))
    least = 400.0 if env_steps >= 500_000 else 0.0
    work = config.num_updates * config.num_envs * config.num_steps
    return [Case("CartPole-v1", contestants, work, "env_steps", least)]
