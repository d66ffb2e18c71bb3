"""Every name that a package of the library offers has an example, which `--doctest-modules` runs."""

import importlib
import inspect
import pkgutil

import pytest

import mecq_jax

pytestmark = pytest.mark.fast
PACKAGES = [
    name
    for _, name, is_package in pkgutil.walk_packages(mecq_jax.__path__, "mecq_jax.")
    if is_package and not any(part.startswith("_") for part in name.split("."))
]
# Names whose use is shown by the example of another name of the same package.
SHOWN_BY = {
    "mecq_jax.export.Grid": "integer_grid",
    "mecq_jax.nn.QuantizerCodes": "QuantizerParam",
    "mecq_jax.nn.QuantizerInfo": "QuantizerParam",
    "mecq_jax.nn.QuantizerState": "QuantizerParam",
    "mecq_jax.nn.Temperature": "set_temperature",
    "mecq_jax.params.Plan": "Rule",
    "mecq_jax.params.Row": "Report",
    "mecq_jax.params.make_plan": "Rule",
    "mecq_jax.params.make_report": "Report",
    "mecq_jax.training.Fitted": "fit",
    "mecq_jax.training.Metrics": "Steps",
    "mecq_jax.training.Progress": "fit",
    "mecq_jax.training.Restored": "Checkpoints",
    "mecq_jax.training.Split": "Layout",
    "mecq_jax.training.TrainState": "Steps",
    "mecq_jax.training.placed": "host_copy",
    "mecq_jax.training.restore_checkpoint": "save_checkpoint",
}
# Types, and functions of the reader, one file of 300 lines whose module has the example.
WITHOUT = {
    *(f"mecq_jax.quantizers.{name}" for name in ("Codes", "Groups", "Levels")),
    *(f"mecq_jax.storage.{name}" for name in ("bits_for", "packed_size", "unpack")),
    *("mecq_jax.training.Batch", "mecq_jax.transport.Scalar"),
}


def offered(package):
    """The functions and classes, but errors, that a package's `__init__` re-exports."""
    for name, value in vars(importlib.import_module(package)).items():
        function = inspect.isroutine(value) or hasattr(value, "__wrapped__")  # which jit gives
        kind = inspect.isclass(value) and not issubclass(value, Exception)
        if (function or kind) and not name.startswith("_"):
            yield name, value


@pytest.mark.parametrize("package", ["mecq_jax", *PACKAGES])
def test_every_name_has_an_example(package):
    assert "mecq_jax.transport" in PACKAGES
    with_example = {name for name, value in offered(package) if ">>> " in (value.__doc__ or "")}
    for name, _ in offered(package):
        shown = SHOWN_BY.get(f"{package}.{name}", name)
        assert shown in with_example or f"{package}.{name}" in WITHOUT, f"{package}.{name} has no example"


def test_no_exemption_is_left_over():
    names = {f"{package}.{name}": value for package in PACKAGES for name, value in offered(package)}
    for name in [*SHOWN_BY, *WITHOUT]:
        assert name in names and ">>> " not in (names[name].__doc__ or ""), f"{name} needs no exemption"
