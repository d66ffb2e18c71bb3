"""What commands share: subcommands, exit statuses, and the words about old names of fields."""

import dataclasses
import subprocess
import sys

import pytest

from experiments.config import Config
from experiments.reporting import collect, migrate
from experiments.runtime import console
from experiments.runtime.interruption import Interrupted
from experiments.runtime.run_folder import RunFolder

PACKAGES = {
    "arena": ["--ablations", "--minutes"],
    "published": ["fetch", "float_run", "study"],
    "studies": ["iterations", "gradients", "passes", "relaxation", "grid"],
    "benchmarks": ["solver", "step", "input", "exported", "packed_matmul"],
    "portability": ["check"],
    "reporting": ["collect", "gallery", "pictures", "tables", "migrate"],
}


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_says_its_commands(package):
    done = subprocess.run([sys.executable, "-m", f"experiments.{package}", "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and all(word in done.stdout for word in PACKAGES[package]), done.stderr


@pytest.mark.fast
def test_dispatch_gives_the_rest_to_the_module_and_refuses_what_it_does_not_know(capsys):
    def start(module, arguments):
        assert module.__name__ == "experiments.reporting.migrate" and arguments == ["a", "b"]
        return 7

    assert console.dispatch("experiments.reporting", ("migrate",), start, ["migrate", "a", "b"]) == 7
    for wrong, status in (["nothing"], 2), ([], 2), (["-h"], 0):
        assert console.dispatch("experiments.reporting", ("migrate",), start, wrong) == status
        assert "migrate        Bring kept rows and run folders to today's field names\n" in capsys.readouterr().out


@pytest.mark.fast
def test_how_a_command_ends(capsys):
    def raising(error):
        def work():
            raise error

        return work

    assert console.status(lambda: None) == 0
    assert console.status(raising(Interrupted("stopped"))) == 75 and capsys.readouterr().err == "stopped\n"
    assert console.status(raising(ValueError("k = 1"))) == 2 and capsys.readouterr().err == "error: k = 1\n"
    assert console.status(raising(RuntimeError("b")), (RuntimeError,)) == 2
    with pytest.raises(RuntimeError):
        console.status(raising(RuntimeError("c")))


@pytest.mark.fast
def test_old_names_of_fields_are_refused_with_the_remedy(tmp_path):
    old = dataclasses.asdict(Config()) | {"epsilon_end": 0.1}
    with pytest.raises(ValueError, match=r"epsilon_end is now temperature_end; .*reporting migrate FOLDER"):
        collect.of_config(old)
    RunFolder(tmp_path, old).close()
    with pytest.raises(
        FileExistsError, match=r"(?s)epsilon_end: 0.1 in the folder, absent now.*reporting migrate FOLDER"
    ):
        RunFolder(tmp_path, dataclasses.asdict(Config()))


@pytest.mark.fast
def test_the_epochs_of_a_fine_tune_become_the_steps_that_they_were():
    key = {"network": "n", "recipe": {"soft_epochs": 80, "hard_epochs": 20, "epsilon_end": 0.1}}
    assert migrate.renamed(key)["recipe"] == {"soft_steps": 80, "hard_steps": 20, "temperature_end": 0.1}
    assert migrate.renamed({"recipe": {"soft_epochs": 3}}) == {"recipe": {"soft_epochs": 3}}
