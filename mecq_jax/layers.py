"""QuantDense and QuantConv: `nnx.Linear` and `nnx.Conv` that compute with soft weights.

Parameters, initialisers and options are those of the Flax layers; added are the levels (`Level`, trained), the
quantizer's state (`Potential`, carried) and epsilon. `quantize` turns an existing model into a quantized one.

    model = quantize(model, MEC(k=4))
    set_epsilon(model, 0.1)
    loss = task(model(x)) + 0.3 * entropy(model)
    nnx.Optimizer(model, tx, wrt=nnx.Any(nnx.Param))        # Level is a Param
"""

import copy
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from mecq_jax.packing import HardTensor
from mecq_jax.quantizer import Info, Quantizer
from mecq_jax.rules import Plan, Rule, make_plan


class Level(nnx.Param):
    """Levels (or a step): trained, with an optimizer group of their own."""


class Potential(nnx.Variable):
    """A quantizer's state: carried between steps, not trained."""


class Epsilon(nnx.Variable):
    """Entropic regularisation relative to var(w); written by `set_epsilon`, read by each quantized layer."""


class Diagnostic(nnx.Variable):
    """The last application's `quantizer.Info`."""


class _Quantized:
    """What QuantDense and QuantConv share: the quantizer's variables and the kernel that is computed with."""
    kernel: nnx.Param

    def _attach(self, quantizer: Quantizer) -> None:
        params, state = jax.jit(quantizer.init)(self.kernel[...])
        self.quantizer = quantizer
        self.levels = nnx.data({name: Level(value) for name, value in params.items()})
        self.potentials = nnx.data({name: Potential(value) for name, value in state.items()})
        self.epsilon = Epsilon(jnp.asarray(0.3, jnp.float32))
        self.info = Diagnostic(Info(*(jnp.zeros((), jnp.float32) for _ in Info._fields)))

    def _values(self) -> tuple[dict[str, Array], dict[str, Array]]:
        return {n: v[...] for n, v in self.levels.items()}, {n: v[...] for n, v in self.potentials.items()}

    def _with_soft_kernel(self) -> Any:
        """A shallow copy that holds the soft weights where the Flax layer looks for its kernel."""
        params, state = self._values()
        soft, state, info = self.quantizer.apply(self.kernel[...], params, state, self.epsilon[...])
        for name, value in state.items():
            self.potentials[name].set_value(jax.lax.stop_gradient(value))
        self.info.set_value(info)
        view = copy.copy(self)
        object.__setattr__(view, "kernel", nnx.Param(soft))
        return view

    def harden(self) -> HardTensor:
        """This layer's kernel as it ships."""
        params, state = self._values()
        return HardTensor(
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


def _quantized_layers(model: nnx.Module) -> list[_Quantized]:
    return [module for _, module in nnx.iter_modules(model) if isinstance(module, _Quantized)]


def kernels(model: nnx.Module) -> dict[str, Array]:
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
    plan = make_plan(kernels(model), rules)
    model = nnx.clone(model)
    modules = {"/".join(map(str, path)): module for path, module in nnx.iter_modules(model)}
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


def set_epsilon(model: nnx.Module, epsilon: Float[Array, ""] | float) -> None:
    """Give every quantized layer this epsilon, relative to var(w)."""
    for layer in _quantized_layers(model):
        layer.epsilon.set_value(jnp.asarray(epsilon, jnp.float32))


def entropy(model: nnx.Module) -> Float[Array, ""]:
    """Mean entropy of the last forward pass over all quantized weights, nats; differentiable inside that pass."""
    layers = _quantized_layers(model)
    total = sum(layer.kernel.size for layer in layers)
    if total == 0:
        raise ValueError("the model has no quantized layer; call quantize(model, rules) first")
    parts = [layer.info.get_value().entropy * (layer.kernel.size / total) for layer in layers]
    return jnp.stack(parts).sum()


def harden(model: nnx.Module) -> dict[str, Any]:
    """Every parameter by path as it ships: quantized kernels as `HardTensor`, the others as arrays."""
    hard: dict[str, Any] = {}
    layers = {"/".join(map(str, p)): m for p, m in nnx.iter_modules(model) if isinstance(m, _Quantized)}
    for path, value in kernels(model).items():
        owner, _, name = path.rpartition("/")
        if "/levels/" in f"/{path}" and path.split("/levels/")[0] in layers:
            continue
        hard[path] = layers[owner].harden() if owner in layers and name == "kernel" else value
    return hard
