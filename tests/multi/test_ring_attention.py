"""Ring attention on eight devices: against the definition in NumPy's float64, and against attention on one device."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from mathai.nn.attention import scaled_dot_product_attention
from mathai.nn.ring_attention import ring_attention, ring_attention_of_shards
from tests.multi.meshes import bytes_of_device, mesh_of, shard_shapes, spread
from tests.multi.processes import on_devices
from tests.nn.test_attention import arrays, by_definition, gradients_by_definition

pytestmark = pytest.mark.multi

DEVICES = 8
BATCH, LENGTH, HEADS, FEATURES, VALUES = 2, 24, 4, 8, 6
UNSEEN = (9, 0)  # of each batch entry, the first keys: more than a shard, and none
OPTIONS = {
    "plain": {},
    "causal": {"is_causal": True},
    "blocks": {"block_size": 2},
    "causal blocks": {"is_causal": True, "block_size": 2},
    "scale": {"scale": 0.7, "is_causal": True},
}
MASKED = ("masked", "masked causal", "nothing seen")
COUNTS = (1, 2, 4, 8)


def data(heads=HEADS, dtype="float32"):
    """q, k, v, and cotangents of o and L."""
    shape = BATCH, LENGTH
    q, k, v, do, dl = arrays(
        (*shape, HEADS, FEATURES),
        (*shape, heads, FEATURES),
        (*shape, heads, VALUES),
        (*shape, HEADS, VALUES),
        (*shape, HEADS),
    )
    return [jnp.asarray(x, dtype) for x in (q, k, v)], do, dl


def key_mask(name):
    mask = np.arange(LENGTH)[None] >= np.array(UNSEEN)[:, None]
    return np.zeros((1, LENGTH), bool) if name == "nothing seen" else mask


def options_of(name):
    return OPTIONS.get(name, {"is_causal": name == "masked causal"})


def with_gradients(attend, q, k, v, do, dl):
    """o, L, and the derivatives of Σ ȯ o + Σ L̇ L over what is finite."""

    def loss(q, k, v):
        o, lse = attend(q, k, v, return_lse=True)
        finite = jnp.where(jnp.isfinite(lse), lse, 0)
        return jnp.sum(do * o.astype(jnp.float32)) + jnp.sum(dl * finite), (o, lse)

    slopes, results = jax.jit(jax.grad(loss, (0, 1, 2), has_aux=True))(q, k, v)
    return [np.asarray(x, np.float32) for x in (*results, *slopes)]


def measured():
    mesh = mesh_of(sequence=DEVICES)
    found = {}
    for name in (*OPTIONS, *MASKED):
        mask = {"key_mask": key_mask(name)} if name in MASKED else {}
        arguments, do, dl = data()
        ring = functools.partial(ring_attention, mesh=mesh, **options_of(name), **mask)
        found[name] = with_gradients(ring, *arguments, do, dl)
    for dtype in ("float32", "bfloat16"):
        for is_causal in (False, True):
            arguments, do, dl = data(heads=2, dtype=dtype)
            ring = functools.partial(ring_attention, mesh=mesh, is_causal=is_causal)
            one = functools.partial(scaled_dot_product_attention, is_causal=is_causal)
            found[f"{dtype} {is_causal}"] = with_gradients(ring, *arguments, do, dl)
            found[f"{dtype} {is_causal} of one"] = with_gradients(one, *arguments, do, dl)
    return found | on_several_axes() | inside_other_programs(mesh)


def on_several_axes():
    arguments, do, dl = data(heads=2)
    cube = mesh_of(batch=2, sequence=2, heads=2)
    attend = functools.partial(ring_attention, mesh=cube, is_causal=True, key_mask=key_mask("masked"))
    two = mesh_of(sequence=4, model=2)
    other = functools.partial(ring_attention, mesh=two, is_causal=True, key_mask=key_mask("masked"))
    one = functools.partial(scaled_dot_product_attention, is_causal=True, mask=key_mask("masked")[:, None, None])
    q, k, v = arguments
    placed = jax.device_put(q, NamedSharding(cube, P("batch", "sequence", "heads")))
    o = attend(placed, k, v, batch_axis="batch", head_axis="heads")
    return {
        "cube": with_gradients(functools.partial(attend, batch_axis="batch", head_axis="heads"), *arguments, do, dl),
        "two axes": with_gradients(other, *arguments, do, dl),
        "cube of one": with_gradients(one, *arguments, do, dl),
        "shapes": shard_shapes(o),
    }


def inside_other_programs(mesh):
    """With `shard_map`'s checks of what varies, with a traced scale, and differentiated twice."""
    (q, k, v), do, _ = data(heads=2)
    spec = P(None, "sequence")
    attend = functools.partial(ring_attention_of_shards, axis_name="sequence", is_causal=True)
    checked = {}
    for block_size in (None, 2):
        function = jax.shard_map(
            functools.partial(attend, block_size=block_size), mesh=mesh, in_specs=(spec,) * 3, out_specs=spec
        )
        slope = jax.jit(jax.grad(lambda *x, f=function: jnp.sum(do * f(*x)), (0, 1, 2)))
        checked[f"checked {block_size}"] = slope(q, k, v)
    one = functools.partial(scaled_dot_product_attention, is_causal=True)
    ring = functools.partial(ring_attention, mesh=mesh, is_causal=True)
    # Queries that all of a batch share vary between fewer devices than keys do.
    two = mesh_of(batch=2, sequence=4)
    specs = spec, P("batch", "sequence"), P("batch", "sequence")
    shared = jax.shard_map(attend, mesh=two, in_specs=specs, out_specs=specs[1])
    alone = lambda q, k, v: one(jnp.broadcast_to(q, (BATCH, *q.shape[1:])), k, v)  # noqa: E731
    for name, function in (("shared", shared), ("shared by one", alone)):
        slope = jax.jit(jax.grad(lambda *x, f=function: jnp.sum(do * f(*x)), (0, 1, 2)))
        checked[name] = slope(q[:1], k, v)

    def loss(scale, attend):
        return jnp.sum(do * attend(q, k, v, scale=scale))

    slopes = {
        name: [jax.jit(f, static_argnums=1)(0.5, attend) for f in (jax.grad(loss), jax.grad(jax.grad(loss)))]
        for name, attend in (("traced scale", ring), ("traced scale of one", one))
    }
    expected = jax.jit(jax.grad(lambda *x: jnp.sum(do * one(*x)), (0, 1, 2)))(q, k, v)
    try:
        jax.jvp(lambda q: ring(q, k, v), (q,), (q,))
        forward = "no error"
    except TypeError as error:
        forward = str(error)
    return {**checked, "checked by one": expected, **slopes, "forward mode": forward}


def memory():
    """Of the forward and the backward trip, per device, for sequences of one length."""

    def of(count, is_causal):
        mesh = mesh_of(sequence=count)
        shape = (1, 16384, 2, 64)
        x = spread(mesh, None, "sequence", shape=shape)
        loss = lambda q, k, v: jnp.sum(ring_attention(q, k, v, mesh=mesh, is_causal=is_causal, block_size=128) ** 2)  # noqa: E731
        return bytes_of_device(jax.grad(loss, (0, 1, 2)), x, x, x)

    return {name: {n: of(n, name == "causal") for n in COUNTS} for name in ("plain", "causal")}


@pytest.fixture(scope="module")
def found():
    return on_devices(DEVICES, f"{__name__}:measured", timeout=500)


@pytest.fixture(scope="module")
def needed():
    return on_devices(DEVICES, f"{__name__}:memory", timeout=300, optimized=True)


def close(ours, theirs, atol=1e-5):
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(np.array(a, np.float32), np.array(b, np.float32), rtol=1e-5, atol=atol)


@pytest.mark.parametrize("name", [*OPTIONS, *MASKED])
def test_outputs_and_gradients_are_those_of_the_definition(found, name):
    (q, k, v), do, dl = data()
    options = {key: value for key, value in options_of(name).items() if key != "block_size"}
    if name in MASKED:
        options["mask"] = key_mask(name)[:, None, None]
    o, lse, p = by_definition(q, k, v, **options)
    # With L̇, every score gets L̇ p more: as if ȯ·o were less by it.
    dq, dk, dv, _ = gradients_by_definition(q, k, v, do, **options)
    scale = options.get("scale") or FEATURES**-0.5
    through_lse = np.swapaxes(dl, -1, -2)[..., None] * p
    dq = dq + scale * np.einsum("bhts,bshd->bthd", through_lse, k)
    dk = dk + scale * np.einsum("bhts,bthd->bshd", through_lse, q)
    close(found[name], (o, lse, dq, dk, dv))


def test_what_sees_nothing_is_zero_without_gradients(found):
    o, lse, *slopes = (np.array(x) for x in found["nothing seen"])
    assert np.all(lse == -np.inf)
    assert not np.any(o)
    assert not any(np.any(slope) for slope in slopes)
    masked = np.array(found["masked causal"][0])
    assert not np.any(masked[0, : UNSEEN[0]])
    assert np.all(np.any(masked[0, UNSEEN[0] :], axis=-1))


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize(("dtype", "atol"), [("float32", 1e-5), ("bfloat16", 2.0**-6)])
def test_fewer_key_heads_and_half_precision_as_on_one_device(found, dtype, atol, is_causal):
    close(found[f"{dtype} {is_causal}"], found[f"{dtype} {is_causal} of one"], atol)


def test_batch_and_heads_on_axes_of_their_own(found):
    close(found["cube"], found["cube of one"])
    assert found["shapes"] == [[1, LENGTH // 2, HEADS // 2, VALUES]]


def test_over_another_axis_all_is_replicated(found):
    close(found["two axes"], found["cube of one"])


@pytest.mark.parametrize("block_size", [None, 2])
def test_inside_a_program_that_checks_what_varies(found, block_size):
    close(found[f"checked {block_size}"], found["checked by one"])


def test_queries_that_a_batch_shares(found):
    close(found["shared"], found["shared by one"])


def test_derivatives_in_a_traced_scale_of_first_and_second_order(found):
    np.testing.assert_allclose(found["traced scale"], found["traced scale of one"], rtol=1e-4)


def test_forward_mode_is_refused(found):
    assert "custom_vjp" in found["forward mode"]


@pytest.mark.parametrize("name", ["plain", "causal"])
def test_memory_falls_with_the_number_of_devices(needed, name):
    memory = {int(n): bytes_ for n, bytes_ in needed[name].items()}
    for n in COUNTS:
        assert memory[n]["arguments"] == memory[1]["arguments"] // n
    # Alone, a device has no shard that arrives while another is read; beyond, blocks of scores are small.
    assert memory[1]["work"] > 3 * memory[DEVICES]["work"]
    for n in (2, 4):
        assert memory[n]["work"] > 1.9 * memory[2 * n]["work"]
