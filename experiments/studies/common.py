"""What the studies share: fields from the command line, tables in Markdown, files written whole or not at all.

A study is a module with a `Config`, `compute(config) -> data`, `tables(data) -> [Table]` and `draw(path, data)`.
"""

import ast
import dataclasses
import inspect
import json
import os
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from experiments.reporting.rows import markdown
from experiments.runtime.run_folder import atomic_write_text, to_json, versions

RESULTS = Path(__file__).resolve().parents[1] / "results" / "studies"
C = TypeVar("C")


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of text: a title, the names of the columns, and rows as long as they."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def markdown(self) -> str:
        return f"### {self.title}\n\n" + markdown(self.columns, self.rows, "---:")


def significant(value: float | str | None, digits: int = 2) -> str:
    """`value` with so many significant digits; text (the name of a failure) as it is."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if value == 0 or 1e-3 <= abs(value) < 1e4:
        decimals = 0 if value == 0 else max(digits - 1 - int(f"{value:e}".split("e")[1]), 0)
        return f"{value:.{decimals}f}"
    return f"{value:.{digits - 1}e}"


def percent(value: float | str | None) -> str:
    """A share as per cent."""
    return value if isinstance(value, str) else significant(None if value is None else 100 * value)


def parse(kind: type[C], arguments: Sequence[str], name: str) -> tuple[C, Path]:
    """(configuration, folder) from '--field=value ...' and '--out DIR'; a field that is not there is refused."""
    defaults = {f.name: f.default for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    changes: dict[str, Any] = {}
    out, rest = RESULTS / name, list(arguments)
    while rest:
        field, equals, text = rest.pop(0).partition("=")
        field = field.removeprefix("--")
        if not equals:
            if not rest:
                raise ValueError(f"argument {field!r}: write --field=value")
            text = rest.pop(0)
        if field == "out":
            out = Path(text)
        elif field in defaults:
            changes[field] = _value(field, text, defaults[field])
        else:
            raise ValueError(f"unknown field {field!r}; the fields are {', '.join(defaults)}, and --out")
    return kind(**changes), out


def _value(field: str, text: str, default: Any) -> Any:
    """`text` as a value of the default's type; a field whose default is None holds text."""
    if default is None or isinstance(default, str):
        return None if text == "None" else text
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = text
    if isinstance(default, tuple) and not isinstance(value, tuple | list | str):
        value = (value,)
    if isinstance(default, float) and type(value) is int:
        value = float(value)
    if isinstance(default, tuple) and isinstance(value, list):
        value = tuple(value)
    if type(value) is not type(default):
        raise ValueError(f"{field} = {text!r} is not a {type(default).__name__} such as {default!r}")
    return value


def command(name: str, config: Any) -> str:
    """The command that computes this; the folder is left out, being of one machine."""
    changed = [f for f in dataclasses.fields(config) if getattr(config, f.name) != f.default]
    fields = [shlex.quote(f"--{f.name}={getattr(config, f.name)}") for f in changed]
    return " ".join([f"python -m experiments.studies.{name}", *fields])


def write(
    out: Path,
    name: str,
    config: Any,
    data: dict[str, Any],
    tables: Sequence[Table],
    draw: Callable[[Path, dict[str, Any]], None],
) -> str:
    """table.md, data.json and figure.png in the folder `out`; the text of the table."""
    out.mkdir(parents=True, exist_ok=True)
    with_what = versions()
    device = with_what["device"]
    packages = ", ".join(f"{k} {v}" for k, v in with_what.items() if isinstance(v, str) and k != "git")
    head = [
        f"    {command(name, config)}",
        "",
        f"Device: {device['count']} x {device['kind']} ({device['platform']}), {os.cpu_count()} cores; "
        f"{data['seconds']:.0f} s.",
        f"Versions: {packages}.",
        "",
    ]
    text = "\n".join([*head, *(table.markdown() for table in tables)])
    numbers = {"config": config, "command": command(name, config), "versions": with_what, **data}
    atomic_write_text(out / "data.json", json.dumps(to_json(numbers, "data"), indent=1) + "\n")
    temporary = out / f".figure.{os.getpid()}.png"
    try:
        draw(temporary, data)
        os.replace(temporary, out / "figure.png")
    finally:
        temporary.unlink(missing_ok=True)
    atomic_write_text(out / "table.md", text)
    return text


def main(module: Any, name: str, arguments: Sequence[str] | None) -> int:
    """The command line of the study `module`."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if {"-h", "--help"} & set(arguments):
        print(inspect.cleandoc(module.__doc__))
        print(*(f"  --{f.name}={f.default}" for f in dataclasses.fields(module.Config)), sep="\n")
        return 0
    try:
        config, out = parse(module.Config, arguments, name)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    start = time.perf_counter()
    data = module.compute(config)
    data["seconds"] = time.perf_counter() - start
    print(write(out, name, config, data, module.tables(data), module.draw))
    return 0
