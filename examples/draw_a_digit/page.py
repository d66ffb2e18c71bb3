"""The page's folder: page.html filled, the network as model.onnx, and onnxruntime-web."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx

from examples import npm
from examples.draw_a_digit.network import Digits, Net
from mecq_jax import export, inference, load
from mecq_jax.nn import forward
from mecq_jax.storage import QuantizedTensor

PACKAGE, VERSION = "onnxruntime-web", "1.30.0"
RUNTIME = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")  # of its dist/: the one with the CPU alone


def build(file: Path, folder: Path, data: Digits) -> Callable[[np.ndarray], np.ndarray]:
    """Write the page of a packed file into `folder`, and return what JAX computes of it: images -> logits [n, 10]."""
    npm.fetch(f"{PACKAGE}@{VERSION}", RUNTIME, folder)
    network, tensors = forward(Net(nnx.Rngs(0))), load(file)
    export.onnx(folder / "model.onnx", network, tensors, data.test_images)
    logits = inference.load(file, network)
    read = np.asarray(logits(data.test_images)).argmax(axis=1)
    right, numbers = read == data.test_labels, sum(int(np.prod(t.shape)) for t in tensors.values())
    first = [np.flatnonzero(right & (data.test_labels == digit))[:1] for digit in range(10)]

    def shown(rows: np.ndarray) -> list[dict[str, Any]]:
        images, labels = data.test_images[rows].reshape(-1, 64), data.test_labels[rows]
        pairs = zip(images.tolist(), labels.tolist(), read[rows].tolist(), strict=True)
        return [{"image": image, "label": label, "read": answer} for image, label, answer in pairs]

    facts = {
        "bits": 2,
        "images": len(right),
        "right": int(right.sum()),
        "numbers": numbers,
        "quantized": sum(t.codes.size for t in tensors.values() if isinstance(t, QuantizedTensor)),
        "float_bytes": 4 * numbers,
        "file_bytes": file.stat().st_size,
        "onnx_bytes": (folder / "model.onnx").stat().st_size,
        "onnx_gzip_bytes": len(gzip.compress((folder / "model.onnx").read_bytes())),
        "runtime": VERSION,
        "runtime_bytes": sum((folder / name).stat().st_size for name in RUNTIME),
        "examples": shown(np.concatenate(first)),
        "wrong": shown(np.flatnonzero(~right)[:4]),
    }
    page = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
    (folder / "index.html").write_text(page.replace("FACTS", json.dumps(facts), 1), encoding="utf-8")
    return lambda images: np.asarray(logits(images))
