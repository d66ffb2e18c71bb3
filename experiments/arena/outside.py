"""A rival that is another package: qwix's quantization-aware training, as its own users apply it.

Its rounding lives in the model and not in a quantizer: per channel by the largest absolute value, 2**bits levels around
0 of which absmax leaves the lowest unused, straight-through. So its team trains a float network whose layers round.
It packs nothing at 2 or 3 bits; the accuracy is that of its rounded forward pass.
"""

import dataclasses
import importlib.util
import re

import jax
import jax.numpy as jnp
from flax import nnx

from experiments.classify import Task
from experiments.config import Config
from mecq_jax import rules

ADVICE = "qwix is not installed, its row is left out: pip install -c constraints.txt -e '.[benchmarks]'"


def installed(package: str | None) -> bool:
    """Whether the package of a method is here; None is our own."""
    return package is None or importlib.util.find_spec(package) is not None


def with_qwix(task: Task, config: Config) -> Task:
    """The task with qwix's rounding in the layers that our rules would quantize; parameters stay as they are."""
    import qwix

    plan = rules.make_plan(task.params, rules.default_rules(config.quantizer(), task.order))
    layers = [re.escape(path.removesuffix("/kernel")) for path in plan.quantizers]
    rule = qwix.QtRule(module_path="|".join(layers), weight_qtype=f"int{config.k.bit_length() - 1}")
    model = nnx.merge(task.graphdef, nnx.State(task.params), nnx.State(task.model_state))
    example = jnp.zeros((2, *task.dataset.train_images.shape[1:]), jnp.float32)
    evaluating = nnx.view(model, use_running_average=True, deterministic=True, raise_if_not_found=False)
    graphdef, params, rest = nnx.split(  # type: ignore[misc]
        qwix.quantize_model(evaluating, qwix.QtProvider([rule]), example), nnx.Param, ...
    )
    same = [jax.tree.structure(nnx.to_pure_dict(x)) for x in (params, rest)]
    if same != [jax.tree.structure(task.params), jax.tree.structure(task.model_state)]:
        raise RuntimeError("this version of qwix adds to the model's own parameters; 0.1.8 did not")
    return dataclasses.replace(task, graphdef=graphdef)
