"""PPO beside PureJaxRL: CartPole-v1 with one seed and with eight, and MinAtar's Breakout."""

import pathlib

import gymnax
import jax

from experiments import devices
from experiments.errors import UserError
from experiments.peers import purejaxrl
from experiments.suites.base import NUM_SEEDS, Case, Contestant
from mathai.learners import ppo
from mathai.learners.base import train

BREAKOUT = {
    "num_envs": 64,
    "num_minibatches": 8,
    "learning_rate": 5e-3,
    "activation": "relu",
}


def cases(*, with_peers: bool, purejaxrl_checkout: str | None, env_steps: int) -> list[Case]:
    """The hyperparameters of PureJaxRL's examples; the score is the mean return over the last quarter of training."""
    if with_peers and purejaxrl_checkout is None:
        raise UserError("suite ppo has one peer, PureJaxRL; name a checkout of it with --purejaxrl=DIR.")
    checkout = pathlib.Path(purejaxrl_checkout) if with_peers and purejaxrl_checkout else None
    is_whole = env_steps >= 500_000
    cartpole = ppo.Config(total_env_steps=env_steps)
    breakout = ppo.Config(total_env_steps=max(env_steps, 64 * 128), **BREAKOUT)
    return [
        _case("CartPole-v1", cartpole, checkout, 1, 400.0 if is_whole else 0.0),
        _case("CartPole-v1", cartpole, checkout, NUM_SEEDS, 400.0 if is_whole else 0.0),
        _case("Breakout-MinAtar", breakout, checkout, 1, 5.0 if is_whole else 0.0),
    ]


def _case(environment: str, config: ppo.Config, checkout: pathlib.Path | None, num_seeds: int, least: float) -> Case:
    learner = ppo.make(config, *gymnax.make(environment))

    def returns(key):
        return train(learner, key, None, config.num_updates)[1]["episode_return"]

    programs = [("mathai", returns, purejaxrl.last_quarter)]
    if checkout is not None:
        programs.append(("PureJaxRL", *purejaxrl.ppo_program(checkout, environment, config)))
    if num_seeds > 1:
        overs = [_over_seeds, _in_step]  # ours as `experiments.train --seeds` runs them, the peer as its documents say
        programs = [
            (name, over(program, num_seeds), score)
            for over, (name, program, score) in zip(overs, programs, strict=False)
        ]
    work = num_seeds * config.num_updates * config.num_envs * config.num_steps
    name = f"{environment}, {num_seeds} seeds" if num_seeds > 1 else environment
    return Case(name, [Contestant(*program) for program in programs], work, "env_steps", least)


def _over_seeds(program, num_seeds):
    mapped = devices.over_seeds(lambda key, _: program(key), num_seeds)
    return lambda key: mapped(jax.random.split(key, num_seeds), ())


def _in_step(program, num_seeds):
    return lambda key: jax.vmap(program)(jax.random.split(key, num_seeds))
