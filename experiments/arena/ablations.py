"""The recipe, one change at a time:  python -m experiments.arena --ablations FILE

From the float networks of an arena, `mec` is trained with its common config and with each variation of it, at every
seed and the arena's last learning rate, and scored on the images held out of the training set: the test images choose
nothing. A row is kept as it comes, in experiments/results/arena/<name>/recipe/, and --minutes pauses, as in the arena.

The loss says more than the accuracy: of 5,000 images, 0.7 points are chance in one accuracy, though less in the
difference of two, which are of the same images and float networks.
"""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.arena import variants
from experiments.arena.methods import METHODS
from experiments.arena.protocol import Arena, Clock, Say, float_members, keep, refuse_another, split_task
from experiments.arena.table import percent
from experiments.arena.team import Member, Team
from experiments.reporting.rows import Row, Rows, markdown
from experiments.runtime.formatting import mean_std
from experiments.tasks.classification import Task
from mecq_jax.params import Rule
from mecq_jax.quantizers import MEC

# What the arena gives `mec`, at the first setting of its knob.
BASE = {**METHODS["mec"].fields, **METHODS["mec"].knob[0]}
COLUMNS = ("change", "accuracy", "less the recipe's", "loss", "less the recipe's", "soft loss", "its loss hardened")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Change:
    """A variation of the recipe.

    Attributes:
      fields: changes to the config.
      task: (task, members) -> the same with another loss.
      rules: (task, quantizer) -> rules of the quantized layers.
      before: changes to the config of whole trainings that go before, each from the weights of the one before it.
      after: acts on the trained team.
    """

    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    task: Callable[[Task, Sequence[Member]], tuple[Task, Sequence[Member]]] | None = None
    rules: Callable[[Task, MEC], Sequence[Rule]] | None = None
    before: Sequence[Mapping[str, Any]] = ()
    after: Callable[[Team], None] | None = None


def variations(epochs: int) -> dict[str, Change]:
    """The changes by name; those of phases share out `epochs`."""
    stage, hard = max(1, epochs // 5), epochs // 3
    steps = [{"k": k, "soft_epochs": stage, "hard_epochs": 0} for k in (16, 8)]
    return {name: Change(fields=fields) for name, fields in _fields(epochs).items()} | {
        "weights standardised": Change(rules=variants.standardised),
        "temperature times 0.3 to 3 from first to last layer": Change(rules=variants.by_depth(0.3, 3.0)),
        "temperature times 3 to 0.3 from first to last layer": Change(rules=variants.by_depth(3.0, 0.3)),
        "4, 3, 2 bits": Change(
            before=steps, fields={"soft_epochs": max(1, epochs - hard - 2 * stage), "hard_epochs": hard}
        ),
        "norms estimated again": Change(after=variants.reestimate),
        "coding length 0.01": Change(task=variants.with_coding_length(0.01)),
        "coding length 0.1": Change(task=variants.with_coding_length(0.1)),
        "distilled": Change(task=variants.distilled),
    }


def _fields(epochs: int) -> dict[str, Mapping[str, Any]]:
    """The changes that are fields of the config."""

    def phases(hard: int) -> Mapping[str, Any]:
        return {"soft_epochs": epochs - hard, "hard_epochs": hard}

    return {
        "the recipe": {},
        "gradient implicit": {"gradient": "implicit"},
        "gradient implicit, temperature to 0.1": {"gradient": "implicit", "temperature_end": 0.1},
        "temperature to 0.1": {"temperature_end": 0.1},
        "temperature to 0.001": {"temperature_end": 0.001},
        "temperature from 1": {"temperature_start": 1.0},
        "temperature falls in half of the soft phase": {"temperature_hold": 0.5},
        "lambda to 0.3": {"entropy_weight": 0.3},
        "no hard phase": phases(0),
        "a tenth hard": phases(max(1, epochs // 10)),
        "half hard": phases(epochs // 2),
        "hard rate 0.1": {"hard_rate": 0.1},
        "levels' rate 0.1": {"levels_rate": 0.1},
        "levels' rate 1": {"levels_rate": 1.0},
        "weight decay 0.01": {"weight_decay": 0.01},
        "levels start at quantiles": {"codebook": "quantile"},
        "prior of Lloyd-Max": {"prior": "lloyd_max"},
        "prior learned": {"prior": "learned"},
        "balance 0.9": {"balance": 0.9},
        "balance 0": {"balance": 0.0},
        "balance 0, gradient implicit": {"balance": 0.0, "gradient": "implicit"},
        "per channel": {"groups": "channel"},
        # From here on two changes or more: those that were best alone.
        "prior learned, temperature from 1": {"prior": "learned", "temperature_start": 1.0},
        "prior learned, levels' rate 0.1": {"prior": "learned", "levels_rate": 0.1},
        "prior learned, weight decay 0.01": {"prior": "learned", "weight_decay": 0.01},
        "prior learned, gradient implicit": {"prior": "learned", "gradient": "implicit"},
        "prior learned, temperature from 1, weight decay 0.01": {
            "prior": "learned",
            "temperature_start": 1.0,
            "weight_decay": 0.01,
        },
    }


def run(arena: Arena, folder: Path, say: Say = print, clock: Clock | None = None) -> list[Row]:
    """The rows of all variations; float networks are those in `folder`, rows and table in its `recipe`."""
    clock, own = clock or Clock(), folder / "recipe"
    kept = Rows(own)
    refuse_another(arena, own / "arena.json")
    done = {row["change"] for row in kept.rows}
    every = variations(arena.config.soft_epochs + arena.config.hard_epochs)
    wanted = {name: change for name, change in every.items() if name not in done}
    if not wanted:
        return kept.rows
    task, *held = split_task(arena)
    members = float_members(arena, task, folder, clock, say)
    for name, change in wanted.items():
        began = time.perf_counter()
        team, at_end = _trained(change, arena, task, members, held, clock, own / "checkpoints" / name)
        row: Row = {"change": name, "fields": dict(change.fields), **team.scores("hard", *held), "soft_end": at_end}
        keep(kept, row, began, {"table.md": table})
        say(f"{name}: {percent(row['accuracy'])}, loss {np.mean(row['loss']):.4f}")
    return kept.rows


def _trained(
    change: Change,
    arena: Arena,
    task: Task,
    members: Sequence[Member],
    held: Sequence[np.ndarray],
    clock: Clock,
    store: Path,
) -> tuple[Team, dict[str, Any]]:
    """The team at its end, and its scores at the end of the soft phase."""
    if change.task is not None:
        task, members = change.task(task, members)
    for stage, fields in enumerate([*change.before, change.fields]):
        common: dict[str, Any] = {**BASE, "learning_rate": arena.learning_rates[-1], **fields}
        config = dataclasses.replace(arena.config, **common)
        rules = None if change.rules is None else change.rules(task, config.quantizer())  # type: ignore[arg-type]
        team = Team(task, config, members, rules=rules)

        def score(team=team):
            return {w: team.scores(w, *held) for w in ("soft", "hard")} if team.done == team.soft_epochs else None

        history = clock.train(team, store / str(stage), score)
        states = [team.member(team.state, i) for i in range(len(members))]
        members = [m._replace(params=s.params, model_state=s.model_state) for m, s in zip(members, states, strict=True)]
    if change.after is not None:
        change.after(team)
    return team, history[team.soft_epochs]


def table(rows: Sequence[Row]) -> str:
    """The rows as Markdown, least loss first; differences are means +- std over seeds, each from its float network."""
    recipe = next(row for row in rows if row["change"] == "the recipe")
    lines = []
    for row in sorted(rows, key=lambda row: np.mean(row["loss"])):
        gains, costs = (np.subtract(row[name], recipe[name]) for name in ("accuracy", "loss"))
        cost = "" if row is recipe else mean_std(costs, "+.4f")
        gain = "" if row is recipe else percent(gains)
        ends = [f"{np.mean(row['soft_end'][weights]['loss']):.4f}" for weights in ("soft", "hard")]
        lines.append([row["change"], percent(row["accuracy"]), gain, f"{np.mean(row['loss']):.4f}", cost, *ends])
    return markdown(COLUMNS, lines)
