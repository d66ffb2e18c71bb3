"""The quickstart: for each library the blocks that its reader meets run as they stand, from top to bottom."""

import re
from pathlib import Path

import numpy as np
import pytest

import mecq_reader

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "quickstart.md").read_text(encoding="utf-8")
QUANTIZED = {"Flax NNX": "middle/kernel", "Flax Linen": "Dense_1/kernel", "Equinox": "layers/1/weight"}


def blocks(library):
    """Python blocks outside of tabs and in the tabs that are of this library, in their order."""
    tab = None
    for found in re.finditer(
        r"^`{4}\{tab-item\} ([^\n]*)$|^`{4}$|^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE
    ):
        name, code = found.groups()
        if code is None:
            tab = name
        elif tab is None or library in tab:
            yield code


@pytest.mark.usefixtures("standard_promotion")
@pytest.mark.parametrize("library", ["Flax NNX", "Flax Linen", "Equinox"])
def test_its_code_runs_as_it_stands(library, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if library == "Equinox":
        pytest.importorskip("equinox")
    names = {}
    by_fit, by_file, by_loop = [], [], []
    for code in blocks(library):
        exec(compile(code, f"quickstart.md, {library}", "exec"), names)
        kept = by_fit if "= fit(" in code else by_file if "inference.load(" in code else by_loop
        if "logits = " in code:
            kept.append(np.asarray(names["logits"]))
    np.testing.assert_allclose(by_file[0], by_fit[0], rtol=1e-4, atol=1e-4)
    for logits in (by_fit[0], by_loop[0]):
        assert np.mean(np.argmax(logits, axis=1) == names["y"]) > 0.8
    stored = mecq_reader.read(tmp_path / "model.safetensors")
    assert [path for path, t in stored.items() if isinstance(t, mecq_reader.Tensor)] == [QUANTIZED[library]]
    assert stored[QUANTIZED[library]].bits == 2
