"""The tables of `experiments.published study`: all of one network, and one line for each network and width."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence

from experiments.reporting.rows import Row, of_lines
from experiments.runtime.formatting import mean_std, significant

WEIGHTS = ("nearest, absmax", "nearest, least squares", "transport, equal mass", "transport, Lloyd-Max masses")
TUNED = {"mec": "fine-tuned, MEC", "lsq": "fine-tuned, LSQ", "float": "float, trained on"}
METHODS = ("mec", "lsq")
_QUANTIZED = (*WEIGHTS, *(TUNED[method] for method in METHODS))
STATISTICS = ("own", "re-estimated")
_MASSES = {"lloyd_max": "Lloyd-Max masses", None: "equal mass", "learned": "trained masses"}


def detail(rows: Sequence[Row], title: str) -> str:
    """A line for each set of weights, with the accuracies by both kinds of statistics (mean +- std over seeds)."""
    lines = []
    for those in sorted(_kinds(rows), key=lambda those: -those[0]["key"]["bits"]):
        key = those[0]["key"]
        own, estimated = ([r["accuracy"] for r in those if r["key"]["statistics"] == of] for of in STATISTICS)
        line = {"bits": str(key["bits"]), "weights": key["weights"] + _steps(key), "levels per": key.get("groups", "")}
        line |= {
            "seeds": str(len(own)),
            "accuracy, %": _percent(own),
            "statistics re-estimated, %": _percent(estimated),
        }
        line |= {"squared error": significant(those[0].get("error"), 3), "bytes": f"{those[0]['bytes']:,}"}
        lines.append(line)
    return f"### {title}\n\n" + of_lines(lines, "---:")


def summary(networks: Mapping[str, Sequence[Row]]) -> str:
    """A line for each network, groups and number of bits, statistics re-estimated where they were; the first three
    figures are the float network's.

    Of fine-tunes that differ in their recipe, the one that was run with most seeds stands here, the later of equals.
    The float network is trained on by MEC's.
    """
    return of_lines([line for name, rows in sorted(networks.items()) for line in _lines(name, rows)], "---:")


def _lines(name: str, rows: Sequence[Row]) -> Iterator[dict[str, str]]:
    whole = {row["key"]["statistics"]: [row["accuracy"]] for row in rows if row["key"]["weights"] == "float"}
    own, estimated = (_percent(whole.get(of, [])) for of in STATISTICS)
    floats = {"float, %": own, "re-estimated, %": estimated}
    trained_on = [row for row in rows if row["key"]["weights"] == TUNED["float"]]
    rows = [row for row in rows if "groups" in row["key"]]
    places = {(row["key"]["groups"], row["key"]["bits"]) for row in rows}
    for groups, bits in sorted(places, key=lambda place: (place[0], -place[1])):
        here = [row for row in rows if (row["key"]["groups"], row["key"]["bits"]) == (groups, bits)]
        found = {weights: _most_seeds(here, weights) for weights in _QUANTIZED}
        recipes = [tuned["key"]["recipe"].items() for tuned in found[TUNED["mec"]][:1]]
        as_long = [row for row in trained_on if any(row["key"]["recipe"].items() <= recipe for recipe in recipes)]
        line = {"network": name, "examples": f"{here[0]['key']['test_images']:,}", **floats}
        line |= {"trained on, %": _accuracy(as_long), "bits": str(bits), "levels per": groups}
        line |= {f"{weights}, %": _accuracy(those) for weights, those in found.items()}
        yield {**line, "bytes": f"{here[0]['bytes']:,}"}


def _most_seeds(rows: Iterable[Row], weights: str) -> list[Row]:
    """Rows of these weights by the recipe that was run with most seeds, the later of equals."""
    kinds = _kinds(row for row in rows if row["key"]["weights"] == weights)
    return max(reversed(kinds), key=len, default=[])


def _accuracy(rows: Sequence[Row]) -> str:
    """With statistics re-estimated, or, where they were not, with the network's own."""
    last = [r["accuracy"] for r in rows if r["key"]["statistics"] == STATISTICS[1]]
    return _percent(last or [r["accuracy"] for r in rows])


def _kinds(rows: Iterable[Row]) -> list[list[Row]]:
    """Rows that differ in seed and statistics alone, together."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        kind = json.dumps([row["key"].get(name) for name in ("bits", "weights", "groups", "recipe", "temperature")])
        found.setdefault(kind, []).append(row)
    return list(found.values())


def _steps(key: Row) -> str:
    if "recipe" not in key:
        return ""
    recipe = key["recipe"]
    steps = f", {recipe['soft_steps'] + recipe['hard_steps']} steps, rate {recipe['learning_rate']:g}"
    if key["weights"] != TUNED["mec"]:
        return steps
    temperature = f"temperature from {recipe['temperature_start']:g} to {recipe['temperature_end']:g}"
    return f", {_MASSES[recipe.get('prior')]}, {temperature}{steps}"


def _percent(values: Sequence[float]) -> str:
    return mean_std(values, factor=100) if values else ""
