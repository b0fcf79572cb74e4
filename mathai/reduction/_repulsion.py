"""What pushes points of an embedding apart: exactly, pair by pair, or through a potential on a grid.

Repulsion is the slope of a potential: with q_ij = 1 / (1 + ‖yᵢ − yⱼ‖²) and ψ(y) = Σⱼ 1 / (1 + ‖y − yⱼ‖²),

    Σⱼ q_ij² (yᵢ − yⱼ) = −½ ∇ψ(yᵢ),      Z = Σᵢ ψ(yᵢ) − n.

On a grid this takes one charge, one convolution and one interpolation: points are spread over the nodes with cubic
B-splines, the kernel is applied by FFT without wrapping round, and ψ and its slope are read off with the same splines
(the smooth particle mesh of Essmann et al., 1995, for another kernel). The spacing of the nodes is fixed, so that the
accuracy is; what grows with the embedding is their number, along a ladder of sizes, each compiled once. Its first
rung is finer, for the time when all points lie within a few nodes.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from mathai.nn._sharding import by_rows, fill_up, on_devices
from mathai.reduction._arrays import contract, gather, over_blocks
from mathai.reduction._batching import largest_of_batch

SPACING = 1 / 3  # of nodes, in units of the embedding: 0.7 % of the force, 5e-5 of Z
FINE_SPACING = 1 / 12  # while an embedding is small: within a cell or two its forces would be 10 % off
OWN_SPACINGS = (1 / 12, 1 / 6, 1 / 3, 1 / 2, 2 / 3, 1.0, 4 / 3, 2.0)  # at which what a point does to itself is known
BORDER = 5  # nodes that splines reach beyond the points
LADDER = (64, 128, 192, 256, 320, 384, 512, 640, 768, 1024, 1280, 1536, 2048)  # nodes of a side
MOST_UNITS = 60  # sides per decade of points that the ladder is made for
BLOCK_BYTES = 16 * 2**20  # of the pairs that are treated at once


class Grids(NamedTuple):
    """A ladder of grids for up to so many points.

    Attributes:
      spectra: what a wave of charges is multiplied with, [2m, m + 1] for each grid of m nodes of a side.
      spacings: of the nodes of each, the finest first.
      own: at `OWN_SPACINGS`, what a point's own charge adds to ψ where it is, on average over a cell, and the first two
        sine coefficients of the force that it exerts on itself within a cell, [3, spacings].
    """

    spectra: tuple[Float[Array, "..."], ...]
    spacings: Float[Array, "rungs"]
    own: Float[Array, "3 spacings"]


def grids(num_points: int, dtype: np.dtype) -> Grids:
    """The ladder for a number of points, computed in float64 while tracing."""
    needed = MOST_UNITS * math.log10(max(num_points, 10)) / SPACING
    sizes = [m for m in LADDER if m < needed] or list(LADDER[:1])
    sizes += [m for m in LADDER if m >= needed and m not in sizes][:1]
    rungs = [(sizes[0], FINE_SPACING)] + [(m, SPACING) for m in sizes]
    return Grids(
        tuple(jnp.asarray(_spectrum(m, spacing), dtype) for m, spacing in rungs),
        jnp.asarray([spacing for _, spacing in rungs], dtype),
        jnp.asarray(np.stack([_self_interaction(spacing) for spacing in OWN_SPACINGS], axis=1), dtype),
    )


def exact(
    Y: Float[Array, "n c"], *, mesh: Mesh | None = None, axis: str = "data"
) -> tuple[Float[Array, "n c"], Float[Array, ""]]:
    """(Σⱼ q_ij² (yᵢ − yⱼ), Z) over all pairs, a block of points at a time; on devices, each has points of its own."""

    def of_points(y, Y):
        block = min(len(y), max(1, BLOCK_BYTES // (len(Y) * Y.dtype.itemsize)))
        return over_blocks(lambda part: from_all(part[0], Y), (y,), block)

    force, potential = _on_devices(of_points, Y, (Y,), mesh, axis)
    return force, jnp.sum(potential - 1)


def from_all(y: Float[Array, "m c"], Y: Float[Array, "n c"]) -> tuple[Float[Array, "m c"], Float[Array, "m"]]:
    """(Σⱼ q² (y − yⱼ), ψ(y)) of some points, over all of Y."""
    sources = jnp.concatenate([jnp.ones((len(Y), 1), Y.dtype), Y], axis=1)
    q = jnp.reciprocal(1 + sum((y[:, a, None] - Y[None, :, a]) ** 2 for a in range(Y.shape[1])))
    # Sums along rows as products: a compiler for CPUs makes fast ones of these alone.
    total = contract("bn,ns->bs", q * q, sources)
    return y * total[:, :1] - total[:, 1:], contract("bn,ns->bs", q, sources[:, :1])[:, 0]


def by_grid(
    Y: Float[Array, "n c"], grids: Grids, *, mesh: Mesh | None = None, axis: str = "data"
) -> tuple[Float[Array, "n c"], Float[Array, ""]]:
    """(Σⱼ q_ij² (yᵢ − yⱼ), Z) through the potential on a grid; Y has two columns.

    On devices, each spreads and reads points of its own; the convolution is the same on all.
    """
    grids = _in_dtype_of(Y, grids)
    field = potential_of(Y, grids, mesh=mesh, axis=axis)
    at = jnp.asarray(OWN_SPACINGS, Y.dtype)
    own_potential, first, second = (jnp.interp(field.spacing, at, values) for values in grids.own)

    def of_points(y, field, first, second):
        potential, slope = read(field, y)
        phase = 2 * jnp.pi * field.fraction(y)
        own = first * jnp.sin(phase) + second * jnp.sin(2 * phase)
        return -slope / 2 - own, potential

    force, potential = _on_devices(of_points, Y, (field, first, second), mesh, axis)
    # Action is reaction: all forces together are 0, and what a grid makes of that is an error that they share.
    return force - jnp.mean(force, axis=0, keepdims=True), jnp.sum(potential - own_potential)


def _on_devices(function, Y, shared, mesh, axis):
    """A function of points and of what all share, computed where the points lie, in one place without a mesh."""
    return function(Y, *shared) if mesh is None else by_rows(function, (Y,), shared, mesh=mesh, axis=axis)


class Field(NamedTuple):
    """A potential on the nodes of a grid.

    Attributes:
      values: at the nodes, row by row, the first `side`² of as many as the largest grid has.
      origin: where node (0, 0) lies.
      spacing: of the nodes.
      side: nodes of a side.
    """

    values: Float[Array, "nodes"]
    origin: Float[Array, "2"]
    spacing: Float[Array, ""]
    side: Array

    def fraction(self, Y: Float[Array, "m 2"]) -> Float[Array, "m 2"]:
        """Where in its cell a point lies, in nodes."""
        place = (Y - self.origin[None]) / self.spacing
        return place - jnp.floor(place)


def potential_of(
    Y: Float[Array, "n 2"], grids: Grids, *, margin: float = 0.0, mesh: Mesh | None = None, axis: str = "data"
) -> Field:
    """ψ of all points at the nodes of the smallest grid that holds them, with a margin around."""
    grids = _in_dtype_of(Y, grids)
    sizes = [spectrum.shape[1] - 1 for spectrum in grids.spectra]
    low = jnp.min(Y, axis=0) - margin
    span = jnp.max(jnp.max(Y, axis=0) + margin - low)
    reach = (jnp.asarray(sizes, Y.dtype) - BORDER) * grids.spacings
    rung = largest_of_batch(jnp.searchsorted(reach[:-1], span).astype(jnp.int32))
    side = jnp.asarray(sizes, jnp.int32)[rung]
    # An embedding that outgrows the ladder has the nodes of the last grid further apart.
    spacing = jnp.maximum(grids.spacings[rung], span / (sizes[-1] - BORDER)).astype(Y.dtype)
    field = Field(jnp.zeros(sizes[-1] ** 2, Y.dtype), low - 2 * spacing, spacing, side)
    charges = _spread(field, Y, mesh, axis)
    is_stretched = largest_of_batch(spacing > grids.spacings[-1])

    def on(spectrum):
        def convolve():
            m = spectrum.shape[1] - 1
            values = _convolved(charges[: m * m].reshape(m, m), spectrum).reshape(-1)
            return jnp.zeros_like(charges).at[: m * m].set(values)

        return convolve

    def stretched():
        m = sizes[-1]
        return _convolved(charges.reshape(m, m), _stretched_spectrum(m, spacing)).reshape(-1)

    rung = jnp.where(is_stretched, len(sizes), rung)
    values = jax.lax.switch(rung, [*(on(spectrum) for spectrum in grids.spectra), stretched])
    return field._replace(values=values)


def read(field: Field, Y: Float[Array, "m 2"]) -> tuple[Float[Array, "m"], Float[Array, "m 2"]]:
    """ψ and ∇ψ at points within the grid."""
    node, weights, slopes = _splines(field, Y)

    def add_row(total, row):
        step, weight, slope = row
        start = (node[:, 0] + step) * field.side + node[:, 1]
        along = across = jnp.zeros(len(Y), Y.dtype)
        for b in range(4):
            value = gather(field.values, start + b)
            along += value * weights[b, :, 1]
            across += value * slopes[b, :, 1]
        potential, slope_0, slope_1 = total
        return (
            potential + along * weight[:, 0],
            slope_0 + along * slope[:, 0],
            slope_1 + across * weight[:, 0],
        ), None

    nothing = (jnp.zeros(len(Y), Y.dtype),) * 3
    (potential, *slope), _ = jax.lax.scan(add_row, nothing, (jnp.arange(4, dtype=jnp.int32), weights, slopes))
    return potential, jnp.stack(slope, axis=1) / field.spacing


def _in_dtype_of(Y, grids):
    """Grids are made in the widest dtype that is enabled, which an embedding in float32 need not have."""
    return jax.tree.map(lambda leaf: leaf.astype(Y.dtype), grids)


def _splines(field, Y):
    """The first node of each point, and weights and slopes of the four from there on, [4, m, 2]."""
    place = (Y - field.origin[None]) / field.spacing
    cell = jnp.floor(place)
    x = place - cell
    weights = ((1 - x) ** 3 / 6, (3 * x**3 - 6 * x**2 + 4) / 6, (-3 * x**3 + 3 * x**2 + 3 * x + 1) / 6, x**3 / 6)
    slopes = (-((1 - x) ** 2) / 2, (3 * x**2 - 4 * x) / 2, (-3 * x**2 + 2 * x + 1) / 2, x**2 / 2)
    # Rounding may carry a point on the border one cell too far.
    node = jnp.clip(cell.astype(jnp.int32) - 1, 0, field.side - 4)
    return node, jnp.stack(weights), jnp.stack(slopes)


def _spread(field, Y, mesh=None, axis="data"):
    """Charges of 1 at the points, on the nodes."""
    # Whole numbers add up to the same in any order, which floats do not where a device adds at the same time.
    unit = 2.0 ** math.floor(math.log2((2**31 - 1) / len(Y)) - 1)
    if mesh is None:
        total = _whole_charges(field, Y, unit)
    else:
        is_point = jnp.arange(len(Y) + -len(Y) % mesh.shape[axis]) < len(Y)
        of_device = lambda field, y, is_point: jax.lax.psum(_whole_charges(field, y, unit, is_point), axis)  # noqa: E731
        specs = P(), P(axis), P(axis)
        total = on_devices(of_device, mesh, specs, P())(field, fill_up(Y, mesh.shape[axis]), is_point)
    return total.astype(Y.dtype) / unit


def _whole_charges(field, Y, unit, is_point=None):
    """Charges in whole numbers of 1/unit; rows that are no points have none."""
    node, weights, _ = _splines(field, Y)
    steps = jnp.arange(4, dtype=jnp.int32)[None]
    rows = (node[:, 0, None] + steps) * field.side
    places = rows[:, :, None] + (node[:, 1, None] + steps)[:, None, :]
    first, second = weights[:, :, 0].T, weights[:, :, 1].T
    charges = jnp.round(first[:, :, None] * second[:, None, :] * unit).astype(jnp.int32)
    if is_point is not None:
        charges = jnp.where(is_point[:, None, None], charges, 0)
    nothing = jnp.zeros(len(field.values), jnp.int32)
    return nothing.at[places.reshape(-1)].add(charges.reshape(-1), mode="promise_in_bounds")


def _convolved(charges, spectrum):
    """Charges on m × m nodes with a kernel, on twice as many nodes of a side so that nothing wraps round."""
    m = len(charges)
    waves = jnp.fft.fft(jnp.fft.rfft(charges, 2 * m, axis=1), 2 * m, axis=0)
    return jnp.fft.irfft(jnp.fft.ifft(waves * spectrum, axis=0)[:m], 2 * m, axis=1)[:, :m]


def _kernel(side, spacing, library):
    """1 / (1 + d²) of the distances between nodes, as a circle of twice as many sees them."""
    steps = library.arange(2 * side)
    distance = library.minimum(steps, 2 * side - steps) * spacing
    return 1 / (1 + distance[:, None] ** 2 + distance[None, : side + 1] ** 2)


def _response(side):
    """What spreading and reading do to each wave: the spline's own spectrum, once for either."""
    return (2 + np.cos(np.pi * np.arange(2 * side) / side)) / 3


def _spectrum(side: int, spacing: float) -> np.ndarray:
    kernel = _kernel(side, spacing, np)
    full = np.concatenate([kernel, kernel[:, side - 1 : 0 : -1]], axis=1)
    response = _response(side)
    return np.fft.rfft2(full).real / (response[:, None] * response[None, : side + 1]) ** 2


def _stretched_spectrum(side, spacing):
    kernel = _kernel(side, spacing, jnp)
    full = jnp.concatenate([kernel, kernel[:, side - 1 : 0 : -1]], axis=1)
    response = jnp.asarray(_response(side), kernel.dtype)
    return jnp.fft.rfft2(full).real / (response[:, None] * response[None, : side + 1]) ** 2


def _self_interaction(spacing: float) -> np.ndarray:
    """What a point does to itself, which no exact sum holds: depends on where in a cell it lies, and is smooth."""
    side = 32
    answer = np.fft.irfft2(_spectrum(side, spacing))
    x = np.arange(16) / 16
    weights = np.stack([(1 - x) ** 3, 3 * x**3 - 6 * x**2 + 4, -3 * x**3 + 3 * x**2 + 3 * x + 1, x**3]) / 6
    slopes = np.stack([-((1 - x) ** 2), 3 * x**2 - 4 * x, -3 * x**2 + 2 * x + 1, x**2]) / 2
    steps = np.arange(4)[:, None] - np.arange(4)[None]
    between = answer[steps][:, :, steps]  # [a, a', b, b']
    potential = np.einsum("ax,by,acbd,cx,dy->xy", weights, weights, between, weights, weights)
    force = -np.einsum("ax,by,acbd,cx,dy->xy", slopes, weights, between, weights, weights) / (2 * spacing)
    along = force.mean(1)
    return np.array([potential.mean(), *(2 * np.mean(along * np.sin(2 * np.pi * m * x)) for m in (1, 2))])
