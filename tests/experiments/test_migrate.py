"""Kept rows and run folders of commit a56bf98 (tests/data/old_rows, old_run) under today's names."""

import json
import os
import shutil
from pathlib import Path

import pytest

from experiments.reporting import migrate

pytestmark = pytest.mark.fast

DATA = Path(__file__).resolve().parents[1] / "data"
# What of old_rows holds rows of training; the rest is of benchmarks, stories and studies.
OF_TRAINING = {
    "arena/rows.jsonl",
    "arena/arena.json",
    "arena/recipe/rows.jsonl",
    "arena/recipe/arena.json",
    "camvid/rows.jsonl",
    "text8/rows.jsonl",
    "pretrained/minilm/rows.jsonl",
    "pretrained/minilm/data.json",
}
SCHEDULE = {"temperature_start": 0.3, "temperature_end": 0.01, "temperature_hold": 0.9}


@pytest.fixture
def rows(tmp_path):
    return Path(shutil.copytree(DATA / "old_rows", tmp_path / "rows"))


@pytest.fixture
def run(tmp_path):
    return Path(shutil.copytree(DATA / "old_run", tmp_path / "run"))


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def read(path):
    text = path.read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()] if path.suffix == ".jsonl" else json.loads(text)


def leaves(value):
    """Every value in its order, without the names of fields."""
    if isinstance(value, dict | list):
        return [x for item in (value.values() if isinstance(value, dict) else value) for x in leaves(item)]
    return [value]


def has_schedule(config):
    return {name: config.get(name) for name in SCHEDULE} == SCHEDULE


def indents(path):
    return [len(line) - len(line.lstrip()) for line in path.read_text().splitlines()]


def test_rows_of_training_get_new_names_and_the_others_stay(rows, capsys):
    before = contents(rows)
    assert migrate.main([str(rows)]) == 0
    after = contents(rows)
    assert set(after) == set(before)
    assert {name for name in after if after[name] != before[name]} == OF_TRAINING
    told = capsys.readouterr().out.splitlines()
    assert len(told) == len(OF_TRAINING) + 1 and told[-1] == "8 files rewritten"
    line = next(line for line in told if line.startswith(f"{rows / 'camvid/rows.jsonl'}: "))
    assert "epsilon_start -> temperature_start (2)" in line and "segment -> segmentation (2)" in line
    for name in OF_TRAINING:
        assert b"epsilon" not in after[name]


def test_nothing_but_names_changes(rows):
    old = {name: read(rows / name) for name in OF_TRAINING}
    layout = {name: indents(rows / name) for name in OF_TRAINING}
    migrate.main([str(rows)])
    for name in OF_TRAINING:
        pairs = list(zip(leaves(old[name]), leaves(read(rows / name)), strict=True))
        differ = {(a, b) for a, b in pairs if a != b or type(a) is not type(b)}
        if name == "camvid/rows.jsonl":
            assert differ == {("segment", "segmentation")}
        elif name == "arena/recipe/rows.jsonl":
            assert ("epsilon to 0.1", "temperature to 0.1") in differ and len(differ) == 5
        elif name.endswith("data.json"):
            ((_, command),) = differ
            assert command.startswith("python -m experiments.published study --network=minilm")
            assert command.endswith("--learning_rate=0.0004 --temperature_end=0.005 --entropy_weight=0.0")
        else:
            assert not differ
        assert indents(rows / name) == layout[name]


def test_where_the_new_names_are(rows):
    migrate.main([str(rows)])
    _, mec, dkm = sorted(read(rows / "arena/rows.jsonl"), key=lambda row: ("float", "mec", "dkm").index(row["method"]))
    assert mec["chosen"] == {"learning_rate": 0.005, "temperature_start": 0.3, "temperature_end": 0.01}
    assert dkm["chosen"] == {"learning_rate": 0.002, "temperature_start": 0.001, "temperature_end": 0.001}
    assert all({"temperature_start", "temperature_end"} <= set(numbers) for numbers, _ in mec["grid"])
    assert has_schedule(mec["config"])
    assert has_schedule(read(rows / "arena/arena.json")["config"])
    changed = {row["change"]: row["fields"] for row in read(rows / "arena/recipe/rows.jsonl")}
    assert changed["temperature to 0.1"] == {"temperature_end": 0.1}
    assert changed["temperature falls in half of the soft phase"] == {"temperature_hold": 0.5}
    for row in read(rows / "camvid/rows.jsonl"):
        assert row["config"]["task"] == "segmentation" and set(SCHEDULE) <= set(row["config"])
    assert {row["config"]["task"] for row in read(rows / "text8/rows.jsonl")} == {"language"}
    published = read(rows / "pretrained/minilm/data.json")
    assert published["rows"] == read(rows / "pretrained/minilm/rows.jsonl")
    assert published["config"]["temperature"] == 0.001 and published["config"]["temperature_end"] == 0.005
    _, transported, tuned, _ = (row["key"] for row in published["rows"])
    assert transported["temperature"] == 0.001
    assert tuned["recipe"]["temperature_start"] == 0.02 and tuned["recipe"]["temperature_end"] == 0.001


def test_an_old_run_gets_new_names(run):
    shutil.copy(run / "config.json", run / "config.1.json")
    old, metrics = read(run / "config.json"), read(run / "metrics.jsonl")
    versions = (run / "versions.json").read_bytes()
    assert migrate.main([str(run)]) == 0
    new = read(run / "config.json")
    assert new == read(run / "config.1.json")
    assert new["task"] == "classification" and has_schedule(new)
    assert list(new) == [name.replace("epsilon", "temperature") for name in old]
    names = {"certain": "certain_share", "lowest_mass": "min_level_mass", "epsilon": "temperature"}
    expected = [{names.get(name, name): value for name, value in record.items()} for record in metrics]
    assert read(run / "metrics.jsonl") == expected
    assert any("temperature" in record for record in expected)
    assert any(isinstance(record.get("task"), float) for record in expected)  # a loss, no task's name
    assert (run / "versions.json").read_bytes() == versions


def test_a_migrated_config_is_a_config_of_today(run):
    from experiments.config import Config

    migrate.main([str(run)])
    config = Config(**read(run / "config.json"))
    assert (config.temperature_start, config.temperature_end, config.temperature_hold) == (0.3, 0.01, 0.9)


def test_a_second_time_nothing_changes(rows, run, capsys):
    folders = [str(rows), str(run)]
    migrate.main(folders)
    before = contents(rows) | contents(run)
    times = {path: path.stat().st_mtime_ns for path in [*rows.rglob("*"), *run.rglob("*")]}
    capsys.readouterr()
    assert migrate.main(folders) == 0
    assert capsys.readouterr().out == "nothing to change\n"
    assert contents(rows) | contents(run) == before
    assert {path: path.stat().st_mtime_ns for path in [*rows.rglob("*"), *run.rglob("*")]} == times


@pytest.mark.parametrize("where", ["fsync", "replace"])
def test_an_interrupted_write_leaves_the_old_file_and_the_next_goes_on(run, monkeypatch, capsys, where):
    before = contents(run)
    calls = []

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == 2:  # the first file is written, the second not
            raise OSError(28, "No space left on device")
        return done(*arguments)

    done = getattr(os, where)
    monkeypatch.setattr(os, where, interrupted)
    assert migrate.main([str(run)]) == 2
    assert "No space left on device" in capsys.readouterr().err
    half = contents(run)
    assert half["metrics.jsonl"] == before["metrics.jsonl"] and half["config.json"] != before["config.json"]
    assert set(half) == set(before)  # no temporary file is left
    assert migrate.main([str(run)]) == 0
    assert b"epsilon" not in b"".join(contents(run).values())


def test_a_last_line_cut_short_by_a_crash_stays(run):
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 890, "epsi')
    assert migrate.main([str(run)]) == 0
    *whole, torn = (run / "metrics.jsonl").read_text().split("\n")
    assert torn == '{"step": 890, "epsi' and "epsilon" not in "".join(whole)


def test_checkpoints_that_cannot_be_resumed_are_said(run, rows, capsys):
    (run / "checkpoints" / "quantized" / "44" / "state").mkdir(parents=True)
    grid = rows / "arena" / "checkpoints"
    (grid / "mec 4 grid" / "3").mkdir(parents=True)
    tuned = grid / "dkm 4 tuned.json"
    tuned.write_text(json.dumps([[[{"learning_rate": 0.1, "epsilon_end": 0.1}, 0.5]], {"epsilon_end": 0.1}]))
    (rows / "camvid" / "checkpoints").mkdir()
    assert migrate.main([str(run), str(rows)]) == 0
    told = [line for line in capsys.readouterr().out.splitlines() if "cannot be resumed" in line]
    assert [line.split(": ")[0] for line in told] == [str(run), str(rows / "arena")]
    assert read(tuned) == [[[{"learning_rate": 0.1, "temperature_end": 0.1}, 0.5]], {"temperature_end": 0.1}]
    assert migrate.main([str(run), str(rows)]) == 0
    assert "cannot be resumed" not in capsys.readouterr().out  # those that come now are of today


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("config.json", '{"epsilon_end": 1, "temperature_end": 1}', "both 'epsilon_end' and 'temperature_end'"),
        ("config.json", '{"task": "detect"}', "task 'detect' is none of classify, segment"),
        ("config.json", '{"epsilon_middle": 1}', "'epsilon_middle' is of no known meaning"),
        ("config.json", "{", "is not JSON"),
        ("config.json", "[]", "is not what its name says"),
        ("config.2.json", '{"epsilons": [1]}', "'epsilons' is of no known meaning"),
        ("metrics.jsonl", '{"epsilon": \n{"step": 1}\n', "line 1, is not JSON"),
        ("metrics.jsonl", '{"step": 1}\n{"certain": 1, "certain_share": 1}\n', "line 2: it holds both"),
        ("rows.jsonl", '{"what": 1, "epsilon": 2}\n', "line 1: a row of no known kind, with the fields epsilon, what"),
        ("rows.jsonl", "[1]\n", "line 1: a row of no known kind, with the fields none"),
        ("rows.jsonl", '{"run": "a", "measure": "b", "config": {"task": "x"}}\n', "line 1: its task 'x'"),
        ("rows.json", '{"rows": []}', "is not what its name says, with the fields rows"),
        ("arena.json", "{}", "is not what its name says, with the fields none"),
    ],
)
def test_what_it_does_not_know_is_refused_before_anything_is_written(run, rows, capsys, name, text, said):
    (run / name).write_text(text)
    before = contents(rows) | contents(run)
    assert migrate.main([str(rows), str(run)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {run / name}") and said in error
    assert contents(rows) | contents(run) == before


def test_other_folders_are_refused_and_other_files_left_alone(tmp_path, run, capsys):
    assert migrate.main([str(tmp_path / "absent")]) == 2
    assert "is no folder" in capsys.readouterr().err
    other = tmp_path / "other"
    other.mkdir()
    for name in ("config.json", "metrics.jsonl"):  # of another program: no versions.json
        (other / name).write_text('{"epsilon": 1}')
    assert migrate.main([str(other)]) == 2
    assert "holds neither rows nor a run folder" in capsys.readouterr().err
    (run / "other.json").write_text('{"epsilon": 1}')
    assert migrate.main([str(run)]) == 0
    assert (run / "other.json").read_text() == '{"epsilon": 1}'


def test_a_config_from_a_packed_file(tmp_path):
    header = (DATA / "format1_run.safetensors").read_bytes()
    size = int.from_bytes(header[:8], "little")
    extra = json.loads(json.loads(header[8 : 8 + size])["__metadata__"]["mecq"])["extra"]
    config = migrate.renamed(extra["config"])
    assert has_schedule(config) and config["task"] == "classification"
    assert migrate.renamed(config) == config
