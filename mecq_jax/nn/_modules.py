"""The modules of an NNX model by path."""

from collections.abc import Sequence
from typing import Any

from flax import nnx

from mecq_jax.nn._layers import QuantizedKernel


def joined(path: Sequence[Any]) -> str:
    """A path's parts as one string."""
    return "/".join(map(str, path))


def modules_by_path(model: nnx.Module) -> dict[str, Any]:
    """Every module by path, '' the model itself."""
    return {joined(path): module for path, module in nnx.iter_modules(model)}


def quantized_layers(model: nnx.Module, *, needed: bool = True) -> dict[str, QuantizedKernel]:
    """Every quantized layer by path.

    Raises:
      ValueError: if there is none, though one is needed.
    """
    layers = {path: m for path, m in modules_by_path(model).items() if isinstance(m, QuantizedKernel)}
    if needed and not layers:
        raise ValueError("the model has no quantized layer; call quantize(model, rules) first")
    return layers
