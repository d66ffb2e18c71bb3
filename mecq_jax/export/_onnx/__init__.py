"""ONNX files with packed weights: tracing, operators, graphs."""

from mecq_jax.export._onnx._export import TOLERANCE as TOLERANCE
from mecq_jax.export._onnx._export import onnx as onnx
from mecq_jax.export._onnx._export import onnx_model as onnx_model
from mecq_jax.export._onnx._export import onnx_session as onnx_session
from mecq_jax.export._onnx._trace import UnsupportedError as UnsupportedError
from mecq_jax.export._onnx._weights import onnx_packed_bytes as onnx_packed_bytes
