"""The ONNX form of the JAX primitives that sum or choose among elements: reductions, products, pooling."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from mecq_jax import jaxprs
from mecq_jax.export._onnx._trace import Equation, Trace, UnsupportedError, Value

RULES = jaxprs.Rules()


@RULES.rule("reduce_sum", "reduce_max", "reduce_min", "argmax", "argmin")
def _reduce(trace: Trace, eqn: Equation, x: Value) -> Value | str:
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


@RULES.rule("dot_general")
def _dot_general(trace: Trace, eqn: Equation, x: Value, y: Value) -> str:
    """MatMul of x [batch..., free..., C] and y [batch..., C, F]."""
    (cx, cy), (bx, by) = eqn.params["dimension_numbers"]
    fx = [i for i in range(len(x.shape)) if i not in (*cx, *bx)]
    fy = [i for i in range(len(y.shape)) if i not in (*cy, *by)]
    left = trace.graph.transpose(trace.full(x), [*bx, *fx, *cx])
    right = trace.graph.transpose(trace.full(y), [*by, *cy, *fy])
    batch, free = [x.shape[i] for i in bx], [x.shape[i] for i in fx]
    inner, outer = math.prod(x.shape[i] for i in cx), math.prod(y.shape[i] for i in fy)

    def fit(name: str, have: Sequence[Any], want: Sequence[Any]) -> str:
        return name if tuple(have) == tuple(want) else trace.graph.reshape(name, trace.dims(want))

    rows = free if not batch else [math.prod(free)]
    left = fit(left, [*batch, *free, *(x.shape[i] for i in cx)], [*batch, *rows, inner])
    right = fit(right, [*batch, *(y.shape[i] for i in (*cy, *fy))], [*batch, inner, outer])
    out = trace.graph.node("MatMul", left, right)
    return fit(out, [*batch, *rows, outer], eqn.outvars[0].aval.shape)


@RULES.rule("conv_general_dilated")
def _conv(trace: Trace, eqn: Equation, x: Value, kernel: Value) -> str:
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
    return trace.graph.transpose(out, np.argsort(numbers.out_spec).tolist())


@RULES.rule("reduce_window_max", "reduce_window_sum")
def _pool(trace: Trace, eqn: Equation, x: Value) -> str:
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
    return trace.graph.transpose(out, np.argsort(order).tolist())
