"""The flags of a mesh, and the placement that they ask for, on the one device that there is here."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import mesh as flags_of
from experiments.errors import UserError
from experiments.placement import OneDevice
from tests.experiments.test_placement import task_of


@pytest.mark.parametrize(
    ("text", "axes"),
    [
        ("data:4,model:2", {"data": 4, "model": 2}),
        ("model:2", {"data": 1, "model": 2}),
        ("model:2,sequence:4", {"data": 1, "sequence": 4, "model": 2}),
        ("data:2,sequence:1", {"data": 2, "model": 1}),
        (" model:2 , data:3", {"data": 3, "model": 2}),
    ],
)
def test_a_mesh_is_sizes_by_axis(text, axes):
    assert flags_of.parse_mesh(text) == axes


@pytest.mark.parametrize("text", ["", "4", "data", "data:", "data:0", "data:-1", "data:2,data:2", "tokens:2", "data=2"])
def test_any_other_mesh_is_refused_with_the_form(text):
    with pytest.raises(UserError, match=r"--mesh=.* write sizes by axis, as data:4,model:2"):
        flags_of.parse_mesh(text)


def test_without_a_mesh_one_device_is_left_as_it_is():
    place = flags_of.placement_of(task_of(), None, None)
    assert type(place) is OneDevice
    assert place.describe() == ""
    placed = place.place(task_of(), None)
    assert {name: type(x) for name, x in placed.data.items()} == {"x": type(jnp.ones(1)), "n": type(jnp.ones(1))}
    np.testing.assert_array_equal(placed.data["x"], task_of().data["x"])
    assert place.recorded_in({"device": {}}) == {"device": {}}


@pytest.mark.parametrize(
    ("mesh", "members", "sharded", "message"),
    [
        ("data:2", None, False, r"--mesh=data:2,model:1 needs 2 devices; JAX finds 1 \(cpu\).*JAX_NUM_CPU_DEVICES=2"),
        ("sequence:2", None, False, "needs 2 devices"),
        ("data:1", 3, True, "--shard_parameters is of one run"),
    ],
)
def test_what_does_not_fit_is_refused(mesh, members, sharded, message):
    with pytest.raises(UserError, match=message):
        flags_of.placement_of(task_of(), members, mesh, shard_parameters=sharded)


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
        flags_of._check(axes, rows, noun, members, is_given=True)


@pytest.mark.parametrize(
    ("size", "length", "message"),
    [(2, None, "sequence:2 is for the tokens of one run of a language model"), (4, 6, "does not divide .* = 6")],
)
def test_a_sequence_needs_tokens_that_it_divides(size, length, message):
    flags_of._check_sequence(1, length)
    flags_of._check_sequence(2, 6)
    with pytest.raises(UserError, match=message):
        flags_of._check_sequence(size, length)
