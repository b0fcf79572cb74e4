"""Time the learners on this machine, beside their peers.

    python -m experiments.benchmark --suite=ppo --out=runs/bench
    python -m experiments.benchmark --suite=ppo --peers --purejaxrl=../purejaxrl

Lowering and compilation are timed apart, the first call is discarded, and contestants take turns (A B A B …), so that
a machine whose speed drifts slows them alike. A contestant whose result is wrong gets no time.
"""

import json
import pathlib
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from absl import flags

from experiments import progress
from experiments.configuration import provenance
from experiments.errors import UserError, run_program

FLAGS = flags.FLAGS


class Contestant(NamedTuple):
    """One way to do a suite's work.

    Attributes:
      name: whose it is.
      program: key → result; jitted here.
      score: result → the number that shows that the work was done.
    """

    name: str
    program: Callable[[jax.Array], Any]
    score: Callable[[Any], float]


class Suite(NamedTuple):
    """Work that several contestants do alike.

    Attributes:
      contestants: the first is ours; ratios are to it.
      work: how much of `unit` one run does.
      unit: what is counted.
      least_score: the score below which a result counts as wrong.
    """

    contestants: list[Contestant]
    work: float
    unit: str
    least_score: float


def define_flags() -> None:
    """Define the flags of this program."""
    flags.DEFINE_list("suite", ["ppo"], f"Which suites to run: {', '.join(SUITES)}.")
    flags.DEFINE_bool("peers", False, "Run the peers that can be found as well.")
    flags.DEFINE_string("purejaxrl", None, "A checkout of PureJaxRL, the peer of suite ppo.")
    flags.DEFINE_integer("repeats", 5, "Timed runs of each contestant.", lower_bound=1)
    flags.DEFINE_integer("env_steps", 500_000, "Environment steps of one run of suite ppo.", lower_bound=512)
    flags.DEFINE_string("out", None, "Folder for benchmark.jsonl; nothing is written without it.")


def main(argv: list[str]) -> None:
    """Run the suites that the flags name."""
    del argv
    for name in FLAGS.suite:
        if name not in SUITES:
            raise UserError(f"suite {name!r} is unknown; use {', '.join(SUITES)}.")
    for name in FLAGS.suite:
        rows = run_suite(SUITES[name](), FLAGS.repeats)
        progress.say("suite", f"{name} on {jax.devices()[0].device_kind}, median of {FLAGS.repeats} runs in turn")
        for row in rows:
            progress.say("", describe(row))
        if FLAGS.out:
            write(pathlib.Path(FLAGS.out), name, rows)


def run_suite(suite: Suite, repeats: int) -> list[dict[str, Any]]:
    """Time every contestant of a suite, in turns."""
    compiled, compile_seconds = [], []
    for contestant in suite.contestants:
        began = time.perf_counter()
        compiled.append(jax.jit(contestant.program).lower(jax.random.PRNGKey(0)).compile())
        compile_seconds.append(time.perf_counter() - began)
    seconds: list[list[float]] = [[] for _ in compiled]
    scores: list[list[float]] = [[] for _ in compiled]
    for repeat in range(repeats + 1):
        for index, program in enumerate(compiled):
            key = jax.random.PRNGKey(repeat)
            began = time.perf_counter()
            result = jax.block_until_ready(program(key))
            if repeat:
                seconds[index].append(time.perf_counter() - began)
                scores[index].append(suite.contestants[index].score(result))
    ours = seconds[0]
    return [
        {
            "contestant": contestant.name,
            "compile_seconds": compile_seconds[index],
            "seconds": seconds[index],
            f"{suite.unit}_per_second": suite.work / statistics.median(seconds[index]),
            "unit": suite.unit,
            "score": statistics.median(scores[index]),
            "is_right": statistics.median(scores[index]) >= suite.least_score,
            "ours_is_faster_by": [theirs / mine for mine, theirs in zip(ours, seconds[index], strict=True)],
        }
        for index, contestant in enumerate(suite.contestants)
    ]


def describe(row: dict[str, Any]) -> str:
    """Return one row of the report."""
    ratios, seconds = sorted(row["ours_is_faster_by"]), sorted(row["seconds"])
    text = f"{row['contestant']:<12} compile {row['compile_seconds']:5.1f} s  score {row['score']:7.1f}  "
    if not row["is_right"]:
        return f"{text}wrong result: no time"
    return (
        f"{text}{row[row['unit'] + '_per_second']:>10,.0f} {row['unit'].replace('_', ' ')}/s  "
        f"run {statistics.median(seconds):.2f} s ({seconds[0]:.2f} to {seconds[-1]:.2f})  "
        f"ours is {statistics.median(ratios):.2f} times as fast ({ratios[0]:.2f} to {ratios[-1]:.2f})"
    )


def write(directory: pathlib.Path, suite: str, rows: list[dict[str, Any]]) -> None:
    """Append the rows, with versions and device, to `benchmark.jsonl`."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with (directory / "benchmark.jsonl").open("a") as file:
            for row in rows:
                file.write(json.dumps({"suite": suite, **row, **provenance()}) + "\n")
    except OSError as error:
        raise UserError(f"--out={directory} cannot be written: {error.strerror}") from error


def ppo_suite() -> Suite:
    """PPO on CartPole-v1 with 4 environments, 128 steps, 4 epochs and 4 minibatches."""
    import gymnax

    from experiments.peers import purejaxrl
    from mathai.learners import ppo
    from mathai.learners.base import train

    config = ppo.Config(total_env_steps=FLAGS.env_steps)
    learner = ppo.make(config, *gymnax.make("CartPole-v1"))
    ours = Contestant(
        "mathai",
        lambda key: train(learner, key, None, config.num_updates)[1]["episode_return"],
        lambda returns: float(returns[-50:].mean()),
    )
    contestants = [ours]
    if FLAGS.peers:
        if FLAGS.purejaxrl is None:
            raise UserError("suite ppo has one peer, PureJaxRL; name a checkout of it with --purejaxrl=DIR.")
        program, score = purejaxrl.ppo_on_cartpole(pathlib.Path(FLAGS.purejaxrl), config)
        contestants.append(Contestant("PureJaxRL", program, score))
    least = 400.0 if FLAGS.env_steps >= 500_000 else 0.0
    return Suite(contestants, config.num_updates * config.num_envs * config.num_steps, "env_steps", least)


SUITES: dict[str, Callable[[], Suite]] = {"ppo": ppo_suite}

if __name__ == "__main__":
    define_flags()
    run_program(main)
