"""The training loop: steps, logs, evaluations, checkpoints; it goes on from any step to the same bits.

    train(session, Course(name, parts, trainer, evaluate, offset), state, resume)

A checkpoint holds the state and the position in the data (epochs done, batches done in the next), and is written after
what belongs to its step was logged: on resuming, the log is cut at that step and continued.
"""

import contextlib
import dataclasses
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any

import jax
import numpy as np

from experiments.data.in_memory import Batch
from experiments.runtime import divergence
from experiments.runtime.devices import ONE, Devices, preempted
from experiments.runtime.divergence import Diverged
from experiments.runtime.interruption import Interrupted
from experiments.runtime.run_folder import RunFolder, Unwritten
from experiments.tasks.base import Task
from mecq_jax.training import Checkpoints, Restored, Steps, TrainState, host_copy, of_first, placed

Progress = Callable[[str, int, int], None]  # (what, done, of)
LOG_STEPS = 10
_NEXT_ORDER = 1_000_003  # between the data's seeds before and after a roll-back


@dataclasses.dataclass
class Session:
    """A task, its devices and run folder, who is told of progress, and who may ask it to stop."""

    task: Task
    folder: RunFolder | Unwritten
    progress: Progress = lambda *_: None
    trace: Callable[[TrainState, Steps], None] = lambda state, trainer: None
    stop: Callable[[], bool] = lambda: False
    devices: Devices = ONE

    def stops(self) -> bool:
        """Whether to stop after this step; all processes say the same."""
        return self.stop() if jax.process_count() == 1 else preempted()

    def batches(self, epoch: int, order: int, start: int) -> Iterator[Batch]:
        """This epoch's batches from `start` on; a pure function of the seed, the epoch and the order."""
        config, steps = self.task.config, self.task.steps_per_epoch
        found = self.task.train.epoch(config.batch, config.seed + _NEXT_ORDER * order, epoch, start)
        return islice(found, steps - start)


@dataclasses.dataclass(frozen=True)
class Course:
    """What to train.

    parts: (phase, step, epochs) one after another; evaluate: {name: state -> (params, model_state)}, the last of which
    says how good a checkpoint is; offset: steps of the run before this course.
    """

    name: str
    parts: list[tuple[str, Callable, int]]
    trainer: Steps
    evaluate: Mapping[str, Callable[[TrainState], tuple[Any, Any]]]
    offset: int

    @property
    def epochs(self) -> list[tuple[str, Callable]]:
        """The phase and the step of every epoch."""
        return [(phase, step) for phase, step, epochs in self.parts for _ in range(epochs)]


def train(session: Session, course: Course, state: TrainState, resume: bool) -> TrainState:
    """The state at the end of the course; with `resume` from its last checkpoint on.

    Raises:
      Interrupted: when `session.stop` asked for it, after a checkpoint was written.
      Diverged: at a loss or a state that is not finite, where the config does not roll back.
    """
    with Checkpoints(session.folder.root / "checkpoints" / course.name) as store:
        loop = _Loop(session, course, session.devices.place(state), store)
        if resume:
            loop.take_up(store.restore(loop.state))
        while True:
            try:
                return loop.run()
            except Diverged as error:
                loop.roll_back(error)


class _Loop:
    """One course under way: its state, and its position (epochs done, batches done in the next, steps)."""

    def __init__(self, session: Session, course: Course, state: TrainState, store: Checkpoints):
        self.session, self.course, self.store, self.config = session, course, store, session.task.config
        self.state, self.step, self.epoch, self.batch, self.roll_backs = state, int(state.step), 0, 0, 0
        self.start = host_copy(state) if self.config.on_nan == "roll_back" else None
        self.losses: list[Any] = []
        self.saved_at = time.monotonic()
        devices = session.devices
        self.refresh_codes = devices.jit_state(course.trainer.refresh_codes, state)
        # Python loops over these: convolutions inside lax.scan are many times slower on CPU.
        self.compiled = {id(step): devices.jit(step, state) for _, step, _ in course.parts}

    def take_up(self, found: Restored | None) -> None:
        """Go on from a checkpoint, if there is one; what was logged after it is dropped."""
        if found:
            self.state, about = found.state, found.about
            now = self.session.task.steps_per_epoch
            if (then := about.get("per_epoch", now)) != now:
                raise ValueError(
                    f"{self.store.folder} is of {then} steps an epoch, and now there are {now}; resume "
                    "with the batch and train_size of the run, on devices over which that batch splits"
                )
            self.epoch, self.batch = about["epoch"], about["batch"]
            self.roll_backs = max(self.roll_backs, about["roll_backs"])
        self.step = int(self.state.step)
        self.session.folder.resume_at(self.course.offset + self.step)

    def run(self) -> TrainState:
        """Train the epochs that are left."""
        phases = self.course.epochs
        for phase, step in phases[self.epoch :]:
            if phase == "hard" and self.batch == 0 and "hard" not in [p for p, _ in phases[: self.epoch]]:
                self.state = self.refresh_codes(self.state)
            self._train_epoch(phase, self.compiled[id(step)])
            scores = self._evaluate(phase)
            self.epoch, self.batch = self.epoch + 1, 0
            self.session.folder.log(self.course.offset + self.step, epoch=self.epoch, **scores)
            task = self.session.task
            score = scores[f"{list(self.course.evaluate)[-1]}_{task.measure}"]
            self._save(score if task.kind.higher_is_better else -score)
            self._stop_if_asked()
        return self.state

    def _train_epoch(self, phase: str, step: Callable) -> None:
        session, course = self.session, self.course
        per_epoch = session.task.steps_per_epoch
        batches = session.batches(self.epoch + 1 + course.offset, self.roll_backs, self.batch)
        for j, batch in enumerate(batches, self.batch):
            self.state, metrics = step(self.state, session.devices.batch(batch))
            self.step, self.batch = self.step + 1, j + 1
            self.losses.append(metrics.loss)
            last = j == per_epoch - 1
            if j % LOG_STEPS == 0 or last:
                session.folder.log(course.offset + self.step, **metrics.as_floats(phase))
                self._check_losses()
                session.trace(self.state, course.trainer)
            done = self.epoch * per_epoch + j + 1
            session.progress(f"{course.name} ({phase})", done, len(course.epochs) * per_epoch)
            if not last:  # the last step's checkpoint comes after the evaluation that is logged under it
                if self._due():
                    self._save()
                self._stop_if_asked()

    def _evaluate(self, phase: str) -> dict[str, float]:
        settled = self.refresh_codes(self.state) if phase == "soft" else self.state
        task, devices = self.session.task, self.session.devices
        wanted = dict(self.course.evaluate)
        if phase == "hard":  # the codes are frozen: there is no soft network any more
            wanted = {"hard": wanted["hard"]}
        found = {name: task.evaluate(*of(settled), devices) for name, of in wanted.items()}
        scores = {f"{name}_{task.measure}": score for name, score in found.items()}
        if phase == "soft":
            gap = found["soft"] - found["hard"]
            scores["soft_to_hard_gap"] = gap if task.kind.higher_is_better else -gap
        return scores

    def _due(self) -> bool:
        steps, seconds = self.config.checkpoint_steps, self.config.checkpoint_seconds
        late = seconds is not None and self._late(seconds)
        return late or (steps is not None and self.step % steps == 0)

    def _late(self, seconds: float) -> bool:
        def elapsed() -> bool:
            return time.monotonic() - self.saved_at >= seconds

        # Several processes ask the first one's clock, where they wait for each other anyway.
        alone = jax.process_count() == 1
        return elapsed() if alone else self.batch % LOG_STEPS == 1 and of_first(elapsed)

    def _save(self, score: float | None = None) -> None:
        """A checkpoint of this step, if its state is finite."""
        self._check_losses()
        host = host_copy(self.state)
        if bad := divergence.not_finite(host):
            raise self._diverged(f"{', '.join(bad[:3])} holds values that are not finite at step {self.step}")
        self.session.folder.sync()
        about = {
            "epoch": self.epoch,
            "batch": self.batch,
            "roll_backs": self.roll_backs,
            "per_epoch": self.session.task.steps_per_epoch,
        }
        self.store.save(self.step, host, about, score)
        self.saved_at = time.monotonic()

    def _stop_if_asked(self) -> None:
        if not self.session.stops():
            return
        self.store.wait()
        if self.step not in of_first(self.store.steps):
            self._save()
            self.store.wait()
        raise Interrupted(
            f"stopped on request at step {self.course.offset + self.step}; its checkpoint is in "
            f"{self.store.folder}, go on with --resume"
        )

    def _check_losses(self) -> None:
        """Look at the losses since the last look: the device has computed them by now, so that no step waits."""
        losses, self.losses = np.asarray(jax.device_get(self.losses), np.float32), []
        bad = np.flatnonzero(~np.isfinite(losses))
        if len(bad):
            step = self.step - len(losses) + int(bad[0]) + 1
            raise self._diverged(f"the loss is {losses[bad[0]]} at step {step}")

    def _diverged(self, what: str) -> Diverged:
        course = self.course
        lines = [
            f"training diverged: {what} of the {course.name} phase.",
            f"Layers after step {self.step}:",
            divergence.table(self.state),
        ]
        with contextlib.suppress(ValueError):  # where no checkpoint can be read, this error is still the first to tell
            if found := self.store.restore(self.state):
                lines += [f"Layers at the last checkpoint, step {found.step}:", divergence.table(found.state)]
        rates = ("float_learning_rate", "learning_rate", "levels_rate")
        now = ", ".join(f"{name} = {getattr(self.config, name):g}" for name in rates)
        lines.append(
            f"Lower a rate ({now}), or let the run go back and take the data in another order: --resume "
            "--on_nan=roll_back"
        )
        return Diverged("\n".join(lines))

    def roll_back(self, error: Diverged) -> None:
        """To the last checkpoint (or the start), with random numbers and an order of the data that are new.

        How many times it went back is all that both depend on, so that a run killed afterwards comes to the same again.
        """
        if self.config.on_nan == "stop":
            raise error
        if self.roll_backs >= self.config.roll_backs:
            raise Diverged(f"{error}\n(rolled back {self.roll_backs} times; roll_backs = {self.config.roll_backs})")
        what, self.losses = str(error).split("\n")[0], []
        self.roll_backs += 1
        found = self.store.restore(self.state)
        if not found:
            self.state, self.epoch, self.batch = placed(self.start, self.state), 0, 0
        self.take_up(found)
        self.state = self.state._replace(rng=jax.random.fold_in(self.state.rng, self.roll_backs))
        warnings.warn(
            f"{what} Rolled back to step {self.step}; {self.roll_backs} of {self.config.roll_backs} times", stacklevel=2
        )
