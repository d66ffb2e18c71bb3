"""The tables of `experiments.published study`: all of one network, and one line for each network and width."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence

from experiments.reporting.rows import Row, markdown, section
from experiments.runtime.formatting import mean_std, significant

WEIGHTS = ("nearest, absmax", "nearest, least squares", "transport, equal mass", "transport, Lloyd-Max masses")
TUNED = {"mec": "fine-tuned, MEC", "lsq": "fine-tuned, LSQ", "float": "float, trained on"}
METHODS = ("mec", "lsq")
_QUANTIZED = (*WEIGHTS, *(TUNED[method] for method in METHODS))
STATISTICS = ("own", "re-estimated")
_MASSES = {"lloyd_max": "Lloyd-Max masses", None: "equal mass", "learned": "trained masses"}


def detail(rows: Sequence[Row], title: str) -> str:
    """A line for each set of weights, with the accuracies by both kinds of statistics (mean +- std over seeds)."""
    columns = (
        "bits",
        "weights",
        "levels per",
        "seeds",
        "accuracy, %",
        "statistics re-estimated, %",
        "squared error",
        "bytes",
    )
    lines = []
    for those in sorted(_kinds(rows), key=lambda those: -those[0]["key"]["bits"]):
        key = those[0]["key"]
        accuracies = {of: [r["accuracy"] for r in those if r["key"]["statistics"] == of] for of in STATISTICS}
        lines.append(
            (
                str(key["bits"]),
                key["weights"] + _steps(key),
                key.get("groups", ""),
                str(len(accuracies["own"])),
                *map(_percent, accuracies.values()),
                significant(those[0].get("error"), 3),
                f"{those[0]['bytes']:,}",
            )
        )
    return section(title, columns, lines)


def summary(networks: Mapping[str, Sequence[Row]]) -> str:
    """A line for each network, groups and number of bits, statistics re-estimated where they were; the first three
    figures are the float network's.

    Of fine-tunes that differ in their recipe, the one that was run with most seeds stands here, the later of equals.
    The float network is trained on by MEC's.
    """
    columns = (
        "network",
        "examples",
        "float, %",
        "re-estimated, %",
        "trained on, %",
        "bits",
        "levels per",
        *(f"{w}, %" for w in _QUANTIZED),
        "bytes",
    )
    lines = [line for name, rows in sorted(networks.items()) for line in _lines(name, rows)]
    used = [i for i in range(len(columns)) if any(line[i] for line in lines)]
    return markdown([columns[i] for i in used], [[line[i] for i in used] for line in lines], "---:")


def _lines(name: str, rows: Sequence[Row]) -> Iterator[list[str]]:
    whole = {row["key"]["statistics"]: [row["accuracy"]] for row in rows if row["key"]["weights"] == "float"}
    floats = [_percent(whole.get(of, [])) for of in STATISTICS]
    trained_on = [row for row in rows if row["key"]["weights"] == TUNED["float"]]
    rows = [row for row in rows if "groups" in row["key"]]
    places = {(row["key"]["groups"], row["key"]["bits"]) for row in rows}
    for groups, bits in sorted(places, key=lambda place: (place[0], -place[1])):
        own = [row for row in rows if (row["key"]["groups"], row["key"]["bits"]) == (groups, bits)]
        found = {weights: _most_seeds(own, weights) for weights in _QUANTIZED}
        as_long = [
            row
            for row in trained_on
            for tuned in found[TUNED["mec"]][:1]
            if row["key"]["recipe"].items() <= tuned["key"]["recipe"].items()
        ]
        yield [
            name,
            f"{own[0]['key']['test_images']:,}",
            *floats,
            _accuracy(as_long),
            str(bits),
            groups,
            *map(_accuracy, found.values()),
            f"{own[0]['bytes']:,}",
        ]


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
