"""Pages name what is there: imports of the library, commands of the experiments, configs, links between files."""

import ast
import importlib
import importlib.util
import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.fast
ROOT = Path(__file__).resolve().parents[2]
FOLDERS = [ROOT / "docs" / name for name in ("", "guides", "exports", "results", "notebooks")]
PAGES = sorted(path for folder in FOLDERS for path in folder.glob("*.md"))
PAGES += [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "experiments/README.md")]
EARLIER = "## Earlier names"  # of commands, on their page


def text(page):
    return page.read_text(encoding="utf-8").partition(EARLIER)[0]


def by_name(page):
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=by_name)
def test_what_its_code_imports_is_there(page):
    for code in re.findall(
        r"^`{3,}(?:python|\{code-cell\}.*|\{testcode\})\n(.*?)^`{3,}$", text(page), re.DOTALL | re.M
    ):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom) and node.module.partition(".")[0] in ("mecq_jax", "mecq_reader"):
                module = importlib.import_module(node.module)
                assert not [alias.name for alias in node.names if not hasattr(module, alias.name)], node.module


@pytest.mark.parametrize("page", PAGES, ids=by_name)
def test_its_commands_are_there(page):
    for name, sub in re.findall(r"python -m (experiments\.\w+)(?: (\w+))?", text(page)):
        if name == "experiments.NAME":
            continue
        spec = importlib.util.find_spec(name)
        assert spec is not None, name
        if sub not in ("", "NAME", "SUBCOMMAND") and spec.submodule_search_locations and name != "experiments.arena":
            assert importlib.util.find_spec(f"{name}.{sub}") is not None, f"{name} {sub}"
    for config in re.findall(r"experiments/configs/[\w/]+\.py", text(page)):
        assert "CONFIG" in config or "NAME" in config or (ROOT / config).is_file(), config


@pytest.mark.parametrize("page", PAGES, ids=by_name)
def test_its_links_lead_to_files(page):
    links = re.findall(
        r"\]\((?!https?:|#)([^)#]+)[^)]*\)", re.sub(r"^```.*?^```$", "", text(page), flags=re.DOTALL | re.M)
    )
    assert not [link for link in links if not (page.parent / link).is_file()]


@pytest.mark.parametrize("page", PAGES, ids=by_name)
def test_it_names_no_machine(page):
    assert not re.search(r"(?<![\w.])/(?:work|tmp|root|home)/", text(page))
