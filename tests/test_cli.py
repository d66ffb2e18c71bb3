"""The command line: what it says and how it ends."""

import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

import mecq_jax
from mecq_jax import cli, storage
from mecq_jax.granularity import PerTensor
from mecq_jax.storage import QuantizedTensor

pytestmark = pytest.mark.fast


def network(extra):
    """What --model names here: a dense layer, and inputs."""
    return lambda arrays, x: jnp.tanh(x @ arrays["w"] * extra["scale"]), np.eye(6, 8, dtype=np.float32)


def linear(extra):
    """A network that an integer grid holds."""
    return lambda arrays, x: jnp.maximum(x @ arrays["w"], 0.0) * extra["scale"], np.eye(6, 8, dtype=np.float32)


@pytest.fixture
def file(tmp_path, rng):
    tensor = QuantizedTensor(
        rng.integers(0, 4, (1, 40), dtype=np.uint8), rng.normal(size=(1, 4)).astype(np.float32), (8, 5), PerTensor()
    )
    storage.save(tmp_path / "m.safetensors", {"w": tensor, "b": np.zeros(5, np.float32)}, extra={"scale": 0.5})
    return tmp_path / "m.safetensors"


def test_inspect_and_verify(file, capsys):
    assert cli.main(["inspect", str(file)]) == 0
    out = capsys.readouterr().out
    # 40 codes of 2 bits and 4 levels of 4 bytes: 26 bytes, 5.2 bits a weight.
    assert "8x5" in out and " 26 " in out and "40 quantized weights at 5.200 bits, levels" in out
    assert f"{file.stat().st_size:,} bytes on disk; in float32 180" in out
    assert cli.main(["verify", str(file)]) == 0
    assert "all 45 numbers alike" in capsys.readouterr().out


def test_verify_knows_what_jax_does_not_hold(tmp_path, rng, capsys):
    tensors = {
        name: QuantizedTensor(
            rng.integers(0, 4, (1, 40), dtype=np.uint8),
            rng.normal(size=(1, 4)).astype(np.float32),
            (8, 5),
            PerTensor(),
            name,
        )
        for name in ("bfloat16", "float16", "float64")
    }
    storage.save(tmp_path / "m", {**tensors, "a": np.float64(0.1), "b": np.array([2**40, -1]), "c": np.array([True])})
    assert cli.main(["verify", str(tmp_path / "m")]) == 0, capsys.readouterr().err


def labels(extra):
    """A network that predicts as a run did."""
    x = np.eye(6, 8, dtype=np.float32)
    return lambda arrays, x: jnp.argmax(network(extra)[0](arrays, x), axis=1), x


def fickle(extra):
    """A network that answers otherwise each time."""
    times = iter(range(9))
    return lambda arrays, x: jnp.sum(x @ arrays["w"]) + float(next(times)), np.eye(6, 8, dtype=np.float32)


@pytest.fixture
def run(file):
    """The folder of a run, with what was evaluated."""
    w = storage.load(file)["w"].dense()
    answer = np.asarray(jnp.argmax(jnp.tanh(np.eye(6, 8, dtype=np.float32) @ jnp.asarray(w) * 0.5), axis=1))
    (file.parent / "run").mkdir()
    file.rename(file.parent / "run" / "model.safetensors")
    np.savez(file.parent / "run" / "evaluated.npz", w=w, predictions=answer)
    return file.parent / "run"


def test_a_run_is_verified(run, capsys):
    model = ["--model", f"{__name__}:labels"]
    assert cli.main(["verify", "--run", str(run), str(run)]) == 0
    assert capsys.readouterr().out.splitlines() == [f"{run}: 40 weights are the same after reloading"] * 2
    assert cli.main(["verify", "--run", str(run), "--model", f"{__name__}:network"]) == 0
    assert "40 weights and 30 numbers that" in capsys.readouterr().out
    assert cli.main(["verify", "--run", str(run), *model, "--predictions"]) == 0
    assert "40 weights and 6 predictions are the same after reloading" in capsys.readouterr().out


def test_a_run_that_differs_is_named(run, capsys):
    with np.load(run / "evaluated.npz") as archive:
        evaluated = dict(archive)
    predict = ["--model", f"{__name__}:labels", "--predictions"]
    changed = evaluated["predictions"].copy()
    changed[3:5] += 1
    for arrays, more, message in (
        ({"w": -evaluated["w"]}, [], "'w' differs from the evaluated weights"),
        ({"w": evaluated["w"].T}, [], "'w' differs"),
        ({"v": evaluated["w"]}, [], "'v' is not in"),
        ({"w": evaluated["w"]}, predict, "holds no predictions"),
        (evaluated | {"predictions": changed}, predict, "prediction 3 is not the one in"),
        (evaluated, ["--model", f"{__name__}:fickle"], "is not a function of its arguments alone"),
    ):
        np.savez(run / "evaluated.npz", **arrays)
        assert cli.main(["verify", "--run", str(run), *more]) == 1
        assert message in capsys.readouterr().err
    whole = (run / "evaluated.npz").read_bytes()
    for data in (b"", whole[:100], whole[:60] + b"\1" + whole[61:]):
        (run / "evaluated.npz").write_bytes(data)
        assert cli.main(["verify", "--run", str(run)]) == 1
        assert "cannot read" in capsys.readouterr().err
    with open(run / "evaluated.npz", "wb") as file:
        np.save(file, whole[0])
    assert cli.main(["verify", "--run", str(run)]) == 1
    (run / "evaluated.npz").unlink()
    assert cli.main(["verify", "--run", str(run)]) == 1
    assert "is this the folder of a run?" in capsys.readouterr().err


def test_what_a_run_is_verified_with_is_asked_for(run, capsys):
    for arguments, message in (
        (["--run", str(run), "--predictions"], "--predictions needs --model"),
        ([str(run / "model.safetensors"), "--model", f"{__name__}:labels"], "go with --run"),
        (["--run", str(run), "--model", f"{__name__}:network", "--predictions"], "forward predicts as the run did"),
    ):
        assert cli.main(["verify", *arguments]) == 2
        assert message in capsys.readouterr().err
    for arguments in ([], ["file", "--run", str(run)]):
        with pytest.raises(SystemExit) as end:
            cli.main(["verify", *arguments])
        assert end.value.code == 2


def test_its_version(capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out == f"mecq {mecq_jax.__version__}\n"


def test_names_do_not_steer_the_terminal(tmp_path, capsys):
    storage.save(tmp_path / "m", {"a\x1b[2Jb": np.zeros(2, np.float32)})
    assert cli.main(["inspect", str(tmp_path / "m")]) == 0
    assert "\x1b" not in capsys.readouterr().out


def test_a_damaged_file_is_said_to_be_and_the_status_is_1(file, tmp_path, capsys):
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    for command in ("inspect", "verify"):
        assert cli.main([command, str(file)]) == 1
        assert "checksum mismatch" in capsys.readouterr().err
    assert cli.main(["verify", str(tmp_path / "absent")]) == 1
    assert "check the path" in capsys.readouterr().err


@pytest.mark.parametrize("to", cli.FORMATS)
def test_export_and_run(file, to, tmp_path, capsys):
    out = tmp_path / f"m.{to}"
    assert cli.main(["export", str(file), "--to", to, "-o", str(out), "--model", f"{__name__}:network"]) == 0
    assert f"{out.stat().st_size:,} bytes; it was run on 6 inputs" in capsys.readouterr().out
    if to == "onnx":
        x = np.random.default_rng(1).normal(size=(3, 8)).astype(np.float32)
        np.save(tmp_path / "x.npy", x)
        arguments = ["run", str(out), "--input", str(tmp_path / "x.npy")]
        assert cli.main([*arguments, "-o", str(tmp_path / "y.npy")]) == 0
        dense = storage.load(file)["w"].dense()
        np.testing.assert_allclose(np.load(tmp_path / "y.npy"), np.tanh(x @ dense * 0.5), rtol=1e-5, atol=1e-6)
        assert cli.main(arguments) == 0
        for wrong, message in ((x[:, :4], "float32 [3, 4]"), (x.astype(np.float64), "float64 [3, 8]")):
            np.save(tmp_path / "x.npy", wrong)
            capsys.readouterr()
            assert cli.main(arguments) == 2
            assert f"holds {message}" in capsys.readouterr().err
        np.savez(tmp_path / "x.npz", x=x)
        assert cli.main([*arguments[:-1], str(tmp_path / "x.npz")]) == 2
        (tmp_path / "x.npy").write_bytes(b"")
        for unreadable in ("x.npy", "absent.npy"):
            assert cli.main([*arguments[:-1], str(tmp_path / unreadable)]) == 2
        np.save(tmp_path / "x.npy", x)
        out.write_bytes(out.read_bytes()[:100])
        assert cli.main(arguments) == 1
        assert "is not an ONNX file" in capsys.readouterr().err


@pytest.mark.parametrize("to", cli.FORMATS)
def test_export_on_an_integer_grid(file, to, tmp_path, rng, capsys):
    np.save(tmp_path / "ranges.npy", rng.normal(size=(20, 8)).astype(np.float32))
    arguments = ["export", str(file), "--to", to, "-o", str(tmp_path / "m"), "--grid", str(tmp_path / "ranges.npy")]
    assert cli.main([*arguments, "--model", f"{__name__}:linear"]) == 0
    assert "computes what JAX computes, bit for bit" in capsys.readouterr().out
    assert cli.main([*arguments, "--model", f"{__name__}:network"]) == 1
    assert "tanh of activations" in capsys.readouterr().err


def test_the_command_at_fault_is_status_2(file, tmp_path, capsys):
    def export(model):
        return cli.main(["export", str(file), "--to", "onnx", "-o", str(tmp_path / "m.onnx"), "--model", model])

    for model, message in (
        ("no_such_module:f", "No module named"),
        (f"{__name__}:absent", "has no attribute"),
        ("words", "write package.module:function"),
        (".x:f", "write package"),
    ):
        assert export(model) == 2
        assert message in capsys.readouterr().err
    with pytest.raises(SystemExit) as end:
        cli.main(["export", str(file)])
    assert end.value.code == 2
    assert not (tmp_path / "m.onnx").exists()


def test_it_is_a_program(file):
    done = subprocess.run([sys.executable, "-m", "mecq_jax.cli", "verify", str(file)], capture_output=True, text=True)
    assert done.returncode == 0 and "alike" in done.stdout, done.stderr
    help_text = subprocess.run([sys.executable, "-m", "mecq_jax.cli", "--help"], capture_output=True, text=True).stdout
    assert all(command in help_text for command in ("inspect", "verify", "export", "run"))
