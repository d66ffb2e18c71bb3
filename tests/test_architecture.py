"""The architecture: what may import what, how long a file may be, what is started from a shell and what is shipped."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

pytestmark = pytest.mark.fast
ROOT = Path(__file__).resolve().parents[1]
# A package imports only from those in rows above its row.
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
# What the library knows nothing of.
ABOVE = {"experiments", "examples", "sklearn", "matplotlib", "tensorflow_datasets", "rich"}
# What the library takes from an extra, or for one kind of device, and so imports where it is used.
LAZY = {"ott", "onnx", "onnxruntime", "jax.experimental.pallas.tpu", "jax.experimental.pallas.triton"}


def modules(folder):
    """(dotted name, path) of every module under `folder`."""
    for path in sorted(ROOT.joinpath(folder).rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        yield name.removesuffix(".__init__"), path


EVERY_LIBRARY_MODULE = pytest.mark.parametrize(("name", "path"), list(modules("mecq_jax")))
EVERY_EXPERIMENT = pytest.mark.parametrize(("name", "path"), list(modules("experiments")))


def tree(path):
    """A file's syntax."""
    return ast.parse(path.read_text(encoding="utf-8"))


def imported(node):
    """Every dotted name that is imported under a node of the syntax, wherever the import stands."""
    for part in ast.walk(node):
        if isinstance(part, ast.ImportFrom) and part.module:
            yield from (f"{part.module}.{alias.name}" for alias in part.names)
        elif isinstance(part, ast.Import):
            yield from (alias.name for alias in part.names)


def within(name, package):
    """Whether a dotted name is that of the package or of something in it."""
    return name == package or name.startswith(f"{package}.")


def row(name, order):
    """The row of `order` that has the package of a dotted name; None if none has."""
    return next((i for i, packages in enumerate(order) if any(within(name, p) for p in packages)), None)


def assert_one_way(name, path, order):
    """Every import is from a row above, or from the same package."""
    assert row(name, order) is not None, f"{name} has no place in the order of packages"
    for other in imported(tree(path)):
        if row(other, order) is not None and name.split(".")[:2] != other.split(".")[:2]:
            assert row(other, order) < row(name, order), f"{name} imports {other}"


@EVERY_LIBRARY_MODULE
def test_packages_import_one_way(name, path):
    if name != "mecq_jax":
        assert_one_way(name, path, LIBRARY)


@EVERY_EXPERIMENT
def test_experiments_import_one_way(name, path):
    if name != "experiments" and not name.startswith(("experiments.configs.", "experiments.results.")):
        assert_one_way(name, path, EXPERIMENTS)


@EVERY_LIBRARY_MODULE
def test_the_library_needs_nothing_of_the_experiments(name, path):
    for other in imported(tree(path)):
        assert other.partition(".")[0] not in {
            "experiments",
            "examples",
            "sklearn",
            "matplotlib",
            "tensorflow_datasets",
            "rich",
        }


@EVERY_LIBRARY_MODULE
def test_the_library_imports_at_the_top_of_files(name, path):
    functions = (node for node in ast.walk(tree(path)) if isinstance(node, ast.FunctionDef))
    for other in (other for function in functions for other in imported(function)):
        assert any(within(other, package) for package in LAZY), f"{name} imports {other} inside a function"


@pytest.mark.parametrize(("name", "path"), [*modules("mecq_jax"), *modules("experiments"), *modules("examples")])
def test_no_private_name_crosses_packages(name, path):
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for other in imported(tree(path)):
        parts = other.split(".")
        if parts[0] not in ("mecq_jax", "mecq_reader", "experiments", "examples"):
            continue
        private = next((i for i, part in enumerate(parts) if part.startswith("_") and not part.startswith("__")), None)
        assert private is None or within(package, ".".join(parts[:private])), f"{name} imports {other}"


@EVERY_LIBRARY_MODULE
def test_packages_offer_names_one_by_one(name, path):
    """`from x import y as y`, which editors and type checkers take for an offer; files inside have an underscore."""
    if path.name != "__init__.py":
        assert path.name.startswith("_") or name.count(".") == 1
        return
    for node in tree(path).body:
        if isinstance(node, ast.ImportFrom) and not name.rpartition(".")[2].startswith("_"):
            assert all(alias.asname == alias.name for alias in node.names), f"{name}: {ast.unparse(node)}"


@pytest.mark.parametrize("folder", ["mecq_jax", "experiments", "examples", "tests"])
def test_files_stay_short(folder):
    lengths = {str(path): len(path.read_text(encoding="utf-8").splitlines()) for _, path in modules(folder)}
    assert not {path: n for path, n in lengths.items() if n > 300}


@pytest.mark.parametrize(("name", "path"), list(modules("examples")))
def test_examples_can_be_copied_without_the_experiments(name, path):
    assert not [other for other in imported(tree(path)) if other.partition(".")[0] in {"experiments", "tests"}]


def test_there_are_few_entry_points():
    """A file is started from a shell if it is called `__main__`, or compares its name with that."""

    def started(path):
        compared = (node.comparators for node in ast.walk(tree(path)) if isinstance(node, ast.Compare))
        texts = {part.value for parts in compared for part in parts if isinstance(part, ast.Constant)}
        return "__main__" in (path.stem, *texts)

    assert {name for name, path in modules("experiments") if started(path)} == ENTRY_POINTS
    assert len(ENTRY_POINTS) <= 12


def test_one_function_gives_a_standard_deviation_over_runs():
    text = {name: path.read_text(encoding="utf-8") for name, path in modules("experiments")}
    assert {name for name, code in text.items() if "ddof" in code or "np.std(" in code} == {
        "experiments.runtime.formatting"
    }


def test_the_reader_needs_no_jax():
    code = "import sys, mecq_reader; sys.exit('jax' in sys.modules or 'flax' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_wheel_has_types_and_the_reader():
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    assert setuptools["py-modules"] == ["mecq_reader"] and (ROOT / "mecq_reader.py").is_file()
    assert setuptools["packages"]["find"]["include"] == ["mecq_jax*"]
    assert setuptools["package-data"] == {"mecq_jax": ["py.typed"]} and (ROOT / "mecq_jax" / "py.typed").is_file()
    for _, path in modules("mecq_jax"):
        assert (path.parent / "__init__.py").is_file(), f"{path.parent} is no package, so the wheel would lack it"
