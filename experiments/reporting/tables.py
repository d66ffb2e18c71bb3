"""Write the README's table from rows, and copy result tables into it:  python -m experiments.reporting tables

Each `<!-- begin PATH -->` is followed by the file at that path, up to `<!-- end -->`.
"""

import re
from collections.abc import Sequence

from experiments.reporting import summary
from experiments.reporting.rows import RESULTS
from experiments.runtime import console
from experiments.runtime.run_folder import atomic_write_text

ROOT = RESULTS.parents[1]
BLOCK = re.compile(r"(<!-- begin (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def filled(text: str) -> str:
    """`text` with each block holding its file."""
    return BLOCK.sub(lambda m: m[1] + (ROOT / m[2]).read_text(encoding="utf-8").rstrip("\n") + "\n" + m[3], text)


def main(arguments: Sequence[str]) -> int:
    """The command line."""
    console.parser("reporting tables", __doc__).parse_args(arguments)

    def write() -> None:
        readme = ROOT / "README.md"
        atomic_write_text(summary.PATH, summary.text())
        atomic_write_text(readme, filled(readme.read_text(encoding="utf-8")))

    return console.status(write)
