"""Checkpoints of a run by orbax's CheckpointManager: written in the background, whole or not at all, checked when read.

FOLDER/<step>/state/    the leaves of a pytree of arrays
FOLDER/<step>/about/    JSON: where the run was, how good it was, and a checksum of every leaf
FOLDER/damaged/<step>/  what could not be read when an older checkpoint took its place

The last two are kept, and the best. Orbax writes under another name and renames; it also renames what it drops, so a
process killed at any moment leaves no half of a checkpoint under a step's name.
"""

import json
import shutil
import warnings
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp

from mecq_jax.training import _host_arrays as leaves
from mecq_jax.training._processes import of_first, writes

LAST = 2  # one that is damaged has one before it
_DROPPED = "dropped"
_DAMAGED = "damaged"


class Found(NamedTuple):
    """A checkpoint read back: its step, the state, and the `about` that `Checkpoints.save` was given."""

    step: int
    state: Any
    about: dict[str, Any]


class CheckpointError(OSError):
    """A checkpoint that could not be written; the message names the folder, what is still whole, and the remedy."""


class Damaged(Exception):
    """A checkpoint that is not what was written."""


class Checkpoints:
    """The checkpoints in a folder; a context manager, at whose end every save is on the disk.

    Of several processes all call `save` and `restore`; the first one alone writes and reads.

    folder: made at the first save.
    background: write while the caller goes on; False: `save` returns when all is written.
    """

    def __init__(self, folder: Path, *, background: bool = True):
        self.folder, self.background = folder.resolve(), background
        self.scores: dict[int, float] = {}
        self._manager: ocp.CheckpointManager | None = None

    def save(self, step: int, state: Any, about: Mapping[str, Any] | None = None, score: float | None = None) -> None:
        """Write `state` as checkpoint `step`; a failure of the save before this one is raised here.

        state: pytree of arrays. JAX's are copied first, so that a step may take their buffers over meanwhile.
        about: JSON to give back with the state; score: the higher the better, None where it was not measured.
        """
        host = leaves.host_copy(state)
        if not writes():
            return
        record = {"about": dict(about or {}), "score": score, "leaves": leaves.described(host)}
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(host), about=ocp.args.JsonSave(record | {"crc32": _text_crc(record)})
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

    def restore(self, like: Any, step: int | None = None) -> Found | None:
        """The last checkpoint that is whole, or the one at `step`; None if there is none.

        like: the state's shape. Arrays go to the devices on which those of `like` are, whatever wrote them.
        A damaged one is passed over with a warning, and moved to FOLDER/damaged.

        Raises:
          ValueError: if a whole checkpoint does not fit `like`, or none of several is whole.
        """
        self.wait()
        found = of_first(lambda: self._last_whole(leaves.host_like(like), step))
        return found and found._replace(state=leaves.placed(found.state, like))

    def _last_whole(self, wanted: Any, step: int | None) -> Found | None:
        """The checkpoint to restore, its arrays on the host."""
        steps = [s for s in reversed(self.steps()) if step in (None, s)]
        reasons: dict[int, str] = {}
        for found in steps:
            try:
                state, record = self._read(found, wanted)
            except Damaged as error:
                reasons[found] = str(error)
                continue
            self._set_aside(reasons, found)
            self._read_scores()
            return Found(found, state, record["about"])
        if reasons:
            told = "; ".join(f"{s}: {why}" for s, why in reasons.items())
            raise ValueError(
                f"no checkpoint in {self.folder} is whole ({told}); restore that folder from a backup, or "
                "delete it to train this part of the run again"
            )
        return None

    def _read(self, step: int, wanted: Any) -> tuple[Any, dict[str, Any]]:
        path = self.folder / str(step)
        if (path / "_METADATA").exists():
            raise ValueError(
                f"{path} was written by an earlier version of this project, which kept one checkpoint an "
                f"epoch; finish the run with that version, or delete {self.folder}"
            )
        record = _about(path)
        if differ := leaves.mismatch(record["leaves"], wanted):
            raise ValueError(
                f"checkpoint {path} is of another model or recipe: {differ}; resume with the config of "
                "the run, or choose another folder"
            )
        try:
            with ocp.StandardCheckpointer(multiprocessing_options=_first_alone()) as reader:
                host = reader.restore(path / "state", wanted)
            got = leaves.described(host)
        except (PermissionError, MemoryError):  # nothing is wrong with the checkpoint
            raise
        except Exception as error:  # what orbax raises of a broken file depends on which
            raise Damaged(f"{type(error).__name__} in reading it") from error
        if wrong := [name for name, leaf in got.items() if leaf != record["leaves"][name]]:
            raise Damaged(f"{wrong[0]} is not what was written, by its checksum")
        return host, record

    def _set_aside(self, reasons: Mapping[int, str], instead: int) -> None:
        for step, why in reasons.items():
            target = self.folder / _DAMAGED / str(step)
            shutil.rmtree(target, ignore_errors=True)
            target.parent.mkdir(exist_ok=True)
            (self.folder / str(step)).rename(target)
            self.scores.pop(step, None)
            warnings.warn(
                f"checkpoint {self.folder / str(step)} is damaged ({why}): it is now {target}, and the run "
                f"goes on from {self.folder / str(instead)}",
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
                multiprocessing_options=_first_alone(),
            )
            self._manager = ocp.CheckpointManager(self.folder, options=options)
        return self._manager

    def _read_scores(self) -> None:
        for step in self.steps():
            try:
                score = _about(self.folder / str(step))["score"]
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
            f"cannot write a checkpoint to {self.folder}: {why}\n{kept}; free space on that disk (or make the "
            "folder writable) and go on with --resume"
        )


def _first_alone() -> ocp.options.MultiprocessingOptions:
    """The first process waits for no other: it alone has called orbax."""
    several = jax.process_count() > 1
    return ocp.options.MultiprocessingOptions(
        active_processes={0} if several else None, barrier_sync_key_prefix="first" if several else None
    )


class _LastAndBest(ocp.checkpoint_managers.PreservationPolicy):
    """Keeps the `LAST` last checkpoints and the best."""

    def __init__(self, store: Checkpoints):
        self.store = store

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> Sequence[bool]:
        steps = [c.step for c in checkpoints]
        scores = {s: score for s, score in self.store.scores.items() if s in steps}
        self.store.scores = scores
        kept = {*steps[-LAST:], self.store.best()}
        return [s in kept for s in steps]


def save_checkpoint(folder: Path, step: int, state: Any) -> None:
    """Write `state` (a pytree of arrays) as checkpoint `step` of the folder, and return when it is on the disk."""
    with Checkpoints(folder, background=False) as store:
        store.save(step, state)


def restore_checkpoint(folder: Path, like: Any) -> tuple[int, Any] | None:
    """The last whole checkpoint in the shape of `like`, with its step; None if there is none."""
    with Checkpoints(folder) as store:
        found = store.restore(like)
    return found and (found.step, found.state)


def _about(path: Path) -> dict[str, Any]:
    """The checked record of a checkpoint."""
    try:
        record = json.loads((path / "about" / "metadata").read_text(encoding="utf-8"))
        crc = record.pop("crc32")
    except PermissionError:
        raise
    except (OSError, ValueError, AttributeError, KeyError, TypeError) as error:
        raise Damaged(f"its record cannot be read: {type(error).__name__}") from error
    if crc != _text_crc(record):
        raise Damaged("its record is not what was written, by its checksum")
    return record


def _text_crc(record: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(record, sort_keys=True).encode())
