"""The run loop, once for every learner: chunks of compiled updates, evaluation, metrics, checkpoints, resume."""

import contextlib
import functools
import pathlib
import signal
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from experiments import processes, progress
from experiments.checkpoints import Checkpoints
from experiments.configuration import did_you_mean
from experiments.errors import UserError
from experiments.feed import Feed
from experiments.members import Members, Programs, evaluation_keys, make_programs, of_seeds, restore_target, trace
from experiments.metrics import MetricsLog, NoLog, check_not_nan, reduce_chunk
from experiments.placement import OneDevice
from experiments.statistics import interquartile_mean
from experiments.tasks import Task


class Outcome(NamedTuple):
    """How a run ended.

    Attributes:
      step: updates made in all.
      finished: whether that is all of them.
      evaluation: the last evaluation's metrics, or None where the run was stopped before.
      seconds: time in the loop, without compilation and without what the task shows at evaluations.
      compile_seconds: time of compilation.
      updates: updates made by this process.
      state: the last state; of several seeds, stacked.
    """

    step: int
    finished: bool
    evaluation: dict[str, np.ndarray] | None
    seconds: float
    compile_seconds: float
    updates: int
    state: PyTree


class StopSignal:
    """SIGTERM and Ctrl-C ask the loop to save and stop; a second one stops at once."""

    def __init__(self):
        self.name: str | None = None
        self._before = {number: signal.signal(number, self._ask) for number in (signal.SIGTERM, signal.SIGINT)}

    @property
    def asked(self) -> bool:
        """Whether any process was asked to stop: all look at the same place."""
        return processes.stop_asked(self.name is not None)

    def release(self) -> None:
        """Give the signals back their handlers."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: Any) -> None:
        del frame
        if self.name is not None:
            raise KeyboardInterrupt
        self.name = signal.Signals(number).name


def validate(task: Task, run: Any) -> tuple[PyTree, PyTree, PyTree]:
    """Raise a `UserError` for whatever would end the run later, without computing anything.

    The intervals must fit the chunks, the learner must trace, and the best metric must be one of evaluation's. Returns
    the shapes of the state, of the metrics of an update and of an evaluation.
    """
    if run.updates_per_chunk < 1:
        raise UserError(f"config.run.updates_per_chunk is {run.updates_per_chunk}; it must be at least 1.")
    for name in ("evaluate_every", "checkpoint_every"):
        if run[name] < 0 or run[name] % run.updates_per_chunk:
            raise UserError(
                f"config.run.{name} is {run[name]}; it must be 0 (at the end only) or a multiple of "
                f"config.run.updates_per_chunk = {run.updates_per_chunk}."
            )
    if run.best_mode not in ("max", "min"):
        raise UserError(f"config.run.best_mode is {run.best_mode!r}; it must be 'max' or 'min'.")
    if run.keep_checkpoints < 1:
        raise UserError(f"config.run.keep_checkpoints is {run.keep_checkpoints}; it must be at least 1.")
    try:
        shapes = trace(task)
    except ValueError as error:
        raise UserError(" ".join(str(error).split())) from error
    names = sorted(shapes[2])
    if run.best_metric not in names:
        raise UserError(
            f"config.run.best_metric is {run.best_metric!r}{did_you_mean(run.best_metric, names)}; "
            f"evaluation gives {', '.join(names)}."
        )
    return shapes


def run(
    task: Task,
    run_config: Any,
    workdir: pathlib.Path,
    num_seeds: int | None,
    *,
    profile: bool = False,
    placement: OneDevice | None = None,
) -> Outcome:
    """Run a task in a workdir from its last checkpoint to its end, or until a signal asks to stop."""
    stop, placement = StopSignal(), placement or OneDevice()
    try:
        members, task = of_seeds(run_config.seed, num_seeds), placement.place(task, num_seeds)
        programs = make_programs(task, placement)
        return run_members(task, programs, members, run_config, workdir, stop, profile=profile, placement=placement)
    finally:
        stop.release()


def run_members(
    task: Task,
    programs: Programs,
    members: Members,
    run_config: Any,
    workdir: pathlib.Path,
    stop: StopSignal,
    *,
    profile: bool = False,
    is_sweep: bool = False,
    placement: OneDevice | None = None,
) -> Outcome:
    """Run members of a task in a workdir from their last checkpoint to their end, or until `stop` is asked to.

    Args:
      task: the task.
      programs: its jitted functions, which other members may share.
      members: who is trained.
      run_config: the section `run` of the config.
      workdir: where rows and checkpoints go.
      stop: what listens for signals.
      profile: trace the first chunk.
      is_sweep: the members differ in more than their seeds. A NaN of one does not stop the others, and nothing is
        averaged over them: there are no events of TensorBoard, and no checkpoint is the best.
      placement: where task and programs lie.
    """
    placement = placement or OneDevice()
    members = placement.put(members)
    processes.wait("start")
    checkpoints = Checkpoints(workdir, keep=run_config.keep_checkpoints, best_mode=run_config.best_mode)
    try:
        with contextlib.closing(placement.feed(task, run_config.seed)) as feed:
            step, state = _start(programs, members, checkpoints, placement, feed)
            loop = _Run(task, run_config, workdir, programs, members, checkpoints, stop, profile, is_sweep, feed)
            return loop.go(step, state)
    finally:
        checkpoints.close()


def _start(
    programs: Programs, members: Members, checkpoints: Checkpoints, placement: OneDevice, feed: Feed
) -> tuple[int, PyTree]:
    """Restore the last good checkpoint, or initialize; the feed goes where the state stands."""
    found = checkpoints.restore_last(
        restore_target(programs, members, placement), lambda text: progress.say("warning", text)
    )
    step = 0 if found is None else found[0]
    feed.seek(step, checkpoints.stream(step) if step else None)
    if found is None:
        return 0, programs.init(members)
    progress.say("resume", f"from the checkpoint of update {found[0]}")
    return found


class _Run:
    """One pass of the loop; holds what its steps share."""

    def __init__(self, task, run_config, workdir, programs, members, checkpoints, stop, profile, is_sweep, feed):
        self._total, self._task = task.num_updates, task
        self._config, self._workdir, self._programs, self._members = run_config, workdir, programs, members
        self._checkpoints, self._stop, self._profile, self._is_sweep = checkpoints, stop, profile, is_sweep
        self._feed = feed
        self._evaluation: dict[str, np.ndarray] | None = None

    def go(self, step: int, state: PyTree) -> Outcome:
        began = time.perf_counter()
        chunks, evaluate = self._compile(step, state)
        processes.wait("compiled")  # before the first collective, which has little patience
        compile_seconds = time.perf_counter() - began
        if not self._is_sweep or compile_seconds > 0.1:  # blocks after the first share its programs
            progress.say("compile", f"{compile_seconds:.1f} s")
        first, self._log = step, self._open_log(step)
        self._reporter = progress.Reporter(self._total, step)
        pending = None  # the chunk that the device may still be computing
        aside = 0.0
        began = time.perf_counter()
        try:
            for length in self._lengths(step):
                if self._stop.asked:
                    break
                state, metrics = self._advance(chunks[length], state, step, self._feed.next(length))
                step += length
                if pending:
                    self._write(*pending)
                evaluation = None
                if self._due(step, self._config.evaluate_every):
                    evaluation = evaluate(*self._evaluated(step, state))
                pending = (step, length, metrics, evaluation)
                if evaluation is not None and self._task.on_evaluation is not None:
                    self._write(*pending)
                    pending = None
                    aside += self._show(step, state)
                if self._due(step, self._config.checkpoint_every):
                    if pending:
                        self._write(*pending)
                        pending = None
                    self._save(step, state)
            if pending:
                self._write(*pending)
            finished = step == self._total
            if not finished and step > first:
                self._save(step, state)
            if finished and self._evaluation is None:
                self._evaluation = jax.device_get(evaluate(*self._evaluated(step, state)))
        finally:
            self._reporter.close()
            self._log.close()
        seconds = time.perf_counter() - began - aside
        return Outcome(step, finished, self._evaluation, seconds, compile_seconds, step - first, state)

    def _open_log(self, step: int) -> MetricsLog | NoLog:
        return MetricsLog(self._workdir, step, events=not self._is_sweep) if processes.is_first() else NoLog()

    def _show(self, step: int, state: PyTree) -> float:
        """Let the task look at the state; return the seconds that it took."""
        began = time.perf_counter()
        first = processes.whole(self._first_seed(state))
        processes.by_first(lambda: self._task.on_evaluation(self._workdir, step, first), None)
        return time.perf_counter() - began

    def _first_seed(self, state: PyTree) -> PyTree:
        return jax.tree.map(lambda leaf: leaf[0], state) if self._members.are_several else state

    def _evaluated(self, step: int, state: PyTree) -> tuple[Any, ...]:
        """What an evaluation is a function of."""
        return evaluation_keys(self._members, step), state, self._members, self._task.evaluation_data

    def _advance(self, chunk: Any, state: PyTree, step: int, data: PyTree) -> tuple[PyTree, PyTree]:
        """Dispatch a chunk; the first one, where a profile is asked for, under the profiler and to its end."""
        arguments = state, self._members, data, np.int32(step)
        if not self._profile:
            return chunk(*arguments)
        self._profile = False
        if not processes.is_first():
            return chunk(*arguments)
        directory = self._workdir / "profile"
        with jax.profiler.trace(str(directory)):
            result = jax.block_until_ready(chunk(*arguments))
        progress.say("profile", f"one chunk of updates, in {directory} (open with xprof or TensorBoard)")
        return result

    def _compile(self, step: int, state: PyTree) -> tuple[dict[int, Any], Any]:
        chunks = {}
        for length in set(self._lengths(step)):
            arguments = state, self._members, self._feed.shapes(length), np.int32(step)
            chunks[length] = self._programs.chunk.lower(*arguments, length).compile()
        return chunks, self._programs.evaluate.lower(*self._evaluated(step, state)).compile()

    def _lengths(self, step: int) -> Iterator[int]:
        """Chunks end at multiples of their length, wherever the run was interrupted, and at the run's end."""
        while step < self._total:
            length = min(self._config.updates_per_chunk - step % self._config.updates_per_chunk, self._total - step)
            yield length
            step += length

    def _due(self, step: int, every: int) -> bool:
        return step == self._total or (every > 0 and step % every == 0)

    def _write(self, step: int, length: int, metrics: PyTree, evaluation: PyTree | None) -> None:
        """Fetch what the device computed, refuse NaN, and log it."""
        metrics, evaluation = jax.device_get((metrics, evaluation))
        self._check(metrics, step - length + 1)
        row = {"step": step, **reduce_chunk(metrics)}
        if evaluation is not None:
            self._check({f"evaluation/{name}": value[..., None] for name, value in evaluation.items()}, step)
            row |= {f"evaluation/{name}": value.tolist() for name, value in evaluation.items()}
            self._evaluation = evaluation
        name = self._config.best_metric
        shown = f"evaluation/{name}" if f"evaluation/{name}" in row else name
        self._reporter.advance(step, f"{shown} {self._summary(row[shown]):.4g}" if shown in row else "")
        self._log.write(row, self._reporter.rate)

    def _check(self, metrics: PyTree, first_step: int) -> None:
        if not self._is_sweep:
            check_not_nan(metrics, first_step, self._advice)

    def _summary(self, values: Any) -> float:
        """What the terminal shows of a metric: the mean over seeds, or the best of a sweep's members."""
        if not self._is_sweep:
            return float(np.mean(values))
        best = np.fmax if self._config.best_mode == "max" else np.fmin  # that pass over NaN
        return float(best.reduce(np.asarray(values)))

    def _save(self, step: int, state: PyTree) -> None:
        """Save a state whose metrics are on disk: what a resumed run does not repeat is never lost."""
        if not self._is_sweep and holds_nan(state):
            raise UserError(f"the state holds NaN at step {step}; {self._advice()}")
        self._log.flush()
        score = None if self._is_sweep else (self._evaluation or {}).get(self._config.best_metric)
        fresh = self._due(step, self._config.evaluate_every) and score is not None
        self._checkpoints.save(
            step, state, interquartile_mean(np.atleast_1d(score)) if fresh else None, self._feed.state()
        )

    def _advice(self) -> str:
        steps = self._checkpoints.steps()
        kept = f"the last good checkpoint is update {steps[-1]}" if steps else "no checkpoint had been saved yet"
        return f"{kept}. Lower config.learner.learning_rate (with --overwrite), or look for what diverges."


def holds_nan(state: PyTree) -> bool:
    """Whether any number of a state is NaN."""
    floats = floats_of(state)
    if all(leaf.is_fully_addressable for leaf in floats):
        return any(np.isnan(leaf).any() for leaf in floats)
    return bool(_any_nan(floats))


@jax.jit
def _any_nan(floats: list[jax.Array]) -> jax.Array:
    return functools.reduce(jnp.logical_or, [jnp.any(jnp.isnan(leaf)) for leaf in floats])


def floats_of(state: PyTree) -> list[jax.Array]:
    """The floating leaves of a state."""
    return [leaf for leaf in jax.tree.leaves(state) if jnp.issubdtype(leaf.dtype, jnp.floating)]
