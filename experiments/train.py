"""Train a learner: one config, one workdir; the same command resumes.

python -m experiments.train --config=configs/ppo_cartpole.py --workdir=runs/ppo_cartpole
python -m experiments.train --config=configs/ppo_cartpole.py --workdir=runs/eight --seeds=8 \
        --config.learner.learning_rate=1e-3
"""

import pathlib
from typing import Any

import jax
import ml_collections
import numpy as np
from absl import flags
from jaxtyping import PyTree
from ml_collections import config_flags

from experiments import devices, mesh, pictures, processes, progress, run_loop
from experiments.configuration import as_json, loaded, provenance
from experiments.errors import run_program
from experiments.statistics import format_score, summarize
from experiments.tasks import Task, at_once, make_task
from experiments.workdir import SUMMARY, begin, claim, write_json

FLAGS = flags.FLAGS


def define_flags() -> None:
    """Define the flags of this program."""
    config_flags.DEFINE_config_file("config", None, "A file of configs/, with get_config().", lock_config=True)
    flags.DEFINE_string("workdir", None, "Where the run keeps its files; created if it is missing.")
    flags.DEFINE_integer("seeds", 1, "Seeds to train in one compiled program.", lower_bound=1)
    flags.DEFINE_bool("overwrite", False, "Remove the run that the workdir holds, and start anew.")
    flags.DEFINE_enum("platform", "any", ["any", "cpu", "gpu", "tpu"], "The device to demand.")
    flags.DEFINE_bool("profile", False, "Write a trace of the first chunk of updates to the workdir.")
    mesh.define_flags()
    flags.adopt_module_key_flags(mesh)  # so that --helpshort lists them
    flags.mark_flags_as_required(["config", "workdir"])


def main(argv: list[str]) -> None:
    """Run what the flags say."""
    del argv
    config = loaded(FLAGS.config)
    with mesh.started(FLAGS, max(FLAGS.seeds, at_once(config))):
        train(config, pathlib.Path(FLAGS.workdir))


def train(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Train what a config says, in a workdir."""
    devices.demand_platform(FLAGS.platform)
    task = make_task(config)
    run_loop.validate(task, config.run)
    num_seeds = FLAGS.seeds if FLAGS.seeds > 1 else None
    place = mesh.placement_of(task, num_seeds, FLAGS.mesh, shard_parameters=FLAGS.shard_parameters)
    origin = place.recorded_in(provenance())
    with claim(workdir):
        identity = {**as_json(config), "seeds": FLAGS.seeds}
        warnings = processes.by_first(lambda: begin(workdir, identity, origin, overwrite=FLAGS.overwrite), [])
        progress.say("run", f"{workdir}: {config.algorithm} on {task.problem}, {task.num_updates} updates")
        progress.say("device", f"{devices.describe()}{place.describe()}; jax {jax.__version__}")
        for warning in warnings:
            progress.say("warning", f"{warning}: results may differ in the last bits")
        outcome = run_loop.run(task, config.run, workdir, num_seeds, profile=FLAGS.profile, placement=place)
        if outcome.finished:
            first = outcome.state if FLAGS.seeds == 1 else jax.tree.map(lambda leaf: leaf[0], outcome.state)
            first = processes.whole(first)
            processes.by_first(lambda: finish(config, task, workdir, outcome, first), None)
        else:
            progress.say("stopped", f"at update {outcome.step} of {task.num_updates}; the same command resumes")


def finish(config, task: Task, workdir: pathlib.Path, outcome: run_loop.Outcome, first: PyTree) -> None:
    """Write `summary.json` and the pictures of a finished run, of its first seed's state, and say what it came to."""
    evaluation = {name: summarize(values) for name, values in outcome.evaluation.items()}
    write_json(
        workdir / SUMMARY,
        {
            "algorithm": config.algorithm,
            "problem": task.problem,
            "updates": outcome.step,
            "seeds": FLAGS.seeds,
            "evaluation": evaluation,
            "this_process": {
                "updates": outcome.updates,
                "seconds": outcome.seconds,
                "compile_seconds": outcome.compile_seconds,
            },
        },
    )
    metric, title = config.run.best_metric, f"{config.algorithm} on {task.problem}"
    drawn = [pictures.learning_curves(workdir, task.curves or (metric,), title)]
    drawn += task.pictures(workdir, first)
    if outcome.updates:
        progress.say("done", f"{outcome.updates} updates in {outcome.seconds:.1f} s{_speed(task, outcome)}")
    else:
        progress.say("done", "the run was already finished; --overwrite starts anew")
    progress.say("result", _result(metric, evaluation[metric]))
    progress.say("wrote", ", ".join(str(path) for path in (workdir / SUMMARY, *drawn) if path))


def _result(metric: str, score: dict[str, Any]) -> str:
    if FLAGS.seeds == 1:
        return f"evaluation {metric} {format_score(score['mean'])}"
    low, high = map(format_score, score["interval_95"])
    return (
        f"evaluation {metric}, {FLAGS.seeds} seeds: interquartile mean {format_score(score['interquartile_mean'])}, "
        f"95 % interval {low} to {high}, worst {format_score(np.min(score['per_seed']))}"
    )


def _speed(task: Task, outcome: run_loop.Outcome) -> str:
    work = task.work * outcome.updates * FLAGS.seeds
    return f" ({work / outcome.seconds:,.0f} {task.unit}/s, evaluation and checkpoints included)" if work else ""


if __name__ == "__main__":
    define_flags()
    run_program(main)
