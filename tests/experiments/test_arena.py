"""Teams train as single runs do, and the protocol keeps its rows."""

import dataclasses
import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from experiments import config as configs
from experiments import sweep
from experiments.arena import __main__ as command
from experiments.arena import ablations as recipe
from experiments.arena import protocol
from experiments.arena.methods import METHODS
from experiments.arena.protocol import Arena, Clock, run, tune
from experiments.arena.qwix import ADVICE, qwix_task
from experiments.arena.table import summary, table
from experiments.arena.team import TRACED, Member, Team
from experiments.config import Config
from experiments.models import small as models
from experiments.runtime.interruption import Interrupted
from experiments.tasks.classification import make_task
from mecq_jax import quantizers
from mecq_jax.params import leaves_by_path, replace_leaves

pytestmark = pytest.mark.usefixtures("standard_promotion")
CONFIG = Config(
    dataset="digits",
    model="norm_mlp",
    width=8,
    batch=256,
    train_size=800,
    gradient="mirror",
    float_epochs=2,
    soft_epochs=2,
    hard_epochs=1,
    temperature_end=0.05,
)


@pytest.fixture(scope="module")
def task():
    return make_task(CONFIG)


def test_a_team_trains_its_members_as_if_each_were_alone(task):
    """Together under one vmap, one by one, and in a team of one: the same accuracies and nearly the same numbers."""
    numbers = [{"learning_rate": 0.1}, {"learning_rate": 0.03, "temperature_end": 0.1}]
    config = dataclasses.replace(CONFIG, optimizer="sgd")  # Adam takes whole steps where the gradient is rounding
    members = [Member(seed, task.params, task.model_state, n) for seed, n in enumerate(numbers)]
    teams = [Team(task, config, members, together=True), Team(task, config, members[1:], together=False)]
    temperature: list[np.ndarray] = []
    for team in teams:
        while team.done < team.epochs:
            report = team.train()
            temperature.append(report["temperature"])
        assert report["loss"].shape == (len(team.members),) and np.isfinite(report["loss"]).all()
    together, alone = teams[0].member(teams[0].state, 1), teams[1].member(teams[1].state, 0)
    assert int(together.step) == int(alone.step) == 3 * (800 // 256)
    apart, moved = (optax.tree.norm(optax.tree.sub(together.params, x)) for x in (alone.params, task.params))
    assert float(apart) < 0.02 * float(moved), "the same way, not only the same start"
    for path, levels in together.quantized.parameters.items():
        np.testing.assert_allclose(levels["levels"], alone.quantized.parameters[path]["levels"], rtol=1e-3)
    codes = [np.concatenate([np.ravel(x) for x in s.quantized.codes.values()]) for s in (together, alone)]
    assert np.mean(codes[0] != codes[1]) < 0.01
    np.testing.assert_allclose(temperature[2], [0.05, 0.1], rtol=1e-5, err_msg="where the hard phase holds it")
    test = (task.dataset.test_images, task.dataset.test_labels)
    together_right, alone_right = (team.accuracies("hard", *test)[-1] for team in teams)
    np.testing.assert_allclose(together_right, alone_right, atol=4 / 359)
    first = teams[0].member(teams[0].state, 0)
    assert any(
        bool((a != b).any())
        for a, b in zip(jax.tree.leaves(first.params), jax.tree.leaves(together.params), strict=True)
    )


def test_the_protocol_tunes_repeats_and_goes_on(tmp_path):
    config = dataclasses.replace(CONFIG, soft_epochs=1)
    arena = Arena(config=config, learning_rates=(2e-3,), methods=("lsq", "mec"), seeds=2)
    said: list[str] = []
    rows = run(arena, tmp_path, said.append)
    assert [row["key"] for row in rows] == ["float 0", "lsq 4", "mec 4"] and len(said) == 5
    for row in rows[1:]:
        assert len(row["last"]) == len(row["best"]) == len(row["soft_end"]) == 2 and len(row["epochs"]) == 2
        assert len(row["grid"]) == 2 and row["chosen"] == max(row["grid"], key=lambda pair: pair[1])[0]
        assert row["float"] == rows[0]["float"] and "learning_rate" in row["chosen"]
    assert rows[1]["soft_end"] == rows[1]["soft_end_hard"] == rows[1]["epochs"][1]
    assert rows[2]["soft_end_hard"] == rows[2]["epochs"][0], "the hard phase begins after the first epoch"
    written = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert written == json.loads(json.dumps(rows))
    assert "| 4 | lsq |" in (tmp_path / "table.md").read_text() == table(rows)
    assert len(run(arena, tmp_path, said.append)) == 3 and len(said) == 5, "nothing is trained twice"
    with pytest.raises(ValueError, match="another arena"):
        run(dataclasses.replace(arena, learning_rates=(1e-3,)), tmp_path)
    shared = json.loads((tmp_path / "arena.json").read_text())
    del shared["config"]["balance"]  # as if the rows were older than the field
    (tmp_path / "arena.json").write_text(json.dumps(shared))
    assert len(run(arena, tmp_path)) == 3
    with pytest.raises(ValueError, match=r"balance: 1\.0 in the folder, 0\.5 now"):
        run(dataclasses.replace(arena, config=dataclasses.replace(config, balance=0.5)), tmp_path)


def test_the_recipe_is_varied_one_change_at_a_time(tmp_path, monkeypatch):
    arena = Arena(config=dataclasses.replace(CONFIG, soft_epochs=1), learning_rates=(2e-3,), methods=(), seeds=2)
    every = recipe.variations(2)
    for change in every.values():
        for fields in (*change.before, change.fields):
            dataclasses.replace(arena.config, **{**recipe.BASE, **fields})
    assert every["no hard phase"].fields == {"soft_epochs": 2, "hard_epochs": 0}
    few = {name: every[name] for name in ("the recipe", "no hard phase")}
    few["after rounding"] = recipe.Change(before=[{"method": "ste", "soft_epochs": 1, "hard_epochs": 0}])
    monkeypatch.setattr(recipe, "variations", lambda epochs: few)
    said: list[str] = []
    first, second, third = recipe.run(arena, tmp_path, said.append)
    assert len(said) == 5 and len(recipe.run(arena, tmp_path, said.append)) == 3 and len(said) == 5
    assert third["loss"] != first["loss"], "it began from other weights"
    assert first["loss"] != first["soft_end"]["hard"]["loss"], "the hard phase trains"
    assert second["loss"] == second["soft_end"]["hard"]["loss"], "there is none"
    text = (tmp_path / "recipe" / "table.md").read_text()
    gain = 100 * np.mean(np.subtract(second["accuracy"], first["accuracy"]))
    assert f"| {gain:.2f} ± " in next(line for line in text.splitlines() if line.startswith("| no hard phase"))


@pytest.mark.fast
def test_the_table_pairs_seeds():
    shared = {"k": 4, "float": [0.9, 0.8], "best": [0.9, 0.9], "soft_end": [0.8], "soft_end_hard": [0.7], "chosen": {}}
    rows = [
        {"method": "ste", "last": [0.82, 0.71], "untrained": [0.5, 0.5], **shared},
        {"method": "mec", "last": [0.85, 0.75], "untrained": [0.1, 0.1], **shared},
    ]
    first, second = table(rows).splitlines()[2:]
    assert first == "| 4 | mec | 80.00 ± 7.07 | 90.00 ± 0.00 |  | 85.7 | 10.00 |  |"
    assert second == "| 4 | ste | 76.50 ± 7.78 | 90.00 ± 0.00 | 3.50 ± 0.71 | 75.7 | 10.00 |  |"
    rows += [{**rows[0], "method": "qwix", "last": [0.99, 0.99]}, {**rows[1], "k": 2}, {**rows[0], "k": 2}]
    assert summary(rows).splitlines()[2:] == [
        "| mec | 80.00 ± 7.07 | 80.00 ± 7.07 |",
        "| ste | 76.50 ± 7.78 | 76.50 ± 7.78 |",
        "| qwix |  | 99.00 ± 0.00 |",
    ]


def test_tuning_sees_no_test_image(task, tmp_path):
    config = dataclasses.replace(CONFIG, method="lsq", soft_epochs=1, hard_epochs=0)
    member = Member(0, task.params, task.model_state, {"learning_rate": 2e-3})
    found = []
    for labels in (task.dataset.test_labels, (task.dataset.test_labels + 1) % 10):
        other = dataclasses.replace(task, dataset=dataclasses.replace(task.dataset, test_labels=labels))
        held = (task.dataset.train_images[:100], task.dataset.train_labels[:100])
        found.append(tune(Team(other, config, [member]), held, Clock(), tmp_path / str(len(found))))
    assert found[0] == found[1]


def test_a_paused_team_goes_on_to_the_same_end(task, tmp_path):
    config = dataclasses.replace(CONFIG, method="lsq", soft_epochs=1, hard_epochs=1)

    def team():
        return Team(task, config, [Member(0, task.params, task.model_state)], together=False)

    whole, first, second = team(), team(), team()
    assert Clock().train(whole, tmp_path / "none", lambda: 1) == [1, 1, 1] and not (tmp_path / "none").exists()
    with pytest.raises(Interrupted, match="goes on"):
        Clock(limit=0.0).train(first, tmp_path / "store", lambda: 2)
    assert Clock(limit=0.0).train(second, tmp_path / "store", lambda: 3) == [2, 2, 3], "the last epoch is not lost"
    for a, b in zip(jax.tree.leaves(whole.state.params), jax.tree.leaves(second.state.params), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.fast
def test_misuse_of_a_team_is_refused(task):
    with pytest.raises(ValueError, match="may differ in"):
        Team(task, CONFIG, [Member(0, task.params, task.model_state, {"batch": 64})])


@pytest.mark.fast
def test_every_rival_has_its_place_and_the_same_budget():
    assert {METHODS[name].fields["method"] for name in METHODS} == set(quantizers.QUANTIZERS)
    for method in METHODS.values():
        dataclasses.replace(CONFIG, **method.fields)
        assert len(method.knob) == 2 and all(set(numbers) <= set(TRACED) for numbers in method.knob)


@pytest.mark.fast
def test_a_pause_is_an_exit_status_of_its_own(tmp_path, monkeypatch, capsys):
    def paused(*_, **__):
        raise Interrupted("paused after 0.0 minutes; the same command goes on from here")

    path = str(sweep.CONFIGS / "arena" / "cifar10_small.py")
    monkeypatch.setattr(protocol, "run", paused)
    assert command.main([path, "--folder", str(tmp_path)]) == 75
    assert "the same command goes on" in capsys.readouterr().err


def test_bfloat16_computes_near_float32_and_keeps_float32_state(task):
    half = dataclasses.replace(task, config=dataclasses.replace(task.config, compute="bfloat16"))
    batch = {"image": task.dataset.train_images[:256], "label": task.dataset.train_labels[:256]}

    def gradient(task):
        loss = jax.jit(jax.value_and_grad(task.loss_fn, has_aux=True))
        (value, (state, _)), gradients = loss(task.params, task.model_state, batch, jax.random.key(0))
        assert {x.dtype for x in jax.tree.leaves((value, state, gradients)) if x.dtype.kind == "f"} == {np.dtype("f4")}
        return value, gradients

    (value, exact), (near, rounded) = gradient(task), gradient(half)
    assert value != near and abs(value - near) < 0.02 * value
    apart = optax.tree.norm(optax.tree.sub(exact, rounded)) / optax.tree.norm(exact)
    assert 0 < float(apart) < 0.1


def test_a_method_of_a_package_that_is_not_here_is_left_out_and_said(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda package: None)
    said: list[str] = []
    arena = Arena(config=CONFIG, methods=("qwix",), seeds=1)
    monkeypatch.setattr(
        protocol,
        "one_row",
        lambda *arguments: {"method": "float", "k": 0, "last": [0.5], "best": [0.5], "float": [0.5], "chosen": {}},
    )
    assert [row["key"] for row in run(arena, tmp_path, said.append)] == ["float 0"]
    assert ADVICE in said


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # qwix uses what this Flax is about to drop
def test_qwix_rounds_the_layers_that_ours_do(task):
    """What is rounded does not see a small change of weights near 0."""
    pytest.importorskip("qwix")
    rounded = qwix_task(task, dataclasses.replace(CONFIG, method="ste"))
    leaves, images = leaves_by_path(task.params), task.dataset.test_images[:64]

    def sees(task, path):
        leaf, logits = leaves[path], jax.jit(task.logits)
        most = jnp.abs(leaf).max()
        moved = jnp.where(jnp.abs(leaf) < 0.1 * most, leaf + 0.01 * most, leaf)
        moved = logits(replace_leaves(task.params, {path: moved}), task.model_state, images)
        return bool((moved != logits(task.params, task.model_state, images)).any())

    kernels = [path for path in leaves if path.endswith("kernel")]
    assert len(kernels) == 5 and all(sees(task, path) for path in kernels)
    assert [path for path in kernels if sees(rounded, path)] == ["first/kernel", "head/kernel"]


@pytest.mark.fast
def test_the_arenas_that_come_along_build_their_models_and_every_method():
    paths = sorted((sweep.CONFIGS / "arena").glob("*.py"))
    assert {path.stem for path in paths} >= {*map(os.path.basename, sweep.ARENAS), "cifar10_small", "fashion_small"}
    for path in paths:
        arena = configs.load_object(path, "arena", Arena)
        assert set(arena.methods) == set(METHODS)
        size = {"cifar10": 32, "cifar100": 32, "fashion_mnist": 28}[arena.config.dataset] // arena.config.downscale
        jax.eval_shape(lambda c=arena.config, size=size: nnx.split(models.build(c.model, 3, size, 10, c.width, 0))[1])


@pytest.mark.fast
def test_the_command_refuses_a_file_without_an_arena(tmp_path, capsys):
    (tmp_path / "a.py").write_text("arena = 3\n")
    assert command.main([str(tmp_path / "a.py")]) == 2 and "must define arena" in capsys.readouterr().err
    assert command.main([str(tmp_path / "b.py")]) == 2 and "no arena file" in capsys.readouterr().err
