"""Many small problems at once: on a CPU one after another on every device, on accelerators in step."""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import AxisType, PartitionSpec
from jaxtyping import PyTree

from mathai.nn import _sharding

AXIS = "problems"
IN_STEP = 1024  # problems at most that an accelerator solves together


def spread(function: Callable[..., PyTree], each: PyTree, shared: PyTree, *, num_devices: int) -> PyTree:
    """Map (arguments of one problem, what all share) → result over the leading axis of `each`.

    In step, all problems wait for the slowest, which costs a CPU more than it saves. On several CPU devices each
    takes its share of the problems: that is how two cores are used.
    """
    count = len(jax.tree.leaves(each)[0])

    def on_one_device(each, shared):
        one = lambda x: function(x, shared)  # noqa: E731
        batch_size = None if jax.default_backend() == "cpu" else IN_STEP
        return jax.lax.map(one, each, batch_size=batch_size)

    if num_devices == 1 or count == 1:
        return on_one_device(each, shared)
    padded = jax.tree.map(lambda x: _sharding.fill_up(x, num_devices), each)
    mesh = jax.make_mesh(
        (num_devices,), (AXIS,), devices=jax.local_devices()[:num_devices], axis_types=(AxisType.Auto,)
    )
    specs: Any = (PartitionSpec(AXIS), PartitionSpec())
    result = _sharding.on_devices(on_one_device, mesh, specs, specs[0])(padded, shared)
    return jax.tree.map(lambda x: x[:count], result)


def devices_for(*arrays: Any) -> int:
    """How many devices may work on arrays: one where they were put on a device on purpose, or are traced."""
    for array in arrays:
        if isinstance(array, jax.core.Tracer) or (isinstance(array, jax.Array) and array.committed):
            return 1
    return jax.local_device_count()
