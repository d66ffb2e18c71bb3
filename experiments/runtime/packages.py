"""A rival that is another package: qwix's quantization-aware training, as its own users apply it."""

import importlib.util

import jax.numpy as jnp
from flax import nnx


def installed(package: str | None) -> bool:
    """Whether the package of a method is here; None is our own."""
    return package is None or importlib.util.find_spec(package) is not None


def with_qwix(model: nnx.Module, layers: str, k: int, shape: tuple[int, ...]) -> nnx.Module:
    """`model`, fed with arrays of `shape`, with qwix's rounding to k levels where the regex `layers` matches a path."""
    import qwix

    rule = qwix.QtRule(module_path=layers, weight_qtype=f"int{k.bit_length() - 1}")
    return qwix.quantize_model(model, qwix.QtProvider([rule]), jnp.zeros(shape, jnp.float32))
