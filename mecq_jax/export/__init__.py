"""Networks for other runtimes, run and compared before they are written."""

from mecq_jax.export._compare import MismatchError as MismatchError
from mecq_jax.export._compare import compare as compare
from mecq_jax.export._integer_grid._convert import Grid as Grid
from mecq_jax.export._integer_grid._convert import integer_grid as integer_grid
from mecq_jax.export._integer_grid._convert import snap as snap
from mecq_jax.export._integer_grid._interpreter import InexactError as InexactError
from mecq_jax.export._onnx._export import TOLERANCE as TOLERANCE
from mecq_jax.export._onnx._export import onnx as onnx
from mecq_jax.export._onnx._export import onnx_model as onnx_model
from mecq_jax.export._onnx._export import onnx_session as onnx_session
from mecq_jax.export._onnx._trace import UnsupportedError as UnsupportedError
from mecq_jax.export._onnx._weights import onnx_packed_bytes as onnx_packed_bytes
from mecq_jax.export._stablehlo import stablehlo as stablehlo
