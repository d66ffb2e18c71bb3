"""Packed networks in other runtimes:  python -m experiments.portability check [--tiny --out DIR]

{digits CNN, ResNet-8, ViT-Tiny, MLP, depthwise-separable CNN} x {1 bit, ternary, 2, 3, 4 bits} x {per tensor, per
channel}, each trained in float for a few epochs on scikit-learn's digits, quantized by transport without training on,
packed, exported, and run on all 359 test images in

reader        the NumPy reader's weights in JAX: the same logits, bit for bit
stablehlo     StableHLO in a process that has jax alone: the same logits as JAX's compiled ones, bit for bit
onnxruntime   ONNX: the same classes, logits within 1e-5 of the largest one
openvino      the same file with float32 arithmetic; left out where it is not installed (pip install openvino)
grid          the network on an integer grid (ranges from 256 training images): ONNX, OpenVINO and StableHLO the same
              logits bit for bit; ViT-Tiny has none, for its softmax and layer norms

Sizes are checked too: what the files store is within 2 % of what the formula says (codes, levels, tables, floats).
A row is kept as it comes in experiments/results/portability; the same command goes on where it stopped.
"""

import collections
import dataclasses
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

import mecq_reader
from experiments.config import Config
from experiments.portability.forward import forward_of
from experiments.reporting import measured
from experiments.reporting.measured import Pieces
from experiments.reporting.rows import RESULTS, Columns, Row
from experiments.runtime.console import installed
from experiments.tasks.classification import Task, make_task
from experiments.training.run import run
from mecq_jax import export, inference, storage
from mecq_jax.export import onnx_packed_bytes
from mecq_jax.storage import QuantizedTensor

MODELS = {
    "digits CNN": Config(model="cnn", width=16, float_epochs=6),
    "ResNet-8": Config(model="resnet8", width=16, float_epochs=3),
    "ViT-Tiny": Config(model="vit_tiny", width=192, float_epochs=3, float_learning_rate=3e-4),
    "MLP": Config(model="mlp", width=128, float_epochs=10),
    "separable CNN": Config(model="separable", width=16, float_epochs=6),
}
OFF_THE_GRID = ("ViT-Tiny",)
LEVELS = {2: "1", 3: "ternary", 4: "2", 8: "3", 16: "4"}
ALONE = """
import sys, numpy as np
from jax import export
x = np.load("x.npy")
for name in sys.argv[1:]:
    np.save(name + ".npy", export.deserialize(bytearray(open(name, "rb").read())).call(x))
sys.exit("mecq_jax" in sys.modules or "flax" in sys.modules)
"""
RANGES = 256  # training images that set the ranges of activations


def by_onnxruntime(path: Path, x: np.ndarray) -> np.ndarray:
    return export.onnx_session(path.read_bytes()).run(None, {"input": x})[0]


def by_openvino(path: Path, x: np.ndarray) -> np.ndarray:
    import openvino

    compiled = openvino.Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return compiled(x)[0]


RUNTIMES: dict[str, Callable[[Path, np.ndarray], np.ndarray]] = {"onnxruntime": by_onnxruntime, "openvino": by_openvino}


def difference(found: np.ndarray, expected: np.ndarray, tolerance: float, what: str) -> float:
    """The largest relative difference of the logits; an error if it is too large or an image changes its class."""
    changed = int((found.argmax(axis=1) != expected.argmax(axis=1)).sum())
    if changed:
        raise export.MismatchError(f"{what}: {changed} of {len(expected)} images fall into another class")
    return export.compare(found, expected, tolerance, what)


def one_network(name: str, config: Config, levels: Sequence[int]) -> list[Row]:
    """Rows of a network at every number of levels, per tensor and per channel."""
    with tempfile.TemporaryDirectory() as folder:
        return _in_folder(name, config, levels, Path(folder))


def _in_folder(name: str, config: Config, levels: Sequence[int], folder: Path) -> list[Row]:
    base = dataclasses.replace(config, seed=0, soft_epochs=0, hard_epochs=0)
    task = make_task(base)
    x, forward = np.asarray(task.dataset.test_images), forward_of(task)
    np.save(folder / "x.npy", x)
    rows, logits, first = [], {}, None
    for k in levels:
        for groups in ("tensor", "channel"):
            own = dataclasses.replace(base, k=k, groups=groups, float_run=first)
            result = run(own, folder / f"{k} {groups}", task=task)
            first = first or str(result.folder)
            row, logits[row["key"]] = _exported(name, own, task, result.folder, forward, x)
            rows.append(row)
    files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*.stablehlo"))
    subprocess.run([sys.executable, "-c", ALONE, *files], cwd=folder, check=True)
    for row in rows:
        for what, expected in logits[row["key"]].items():
            found = np.load(folder / f"{row['k']} {row['groups']}" / f"{what}.stablehlo.npy")
            row["stablehlo"] = difference(found, expected, 0.0, f"{row['key']} {what}.stablehlo alone")
    return rows


def _exported(name: str, config: Config, task: Task, folder: Path, forward: Any, x: np.ndarray) -> tuple[Row, Any]:
    """A packed file's row, without StableHLO's in its own process, and the logits that JAX computes, by export."""
    path, key = folder / "model.safetensors", f"{name} {config.k} {config.groups}"
    tensors = storage.load(path)
    device = inference.to_device(tensors)
    logits = np.asarray(jax.jit(lambda x: forward(inference.dense(device), x))(x))
    # The same compiled function for both: where weights are constants, XLA may order the arithmetic otherwise.
    compiled = jax.jit(forward)
    by_reader, by_jax = (
        np.asarray(compiled(arrays, x)) for arrays in (mecq_reader.read_dense(path), inference.dense(device))
    )
    row: Row = {
        "key": key,
        "network": name,
        "k": config.k,
        "groups": config.groups,
        "float_bytes": sum(4 * int(np.prod(t.shape)) for t in tensors.values()),
        "file_bytes": path.stat().st_size,
        "onnx_bytes": export.onnx(folder / "model.onnx", forward, tensors, x),
        "stablehlo_bytes": export.stablehlo(folder / "model.stablehlo", forward, tensors, x),
        "accuracy": float(np.mean(logits.argmax(axis=1) == task.dataset.test_labels)),
        "reader": difference(by_reader, by_jax, 0.0, f"{key} reader"),
    }
    row["onnx_bits"] = _check_sizes(path, folder / "model.onnx", tensors)
    for runtime, f in RUNTIMES.items():
        if installed(runtime):
            row[runtime] = difference(f(folder / "model.onnx", x), logits, export.TOLERANCE, f"{key} {runtime}")
    by_export = {"model": logits}
    if name not in OFF_THE_GRID:
        by_export["grid"] = _on_grid(row, task, folder, forward, tensors, x)
    return row, by_export


def _on_grid(row: Row, task: Task, folder: Path, forward: Any, tensors: dict[str, Any], x: np.ndarray) -> np.ndarray:
    """The logits of the network on an integer grid; the row is told what it costs, and that runtimes agree."""
    grid = export.integer_grid(forward, tensors, task.dataset.train_images[:RANGES])
    logits = np.asarray(grid.forward(inference.dense(inference.to_device(grid.tensors)), x))
    export.onnx(folder / "grid.onnx", grid.forward, grid.tensors, x, tolerance=0.0)
    export.stablehlo(folder / "grid.stablehlo", grid.forward, grid.tensors, x, tolerance=0.0)
    for runtime, f in RUNTIMES.items():
        if installed(runtime):
            difference(f(folder / "grid.onnx", x), logits, 0.0, f"{row['key']} grid {runtime}")
    row["grid_accuracy"] = float(np.mean(logits.argmax(axis=1) == task.dataset.test_labels))
    row["grid"], row["grid_bits"] = 0.0, float(np.log2(grid.largest))
    return logits


def _check_sizes(file: Path, onnx_file: Path, tensors: dict[str, Any]) -> float:
    """Bits that a quantized weight's code takes in the ONNX file; an error if a file stores more than it must.

    Beside codes, levels and floats an ONNX file holds tables of 256 rows, one a tensor or one for all, and shapes. What
    is known of norms is computed before it is stored, so that there may be fewer floats.
    """
    import onnx

    hard = [t for t in tensors.values() if isinstance(t, QuantizedTensor)]
    floats = sum(4 * int(np.prod(t.shape)) for t in tensors.values() if not isinstance(t, QuantizedTensor))
    with open(file, "rb") as opened:
        header = 8 + int.from_bytes(opened.read(8), "little")
    _within(file, file.stat().st_size - header, sum(t.nbytes for t in hard) + floats)
    stored: dict[int, int] = collections.Counter()
    for part in onnx.load(onnx_file).graph.initializer:
        is_table = len(part.dims) == 2 and part.dims[0] == 256 and part.data_type != onnx.TensorProto.UINT8
        stored[part.data_type] += 0 if is_table else len(part.raw_data)
    codes = sum(map(onnx_packed_bytes, hard))
    _within(onnx_file, stored[onnx.TensorProto.UINT8], codes)
    _within(onnx_file, stored[onnx.TensorProto.FLOAT], floats + sum(t.levels.nbytes for t in hard), below=1.0)
    return 8 * stored[onnx.TensorProto.UINT8] / sum(t.codes.size for t in hard)


def _within(file: Path, found: int, formula: int, below: float = 0.02) -> None:
    """An error unless `found` is at most 2 % above the formula, or the share `below` under it."""
    if not (1 - below) * formula <= found <= 1.02 * formula:
        raise export.MismatchError(f"{file} stores {found:,} bytes, the formula says {formula:,}")


def pieces(tiny: bool) -> Pieces:
    levels = [4, 8] if tiny else list(LEVELS)
    found = {}
    for name, config in MODELS.items():
        if tiny:
            config = dataclasses.replace(
                config, width=12 if name in OFF_THE_GRID else 4, float_epochs=1, train_size=400
            )
        found[f"{name} {levels[0]} tensor"] = partial(one_network, name, config, levels)
    return found


def _difference(what: str) -> Callable[[Row], str]:
    return lambda r: f"{r[what]:.0e}" if r.get(what) else "same bits" if what in r else ""


def _bytes(what: str) -> Callable[[Row], str]:
    return lambda r: f"{r[f'{what}_bytes']:,}"


COLUMNS: Columns = {
    "network": lambda r: r["network"],
    "bits": lambda r: LEVELS[r["k"]],
    "groups": lambda r: r["groups"],
    "float, bytes": _bytes("float"),
    "packed file": _bytes("file"),
    "ONNX": _bytes("onnx"),
    "StableHLO": _bytes("stablehlo"),
    "bits a weight in ONNX": lambda r: f"{r['onnx_bits']:.3f}",
    "top-1, %": lambda r: f"{100 * r['accuracy']:.2f}",
    **{runtime: _difference(runtime) for runtime in ("reader", "stablehlo", *RUNTIMES)},
    "top-1 on the grid, %": lambda r: f"{100 * r['grid_accuracy']:.2f}" if "grid_accuracy" in r else "",
    "grid": _difference("grid"),
}


def main(arguments: Sequence[str]) -> int:
    """The command line."""
    return measured.main(sys.modules[__name__], arguments, RESULTS / "portability")
