"""A Sphinx extension: the library's docstrings are plain text with equations; this makes them safe reStructuredText.

* `name` in single backticks is code.
* An indented block outside a section (`Args:` and so on) is an equation or code, and stays as it is.
* `*`, `|` and a trailing `_` of formulas in running text are characters, not markup.
* Fields of a NamedTuple are described by its `Attributes:`, not once more as 'Alias for field number 0'.
"""

import re
from typing import Any

SECTION = re.compile(r"(Args|Attributes|Examples?|Notes?|Raises|References|Returns|Warns|Yields|Sources?):")
CODE = re.compile(r"(``[^`]+``|`[^`]+`)")


def plain(text: str) -> str:
    """A line of running text, with what reStructuredText would take for markup escaped outside backticks."""
    parts = CODE.split(text)
    for i, part in enumerate(parts):
        if i % 2:
            joined = i + 1 < len(parts) and re.match(r"\w", parts[i + 1])  # as in `Rule`s
            parts[i] = f"``{part.strip('`')}``" + ("\\ " if joined else "")
        else:
            parts[i] = re.sub(r"_(?=\W|$)", r"\\_", re.sub(r"([*|])", r"\\\1", part))
    return "".join(parts)


def process(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Rewrites the lines of a docstring in place, before napoleon reads its sections."""
    out: list[str] = []
    section = literal = doctest = False
    for line in lines:
        indented, blank = line.startswith(" "), not line.strip()
        if not indented and not blank:
            section, literal = bool(SECTION.fullmatch(line.strip())), False
        if blank:
            doctest = False
        elif indented and not section and not literal and (not out or not out[-1].strip()):
            out += ["::", ""]
            literal = True
        doctest = doctest or line.lstrip().startswith(">>>")
        out.append(line if blank or literal or doctest else plain(line))
    lines[:] = out


def skip(app: Any, what: str, name: str, obj: Any, skipped: bool, options: Any) -> bool | None:
    """Whether a member is left out; None leaves it to autodoc."""
    return True if str(getattr(obj, "__doc__", "")).startswith("Alias for field number") else None


def signature(
    app: Any, what: str, name: str, obj: Any, options: Any, arguments: str | None, returned: str | None
) -> tuple[str | None, str | None]:
    """Types by their public names."""
    arguments, returned = (text and text.replace("jaxlib._jax.Array", "Array") for text in (arguments, returned))
    return arguments, returned


def setup(app: Any) -> dict[str, bool]:
    app.setup_extension("sphinx.ext.autodoc")
    app.connect("autodoc-process-docstring", process, priority=400)
    app.connect("autodoc-process-signature", signature)
    app.connect("autodoc-skip-member", skip)
    return {"parallel_read_safe": True}
