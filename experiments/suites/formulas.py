"""Cases of one formula: forward, and its value with the gradient in its first argument, beside peers.

The score counts right digits: −log₁₀ of the largest error, relative to the largest entry of the result, against the
last of JAX's peers in float64.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import progress
from experiments.benchmarking import work
from experiments.peers import pytorch
from experiments.suites.base import Case, Contestant
from experiments.suites.options import Options

LEAST_DIGITS = {"float64": 12.0, "float32": 5.0, "float16": 2.0, "bfloat16": 1.3}  # of the largest error


class Formula(NamedTuple):
    """A formula and who else computes it.

    Attributes:
      name: of the formula.
      ours: the function.
      peers: by name, functions of the same arguments; the last one, in float64, is what is right.
      arguments: arrays.
      cotangent: what the gradient starts from, of the shape of the value.
      operations: floating-point operations per element of the first argument, as its formula is written: every +, ×,
        ÷, comparison, exponential and logarithm is one.
      torch: PyTorch's function of the same arguments; None where it has none.
    """

    name: str
    ours: Callable[..., jax.Array]
    peers: dict[str, Callable[..., jax.Array]]
    arguments: tuple[jax.Array, ...]
    cotangent: jax.Array
    operations: float
    torch: Callable[..., Any] | None = None


def cases_of(make: Callable[[int, str], Iterator[Formula]], options: Options) -> Iterator[Case]:
    """The cases of all formulas that `make` gives for a number of elements and a dtype, at every size."""
    if options.with_peers and not pytorch.is_here():
        progress.say("peer", "PyTorch is not installed, or not for this device")
    for num_elements in options.elements:
        for formula in make(num_elements, options.dtype):
            yield from _pair(formula, num_elements, options)


def _pair(formula: Formula, num_elements: int, options: Options) -> list[Case]:
    """The formula forward, and with its gradient, for which twice the operations are added."""
    forward = _case(formula, "", lambda f: f, formula.arguments, formula.operations, options.with_peers)
    arguments = (*formula.arguments, formula.cotangent)
    gradient = _case(formula, ", gradient", _with_gradient, arguments, 3 * formula.operations, options.with_peers)
    size = f", {num_elements} elements" if len(options.elements) > 1 else ""
    return [
        case._replace(name=case.name + size, family=case.name, variable="elements", size=num_elements)
        for case in (forward, gradient)
    ]


def _case(
    formula: Formula,
    suffix: str,
    transform: Callable[[Callable[..., jax.Array]], Callable[..., Any]],
    arguments: tuple[jax.Array, ...],
    operations: float,
    with_peers: bool,
) -> Case:
    reference = transform(list(formula.peers.values())[-1])
    exact = functools.cache(lambda: in_float64(reference, arguments))

    def score(result):
        return right_digits(exact(), result)

    first = formula.arguments[0]
    contestants = [Contestant("mathai", transform(formula.ours), score)]
    if with_peers:
        contestants += [Contestant(peer, transform(f), score) for peer, f in formula.peers.items()]
        if formula.torch is not None and pytorch.is_here():
            theirs = pytorch.with_gradient(formula.torch) if suffix else formula.torch
            program = pytorch.program(theirs, arguments, needs_gradient=bool(suffix))
            contestants.append(
                Contestant(pytorch.NAME, program, lambda result: score(pytorch.as_numpy(result)), compiles=False)
            )
    return Case(
        formula.name + suffix,
        contestants,
        first.size,
        "elements",
        LEAST_DIGITS[first.dtype.name],
        arguments,
        flops=operations * first.size,
        bytes=work.traffic(transform(formula.ours), *arguments),
        dtype=first.dtype.name,
    )


def _with_gradient(f: Callable[..., jax.Array]) -> Callable[..., Any]:
    def value_and_gradient(first, *rest):
        *others, cotangent = rest
        value, pull_back = jax.vjp(lambda first: f(first, *others), first)
        return value, pull_back(cotangent)[0]

    return value_and_gradient


def in_float64(program: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    """Run a program on its arguments in float64, on the host where JAX can: a TPU has no float64 of its own."""
    try:
        host = jax.devices("cpu")[0]
    except RuntimeError:
        host = jax.devices()[0]
    with jax.enable_x64(True), jax.default_device(host):
        given = [np.asarray(a) for a in arguments]
        wide = [a.astype(np.float64) if jnp.issubdtype(a.dtype, jnp.floating) else a for a in given]
        return jax.tree.map(np.asarray, jax.jit(program)(*wide))


def right_digits(exact: Any, result: Any) -> float:
    """Count the right digits of a result's worst entry; of several parts, of the worst part.

    >>> round(right_digits(np.array([2.0, -4.0]), np.array([2.0, -4.004])), 2)
    3.0
    """

    def digits(a, b):
        return -np.log10(np.max(np.abs(a - np.asarray(b, np.float64))) / np.max(np.abs(a)) + 1e-16)

    return float(min(jax.tree.leaves(jax.tree.map(digits, exact, result))))
