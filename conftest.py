"""Settings of tests and doctests: eight CPU devices, strict promotion, checked signatures; set nowhere else."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from importlib.metadata import version

# Thousands of small programs are compiled to run once or twice: LLVM optimises none, and fusions are written by XLA's
# older emitter, which takes a third less time. What XLA does to a program itself (fusions, buffers, collectives) stays
# as it is. XLA ends the process at a flag that it does not know; the last value of a flag counts.
os.environ["XLA_FLAGS"] = " ".join(
    [
        "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0",
        "--xla_cpu_use_fusion_emitters=false" if version("jaxlib").startswith("0.10.") else "",
        os.environ.get("XLA_FLAGS", ""),
    ]
)
os.environ["JAX_PLATFORMS"] = "cpu"
# Tests and their subprocesses compile many programs twice; each worker keeps its own for the session (one that all
# shared could be read while another writes).
os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="mecq-jax-tests-")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.3"

import jax
import numpy as np
import pytest
from jaxtyping import install_import_hook

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

# Every call into these packages is checked against its jaxtyping signature. What takes what a user brings (granularity,
# storage, params) is left out: there our own ValueErrors are what is tested.
CHECKED = ("transport", "quantizers", "training", "nn")
install_import_hook([f"mecq_jax.{name}" for name in CHECKED], "beartype.beartype")


def pytest_unconfigure() -> None:
    """Delete what was compiled."""
    shutil.rmtree(os.environ["JAX_COMPILATION_CACHE_DIR"])


@pytest.fixture
def rng() -> np.random.Generator:
    """A seeded generator."""
    return np.random.default_rng(0)


@pytest.fixture
def standard_promotion() -> Iterator[None]:
    """For tests of training: optax, flax and ott-jax mix types, and the library alone is held to strict promotion."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture(autouse=True)
def _examples_with_optax(request: pytest.FixtureRequest) -> None:
    """The same for the examples in docstrings of training, which cannot name a fixture."""
    if isinstance(request.node, pytest.DoctestItem) and request.node.name.startswith("mecq_jax.training."):
        request.getfixturevalue("standard_promotion")
