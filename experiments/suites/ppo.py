"""PPO beside PureJaxRL: CartPole-v1 with one seed and with several, and MinAtar's Breakout."""

import pathlib

import gymnax
import jax

from experiments import devices, progress
from experiments.benchmarking import work
from experiments.peers import purejaxrl
from experiments.suites.base import Case, Contestant
from experiments.suites.options import Options
from mathai.learners import ppo
from mathai.learners.base import train

BREAKOUT = {
    "num_envs": 64,
    "num_minibatches": 8,
    "learning_rate": 5e-3,
    "activation": "relu",
}
# Steps: the least returns on CartPole-v1 and on Breakout; random policies have about 22 and 0.4.
LEAST = {500_000: (400.0, 5.0), 100_000: (60.0, 1.0), 0: (0.0, 0.0)}


def cases(options: Options) -> list[Case]:
    """The hyperparameters of PureJaxRL's examples; the score is the mean return over the last quarter of training."""
    checkout = pathlib.Path(options.purejaxrl) if options.with_peers and options.purejaxrl else None
    if options.with_peers and checkout is None:
        progress.say("peer", "PureJaxRL is not given; name a checkout of it with --purejaxrl=DIR")
    steps, cases = options.env_steps, []
    least, least_of_breakout = next(bars for most, bars in LEAST.items() if steps >= most)
    for num_envs in options.environments:
        total = max(steps * num_envs // options.environments[0], num_envs * 128)
        config = ppo.Config(num_envs=num_envs, total_env_steps=total)
        cases.append(_case("CartPole-v1", config, checkout, 1, least if num_envs == 4 else 0.0, "environments"))
    config = ppo.Config(total_env_steps=steps)
    cases += [_case("CartPole-v1", config, checkout, seeds, least, "seeds") for seeds in options.seeds]
    breakout = ppo.Config(total_env_steps=max(steps, 2 * 64 * 128), **BREAKOUT)
    return [*cases, _case("Breakout-MinAtar", breakout, checkout, 1, least_of_breakout, "")]


def _case(
    environment: str, config: ppo.Config, checkout: pathlib.Path | None, num_seeds: int, least: float, variable: str
) -> Case:
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
    steps = config.num_updates * config.num_envs * config.num_steps
    suffix = f", {num_seeds} seeds" if variable == "seeds" else f", {config.num_envs} envs"
    sharding = devices.seed_sharding(num_seeds) if jax.default_backend() != "cpu" else None
    return Case(
        f"{environment}{suffix}",
        [Contestant(*program) for program in programs],
        num_seeds * steps,
        "env_steps",
        least,
        flops=num_seeds * work.products(returns, jax.random.key(0)),
        family=environment,
        variable=variable,
        size={"seeds": num_seeds, "environments": config.num_envs}.get(variable, 1),
        num_devices=sharding.mesh.size if sharding is not None else 1,
    )


def _over_seeds(program, num_seeds):
    mapped = devices.over_seeds(lambda key, _: program(key), num_seeds)
    return lambda key: mapped(jax.random.split(key, num_seeds), ())


def _in_step(program, num_seeds):
    return lambda key: jax.vmap(program)(jax.random.split(key, num_seeds))
