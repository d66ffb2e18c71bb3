"""Training over the devices of a mesh: which parts of the state lie where, by rules on paths.

    mesh = jax.make_mesh((4, 2), ("data", "model"))
    layout = Layout(mesh, [Split(".*/(up|query)/kernel", (None, "model")), Split(".*/(down|out)/kernel", ("model",))])
    quantized = layout.split(quantize_tree(params, rules), params)
    state = layout.place(steps.init(params, quantized))
    step = layout.jit(steps.soft_step, state)
    state, metrics = step(state, layout.batch(batch))

A path is one of the parameter tree, as in `mecq_jax.params.Rule`. Levels, potentials, codes and the optimizer's state
follow the weights that they belong to. A group whose weights are split reduces k and k x k numbers over devices in each
pass and moves no weights, for levels per tensor whatever the axes, and per channel where the channels are split or the
axis that comes first of the others; elsewhere the result is right and weights are gathered.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mecq_jax.granularity import PerChannel
from mecq_jax.params import Plan, Quantized, key_name, leaves_by_path
from mecq_jax.training._steps import TrainState


@dataclasses.dataclass(frozen=True)
class Split:
    """Leaves whose whole path matches `pattern` are split over the mesh; an example is at `Layout`.

    Attributes:
      pattern: a regular expression, matched against the whole path.
      axes: for each dimension of the leaf the axis of the mesh that it is split along, None where it is whole;
        dimensions left out are whole.
    """

    pattern: str
    axes: tuple[str | None, ...]


def fully_sharded(params: Any, mesh: Mesh, axis: str = "data", least: int = 2**18) -> list[Split]:
    """Rules that split every leaf of at least `least` entries along its longest dimension that the axis divides.

    Smaller leaves stay whole: their gathering would take longer than it saves, and small kernels of one shape are
    quantized together.

    Args:
      params: a tree of arrays.
      mesh: the devices.
      axis: of the mesh.
      least: entries of the smallest leaf that is split.

    Returns:
      The rules of a `Layout`.

    Example:
      >>> import jax, numpy as np
      >>> from mecq_jax.training import fully_sharded
      >>> mesh = jax.make_mesh((1,), ("data",))
      >>> fully_sharded({"up": np.ones((4, 8)), "bias": np.ones(8)}, mesh, least=16)
      [Split(pattern='up', axes=(None, 'data'))]
    """
    rules = []
    for path, leaf in leaves_by_path(params).items():
        fits = [d for d in range(np.ndim(leaf)) if leaf.shape[d] % mesh.shape[axis] == 0]
        if np.size(leaf) >= least and fits:
            longest = max(fits, key=lambda d: leaf.shape[d])
            rules.append(Split(re.escape(path), (*[None] * longest, axis)))
    return rules


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where the state and batches of a training lie.

    Attributes:
      mesh: the devices, with named axes.
      rules: the first that matches decides; a leaf that none matches is whole on every device.
      batch_axis: axes of the mesh that a batch's leading dimension is split along.

    Example:
      >>> import jax, numpy as np
      >>> from mecq_jax.training import Layout, Split
      >>> layout = Layout(jax.make_mesh((1, 1), ("data", "model")), [Split(".*/kernel", (None, "model"))])
      >>> for path, spec in layout.specs({"up": {"kernel": np.ones((4, 8)), "bias": np.ones(8)}}).items():
      ...     print(path, tuple(spec))
      up/kernel (None, 'model')
      up/bias ()
    """

    mesh: Mesh
    rules: Sequence[Split] = ()
    batch_axis: str | tuple[str, ...] = "data"

    def specs(self, params: Any) -> dict[str, PartitionSpec]:
        """The `PartitionSpec` of every leaf, by path.

        Args:
          params: a tree of arrays.

        Raises:
          ValueError: if a rule matches no leaf, names an axis that the mesh has not, or does not divide a leaf.
        """
        leaves = leaves_by_path(params)
        for rule in self.rules:
            if unknown := {a for a in rule.axes if a is not None} - set(self.mesh.axis_names):
                raise ValueError(f"{rule}: the mesh has axes {self.mesh.axis_names}, not {sorted(unknown)}")
            if not any(re.fullmatch(rule.pattern, path) for path in leaves):
                raise ValueError(f"{rule} matches no leaf; the paths are\n  " + "\n  ".join(leaves))
        return {path: self._spec(path, leaf) for path, leaf in leaves.items()}

    def _spec(self, path: str, leaf: Any) -> PartitionSpec:
        rule = next((r for r in self.rules if re.fullmatch(r.pattern, path)), None)
        if rule is None:
            return PartitionSpec()
        if len(rule.axes) > np.ndim(leaf):
            raise ValueError(f"{rule}: {path} has {np.ndim(leaf)} dimensions")
        for size, axis in zip(leaf.shape, rule.axes, strict=False):
            if axis is not None and size % self.mesh.shape[axis]:
                raise ValueError(
                    f"{rule}: a dimension of {size} of {path} does not split over the {self.mesh.shape[axis]} devices "
                    f"of axis {axis!r}; choose another dimension, or leave it whole"
                )
        return PartitionSpec(*rule.axes)

    def split(self, quantized: Quantized, params: Any) -> Quantized:
        """Quantizers that know into which parts the leaves of `params` are split; to be called before `Steps.init`.

        Args:
          quantized: of `quantize_tree`.
          params: the tree that was quantized.
        """
        plan = quantized.plan
        specs, leaves = self.specs(params), leaves_by_path(params)
        shards = {}
        for path in plan.quantizers:
            parts = [1 if axis is None else self.mesh.shape[axis] for axis in specs[path]]
            if math.prod(parts) > 1:
                shards[path] = (*parts, *[1] * (np.ndim(leaves[path]) - len(parts)))
        return dataclasses.replace(quantized, plan=dataclasses.replace(plan, shards=shards))

    def shardings(self, state: TrainState) -> TrainState:
        """The sharding of every leaf of a state, in the state's structure."""
        specs, quantized = self.specs(state.params), state.quantized
        plan = quantized.plan
        groups = {path: self._groups(plan, path, spec) for path, spec in specs.items() if path in plan.quantizers}
        owners = {path: (np.shape(leaf), specs[path]) for path, leaf in leaves_by_path(state.params).items()}
        owners |= {
            f"{path}/{name}": (np.shape(x), groups[path])
            for path, named in quantized.parameters.items()
            for name, x in named.items()
        }
        whole = PartitionSpec()

        def of_owner(path: tuple[Any, ...], leaf: Any) -> PartitionSpec:
            """What the optimizer keeps for a weight or for levels ends with their path and has their shape."""
            name = "/".join(map(key_name, path))
            fits = [
                spec
                for owner, (shape, spec) in owners.items()
                if shape == np.shape(leaf) and (name == owner or name.endswith(f"/{owner}"))
            ]
            return fits[0] if fits else whole

        parts: dict[str, Any] = {
            "step": whole,
            "params": jax.tree_util.tree_map_with_path(of_owner, state.params),
            "quantized": dataclasses.replace(quantized, **self._of_quantized(quantized, specs, groups)),
            "model_state": jax.tree.map(lambda x: whole, state.model_state),
            "opt_state": jax.tree_util.tree_map_with_path(of_owner, state.opt_state),
            "rng": whole,
        }
        specs_of_state = TrainState(**parts)
        shardings: TrainState = jax.tree.map(
            lambda spec: NamedSharding(self.mesh, spec), specs_of_state, is_leaf=lambda x: isinstance(x, PartitionSpec)
        )
        return shardings

    @staticmethod
    def _of_quantized(quantized: Quantized, specs: Any, groups: Any) -> dict[str, Any]:
        """What each group keeps lies as `groups` says, codes as their weights."""
        kept = {
            name: {path: dict.fromkeys(named, groups[path]) for path, named in getattr(quantized, name).items()}
            for name in ("parameters", "state")
        }
        return {**kept, "codes": {path: specs[path] for path in quantized.codes}}

    def _groups(self, plan: Plan, path: str, spec: PartitionSpec) -> PartitionSpec:
        """Of what each group of a leaf keeps, [g, k]: split where its channels are, whole elsewhere."""
        granularity = plan.quantizers[path].granularity
        if not isinstance(granularity, PerChannel) or path not in plan.shards:
            return PartitionSpec()
        axis = granularity.axis % len(plan.shards[path])
        return PartitionSpec(spec[axis]) if axis < len(spec) else PartitionSpec()

    def place(self, state: TrainState) -> TrainState:
        """The state on the mesh's devices."""
        shardings = self.shardings(state)
        key = jax.device_put(jax.random.key_data(state.rng), shardings.rng)  # keys alone do not go to other processes
        rng = jax.random.wrap_key_data(key, impl=jax.random.key_impl(state.rng))
        fields = zip(state._fields, state, shardings, strict=True)
        return TrainState(**{name: rng if name == "rng" else jax.device_put(x, where) for name, x, where in fields})

    def jit(self, step: Callable[..., Any], state: TrainState) -> Callable[..., Any]:
        """`step` jitted; the new state lies where the old one did, and takes its buffers over.

        Args:
          step: (state, batch) -> (state, metrics), such as `Steps.soft_step`.
          state: of `place`, or one of its structure.
        """
        shardings = self.shardings(state)
        return jax.jit(step, donate_argnums=0, in_shardings=(shardings, None), out_shardings=(shardings, None))

    def batch(self, batch: Any) -> Any:
        """A batch split along its leading dimension. Each process gives its part, in the order of processes.

        Args:
          batch: a pytree of arrays of one leading dimension.

        Raises:
          ValueError: if the whole batch does not split over the devices.
        """
        sharding = NamedSharding(self.mesh, PartitionSpec(self.batch_axis))
        axes = (self.batch_axis,) if isinstance(self.batch_axis, str) else self.batch_axis
        devices = math.prod(self.mesh.shape[a] for a in axes)
        for leaf in jax.tree.leaves(batch):
            whole = leaf.shape[0] * jax.process_count()
            if whole % devices:
                raise ValueError(f"a batch of {whole} does not split over {devices} devices; choose a multiple")
        return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), batch)
