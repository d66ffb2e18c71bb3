"""The command line:  mecq inspect | verify | export | run

  mecq inspect model.safetensors                   what is in a packed file, and what it weighs
  mecq verify model.safetensors                    checksum, invariants, and that NumPy and JAX decode it alike
  mecq export model.safetensors --to onnx -o model.onnx --model package.module:function
                                                   a file for other runtimes, run and compared before it is written
  mecq run model.onnx --input x.npy -o y.npy       what ONNX Runtime answers

For `export`, package.module:function is called with the file's "extra" (a dict of JSON) and gives (forward, x): a pure
function of (arrays by path, inputs), and inputs to compare on. It is never taken from the file, since it is code. With
--grid x.npy (inputs of the training set) the network is put on an integer grid first: the same bits everywhere.
The exit status is 0, or 1 if the file is at fault, or 2 if the command is.
"""

import argparse
import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import mecq_reader
from mecq_jax import export, inference, storage

FORMATS = ("onnx", "stablehlo")
NAMES = {"float32": "float", "float64": "double"}  # of NumPy's types, as ONNX Runtime has them


class UsageError(ValueError):
    """The command is at fault."""


def inspect(path: Path) -> str:
    """A table of the file's tensors and what they weigh."""
    spec, raws = mecq_reader.read_raw(path)
    tensors = mecq_reader.assemble(spec, raws)
    lines = [f"{'tensor':40} {'shape':16} {'type':9} {'levels':>6} {'groups':>6} {'bytes':>10} {'bits':>6}"]
    packed_weights = packed_bytes = dense = 0
    for name, t in tensors.items():
        shape, count = "x".join(map(str, t.shape)) or "scalar", int(np.prod(t.shape))
        dense += 4 * count
        if isinstance(t, np.ndarray):
            size, levels, groups = len(raws[name].data), "", ""
        else:
            size = len(raws[f"{name}:codes"].data) + len(raws[f"{name}:levels"].data)
            levels, groups = str(t.levels.shape[1]), str(len(t.levels))
            packed_weights, packed_bytes = packed_weights + count, packed_bytes + size
        bits = f"{8 * size / count:.3f}" if count else ""
        shown = name if name.isprintable() else repr(name)  # a file's names are not to steer the terminal
        lines.append(f"{shown:40} {shape:16} {t.dtype!s:9} {levels:>6} {groups:>6} {size:>10,} {bits:>6}")
    total = path.stat().st_size
    lines.append(f"{len(tensors)} tensors, {total:,} bytes on disk; in float32 {dense:,}, {dense / total:.1f} times")
    if packed_weights:
        each = 8 * packed_bytes / packed_weights
        lines.append(f"{packed_weights:,} quantized weights at {each:.3f} bits, levels included")
    return "\n".join(lines)


def verify(path: Path) -> str:
    """A sentence about a file that is sound; ArtifactError otherwise."""
    by_numpy = mecq_reader.read_dense(path)
    by_jax = inference.dense(inference.to_device(storage.load(path)))
    for name, array in by_numpy.items():
        found = np.asarray(by_jax[name])  # JAX has bfloat16, which NumPy lacks, and by default no 64 bits
        if found.tobytes() != array.astype(found.dtype).tobytes():
            raise mecq_reader.ArtifactError(
                f"{name!r} of {str(path)!r}: NumPy and JAX decode it differently; report this"
            )
    weights = sum(array.size for array in by_numpy.values())
    return f"{path}: checksum and invariants hold; NumPy and JAX decode all {weights:,} numbers alike"


def build(model: str, extra: dict) -> tuple[Callable, Any]:
    """(forward, inputs) that the function named 'package.module:function' gives for the file's extra data."""
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
    return function(extra)


def load_array(path: Path) -> np.ndarray:
    """The one array of a .npy file."""
    array = np.load(path)
    if not isinstance(array, np.ndarray):
        raise UsageError(f"{path} is an archive of arrays; give one array, as np.save writes it")
    return array


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


def run_onnx(path: Path, inputs: Path, out: Path | None) -> str:
    """ONNX Runtime's answer to the inputs."""
    x = load_array(inputs)
    data = path.read_bytes()
    try:
        session = export.onnx_session(data)
    except ModuleNotFoundError:
        raise
    except Exception as error:  # ONNX Runtime's own exceptions have no common class but this
        raise ValueError(f"{path} is not an ONNX file that ONNX Runtime runs: {error}") from error
    wanted = session.get_inputs()[0]
    fits = len(wanted.shape) == x.ndim and all(
        d in (n, None) or isinstance(d, str) for d, n in zip(wanted.shape, x.shape, strict=True)
    )
    if not fits or wanted.type != f"tensor({NAMES.get(x.dtype.name, x.dtype.name)})":
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
    commands = top.add_subparsers(dest="command", required=True)
    for name in ("inspect", "verify"):
        commands.add_parser(name, help=globals()[name].__doc__).add_argument("file", type=Path)
    exporting = commands.add_parser("export", help="write the network for other runtimes")
    exporting.add_argument("file", type=Path)
    exporting.add_argument("--to", choices=FORMATS, required=True)
    exporting.add_argument("-o", "--out", type=Path, required=True)
    exporting.add_argument("--model", required=True, metavar="MODULE:FUNCTION", help="extra -> (forward, inputs)")
    exporting.add_argument("--input", type=Path, help="inputs to compare on, .npy (default: those that MODEL gives)")
    exporting.add_argument("--grid", type=Path, help="inputs that set the ranges of an integer grid, .npy")
    run = commands.add_parser("run", help="run an ONNX file on inputs")
    run.add_argument("file", type=Path)
    run.add_argument("--input", type=Path, required=True, help=".npy")
    run.add_argument("-o", "--out", type=Path, help=".npy to write (default: print)")
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; its exit status."""
    options = parser().parse_args(arguments)
    try:
        match options.command:
            case "export":
                print(export_file(options.file, options.to, options.out, options.model, options.input, options.grid))
            case "run":
                print(run_onnx(options.file, options.input, options.out))
            case command:
                print({"inspect": inspect, "verify": verify}[command](options.file))
    except (UsageError, ModuleNotFoundError) as error:
        print(f"mecq: {error}", file=sys.stderr)
        return 2
    except (OSError, ValueError, RuntimeError) as error:
        print(f"mecq: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
