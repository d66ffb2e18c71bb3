"""A model as a pure function of the arrays of its file."""

from collections.abc import Callable, Mapping
from typing import Any

from flax import nnx

from mecq_jax.nn._layers import QuantizedKernel
from mecq_jax.nn._modules import joined, modules_by_path
from mecq_jax.params import parameters_by_path


def forward(model: nnx.Module) -> Callable[[Mapping[str, Any], Any], Any]:
    """The network without its quantizers, in evaluation, as a pure function of (arrays by path, x).

    Args:
      model: any NNX model, of `quantize` or before it.

    Returns:
      forward(arrays, x): the arrays are those of `harden(model)` or of its file, dense (`mecq_jax.inference.dense`);
      what they lack is as in `model`.

    Raises:
      ValueError: by the function returned, if an array has a name that the model does not know, or another shape.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> from mecq_jax.nn import forward
      >>> apply = forward(nnx.Linear(2, 3, rngs=nnx.Rngs(0)))
      >>> apply({"kernel": jnp.ones((2, 3)), "bias": jnp.zeros(3)}, jnp.ones((1, 2))).tolist()
      [[2.0, 2.0, 2.0]]
    """
    plain = _float_copy(model)
    graphdef, state = nnx.split(plain)
    leaves = [(path, joined(path), leaf) for path, leaf in nnx.to_flat_state(state)]
    shapes = {name: leaf.shape for _, name, leaf in leaves if hasattr(leaf, "shape")}
    others = set(parameters_by_path(plain, every_name=True)) - set(shapes)  # further names of shared layers

    def forward(arrays: Mapping[str, Any], x: Any) -> Any:
        for name, array in arrays.items():
            if name not in others and shapes.get(name) != array.shape:
                have = shapes.get(name, f"no such name, but {', '.join(shapes)}")
                raise ValueError(f"an array {name!r} of shape {array.shape}: the model has {have}")
        given = [(path, leaf.replace(arrays[name]) if name in arrays else leaf) for path, name, leaf in leaves]
        network = nnx.merge(graphdef, nnx.from_flat_state(given))
        return nnx.view(network, use_running_average=True, deterministic=True, raise_if_not_found=False)(x)

    return forward


def _float_copy(model: nnx.Module) -> nnx.Module:
    """A copy with the Flax layers in the place of ours: the inverse of `quantize`."""
    copy: nnx.Module = nnx.clone(model)
    for module in modules_by_path(copy).values():
        if isinstance(module, QuantizedKernel):
            for name in QuantizedKernel.ADDED:
                delattr(module, name)
            object.__setattr__(module, "__class__", nnx.Linear if isinstance(module, nnx.Linear) else nnx.Conv)
    return copy
