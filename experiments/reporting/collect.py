"""Finished runs as rows and a table in the results:  python -m experiments.reporting collect NAME RUN ...

experiments/results/NAME/   rows.jsonl   a row a run: its config, versions, scores and bytes
                            log/RUN.jsonl   what each of its epochs was evaluated to
                            table.md     mean +- std over the seeds

Runs that differ in the seed alone (and in the float run that they start from) make one line.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import mecq_reader
from experiments.config import Config
from experiments.reporting.migrate import NAMES
from experiments.reporting.rows import RESULTS, Row, Rows, of_lines
from experiments.runtime import console
from experiments.runtime.formatting import mean_std
from experiments.runtime.run_folder import atomic_write_text, read_metrics, to_json
from experiments.tasks.base import MEASURES
from experiments.tasks.segmentation import pixel_accuracy

_FINAL = "final_hard_"
# Where and how safely a run was made, not what it is.
_AROUND = ("data_dir", "float_run", "workers", "checkpoint_steps", "checkpoint_seconds", "on_nan", "roll_backs")


def finished(folder: Path) -> bool:
    """Whether a folder holds a run that came to its end."""
    return bool(_finals(folder))


def _finals(folder: Path) -> list[Row]:
    path = folder / "metrics.jsonl"
    records = read_metrics(path) if path.is_file() else []
    return [r for r in records if any(name.startswith(_FINAL) for name in r)]


def row_of(folder: Path) -> Row:
    """What a finished run was and came to.

    Raises:
      ValueError: if it has not finished.
    """
    finals = _finals(folder)
    if not finals:
        raise ValueError(f"{folder} holds no finished run; go on with experiments.train --resume")
    measure = next(name.removeprefix(_FINAL) for name in finals[-1] if name.startswith(_FINAL))
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    start = folder
    if config["float_run"]:
        beside, named = folder.parent / Path(config["float_run"]).name, Path(config["float_run"])
        start = beside if beside.is_dir() else named
    config["data_dir"] = None  # of this machine
    gaps = [r["soft_to_hard_gap"] for r in read_metrics(folder / "metrics.jsonl") if "soft_to_hard_gap" in r]
    return {
        "run": folder.name,
        "measure": measure,
        "method": config["method"],
        "k": config["k"],
        "seed": config["seed"],
        **{name: finals[-1][f"final_{name}_{measure}"] for name in ("float", "soft", "hard")},
        "soft_to_hard_gap": gaps[-1] if gaps else None,
        "bytes": (folder / "model.safetensors").stat().st_size,
        "float_bytes": (start / "float.safetensors").stat().st_size,
        "details": _details(folder, measure),
        "weights": int(sum(x.size for x in mecq_reader.read_dense(folder / "model.safetensors").values())),
        "config": config,
        "versions": json.loads((folder / "versions.json").read_text(encoding="utf-8")),
    }


def _details(folder: Path, measure: str) -> dict[str, float]:
    """Further figures of the same outputs."""
    if measure != "miou":
        return {}
    return {"pixel_accuracy": pixel_accuracy(np.load(folder / "evaluated.npz")["predictions"].sum(axis=0))}


def of_config(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that make a run's result what it is, as JSON; those that are newer than the run by default."""
    known = {field.name for field in dataclasses.fields(Config)}
    if old := [name for name in fields if name in NAMES]:
        raise ValueError(
            f"{old[0]} is now {NAMES[old[0]]}; bring the rows and run folders to today's names by: "
            "python -m experiments.reporting migrate FOLDER"
        )
    whole = Config(**{name: value for name, value in fields.items() if name in known})
    return {name: value for name, value in to_json(dataclasses.asdict(whole)).items() if name not in _AROUND}


def table(rows: Sequence[Row]) -> str:
    """The rows as Markdown: the figure of the packed network on the test set, last epoch; float ones first, then from
    many levels to few, best first."""
    measure, *others = {row["measure"] for row in rows}
    if others:
        raise ValueError(f"runs of one measure make a table, these have {[measure, *others]}")
    kind = MEASURES[measure]
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(_name(row), []).append(row)
    for label, group in groups.items():
        first = of_config(group[0]["config"])
        differ = {name for row in group for name, value in of_config(row["config"]).items() if value != first[name]}
        if differ - {"seed"}:
            raise ValueError(f"runs of {label!r} differ in {sorted(differ - {'seed'})}; collect them by another name")
    sign = -1 if kind.higher_is_better else 1
    order = sorted(
        groups.values(), key=lambda g: (g[0]["method"] != "float", -g[0]["k"], sign * np.mean([r["hard"] for r in g]))
    )
    starts: dict[str, Row] = {}
    for row in rows:
        name = Path(row["config"]["float_run"] or row["run"]).name
        if (other := starts.setdefault(name, row))["float"] != row["float"]:
            raise ValueError(
                f"{other['run']} and {row['run']} start from two networks: {name} came to {other['float']}"
                f" and to {row['float']}; collect them by another name, or bring the first {name} back"
            )
    title = kind.title + (", %" if "%" in kind.sign else "")
    floats = [r["float"] for r in starts.values()]
    lines = [{"network": "float, as all start from", "seeds": str(len(starts)), title: kind.spread(floats)}]
    lines[0]["bytes"] = f"{rows[0]['float_bytes']:,}"
    for group in order:
        first = group[0]
        gaps = [r["soft_to_hard_gap"] for r in group if r["method"] != "float" and r["soft_to_hard_gap"] is not None]
        line = {"network": _name(first), "seeds": str(len(group)), title: kind.spread([r["hard"] for r in group])}
        line |= {"bytes": f"{first['bytes']:,}", "times smaller": f"{first['float_bytes'] / first['bytes']:.1f}"}
        line["soft to hard"] = kind.spread(gaps) if gaps else ""
        for name in first["details"]:
            further = [row["details"][name] for row in group]
            line[f"{name.replace('_', ' ')}, %"] = mean_std(further, factor=100)
        lines.append(line)
    return of_lines(lines)


def trains(row: Row) -> bool:
    """Whether a run trained its quantized network, rather than rounding what the float phase left."""
    return row["config"]["soft_epochs"] + row["config"]["hard_epochs"] > 0


def method_of(row: Row) -> str:
    """Its method with its prior, if that is not uniform: 'mec', 'mec_lloyd_max'."""
    prior = row["config"].get("prior")
    return f"{row['method']}_{prior}" if prior else row["method"]


def _name(row: Row) -> str:
    if row["method"] == "float":
        return "float, trained on"
    return f"{method_of(row)}, {row['k']} levels" + ("" if trains(row) else ", not trained")


def collect(out: Path, folders: Sequence[Path]) -> str:
    """Write rows, logs and table in the folder `out`; the table's text. Rows of other runs that are there stay."""
    kept = Rows(out)
    kept.rows = list({row["run"]: row for row in [*kept.rows, *map(row_of, folders)]}.values())
    text = table(kept.rows)
    for folder in folders:
        epochs = [r for r in read_metrics(folder / "metrics.jsonl") if "epoch" in r]
        atomic_write_text(out / "log" / f"{folder.name}.jsonl", "".join(json.dumps(r) + "\n" for r in epochs))
    kept.write()
    atomic_write_text(out / "table.md", text)
    return text


def main(arguments: Sequence[str]) -> int:
    """The command line."""
    parser = console.parser("reporting collect", __doc__)
    parser.add_argument("name", help="folder in experiments/results")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN_FOLDER")
    options = parser.parse_args(arguments)
    return console.status(lambda: print(collect(RESULTS / options.name, options.runs)))
