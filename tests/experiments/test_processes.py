"""Processes of a run: the flags, and what a process that is alone does. Several of them: see tests/multi."""

import jax
import pytest

from experiments import processes
from experiments.errors import UserError


@pytest.mark.parametrize(
    ("address", "count", "index", "message"),
    [
        (None, 2, None, "need --coordinator_address=HOST:PORT, of process 0"),
        (None, None, 1, "need --coordinator_address=HOST:PORT, of process 0"),
        ("localhost", 2, 0, "--coordinator_address=localhost is no HOST:PORT"),
        ("localhost:", 2, 0, "is no HOST:PORT"),
        (":1234", 2, 0, "is no HOST:PORT"),
        ("localhost:1234", None, 0, "needs --num_processes and --process_id as well"),
        ("localhost:1234", 2, None, "needs --num_processes and --process_id as well"),
        ("localhost:1234", 2, 2, "--process_id=2 is not one of 2 processes, which count from 0"),
    ],
)
def test_flags_that_do_not_go_together_are_refused(address, count, index, message):
    with pytest.raises(UserError, match=message), processes.joined(address, count, index):
        raise AssertionError("nobody joined")


def test_a_process_alone_is_the_first_and_waits_for_nobody():
    with processes.joined(None, 1, 0):
        assert (processes.number(), processes.are_several(), processes.is_first()) == (1, False, True)
        assert [processes.any_of(value) for value in (True, False)] == [True, False]
        assert [processes.stop_asked(value) for value in (True, False)] == [True, False]
        assert processes.told(lambda: {"bytes": 2.0**40}) == {"bytes": 2.0**40}
        processes.wait("nobody")
        assert processes.by_first(lambda: "done", "never") == "done"
        with pytest.raises(UserError, match="a mistake"):
            processes.by_first(fail, None)
        tree = {"x": 1}
        assert processes.whole(tree) is tree


@pytest.mark.parametrize(
    ("error", "is_loss"),
    [
        (jax.errors.JaxRuntimeError("UNKNOWN: Gloo AllGather failed: Connection closed by peer [127.0.0.1]:3"), True),
        (jax.errors.JaxRuntimeError("UNAVAILABLE: Socket closed"), True),
        (jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 8 bytes"), False),
        (jax.errors.JaxRuntimeError("INVALID_ARGUMENT: a program that does not compile"), False),
        (ConnectionError("Connection refused"), False),
    ],
)
def test_only_a_broken_connection_tells_of_a_loss(error, is_loss):
    assert processes.tells_of_a_loss(error) == is_loss


def fail():
    raise UserError("a mistake")
