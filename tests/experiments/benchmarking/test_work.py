"""Operations counted from programs: products, convolutions, loops, choices, devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.benchmarking import work

A, B = jnp.ones((3, 4)), jnp.ones((4, 5))


def loop(x):
    return jax.lax.scan(lambda y, _: (y @ x, None), x, length=7)[0]


def choice(x):
    return jax.lax.cond(x[0, 0] > 0, lambda x: x @ x @ x, lambda x: x @ x, x)


@pytest.mark.parametrize(
    ("program", "arguments", "expected"),
    [
        (lambda a, b: a @ b, (A, B), 2 * 3 * 4 * 5),
        (jax.vmap(lambda a, b: a @ b), (jnp.ones((6, 3, 4)), jnp.ones((6, 4, 5))), 6 * 2 * 3 * 4 * 5),
        (jax.jit(lambda a, b: (a + 1) @ b), (A, B), 2 * 3 * 4 * 5),
        (loop, (jnp.ones((4, 4)),), 7 * 2 * 4**3),
        (lambda x: jax.lax.map(loop, x), (jnp.ones((3, 4, 4)),), 3 * 7 * 2 * 4**3),
        (choice, (jnp.ones((4, 4)),), 2 * 2 * 4**3),
        (jax.grad(lambda a, b: jnp.sum((a @ b) ** 2), argnums=(0, 1)), (A, B), 3 * 2 * 3 * 4 * 5),
        (jax.checkpoint(lambda a, b: a @ b), (A, B), 2 * 3 * 4 * 5),
        (lambda a: a + 1, (A,), 0),
    ],
    ids=["product", "batch", "inside jit", "loop", "loop in a loop", "choice", "gradient", "checkpoint", "no product"],
)
def test_products_are_two_operations_for_each_triple_of_indices(program, arguments, expected):
    assert work.products(program, *arguments) == expected


@pytest.mark.parametrize(("groups", "stride"), [(1, 1), (2, 1), (1, 2)])
def test_a_convolution_is_counted_as_its_definition_sums(groups, stride):
    x, kernel = jnp.ones((2, 8, 8, 4)), jnp.ones((3, 3, 4 // groups, 6))

    def convolve(x, kernel):
        return jax.lax.conv_general_dilated(
            x,
            kernel,
            (stride, stride),
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        )

    side = 8 // stride
    assert work.products(convolve, x, kernel) == 2 * (2 * side * side * 6) * (3 * 3 * 4 // groups)


def test_every_device_of_a_mesh_does_its_share():
    mesh = jax.sharding.AbstractMesh((2,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec("x")
    program = jax.shard_map(lambda a: a @ B, mesh=mesh, in_specs=spec, out_specs=spec)
    assert work.products(program, jnp.ones((6, 4))) == 2 * 6 * 4 * 5


def test_zeros_between_the_inputs_of_a_gradient_are_no_work():
    x, kernel = jnp.ones((1, 8, 8, 2)), jnp.ones((3, 3, 2, 2))

    def loss(x):
        dimensions = ("NHWC", "HWIO", "NHWC")
        return jnp.sum(jax.lax.conv_general_dilated(x, kernel, (2, 2), "SAME", dimension_numbers=dimensions) ** 2)

    once = 2 * (4 * 4 * 2) * (3 * 3 * 2)
    assert work.products(jax.value_and_grad(loss), x) == 2 * once


def test_what_moves_at_the_least_is_every_argument_and_every_result_once():
    moved = work.traffic(lambda a, b: {"product": a @ b, "sum": a.sum()}, A, B)
    assert moved == sum(np.asarray(x).nbytes for x in (A, B, A @ B, A.sum()))
