"""A task whose model rounds: qwix as a rival.

Its rounding lives in the model and not in a quantizer: per channel by the largest absolute value, 2**bits levels around
0 of which absmax leaves the lowest unused, straight-through. So its team trains a float network whose layers round.
It packs nothing at 2 or 3 bits; the accuracy is that of its rounded forward pass.
"""

import dataclasses
import re

import jax
import jax.numpy as jnp
from flax import nnx

from experiments.config import Config
from experiments.tasks.classification import Task
from mecq_jax.params import make_plan

ADVICE = "qwix is not installed, its row is left out: pip install -c constraints.txt -e '.[experiments]'"


def with_qwix(model: nnx.Module, layers: str, k: int, shape: tuple[int, ...]) -> nnx.Module:
    """`model`, fed with arrays of `shape`, with qwix's rounding to k levels where the regex `layers` matches a path."""
    import qwix

    rule = qwix.QtRule(module_path=layers, weight_qtype=f"int{k.bit_length() - 1}")
    return qwix.quantize_model(model, qwix.QtProvider([rule]), jnp.zeros(shape, jnp.float32))


def qwix_task(task: Task, config: Config) -> Task:
    """The task with qwix's rounding in the layers that our rules would quantize; parameters stay as they are."""
    plan = make_plan(task.params, config.rules(task.order))
    layers = "|".join(re.escape(path.removesuffix("/kernel")) for path in plan.quantizers)
    model = nnx.merge(task.graphdef, nnx.State(task.params), nnx.State(task.model_state))
    model = with_qwix(model, layers, config.k, (2, *task.dataset.train_images.shape[1:]))
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)  # type: ignore[misc]
    same = [jax.tree.structure(nnx.to_pure_dict(x)) for x in (params, rest)]
    if same != [jax.tree.structure(task.params), jax.tree.structure(task.model_state)]:
        raise RuntimeError("this version of qwix adds to the model's own parameters; 0.1.8 did not")
    return dataclasses.replace(task, graphdef=graphdef)
