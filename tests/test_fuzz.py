"""The fuzzing of the reader, at small size; the whole is `python -m tests.fuzz`."""

import collections

import numpy as np
import pytest

from tests import fuzz


def test_damaged_and_hostile_files_are_refused_or_read_right():
    counts = fuzz.fuzz(500, seed=1)
    assert counts.total() == 500
    by_kind: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
    for (kind, what), count in counts.items():
        by_kind[kind][what] += count
    assert set(by_kind) == set(fuzz.KINDS)
    assert by_kind["cut"] == {"refused": 100} and by_kind["extended"] == {"refused": 100}
    assert by_kind["flipped"]["refused"] + by_kind["overwritten"]["refused"] > 190
    assert by_kind["edited"]["another valid file"] > 0, "edits are signed: some of them are valid"


def test_the_fuzzer_sees_a_wrong_answer(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "model.safetensors"
    fuzz.valid_file(rng, path)
    wrong = {"plain/bias": np.zeros(3, np.float32)}
    with pytest.raises(AssertionError, match="read as another"):
        fuzz.outcome(path, wrong, may_differ=False)
