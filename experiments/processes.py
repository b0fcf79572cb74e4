"""Several processes of one run, each with devices of its own: how they find each other, agree and end.

Process 0 writes what a run leaves and speaks to the terminal; checkpoints are written by all, each with what lies on
its devices. A process that is lost takes the others down: none of them could go on.
"""

import contextlib
import functools
import itertools
import json
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
from absl import flags
from jax._src import distributed
from jaxtyping import PyTree

from experiments.errors import UserError

AUTO = "auto"
HEARTBEAT_SECONDS = 30  # without a word from a process until it counts as lost
SHUTDOWN_SECONDS = 3600  # that the others wait for process 0, which draws the pictures
CONNECT_SECONDS = 300
PARTING_SECONDS = 5  # that a mistake waits for the same one of the others
FOR_EVER = 7 * 24 * 3600 * 1000  # milliseconds: JAX itself ends whoever waits for a process that is lost
OF_CONNECTIONS = ("Gloo", "NCCL", "UNAVAILABLE", "DEADLINE_EXCEEDED", "ABORTED", "Connection")
STOP = "mathai/stop"
_COUNTER = itertools.count()  # of what processes tell each other: they do so at the same places
T = TypeVar("T")

# What tells the user why a process is gone that cannot tell itself: JAX aborts where another process is lost.
WATCH = """
import signal, sys
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
if not sys.stdin.buffer.read():
    sys.stderr.write(sys.argv[1] + "\\n")
"""


def define_flags() -> None:
    """Define the flags of a run of several processes."""
    flags.DEFINE_string(
        "coordinator_address", None, "HOST:PORT of process 0, or auto: what SLURM, Open MPI or a TPU pod say."
    )
    flags.DEFINE_integer("num_processes", None, "Processes of the run, all started with the same flags.", lower_bound=1)
    flags.DEFINE_integer("process_id", None, "Which of them this one is, from 0 on.", lower_bound=0)


@contextlib.contextmanager
def joined(address: str | None, count: int | None, index: int | None) -> Iterator[None]:
    """Join the other processes before JAX's first computation; without an address there are none.

    Raises:
      UserError: flags that do not go together, or processes that do not find each other.
    """
    if address is None:
        if count not in (None, 1) or index not in (None, 0):
            raise UserError("--num_processes and --process_id need --coordinator_address=HOST:PORT, of process 0.")
        yield
        return
    _check(address, count, index)
    jax.config.update("jax_enable_preemption_service", False)  # the run loop listens for signals itself
    given = {} if address == AUTO else {"coordinator_address": address}
    try:
        jax.distributed.initialize(
            num_processes=count,
            process_id=index,
            initialization_timeout=CONNECT_SECONDS,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=SHUTDOWN_SECONDS,
            **given,
        )
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"the processes of the run did not find each other ({address}): {reason}") from error
    with _watched():
        if not is_first():
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what libraries print, too
        yield


def _check(address: str, count: int | None, index: int | None) -> None:
    if address == AUTO:
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise UserError(f"--coordinator_address={address} is no HOST:PORT; give those of process 0, or auto.")
    if count is None or index is None:
        raise UserError(f"--coordinator_address={address} needs --num_processes and --process_id as well.")
    if index >= count:
        raise UserError(f"--process_id={index} is not one of {count} processes, which count from 0.")


@contextlib.contextmanager
def _watched() -> Iterator[None]:
    """Say what ended this process: itself, or a small process of its own where this one is gone without a word.

    An error ends it at once, which ends the others; it does not wait for them first.
    """
    who = f"process {jax.process_index()} of {jax.process_count()}"
    again = "All processes, started again with the same command, resume from the last checkpoint."
    gone = f"error: {who} is gone: it was killed, or another process was lost (see above). {again}"
    watcher = subprocess.Popen([sys.executable, "-I", "-S", "-c", WATCH, gone], stdin=subprocess.PIPE)
    assert watcher.stdin is not None

    def dismiss():
        watcher.stdin.write(b"all is said")
        watcher.stdin.close()
        watcher.wait()

    def end(message, is_shared=False):
        dismiss()
        print(message, file=sys.stderr, flush=True)
        if is_shared:  # a mistake that all of them find: whoever has process 0 go first is cut off
            with contextlib.suppress(Exception):
                _service().wait_at_barrier("mathai/error", PARTING_SECONDS * 1000)
            if is_first():
                time.sleep(1)
        os._exit(1)

    try:
        yield
        dismiss()
    except UserError as error:
        end(f"error: {error}", is_shared=True)
    except KeyboardInterrupt:
        end("error: interrupted; the same command resumes from the last checkpoint.")
    except BaseException as error:
        if not tells_of_a_loss(error):
            end(traceback.format_exc())
        end(f"error: {who} lost another one ({' '.join(str(error).split())[:160]}). {again}")


def tells_of_a_loss(error: BaseException) -> bool:
    """Whether an error of JAX's is one of the connections between processes, and not of memory or of a program.

    >>> tells_of_a_loss(jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory"))
    False
    """
    return isinstance(error, jax.errors.JaxRuntimeError) and any(word in str(error) for word in OF_CONNECTIONS)


def number() -> int:
    """How many processes the run has; asks JAX only where they were joined, so that it starts nothing."""
    return jax.process_count() if jax.distributed.is_initialized() else 1


def are_several() -> bool:
    """Whether there are others."""
    return number() > 1


def is_first() -> bool:
    """Whether this process writes files and speaks."""
    return not are_several() or jax.process_index() == 0


def told(function: Callable[[], Any]) -> Any:
    """What process 0 finds, as JSON holds it, in all of them: all ask at the same place.

    It goes by JAX's coordination service and not by the devices, which may be busy with a chunk.

    Raises:
      UserError: process 0 met one, which it tells itself.
    """
    if not are_several():
        return function()
    key = f"mathai/told/{next(_COUNTER)}"
    if not is_first():
        answer = json.loads(_service().blocking_key_value_get(key, FOR_EVER))
        if "error" in answer:
            raise UserError("process 0 of the run ended; its own output says why.")
        return answer["value"]
    try:
        value = function()
    except UserError:
        _service().key_value_set(key, json.dumps({"error": True}))
        raise
    _service().key_value_set(key, json.dumps({"value": value}))
    return value


def by_first(function: Callable[[], T], otherwise: T) -> T:
    """Let process 0 do something, while the others wait until it is done; they get `otherwise`.

    Raises:
      UserError: it met one, which process 0 tells itself.
    """
    found = [otherwise]

    def go() -> None:
        found[0] = function()

    told(go)
    return found[0]


def any_of(value: bool) -> bool:
    """Whether it is true of any process: all ask at the same place, and all get the same answer."""
    if not are_several():
        return value
    key = f"mathai/any/{next(_COUNTER)}"
    _service().key_value_set(f"{key}/{jax.process_index()}", "1" if value else "")
    others = range(jax.process_count())
    return told(lambda: any(_service().blocking_key_value_get(f"{key}/{index}", FOR_EVER) for index in others))


def stop_asked(is_asked: bool) -> bool:
    """Whether any process was asked to stop, as far as process 0 knows: all look at the same place.

    One that is asked leaves word, which process 0 finds when it looks next; so none waits for any but process 0.
    """
    if not are_several():
        return is_asked
    if is_asked and not is_first():
        _service().key_value_set(STOP, "asked", allow_overwrite=True)

    def look() -> bool:
        if is_asked:
            return True
        with contextlib.suppress(jax.errors.JaxRuntimeError):  # there is no such word
            return bool(_service().key_value_try_get(STOP))
        return False

    return told(look)


def wait(place: str) -> None:
    """Wait until every process is here, however long another one takes."""
    if are_several():
        _service().wait_at_barrier(f"mathai/{place}/{next(_COUNTER)}", FOR_EVER)


def _service() -> Any:
    """The client of JAX's coordination service, which multihost_utils and orbax use as well."""
    return distributed.global_state.client


def whole(tree: PyTree) -> PyTree:
    """Arrays that lie on devices of several processes, brought to this one: all ask at the same place."""
    leaves = jax.tree.leaves(tree)
    if not are_several() or all(leaf.is_fully_addressable for leaf in leaves):
        return tree
    gathered = _gather(leaves[0].sharding.mesh)(tree)
    return jax.tree.map(lambda leaf: leaf.addressable_data(0), gathered)


@functools.lru_cache
def _gather(mesh: jax.sharding.Mesh) -> Callable[[PyTree], PyTree]:
    return jax.jit(lambda tree: tree, out_shardings=jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()))
