"""Where a run lies, on the one device that there is here; on several see tests/multi."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import placement
from experiments.mesh import placement_of
from experiments.placement import Placement
from experiments.tasks import Rows, Task
from mathai.learners import batches
from tests.experiments.conftest import chaos


@pytest.mark.parametrize(
    ("path", "ndim", "axis"),
    [
        ("params/blocks_0/MultiHeadAttention_0/query", 3, 1),  # [features, heads, head features]
        ("params/blocks_0/MultiHeadAttention_0/output", 3, 0),  # [heads, head features, features]
        ("optimizer/mu/blocks_0/MultiHeadAttention_0/value", 3, 1),
        ("params/embedding", 2, 0),
        ("params/Linear_0/weight", 2, 0),  # [outputs, inputs]
        ("params/Linear_0/bias", 1, 0),
        ("params/Linear_1/weight", 2, 1),
        ("params/Linear_1/bias", 1, None),  # added to a sum over the devices
        ("params/Linear_10/weight", 2, 0),
        ("params/Dense_0/kernel", 2, 1),  # [inputs, outputs]
        ("params/Dense_1/kernel", 2, 0),
        ("params/torsos/kernel_0", 3, 2),  # [torsos, inputs, outputs]
        ("params/torsos/bias_0", 2, 1),
        ("params/torsos/kernel_1", 3, 1),
        ("params/torsos/bias_1", 2, None),
        ("optimizer/mu", 1, 0),
        ("optimizer/count", 0, None),
        ("params/LayerNorm_0/scale", 1, None),
        ("params/output", 2, None),  # of a denoiser
        ("key", 0, None),
        ("", 2, None),
    ],
)
def test_parameters_are_cut_by_their_names(path, ndim, axis):
    assert placement.model_axis([name for name in path.split("/") if name], ndim) == axis


def task_of(num_rows=7, batch_size=4):
    data = {"x": np.arange(num_rows * 3.0).reshape(-1, 3), "n": np.arange(num_rows, dtype=np.uint8)}
    draw = Rows(lambda key, count, step: batches.minibatch_indices(key, count, step, batch_size=batch_size))
    return Task(chaos(), 30, data=data, draw=draw)


def test_a_mesh_of_one_device_draws_the_same_rows():
    task, key = task_of(), jax.random.key(3)
    place = placement_of(task, None, "data:1")
    assert isinstance(place, Placement)
    placed = place.place(task, None)
    found = jax.jit(placed.draw)(key, placed.data, jnp.int32(1))
    for name, expected in batches.minibatch(key, task.data, 1, batch_size=4).items():
        np.testing.assert_array_equal(found[name], expected)
        assert found[name].dtype == expected.dtype
    assert place.recorded_in({"device": {"count": 1}}) == {
        "device": {"count": 1, "mesh": "data:1", "shard_parameters": False}
    }


def test_a_state_of_any_tree_has_its_places():
    place = placement_of(task_of(), None, "data:1", shard_parameters=True)
    key = jax.random.key(0)
    state = {"params": {"Linear_0": {"weight": jnp.zeros((64, 32))}}, "observation": jnp.zeros((4, 2)), "key": key}
    specs = jax.tree.map(lambda sharding: tuple(sharding.spec), place.of_state(state))
    assert specs == {"params": {"Linear_0": {"weight": ("model", "data")}}, "observation": ("data",), "key": ()}
    gathered = place.of_state(state, gathered=True)
    assert tuple(gathered["params"]["Linear_0"]["weight"].spec) == ("model", None)
    assert tuple(place.of_state({"optimizer": {"mu": jnp.zeros(2048)}}, gathered=True)["optimizer"]["mu"].spec) == (
        "model",
    )
    assert tuple(place.of_state(jnp.zeros(3)).spec) == (None,)
