"""Rows drawn from data that lie over eight devices are those of one device, bit for bit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.mesh import placement_of
from experiments.tasks import Rows, Task
from mathai.learners import batches
from tests.experiments.conftest import chaos
from tests.multi.processes import on_devices

pytestmark = pytest.mark.multi
NUM_ROWS = 203


def data():
    """Of several dtypes, with numbers that a sum of floats would change."""
    rng = np.random.default_rng(0)
    floats = rng.normal(size=(NUM_ROWS, 3, 2)).astype(np.float32)
    floats[::7], floats[1::7], floats[2::7] = -0.0, np.nan, np.inf
    return {
        "floats": floats,
        "halves": floats[:, 0].astype(jnp.bfloat16),
        "bytes": rng.integers(0, 256, (NUM_ROWS, 5), np.uint8),
        "labels": np.arange(NUM_ROWS, dtype=np.int32),
    }


def windows(key, count, step):
    """Of tokens: each row of a batch takes several."""
    return jax.random.randint(jax.random.fold_in(key, step), (8, 5), 0, count)


def minibatch(key, count, step):
    return batches.minibatch_indices(key, count, step, batch_size=24)


def compared():
    """For each kind of draw: whether the bytes are equal, and where the rows lie."""
    found = {}
    for name, choose in (("minibatch", minibatch), ("windows", windows)):
        task = Task(chaos(), 1, data=data(), draw=Rows(choose))
        placed = placement_of(task, None, "data:8").place(task, None)
        key = jax.random.key(5)
        there = jax.jit(placed.draw)(key, placed.data, jnp.int32(3))
        here = {field: values[np.asarray(choose(key, NUM_ROWS, 3))] for field, values in task.data.items()}
        found[name] = {
            "equal": {field: np.asarray(there[field]).tobytes() == here[field].tobytes() for field in here},
            "rows": [shard.data.shape[0] for shard in there["labels"].addressable_shards],
            "held": [shard.data.shape[0] for shard in placed.data["labels"].addressable_shards],
        }
    return found


@pytest.fixture(scope="module")
def found():
    return on_devices(8, "tests.multi.test_placement:compared")


@pytest.mark.parametrize(("name", "batch_size"), [("minibatch", 24), ("windows", 8)])
def test_rows_are_drawn_bit_for_bit_and_lie_over_the_devices(found, name, batch_size):
    assert found[name]["equal"] == dict.fromkeys(("floats", "halves", "bytes", "labels"), True)
    assert found[name]["rows"] == [batch_size // 8] * 8
    assert found[name]["held"] == [26] * 8  # 203 rows and 5 that fill up
