"""The ONNX form of each JAX primitive that networks are made of (see `onnx_trace`)."""

import math
from typing import Any

import numpy as np
from jax import lax

from mecq_jax.export._onnx._trace import Trace, UnsupportedError, Value, known, rule

UNARY = {
    "neg": "Neg",
    "exp": "Exp",
    "log": "Log",
    "tanh": "Tanh",
    "logistic": "Sigmoid",
    "erf": "Erf",
    "sqrt": "Sqrt",
    "abs": "Abs",
    "sign": "Sign",
    "floor": "Floor",
    "ceil": "Ceil",
    "sin": "Sin",
    "cos": "Cos",
    "not": "Not",
}


BINARY = {
    "add": "Add",
    "add_any": "Add",
    "sub": "Sub",
    "mul": "Mul",
    "div": "Div",
    "max": "Max",
    "min": "Min",
    "pow": "Pow",
    "eq": "Equal",
    "lt": "Less",
    "gt": "Greater",
    "le": "LessOrEqual",
    "ge": "GreaterOrEqual",
    "and": "And",
    "or": "Or",
}


def _elementwise(trace: Trace, eqn: Any, inputs: tuple[Value, ...], *steps: tuple, **attributes: Any) -> Value:
    """The value of `steps`, (operator, operands): an operand is a place in `inputs`, "last", or a constant array."""
    names = [trace.name(x) for x in inputs]
    out = ""
    for kind, *operands in steps:
        found = [out if x == "last" else names[x] if isinstance(x, int) else trace.graph.constant(x) for x in operands]
        out = trace.graph.node(kind, *found, **attributes)
    aval = eqn.outvars[0].aval
    rank = len(aval.shape)
    padded = [(1,) * (rank - len(x.held)) + x.held for x in inputs]
    held = tuple(next((d for d in column if d != 1), 1) for column in zip(*padded, strict=True))
    return Value(tuple(aval.shape), held, np.dtype(aval.dtype), name=out)


@rule(*UNARY)
def _unary(trace, eqn, x):
    return _elementwise(trace, eqn, (x,), (UNARY[eqn.primitive.name], 0))


@rule(*BINARY)
def _binary(trace, eqn, x, y):
    if eqn.primitive.name in ("and", "or") and x.dtype != np.bool_:
        raise UnsupportedError(f"{eqn.primitive.name} of {x.dtype}: bitwise operators cannot be exported")
    return _elementwise(trace, eqn, (x, y), (BINARY[eqn.primitive.name], 0, 1))


@rule("round")
def _round(trace, eqn, x):
    if eqn.params["rounding_method"] != lax.RoundingMethod.TO_NEAREST_EVEN:
        raise UnsupportedError("rounding halves away from zero; use jnp.round, which takes the even neighbour")
    return _elementwise(trace, eqn, (x,), ("Round", 0))


@rule("rem")
def _rem(trace, eqn, x, y):
    return _elementwise(trace, eqn, (x, y), ("Mod", 0, 1), fmod=1)  # with the sign of x, as in C


@rule("ne")
def _ne(trace, eqn, x, y):
    return _elementwise(trace, eqn, (x, y), ("Equal", 0, 1), ("Not", "last"))


@rule("rsqrt")
def _rsqrt(trace, eqn, x):
    return _elementwise(trace, eqn, (x,), ("Sqrt", 0), ("Reciprocal", "last"))


@rule("square")
def _square(trace, eqn, x):
    return _elementwise(trace, eqn, (x,), ("Mul", 0, 0))


@rule("integer_pow")
def _integer_pow(trace, eqn, x):
    y = eqn.params["y"]
    step = ("Mul", 0, 0) if y == 2 else ("Pow", 0, np.asarray(y, x.dtype))
    return _elementwise(trace, eqn, (x,), step)


@rule("erfc")
def _erfc(trace, eqn, x):
    return _elementwise(trace, eqn, (x,), ("Erf", 0), ("Sub", np.asarray(1, x.dtype), "last"))


@rule("log1p")
def _log1p(trace, eqn, x):
    return _elementwise(trace, eqn, (x,), ("Add", 0, np.asarray(1, x.dtype)), ("Log", "last"))


@rule("expm1")
def _expm1(trace, eqn, x):
    return _elementwise(trace, eqn, (x,), ("Exp", 0), ("Sub", "last", np.asarray(1, x.dtype)))


@rule("clamp")
def _clamp(trace, eqn, low, x, high):
    return _elementwise(trace, eqn, (low, x, high), ("Max", 1, 0), ("Min", "last", 2))


@rule("select_n")
def _select_n(trace, eqn, which, *cases):
    if which.dtype != np.bool_ or len(cases) != 2:
        raise UnsupportedError(f"a choice by {which.dtype} among {len(cases)} cases; use jnp.where")
    return _elementwise(trace, eqn, (which, *cases), ("Where", 0, 2, 1))


@rule("convert_element_type")
def _convert(trace, eqn, x):
    if x.dtype == eqn.outvars[0].aval.dtype:
        return x
    kind = trace.graph.onnx.helper.np_dtype_to_tensor_dtype(np.dtype(eqn.params["new_dtype"]))
    aval, out = eqn.outvars[0].aval, trace.graph.node("Cast", trace.name(x), to=int(kind))
    return Value(tuple(aval.shape), x.held, np.dtype(aval.dtype), name=out)


@rule("stop_gradient", "copy", "optimization_barrier", "sharding_constraint", "name")
def _same(trace, eqn, *values):
    return values


@rule("broadcast_in_dim")
def _broadcast(trace, eqn, x, *_):
    shape, places = tuple(eqn.params["shape"]), eqn.params["broadcast_dimensions"]
    held: list[Any] = [1] * len(shape)
    for d, place in zip(x.held, places, strict=True):
        held[place] = d
    if x.array is not None:
        return known(x.array.reshape(held), shape)
    name = trace.name(x) if tuple(held) == x.held else trace.graph.reshape(trace.name(x), trace.dims(held))
    return Value(shape, tuple(held), x.dtype, name=name)


@rule("reshape", "squeeze", "expand_dims")
def _reshape(trace, eqn, x):
    if eqn.params.get("dimensions") is not None and eqn.primitive.name == "reshape":
        raise UnsupportedError("a reshape in another order of dimensions; transpose first")
    return trace.reshaped(x, eqn.outvars[0].aval.shape)


@rule("transpose")
def _transpose(trace, eqn, x):
    return trace.graph.transpose(trace.full(x), eqn.params["permutation"])


@rule("concatenate")
def _concatenate(trace, eqn, *parts):
    return trace.graph.node("Concat", *(trace.full(x) for x in parts), axis=eqn.params["dimension"])


def _slice(trace: Trace, x: Value, starts, ends, strides, axes) -> str:
    """x[starts:ends:strides] along `axes` where that is not the whole."""
    cut = [(int(s), int(e), int(t), a) for s, e, t, a in zip(starts, ends, strides, axes, strict=True)]
    if not cut:
        return trace.full(x)
    s, e, t, a = (trace.graph.constant(column, np.int64) for column in zip(*cut, strict=True))
    return trace.graph.node("Slice", trace.full(x), s, e, a, t)


@rule("slice")
def _static_slice(trace, eqn, x):
    starts, ends = eqn.params["start_indices"], eqn.params["limit_indices"]
    strides = eqn.params["strides"] or (1,) * len(starts)
    axes = [i for i, d in enumerate(x.shape) if (starts[i], ends[i], strides[i]) != (0, d, 1)]
    return _slice(trace, x, *([column[i] for i in axes] for column in (starts, ends, strides)), axes)


@rule("dynamic_slice")
def _dynamic_slice(trace, eqn, x, *starts):
    if any(s.array is None for s in starts):
        raise UnsupportedError("a slice at a place that depends on the input")
    sizes = eqn.params["slice_sizes"]
    axes = [i for i, d in enumerate(x.shape) if sizes[i] != d]
    begin = [min(max(int(starts[i].array), 0), x.shape[i] - sizes[i]) for i in axes]
    return _slice(trace, x, begin, [b + sizes[i] for b, i in zip(begin, axes, strict=True)], [1] * len(axes), axes)


@rule("split")
def _split(trace, eqn, x):
    axis, ends = eqn.params["axis"], np.cumsum(eqn.params["sizes"])
    starts = ends - np.asarray(eqn.params["sizes"])
    return tuple(_slice(trace, x, [s], [e], [1], [axis]) for s, e in zip(starts, ends, strict=True))


@rule("pad")
def _pad(trace, eqn, x, value):
    low, high, inner = zip(*eqn.params["padding_config"], strict=True)
    if any(inner) or min(low + high) < 0:
        raise UnsupportedError("padding inside or below zero")
    return trace.graph.node("Pad", trace.full(x), trace.graph.constant(low + high, np.int64), trace.full(value))


@rule("gather")
def _gather(trace, eqn, x, indices):
    """A slice at a known place, or entries along one axis, as jnp.take(x, indices, axis): rows of a table of tokens."""
    d, sizes = eqn.params["dimension_numbers"], tuple(eqn.params["slice_sizes"])
    axes, mapped, rank = tuple(d.collapsed_slice_dims), tuple(d.start_index_map), len(indices.shape) - 1
    if rank == 0 and indices.array is not None and not d.operand_batching_dims:
        begin = [int(i) for i in indices.array]
        ends = [b + sizes[a] for b, a in zip(begin, mapped, strict=True)]
        if not all(b >= 0 and e <= x.shape[a] for b, e, a in zip(begin, ends, mapped, strict=True)):
            raise UnsupportedError(f"a slice from {begin} to {ends}, outside of {x.shape}")
        cut = _slice(trace, x, begin, ends, [1] * len(mapped), mapped)
        return trace.graph.reshape(cut, trace.dims(eqn.outvars[0].aval.shape))
    places = [i if i < min(axes, default=0) else i + rank for i in range(len(x.shape) - 1)]
    along_one = len(axes) == 1 and axes == mapped and tuple(d.offset_dims) == tuple(places)
    if not along_one or d.operand_batching_dims or sizes != (*x.shape[: axes[0]], 1, *x.shape[axes[0] + 1 :]):
        raise UnsupportedError("indexing other than along one axis, as in jnp.take(x, indices, axis)")
    return _taken(trace, eqn, x, trace.reshaped(indices, indices.shape[:-1]), indices, axes[0])


def _taken(trace: Trace, eqn: Any, x: Value, index: str, indices: Value, axis: int) -> str:
    """ONNX counts negative indices from the end and refuses those outside; JAX clips them, or fills in."""
    graph, last = trace.graph, x.shape[axis] - 1
    if indices.array is not None and indices.array.min(initial=0) >= 0 and indices.array.max(initial=0) <= last:
        return graph.node("Gather", trace.full(x), index, axis=axis)
    low, high = (graph.constant(i, indices.dtype) for i in (0, last))
    clipped = graph.node("Min", graph.node("Max", index, low), high)
    out = graph.node("Gather", trace.full(x), clipped, axis=axis)
    if eqn.params["mode"] != lax.GatherScatterMode.FILL_OR_DROP:
        return out
    if (fill := eqn.params["fill_value"]) is None:
        fill = np.nan if np.issubdtype(x.dtype, np.floating) else np.iinfo(x.dtype).min
    inside = graph.node("Equal", index, clipped)
    around = [*[1] * axis, *indices.shape[:-1], *[1] * (len(x.shape) - axis - 1)]
    return graph.node("Where", graph.reshape(inside, trace.dims(around)), out, graph.constant(fill, x.dtype))


@rule("reduce_sum", "reduce_max", "reduce_min", "argmax", "argmin")
def _reduce(trace, eqn, x):
    axes, graph = [int(a) for a in eqn.params["axes"]], trace.graph
    if not axes:
        return x
    match eqn.primitive.name:
        case "reduce_sum":
            return graph.node("ReduceSum", trace.full(x), graph.constant(axes, np.int64), keepdims=0)
        case "reduce_max" | "reduce_min":
            kind = "ReduceMax" if eqn.primitive.name == "reduce_max" else "ReduceMin"
            return graph.node(kind, trace.full(x), axes=axes, keepdims=0)
    kind = "ArgMax" if eqn.primitive.name == "argmax" else "ArgMin"
    out = graph.node(kind, trace.full(x), axis=axes[0], keepdims=0)
    return graph.node("Cast", out, to=int(graph.onnx.helper.np_dtype_to_tensor_dtype(eqn.outvars[0].aval.dtype)))


@rule("dot_general")
def _dot_general(trace, eqn, x, y):
    """MatMul of x [batch..., free..., C] and y [batch..., C, F]."""
    (cx, cy), (bx, by) = eqn.params["dimension_numbers"]
    fx = [i for i in range(len(x.shape)) if i not in (*cx, *bx)]
    fy = [i for i in range(len(y.shape)) if i not in (*cy, *by)]
    left = trace.graph.transpose(trace.full(x), [*bx, *fx, *cx])
    right = trace.graph.transpose(trace.full(y), [*by, *cy, *fy])
    batch, free = [x.shape[i] for i in bx], [x.shape[i] for i in fx]
    inner, outer = math.prod(x.shape[i] for i in cx), math.prod(y.shape[i] for i in fy)

    def fit(name, have, want):
        return name if tuple(have) == tuple(want) else trace.graph.reshape(name, trace.dims(want))

    rows = free if not batch else [math.prod(free)]
    left = fit(left, [*batch, *free, *(x.shape[i] for i in cx)], [*batch, *rows, inner])
    right = fit(right, [*batch, *(y.shape[i] for i in (*cy, *fy))], [*batch, inner, outer])
    out = trace.graph.node("MatMul", left, right)
    return fit(out, [*batch, *rows, outer], eqn.outvars[0].aval.shape)


@rule("conv_general_dilated")
def _conv(trace, eqn, x, kernel):
    p, numbers = eqn.params, eqn.params["dimension_numbers"]
    if set(p["lhs_dilation"]) != {1} or p["batch_group_count"] != 1 or min(min(pair) for pair in p["padding"]) < 0:
        raise UnsupportedError("a transposed, batch-grouped or cropping convolution")
    pads = [int(lo) for lo, _ in p["padding"]] + [int(hi) for _, hi in p["padding"]]
    out = trace.graph.node(
        "Conv",
        trace.graph.transpose(trace.full(x), numbers.lhs_spec),
        trace.graph.transpose(trace.full(kernel), numbers.rhs_spec),
        strides=list(p["window_strides"]),
        pads=pads,
        dilations=list(p["rhs_dilation"]),
        group=p["feature_group_count"],
    )
    return trace.graph.transpose(out, np.argsort(numbers.out_spec))


@rule("reduce_window_max", "reduce_window_sum")
def _pool(trace, eqn, x):
    p, rank = eqn.params, len(x.shape)
    window, strides = p["window_dimensions"], p["window_strides"]
    still = [window[i] == strides[i] == 1 and tuple(p["padding"][i]) == (0, 0) for i in range(rank)]
    channel = rank - 1 if still[-1] else 1
    if set(p["base_dilation"]) | set(p["window_dilation"]) != {1} or rank < 3 or not (still[0] and still[channel]):
        raise UnsupportedError(f"pooling over a window {tuple(window)}; over the spatial dimensions it can be exported")
    kept = [0, channel]
    spatial = [i for i in range(rank) if i not in kept]
    order = [*kept, *spatial]
    pads = [int(p["padding"][i][side]) for side in (0, 1) for i in spatial]
    shape = {"kernel_shape": [window[i] for i in spatial], "strides": [strides[i] for i in spatial], "pads": pads}
    name = trace.graph.transpose(trace.full(x), order)
    if eqn.primitive.name == "reduce_window_max":
        out = trace.graph.node("MaxPool", name, **shape)
    else:
        mean = trace.graph.node("AveragePool", name, count_include_pad=1, **shape)
        out = trace.graph.node("Mul", mean, trace.graph.constant(math.prod(window), x.dtype))
    return trace.graph.transpose(out, np.argsort(order))


@rule("iota")
def _iota(trace, eqn):
    raise UnsupportedError("a range as long as the batch")
