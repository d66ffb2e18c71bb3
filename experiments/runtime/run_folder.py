"""A run's folder: its configuration, the versions it ran with, and its metrics.

config.json, versions.json   written once; where a later start changes them, the old stay as *.1.json, ...
metrics.jsonl                one JSON object a line, {"step": int, name: float or null}
tensorboard/                 the same scalars, when tensorboardX is installed
"""

import dataclasses
import importlib.metadata
import json
import math
import os
import platform
import subprocess
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import jax
import numpy as np

from mecq_jax.storage import write_atomically

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "ott-jax", "numpy", "mecq-jax")


class RunFolder:
    """The folder of one run, open for logging; a context manager.

    root: the folder, made if need be.
    config: what defines the run; mappings, sequences, data classes, paths and scalars, nested.
    resume: False starts the run anew, and refuses a folder that holds another config; a folder with the same
        config has its metrics emptied. True goes on where the folder left off (see `resume_at`), also with
        a changed config.
    defaults: what stood in fields that a folder of an earlier version lacks.
    """

    def __init__(
        self,
        root: str | os.PathLike,
        config: Mapping[str, Any],
        resume: bool = False,
        defaults: Mapping[str, Any] | None = None,
    ):
        self.root = Path(root)
        self.metrics_path = self.root / "metrics.jsonl"
        self._board: Any = None
        self._board_tried = False
        self._purge_step: int | None = None
        plain = to_json(config)
        if not resume:
            _refuse_other_config(self.root / "config.json", plain, to_json(defaults or {}))
        self.root.mkdir(parents=True, exist_ok=True)
        for left in self.root.glob(".*.tmp*"):  # by a process that was killed while it wrote
            left.unlink(missing_ok=True)
        _replace_keeping(self.root / "config.json", plain)
        _replace_keeping(self.root / "versions.json", versions())
        if not resume:
            for events in (self.root / "tensorboard").glob("events.out.tfevents.*"):
                events.unlink()
        _keep_lines(self.metrics_path, lambda record: resume)
        self._metrics = self.metrics_path.open("ab", buffering=0)

    def log(self, step: int, **scalars: Any) -> None:
        """Appends one line, flushed: `step` and each scalar as a float; what is not finite is null.

        step: int, the train step that the scalars belong to.
        scalars: numbers, or arrays of one element.
        """
        if self._metrics.closed:
            raise ValueError(f"run folder {self.root} is closed; open it again with resume=True to log")
        values = {name: _to_float(name, value) for name, value in scalars.items()}
        record = {"step": int(step)} | {n: v if math.isfinite(v) else None for n, v in values.items()}
        rest = (json.dumps(record) + "\n").encode()
        try:
            while rest:  # a disk that is almost full takes a part and then refuses
                rest = rest[self._metrics.write(rest) :]
        except OSError as error:
            raise OSError(
                error.errno,
                f"{error.strerror}: cannot log to {self.metrics_path}; free space on that disk and go on with --resume",
            ) from error
        board = self._tensorboard()
        for name, value in values.items() if board is not None else ():
            if math.isfinite(value):
                board.add_scalar(name, value, int(step))

    def sync(self) -> None:
        """Returns when what was logged is on the disk, should the machine lose its power."""
        os.fsync(self._metrics.fileno())

    def resume_at(self, step: int) -> None:
        """Drops what was logged after `step` (greater steps, and a run's `final_` figures), atomically."""
        self._metrics.close()
        self._close_board()
        _keep_lines(self.metrics_path, lambda record: record["step"] <= step and not _is_final(record))
        self._metrics = self.metrics_path.open("ab", buffering=0)
        self._purge_step = int(step) + 1

    def close(self) -> None:
        """Closes the files; a second call does nothing."""
        self._metrics.close()
        self._close_board()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _tensorboard(self) -> Any:
        """The TensorBoard writer, or None without tensorboardX."""
        if not self._board_tried:
            self._board_tried = True
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # protobuf warns of deprecations at import
                try:
                    from tensorboardX import SummaryWriter
                except ImportError:
                    return None
                self._board = SummaryWriter(str(self.root / "tensorboard"), purge_step=self._purge_step)
        return self._board

    def _close_board(self) -> None:
        if self._board is not None:
            self._board.close()
        self._board, self._board_tried = None, False


class Unwritten:
    """The folder of a run as the processes see it that do not write: what is logged is dropped."""

    def __init__(self, root: str | os.PathLike):
        self.root = Path(root)

    def log(self, step: int, **scalars: Any) -> None:
        """Nothing."""

    def sync(self) -> None:
        """Nothing."""

    def resume_at(self, step: int) -> None:
        """Nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def read_metrics(path: str | os.PathLike) -> list[dict[str, Any]]:
    """The records of a metrics.jsonl, in the order logged; a last line cut short by a crash is left out."""
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    records = []
    for number, line in enumerate(lines, 1):
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError as error:
            if number < len(lines):
                raise ValueError(f"{path}, line {number}, is not JSON: {line!r}; delete that line") from error
    return records


def atomic_write_text(path: str | os.PathLike, text: str) -> None:
    """Writes `text` to `path` (UTF-8), in a folder that is made if need be: a reader sees the old file or the new."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_atomically(Path(path), bytes(text, "utf-8"))


def versions() -> dict[str, Any]:
    """What the run ran with: Python, packages (None: not installed), device, and the code's git commit."""
    device = jax.devices()[0]
    return {
        "python": platform.python_version(),
        **{name: _version(name) for name in _PACKAGES},
        "device": {"platform": device.platform, "kind": device.device_kind, "count": jax.device_count()},
        "git": _git(Path(__file__).resolve().parent),
    }


def to_json(value: Any, name: str = "config") -> Any:
    """`value` as JSON's own types: data classes as objects, tuples as lists, paths and infinities as strings.

    name: how an error calls the value.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_json(item, f"{name}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(item, f"{name}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, os.PathLike) or (isinstance(value, float) and not math.isfinite(value)):
        return str(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(
        f"{name} is a {type(value).__name__}, must be a number, string, bool, None, path, or a mapping, "
        "sequence or data class of these; convert it before making the run folder"
    )


def _to_float(name: str, value: Any) -> float:
    array = np.asarray(value)
    if array.size != 1:
        raise ValueError(f"scalar {name!r} has shape {array.shape}, must have one element; log its mean, say")
    return float(array.reshape(()))


def _keep_lines(path: Path, keep: Callable[[dict[str, Any]], bool]) -> None:
    """Rewrites a metrics.jsonl, atomically, with the records that `keep` says; makes it if there is none."""
    records = read_metrics(path) if path.exists() else []
    atomic_write_text(path, "".join(json.dumps(record) + "\n" for record in records if keep(record)))


def _is_final(record: dict[str, Any]) -> bool:
    return any(name.startswith("final_") for name in record)


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """{dotted name: leaf} of nested mappings."""
    if not isinstance(value, Mapping) or not value:
        return {prefix: value}
    return {k: v for key, item in value.items() for k, v in _flat(item, f"{prefix}.{key}".strip(".")).items()}


def _refuse_other_config(path: Path, config: Any, defaults: Any) -> None:
    if differ := differences(path, config, defaults):
        raise FileExistsError(
            f"{path.parent} holds a run with another config:\n"
            + "\n".join(differ)
            + "\nChoose another folder, delete this one, or resume it (resume=True). Old names of fields become "
            "today's by: python -m experiments.reporting migrate FOLDER"
        )


def differences(path: Path, value: Any, defaults: Any = None) -> list[str]:
    """A line for each field in which the JSON file differs from `value`; none if there is no file.

    defaults: what stood in fields that the file lacks, being older than they.
    """
    if not path.exists():
        return []
    old, new = (_flat(defaults) if defaults else {}), _flat(value)
    old |= _flat(json.loads(path.read_text(encoding="utf-8")))
    return [
        f"  {name}: {json.dumps(old[name]) if name in old else 'absent'} in the folder, "
        f"{json.dumps(new[name]) if name in new else 'absent'} now"
        for name in sorted(old.keys() | new.keys())
        if name not in old or name not in new or old[name] != new[name]
    ]


def _replace_keeping(path: Path, value: Any) -> None:
    """Writes `value` as JSON; a different file that was there stays as NAME.1.json, NAME.2.json, ..."""
    text = json.dumps(value, indent=2, allow_nan=False) + "\n"
    if path.exists() and (old := path.read_text(encoding="utf-8")) != text:
        number = 1
        while (kept := path.with_suffix(f".{number}{path.suffix}")).exists():
            number += 1
        atomic_write_text(kept, old)
    atomic_write_text(path, text)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git(folder: Path) -> dict[str, Any] | None:
    """{"commit", "dirty": tracked files changed} of the code in `folder`; None without git or a commit."""
    try:
        commit = _run_git(folder, "rev-parse", "--verify", "HEAD")
        dirty = bool(_run_git(folder, "status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit, "dirty": dirty}


def _run_git(folder: Path, *arguments: str) -> str:
    command = ["git", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True, timeout=30)
    return done.stdout.strip()
