"""The command line: mecq inspect, verify, export or run.

  mecq inspect model.safetensors                   what is in a packed file, and what it weighs
  mecq verify model.safetensors                    checksum, invariants, and that NumPy and JAX decode it alike
  mecq verify --run runs/x                         and that it holds the weights that the run evaluated
  mecq export model.safetensors --to onnx -o model.onnx --model package.module:function
                                                   a file for other runtimes, run and compared before it is written
  mecq run model.onnx --input x.npy -o y.npy       what ONNX Runtime answers

For `export`, package.module:function is called with the file's "extra" (a dict of JSON) and gives (forward, x): a pure
function of (arrays by path, inputs), and inputs to compare on. It is never taken from the file, since it is code. With
--grid x.npy (inputs of the training set) the network is put on an integer grid first: the same bits everywhere.

The folder of a run has model.safetensors and evaluated.npz: the evaluated weights by their paths in the file, and
"predictions". With --model its network must answer alike with the weights that NumPy read and those that JAX read; with
--predictions too, forward(arrays, x) gives the run's predictions, which must be the stored ones.

The exit status is 0, or 1 if a file is at fault (damaged, other than it should be, not to be exported or written), or 2
if the command is.
"""

import argparse
import importlib
import sys
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import mecq_reader
from mecq_jax import __version__, export, inference, storage
from mecq_jax.inference import Forward

FORMATS = ("onnx", "stablehlo")
NAMES = {"float32": "float", "float64": "double"}  # of NumPy's types, as ONNX Runtime has them
UNREADABLE = (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error)  # what np.load raises


class UsageError(ValueError):
    """The command is at fault."""


def inspect(path: Path) -> str:
    """A table of a packed file's tensors and what they weigh."""
    spec, raws = mecq_reader.read_raw(path)
    tensors = mecq_reader.assemble(spec, raws)
    lines = [f"{'tensor':40} {'shape':16} {'type':9} {'levels':>6} {'groups':>6} {'bytes':>10} {'bits':>6}"]
    lines += [_row(name, t, _stored_bytes(name, t, raws)) for name, t in tensors.items()]
    total, dense = path.stat().st_size, sum(4 * int(np.prod(t.shape)) for t in tensors.values())
    lines.append(f"{len(tensors)} tensors, {total:,} bytes on disk; in float32 {dense:,}, {dense / total:.1f} times")
    packed = {name: t for name, t in tensors.items() if isinstance(t, mecq_reader.Tensor)}
    if packed:
        weights = sum(t.codes.size for t in packed.values())
        each = 8 * sum(_stored_bytes(name, t, raws) for name, t in packed.items()) / weights
        lines.append(f"{weights:,} quantized weights at {each:.3f} bits, levels included")
    return "\n".join(lines)


def _stored_bytes(name: str, t: mecq_reader.Tensor | np.ndarray, raws: Mapping[str, mecq_reader.Raw]) -> int:
    """Bytes of a tensor in the file."""
    parts = [name] if isinstance(t, np.ndarray) else [f"{name}:codes", f"{name}:levels"]
    return sum(len(raws[part].data) for part in parts)


def _row(name: str, t: mecq_reader.Tensor | np.ndarray, size: int) -> str:
    """A tensor's line of the table."""
    shape, count = "x".join(map(str, t.shape)) or "scalar", int(np.prod(t.shape))
    levels, groups = ("", "") if isinstance(t, np.ndarray) else (str(t.levels.shape[1]), str(len(t.levels)))
    bits = f"{8 * size / count:.3f}" if count else ""
    shown = name if name.isprintable() else repr(name)  # a file's names are not to steer the terminal
    return f"{shown:40} {shape:16} {t.dtype!s:9} {levels:>6} {groups:>6} {size:>10,} {bits:>6}"


def verify(path: Path) -> str:
    """A sentence about a packed file that is sound; ArtifactError otherwise."""
    numbers = sum(array.size for array in decode(path).values())
    return f"{path}: checksum and invariants hold; NumPy and JAX decode all {numbers:,} numbers alike"


def decode(path: Path) -> dict[str, jax.Array]:
    """A packed file's arrays in JAX, once they are those that NumPy reads, bit for bit."""
    by_numpy = mecq_reader.read_dense(path)
    by_jax = inference.dense(inference.to_device(storage.load(path)))
    for name, array in by_numpy.items():
        found = np.asarray(by_jax[name])  # JAX has bfloat16, which NumPy lacks, and by default no 64 bits
        if found.tobytes() != array.astype(found.dtype).tobytes():
            raise mecq_reader.ArtifactError(
                f"{name!r} of {str(path)!r}: NumPy and JAX decode it differently; report this"
            )
    return by_jax


def verify_run(folder: Path, model: str | None = None, predictions: bool = False) -> str:
    """A sentence about a run whose packed file holds what was evaluated; ArtifactError otherwise."""
    path, archive = folder / "model.safetensors", folder / "evaluated.npz"
    arrays, evaluated = decode(path), load_archive(archive)
    stored = evaluated.pop("predictions", None)
    for name, expected in evaluated.items():
        found = np.asarray(arrays[name]) if name in arrays else None
        if found is None or (found.shape, found.tobytes()) != (expected.shape, expected.tobytes()):
            how = "is not in" if found is None else "differs from the evaluated weights in"
            raise mecq_reader.ArtifactError(f"{name!r} {how} {str(path)!r}; train the run again, or copy it whole")
    said = [f"{sum(x.size for x in evaluated.values()):,} weights"]
    if model is not None:
        answer = answer_of(path, model, arrays)
        if predictions:
            compare_predictions(archive, answer, stored)
        said.append(f"{len(answer):,} predictions" if predictions else f"{answer.size:,} numbers that {model} answers")
    return f"{folder}: {' and '.join(said)} are the same after reloading"


def answer_of(path: Path, model: str, by_jax: Mapping[str, jax.Array]) -> np.ndarray:
    """What a packed file's network answers, with the weights that JAX read and with those that NumPy read."""
    forward, x = build(model, mecq_reader.read_spec(path).get("extra", {}))
    by_numpy = {name: jnp.asarray(a, by_jax[name].dtype) for name, a in mecq_reader.read_dense(path).items()}
    answer, other = (np.asarray(forward(arrays, x)) for arrays in (by_jax, by_numpy))
    if answer.tobytes() != other.tobytes():
        raise mecq_reader.ArtifactError(
            f"{model} answers differently to the weights of {str(path)!r} as NumPy and as JAX read them, though they "
            "are alike; its forward is not a function of its arguments alone"
        )
    return answer


def compare_predictions(archive: Path, answer: np.ndarray, stored: np.ndarray | None) -> None:
    """Raise an ArtifactError that names the first prediction which is not the stored one."""
    if stored is None:
        raise mecq_reader.ArtifactError(f"{archive} holds no predictions; leave --predictions out")
    if (answer.shape, answer.dtype) != (stored.shape, stored.dtype):
        raise UsageError(
            f"the model answers {answer.dtype} {list(answer.shape)}, but {archive} holds predictions "
            f"{stored.dtype} {list(stored.shape)}; give a model whose forward predicts as the run did"
        )
    same = (answer == stored) | ((answer != answer) & (stored != stored))
    wrong = np.flatnonzero(~same.reshape(len(same), -1).all(axis=1))
    if wrong.size:
        raise mecq_reader.ArtifactError(
            f"prediction {wrong[0]} is not the one in {archive}: {wrong.size} of {len(same)} differ; "
            "compare the versions and the device with those that the run had"
        )


def build(model: str, extra: dict[str, Any]) -> tuple[Forward, Any]:
    """The (forward, inputs) that the function named 'package.module:function' gives for the file's extra data."""
    module, _, name = model.partition(":")
    if not name or not all(part.isidentifier() for part in module.split(".")):
        raise UsageError(f"--model {model!r}: write package.module:function")
    sys.path.insert(0, "")  # modules of the working folder, as `python -m` finds them
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UsageError(f"--model {model!r}: {error}") from error
    finally:
        sys.path.remove("")
    forward, x = function(extra)
    return forward, x


def load_array(path: Path) -> np.ndarray:
    """The one array of a .npy file."""
    try:
        with open(path, "rb") as file:
            array = np.load(file)
    except UNREADABLE as error:
        raise UsageError(f"cannot read {path}: {error}") from error
    if not isinstance(array, np.ndarray):
        raise UsageError(f"{path} is an archive of arrays; give one array, as np.save writes it")
    return array


def load_archive(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a .npz file of a run; ArtifactError if it is not sound."""
    try:
        with open(path, "rb") as file, np.load(file) as arrays:  # np.load leaves a damaged archive open
            return dict(arrays)
    except (*UNREADABLE, TypeError) as error:  # the last where it is one array
        raise mecq_reader.ArtifactError(f"cannot read {path}: {error}; is this the folder of a run?") from error


def export_file(path: Path, to: str, out: Path, model: str, inputs: Path | None, ranges: Path | None) -> str:
    """Write the network of a packed file in another format; a sentence about it."""
    tensors: Mapping[str, Any] = storage.load(path)
    forward, x = build(model, mecq_reader.read_spec(path).get("extra", {}))
    x = x if inputs is None else load_array(inputs)
    options, how = {}, ""
    if ranges is not None:
        grid = export.integer_grid(forward, tensors, load_array(ranges))
        forward, tensors, options, how = grid.forward, grid.tensors, {"tolerance": 0.0}, ", bit for bit"
    size = getattr(export, to)(out, forward, tensors, x, **options)
    return f"{out}: {size:,} bytes; it was run on {len(x)} inputs and computes what JAX computes{how}"


def open_session(path: Path) -> Any:
    """ONNX Runtime's session of a file; ValueError if it is not one."""
    data = path.read_bytes()
    try:
        return export.onnx_session(data)
    except ModuleNotFoundError:
        raise
    except Exception as error:  # ONNX Runtime's exceptions have no common class but this
        raise ValueError(f"{path} is not an ONNX file that ONNX Runtime runs: {error}") from error


def fits(x: np.ndarray, wanted: Any) -> bool:
    """Whether an array is of the shape and type of a session's input."""
    shape = len(wanted.shape) == x.ndim and all(
        d in (n, None) or isinstance(d, str) for d, n in zip(wanted.shape, x.shape, strict=True)
    )
    return bool(shape and wanted.type == f"tensor({NAMES.get(x.dtype.name, x.dtype.name)})")


def run_onnx(path: Path, inputs: Path, out: Path | None) -> str:
    """ONNX Runtime's answer to the inputs."""
    x, session = load_array(inputs), open_session(path)
    wanted = session.get_inputs()[0]
    if not fits(x, wanted):
        raise UsageError(f"{inputs} holds {x.dtype} {list(x.shape)}, {path} takes {wanted.type} {wanted.shape}")
    (y,) = session.run(None, {wanted.name: x})
    if out is None:
        return np.array2string(y, precision=6, threshold=200)
    with open(out, "wb") as file:  # by its own name, to which np.save would add an ending
        np.save(file, y)
    return f"{out}: {y.dtype} {list(y.shape)}"


def parser() -> argparse.ArgumentParser:
    """The arguments of all commands."""
    raw = argparse.RawDescriptionHelpFormatter
    top = argparse.ArgumentParser(prog="mecq", description=__doc__, formatter_class=raw)
    top.add_argument("--version", action="version", version=f"mecq {__version__}")
    commands = top.add_subparsers(dest="command", required=True)
    commands.add_parser("inspect", help="list a packed file's tensors").add_argument("file", type=Path)
    _add_verify(commands.add_parser("verify", help="check a packed file, or the folder of a run"))
    _add_export(commands.add_parser("export", help="write the network for other runtimes"))
    run = commands.add_parser("run", help="run an ONNX file on inputs")
    run.add_argument("file", type=Path)
    run.add_argument("--input", type=Path, required=True, help=".npy")
    run.add_argument("-o", "--out", type=Path, help=".npy to write (default: print)")
    return top


def _add_verify(command: argparse.ArgumentParser) -> None:
    what = command.add_mutually_exclusive_group(required=True)
    what.add_argument("file", type=Path, nargs="?")
    what.add_argument("--run", type=Path, nargs="+", metavar="FOLDER", help="folders of runs, in place of a file")
    command.add_argument("--model", metavar="MODULE:FUNCTION", help="with --run: extra -> (forward, inputs)")
    command.add_argument("--predictions", action="store_true", help="the model's answers must be those of the run")


def _add_export(command: argparse.ArgumentParser) -> None:
    command.add_argument("file", type=Path)
    command.add_argument("--to", choices=FORMATS, required=True)
    command.add_argument("-o", "--out", type=Path, required=True)
    command.add_argument("--model", required=True, metavar="MODULE:FUNCTION", help="extra -> (forward, inputs)")
    command.add_argument("--input", type=Path, help="inputs to compare on, .npy (default: those that MODEL gives)")
    command.add_argument("--grid", type=Path, help="inputs that set the ranges of an integer grid, .npy")


def results(options: argparse.Namespace) -> Iterator[str]:
    """What the command has to say, as it comes."""
    match options.command:
        case "inspect":
            yield inspect(options.file)
        case "verify" if options.run:
            if options.predictions and options.model is None:
                raise UsageError("--predictions needs --model, whose forward predicts")
            yield from (verify_run(folder, options.model, options.predictions) for folder in options.run)
        case "verify":
            if options.predictions or options.model is not None:
                raise UsageError("--model and --predictions go with --run FOLDER")
            yield verify(options.file)
        case "export":
            yield export_file(options.file, options.to, options.out, options.model, options.input, options.grid)
        case "run":
            yield run_onnx(options.file, options.input, options.out)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; its exit status."""
    options = parser().parse_args(arguments)
    try:
        for line in results(options):
            print(line)
    except (UsageError, ModuleNotFoundError) as error:
        print(f"mecq: {error}", file=sys.stderr)
        return 2
    except (OSError, ValueError, RuntimeError) as error:
        print(f"mecq: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
