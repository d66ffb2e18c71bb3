"""One-way imports: a module imports only from those above it in this list."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import mecq_jax

pytestmark = pytest.mark.fast
ORDER = [
    "reader", "grouping", "packing", "codebook", "streaming", "semidual", "starts", "newton", "transport", "assignment",
    "quantizer", "mec", "rounding", "uniform", "nonuniform", "annealed", "catalog",
    "rules", "tree", "layers", "losses", "training", "sharding", "hardening", "artifact", "report",
    "packed", "kernels", "jaxprs", "inference", "onnx_graph", "onnx_trace", "onnx_ops", "export",
    "exact", "integer_walk", "integer_rules", "integer", "cli",
]  # fmt: skip
PACKAGE = Path(mecq_jax.__file__).parent


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            if node.module == "mecq_jax":
                yield from (f"mecq_jax.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def test_every_module_has_its_place():
    assert {p.stem for p in PACKAGE.glob("*.py")} - {"__init__"} == set(ORDER)


@pytest.mark.parametrize("module", ORDER)
def test_imports_go_one_way(module):
    for name in imported(PACKAGE / f"{module}.py"):
        root, _, rest = name.partition(".")
        assert root not in {"experiments", "sklearn", "matplotlib", "tensorflow_datasets", "rich"}, name
        if root == "mecq_jax" and rest:
            assert ORDER.index(rest.split(".")[0]) < ORDER.index(module), f"{module} imports {name}"


def test_public_names_resolve():
    for name in mecq_jax.__all__:
        assert getattr(mecq_jax, name) is not None


def test_the_reader_needs_no_jax():
    code = "import sys, mecq_jax.reader; sys.exit('jax' in sys.modules or 'flax' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
