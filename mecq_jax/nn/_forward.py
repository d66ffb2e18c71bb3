"""A model as a pure function of the arrays of its file."""

from collections.abc import Callable, Mapping
from typing import Any

from flax import nnx

from mecq_jax.nn._layers import QuantizedKernel
from mecq_jax.nn._modules import joined, modules_by_path, set_child
from mecq_jax.params import parameters_by_path


def forward(model: nnx.Module) -> Callable[[Mapping[str, Any], Any], Any]:
    """forward(arrays by path, x): the network without its quantizers, in evaluation, as a pure function.

    The arrays are those of `harden(model)` or of its file, dense (`mecq_jax.inference.dense`); what they lack is as in
    `model`.

    Raises:
      ValueError: by forward, if an array has a name that the model does not know, or another shape than there.
    """
    plain = _float_copy(model)
    graphdef, state = nnx.split(plain)
    leaves = [(path, joined(path), leaf) for path, leaf in nnx.to_flat_state(state)]
    shapes = {name: leaf.shape for _, name, leaf in leaves if hasattr(leaf, "shape")}
    shared = set(parameters_by_path(plain)) - set(shapes)  # second names of layers that occur twice

    def forward(arrays: Mapping[str, Any], x: Any) -> Any:
        for name, array in arrays.items():
            if name not in shared and shapes.get(name) != array.shape:
                have = shapes.get(name, f"no such name, but {', '.join(shapes)}")
                raise ValueError(f"an array {name!r} of shape {array.shape}: the model has {have}")
        given = [(path, leaf.replace(arrays[name]) if name in arrays else leaf) for path, name, leaf in leaves]
        network = nnx.merge(graphdef, nnx.from_flat_state(given))
        return nnx.view(network, use_running_average=True, deterministic=True, raise_if_not_found=False)(x)

    return forward


def _float_copy(model: nnx.Module) -> nnx.Module:
    """A copy with the Flax layers in the place of ours: the inverse of `quantize`."""
    model = nnx.clone(model)
    modules = modules_by_path(model)
    for path, module in modules.items():
        if not isinstance(module, QuantizedKernel):
            continue
        plain: Any = object.__new__(nnx.Linear if isinstance(module, nnx.Linear) else nnx.Conv)
        vars(plain).update({name: value for name, value in vars(module).items() if name not in QuantizedKernel.ADDED})
        if not path:
            return plain
        parent, _, attribute = path.rpartition("/")
        set_child(modules[parent], attribute, plain)
    return model
