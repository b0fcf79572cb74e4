"""Meshes of simulated devices, and what a device of them holds and needs."""

import jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec


def mesh_of(**sizes):
    """A mesh of these axes, over the first devices."""
    count = 1
    for size in sizes.values():
        count *= size
    types = (AxisType.Auto,) * len(sizes)
    return jax.make_mesh(tuple(sizes.values()), tuple(sizes), devices=jax.devices()[:count], axis_types=types)


def spread(mesh, *spec, shape, dtype="float32"):
    """An array that is described and not made, spread over a mesh."""
    return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, PartitionSpec(*spec)))


def bytes_of_device(function, *described):
    """What one device holds of the arguments and of the results, and what it needs besides."""
    memory = jax.jit(function).lower(*described).compile().memory_analysis()
    return {
        "arguments": memory.argument_size_in_bytes,
        "results": memory.output_size_in_bytes,
        "work": memory.temp_size_in_bytes,
    }


def shard_shapes(array):
    """Of every device's part."""
    return sorted({shard.data.shape for shard in array.addressable_shards})
