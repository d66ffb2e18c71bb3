"""The arena's protocol: the same float networks, data, epochs and tuning budget for every method.

    arena = Arena(config=..., learning_rates=...)
    run(arena, folder)                     a row for each (levels, method), kept as it comes; goes on where it stopped

For each seed one float network is trained. A method's numbers are chosen by the hard accuracy of the last epoch on
images held out of the training set, at the first seed; then it is trained at every seed with the chosen ones, scored on
the test images after every epoch and, at the end, through its packed file.
"""

import dataclasses
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import mecq_reader
from experiments.arena.methods import CONTINUED, METHODS, Numbers
from experiments.arena.qwix import ADVICE, qwix_task
from experiments.arena.table import summary, table
from experiments.arena.team import Member, Team
from experiments.config import Config
from experiments.data import in_memory as data
from experiments.reporting.rows import Row, Rows
from experiments.runtime.console import installed
from experiments.runtime.interruption import Interrupted
from experiments.runtime.run_folder import atomic_write_text, differences, to_json
from experiments.tasks.classification import Task, make_task
from experiments.training.run import named, unflatten
from mecq_jax import storage
from mecq_jax.params import leaves_by_path, replace_leaves
from mecq_jax.storage import QuantizedTensor

Say = Callable[[str], None]


@dataclasses.dataclass
class Clock:
    """Keeps a team's state every `every` seconds, and pauses after `limit` seconds."""

    limit: float = float("inf")
    every: float = 60.0
    began: float = dataclasses.field(default_factory=time.monotonic)
    kept: float = dataclasses.field(default_factory=time.monotonic)

    def train(self, team: Team, store: Path, score: Callable[[], Any] = lambda: None) -> list[Any]:
        """Train to the last epoch, from the state in `store` if there is one; `score()` before and after each epoch."""
        history = team.restore(store)
        history = [score()] if history is None else history
        while team.done < team.epochs:
            team.train()
            history.append(score())
            now = time.monotonic()
            over = now - self.began > self.limit
            if team.done == team.epochs:
                break
            if over or now - self.kept > self.every:
                team.save(store, history)
                self.kept = now
            if over:
                minutes = (now - self.began) / 60
                raise Interrupted(f"paused after {minutes:.1f} minutes; the same command goes on from here")
        return history


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arena:
    """What is compared: the common config, how many levels, which methods.

    Attributes:
      config: data, model and recipe of all; `float_epochs` trains the float networks, soft and hard epochs each method.
      levels: values of k.
      learning_rates: tried for each method, times its knob's settings.
      methods: names of `methods.METHODS`.
      seeds: float networks, and runs of each method.
      held_out: share of each class of the training set that tuning is scored on.
    """

    config: Config
    levels: tuple[int, ...] = (4,)
    learning_rates: tuple[float, ...] = (5e-4, 2e-3)
    methods: tuple[str, ...] = tuple(METHODS)
    seeds: int = 3
    held_out: float = 0.1


def split_task(arena: Arena) -> tuple[Task, np.ndarray, np.ndarray]:
    """The task on the kept part of the training set, and the held-out images and labels."""
    task = make_task(arena.config)
    images, labels = task.dataset.train_images, task.dataset.train_labels
    kept, held = data.stratified_split(labels, arena.held_out, seed=0)
    dataset = dataclasses.replace(task.dataset, train_images=images[kept], train_labels=labels[kept])
    return dataclasses.replace(task, dataset=dataset), images[held], labels[held]


def float_members(arena: Arena, task: Task, folder: Path, clock: Clock, say: Say) -> list[Member]:
    """A trained float network for each seed, from `folder` where it is there."""
    members = []
    for seed in range(arena.seeds):
        path = folder / f"float-{seed}.safetensors"
        own = make_task(dataclasses.replace(arena.config, seed=seed, downscale=1), task.dataset)
        if not path.is_file():
            epochs, rate = arena.config.float_epochs, arena.config.float_learning_rate
            config = dataclasses.replace(arena.config, soft_epochs=epochs, hard_epochs=0, learning_rate=rate)
            team = Team(task, config, [Member(seed, own.params, own.model_state)], quantized=False)
            clock.train(team, folder / "checkpoints" / f"float-{seed}")
            state = team.member(team.state, 0)
            storage.save(path, named(state.params, state.model_state))
            say(f"float network of seed {seed} trained")
        members.append(Member(seed, *unflatten(mecq_reader.read_dense(path), own)))
    return members


def tune(team: Team, held: Sequence[np.ndarray], clock: Clock, store: Path) -> tuple[list[Any], Numbers]:
    """[(numbers, hard accuracy on the held-out images)] of the members, and the best one's numbers."""
    clock.train(team, store)
    accuracies = team.accuracies("hard", *held)
    pairs = [(dict(m.numbers), x) for m, x in zip(team.members, accuracies, strict=True)]
    return pairs, max(pairs, key=lambda pair: pair[1])[0]


def repeat(team: Team, clock: Clock, store: Path) -> Row:
    """Accuracies on the test images of every member: each epoch's, and the last one's through the packed file."""
    task = team.task
    test = (task.dataset.test_images, task.dataset.test_labels)
    frozen = team.soft_epochs

    def score() -> dict[str, list[float]]:
        out = {"hard": team.accuracies("hard", *test)}
        return out | {"soft": team.accuracies("soft", *test)} if team.done == frozen > 0 else out

    history = clock.train(team, store, score)
    hard = np.array([scores["hard"] for scores in history])
    ends = {"soft_end": history[frozen]["soft"], "soft_end_hard": history[frozen]["hard"]} if frozen else {}
    state = team.settled()
    shipped = [_shipped_accuracy(team, team.member(state, i)) for i in range(len(team.members))]
    best = hard[1:].max(axis=0).tolist()
    return {"untrained": hard[0].tolist(), "last": shipped, "best": best, **ends, "epochs": hard[1:].tolist()}


def _shipped_accuracy(team: Team, state: Any) -> float:
    """The accuracy of a packed file, written and read again; of what cannot be packed (float, diverged), as it is."""
    task = team.task
    trained = state.quantized.hard(state.params)
    if not state.quantized.plan.quantizers or not all(bool(jnp.isfinite(x).all()) for x in jax.tree.leaves(trained)):
        return task.evaluate(trained, state.model_state)
    hard: Mapping[str, Any] = state.quantized.to_tensors(state.params)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        storage.save(path, hard)
        dense = {
            n: jnp.asarray(x.dense() if isinstance(x, QuantizedTensor) else x) for n, x in storage.load(path).items()
        }
    changed = [n for n, x in leaves_by_path(trained).items() if not bool((x == dense[n]).all())]
    if changed:
        raise RuntimeError(f"the packed file holds other weights than were trained in {changed}")
    return task.evaluate(replace_leaves(state.params, dense), state.model_state)


def run(arena: Arena, folder: Path, say: Say = print, clock: Clock | None = None) -> list[Row]:
    """All rows of `arena`; those on disk in `folder` are kept, each new one is written when it is there."""
    clock, kept = clock or Clock(), Rows(folder)
    refuse_another(arena, folder / "arena.json")
    done = {row["key"] for row in kept.rows}
    wanted = [(0, "float"), *((k, name) for k in arena.levels for name in arena.methods if k >= METHODS[name].least)]
    wanted = [(k, name) for k, name in wanted if f"{name} {k}" not in done]
    absent = [(k, name) for k, name in wanted if not installed(METHODS.get(name, CONTINUED).package)]
    if absent:
        say(ADVICE)
        wanted = [pair for pair in wanted if pair not in absent]
    if not wanted:
        return kept.rows
    task, *held = split_task(arena)
    members = float_members(arena, task, folder, clock, say)
    start = [task.evaluate(m.params, m.model_state) for m in members]
    store = folder / "checkpoints"
    for k, name in wanted:
        began = time.perf_counter()
        row: Row = {"key": f"{name} {k}", "k": k, "method": name, "float": start}
        row |= one_row(arena, task, held, members, k, name, clock, store)
        keep(kept, row, began, {"table.md": table, "summary.md": summary})
        say(f"{row['key']}: {100 * np.mean(row['last']):.2f} ({kept.rows[-1]['seconds']:.0f} s)")
    return kept.rows


def keep(kept: Rows, row: Row, began: float, pages: Mapping[str, Callable[[Sequence[Row]], str]]) -> None:
    """Add a finished row with its seconds, write the pages by name, and drop what was kept for the row's making."""
    kept.add([row | {"seconds": time.perf_counter() - began}])
    for name, show in pages.items():
        atomic_write_text(kept.folder / name, show(kept.rows))
    shutil.rmtree(kept.folder / "checkpoints", ignore_errors=True)


def one_row(
    arena: Arena,
    task: Task,
    held: Sequence[np.ndarray],
    members: Sequence[Member],
    k: int,
    name: str,
    clock: Clock,
    store: Path,
) -> Row:
    """One method with k levels, or the float network trained on: tuned, then repeated at every seed."""
    method = METHODS.get(name, CONTINUED)
    config = dataclasses.replace(arena.config, k=k or arena.config.k, **method.fields)
    rates = [{"learning_rate": rate, **knob} for rate in arena.learning_rates for knob in method.knob]
    ours = name != "float" and method.package is None
    own = task if method.package is None else qwix_task(task, config)
    team = Team(own, config, [members[0]._replace(numbers=n) for n in rates], quantized=ours)
    tuned = store / f"{name} {k} tuned.json"
    if not tuned.is_file():
        found = tune(team, held, clock, store / f"{name} {k} grid")
        store.mkdir(exist_ok=True)
        atomic_write_text(tuned, json.dumps(found))
    grid, numbers = json.loads(tuned.read_text())
    row = {"fields": dict(method.fields), "grid": grid, "chosen": numbers, "config": dataclasses.asdict(config)}
    return row | repeat(team.again([m._replace(numbers=numbers) for m in members]), clock, store / f"{name} {k}")


def refuse_another(arena: Arena, path: Path) -> None:
    """Write what the rows of this folder are rows of, or refuse if it is another arena than they were made with.

    More levels, methods and rows may join; what all rows share may not change. A field of the config that was not there
    when the rows were made stood at what is now its default.
    """
    shared = {name: value for name, value in to_json(arena).items() if name not in ("levels", "methods")}
    shared["config"]["data_dir"] = None
    if differ := differences(path, shared, {"config": to_json(Config())}):
        lines = [f"{path} describes another arena than this one:", *differ, "Give another folder, or delete its rows."]
        raise ValueError("\n".join(lines))
    if not path.is_file():
        atomic_write_text(path, json.dumps(shared, indent=1) + "\n")
