"""Variations of the recipe that no field of a config describes: other losses, other quantizers, acts at the end."""

import dataclasses
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from experiments.arena.team import Member, Team
from experiments.data import in_memory as data
from experiments.tasks.base import rest_of
from experiments.tasks.classification import Task, cross_entropy, train_accuracy
from mecq_jax import training
from mecq_jax.granularity import from_groups, to_groups
from mecq_jax.params import Rule, default_rules, leaves_by_path, make_plan
from mecq_jax.quantizers import MEC

NORM_BATCHES = 40


@dataclasses.dataclass(frozen=True)
class Distilled(Task):
    """The loss is the divergence from a float network's answers; the model's state carries that network along."""

    def logits(self, params, model_state, images):
        return super().logits(params, model_state["own"], images)

    def loss_fn(self, params, model_state, batch, rng):
        images = self.augmented(rng, batch["image"])
        model = self.model(params, model_state["own"], training=True)
        logits = model(self.inputs(images)).astype(jnp.float32)
        teacher, its_state = model_state["teacher"]
        loss = training.distillation(logits, super().logits(teacher, its_state, images))
        return loss, ({**model_state, "own": rest_of(model)}, train_accuracy(logits, batch["label"]))


def distilled(task: Task, members: Sequence[Member]) -> tuple[Task, list[Member]]:
    """Every member learns from the float network that it starts from, and from no label."""
    teachers = [{"own": m.model_state, "teacher": (m.params, m.model_state)} for m in members]
    return _as(Distilled, task), [m._replace(model_state=t) for m, t in zip(members, teachers, strict=True)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class CodingLength(Task):
    """Cross-entropy less `weight` times the coding length, in nats an image, of what the last layer sees."""

    weight: float

    def loss_fn(self, params, model_state, batch, rng):
        model = self.model(params, model_state, training=True)
        head, model.head = model.head, lambda x: x
        z = model(self.inputs(self.augmented(rng, batch["image"])))
        model.head = head
        logits = head(z).astype(jnp.float32)
        length = training.coding_length(z) / z.shape[0]
        loss = cross_entropy(logits, batch["label"]) - self.weight * length
        return loss, (rest_of(model), {**train_accuracy(logits, batch["label"]), "coding_length": length})


def with_coding_length(weight: float) -> Callable[[Task, Sequence[Member]], tuple[Task, Sequence[Member]]]:
    return lambda task, members: (_as(CodingLength, task, weight=weight), members)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Standardised(MEC):
    """Transport of s (w - mean(w)) / std(w), with s the standard deviation that the group started with."""

    def init(self, w: Array, temperature: float = 0.3) -> tuple[Any, Any]:
        groups = to_groups(w, self.granularity).astype(jnp.float32)
        spread = groups.std(axis=1)
        centred = from_groups(self._standard(groups, spread), w.shape, self.granularity)
        params, state = super().init(centred, temperature)
        return params, {**state, "spread": spread}

    def apply_groups(self, groups: Array, params: Any, state: Any, temperature: Any) -> tuple[Array, Any, Any]:
        return super().apply_groups(self._standard(groups, state["spread"]), params, state, temperature)

    def group_codes(self, groups: Array, params: Any, state: Any) -> Array:
        return super().group_codes(self._standard(groups, state["spread"]), params, state)

    def _standard(self, groups: Float[Array, "g n"], spread: Float[Array, " g"]) -> Float[Array, "g n"]:
        centred = groups - groups.mean(axis=1, keepdims=True)
        return centred * (spread[:, None] / jnp.maximum(centred.std(axis=1, keepdims=True), 1e-12))


def standardised(task: Task, quantizer: MEC) -> list[Rule]:
    """The rules with `Standardised` in the place of `quantizer`."""
    return default_rules(_as(Standardised, quantizer), task.order)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tempered(MEC):
    """Transport at `factor` times the given temperature."""

    factor: float

    def apply_groups(self, groups: Array, params: Any, state: Any, temperature: Any) -> tuple[Array, Any, Any]:
        return super().apply_groups(groups, params, state, self.factor * temperature)


def by_depth(first: float, last: float) -> Callable[[Task, MEC], list[Rule]]:
    """Rules whose temperature has factors from `first` to `last`, geometrically over the quantized layers."""

    def rules(task: Task, quantizer: MEC) -> list[Rule]:
        usual = default_rules(quantizer, task.order)
        planned = make_plan(task.params, usual).quantizers
        paths = [path for path in leaves_by_path(task.order) if path in planned]
        factors = np.geomspace(first, last, len(paths)).tolist()
        tempered = [_as(Tempered, quantizer, factor=factor) for factor in factors]
        each = [Rule(re.escape(path), own) for path, own in zip(paths, tempered, strict=True)]
        return [*usual[:-1], *each]

    return rules


def reestimate(team: Team) -> None:
    """Batch-norm statistics of the hard weights over training batches, in the place of the running ones of training."""
    labels = team.task.dataset.train_labels
    found = []
    for i, member in enumerate(team.members):
        state = team.member(team.settled(), i)
        rows = data.epoch_indices(member.seed, team.done, len(labels), team.config.batch)[:NORM_BATCHES]
        batches = ({"image": team.images[r], "label": team.labels[r]} for r in jnp.asarray(rows))
        key = jax.random.fold_in(state.rng, team.done)
        weights = state.quantized.hard(state.params)
        found.append(training.reestimate_batch_stats(team.task.loss_fn, weights, state.model_state, batches, key))
    team.state = team.state._replace(model_state=jax.tree.map(lambda *x: jnp.stack(x), *found))


def _as(kind: type, base: Any, **more: Any) -> Any:
    """An object of the class `kind` with the fields of `base`, and more."""
    return kind(**{f.name: getattr(base, f.name) for f in dataclasses.fields(base)}, **more)
