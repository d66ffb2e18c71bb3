"""Bring kept rows and run folders to today's field names:  python -m experiments.reporting migrate FOLDER ...

Below each FOLDER are rewritten, where they hold old names:

rows.jsonl, rows.json, data.json, arena.json   of runs, arenas, ablations and published networks
config.json, config.N.json, metrics.jsonl      of run folders
checkpoints/* tuned.json                       what an arena in the making has tuned

`NAMES`, `TASKS` and `TEXTS` say what becomes what. In these records epsilon always was relative to var(w), which is the
temperature; rows of benchmarks, of exports and of the studies of the transport are left alone, for there it is epsilon.
Packed files, TensorBoard logs and tables in Markdown are not touched: `renamed` brings a config out of a packed file to
today's names, and tables are written again from their rows. Everything is read and checked before anything is written;
each file is replaced whole; the same command again changes nothing, or goes on where it was interrupted. Give it no
folder to which a run is writing.
"""

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments.runtime import console

# Fields, wherever they are in a record.
NAMES = {
    "epsilon_start": "temperature_start",
    "epsilon_end": "temperature_end",
    "epsilon_hold": "temperature_hold",
    "epsilon": "temperature",
    "certain": "certain_share",
    "lowest_mass": "min_level_mass",
}
# Beside these, of the recipe of a published network's fine-tune, which always counted steps.
STEPS = {"soft_epochs": "soft_steps", "hard_epochs": "hard_steps"}
# Values of the field `task` (in metrics it is a number, the task's loss).
TASKS = {"classify": "classification", "segment": "segmentation", "language": "language"}
# Parts of texts: names of ablations, and the command behind the rows of a published network.
TEXTS = {
    "change": {"epsilon": "temperature"},
    "command": {
        "experiments.studies.pretrained": "experiments.published study",
        "--epsilon_": "--temperature_",
        "--epsilon=": "--temperature=",
    },
}


class UnknownError(ValueError):
    """A record that this migration does not know; the message names the file and what is wrong."""


class Change(NamedTuple):
    """A file's new text, and how often each name or value becomes which."""

    path: Path
    text: str
    renames: Counter[str]


def renamed(value: Any, count: Counter[str] | None = None, names: Mapping[str, str] = NAMES) -> Any:
    """A record of a training run, as JSON data, under today's names; one that has them already comes back the same.

    Args:
      value: config, row or metrics, whatever they are nested in.
      count: counts what is renamed.
      names: of fields.

    Raises:
      UnknownError: at a task or a field of epsilon that is unknown, or at an old name beside its new one.
    """
    count = Counter() if count is None else count
    if isinstance(value, list):
        return [renamed(item, count, names) for item in value]
    if not isinstance(value, dict):
        return value
    out: dict[str, Any] = {}
    for name, item in value.items():
        new = names.get(str(name), str(name))
        if new != name and new in value:
            raise UnknownError(f"it holds both {name!r} and {new!r}; delete the one that is wrong")
        if "epsilon" in new:
            raise UnknownError(f"its field {name!r} is of no known meaning; add it to NAMES in {Path(__file__).name}")
        inner = NAMES | STEPS if name == "recipe" and "network" in value else names
        out[new] = _text(name, item) if isinstance(item, str) else renamed(item, count, inner)
        if new != name:
            count[f"{name} -> {new}"] += 1
        if isinstance(item, str) and out[new] != item:
            count[f"{item} -> {out[new]}" if name == "task" else f"text of {name}"] += 1
    return out


def _text(name: str, value: str) -> str:
    if name == "task":
        if value not in TASKS and value not in TASKS.values():
            raise UnknownError(f"its task {value!r} is none of {', '.join([*TASKS, *TASKS.values()])}")
        return TASKS.get(value, value)
    for old, new in TEXTS.get(name, {}).items():
        value = value.replace(old, new)
    return value


def _is_of_training(row: Any) -> bool:
    """Whether a row's names are those of training: of a run, an arena, an ablation or a published network."""
    fields = set(row) if isinstance(row, dict) else set()
    key = row.get("key") if fields else None
    if {"run", "measure", "config"} <= fields or {"change", "fields"} <= fields:
        return True
    if isinstance(key, dict) and "network" in key:
        return True
    if isinstance(key, str):  # of an arena, or of a benchmark or an export
        return {"grid", "chosen", "config"} <= fields
    raise UnknownError(f"a row of no known kind, with the fields {', '.join(sorted(fields)) or 'none'}")


def _lines(path: Path, text: str, count: Counter[str]) -> str:
    """A file of a record a line; lines in which nothing changes stay as they are."""
    lines = text.split("\n")
    for i, line in enumerate(lines):
        torn = path.name == "metrics.jsonl" and i == len(lines) - 1  # by a crash; whoever goes on drops it
        if line == "" and i == len(lines) - 1:
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            if torn:
                continue
            raise UnknownError(f"{path}, line {i + 1}, is not JSON; mend or delete that line") from error
        try:
            new = renamed(record, count) if path.name == "metrics.jsonl" or _is_of_training(record) else record
        except UnknownError as error:
            raise UnknownError(f"{path}, line {i + 1}: {error}") from error
        if new != record:
            lines[i] = json.dumps(new, ensure_ascii=line.isascii())
    return "\n".join(lines)


def _whole(path: Path, text: str, count: Counter[str]) -> str:
    """A file of one JSON value; its indentation stays."""
    try:
        record = json.loads(text)
    except json.JSONDecodeError as error:
        raise UnknownError(f"{path} is not JSON ({error}); mend or delete it") from error
    fields = set(record) if isinstance(record, dict) else set()
    known, training = True, True
    if path.name == "rows.json":  # of stories: no field of it was renamed
        known, training = {"budget", "rows"} <= fields, False
    elif path.name == "data.json":  # else of a study of the transport, whose epsilon is absolute
        training = {"command", "config", "rows"} == fields and "network" in (record["config"] or {})
    elif path.name == "arena.json":
        known = "config" in fields
    elif path.name.startswith("config."):
        known = bool(fields)
    if not known:
        raise UnknownError(f"{path} is not what its name says, with the fields {', '.join(sorted(fields)) or 'none'}")
    if not training:
        return text
    try:
        new = renamed(record, count)
    except UnknownError as error:
        raise UnknownError(f"{path}: {error}") from error
    if new == record:
        return text
    head, _, second = text.partition("\n")
    indent = len(second) - len(second.lstrip(" ")) if head.strip() in ("{", "[") else None
    return json.dumps(new, indent=indent, ensure_ascii=text.isascii()) + text[len(text.rstrip()) :]


def kept_files(folder: Path) -> Iterator[Path]:
    """What may hold old names below a folder."""
    if not folder.is_dir():
        raise UnknownError(f"{folder} is no folder")
    for root, folders, names in os.walk(folder):
        here = Path(root)
        if "checkpoints" in folders:  # many files, and none of them JSON of ours but these
            folders.remove("checkpoints")
            yield from sorted((here / "checkpoints").glob("* tuned.json"))
        folders.sort()
        wanted = {"rows.jsonl", "rows.json", "data.json", "arena.json"} & set(names)
        if {"config.json", "versions.json", "metrics.jsonl"} <= set(names):  # other programs have a config.json too
            wanted |= {"metrics.jsonl", "config.json"}
            wanted |= {n for n in names if n.startswith("config.") and n[7:].removesuffix(".json").isdigit()}
        yield from (here / name for name in sorted(wanted))


def changes(folders: Sequence[Path]) -> list[Change]:
    """The files that are to be rewritten; nothing is written yet.

    Raises:
      UnknownError: where a folder holds nothing that is known, or a file something that is not.
    """
    out: dict[Path, Change] = {}
    for folder in folders:
        files = list(kept_files(folder))
        if not files:
            raise UnknownError(f"{folder} holds neither rows nor a run folder")
        for path in files:
            with path.open(encoding="utf-8", newline="") as file:
                text = file.read()
            count: Counter[str] = Counter()
            new = (_lines if path.suffix == ".jsonl" else _whole)(path, text, count)
            if new != text:
                out[path.resolve()] = Change(path, new, count)
    return list(out.values())


def replace(path: Path, text: str) -> None:
    """Write a file beside the old one and rename it over that: it is there whole, old or new, at any moment."""
    path = path.resolve()
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        shutil.copymode(path, temporary)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def has_old_checkpoints(change: Change) -> bool:
    """Whether a run or an arena in the making, whose config this file holds, left the state of the old layout."""
    if change.path.name not in ("config.json", "arena.json"):
        return False
    return any(change.path.parent.glob("checkpoints/*/[0-9]*/"))


def main(arguments: Sequence[str]) -> int:
    """The command line."""
    parser = console.parser("reporting migrate", __doc__)
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    options = parser.parse_args(arguments)

    def work() -> None:
        found = changes(options.folders)
        for change in found:
            if has_old_checkpoints(change):
                print(
                    f"{change.path.parent}: its checkpoints have the state's old layout and cannot be resumed; start "
                    "it anew, or finish it with the version that began it"
                )
            replace(change.path, change.text)
            print(f"{change.path}: {', '.join(f'{name} ({n})' for name, n in sorted(change.renames.items()))}")
        print(f"{len(found)} files rewritten" if found else "nothing to change")

    return console.status(work)
