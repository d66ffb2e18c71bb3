"""Run folders and plots."""

import dataclasses
import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.reporting import plots
from experiments.runtime.run_folder import RunFolder, atomic_write_text, read_metrics, to_json, versions

pytestmark = pytest.mark.fast

CONFIG = {"model": {"name": "mlp", "width": 32}, "bits": 2, "rates": (0.1, 0.01)}


@pytest.fixture
def no_tensorboard(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)


def steps(root):
    return [record["step"] for record in read_metrics(root / "metrics.jsonl")]


def files(root):
    return sorted(path.name for path in root.iterdir())


def test_round_trip_without_tensorboard(tmp_path, no_tensorboard):
    root = tmp_path / "deep" / "run"
    with RunFolder(root, CONFIG) as run:
        run.log(0, loss=jnp.float32(1.5), accuracy=np.float64(0.25), count=3)
        (record,) = read_metrics(root / "metrics.jsonl")
        assert record == {"step": 0, "loss": 1.5, "accuracy": 0.25, "count": 3.0}
        run.log(np.int64(10), loss=float("nan"), accuracy=jnp.array([-jnp.inf]))
    assert read_metrics(root / "metrics.jsonl")[1] == {"step": 10, "loss": None, "accuracy": None}
    assert json.loads((root / "config.json").read_text()) == CONFIG | {"rates": [0.1, 0.01]}
    assert files(root) == ["config.json", "metrics.jsonl", "versions.json"]
    run.close()
    with pytest.raises(ValueError, match="is closed; open it again"):
        run.log(11, loss=1.0)


def test_scalars_go_to_tensorboard(tmp_path):
    pytest.importorskip("tensorboardX")
    with RunFolder(tmp_path, CONFIG) as run:
        run.log(1, loss=2.0)
    (events,) = (tmp_path / "tensorboard").iterdir()
    assert b"loss" in events.read_bytes()
    with RunFolder(tmp_path, CONFIG, resume=True) as run:
        run.resume_at(1)
        run.log(2, loss=3.0)
    assert len(list((tmp_path / "tensorboard").iterdir())) >= 1 and steps(tmp_path) == [1, 2]


def test_tensorboard_gets_the_purge_step_and_only_finite_values(tmp_path, monkeypatch):
    calls = []

    class SummaryWriter:
        def __init__(self, folder, purge_step):
            calls.append(("open", Path(folder).name, purge_step))

        def add_scalar(self, *arguments):
            calls.append(arguments)

        def close(self):
            calls.append("close")

    monkeypatch.setitem(sys.modules, "tensorboardX", type(sys)("tensorboardX"))
    monkeypatch.setattr(sys.modules["tensorboardX"], "SummaryWriter", SummaryWriter, raising=False)
    with RunFolder(tmp_path, CONFIG) as run:
        run.resume_at(7)
        run.log(8, a=1.0, b=float("inf"))
    assert calls == [("open", "tensorboard", 8), ("a", 1.0, 8), "close"]


def test_log_wants_scalars(tmp_path, no_tensorboard):
    with RunFolder(tmp_path, CONFIG) as run, pytest.raises(ValueError, match=r"'loss' has shape \(2,\)"):
        run.log(0, loss=np.zeros(2))
    assert steps(tmp_path) == []


def test_resume_truncates_and_goes_on(tmp_path, no_tensorboard):
    with RunFolder(tmp_path, CONFIG) as run:
        for step in (0, 10, 20, 30):
            run.log(step, loss=step)
    with RunFolder(tmp_path, CONFIG, resume=True) as run:
        assert steps(tmp_path) == [0, 10, 20, 30]
        run.resume_at(10)
        assert steps(tmp_path) == [0, 10]
        run.log(20, loss=-1.0)
    assert read_metrics(tmp_path / "metrics.jsonl")[-1] == {"step": 20, "loss": -1.0}
    assert steps(tmp_path) == [0, 10, 20]
    assert files(tmp_path) == ["config.json", "metrics.jsonl", "versions.json"]


def test_resume_after_a_crash_in_the_middle_of_a_line(tmp_path, no_tensorboard):
    with RunFolder(tmp_path, CONFIG) as run:
        run.log(0, loss=1.0)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 1, "lo')
    assert steps(tmp_path) == [0]
    with RunFolder(tmp_path, CONFIG, resume=True) as run:
        run.log(1, loss=2.0)
    assert steps(tmp_path) == [0, 1]


def test_resume_of_nothing_starts(tmp_path, no_tensorboard):
    with RunFolder(tmp_path / "new", CONFIG, resume=True) as run:
        run.log(0, loss=1.0)
    assert steps(tmp_path / "new") == [0]


def test_broken_line_is_named(tmp_path):
    (tmp_path / "m.jsonl").write_text('{"step": 0}\noops\n{"step": 2}\n')
    with pytest.raises(ValueError, match="line 2, is not JSON: 'oops'"):
        read_metrics(tmp_path / "m.jsonl")


def test_another_config_is_refused_with_the_fields_that_differ(tmp_path, no_tensorboard):
    with RunFolder(tmp_path, CONFIG) as run:
        run.log(0, loss=1.0)
    other = {"model": {"name": "mlp", "width": 64}, "bits": 2, "rates": [0.1, 0.01], "seed": 3}
    with pytest.raises(FileExistsError) as caught:
        RunFolder(tmp_path, other)
    text = str(caught.value)
    assert "model.width: 32 in the folder, 64 now" in text and "seed: absent in the folder, 3 now" in text
    assert "bits" not in text and "rates" not in text and "resume=True" in text
    assert steps(tmp_path) == [0]


def test_a_folder_older_than_a_field_holds_its_default(tmp_path, no_tensorboard):
    RunFolder(tmp_path, {"k": 4}).close()
    RunFolder(tmp_path, {"k": 4, "new": 1}, defaults={"k": 2, "new": 1}).close()
    with pytest.raises(FileExistsError, match="new: 1 in the folder, 2 now"):
        RunFolder(tmp_path, {"k": 4, "new": 2}, defaults={"k": 2, "new": 1})


def test_the_same_config_starts_anew(tmp_path, no_tensorboard):
    for _ in range(2):
        with RunFolder(tmp_path, CONFIG) as run:
            run.log(0, loss=1.0)
    assert steps(tmp_path) == [0]


def test_resume_with_another_config_keeps_the_old(tmp_path, no_tensorboard):
    for bits in (2, 3, 4):
        with RunFolder(tmp_path, {"bits": bits}, resume=True) as run:
            run.log(bits, loss=0.0)
    found = [json.loads((tmp_path / f"config{n}.json").read_text())["bits"] for n in ("", ".1", ".2")]
    assert found == [4, 2, 3] and steps(tmp_path) == [2, 3, 4]


def test_versions(tmp_path):
    found = versions()
    assert found["jax"] == jax.__version__ and found["numpy"] == np.__version__
    assert found["python"].startswith(f"{sys.version_info.major}.{sys.version_info.minor}")
    assert {"jaxlib", "flax", "optax", "ott-jax", "mecq-jax"} < set(found)
    assert found["device"]["platform"] == jax.devices()[0].platform
    assert found["git"] is None or set(found["git"]) == {"commit", "dirty"}


def test_versions_without_git(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert versions()["git"] is None


def test_to_json_makes_plain_types():
    @dataclasses.dataclass
    class Part:
        size: int
        where: Path

    value = {"a": Part(np.int32(3), Path("x") / "y"), "b": (1.5, float("inf")), "c": None, 4: True}
    part = {"size": 3, "where": str(Path("x") / "y")}
    assert to_json(value) == {"a": part, "b": [1.5, "inf"], "c": None, "4": True}
    with pytest.raises(TypeError, match=r"config.f\[1\] is a function"):
        to_json({"f": [1, lambda: 0]})


def test_atomic_write_leaves_the_old_file_on_failure(tmp_path):
    path = tmp_path / "file.json"
    atomic_write_text(path, "old")
    with pytest.raises(TypeError):
        atomic_write_text(path, 5)
    assert path.read_text() == "old" and files(tmp_path) == ["file.json"]


def is_png(path):
    return path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" and path.stat().st_size > 5000


def test_levels_over_training(tmp_path):
    rng = np.random.default_rng(0)
    levels = np.linspace(-1, 1, 4) + 0.1 * np.cumsum(rng.normal(size=(20, 4)), 0)
    before, after = rng.normal(size=500), rng.choice(levels[-1], 500)
    even = np.full((20, 4), 0.25)
    plots.levels_over_training(tmp_path / "new" / "a.png", np.arange(20), levels, even, before, after, "layer 1")
    assert is_png(tmp_path / "new" / "a.png")
    one = np.zeros((1, 2))
    plots.levels_over_training(tmp_path / "b.png", [0], one, one, np.zeros(3), np.zeros(3), "flat")
    assert is_png(tmp_path / "b.png")
    with pytest.raises(ValueError, match=r"levels has shape \(20, 4\), must be \[3, k\]"):
        plots.levels_over_training(tmp_path / "c.png", np.arange(3), levels, np.zeros((3, 4)), before, after, "")


@pytest.mark.parametrize("temperature", [np.geomspace(1, 1e-4, 9), np.zeros(9)])
def test_entropy_and_temperature(tmp_path, temperature):
    marks = {"warm-up": 0, "anneal": 3, "hard": 7}
    plots.entropy_and_temperature(tmp_path / "a.png", np.arange(9), np.linspace(1.4, 0, 9), temperature, marks)
    assert is_png(tmp_path / "a.png")


@pytest.mark.parametrize("count", [1, 3])
def test_assignment_curves(tmp_path, count):
    grid, levels, curves = np.linspace(-2, 2, 80), np.array([-1.0, 0.0, 0.5, 1.2]), []
    for epsilon in (1.0, 0.3, 0.05)[:count]:
        score = np.exp(-((grid[:, None] - levels) ** 2) / epsilon)
        p = score / score.sum(1, keepdims=True)
        curves.append((f"epsilon = {epsilon}", grid, p, p @ levels))
    plots.assignment_curves(tmp_path / "a.png", curves, "Assignment of a weight to levels")
    assert is_png(tmp_path / "a.png")


def test_assignment_curves_wants_a_curve(tmp_path):
    with pytest.raises(ValueError, match="curves has 0 entries"):
        plots.assignment_curves(tmp_path / "a.png", [], "")


def test_accuracy(tmp_path):
    series = {f"run {i}": (np.arange(5) * 100, np.linspace(0.1, 0.9 - 0.03 * i, 5)) for i in range(9)}
    plots.accuracy(tmp_path / "a.png", series)
    assert is_png(tmp_path / "a.png")
