"""The architecture: packages import one way, and private names stay in theirs; examples stand without experiments."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.fast
ROOT = Path(__file__).resolve().parents[1]
# A package imports only from those in rows above its own.
LIBRARY = [
    {"mecq_reader"},
    {"mecq_jax.granularity", "mecq_jax.transport", "mecq_jax.jaxprs"},
    {"mecq_jax.quantizers", "mecq_jax.storage"},
    {"mecq_jax.params", "mecq_jax.inference"},
    {"mecq_jax.export", "mecq_jax.experimental"},
    {"mecq_jax.training"},
    {"mecq_jax.nn", "mecq_jax.post_training"},
    {"mecq_jax.cli"},
]
EXPERIMENTS = [
    {"experiments.data", "experiments.config"},
    {"experiments.models"},
    {"experiments.runtime"},
    {"experiments.tasks"},
    {"experiments.training"},
    {"experiments.reporting"},
    {"experiments.published"},
    {"experiments.arena"},
    {"experiments.portability"},
    {"experiments.studies", "experiments.benchmarks"},
    {"experiments.train", "experiments.sweep", "experiments.demo"},
]
ENTRY_POINTS = {
    *(f"experiments.{name}" for name in ("train", "sweep", "demo")),
    *(f"experiments.{name}.__main__" for name in ("arena", "published", "studies", "benchmarks")),
    *(f"experiments.{name}.__main__" for name in ("portability", "reporting")),
}


def modules(folder):
    """(dotted name, path) of every module under `folder`."""
    for path in sorted(ROOT.joinpath(folder).rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        yield name.removesuffix(".__init__"), path


def imported(path):
    """Every dotted name that a file imports, wherever the import stands."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def place(name, order=LIBRARY):
    """The row of the package that a dotted name is in, None outside of the library."""
    for i, row in enumerate(order):
        if any(name == package or name.startswith(f"{package}.") for package in row):
            return i
    return None


@pytest.mark.parametrize(("name", "path"), list(modules("mecq_jax")))
def test_packages_import_one_way(name, path):
    for other in imported(path):
        assert other.partition(".")[0] not in {
            "experiments",
            "examples",
            "sklearn",
            "matplotlib",
            "tensorflow_datasets",
            "rich",
        }
        if name == "mecq_jax" or place(other) is None:
            continue
        assert place(name) is not None, f"{name} has no place in LIBRARY"
        same = name.split(".")[:2] == other.split(".")[:2]
        assert place(other) < place(name) or same, f"{name} imports {other}"


@pytest.mark.parametrize(("name", "path"), list(modules("experiments")))
def test_experiments_import_one_way(name, path):
    if name == "experiments" or name.startswith(("experiments.configs.", "experiments.results.")):
        return
    assert place(name, EXPERIMENTS) is not None, f"{name} has no place in EXPERIMENTS"
    for other in imported(path):
        if place(other, EXPERIMENTS) is not None and name.split(".")[:2] != other.split(".")[:2]:
            assert place(other, EXPERIMENTS) < place(name, EXPERIMENTS), f"{name} imports {other}"


@pytest.mark.parametrize(("name", "path"), list(modules("examples")))
def test_examples_can_be_copied_without_the_experiments(name, path):
    assert not [other for other in imported(path) if other.partition(".")[0] in {"experiments", "tests"}]


def test_there_are_few_entry_points():
    found = {name for name, path in modules("experiments") if "__main__" in (path.stem, *_compared(path))}
    assert found == ENTRY_POINTS


def _compared(path):
    """Texts that a file compares with."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Compare):
            yield from (x.value for x in node.comparators if isinstance(x, ast.Constant))


def test_one_function_gives_a_standard_deviation_over_runs():
    text = {name: path.read_text() for name, path in modules("experiments")}
    assert {name for name, code in text.items() if "ddof" in code or "np.std(" in code} == {
        "experiments.runtime.formatting"
    }


@pytest.mark.parametrize(("name", "path"), [*modules("mecq_jax"), *modules("experiments"), *modules("examples")])
def test_no_private_name_crosses_packages(name, path):
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for other in imported(path):
        parts = other.split(".")
        if parts[0] not in ("mecq_jax", "mecq_reader", "experiments", "examples"):
            continue
        for i, part in enumerate(parts):
            if part.startswith("_") and not part.startswith("__"):
                owner = ".".join(parts[:i])
                assert package == owner or package.startswith(f"{owner}."), f"{name} imports {other}"
                break


@pytest.mark.parametrize("folder", ["mecq_jax", "experiments", "examples", "tests"])
def test_files_stay_short(folder):
    long = {str(path): n for _, path in modules(folder) if (n := len(path.read_text().splitlines())) > 300}
    assert not long


def test_the_reader_needs_no_jax():
    code = "import sys, mecq_reader; sys.exit('jax' in sys.modules or 'flax' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
