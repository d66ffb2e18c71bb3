"""The README: short, its code runs as it stands, its table is that of the rows."""

import re
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from experiments.reporting import summary, tables

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.fast
def test_it_stays_a_page():
    assert len(TEXT.splitlines()) <= 170


@pytest.mark.fast
def test_its_table_is_that_of_the_rows():
    assert summary.PATH.read_text(encoding="utf-8") == summary.text(), "run python -m experiments.reporting tables"
    assert tables.filled(TEXT) == TEXT, "run python -m experiments.reporting tables"
    assert len(summary.rows()) == 6


@pytest.mark.fast
def test_its_links_lead_somewhere():
    targets = re.findall(r"\]\(([^)#]+)\)", TEXT)
    assert targets and not [t for t in targets if not (ROOT / t).is_file()]


class Net(nnx.Module):
    """Three layers, so that one is between the first and the last."""

    def __init__(self, rngs):
        self.first = nnx.Linear(64, 32, rngs=rngs)
        self.middle = nnx.Linear(32, 32, rngs=rngs)
        self.last = nnx.Linear(32, 10, rngs=rngs)

    def __call__(self, x):
        return self.last(nnx.relu(self.middle(nnx.relu(self.first(x)))))


@pytest.mark.usefixtures("standard_promotion")
def test_its_code_runs_as_it_stands(rng, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    images = jnp.asarray(rng.normal(size=(32, 64)), jnp.float32)
    batches = [{"image": images, "label": jnp.asarray(rng.integers(0, 10, 32))}]
    names = {"model": Net(nnx.Rngs(0)), "batches": batches, "images": images}
    exec(compile(code, "README.md", "exec"), names)
    assert (tmp_path / "model.safetensors").is_file()
    assert np.unique(np.asarray(names["trained"].model.middle.kernel[...])).size <= 4
    np.testing.assert_allclose(names["network"](images), names["logits"], rtol=1e-5, atol=1e-5)
