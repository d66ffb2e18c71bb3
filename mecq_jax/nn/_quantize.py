"""From an NNX model to a quantized one, and from that to what ships; a skin over `mecq_jax.params.Quantized`.

model, plan = quantize(model, MEC(bits=2))
set_temperature(model, 0.1)                             # let it fall from 0.3 to 0.01
loss = task(model(x)) + 0.3 * entropy(model)
nnx.Optimizer(model, tx, wrt=nnx.Param)                 # levels are Params
freeze(model, 0.01)                                     # from now on it computes with levels[codes]
save("model.safetensors", harden(model))
"""

from collections.abc import Sequence
from functools import reduce
from operator import or_
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from mecq_jax.nn._layers import QuantConv, QuantDense
from mecq_jax.nn._modules import joined, modules_by_path, quantized_layers, set_child
from mecq_jax.params import Plan, Quantized, Rule, make_plan, parameters_by_path
from mecq_jax.quantizers import Quantizer

_QUANTIZED: dict[Any, Any] = {nnx.Linear: QuantDense, nnx.Conv: QuantConv}


def quantize(model: nnx.Module, rules: Sequence[Rule] | Quantizer) -> tuple[nnx.Module, Plan]:
    """A copy of `model` in which each layer whose kernel the rules pick is a QuantDense or a QuantConv.

    Args:
      model: any NNX model; its weights and paths are kept.
      rules: see `rules.make_plan`; a quantizer alone leaves the first and the last layer and norms float.

    Raises:
      ValueError: if a rule matches nothing, or picks what is not the kernel of an `nnx.Linear` or `nnx.Conv`.

    Returns:
      The model, and the plan: which parameters are quantized, and why the others are not.

    Example:
      >>> from flax import nnx
      >>> from mecq_jax import MEC, Rule, quantize
      >>> model, plan = quantize(nnx.Linear(8, 4, rngs=nnx.Rngs(0)), [Rule("kernel", MEC(bits=2))])
      >>> type(model).__name__, plan.skipped
      ('QuantDense', {'bias': 'a vector or scalar'})
    """
    plan = make_plan(parameters_by_path(model), rules)
    model = nnx.clone(model)
    modules = modules_by_path(model)
    for path, quantizer in plan.quantizers.items():
        owner, _, name = path.rpartition("/")
        module = modules.get(owner)
        if name != "kernel" or type(module) not in _QUANTIZED:
            kind = type(module).__name__
            raise ValueError(f"{path} is not the kernel of an nnx.Linear or nnx.Conv (it is in a {kind}); exclude it")
        # The layer keeps its variables and options and gains the quantizer's: only its class changes.
        quantized: Any = object.__new__(_QUANTIZED[type(module)])
        vars(quantized).update(vars(module))
        quantized.attach(quantizer)
        if not owner:
            return quantized, plan
        parent, _, attribute = owner.rpartition("/")
        set_child(modules[parent], attribute, quantized)
    return model, plan


def set_temperature(model: nnx.Module, temperature: Float[Array, ""] | float) -> None:
    """Give every quantized layer this temperature, epsilon / var(w).

    Args:
      model: of `quantize`.
      temperature: above 0.

    Raises:
      ValueError: if no layer is quantized.
    """
    for layer in quantized_layers(model).values():
        layer.temperature.set_value(jnp.asarray(temperature, jnp.float32))


def entropy(model: nnx.Module) -> Float[Array, ""]:
    """Mean entropy of the last forward pass over all quantized weights, nats; differentiable inside that pass.

    Raises:
      ValueError: if no layer is quantized.
    """
    layers = list(quantized_layers(model).values())
    total = sum(layer.kernel.size for layer in layers)
    parts = [layer.info.get_value().entropy * (layer.kernel.size / total) for layer in layers]
    return jnp.stack(parts).sum()


def quantized_of(model: nnx.Module) -> Quantized:
    """The quantizers of all layers as one pytree, by the paths of their kernels; with codes where they are frozen.

    Raises:
      ValueError: if no layer is quantized.
    """
    layers = quantized_layers(model).items()
    return reduce(or_, [layer.quantized(_kernel(path)) for path, layer in layers])


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

    Raises:
      ValueError: if a level is not finite (training diverged).
    """
    layers = {p: m for p, m in modules_by_path(model).items() if isinstance(m, (QuantDense, QuantConv))}
    params = {path: value for path, value in parameters_by_path(model).items() if not _is_level(path, layers)}
    quantized = reduce(or_, [_assigned(path, layer) for path, layer in layers.items()], Quantized.none())
    statistics = nnx.to_flat_state(nnx.state(model, nnx.BatchStat))
    return quantized.to_tensors(params) | {joined(path): value[...] for path, value in statistics}


def _assigned(path: str, layer: QuantDense | QuantConv) -> Quantized:
    quantized = layer.quantized(_kernel(path))
    return quantized if quantized.codes else quantized.freeze({_kernel(path): layer.kernel[...]})


def _kernel(path: str) -> str:
    return f"{path}/kernel" if path else "kernel"


def _is_level(path: str, layers: dict[str, Any]) -> bool:
    owner, found, _ = f"/{path}".rpartition("/levels/")
    return bool(found) and owner.lstrip("/") in layers
