"""Finished runs as rows and tables, and the figures made of them."""

import dataclasses
import json

import numpy as np
import pytest

from experiments.config import Config
from experiments.reporting import collect, gallery, plots
from experiments.training import run as runs

pytestmark = pytest.mark.usefixtures("standard_promotion")
TINY = Config(model="norm_mlp", train_size=96, width=8, batch=16, float_epochs=1, soft_epochs=1, hard_epochs=1)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Runs of two seeds at 2 bits, and of the first one's float network trained on."""
    import jax

    root = tmp_path_factory.mktemp("runs")
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        for seed in (0, 1):
            runs.run(dataclasses.replace(TINY, seed=seed), root / f"w2_{seed}")
        trained_on = dataclasses.replace(TINY, method="float", float_run=str(root / "w2_0"))
        runs.run(trained_on, root / "float")
    return [root / "w2_0", root / "w2_1", root / "float"]


@pytest.fixture
def results(tmp_path, monkeypatch):
    """Results of their own."""
    monkeypatch.setattr(collect, "RESULTS", tmp_path)
    monkeypatch.setattr(gallery, "RESULTS", tmp_path)
    return tmp_path


def test_a_table_has_a_line_for_what_differs_in_more_than_the_seed(folders, results):
    text = collect.collect(results / "digits", folders)
    assert (results / "digits" / "table.md").read_text() == text
    lines = [[cell.strip() for cell in line.strip("|\n").split("|")] for line in text.splitlines()]
    assert lines[0][2] == "accuracy, %"
    assert [line[0] for line in lines[2:]] == ["float, as all start from", "float, trained on", "mec, 4 levels"]
    assert [line[1] for line in lines[2:]] == ["2", "1", "2"]
    hard = [json.loads((f / "metrics.jsonl").read_text().splitlines()[-1])["final_hard_accuracy"] for f in folders[:2]]
    assert lines[4][2] == f"{100 * np.mean(hard):.2f} ± {100 * np.std(hard, ddof=1):.2f}"
    assert lines[4][3] == f"{(folders[0] / 'model.safetensors').stat().st_size:,}"
    rows = [json.loads(line) for line in (results / "digits" / "rows.jsonl").read_text().splitlines()]
    assert {"jax", "device", "git"} <= rows[0]["versions"].keys()
    weights = TINY.width * 64 + 3 * TINY.width**2 + 10 * TINY.width + 10 + 4 * 4 * TINY.width
    assert rows[0]["weights"] == weights  # four batch norms' scales, biases, means and variances
    assert len((results / "digits" / "log" / "w2_0.jsonl").read_text().splitlines()) == 3  # one an epoch


def test_what_cannot_be_collected_is_refused(folders, results, capsys):
    unfinished = results / "unfinished"
    unfinished.mkdir()
    (unfinished / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n')
    assert collect.main(["digits", str(folders[0]), str(unfinished)]) == 2
    assert "holds no finished run" in capsys.readouterr().err
    assert not (results / "digits").exists()
    rows = [collect.row_of(f) for f in folders[:2]]
    with pytest.raises(ValueError, match="runs of one measure make a table"):
        collect.table([rows[0], {**rows[1], "measure": "miou"}])
    other = {**rows[1], "config": {**rows[1]["config"], "learning_rate": 0.5, "workers": 3}}
    with pytest.raises(ValueError, match=r"runs of 'mec, 4 levels' differ in \['learning_rate'\]"):
        collect.table([rows[0], other])


def test_panels_hold_the_means_of_the_rows(folders, results):
    collect.collect(results / "digits", folders)
    rows = [collect.row_of(f) for f in folders]
    with (results / "digits" / "rows.jsonl").open("a") as file:
        file.write(json.dumps({**rows[0], "run": "once", "method": "lsq"}) + "\n")
    panel = gallery.of_runs("digits")
    assert set(panel.scores) == {"mec"}, "one seed of LSQ is not drawn beside two"
    assert panel.scores["mec"] == {2.0: pytest.approx(50 * (rows[0]["hard"] + rows[1]["hard"]))}
    assert panel.floating == pytest.approx(100 * rows[2]["hard"]) and panel.sizes[2.0] == rows[0]["bytes"]
    plots.size_against_score(results / "sizes.png", [panel, panel])
    assert (results / "sizes.png").stat().st_size > 5000


def test_bytes_of_packed_weights_are_those_of_the_file():
    """Of an MLP: first and last layer and all vectors in float32, the others packed with their levels."""
    config = Config(dataset="fashion_mnist", downscale=2, model="mlp", width=16)
    floats = 14 * 14 * 16 + 16 + 2 * 16 + 16 * 10 + 10
    for k, bits in ((2, 1), (4, 2), (8, 3)):
        assert gallery.packed_bytes(config, k) == 4 * floats + 2 * (16 * 16 * bits / 8 + 4 * k)


def test_the_arenas_on_disk_can_be_drawn():
    panels = [gallery.of_arena(p.parent.name) for p in sorted((gallery.RESULTS / "arena").glob("*/arena.json"))]
    assert panels and all(gallery.FIRST in panel.scores for panel in panels)
