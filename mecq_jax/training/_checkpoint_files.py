"""One checkpoint in its folder: read and checked against what was written."""

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from mecq_jax.training import _host_arrays as host_arrays


class Damaged(Exception):
    """A checkpoint that is not what was written."""


def read(path: Path, wanted: Any) -> tuple[Any, dict[str, Any]]:
    """The state in a checkpoint's folder, on the host, and its record.

    Args:
      path: FOLDER/<step>.
      wanted: the state's shape, of `host_like`.

    Raises:
      Damaged: if it is not what was written.
      ValueError: if it is whole and does not fit `wanted`.
    """
    if (path / "_METADATA").exists():
        raise ValueError(
            f"{path} was written by an earlier version of this library; finish the training with that version, or "
            f"delete {path.parent}"
        )
    record = about_of(path)
    if differ := host_arrays.mismatch(record["leaves"], wanted):
        raise ValueError(
            f"checkpoint {path} is of another model or recipe: {differ}; resume with the model and the settings that "
            "wrote it, or choose another folder"
        )
    try:
        with ocp.StandardCheckpointer(multiprocessing_options=first_alone()) as reader:
            host = reader.restore(path / "state", wanted)
        got = host_arrays.described(host)
    except (PermissionError, MemoryError):  # nothing is wrong with the checkpoint
        raise
    except Exception as error:  # what orbax raises of a broken file depends on which
        raise Damaged(f"{type(error).__name__} in reading it") from error
    if wrong := [name for name, leaf in got.items() if leaf != record["leaves"][name]]:
        raise Damaged(f"{wrong[0]} is not what was written, by its checksum")
    return host, record


def about_of(path: Path) -> dict[str, Any]:
    """The checked record of a checkpoint.

    Raises:
      Damaged: if it is not what was written.
    """
    try:
        record: dict[str, Any] = json.loads((path / "about" / "metadata").read_text(encoding="utf-8"))
        crc = record.pop("crc32")
    except PermissionError:
        raise
    except (OSError, ValueError, AttributeError, KeyError, TypeError) as error:
        raise Damaged(f"its record cannot be read: {type(error).__name__}") from error
    if crc != text_crc(record):
        raise Damaged("its record is not what was written, by its checksum")
    return record


def text_crc(record: Mapping[str, Any]) -> int:
    """The checksum of a record as JSON."""
    return zlib.crc32(json.dumps(record, sort_keys=True).encode())


def first_alone() -> ocp.options.MultiprocessingOptions:
    """The first process waits for no other: it alone has called orbax."""
    several = jax.process_count() > 1
    return ocp.options.MultiprocessingOptions(
        active_processes={0} if several else None, barrier_sync_key_prefix="first" if several else None
    )
