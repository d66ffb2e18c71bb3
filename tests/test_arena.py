"""Teams train as single runs do, and the protocol keeps its rows."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from experiments.arena import __main__ as command
from experiments.arena.methods import METHODS
from experiments.arena.protocol import Arena, Clock, Paused, run, table
from experiments.arena.team import TRACED, Member, Team
from experiments.classify import make_task
from experiments.config import Config
from mecq_jax import catalog

pytestmark = pytest.mark.usefixtures("standard_promotion")
CONFIG = Config(dataset="digits", model="norm_mlp", width=8, batch=256, train_size=800, gradient="mirror",
                float_epochs=2, soft_epochs=2, hard_epochs=1, epsilon_end=0.05)


@pytest.fixture(scope="module")
def task():
    return make_task(CONFIG)


def test_a_team_trains_its_members_as_if_each_were_alone(task):
    """Together under one vmap, one by one, and in a team of one: the same accuracies and nearly the same numbers."""
    numbers = [{"learning_rate": 2e-3}, {"learning_rate": 5e-4, "epsilon_end": 0.1}]
    members = [Member(seed, task.params, task.model_state, n) for seed, n in enumerate(numbers)]
    teams = [Team(task, CONFIG, members, together=True), Team(task, CONFIG, members[1:], together=False)]
    for team in teams:
        while team.done < team.epochs:
            report = team.train()
        assert report["loss"].shape == (len(team.members),) and np.isfinite(report["loss"]).all()
    together, alone = teams[0].member(teams[0].state, 1), teams[1].member(teams[1].state, 0)
    assert int(together.step) == int(alone.step) == 3 * (800 // 256)
    for a, b in zip(jax.tree.leaves(together.params), jax.tree.leaves(alone.params), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-3)
    test = (task.dataset.test_images, task.dataset.test_labels)
    np.testing.assert_allclose(teams[0].scores(*test).hard[1], teams[1].scores(*test).hard[0], atol=4 / 359)
    first = teams[0].member(teams[0].state, 0)
    assert any(bool((a != b).any()) for a, b in zip(jax.tree.leaves(first.params), jax.tree.leaves(together.params),
                                                    strict=True))


def test_the_protocol_tunes_repeats_and_goes_on(tmp_path):
    arena = Arena(config=dataclasses.replace(CONFIG, soft_epochs=1), learning_rates=(2e-3,), methods=("lsq",), seeds=2)
    said: list[str] = []
    rows = run(arena, tmp_path, said.append)
    assert [row["key"] for row in rows] == ["float 0", "lsq 4"] and len(said) == 4
    row = rows[1]
    assert len(row["last"]) == len(row["best"]) == 2 and len(row["epochs"]) == 2 and len(row["grid"]) == 2
    assert row["chosen"] == max(row["grid"], key=lambda pair: pair[1])[0] and "levels_learning_rate" in row["chosen"]
    assert row["float"] == rows[0]["float"]
    written = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert written == json.loads(json.dumps(rows))
    assert "| 4 | lsq |" in (tmp_path / "table.md").read_text() == table(arena, rows)
    assert len(run(arena, tmp_path, said.append)) == 2 and len(said) == 4, "nothing is trained twice"


def test_a_paused_team_goes_on_to_the_same_end(task, tmp_path):
    config = dataclasses.replace(CONFIG, method="lsq", soft_epochs=1, hard_epochs=1)

    def team():
        return Team(task, config, [Member(0, task.params, task.model_state)], together=False)

    whole, first, second = team(), team(), team()
    assert Clock().train(whole, tmp_path / "none", lambda: 1) == [1, 1, 1] and not (tmp_path / "none").exists()
    with pytest.raises(Paused, match="goes on"):
        Clock(limit=0.0).train(first, tmp_path / "store", lambda: 2)
    assert Clock().train(second, tmp_path / "store", lambda: 3) == [2, 2, 3]
    for a, b in zip(jax.tree.leaves(whole.state.params), jax.tree.leaves(second.state.params), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.fast
def test_misuse_of_a_team_is_refused(task):
    with pytest.raises(ValueError, match="may differ in"):
        Team(task, CONFIG, [Member(0, task.params, task.model_state, {"batch": 64})])


@pytest.mark.fast
def test_every_rival_has_its_place_and_the_same_budget():
    assert {METHODS[name].fields["method"] for name in METHODS} == set(catalog.QUANTIZERS)
    for method in METHODS.values():
        dataclasses.replace(CONFIG, **method.fields)
        assert len(method.knob) == 2 and all(set(numbers) <= set(TRACED) for numbers in method.knob)


@pytest.mark.fast
def test_the_command_refuses_a_file_without_an_arena(tmp_path, capsys):
    (tmp_path / "a.py").write_text("arena = 3\n")
    assert command.main([str(tmp_path / "a.py")]) == 2 and "must define arena" in capsys.readouterr().err
    assert command.main([str(tmp_path / "b.py")]) == 2 and "no arena file" in capsys.readouterr().err
