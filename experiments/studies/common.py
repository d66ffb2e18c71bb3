"""What the studies share: the command line, and files written whole or not at all.

A study is a module with a `Config`, `compute(config) -> data`, `tables(data) -> [Markdown]` and `draw(path, data)`.
"""

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from experiments import config as configs
from experiments.reporting.rows import RESULTS, packages
from experiments.runtime import console
from experiments.runtime.run_folder import atomic_write_text, to_json, versions


def write(out: Path, study: ModuleType, config: Any, data: dict[str, Any]) -> str:
    """table.md, data.json and figure.png in the folder `out`; the text of the table."""
    with_what, command = versions(), console.command_line(_command(study), config)
    device = with_what["device"]
    head = [
        f"    {command}",
        "",
        f"Device: {device['count']} x {device['kind']} ({device['platform']}), {os.cpu_count()} cores; "
        f"{data['seconds']:.0f} s.",
        f"Versions: {packages(with_what)}.",
        "",
    ]
    text = "\n".join([*head, *study.tables(data)])
    numbers = {"config": config, "command": command, "versions": with_what, **data}
    atomic_write_text(out / "data.json", json.dumps(to_json(numbers, "data"), indent=1) + "\n")
    temporary = out / f".figure.{os.getpid()}.png"
    try:
        study.draw(temporary, data)
        os.replace(temporary, out / "figure.png")
    finally:
        temporary.unlink(missing_ok=True)
    atomic_write_text(out / "table.md", text)
    return text


def _command(study: ModuleType) -> str:
    return " ".join(study.__name__.split(".")[1:])


def main(study: ModuleType, arguments: Sequence[str]) -> int:
    """The command line of a study."""
    command = _command(study)
    parser = console.parser(command, console.with_fields(study.__doc__, study.Config))
    parser.add_argument("--out", type=Path, default=RESULTS.joinpath(*command.split()), help="folder of the results")
    options, overrides = parser.parse_known_args(arguments)

    def work() -> None:
        config, start = configs.override(study.Config(), overrides), time.perf_counter()
        data = study.compute(config)
        data["seconds"] = time.perf_counter() - start
        print(write(options.out, study, config, data))

    return console.status(work)
