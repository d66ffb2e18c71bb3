"""QuantDense and QuantConv: `nnx.Linear` and `nnx.Conv` that compute with soft weights.

Parameters, initialisers and options are those of the Flax layers; added are the levels (`Level`, trained), the
quantizer's state (`Potential`, carried) and temperature. `quantize` turns an existing model into a quantized one.

    model = quantize(model, MEC(k=4))
    set_epsilon(model, 0.1)
    loss = task(model(x)) + 0.3 * entropy(model)
    nnx.Optimizer(model, tx, wrt=nnx.Any(nnx.Param))        # Level is a Param
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from mecq_jax.params import Plan, Rule, make_plan
from mecq_jax.quantizers import Diagnostics, Quantizer, init_jitted
from mecq_jax.storage import QuantizedTensor


class QuantizerParam(nnx.Param):
    """Levels (or a step): trained, with an optimizer group of their own."""


class QuantizerState(nnx.Variable):
    """A quantizer's state: carried between steps, not trained."""


class Temperature(nnx.Variable):
    """Entropic regularisation relative to var(w); written by `set_epsilon`, read by each quantized layer."""


class QuantizerInfo(nnx.Variable):
    """The last application's `quantizer.Info`."""


# The attributes that a quantized layer has beside those of the Flax layer.
_ADDED = ("quantizer", "levels", "potentials", "temperature", "info")


class _Quantized:
    """What QuantDense and QuantConv share: the quantizer's variables and the kernel that is computed with."""

    kernel: nnx.Param

    def _attach(self, quantizer: Quantizer) -> None:
        params, state = init_jitted(quantizer, self.kernel[...])
        self.quantizer = quantizer
        self.levels = nnx.data({name: QuantizerParam(value) for name, value in params.items()})
        self.potentials = nnx.data({name: QuantizerState(value) for name, value in state.items()})
        self.temperature = Temperature(jnp.asarray(0.3, jnp.float32))
        self.info = QuantizerInfo(Diagnostics(*(jnp.zeros((), jnp.float32) for _ in Diagnostics._fields)))

    def _values(self) -> tuple[dict[str, Array], dict[str, Array]]:
        return {n: v[...] for n, v in self.levels.items()}, {n: v[...] for n, v in self.potentials.items()}

    def _with_soft_kernel(self) -> Any:
        """A shallow copy that holds the soft weights where the Flax layer looks for its kernel."""
        params, state = self._values()
        soft, state, info = self.quantizer.apply(self.kernel[...], params, state, self.temperature[...])
        for name, value in state.items():
            self.potentials[name].set_value(jax.lax.stop_gradient(value))
        self.info.set_value(info)
        view = copy.copy(self)
        object.__setattr__(view, "kernel", nnx.Param(soft))
        return view

    def harden(self) -> QuantizedTensor:
        """This layer's kernel as it ships."""
        params, state = self._values()
        return QuantizedTensor(
            codes=np.asarray(self.quantizer.codes(self.kernel[...], params, state)),
            levels=np.asarray(self.quantizer.levels(params, state)),
            shape=tuple(self.kernel.shape),
            granularity=self.quantizer.granularity,
            dtype=str(self.kernel.dtype),
        )


class QuantDense(_Quantized, nnx.Linear):
    """`nnx.Linear(in_features, out_features, ...)` with a quantized kernel.

    Args:
      quantizer: `MEC(...)`, `LSQ(...)` or `STE(...)`.
      in_features, out_features, **kwargs: as for `nnx.Linear`.
    """

    def __init__(self, in_features: int, out_features: int, *, quantizer: Quantizer, **kwargs: Any):
        super().__init__(in_features, out_features, **kwargs)
        self._attach(quantizer)

    def __call__(self, inputs: Float[Array, "... a"], *args: Any, **kwargs: Any) -> Float[Array, "... b"]:
        return nnx.Linear.__call__(self._with_soft_kernel(), inputs, *args, **kwargs)


class QuantConv(_Quantized, nnx.Conv):
    """`nnx.Conv(in_features, out_features, kernel_size, ...)` with a quantized kernel.

    Args:
      quantizer: `MEC(...)`, `LSQ(...)` or `STE(...)`.
      in_features, out_features, kernel_size, **kwargs: as for `nnx.Conv` (strides, padding, groups, dilation, dtype).
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel_size: int | Sequence[int],
        *,
        quantizer: Quantizer,
        **kwargs: Any,
    ):
        super().__init__(in_features, out_features, kernel_size, **kwargs)
        self._attach(quantizer)

    def __call__(self, inputs: Float[Array, "... a"], *args: Any, **kwargs: Any) -> Float[Array, "... b"]:
        return nnx.Conv.__call__(self._with_soft_kernel(), inputs, *args, **kwargs)


_QUANTIZED: dict[Any, Any] = {nnx.Linear: QuantDense, nnx.Conv: QuantConv}


def _name(path: Sequence[Any]) -> str:
    return "/".join(map(str, path))


def _modules(model: nnx.Module) -> dict[str, Any]:
    """Every module by path, '' the model itself."""
    return {_name(path): module for path, module in nnx.iter_modules(model)}


def _quantized_layers(model: nnx.Module) -> list[_Quantized]:
    return [module for _, module in nnx.iter_modules(model) if isinstance(module, _Quantized)]


def parameters_by_path(model: nnx.Module) -> dict[str, Array]:
    """Every parameter by path ('blocks/0/conv/kernel'), in the order of construction."""
    leaves: dict[str, Array] = {}

    def visit(prefix: str, node: Any) -> None:
        if isinstance(node, nnx.Param):
            leaves[prefix] = node[...]
            return
        if isinstance(node, (nnx.Module, nnx.List, nnx.Dict)):
            children = {k: v for k, v in vars(node).items() if not k.startswith("_pytree")}
        elif isinstance(node, dict):
            children = node
        elif isinstance(node, (list, tuple)):
            children = {str(i): v for i, v in enumerate(node)}
        else:
            return
        for name, child in children.items():
            visit(f"{prefix}/{name}" if prefix else str(name), child)

    visit("", model)
    return leaves


def quantize(model: nnx.Module, rules: Sequence[Rule] | Quantizer) -> tuple[nnx.Module, Plan]:
    """A copy of `model` in which each layer whose kernel the rules pick is a QuantDense or a QuantConv.

    Args:
      model: any NNX model; its weights and paths are kept.
      rules: see `rules.make_plan`; a quantizer alone leaves the first and the last layer and norms float.

    Raises:
      ValueError: if a rule matches nothing, or picks what is not the kernel of an `nnx.Linear` or `nnx.Conv`.
    """
    plan = make_plan(parameters_by_path(model), rules)
    model = nnx.clone(model)
    modules = _modules(model)
    for path, quantizer in plan.quantizers.items():
        owner, _, name = path.rpartition("/")
        module = modules.get(owner)
        if name != "kernel" or type(module) not in _QUANTIZED:
            kind = type(module).__name__
            raise ValueError(f"{path} is not the kernel of an nnx.Linear or nnx.Conv (it is in a {kind}); exclude it")
        # The layer keeps its variables and options and gains the quantizer's: only its class changes.
        quantized: Any = object.__new__(_QUANTIZED[type(module)])
        vars(quantized).update(vars(module))
        quantized._attach(quantizer)
        if not owner:
            return quantized, plan
        parent, _, attribute = owner.rpartition("/")
        _set_child(modules[parent], attribute, quantized)
    return model, plan


def _set_child(parent: Any, name: str, child: nnx.Module) -> None:
    if isinstance(parent, nnx.List):
        parent[int(name)] = child
    elif isinstance(parent, nnx.Dict):
        parent[name] = child
    else:
        setattr(parent, name, child)


def set_temperature(model: nnx.Module, temperature: Float[Array, ""] | float) -> None:
    """Give every quantized layer this temperature, relative to var(w)."""
    for layer in _quantized_layers(model):
        layer.temperature.set_value(jnp.asarray(temperature, jnp.float32))


def entropy(model: nnx.Module) -> Float[Array, ""]:
    """Mean entropy of the last forward pass over all quantized weights, nats; differentiable inside that pass."""
    layers = _quantized_layers(model)
    total = sum(layer.kernel.size for layer in layers)
    if total == 0:
        raise ValueError("the model has no quantized layer; call quantize(model, rules) first")
    parts = [layer.info.get_value().entropy * (layer.kernel.size / total) for layer in layers]
    return jnp.stack(parts).sum()


def harden(model: nnx.Module) -> dict[str, Any]:
    """All that ships, by path: quantized kernels as `HardTensor`, other parameters and batch statistics as arrays."""
    hard: dict[str, Any] = {}
    layers = {path: module for path, module in _modules(model).items() if isinstance(module, _Quantized)}
    for path, value in parameters_by_path(model).items():
        owner, _, name = path.rpartition("/")
        if "/levels/" in f"/{path}" and f"/{path}".rsplit("/levels/", 1)[0].lstrip("/") in layers:
            continue
        hard[path] = layers[owner].harden() if owner in layers and name == "kernel" else value
    statistics = nnx.to_flat_state(nnx.state(model, nnx.BatchStat))
    return hard | {_name(path): value[...] for path, value in statistics}


def forward(model: nnx.Module) -> Callable[[Mapping[str, Any], Any], Any]:
    """forward(arrays by path, x): the network without its quantizers, in evaluation, as a pure function.

    The arrays are those of `harden(model)` or of its file, dense (`packed.dense`); what they lack is as in `model`.

    Raises:
      ValueError: by forward, if an array has a name that the model does not know, or another shape than there.
    """
    plain = _float_copy(model)
    graphdef, state = nnx.split(plain)
    leaves = [(path, _name(path), leaf) for path, leaf in nnx.to_flat_state(state)]
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
    modules = _modules(model)
    for path, module in modules.items():
        if not isinstance(module, _Quantized):
            continue
        plain: Any = object.__new__(nnx.Linear if isinstance(module, nnx.Linear) else nnx.Conv)
        vars(plain).update({name: value for name, value in vars(module).items() if name not in _ADDED})
        if not path:
            return plain
        parent, _, attribute = path.rpartition("/")
        _set_child(modules[parent], attribute, plain)
    return model
