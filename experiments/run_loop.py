"""The run loop, once for every learner: chunks of compiled updates, evaluation, metrics, checkpoints, resume."""

import functools
import pathlib
import signal
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import SingleDeviceSharding
from jaxtyping import PyTree

from experiments import devices, progress
from experiments.checkpoints import Checkpoints
from experiments.configuration import did_you_mean
from experiments.errors import UserError
from experiments.metrics import MetricsLog, check_not_nan, reduce_chunk
from experiments.statistics import interquartile_mean
from experiments.tasks import Task
from mathai.learners.base import Learner

# Folded into a seed's key, so that evaluation, the order of the data and the learner share no randomness.
EVALUATION_STREAM = 0x6576616C
BATCH_STREAM = 0x62617463


class Programs(NamedTuple):
    """The compiled functions of a run.

    Attributes:
      init: seeds' keys → state.
      chunk: (state, keys of the batches, data, first step, number of updates) → (state, metrics [updates] or
        [seeds, updates]).
      evaluate: (seeds' keys, state, evaluation data) → metrics, scalars or [seeds].
      keys: one key, or one per seed.
      batch_keys: one key, or one per seed.
    """

    init: Any
    chunk: Any
    evaluate: Any
    keys: jax.Array
    batch_keys: jax.Array


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

    def release(self) -> None:
        """Give the signals back their handlers."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: Any) -> None:
        del frame
        if self.name is not None:
            raise KeyboardInterrupt
        self.name = signal.Signals(number).name


def make_programs(task: Task, seed: int, num_seeds: int | None) -> Programs:
    """Return the jitted functions of a task; with a number of seeds, all of them run in one program."""
    init, evaluate, chunk = (
        task.learner.init,
        functools.partial(_evaluate, task.learner),
        functools.partial(_chunk, task),
    )
    keys = jax.random.key(seed)
    if num_seeds is not None:
        keys = jnp.stack([jax.random.key(seed + index) for index in range(num_seeds)])
        init, evaluate, chunk = _of_seeds(init, evaluate, chunk, num_seeds)
    return Programs(
        jax.jit(init), jax.jit(chunk, static_argnums=4), jax.jit(evaluate), keys, _fold_in(keys, BATCH_STREAM)
    )


def _of_seeds(init: Any, evaluate: Any, chunk: Any, num_seeds: int) -> tuple[Any, Any, Any]:
    """The functions of one seed as functions of all."""
    over_seeds = functools.partial(devices.over_seeds, num_seeds=num_seeds)

    def init_all(keys):
        return over_seeds(lambda key, _: init(key))(keys, ())

    def evaluate_all(keys, states, data):
        return over_seeds(lambda each, data: evaluate(*each, data))((keys, states), data)

    def chunk_all(states, keys, data, first_step, num_updates):
        shared = data, first_step
        return over_seeds(lambda each, shared: chunk(*each, *shared, num_updates))((states, keys), shared)

    return init_all, evaluate_all, chunk_all


def _chunk(
    task: Task, state: PyTree, key: jax.Array, data: PyTree, first_step: jax.Array, num_updates: int
) -> tuple[PyTree, PyTree]:
    def update(state, step):
        return task.learner.update(state, batch_of(task, key, data, step))

    return jax.lax.scan(update, state, first_step + jnp.arange(num_updates))


def batch_of(task: Task, key: jax.Array, data: PyTree, step: jax.Array) -> PyTree:
    """Return the batch of a step: drawn from the data, or all of them."""
    return data if task.draw is None else task.draw(key, data, step)


def _evaluate(learner: Learner, key: jax.Array, state: PyTree, data: PyTree) -> dict[str, jax.Array]:
    return learner.evaluate(key, state) if data is None else learner.evaluate(key, state, data)


def evaluation_keys(programs: Programs, step: int, seed: int = 0) -> jax.Array:
    """Return the keys of the evaluation at a step: the same whether or not the run was interrupted."""
    return _fold_in(programs.keys, EVALUATION_STREAM, seed, step)


def _fold_in(keys: jax.Array, *parts: int) -> jax.Array:
    """Derive a key from each key."""

    def derive(key):
        for part in parts:
            key = jax.random.fold_in(key, part)
        return key

    return jax.vmap(derive)(keys) if keys.ndim else derive(keys)


def validate(task: Task, run: Any) -> None:
    """Raise a `UserError` for whatever would end the run later, without computing anything.

    The intervals must fit the chunks, the learner must trace, and the best metric must be one of evaluation's.
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
        key = jax.random.key(0)
        state = jax.eval_shape(task.learner.init, key)
        batch = jax.eval_shape(functools.partial(batch_of, task), key, task.data, 0)
        jax.eval_shape(task.learner.update, state, batch)
        names = sorted(jax.eval_shape(functools.partial(_evaluate, task.learner), key, state, task.evaluation_data))
    except ValueError as error:
        raise UserError(" ".join(str(error).split())) from error
    if run.best_metric not in names:
        raise UserError(
            f"config.run.best_metric is {run.best_metric!r}{did_you_mean(run.best_metric, names)}; "
            f"evaluation gives {', '.join(names)}."
        )


def run(task: Task, run_config: Any, workdir: pathlib.Path, num_seeds: int | None, *, profile: bool = False) -> Outcome:
    """Run a task in a workdir from its last checkpoint to its end, or until a signal asks to stop."""
    stop = StopSignal()
    programs = make_programs(task, run_config.seed, num_seeds)
    checkpoints = Checkpoints(workdir, keep=run_config.keep_checkpoints, best_mode=run_config.best_mode)
    try:
        step, state = _start(programs, checkpoints)
        return _Run(task, run_config, workdir, programs, checkpoints, stop, profile).go(step, state)
    finally:
        checkpoints.close()
        stop.release()


def _start(programs: Programs, checkpoints: Checkpoints) -> tuple[int, PyTree]:
    """Restore the last good checkpoint, or initialize."""
    found = checkpoints.restore_last(restore_target(programs), lambda text: progress.say("warning", text))
    if found is None:
        return 0, programs.init(programs.keys)
    progress.say("resume", f"from the checkpoint of update {found[0]}")
    return found


def restore_target(programs: Programs) -> PyTree:
    """Shapes of a run's state, and where they lie here: not where they lay when the checkpoint was written."""
    sharding = devices.seed_sharding(len(programs.keys)) if programs.keys.ndim else None
    sharding = sharding or SingleDeviceSharding(jax.local_devices()[0])
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        jax.eval_shape(programs.init, programs.keys),
    )


class _Run:
    """One pass of the loop; holds what its steps share."""

    def __init__(self, task, run_config, workdir, programs, checkpoints, stop, profile):
        self._total, self._task = task.num_updates, task
        self._config, self._workdir, self._programs = run_config, workdir, programs
        self._checkpoints, self._stop, self._profile = checkpoints, stop, profile
        self._evaluation: dict[str, np.ndarray] | None = None

    def go(self, step: int, state: PyTree) -> Outcome:
        began = time.perf_counter()
        chunks, evaluate = self._compile(step, state)
        compile_seconds = time.perf_counter() - began
        progress.say("compile", f"{compile_seconds:.1f} s")
        first, self._log = step, MetricsLog(self._workdir, step)
        self._reporter = progress.Reporter(self._total, step)
        pending = None  # the chunk that the device may still be computing
        aside = 0.0
        began = time.perf_counter()
        try:
            for length in self._lengths(step):
                if self._stop.name:
                    break
                state, metrics = self._advance(chunks[length], state, step)
                step += length
                if pending:
                    self._write(*pending)
                evaluation = None
                if self._due(step, self._config.evaluate_every):
                    evaluation = evaluate(evaluation_keys(self._programs, step), state, self._task.evaluation_data)
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
                self._evaluation = jax.device_get(
                    evaluate(evaluation_keys(self._programs, step), state, self._task.evaluation_data)
                )
        finally:
            self._reporter.close()
            self._log.close()
        seconds = time.perf_counter() - began - aside
        return Outcome(step, finished, self._evaluation, seconds, compile_seconds, step - first, state)

    def _show(self, step: int, state: PyTree) -> float:
        """Let the task look at the state; return the seconds that it took."""
        began = time.perf_counter()
        self._task.on_evaluation(self._workdir, step, self._first_seed(state))
        return time.perf_counter() - began

    def _first_seed(self, state: PyTree) -> PyTree:
        return jax.tree.map(lambda leaf: leaf[0], state) if self._programs.keys.ndim else state

    def _advance(self, chunk: Any, state: PyTree, step: int) -> tuple[PyTree, PyTree]:
        """Dispatch a chunk; the first one, where a profile is asked for, under the profiler and to its end."""
        arguments = state, self._programs.batch_keys, self._task.data, jnp.int32(step)
        if not self._profile:
            return chunk(*arguments)
        self._profile = False
        directory = self._workdir / "profile"
        with jax.profiler.trace(str(directory)):
            result = jax.block_until_ready(chunk(*arguments))
        progress.say("profile", f"one chunk of updates, in {directory} (open with xprof or TensorBoard)")
        return result

    def _compile(self, step: int, state: PyTree) -> tuple[dict[int, Any], Any]:
        programs, task = self._programs, self._task
        arguments = state, programs.batch_keys, task.data, jnp.int32(step)
        chunks = {length: programs.chunk.lower(*arguments, length).compile() for length in set(self._lengths(step))}
        keys = evaluation_keys(programs, step)
        return chunks, programs.evaluate.lower(keys, state, task.evaluation_data).compile()

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
        check_not_nan(metrics, step - length + 1, self._advice)
        row = {"step": step, **reduce_chunk(metrics)}
        if evaluation is not None:
            check_not_nan(
                {f"evaluation/{name}": value[..., None] for name, value in evaluation.items()}, step, self._advice
            )
            row |= {f"evaluation/{name}": value.tolist() for name, value in evaluation.items()}
            self._evaluation = evaluation
        name = self._config.best_metric
        shown = f"evaluation/{name}" if f"evaluation/{name}" in row else name
        note = f"{shown} {np.mean(row[shown]):.4g}" if shown in row else ""
        self._reporter.advance(step, note)
        self._log.write(row, self._reporter.rate)

    def _save(self, step: int, state: PyTree) -> None:
        """Save a state whose metrics are on disk: what a resumed run does not repeat is never lost."""
        if any(np.isnan(leaf).any() for leaf in jax.tree.leaves(state) if jnp.issubdtype(leaf.dtype, jnp.floating)):
            raise UserError(f"the state holds NaN at step {step}; {self._advice()}")
        self._log.flush()
        score = (self._evaluation or {}).get(self._config.best_metric)
        fresh = self._due(step, self._config.evaluate_every) and score is not None
        self._checkpoints.save(step, state, interquartile_mean(np.atleast_1d(score)) if fresh else None)

    def _advice(self) -> str:
        steps = self._checkpoints.steps()
        kept = f"the last good checkpoint is update {steps[-1]}" if steps else "no checkpoint had been saved yet"
        return f"{kept}. Lower config.learner.learning_rate (with --overwrite), or look for what diverges."
