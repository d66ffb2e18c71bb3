"""Copy result tables into the README, between `<!-- begin PATH -->` and `<!-- end -->`: python -m experiments.readme"""

import re
from pathlib import Path

from experiments.runtime.run_folder import atomic_write_text

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"(<!-- begin (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def filled(text: str) -> str:
    """`text` with each block holding its file."""
    return BLOCK.sub(lambda m: m[1] + (ROOT / m[2]).read_text(encoding="utf-8").rstrip("\n") + "\n" + m[3], text)


if __name__ == "__main__":
    readme = ROOT / "README.md"
    atomic_write_text(readme, filled(readme.read_text(encoding="utf-8")))
