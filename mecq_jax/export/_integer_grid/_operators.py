"""What each JAX primitive of a network does on an integer grid (see `integer`): roundings before it, range after it."""

import math
from typing import Any

import numpy as np
from jax import lax

from mecq_jax import jaxprs
from mecq_jax.export._integer_grid._interpreter import InexactError, Kind, Value, Walk, rule
from mecq_jax.export._integer_grid._ranges import Range, Round, power_above, shortened

KERNEL = 2**8 - 1  # largest integer of a float kernel: what bfloat16 and TF32 multiply without rounding as well
FACTOR = 2**10 - 1  # of a known factor of activations
TERM = 2**12 - 1  # of a known term
SUM = 2**23  # largest sum of two terms, in units


def _applied(eqn: Any, *values: Value) -> list[Any]:
    return jaxprs.bind(eqn, [x.array for x in values])


def _same_grid(walk: Walk, values: tuple[Value, ...], *, compared: bool) -> list[Value]:
    """Activations as they are, known arrays as multiples of their unit; a float that came as input is rounded first.

    What is only compared with activations may lie outside of their range, at infinity too: the range's end will do.
    """
    values = tuple(x if x.kind != Kind.ACTIVATION else _finite(walk, x) for x in values)
    ranges = [x.range for x in values if x.kind == Kind.ACTIVATION and x.range]
    unit, low, high = min(r.unit for r in ranges), min(r.low for r in ranges), max(r.high for r in ranges)

    def short(c: np.ndarray) -> np.ndarray:
        return np.round((np.clip(c, low, high) if compared else c) / unit) * unit

    return [x if x.kind == Kind.ACTIVATION else walk.constant(x, short) for x in values]


def _finite(walk: Walk, x: Value) -> Value:
    """A float that came as input, rounded to 2^12 steps; any other activation as it is."""
    return walk.rounded(x, TERM) if x.range is None else x


@rule(
    "reshape",
    "transpose",
    "broadcast_in_dim",
    "squeeze",
    "expand_dims",
    "slice",
    "rev",
    "copy",
    "stop_gradient",
    "optimization_barrier",
    "sharding_constraint",
    "name",
    "split",
    "reduce_max",
    "reduce_min",
    "reduce_window_max",
)
def _moved(walk, eqn, x):
    return _applied(eqn, x), x.range


@rule("gather", "dynamic_slice")
def _cut(walk, eqn, x, *places):
    if any(v.kind == Kind.ACTIVATION for v in places):
        raise InexactError("indexing by activations")
    outs = _applied(eqn, x, *places)
    if walk.choosing and not np.isfinite(outs[0]).all():
        raise InexactError("indices out of bounds, which are filled with NaN")
    return outs, x.range


@rule("convert_element_type")
def _converted(walk, eqn, x):
    new = np.dtype(eqn.params["new_dtype"])
    if new != np.float32:
        raise InexactError(f"a conversion of activations to {new}; compute in float32")
    return _applied(eqn, x), x.range


@rule("neg")
def _neg(walk, eqn, x):
    return _applied(eqn, x), x.range and Range(x.range.unit, -x.range.high, -x.range.low)


@rule("abs")
def _abs(walk, eqn, x):
    return _applied(eqn, x), x.range and Range(x.range.unit, 0.0, x.range.largest)


@rule("max", "min", "clamp", "concatenate", "pad")
def _joined(walk, eqn, *values):
    values = _same_grid(walk, values, compared=eqn.primitive.name in ("max", "min", "clamp"))
    ranges = [x.range for x in values]
    unit, low, high = min(r.unit for r in ranges), min(r.low for r in ranges), max(r.high for r in ranges)
    match eqn.primitive.name:
        case "max":
            low = max(r.low for r in ranges)
        case "min":
            high = min(r.high for r in ranges)
        case "clamp":
            low, high = ranges[0].low, ranges[2].high
    return _applied(eqn, *values), Range(unit, low, high)


@rule("add", "add_any", "sub")
def _sum(walk, eqn, x, y):
    """Both on one grid, coarse enough that the sum stays below 2^24 units."""
    values = [v if v.kind != Kind.ACTIVATION else _finite(walk, v) for v in (x, y)]
    values = [v if v.kind == Kind.ACTIVATION else walk.constant(v, lambda c: shortened(c, TERM)) for v in values]
    least = power_above(sum(v.range.largest for v in values) / SUM)
    x, y = (_coarser(walk, v, least) for v in values)
    sign = -1 if eqn.primitive.name == "sub" else 1
    ends = (sign * y.range.low, sign * y.range.high)
    unit = min(x.range.unit, y.range.unit)
    return _applied(eqn, x, y), Range(unit, x.range.low + min(ends), x.range.high + max(ends))


def _coarser(walk: Walk, x: Value, step: float) -> Value:
    """A value in steps of at least `step`."""
    assert x.range is not None
    if x.range.unit >= step:
        return x
    if x.kind != Kind.ACTIVATION:
        return walk.constant(x, lambda c: np.round(c / step) * step)
    return walk.stepped(x, Round(step, np.floor(x.range.low / step), np.ceil(x.range.high / step)))


@rule("mul")
def _product(walk, eqn, x, y):
    """Known factors in 10 bits, activations in what is left of 23, or 11 each."""
    if Kind.ACTIVATION in (x.kind, y.kind) and x.kind != y.kind:
        x, y = (_factor(walk, v) if v.kind != Kind.ACTIVATION else v for v in (x, y))
        c = x if y.kind == Kind.ACTIVATION else y
        largest = max(int(SUM / max(c.range.size, 1.0)), 1)
        x, y = (v if v is c else walk.rounded(v, min(largest, SUM) // 2) for v in (x, y))
    else:
        x, y = (walk.rounded(v, 2**11 - 1) for v in (x, y))
    return _applied(eqn, x, y), _range_of_product(x.range, y.range)


def _factor(walk: Walk, x: Value) -> Value:
    return walk.constant(x, lambda c: shortened(c, FACTOR))


def _range_of_product(x: Range, y: Range) -> Range:
    ends = [a * b for a in (x.low, x.high) for b in (y.low, y.high)]
    return Range(x.unit * y.unit, min(ends), max(ends))


@rule("square")
def _square(walk, eqn, x):
    x = walk.rounded(x, 2**11 - 1)
    return _applied(eqn, x), Range(x.range.unit**2, 0.0, x.range.largest**2)


@rule("integer_pow")
def _power(walk, eqn, x):
    if eqn.params["y"] != 2:
        raise InexactError(f"activations to the power {eqn.params['y']}; squares alone stay on a grid")
    return _square(walk, eqn, x)


@rule("div")
def _quotient(walk, eqn, x, y):
    """A product with 1 / y."""
    if y.kind == Kind.ACTIVATION:
        raise InexactError("a division by activations, which runtimes may do by a reciprocal")
    inverse = walk.constant(y, lambda c: shortened(1 / c, FACTOR))
    if y.kind == Kind.WEIGHT:
        raise InexactError("a division by weights")
    x = walk.rounded(x, max(int(SUM / max(inverse.range.size, 1.0)), 1) // 2)
    return [lax.mul(x.array, inverse.array)], _range_of_product(x.range, inverse.range)


@rule("reduce_sum", "reduce_window_sum")
def _summed(walk, eqn, x):
    if eqn.primitive.name == "reduce_sum":
        count = math.prod(eqn.invars[0].aval.shape[a] for a in eqn.params["axes"])
    else:
        count = math.prod(eqn.params["window_dimensions"])
        if count & (count - 1):
            raise InexactError(f"mean pooling over {count} places, which ONNX divides by; take a power of two")
    x = walk.rounded(x, max(SUM // count - 1, 1))
    return _applied(eqn, x), Range(x.range.unit, min(count * x.range.low, 0.0), max(count * x.range.high, 0.0))


@rule("dot_general", "conv_general_dilated")
def _weighted(walk, eqn, x, y):
    """Activations of few bits times weights: sum_i |w_i| max |a| for the largest output."""
    largest = 2 ** (walk.activation_bits - 1) - 1
    if x.kind == y.kind == Kind.ACTIVATION:
        x, y = walk.rounded(x, largest), walk.rounded(y, largest)
        found = _range_of_product(x.range, y.range)
        count = math.prod(eqn.invars[0].aval.shape[i] for i in eqn.params["dimension_numbers"][0][0])
        return _applied(eqn, x, y), Range(found.unit, min(count * found.low, 0.0), max(count * found.high, 0.0))
    x, y = (
        walk.rounded(v, largest) if v.kind == Kind.ACTIVATION else walk.constant(v, lambda c: shortened(c, KERNEL))
        for v in (x, y)
    )
    a, w = (x, y) if x.kind == Kind.ACTIVATION else (y, x)
    total = walk.choose(lambda: _largest_sum(eqn, np.abs(np.asarray(w.array, np.float64)), w is y))
    reach = total * a.range.largest
    return _applied(eqn, x, y), Range(a.range.unit * w.range.unit, -reach, reach)


def _largest_sum(eqn: Any, weights: np.ndarray, is_second: bool) -> float:
    """max over outputs of sum_i |w_i|."""
    numbers = eqn.params["dimension_numbers"]
    if eqn.primitive.name == "dot_general":
        axes = tuple(numbers[0][int(is_second)])
    elif is_second:
        axes = tuple(i for i in range(weights.ndim) if i != numbers.rhs_spec[0])
    else:
        raise InexactError("a convolution of weights by activations")
    return float(weights.sum(axis=axes).max(initial=0.0))
