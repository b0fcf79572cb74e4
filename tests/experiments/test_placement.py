"""Where a run lies, on the one device that there is here; on several see tests/multi."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import placement
from experiments.errors import UserError
from experiments.placement import OneDevice, Placement
from experiments.tasks import Rows, Task
from mathai.learners import batches
from tests.experiments.conftest import chaos


@pytest.mark.parametrize(
    ("text", "axes"),
    [
        ("data:4,model:2", {"data": 4, "model": 2}),
        ("model:2", {"data": 1, "model": 2}),
        (" model:2 , data:3", {"data": 3, "model": 2}),
    ],
)
def test_a_mesh_is_sizes_by_axis(text, axes):
    assert placement.parse_mesh(text) == axes


@pytest.mark.parametrize(
    "text", ["", "4", "data", "data:", "data:0", "data:-1", "data:2,data:2", "sequence:2", "data=2"]
)
def test_any_other_mesh_is_refused_with_the_form(text):
    with pytest.raises(UserError, match=r"--mesh=.* write sizes by axis, as data:4,model:2"):
        placement.parse_mesh(text)


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


def test_without_a_mesh_one_device_is_left_as_it_is():
    place = placement.placement_of(task_of(), None, None)
    assert type(place) is OneDevice
    assert place.describe() == ""
    placed = place.place(task_of(), None)
    assert {name: type(x) for name, x in placed.data.items()} == {"x": type(jnp.ones(1)), "n": type(jnp.ones(1))}
    np.testing.assert_array_equal(placed.data["x"], task_of().data["x"])
    assert place.recorded_in({"device": {}}) == {"device": {}}


def test_a_mesh_of_one_device_draws_the_same_rows():
    task, key = task_of(), jax.random.key(3)
    place = placement.placement_of(task, None, "data:1")
    assert isinstance(place, Placement)
    placed = place.place(task, None)
    found = jax.jit(placed.draw)(key, placed.data, jnp.int32(1))
    for name, expected in batches.minibatch(key, task.data, 1, batch_size=4).items():
        np.testing.assert_array_equal(found[name], expected)
        assert found[name].dtype == expected.dtype
    assert place.recorded_in({"device": {"count": 1}}) == {
        "device": {"count": 1, "mesh": "data:1", "shard_parameters": False}
    }


@pytest.mark.parametrize(
    ("mesh", "members", "sharded", "message"),
    [
        ("data:2", None, False, r"--mesh=data:2,model:1 needs 2 devices; JAX finds 1 \(cpu\).*JAX_NUM_CPU_DEVICES=2"),
        ("data:1", 3, True, "--shard_parameters is of one run"),
    ],
)
def test_what_does_not_fit_is_refused(mesh, members, sharded, message):
    with pytest.raises(UserError, match=message):
        placement.placement_of(task_of(), members, mesh, shard_parameters=sharded)


@pytest.mark.parametrize(
    ("axes", "rows", "noun", "members", "message"),
    [
        ({"data": 3, "model": 1}, 4, "rows of a batch", None, "3 devices do not divide the 4 rows of a batch"),
        ({"data": 2, "model": 2}, 4, "seeds", 4, "seeds are spread over data alone; leave model out"),
    ],
)
def test_what_does_not_divide_is_refused(axes, rows, noun, members, message, monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: 8)
    with pytest.raises(UserError, match=message):
        placement._check(axes, rows, noun, members, is_given=True)


def test_a_state_of_any_tree_has_its_places():
    place = placement.placement_of(task_of(), None, "data:1", shard_parameters=True)
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
