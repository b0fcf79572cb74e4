"""Search hyperparameters: a grid or random points, several seeds of each, as many as fit in one compiled program.

python -m experiments.sweep --config=configs/ppo_cartpole.py --seeds=16 \
        --over=learner.learning_rate=1e-4,3e-4,1e-3 --over=learner.entropy_coefficient=0,0.01
python -m experiments.sweep --config=configs/ppo_cartpole.py --points=20 \
        --over=learner.learning_rate=log_uniform:1e-5..1e-2
"""

import math
import pathlib
import shutil
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
from absl import flags
from ml_collections import config_flags

from experiments import devices, mesh, metrics, processes, progress
from experiments.configuration import as_json, loaded, provenance
from experiments.errors import UserError, run_program
from experiments.placement import OneDevice
from experiments.run_loop import StopSignal
from experiments.statistics import format_score
from experiments.sweeping import outcomes, pictures, search_space
from experiments.sweeping.blocks import count
from experiments.sweeping.outcomes import FOLDER, RESULT, Search
from experiments.sweeping.runs import Sweep, Tasks
from experiments.sweeping.search_space import Axis
from experiments.tasks import at_once
from experiments.workdir import SUMMARY, begin, claim, write_json

FLAGS = flags.FLAGS
SCORED_BY_GRAPH = ("tsne", "umap", "parametric_umap")  # that they embed: no test set is looked at


def define_flags() -> None:
    """Define the flags of this program."""
    config_flags.DEFINE_config_file("config", None, "A file of configs/, with get_config().", lock_config=True)
    flags.DEFINE_multi_string(
        "over",
        None,
        "A field of the config and its values: learner.learning_rate=1e-4,1e-3, or with --points a range, "
        "uniform:LOW..HIGH or log_uniform:LOW..HIGH. Once for each field.",
    )
    flags.DEFINE_integer("points", None, "Draw so many points; without it, the grid of all values.", lower_bound=1)
    flags.DEFINE_integer("search_seed", 0, "Of the points that are drawn.", lower_bound=0)
    flags.DEFINE_integer("seeds", 1, "Seeds of each point.", lower_bound=1)
    flags.DEFINE_string("workdir", None, "Where the sweep keeps its files; runs/sweep_CONFIG unless given.")
    flags.DEFINE_alias("out", "workdir")
    flags.DEFINE_bool("overwrite", False, "Remove the sweep that the workdir holds, and start anew.")
    flags.DEFINE_enum("platform", "any", ["any", "cpu", "gpu", "tpu"], "The device to demand.")
    mesh.define_flags()
    flags.adopt_module_key_flags(mesh)  # so that --helpshort lists them
    flags.DEFINE_float(
        "memory_gib", None, "Memory for one program, instead of what seems free: of each device, or host."
    )
    flags.mark_flags_as_required(["config", "over"])


class _Request(NamedTuple):
    """What the flags ask for.

    Attributes:
      config: the config, as the user changed it.
      filename: where it is from.
      given: the fields that the user changed.
      axes: what goes over what.
      search: the points, groups and seeds that come of it.
      workdir: where files go.
    """

    config: Any
    filename: str
    given: Mapping[str, Any]
    axes: Sequence[Axis]
    search: Search
    workdir: pathlib.Path


def main(argv: list[str]) -> None:
    """Search what the flags say."""
    del argv
    if FLAGS.memory_gib is not None and not 0 < FLAGS.memory_gib < math.inf:
        raise UserError(f"--memory_gib={FLAGS.memory_gib:g}; it must be above 0.")
    request = _request()
    config, search = request.config, request.search
    if FLAGS.shard_parameters:
        raise UserError("--shard_parameters is of one run; each run of a sweep lies on one device.")
    most = max(at_once(config), *(len(search.members(group)) for group in search.groups))
    with mesh.started(FLAGS, most):
        devices.demand_platform(FLAGS.platform)
        stop = StopSignal()
        try:
            _go(request, stop)
        finally:
            stop.release()


def _request() -> _Request:
    """Read the flags; every mistake in `--over` ends here."""
    config = loaded(FLAGS.config)
    filename, given = _given()
    axes = search_space.read(config, FLAGS.over)
    points = search_space.points_of(axes, FLAGS.points, FLAGS.search_seed)
    groups, run = search_space.groups_of(config, points), config.run
    search = Search(points, groups, FLAGS.seeds, run.seed, run.best_metric, run.best_mode)
    workdir = FLAGS.workdir or f"runs/sweep_{pathlib.Path(filename).stem}"
    return _Request(config, filename, given, axes, search, pathlib.Path(workdir))


def _given() -> tuple[str, dict[str, Any]]:
    """The config's file, and the fields that the user changed."""
    flag = FLAGS["config"]
    return config_flags.get_config_filename(flag), config_flags.get_override_values(flag)


def _go(request: _Request, stop: StopSignal) -> None:
    search, workdir = request.search, request.workdir
    found = processes.told(lambda: [] if FLAGS.overwrite else sorted(outcomes.done_in(outcomes.blocks_in(workdir))))
    done = set(found)
    tasks = Tasks(request.config, search, [group for group in search.groups if set(search.members(group)) - done])
    place = mesh.of_sweep(FLAGS.mesh)
    origin = place.recorded_in(provenance())
    with claim(workdir):
        identity = _identity(request)
        warnings = processes.by_first(lambda: begin(workdir, identity, origin, overwrite=FLAGS.overwrite), [])
        _say_what(request, tasks.problem, place)
        for warning in warnings:
            progress.say("warning", f"{warning}: results may differ in the last bits")
        running = Sweep(search, tasks, workdir, stop, origin, FLAGS.memory_gib, place)
        running.go()
        num_runs = len(search.points) * search.num_seeds
        left = processes.told(lambda: num_runs - len(outcomes.done_in(outcomes.blocks_in(workdir))))
        if left:
            progress.say("stopped", f"with {count(left, 'run')} to finish; the same command resumes")
        else:
            processes.by_first(lambda: _finish(request, outcomes.blocks_in(workdir), running.rows), None)


def _identity(request: _Request) -> dict[str, Any]:
    """What must be equal for a sweep to go on; points are numbered by the order of the fields."""
    over = {axis.path: metrics.plain(axis.values) or axis.text for axis in request.axes}
    drawn = {"points": FLAGS.points, "search_seed": FLAGS.search_seed if FLAGS.points else None}
    order = [axis.path for axis in request.axes]
    return {**as_json(request.config), "over": over, "over_order": order, "seeds": FLAGS.seeds, **drawn}


def _say_what(request: _Request, problem: str | None, place: OneDevice) -> None:
    """Say what is searched, on what, and why in so many programs; `problem` is None where nothing is left to run."""
    search = request.search
    points, groups = len(search.points), len(search.groups)
    why = f": {' and '.join(search.groups[0].values)} take a program for each value" if groups > 1 else ""
    progress.say(
        "sweep",
        f"{request.workdir}: {request.config.algorithm}{f' on {problem}' if problem else ''}, "
        f"{count(points, 'point')} x {count(search.num_seeds, 'seed')} = {count(points * search.num_seeds, 'run')} "
        f"in {count(groups, 'group')}{why}",
    )
    progress.say("device", f"{devices.describe()}{place.describe()}; jax {jax.__version__}")
    if problem:
        _warn_of_test_scores(request)


def _warn_of_test_scores(request: _Request) -> None:
    """Say so where hyperparameters are chosen by the test set."""
    config = request.config
    if config.get("data", {}).get("evaluate_on") == "test" and config.algorithm not in SCORED_BY_GRAPH:
        progress.say(
            "warning",
            "points are compared on the test set; choose hyperparameters with --config.data.evaluate_on=validation, "
            "then score the chosen ones on the test set",
        )


def _finish(request: _Request, blocks: Sequence[Mapping[str, Any]], known: dict[int, dict[str, Any]]) -> None:
    """Write what is left to write, and say what was found; `known` are the rows that are computed already."""
    config, search, workdir = request.config, request.search, request.workdir
    rows = outcomes.rows_of(search, blocks, known)
    outcomes.write_rows(workdir, rows)
    _tidy(workdir)
    ordered = outcomes.ordered(search, rows)
    summary = _summary(request, blocks, ordered[0])
    write_json(workdir / SUMMARY, metrics.plain(summary))
    for line in outcomes.table(search, ordered):
        print(line, flush=True)
    runs, seconds = count(len(rows) * search.num_seeds, "run"), summary["seconds"]
    progress.say("done", f"{runs} in {seconds:.1f} s, and {summary['compile_seconds']:.1f} s of compilation")
    _say_best(request, ordered[0])
    metric, seeds = search.metric.replace("_", " "), count(search.num_seeds, "seed")
    title = f"{metric} of {config.algorithm} on {summary['problem']}, {seeds} a point"
    picture = pictures.draw(workdir, request.axes, rows, title, search)
    progress.say("wrote", f"{workdir / outcomes.ROWS}, {workdir / SUMMARY}, {picture}")


def _summary(request: _Request, blocks: Sequence[Mapping[str, Any]], best: Mapping[str, Any]) -> dict[str, Any]:
    search = request.search
    return {
        "algorithm": request.config.algorithm,
        "problem": blocks[0]["problem"],
        "metric": search.metric,
        "points": len(search.points),
        "seeds": search.num_seeds,
        "best": best,
        **{name: sum(block[name] for block in blocks) for name in ("seconds", "compile_seconds")},
    }


def _say_best(request: _Request, best: Mapping[str, Any]) -> None:
    search = request.search
    if best["score"] == search.worst:
        progress.say("best", "none: so many seeds of every point diverged that no score is left")
        return
    progress.say("best", f"{search_space.describe(best['point'])}: {search.metric} {format_score(best['score'])}")
    print(outcomes.command(request.filename, request.given, best["point"], search.num_seeds), flush=True)
    _warn_of_test_scores(request)


def _tidy(workdir: pathlib.Path) -> None:
    """Remove what blocks that were killed, or cut otherwise, have left."""
    for folder in (workdir / FOLDER).glob("group*_run*"):
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        if not (folder / RESULT).exists():
            shutil.rmtree(folder)


if __name__ == "__main__":
    define_flags()
    run_program(main)
