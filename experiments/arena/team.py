"""A team: runs of one config that differ in seed, float weights and a few numbers, trained together.

    team = Team(task, config, members)              members: seed, float weights, and numbers of `TRACED`
    while team.done < team.epochs:
        team.train(); team.accuracies("hard", images, labels)

An epoch is one jitted `lax.scan` over steps on data that lie on the device, and all members are one `vmap` of it:
a table's rows cost one compilation and keep an accelerator busy. With `together=False` the same function runs member
after member, which on a CPU is faster (its batched products are not).
"""

import copy
import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from experiments.config import Config
from experiments.data import in_memory as data
from experiments.runtime.run_folder import atomic_write_text
from experiments.tasks.classification import Task
from experiments.training.recipe import float_trainer, phases, quantized_trainer
from mecq_jax import training
from mecq_jax.params import Rule, quantize_tree
from mecq_jax.training import Steps, TrainState

# Fields of a config in which the members of a team may differ: numbers that only enter the step's arithmetic.
TRACED = (
    "learning_rate",
    "hard_rate",
    "levels_rate",
    "weight_decay",
    "temperature_start",
    "temperature_end",
    "entropy_weight",
)
EVALUATED_AT_ONCE = 500


class Member(NamedTuple):
    """One run of a team: its seed, the weights that it starts from, and its numbers by field of `TRACED`."""

    seed: int
    params: Any
    model_state: Any
    numbers: Mapping[str, float] = {}


class Team:
    """The members' stacked state and the jitted functions over it."""

    def __init__(
        self,
        task: Task,
        config: Config,
        members: Sequence[Member],
        *,
        quantized: bool = True,
        together: bool | None = None,
        rules: Sequence[Rule] | None = None,
    ):
        """config: of all members, in which `TRACED` are defaults; quantized: False trains the float weights on;
        rules: of the quantized layers (None: the config's quantizer in all but the first and the last)."""
        self.rules = config.rules(task.order) if rules is None else rules
        self.task, self.config = task, config
        self.together = jax.default_backend() != "cpu" if together is None else together
        self.images, self.labels = jnp.asarray(task.dataset.train_images), jnp.asarray(task.dataset.train_labels)
        self.per_epoch = len(task.dataset.train_labels) // config.batch
        self.compiled: dict[str, Callable] = {}
        self.phases = phases(config) if quantized else ["float"] * (config.soft_epochs + config.hard_epochs)
        self._begin(members)

    def again(self, members: Sequence[Member]) -> "Team":
        """A team of the same task and config with other members, which shares what is compiled."""
        team = copy.copy(self)
        team._begin(members)
        return team

    def _begin(self, members: Sequence[Member]) -> None:
        unknown = {name for member in members for name in member.numbers} - set(TRACED)
        if unknown:
            raise ValueError(f"members differ in {sorted(unknown)}; a team's members may differ in {TRACED} only")
        self.members, self.done = list(members), 0
        self.numbers = {
            name: jnp.asarray([m.numbers.get(name, getattr(self.config, name)) for m in members], jnp.float32)
            for name in TRACED
        }
        self.state = _stacked([self._start(m) for m in members])

    @property
    def epochs(self) -> int:
        return len(self.phases)

    @property
    def soft_epochs(self) -> int:
        """Epochs of the soft phase, and so those done at its end; 0 of a float team."""
        return self.phases.count("soft")

    def _start(self, member: Member) -> TrainState:
        quantized = None if self.phases[0] == "float" else quantize_tree(member.params, self.rules)
        trainer = self._trainer({name: float(getattr(self.config, name)) for name in TRACED} | dict(member.numbers))
        return trainer.init(member.params, quantized, member.model_state, jax.random.key(member.seed))

    def _trainer(self, numbers: Mapping[str, Any]) -> Steps:
        """The config's trainer at these numbers, which may be traced."""
        config = dataclasses.replace(self.config, **numbers)
        if self.phases[0] == "float":
            return float_trainer(config, self.task.loss_fn, self.epochs * self.per_epoch, config.learning_rate)
        return quantized_trainer(config, self.task.loss_fn, self.per_epoch)

    def train(self) -> dict[str, np.ndarray]:
        """The next epoch of every member; the mean of each reported scalar over its steps, [m]."""
        epoch, phase = self.done, self.phases[self.done]
        if phase == "hard":
            self.state = self.settled()
        n, batch = len(self.task.dataset.train_labels), self.config.batch
        rows = jnp.asarray(np.stack([data.epoch_indices(m.seed, epoch, n, batch) for m in self.members]))
        self.state, metrics = self._over_members(phase, self.state, rows, shared=(self.images, self.labels))
        self.done += 1
        return {name: np.asarray(value) for name, value in metrics.items()}

    def save(self, folder: Path, history: Any) -> None:
        """Keep the state, the epochs done and `history` (JSON) in `folder`, for `restore`."""
        folder.mkdir(parents=True, exist_ok=True)
        # First the history: a checkpoint that is there is whole.
        atomic_write_text(folder / f"{self.done}.json", json.dumps(history))
        training.save_checkpoint(folder, self.done, self.state)

    def restore(self, folder: Path) -> Any:
        """Go on from the last `save` in `folder`; its history, or None where there is none."""
        found = training.restore_checkpoint(folder, self.state)
        if found is None:
            return None
        self.done, self.state = found
        return json.loads((folder / f"{self.done}.json").read_text())

    def settled(self) -> TrainState:
        """The stacked state with potentials and codes of its present weights."""
        if self.phases[max(self.done - 1, 0)] != "soft":
            return self.state
        return self._over_members("refresh_codes", self.state)

    def accuracies(self, weights: str, images: np.ndarray, labels: np.ndarray) -> list[float]:
        """Every member's accuracy on these images with 'hard' weights, that ship, or 'soft', at epsilon(step)."""
        return self.scores(weights, images, labels)["accuracy"]

    def scores(self, weights: str, images: np.ndarray, labels: np.ndarray) -> dict[str, list[float]]:
        """Every member's accuracy and mean loss (cross-entropy, nats), as in `accuracies`."""
        shared = (jnp.asarray(images), jnp.asarray(labels))
        found = self._over_members(f"{weights}_scores", self.settled(), shared=shared)
        return {name: values.tolist() for name, values in found.items()}

    def member(self, state: TrainState, i: int) -> TrainState:
        """The state of member i."""
        return jax.tree.map(lambda x: x[i], state)

    def _over_members(self, what: str, *stacked: Any, shared: tuple[Array, ...] = ()) -> Any:
        """The jitted function `what` of (shared, numbers, *stacked) over the members' axis of all but `shared`."""
        if what not in self.compiled:
            one = self._functions()[what]
            self.compiled[what] = jax.jit(jax.vmap(one, in_axes=(None, 0)) if self.together else one)
        each = (self.numbers, *stacked)
        if self.together:
            return self.compiled[what](shared, each)
        parts = [jax.tree.map(lambda x, i=i: x[i], each) for i in range(len(self.members))]
        return _stacked([self.compiled[what](shared, part) for part in parts])

    def _functions(self) -> dict[str, Callable]:
        """Those of one member, (shared, (numbers, state, ...)) -> ..., by name."""
        return {
            "refresh_codes": lambda _, each: self._trainer(each[0]).refresh_codes(each[1]),
            "soft_scores": partial(self._scores, "soft"),
            "hard_scores": partial(self._scores, "hard"),
            **{phase: partial(self._epoch, phase) for phase in ("float", "soft", "hard")},
        }

    def _epoch(self, phase, shared, each):
        (images, labels), (numbers, state, rows) = shared, each
        step = getattr(self._trainer(numbers), f"{phase}_step")

        def body(state, rows):
            state, metrics = step(state, {"image": images[rows], "label": labels[rows]})
            scalars = metrics._asdict()
            return state, scalars | scalars.pop("scalars")

        state, metrics = jax.lax.scan(body, state, rows)
        return state, jax.tree.map(jnp.mean, metrics)

    def _scores(self, weights, shared, each):
        (images, labels), (numbers, state) = shared, each
        trainer = self._trainer(numbers)
        params = trainer.soft_params(state) if weights == "soft" else trainer.hard_params(state)
        size = min(EVALUATED_AT_ONCE, len(labels))
        whole = len(labels) // size * size

        def sums(images, labels):
            logits = self.task.logits(params, state.model_state, images)
            right = (logits.argmax(axis=1) == labels).astype(jnp.float32)
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            return {"accuracy": right.sum(), "loss": losses.sum()}

        cut = [x[:whole].reshape(-1, size, *x.shape[1:]) for x in (images, labels)]
        total = jax.tree.map(jnp.sum, jax.lax.map(lambda part: sums(*part), tuple(cut)))
        if whole < len(labels):
            total = jax.tree.map(jnp.add, total, sums(images[whole:], labels[whole:]))
        return jax.tree.map(lambda x: x / len(labels), total)


def _stacked(trees: Sequence[Any]) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)
