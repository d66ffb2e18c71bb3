"""A rival that is another package: qwix's quantization-aware training, as its own users apply it."""

import jax.numpy as jnp
from flax import nnx

from experiments.runtime.console import installed as installed


def with_qwix(model: nnx.Module, layers: str, k: int, shape: tuple[int, ...]) -> nnx.Module:
    """`model`, fed with arrays of `shape`, with qwix's rounding to k levels where the regex `layers` matches a path."""
    import qwix

    rule = qwix.QtRule(module_path=layers, weight_qtype=f"int{k.bit_length() - 1}")
    return qwix.quantize_model(model, qwix.QtProvider([rule]), jnp.zeros(shape, jnp.float32))
