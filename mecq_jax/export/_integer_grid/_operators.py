"""What each JAX primitive does on an integer grid (see `_convert`): roundings before it, range after it."""

import math
from typing import Any

import numpy as np
from jax import lax

from mecq_jax import jaxprs
from mecq_jax.export._integer_grid._interpreter import Equation, InexactError, Kind, Result, Value, Walk
from mecq_jax.export._integer_grid._ranges import Range, Round, power_above, shortened

RULES = jaxprs.Rules()
KERNEL = 2**8 - 1  # largest integer of a float kernel: what bfloat16 and TF32 multiply without rounding as well
FACTOR = 2**10 - 1  # of a known factor of activations
TERM = 2**12 - 1  # of a known term
SUM = 2**23  # largest sum of two terms, in units


def _applied(eqn: Equation, *values: Value) -> list[Any]:
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


@RULES.rule(
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
def _moved(walk: Walk, eqn: Equation, x: Value) -> Result:
    return _applied(eqn, x), x.range


@RULES.rule("gather", "dynamic_slice")
def _cut(walk: Walk, eqn: Equation, x: Value, *places: Value) -> Result:
    if any(v.kind == Kind.ACTIVATION for v in places):
        raise InexactError("indexing by activations")
    outs = _applied(eqn, x, *places)
    if walk.choosing and not np.isfinite(outs[0]).all():
        raise InexactError("indices out of bounds, which are filled with NaN")
    return outs, x.range


@RULES.rule("convert_element_type")
def _converted(walk: Walk, eqn: Equation, x: Value) -> Result:
    new = np.dtype(eqn.params["new_dtype"])
    if new != np.float32:
        raise InexactError(f"a conversion of activations to {new}; compute in float32")
    return _applied(eqn, x), x.range


@RULES.rule("neg")
def _neg(walk: Walk, eqn: Equation, x: Value) -> Result:
    return _applied(eqn, x), x.range and Range(x.range.unit, -x.range.high, -x.range.low)


@RULES.rule("abs")
def _abs(walk: Walk, eqn: Equation, x: Value) -> Result:
    return _applied(eqn, x), x.range and Range(x.range.unit, 0.0, x.range.largest)


@RULES.rule("max", "min", "clamp", "concatenate", "pad")
def _joined(walk: Walk, eqn: Equation, *values: Value) -> Result:
    on_grid = _same_grid(walk, values, compared=eqn.primitive.name in ("max", "min", "clamp"))
    ranges = [x.bounds for x in on_grid]
    unit, low, high = min(r.unit for r in ranges), min(r.low for r in ranges), max(r.high for r in ranges)
    match eqn.primitive.name:
        case "max":
            low = max(r.low for r in ranges)
        case "min":
            high = min(r.high for r in ranges)
        case "clamp":
            low, high = ranges[0].low, ranges[2].high
    return _applied(eqn, *on_grid), Range(unit, low, high)


@RULES.rule("add", "add_any", "sub")
def _sum(walk: Walk, eqn: Equation, x: Value, y: Value) -> Result:
    """Both on one grid, coarse enough that the sum stays below 2^24 units."""
    values = [v if v.kind != Kind.ACTIVATION else _finite(walk, v) for v in (x, y)]
    values = [v if v.kind == Kind.ACTIVATION else walk.constant(v, lambda c: shortened(c, TERM)) for v in values]
    least = power_above(sum(v.bounds.largest for v in values) / SUM)
    x, y = (_coarser(walk, v, least) for v in values)
    sign = -1 if eqn.primitive.name == "sub" else 1
    ends = (sign * y.bounds.low, sign * y.bounds.high)
    unit = min(x.bounds.unit, y.bounds.unit)
    return _applied(eqn, x, y), Range(unit, x.bounds.low + min(ends), x.bounds.high + max(ends))


def _coarser(walk: Walk, x: Value, step: float) -> Value:
    """A value in steps of at least `step`."""
    if x.bounds.unit >= step:
        return x
    if x.kind != Kind.ACTIVATION:
        return walk.constant(x, lambda c: np.round(c / step) * step)
    return walk.stepped(x, Round(step, np.floor(x.bounds.low / step), np.ceil(x.bounds.high / step)))


@RULES.rule("mul")
def _product(walk: Walk, eqn: Equation, x: Value, y: Value) -> Result:
    """Known factors in 10 bits, activations in what is left of 23, or 11 each."""
    if Kind.ACTIVATION in (x.kind, y.kind) and x.kind != y.kind:
        x, y = (_factor(walk, v) if v.kind != Kind.ACTIVATION else v for v in (x, y))
        c = x if y.kind == Kind.ACTIVATION else y
        largest = max(int(SUM / max(c.bounds.size, 1.0)), 1)
        x, y = (v if v is c else walk.rounded(v, min(largest, SUM) // 2) for v in (x, y))
    else:
        x, y = (walk.rounded(v, 2**11 - 1) for v in (x, y))
    return _applied(eqn, x, y), _range_of_product(x.bounds, y.bounds)


def _factor(walk: Walk, x: Value) -> Value:
    return walk.constant(x, lambda c: shortened(c, FACTOR))


def _range_of_product(x: Range, y: Range) -> Range:
    ends = [a * b for a in (x.low, x.high) for b in (y.low, y.high)]
    return Range(x.unit * y.unit, min(ends), max(ends))


@RULES.rule("square")
def _square(walk: Walk, eqn: Equation, x: Value) -> Result:
    return _squared(walk, eqn, x)


def _squared(walk: Walk, eqn: Equation, x: Value) -> Result:
    """A product of an activation of 11 bits with itself."""
    x = walk.rounded(x, 2**11 - 1)
    return _applied(eqn, x), Range(x.bounds.unit**2, 0.0, x.bounds.largest**2)


@RULES.rule("integer_pow")
def _power(walk: Walk, eqn: Equation, x: Value) -> Result:
    if eqn.params["y"] != 2:
        raise InexactError(f"activations to the power {eqn.params['y']}; squares alone stay on a grid")
    return _squared(walk, eqn, x)


@RULES.rule("div")
def _quotient(walk: Walk, eqn: Equation, x: Value, y: Value) -> Result:
    """A product with 1 / y."""
    if y.kind == Kind.ACTIVATION:
        raise InexactError("a division by activations, which runtimes may do by a reciprocal")
    inverse = walk.constant(y, lambda c: shortened(1 / c, FACTOR))
    if y.kind == Kind.WEIGHT:
        raise InexactError("a division by weights")
    x = walk.rounded(x, max(int(SUM / max(inverse.bounds.size, 1.0)), 1) // 2)
    return [lax.mul(x.array, inverse.array)], _range_of_product(x.bounds, inverse.bounds)


@RULES.rule("reduce_sum", "reduce_window_sum")
def _summed(walk: Walk, eqn: Equation, x: Value) -> Result:
    if eqn.primitive.name == "reduce_sum":
        count = math.prod(eqn.invars[0].aval.shape[a] for a in eqn.params["axes"])
    else:
        count = math.prod(eqn.params["window_dimensions"])
        if count & (count - 1):
            raise InexactError(f"mean pooling over {count} places, which ONNX divides by; take a power of two")
    x = walk.rounded(x, max(SUM // count - 1, 1))
    return _applied(eqn, x), Range(x.bounds.unit, min(count * x.bounds.low, 0.0), max(count * x.bounds.high, 0.0))


@RULES.rule("dot_general", "conv_general_dilated")
def _weighted(walk: Walk, eqn: Equation, x: Value, y: Value) -> Result:
    """Activations of few bits times weights: sum_i |w_i| max |a| for the largest output."""
    largest = 2 ** (walk.activation_bits - 1) - 1
    if x.kind == y.kind == Kind.ACTIVATION:
        x, y = walk.rounded(x, largest), walk.rounded(y, largest)
        found = _range_of_product(x.bounds, y.bounds)
        count = math.prod(eqn.invars[0].aval.shape[i] for i in eqn.params["dimension_numbers"][0][0])
        return _applied(eqn, x, y), Range(found.unit, min(count * found.low, 0.0), max(count * found.high, 0.0))
    x, y = (
        walk.rounded(v, largest) if v.kind == Kind.ACTIVATION else walk.constant(v, lambda c: shortened(c, KERNEL))
        for v in (x, y)
    )
    a, w = (x, y) if x.kind == Kind.ACTIVATION else (y, x)
    total = walk.choose(lambda: _largest_sum(eqn, np.abs(np.asarray(w.array, np.float64)), w is y))
    reach = total * a.bounds.largest
    return _applied(eqn, x, y), Range(a.bounds.unit * w.bounds.unit, -reach, reach)


def _largest_sum(eqn: Equation, weights: np.ndarray, is_second: bool) -> float:
    """The maximum over outputs of sum_i |w_i|."""
    numbers = eqn.params["dimension_numbers"]
    if eqn.primitive.name == "dot_general":
        axes = tuple(numbers[0][int(is_second)])
    elif is_second:
        axes = tuple(i for i in range(weights.ndim) if i != numbers.rhs_spec[0])
    else:
        raise InexactError("a convolution of weights by activations")
    return float(weights.sum(axis=axes).max(initial=0.0))
