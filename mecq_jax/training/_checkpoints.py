"""Checkpoints by orbax's CheckpointManager: written in the background, whole or not at all, checked when read.

FOLDER/<step>/state/    the leaves of a pytree of arrays
FOLDER/<step>/about/    JSON: where training was, how good it was, and a checksum of every leaf
FOLDER/damaged/<step>/  what could not be read when an older checkpoint took its place

The last two are kept, and the best. Orbax writes under another name and renames; it also renames what it drops, so a
process killed at any moment leaves no half of a checkpoint under a step's name.
"""

import shutil
import warnings
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import orbax.checkpoint as ocp

from mecq_jax.training import _host_arrays as host_arrays
from mecq_jax.training._checkpoint_files import Damaged, about_of, first_alone, read, text_crc
from mecq_jax.training._processes import of_first, writes

LAST = 2  # one that is damaged has one before it
_DROPPED = "dropped"
_DAMAGED = "damaged"


class Restored(NamedTuple):
    """A checkpoint read back; an example is at `Checkpoints`.

    Attributes:
      step: at which it was saved.
      state: in the shape and on the devices of what `Checkpoints.restore` was given.
      about: as `Checkpoints.save` was given it.
    """

    step: int
    state: Any
    about: dict[str, Any]


class CheckpointError(OSError):
    """A checkpoint that could not be written; the message names the folder, what is still whole, and the remedy."""


class Checkpoints:
    """The checkpoints in a folder; a context manager, at whose end every save is on the disk.

    Of several processes all call `save` and `restore`; the first one alone writes and reads.

    Args:
      folder: made at the first save.
      background: write while the caller goes on; False: `save` returns when all is written.

    Example:
      >>> import tempfile, jax.numpy as jnp
      >>> from mecq_jax.training import Checkpoints
      >>> with tempfile.TemporaryDirectory() as folder, Checkpoints(folder) as store:
      ...     for step in (10, 20, 30):
      ...         store.save(step, {"w": jnp.full(2, float(step))}, {"epoch": step // 10})
      ...     last = store.restore({"w": jnp.zeros(2)})
      >>> last.step, last.state["w"].tolist(), last.about
      (30, [30.0, 30.0], {'epoch': 3})
    """

    def __init__(self, folder: str | PathLike[str], *, background: bool = True) -> None:
        self.folder, self.background = Path(folder).resolve(), background
        self.scores: dict[int, float] = {}
        self._manager: ocp.CheckpointManager | None = None

    def save(self, step: int, state: Any, about: Mapping[str, Any] | None = None, score: float | None = None) -> None:
        """Write `state` as checkpoint `step`; a failure of the save before this one is raised here.

        Args:
          step: of training.
          state: pytree of arrays. JAX's are copied first, so that a step may take their buffers over meanwhile.
          about: JSON to give back with the state.
          score: the higher the better; None where it was not measured.

        Raises:
          CheckpointError: if the disk is full or the folder cannot be written to.
        """
        host = host_arrays.host_copy(state)
        if not writes():
            return
        record = {"about": dict(about or {}), "score": score, "leaves": host_arrays.described(host)}
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(host), about=ocp.args.JsonSave(record | {"crc32": text_crc(record)})
        )
        try:
            self._open().wait_until_finished()
            shutil.rmtree(self.folder / _DROPPED, ignore_errors=True)
            if score is not None:
                self.scores[step] = score
            self._open().save(step, args=items, force=True)
        except Exception as error:
            raise self._failed(error) from error

    def wait(self) -> None:
        """Return when every save is on the disk."""
        try:
            if self._manager is not None:
                self._manager.wait_until_finished()
        except Exception as error:
            raise self._failed(error) from error

    def close(self) -> None:
        """Wait, and stop the threads; a second call does nothing."""
        manager, self._manager = self._manager, None
        try:
            if manager is not None:
                manager.close()
        except Exception as error:
            raise self._failed(error) from error
        if writes():
            shutil.rmtree(self.folder / _DROPPED, ignore_errors=True)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except CheckpointError:
            if error is None:  # else that one is what went wrong first
                raise

    def steps(self) -> list[int]:
        """Steps of the finished checkpoints, ascending."""
        return sorted(int(p.name) for p in self.folder.glob("*") if p.name.isdigit())

    def best(self) -> int | None:
        """The step with the highest score (of equal ones the last); None where none was measured."""
        return max(self.scores, key=lambda step: (self.scores[step], step), default=None)

    def restore(self, like: Any, step: int | None = None) -> Restored | None:
        """The last checkpoint that is whole, or the one at `step`; None if there is none.

        A damaged one is passed over with a warning, and moved to FOLDER/damaged.

        Args:
          like: the state's shape. Arrays go to the devices on which those of `like` are, whatever wrote them.
          step: of the checkpoint; None is the last.

        Raises:
          ValueError: if a whole checkpoint does not fit `like`, or none of several is whole.
        """
        self.wait()
        restored = of_first(lambda: self._last_whole(host_arrays.host_like(like), step))
        return restored and restored._replace(state=host_arrays.placed(restored.state, like))

    def _last_whole(self, wanted: Any, step: int | None) -> Restored | None:
        """The checkpoint to restore, its arrays on the host."""
        reasons: dict[int, str] = {}
        for candidate in reversed(self.steps()):
            if step not in (None, candidate):
                continue
            try:
                state, record = read(self.folder / str(candidate), wanted)
            except Damaged as error:
                reasons[candidate] = str(error)
                continue
            self._set_aside(reasons, candidate)
            self._read_scores()
            return Restored(candidate, state, record["about"])
        if reasons:
            why = "; ".join(f"{damaged}: {reason}" for damaged, reason in reasons.items())
            raise ValueError(
                f"no checkpoint in {self.folder} is whole ({why}); restore that folder from a backup, or delete it to "
                "train this part again"
            )
        return None

    def _set_aside(self, reasons: Mapping[int, str], instead: int) -> None:
        for step, why in reasons.items():
            target = self.folder / _DAMAGED / str(step)
            shutil.rmtree(target, ignore_errors=True)
            target.parent.mkdir(exist_ok=True)
            (self.folder / str(step)).rename(target)
            self.scores.pop(step, None)
            warnings.warn(
                f"checkpoint {self.folder / str(step)} is damaged ({why}): it is now {target}, and training goes on "
                f"from {self.folder / str(instead)}",
                stacklevel=6,
            )
        if reasons and self._manager is not None:
            self._manager.reload()

    def _open(self) -> ocp.CheckpointManager:
        if self._manager is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._read_scores()
            options = ocp.CheckpointManagerOptions(
                preservation_policy=_LastAndBest(self),
                enable_async_checkpointing=self.background,
                cleanup_tmp_directories=True,
                create=False,
                todelete_subdir=_DROPPED,
                multiprocessing_options=first_alone(),
            )
            self._manager = ocp.CheckpointManager(self.folder, options=options)
        return self._manager

    def _read_scores(self) -> None:
        for step in self.steps():
            try:
                score = about_of(self.folder / str(step))["score"]
            except Damaged:
                continue
            if score is not None:
                self.scores[step] = score

    def _failed(self, error: Exception) -> CheckpointError:
        whole = self.steps()
        kept = f"the last one, of step {whole[-1]}, is whole" if whole else "there is none before it"
        why = str(error).strip().split("\n")[0]
        if len(why) > 200:  # tensorstore names a file three times before it comes to the reason
            why = f"{why[:60]} ... {why[-120:]}"
        return CheckpointError(
            f"cannot write a checkpoint to {self.folder}: {why}\n{kept}; free space on that disk (or make the folder "
            "writable) and resume from this folder"
        )


class _LastAndBest(ocp.checkpoint_managers.PreservationPolicy):  # type: ignore[misc]  # orbax has no types
    """Keeps the `LAST` last checkpoints and the best."""

    def __init__(self, store: Checkpoints) -> None:
        self.store = store

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> Sequence[bool]:
        steps = [c.step for c in checkpoints]
        scores = {s: score for s, score in self.store.scores.items() if s in steps}
        self.store.scores = scores
        kept = {*steps[-LAST:], self.store.best()}
        return [s in kept for s in steps]


def save_checkpoint(folder: str | PathLike[str], step: int, state: Any) -> None:
    """Write `state` as checkpoint `step` of the folder, and return when it is on the disk.

    Args:
      folder: made if it is not there; its last two checkpoints are kept.
      step: of training.
      state: any pytree of arrays.

    Raises:
      CheckpointError: if the disk is full or the folder cannot be written to.

    Example:
      >>> import tempfile, jax.numpy as jnp
      >>> from mecq_jax.training import restore_checkpoint, save_checkpoint
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     save_checkpoint(folder, 10, {"w": jnp.ones(2)})
      ...     step, state = restore_checkpoint(folder, {"w": jnp.zeros(2)})
      >>> step, state["w"].tolist()
      (10, [1.0, 1.0])
    """
    with Checkpoints(folder, background=False) as store:
        store.save(step, state)


def restore_checkpoint(folder: str | PathLike[str], like: Any) -> tuple[int, Any] | None:
    """The step and the state of the folder's last whole checkpoint; None if there is none. See `save_checkpoint`.

    Args:
      folder: of `save_checkpoint`, or of `Checkpoints`.
      like: the state's shape, on the devices on which it shall be.
    """
    with Checkpoints(folder) as store:
        restored = store.restore(like)
    return restored and (restored.step, restored.state)
