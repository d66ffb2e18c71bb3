"""Packed networks for other runtimes, run and compared before they are written.

    tensors = mecq_jax.load("model.safetensors")              # {path: QuantizedTensor or array}
    export.onnx("model.onnx", forward, tensors, x)            # forward(arrays by path, x) -> array, pure JAX
    export.stablehlo("model.stablehlo", forward, tensors, x)

    grid = export.integer_grid(forward, tensors, x)           # every runtime gives the same bits
    export.onnx("exact.onnx", grid.forward, grid.tensors, x, tolerance=0)

The weights stay packed in all of them: 1, 2, 3 or 4 bits each.
"""

from mecq_jax.export._compare import MismatchError as MismatchError
from mecq_jax.export._compare import compare as compare
from mecq_jax.export._integer_grid import Grid as Grid
from mecq_jax.export._integer_grid import InexactError as InexactError
from mecq_jax.export._integer_grid import integer_grid as integer_grid
from mecq_jax.export._integer_grid import snap as snap
from mecq_jax.export._onnx import TOLERANCE as TOLERANCE
from mecq_jax.export._onnx import UnsupportedError as UnsupportedError
from mecq_jax.export._onnx import onnx as onnx
from mecq_jax.export._onnx import onnx_model as onnx_model
from mecq_jax.export._onnx import onnx_packed_bytes as onnx_packed_bytes
from mecq_jax.export._onnx import onnx_session as onnx_session
from mecq_jax.export._stablehlo import stablehlo as stablehlo
