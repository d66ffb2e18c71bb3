"""All runs behind a table: in which order, from which float networks, paused and gone on with."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from experiments import sweep
from experiments.reporting.rows import Rows
from experiments.runtime.run_folder import read_metrics
from experiments.sweep import Sweep

pytestmark = pytest.mark.usefixtures("standard_promotion")
TINY = [
    "--model=norm_mlp",
    "--train_size=96",
    "--width=8",
    "--batch=16",
    "--float_epochs=1",
    "--soft_epochs=1",
    "--hard_epochs=1",
]
METHODS = ("mec", "mec_lloyd_max", "lsq")
TINY_ARENA = """
from experiments.arena.protocol import Arena
from experiments.config import Config
arena = Arena(config=Config(model="norm_mlp", compute="bfloat16", width=8, batch=128, train_size=300, float_epochs=2,
                            soft_epochs=1, hard_epochs=0),
              learning_rates=(2e-3,), methods=("lsq",), seeds=1)
"""
ABSENT = """
from experiments.config import Config, Variants
config = Variants(Config(task="segmentation", dataset="camvid", size=(24, 32)), soft_epochs=1)
"""


@pytest.fixture
def digits(monkeypatch, tmp_path):
    """A sweep on digits, with results of its own."""
    shutil.copy(sweep.CONFIGS / "digits_cnn.py", tmp_path)
    monkeypatch.setitem(sweep.SWEEPS, "digits", Sweep(network="digits_cnn", bits=(2,), methods=METHODS))
    monkeypatch.setattr(sweep, "CONFIGS", tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", sweep.SWEEPS)
def test_every_run_comes_after_the_float_network_that_it_starts_from(name, tmp_path):
    chosen = sweep.SWEEPS[name]
    seen = {}
    for folder, config in sweep.plan(chosen, 3, tmp_path):
        assert folder not in seen
        if config.float_run:
            start = seen[Path(config.float_run)]
            same = ("seed", "task", "dataset", "model", "width", "size", "context")
            assert all(getattr(start, field) == getattr(config, field) for field in same)
            assert start.soft_epochs == start.hard_epochs == 0 and config.soft_epochs > 0
        seen[folder] = config
    assert len(seen) == 3 * (2 + len(chosen.bits) * len(chosen.methods))


def test_a_sweep_pauses_and_goes_on_to_its_table(digits, capsys):
    command = ["digits", "--seeds=1", "--runs", str(digits / "runs"), "--results", str(digits / "results"), *TINY]
    assert sweep.main([*command, "--minutes=0"]) == 75
    assert "the same command goes on" in capsys.readouterr().err
    assert not (digits / "results").exists()
    assert sweep.main(command) == 0
    table = capsys.readouterr().out
    for line in ("float, as all start from", "float, trained on", *(f"{method}, 4 levels" for method in METHODS)):
        assert f"| {line} |" in table
    runs = {p.name: read_metrics(p / "metrics.jsonl") for p in (digits / "runs").iterdir()}
    ends = ("", "_mec_lloyd_max", "_lsq", "_float")
    assert set(runs) == {"digits_cnn_float", *(f"digits_cnn_w2{end}" for end in ends)}
    before = {name: (digits / "runs" / name / "metrics.jsonl").stat().st_mtime_ns for name in runs}
    assert sweep.main(command) == 0  # nothing is left to train
    assert before == {name: (digits / "runs" / name / "metrics.jsonl").stat().st_mtime_ns for name in runs}
    assert sweep.main([*command, "--learning_rate=0.5"]) == 2
    assert "holds a row of digits_cnn_float by another config" in capsys.readouterr().err
    assert sweep.main([*command, "--learning_rate=0.5", "--results", str(digits / "others")]) == 2
    assert "holds a run of another config" in capsys.readouterr().err
    shutil.rmtree(digits / "runs")
    assert sweep.main(command) == 0 and not (digits / "runs").exists()  # the rows are enough
    rows = [json.loads(x) for x in (digits / "results" / "digits" / "rows.jsonl").read_text().splitlines()]
    assert len({row["float"] for row in rows[1:]}) == 1  # all start from one network
    chosen = dict(sweep.plan(sweep.SWEEPS["digits"], 1, digits / "runs", TINY))
    config = chosen[digits / "runs" / "digits_cnn_w2_lsq"]
    row = next(row for row in rows if row["method"] == "lsq")
    assert sweep.is_of(row, config) and not sweep.is_of(row, dataclasses.replace(config, learning_rate=1.0))


def test_each_row_is_kept_as_its_run_ends(digits, monkeypatch):
    train, count = sweep.train, iter(range(9))

    def twice(config, folder, end):
        train(config, folder, end if next(count) < 2 else 0.0)

    monkeypatch.setattr(sweep, "train", twice)
    command = ["digits", "--seeds=1", "--runs", str(digits / "runs"), "--results", str(digits / "results"), *TINY]
    assert sweep.main(command) == 75
    assert {row["run"] for row in Rows(digits / "results" / "digits").rows} == {"digits_cnn_float", "digits_cnn_w2"}


def test_a_start_that_is_another_network_is_refused(digits, capsys):
    command = ["digits", "--seeds=1", "--runs", str(digits / "runs"), "--results", str(digits / "results"), *TINY]
    assert sweep.main(command) == 0
    path = digits / "results" / "digits" / "rows.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps({**row, "float": 0.5}) + "\n" for row in rows[:2]))
    before = path.read_text()
    assert sweep.main(command) == 2
    said = capsys.readouterr().err
    assert "digits_cnn_float and digits_cnn_w2 start from two networks" in said and "and to 0.5; collect" in said
    assert path.read_text() == before


def test_a_sweep_pauses_goes_on_and_says_what_cannot_run(digits, monkeypatch, capsys):
    (digits / "arena").mkdir()
    (digits / "arena" / "tiny.py").write_text(TINY_ARENA)
    (digits / "absent.py").write_text(ABSENT)
    only = {"absent": Sweep(network="absent", bits=(2,)), "digits": sweep.SWEEPS["digits"]}
    monkeypatch.setattr(sweep, "SWEEPS", only)
    monkeypatch.setattr(sweep, "ARENAS", ("arena/tiny",))
    places = ["--runs", str(digits / "runs"), "--results", str(digits / "results"), "--data", f"camvid={digits}"]
    command = [*places, "--seeds=1", *TINY]
    assert sweep.main([*command, "--minutes=0"]) == 75
    assert "paused in arena/tiny" in capsys.readouterr().err
    assert sweep.main([*command, "--minutes=0", "digits"]) == 75
    assert "paused in digits" in capsys.readouterr().err
    assert sweep.main(command) == 2  # what is there is trained all the same
    out, err = capsys.readouterr()
    assert "| 4 | lsq |" in out and "| mec, 4 levels |" in out
    assert err.count("error:") == 1 and f"error: absent: {digits}/train/images is not a folder" in err
    assert sweep.main([*command, "arena/tiny", "digits"]) == 0
    elsewhere = ["--runs", str(digits / "others"), "--results", str(digits / "others")]
    assert sweep.main([*command, *elsewhere, "--minutes=0", "absent", "digits"]) == 75
    assert "error: absent: " in capsys.readouterr().err  # though it pauses
    monkeypatch.setattr(sweep.protocol, "run", lambda *_, **__: 1 / 0)
    assert sweep.main([*places, "arena/tiny"]) == 2
    assert "error: arena/tiny: division by zero" in capsys.readouterr().err


def test_a_sweep_refuses_what_nothing_reads(capsys):
    for wrong, said in (
        (["tiny"], "tiny: not of arena/"),
        (["--data=camvid"], "not DATASET=PATH"),
        (["--minutes=soon"], "soon"),
        (["--data=camvd=/x"], "camvd: no sweep reads it"),
        (["--minuts=5"], "unknown field 'minuts'"),
        (["arena/cifar10_resnet20", "--width=8"], "--width=8: fields go to runs"),
        (["camvid_deeplab", "--seeds=0"], "seeds = 0"),
        (["text8_large", "--seed=1"], "a sweep gives each run its own"),
        (["text8_large", "--seeds=1", "nothing"], "nothing: not of"),
        (["arena/cifar10_resnet20", "--size=(45, 60)"], "--size=(45, 60): fields go to runs"),
    ):
        with pytest.raises(SystemExit):
            sweep.main(wrong)
        assert said in capsys.readouterr().err


def test_without_a_name_it_is_all_that_a_cpu_cannot_train():
    options, _ = sweep._options([])
    assert {*options.names} == {*sweep.ARENAS, *sweep.SWEEPS} - {*sweep.ON_A_CPU}
    assert all((sweep.CONFIGS / f"{name}.py").is_file() for name in sweep.ARENAS)
