"""The ONNX form of the JAX primitives that move elements: shapes, slices, joins, rows of a table."""

from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np
from jax import lax

from mecq_jax import jaxprs
from mecq_jax.export._onnx._trace import Equation, Trace, UnsupportedError, Value, known

RULES = jaxprs.Rules()


@RULES.rule("broadcast_in_dim")
def _broadcast(trace: Trace, eqn: Equation, x: Value, *_: Value) -> Value:
    shape, places = tuple(eqn.params["shape"]), eqn.params["broadcast_dimensions"]
    held: list[Any] = [1] * len(shape)
    for d, place in zip(x.held, places, strict=True):
        held[place] = d
    if x.array is not None:
        return known(x.array.reshape(held), shape)
    name = trace.name(x) if tuple(held) == x.held else trace.graph.reshape(trace.name(x), trace.dims(held))
    return Value(shape, tuple(held), x.dtype, name=name)


@RULES.rule("reshape", "squeeze", "expand_dims")
def _reshape(trace: Trace, eqn: Equation, x: Value) -> str:
    if eqn.params.get("dimensions") is not None and eqn.primitive.name == "reshape":
        raise UnsupportedError("a reshape in another order of dimensions; transpose first")
    return trace.reshaped(x, eqn.outvars[0].aval.shape)


@RULES.rule("transpose")
def _transpose(trace: Trace, eqn: Equation, x: Value) -> str:
    return trace.graph.transpose(trace.full(x), eqn.params["permutation"])


@RULES.rule("concatenate")
def _concatenate(trace: Trace, eqn: Equation, *parts: Value) -> str:
    return trace.graph.node("Concat", *(trace.full(x) for x in parts), axis=eqn.params["dimension"])


def _slice(
    trace: Trace, x: Value, starts: Sequence[Any], ends: Sequence[Any], strides: Sequence[int], axes: Sequence[int]
) -> str:
    """The part x[starts:ends:strides] along `axes`, all of x where there are none."""
    cut = [(int(s), int(e), int(t), a) for s, e, t, a in zip(starts, ends, strides, axes, strict=True)]
    if not cut:
        return trace.full(x)
    s, e, t, a = (trace.graph.constant(column, np.int64) for column in zip(*cut, strict=True))
    return trace.graph.node("Slice", trace.full(x), s, e, a, t)


@RULES.rule("slice")
def _static_slice(trace: Trace, eqn: Equation, x: Value) -> str:
    starts, ends = eqn.params["start_indices"], eqn.params["limit_indices"]
    strides = eqn.params["strides"] or (1,) * len(starts)
    axes = [i for i, d in enumerate(x.shape) if (starts[i], ends[i], strides[i]) != (0, d, 1)]
    starts, ends, strides = ([column[i] for i in axes] for column in (starts, ends, strides))
    return _slice(trace, x, starts, ends, strides, axes)


@RULES.rule("dynamic_slice")
def _dynamic_slice(trace: Trace, eqn: Equation, x: Value, *starts: Value) -> str:
    places = [s.array for s in starts if s.array is not None]
    if len(places) < len(starts):
        raise UnsupportedError("a slice at a place that depends on the input")
    sizes = eqn.params["slice_sizes"]
    axes = [i for i, d in enumerate(x.shape) if sizes[i] != d]
    begin = [min(max(int(places[i]), 0), x.shape[i] - sizes[i]) for i in axes]
    return _slice(trace, x, begin, [b + sizes[i] for b, i in zip(begin, axes, strict=True)], [1] * len(axes), axes)


@RULES.rule("split")
def _split(trace: Trace, eqn: Equation, x: Value) -> tuple[str, ...]:
    axis, ends = eqn.params["axis"], np.cumsum(eqn.params["sizes"])
    starts = ends - np.asarray(eqn.params["sizes"])
    return tuple(_slice(trace, x, [s], [e], [1], [axis]) for s, e in zip(starts, ends, strict=True))


@RULES.rule("pad")
def _pad(trace: Trace, eqn: Equation, x: Value, value: Value) -> str:
    low, high, inner = zip(*eqn.params["padding_config"], strict=True)
    if any(inner) or min(low + high) < 0:
        raise UnsupportedError("padding inside or below zero")
    return trace.graph.node("Pad", trace.full(x), trace.graph.constant(low + high, np.int64), trace.full(value))


@RULES.rule("gather")
def _gather(trace: Trace, eqn: Equation, x: Value, indices: Value) -> str:
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


def _taken(trace: Trace, eqn: Equation, x: Value, index: str, indices: Value, axis: int) -> str:
    """Entries along an axis: ONNX counts negative indices from its end and refuses others, JAX clips or fills."""
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


@RULES.rule("iota")
def _iota(trace: Trace, eqn: Equation) -> NoReturn:
    raise UnsupportedError("a range as long as the batch")
