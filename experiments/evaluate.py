"""Score a checkpoint of a run anew.

python -m experiments.evaluate --workdir=runs/ppo_cartpole
python -m experiments.evaluate --workdir=runs/ppo_cartpole --checkpoint=last --seed=7
"""

import pathlib

import jax
import ml_collections
from absl import flags

from experiments import members, mesh, progress
from experiments.checkpoints import Checkpoints
from experiments.configuration import from_json
from experiments.errors import UserError, run_program
from experiments.statistics import format_score, summarize
from experiments.tasks import at_once, make_task
from experiments.workdir import CONFIG, read_json

FLAGS = flags.FLAGS


def define_flags() -> None:
    """Define the flags of this program."""
    flags.DEFINE_string("workdir", None, "The workdir of a run.")
    flags.DEFINE_string("checkpoint", "best", "best, last, or the update of a checkpoint.")
    flags.DEFINE_integer("seed", 1, "Seed of the evaluation's randomness.", lower_bound=0)
    mesh.define_flags()
    flags.adopt_module_key_flags(mesh)  # so that --helpshort lists them
    flags.mark_flags_as_required(["workdir"])


def main(argv: list[str]) -> None:
    """Load, evaluate, print."""
    del argv
    workdir = pathlib.Path(FLAGS.workdir)
    stored = read_json(workdir / CONFIG)["config"]
    num_seeds = stored.pop("seeds")
    config = from_json(stored)
    with mesh.started(FLAGS, max(num_seeds, at_once(config))):
        evaluate(workdir, config, num_seeds)


def evaluate(workdir: pathlib.Path, config: ml_collections.ConfigDict, num_seeds: int) -> None:
    """Score a checkpoint of a workdir."""
    task, several = make_task(config), num_seeds if num_seeds > 1 else None
    task = task._replace(data=None, draw=None, stream=None)  # nothing is trained
    place = mesh.placement_of(task, several, FLAGS.mesh, shard_parameters=FLAGS.shard_parameters)
    task = place.place(task, several)
    programs = members.make_programs(task, place)
    runs = place.put(members.of_seeds(config.run.seed, several))
    checkpoints = Checkpoints(workdir, keep=config.run.keep_checkpoints, best_mode=config.run.best_mode, read_only=True)
    step = choose(checkpoints, FLAGS.checkpoint, workdir)
    state = checkpoints.restore(step, members.restore_target(programs, runs, place))
    keys = members.evaluation_keys(runs, step, FLAGS.seed)
    metrics = jax.device_get(programs.evaluate(keys, state, runs, task.evaluation_data))
    progress.say("checkpoint", f"update {step} of {workdir}")
    for name, values in sorted(metrics.items()):
        score = summarize(values)
        low, high = score["interval_95"]
        spread = (
            f"  (interquartile mean of {num_seeds} seeds, 95 % interval {format_score(low)} to {format_score(high)})"
            if num_seeds > 1
            else ""
        )
        progress.say("result", f"{name} {format_score(score['interquartile_mean'])}{spread}")


def choose(checkpoints: Checkpoints, which: str, workdir: pathlib.Path) -> int:
    """Return the step of the checkpoint that a flag names."""
    steps = checkpoints.steps()
    if not steps:
        raise UserError(f"{workdir} has no checkpoint yet.")
    if which == "last":
        return steps[-1]
    if which == "best":
        best = checkpoints.best_step()
        return steps[-1] if best is None else best
    if which.isdigit() and int(which) in steps:
        return int(which)
    raise UserError(f"--checkpoint={which} is not there; use best, last or one of {', '.join(map(str, steps))}.")


if __name__ == "__main__":
    define_flags()
    run_program(main)
