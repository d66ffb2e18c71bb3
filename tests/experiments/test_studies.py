"""The studies at tiny size: they run from the command line, and their numbers have the properties expected."""

import importlib
import json
from functools import partial

import jax
import numpy as np
import pytest

from experiments import config as configs
from experiments.reporting import measured
from experiments.runtime.console import command_line
from experiments.runtime.formatting import mean_std, significant
from experiments.studies import common, gradients, grid, iterations, passes, relaxation

STUDIES = {"iterations": iterations, "gradients": gradients, "relaxation": relaxation, "passes": passes, "grid": grid}


pytestmark = pytest.mark.usefixtures("standard_promotion")


def write(tmp_path, name, config, data):
    """table.md, data.json and figure.png are there and hold what was computed."""
    module = STUDIES[name]
    text = common.write(tmp_path, module, config, {**data, "seconds": 1.0})
    assert {p.name for p in tmp_path.iterdir()} == {"table.md", "data.json", "figure.png"}
    assert f"python -m experiments.studies {name}" in text.splitlines()[0]
    assert (tmp_path / "table.md").read_text() == text and "jax" in text
    assert json.loads((tmp_path / "data.json").read_text())["versions"]["jax"] == jax.__version__
    assert (tmp_path / "figure.png").read_bytes()[:4] == b"\x89PNG"


def test_passes(tmp_path):
    config = passes.Config(n=2000, levels=(4,), epsilons=(0.1, 1e-3), seeds=1)
    data = passes.compute(config)
    assert all(r["converged"] and r["iterations"] <= 20 for r in data["records"])
    write(tmp_path, "passes", config, data)


def test_iterations(tmp_path):
    config = iterations.Config(n=512, levels=(4,), epsilons=(0.3, 0.03), sinkhorn=(1, 10, 100), newton=(2,), seeds=0)
    data = iterations.compute(config)
    for metric in ("marginal", "soft", "gradient"):
        for solver in ("sinkhorn zero", "newton cold"):
            errors = np.array(data["errors"]["4"][solver][metric])
            assert (np.diff(errors, axis=1) <= 1e-6).all(), (metric, solver)
    zero, newton, warm = (
        np.array(data["errors"]["4"][s]["gradient"]) for s in ("sinkhorn zero", "newton cold", "newton warm")
    )
    assert zero[0, 2] < 0.01 < zero[0, 0], "at 0.3 a hundred iterations are enough and one is not"
    assert zero[1, 0] > 0.5, "at 0.03 one iteration is nothing"
    assert (newton[:, 0] < 1e-3).all() and (warm[:, 0] < 0.05).all()
    assert max(data["errors"]["4"]["exact"]["marginal"]) < 1e-4
    write(tmp_path, "iterations", config, data)


def test_iterations_trains_with_another_solver(tmp_path, monkeypatch):
    tiny = 'Config(dataset="digits", train_size=320, model="mlp", width=8, batch=32)'
    (tmp_path / "tiny.py").write_text(f"from experiments.config import Config\nconfig = {tiny}\n")
    monkeypatch.setattr(iterations, "DIGITS", tmp_path / "tiny.py")
    sizes = {"seeds": 1, "float_epochs": 1, "soft_epochs": 1, "hard_epochs": 0}
    config = iterations.Config(training=("sinkhorn 1",), **sizes)
    assert iterations.SolverConfig(solver="sinkhorn 7").quantizer().solver.max_iterations == 7
    one = iterations.train(config)
    (sinkhorn,) = one["sinkhorn 1"]
    assert 0 < sinkhorn["float"] <= 1 and 0 < sinkhorn["soft"] <= 1
    assert 1e-4 < sinkhorn["median_marginal_error"] < 0.5, "two steps of Newton would be at 1e-6"
    assert "sinkhorn 1" in iterations._training_table(one)


def test_gradients(tmp_path, monkeypatch):
    # Compiling is what takes the time here; the others differ from these in nothing that can break.
    left_out = ("ott-jax implicit, default", "one step")
    every = gradients.methods
    monkeypatch.setattr(gradients, "methods", lambda c: {k: v for k, v in every(c).items() if k not in left_out})
    config = gradients.Config(sizes=(64,), epsilons=(0.1,), unrolled=(5, 200), large=(2048,), repeats=1)
    accuracy = gradients.accuracy(config, 64)
    left_out += tuple(name for name in accuracy if name not in ("implicit (ours)", "unrolled 200"))
    monkeypatch.setattr(gradients, "accuracy", lambda config, n: accuracy)
    data = gradients.compute(config)
    size = data["sizes"]["64"]
    for e in data["epsilons"]:
        assert size["reference"][e]["w"] < 1e-4
        for name in ("implicit (ours)", "ott-jax implicit, SVD", "unrolled 200"):
            assert size[name][e]["w"] < 0.02 and size[name][e]["q"] < 0.02, (name, e)
        assert size["stop-gradient"][e]["w"] > 0.1 and size["straight-through"][e]["w"] > 0.1
        assert size["unrolled 5"][e]["w"] > size["unrolled 200"][e]["w"]
        assert size["mirror (ours)"][e]["q"] < 0.02 < size["mirror (ours)"][e]["w"]
    cost = data["cost"]["2048"]
    assert all(cost[name]["megabytes"] > 0 for name in ("implicit (ours)", "unrolled 200"))
    write(tmp_path, "gradients", config, data)


def test_a_method_that_fails_is_in_the_table():
    def broken(c, epsilon, b):
        raise FloatingPointError("no such thing")

    w, q, c = gradients.problem(64, 4, 0)
    found = gradients.attempt(broken, w, q, c, 0.1, 1)
    assert found["failed"] == "raises FloatingPointError" and found["message"] == "no such thing"
    assert gradients.relative(np.array([np.nan]), np.ones(1)) == "NaN"
    size = {"broken": {"0.1": {"w": found["failed"], "q": "NaN"}}}
    data = {"sizes": {"64": size}, "epsilons": ["0.1"], "large_epsilon": 0.1, "cost": {"64": {"broken": found}}}
    text = "".join(gradients.tables(data))
    assert text.count("raises FloatingPointError") == 2 and "NaN" in text


def test_relaxation(tmp_path):
    config = relaxation.Config(n=4000, balances=(0.0, 1.0), epsilons=(0.3, 0.003), bits=(2,), kernels=())
    data = relaxation.compute(config)
    for name in ("Gaussian", "Laplace"):
        free, held = relaxation.select(data, weights=name, bits=2, epsilon=0.003)
        assert abs(free["ratio"] - 1) < 1e-3, "without a marginal term the codes are the nearest levels"
        assert held["ratio"] > 1.1, "exact masses cost squared error at 2 bits"
        assert max(abs(held["hard_least"] - 1), abs(held["hard_most"] - 1)) < 0.01
    records = relaxation.select(data, weights="Gaussian", bits=2, epsilon=0.003)
    least = [r["hard_least"] for r in records]
    assert least == sorted(least) and all(r["marginal_error"] < 1e-3 for r in data["records"])
    soft, sharp = (relaxation.select(data, weights="Gaussian", bits=2, balance=1.0, epsilon=e)[0] for e in (0.3, 0.003))
    assert soft["entropy"] > sharp["entropy"]
    write(tmp_path, "relaxation", config, data)


def test_grid(tmp_path):
    tiny = ("--model=mlp", "--width=32", "--train_size=640", "--float_epochs=20", "--soft_epochs=2", "--hard_epochs=0")
    config = grid.Config(seeds=1, level_bits=(8, 2), activation_bits=(8, 2), overrides=tiny)
    data = grid.compute(config)
    assert abs(grid.cost(data, 8, 8)[0]) < 3, "eight bits cost little"
    assert all(0 < r["largest"] <= 2**24 for r in data["records"]) and len(data["records"]) == 4
    assert 0.5 < data["packed"][0] < data["float"][0] + 0.02
    write(tmp_path, "grid", config, data)


REFUSED = [("--nn=3", "unknown field"), ("--n=x", "not of type int"), ("--n", "write --field")]


@pytest.mark.parametrize("argument,message", REFUSED)
def test_bad_fields_are_refused(argument, message, capsys):
    assert common.main(relaxation, [argument]) == 2
    assert message in capsys.readouterr().err


def test_fields_have_their_types():
    config = configs.override(relaxation.Config(), ["--bits=2", "--epsilons=[1.0, 0.1]", "--float_run=some"])
    assert config.bits == (2,) and config.epsilons == (1.0, 0.1) and config.float_run == "some"
    assert command_line("studies relaxation", config).endswith("'--epsilons=(1.0, 0.1)' '--bits=(2,)' --float_run=some")
    with pytest.raises(ValueError, match=r"bits = 'x' is not of type tuple\[int, ...\]"):
        configs.override(relaxation.Config(), ["--bits=x"])


def test_numbers_as_text():
    assert significant(0.00012) == "1.2e-04" and significant(123.4) == "123"
    assert mean_std([0.1]) == "0.10" and mean_std([0.1, 0.3], ".1f", 100) == "20.0 ± 14.1"  # of a sample
    assert mean_std(np.array([1.0, 2.0]), "+.1f") == "+1.5 ± 0.7"


BENCHMARKS = {
    "solver": ("solver", {"newton", "sinkhorn", "ott"}),
    "exported": ("form", {"float", "2 bits", "3 bits, blocks"}),
    "packed_matmul": ("form", {"bf16 dot", "unpack, dot, 2 bits", "kernel, 3 bits"}),
}


@pytest.mark.parametrize("name", BENCHMARKS)
def test_benchmarks_run_and_go_on_where_they_stopped(name, tmp_path):
    benchmark = importlib.import_module(f"experiments.benchmarks.{name}")
    tiny = partial(measured.measured, benchmark.COLUMNS, benchmark.pieces(True), tmp_path)
    column, wanted = BENCHMARKS[name]
    rows = tiny()
    assert {r[column] for r in rows} >= wanted
    assert all(x > 0 for r in rows for field, x in r.items() if field.startswith("seconds"))
    assert all(f"| {w} |" in (tmp_path / "table.md").read_text() for w in wanted)
    assert len(tiny()) == len(rows), "nothing is measured twice"
