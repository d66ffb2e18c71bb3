"""From an NNX model to a quantized one, and from that to what ships; a skin over `mecq_jax.params.Quantized`.

model, plan = quantize(model, MEC(bits=2))
set_temperature(model, 0.1)                             # let it fall from 0.3 to 0.01
loss = task(model(x)) + 0.3 * entropy(model)
nnx.Optimizer(model, tx, wrt=nnx.Param)                 # levels are Params
freeze(model, 0.01)                                     # from now on it computes with levels[codes]
save("model.safetensors", harden(model))
"""

import dataclasses
from collections.abc import Mapping, Sequence
from functools import reduce
from operator import or_
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from mecq_jax.nn._layers import QuantConv, QuantDense, QuantizedKernel, QuantizerParam
from mecq_jax.nn._modules import joined, modules_by_path, quantized_layers
from mecq_jax.params import Plan, Quantized, Rule, make_plan, parameters_by_path
from mecq_jax.quantizers import Quantizer

_QUANTIZED: dict[Any, Any] = {nnx.Linear: QuantDense, nnx.Conv: QuantConv}


def quantize(model: nnx.Module, rules: Sequence[Rule] | Quantizer) -> tuple[nnx.Module, Plan]:
    """A copy of `model` in which each layer whose kernel the rules pick is a QuantDense or a QuantConv.

    Args:
      model: any NNX model; its weights and paths are kept. A layer that occurs in several places stays one.
      rules: as of `mecq_jax.params.make_plan`; a quantizer alone leaves the first and the last layer and norms float.

    Returns:
      The model, and the plan: which parameters are quantized, and why the others are not.

    Raises:
      ValueError: if a rule matches nothing, or picks what is not the kernel of an `nnx.Linear` or `nnx.Conv`.

    Example:
      >>> from flax import nnx
      >>> from mecq_jax import MEC, Rule, quantize
      >>> model, plan = quantize(nnx.Linear(8, 4, rngs=nnx.Rngs(0)), [Rule("kernel", MEC(bits=2))])
      >>> type(model).__name__, plan.skipped
      ('QuantDense', {'bias': 'a vector or scalar'})
    """
    plan = make_plan(parameters_by_path(model), rules)
    copy: nnx.Module = nnx.clone(model)
    modules = modules_by_path(copy)
    for path, quantizer in plan.quantizers.items():
        owner, _, name = path.rpartition("/")
        module: Any = modules.get(owner)
        if name != "kernel" or type(module) not in _QUANTIZED:
            kind = type(module).__name__
            raise ValueError(f"{path} is not the kernel of an nnx.Linear or nnx.Conv (it is in a {kind}); exclude it")
        # The layer keeps its variables, its options and its places in the model: only its class changes.
        object.__setattr__(module, "__class__", _QUANTIZED[type(module)])
        module.attach(quantizer)
    return copy, plan


def set_temperature(model: nnx.Module, temperature: Float[Array, ""] | float) -> None:
    """Give every quantized layer this temperature, epsilon / var(w).

    Args:
      model: of `quantize`.
      temperature: above 0.

    Raises:
      ValueError: if no layer is quantized.

    Example:
      >>> from flax import nnx
      >>> from mecq_jax import MEC, nn
      >>> layer = nn.QuantDense(8, 4, quantizer=MEC(bits=2), rngs=nnx.Rngs(0))
      >>> nn.set_temperature(layer, 0.5)
      >>> float(layer.temperature[...])
      0.5
    """
    for layer in quantized_layers(model).values():
        layer.temperature.set_value(jnp.asarray(temperature, jnp.float32))


def entropy(model: nnx.Module) -> Float[Array, ""]:
    """Mean entropy of the last forward pass over all quantized weights, nats; differentiable inside that pass.

    Args:
      model: of `quantize`.

    Raises:
      ValueError: if no layer is quantized.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> from mecq_jax import MEC, nn
      >>> layer = nn.QuantDense(8, 4, quantizer=MEC(bits=1), rngs=nnx.Rngs(0))
      >>> nn.set_temperature(layer, 100.0)
      >>> _ = layer(jnp.ones((1, 8)))
      >>> round(float(nn.entropy(layer)), 2)      # of a nearly uniform assignment: log 2
      0.69
    """
    layers = list(quantized_layers(model).values())
    total = sum(layer.kernel.size for layer in layers)
    parts = [layer.info.get_value().entropy * (layer.kernel.size / total) for layer in layers]
    return jnp.stack(parts).sum()


def quantized_of(model: nnx.Module) -> Quantized:
    """The quantizers of all layers as one pytree, by the paths of their kernels; with codes where they are frozen.

    Args:
      model: of `quantize`.

    Raises:
      ValueError: if no layer is quantized.

    Example:
      >>> from flax import nnx
      >>> from mecq_jax import MEC, nn
      >>> layer = nn.QuantDense(8, 4, quantizer=MEC(bits=2), rngs=nnx.Rngs(0))
      >>> nn.quantized_of(layer).levels("kernel").shape
      (1, 4)
    """
    return _joined(quantized_layers(model))


def freeze(model: nnx.Module, temperature: Float[Array, ""] | float | None = None) -> None:
    """Begin the hard phase: every weight takes its most probable level, and the model computes with levels[codes].

    From here on the levels, norms, biases and float layers train, with exact gradients; weights behind frozen codes
    have none. What trains is what ships. A second call assigns anew.

    Args:
      model: of `quantize`.
      temperature: solve the potentials for the present weights at this temperature first; None takes them as the last
        forward pass left them.

    Raises:
      ValueError: if no layer is quantized.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> from mecq_jax import MEC, nn
      >>> layer = nn.QuantDense(8, 4, quantizer=MEC(bits=1), use_bias=False, rngs=nnx.Rngs(0))
      >>> nn.freeze(layer, 0.01)
      >>> jnp.unique(layer(jnp.eye(8))).size
      2
    """
    for layer in quantized_layers(model).values():
        layer.carry(layer.quantized().freeze({"kernel": layer.kernel[...]}, temperature))


def harden(model: nnx.Module) -> dict[str, Any]:
    """All that ships, by path: quantized kernels as `QuantizedTensor`, other parameters and batch statistics as arrays.

    Kernels whose codes are not frozen are assigned by the potentials that the last forward pass left.

    Args:
      model: of `quantize`, or a float model.

    Raises:
      ValueError: if a level is not finite (training diverged).

    Example:
      >>> from flax import nnx
      >>> from mecq_jax import MEC, nn
      >>> layer = nn.QuantDense(8, 4, quantizer=MEC(bits=2), rngs=nnx.Rngs(0))
      >>> {name: type(tensor).__name__ for name, tensor in nn.harden(layer).items()}
      {'kernel': 'QuantizedTensor', 'bias': 'ndarray'}
    """
    levels = _arrays(model, QuantizerParam)
    params = {path: value for path, value in parameters_by_path(model).items() if path not in levels}
    quantized = _joined(quantized_layers(model, needed=False))
    if set(quantized.codes) != set(quantized.plan.quantizers):
        assigned = quantized.freeze(params)
        quantized = dataclasses.replace(assigned, codes=assigned.codes | quantized.codes)
    return quantized.to_tensors(params) | _arrays(model, nnx.BatchStat)


def _joined(layers: Mapping[str, QuantizedKernel]) -> Quantized:
    each = [layer.quantized(f"{path}/kernel" if path else "kernel") for path, layer in layers.items()]
    return reduce(or_, each, Quantized.none())


def _arrays(model: nnx.Module, kind: type[nnx.Variable[Any]]) -> dict[str, Array]:
    return {joined(path): leaf[...] for path, leaf in nnx.to_flat_state(nnx.state(model, kind))}
