"""How much a program computes and moves, counted from itself: the compiler counts the body of a loop only once."""

import math
from collections.abc import Callable
from typing import Any

import jax
from jax.extend import core


def products(function: Callable[..., Any], *arguments: Any) -> float:
    """Floating-point operations of the matrix products and convolutions of a program.

    A product of [m, k] and [k, n] is 2mkn operations, a loop of known length its body as often, a choice its dearest
    branch; loops that end on a condition count once, so that the count is a lower bound where there are some.
    Whatever is not a product is left out.

    Args:
      function: traceable by JAX.
      *arguments: arrays, or their shapes.

    >>> def powers(x):
    ...     return jax.lax.fori_loop(0, 10, lambda i, y: y @ x, x)
    >>> products(powers, jax.ShapeDtypeStruct((8, 8), "float32")) == 10 * 2 * 8**3
    True
    """
    return _count(jax.make_jaxpr(function)(*arguments).jaxpr)


def _count(jaxpr: core.Jaxpr) -> float:
    return sum(_count_equation(equation) for equation in jaxpr.eqns)


def _count_equation(equation: Any) -> float:
    name, parameters = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = parameters["dimension_numbers"]
        shape = equation.invars[0].aval.shape
        return 2.0 * equation.outvars[0].aval.size * math.prod(shape[axis] for axis in contracted)
    if name == "conv_general_dilated":
        kernel = equation.invars[1].aval
        outputs = kernel.shape[parameters["dimension_numbers"].rhs_spec[0]]
        zeros = math.prod(parameters["lhs_dilation"])  # between the inputs, as gradients of strides have them
        return 2.0 * equation.outvars[0].aval.size * kernel.size / outputs / zeros
    inner = [_count(jaxpr) for jaxpr in _inner(parameters)]
    if name == "scan":
        return parameters["length"] * sum(inner)
    if name == "cond":
        return max(inner, default=0.0)
    if name == "shard_map":
        return parameters["mesh"].size * sum(inner)
    return sum(inner)


def _inner(parameters: dict[str, Any]) -> list[core.Jaxpr]:
    values = [
        item for value in parameters.values() for item in (value if isinstance(value, (tuple, list)) else [value])
    ]
    found = [value.jaxpr if isinstance(value, core.ClosedJaxpr) else value for value in values]
    return [value for value in found if isinstance(value, core.Jaxpr)]


def traffic(function: Callable[..., Any], *arguments: Any) -> float:
    """Bytes that a program must move: each argument read once, each result written once.

    >>> traffic(lambda x, y: x + y, *[jax.ShapeDtypeStruct((100,), "float32")] * 2)
    1200.0
    """
    results = jax.eval_shape(function, *arguments)
    return float(sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves((arguments, results))))
