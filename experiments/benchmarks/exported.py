"""Low-bit networks beside the float one in the same runtime: load time, memory, latency at batch 1 and 256.

python -m experiments.benchmarks exported [--tiny --out DIR]     minutes; goes on where it stopped

onnxruntime    a process of its own opens the ONNX file, which tells the time to load and the memory that is resident
               then and after one call; latencies are measured here, in rounds of all forms
jax            `inference.load`; memory is that of the weights on the device. "blocks" is packed=True

Weights of all kernels but the first and last are at 2 or 3 bits per tensor, untrained: the numbers do not matter here.
Ratios are to the float32 network in the same runtime.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.benchmarks import measure
from experiments.models import small as models
from experiments.reporting.measured import Pieces
from experiments.reporting.rows import Columns, Row
from mecq_jax import export, inference, nn, storage
from mecq_jax.params import default_rules, quantize_tree
from mecq_jax.quantizers.baselines import LSQ

NETWORKS = {"resnet20": (32, 16), "vit_tiny": (32, 192), "mlp": (32, 2048)}  # size of images, width
TINY = {"mlp": (8, 32)}
FORMS = {"float": None, "2 bits": 4, "3 bits": 8}
BATCHES = (1, 256)
LOADS = 5  # fresh processes
WORKER = """
import json, sys, time, numpy as np, onnxruntime
def resident():
    lines = open("/proc/self/status").read().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmRSS")).split()[1])
x, before, start = np.load(sys.argv[2]), resident(), time.perf_counter()
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
loaded, memory = time.perf_counter() - start, resident() - before
session.run(None, {"input": x})
print(json.dumps({"load": loaded, "memory": memory, "after": resident() - before}))
"""


def tensors_of(model: Any, k: int | None) -> Mapping[str, Any]:
    """The network's tensors, those of its blocks at k levels."""
    arrays = nn.harden(model)
    if k is None:
        return arrays
    return quantize_tree(arrays, default_rules(LSQ(k=k), nn.parameters_by_path(model))).to_tensors(arrays)


def in_its_own_process(path: Path, x: Path) -> dict[str, float]:
    """Seconds to open an ONNX file and bytes resident then and after a call; the median of fresh processes."""
    found = [
        json.loads(subprocess.run([sys.executable, "-c", WORKER, path, x], check=True, capture_output=True).stdout)
        for _ in range(LOADS)
    ]
    return {name: float(np.median([f[name] for f in found])) for name in found[0]}


def by_session(session: Any, x: np.ndarray) -> Any:
    """ONNX Runtime's answer."""
    return session.run(None, {"input": x})


def ready(call: Callable[..., Any], *arguments: Any) -> Any:
    """The result of a call, or the weights of the network that it gives, when it has been computed."""
    result = call(*arguments)
    return jax.block_until_ready(result.weights if isinstance(result, inference.Model) else result)


def timed(call: Callable[[], Any]) -> measure.Compiled:
    """What `measure.seconds` takes, of a call."""
    return measure.Compiled(call=call, first=0.0, temporaries=0.0, resident=0.0, read=call())


def one_network(name: str, size: int, width: int, repeats: int) -> list[Row]:
    """Rows of a network in both runtimes."""
    model = models.build(name, 3, size, 10, width, seed=0)
    forward = nn.forward(model)
    x = np.random.default_rng(0).normal(size=(max(BATCHES), size, size, 3)).astype(np.float32)
    rows: dict[tuple[str, str], Row] = {}
    calls: dict[tuple[str, str], Callable[[np.ndarray], Any]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        np.save(folder / "x.npy", x[:1])
        for form, k in FORMS.items():
            tensors = tensors_of(model, k)
            path, file = folder / f"{form}.onnx", folder / f"{form}.safetensors"
            storage.save(file, tensors)
            rows["onnxruntime", form] = {"bytes": export.onnx(path, forward, tensors, x[:8])}
            rows["onnxruntime", form] |= in_its_own_process(path, folder / "x.npy")
            calls["onnxruntime", form] = partial(by_session, export.onnx_session(path.read_bytes()))
            for way in ("", ", blocks") if k else ("",):
                key = ("jax", form + way)
                load = partial(inference.load, file, forward, packed=bool(way))
                network = load()
                seconds = measure.seconds({"load": timed(partial(ready, load))}, LOADS)["load"]
                rows[key] = {"bytes": file.stat().st_size, "load": seconds, "memory": network.nbytes}
                calls[key] = partial(ready, network)
        for batch in BATCHES:
            times = measure.seconds({str(k): timed(partial(call, x[:batch])) for k, call in calls.items()}, repeats)
            for key, row in rows.items():
                row[f"seconds {batch}"] = times[str(key)]
    return [_finished(name, *key, row, rows[key[0], "float"]) for key, row in rows.items()]


def _finished(network: str, runtime: str, form: str, row: Row, base: Row) -> Row:
    """A row with its ratios to the float network's."""
    names = {"key": f"{network} {runtime} {form}", "network": network, "runtime": runtime, "form": form}
    return names | row | {f"{what} ratio": row[what] / base[what] for what in row if base.get(what)}


def pieces(tiny: bool) -> Pieces:
    networks, repeats = (TINY, 2) if tiny else (NETWORKS, 15)
    return {
        f"{name} onnxruntime float": partial(one_network, name, size, width, repeats)
        for name, (size, width) in networks.items()
    }


def _ratio(what: str) -> Callable[[Row], str]:
    return lambda r: f"{r[f'{what} ratio']:.3g}" if f"{what} ratio" in r else ""


COLUMNS: Columns = {
    "network": lambda r: r["network"],
    "runtime": lambda r: r["runtime"],
    "weights": lambda r: r["form"],
    "file, kB": lambda r: f"{r['bytes'] / 1000:,.0f}",
    "times float": _ratio("bytes"),
    "load, ms": lambda r: f"{1000 * r['load']:.1f}",
    "load times float": _ratio("load"),
    "memory, MB": lambda r: f"{r['memory'] / 1e6:.2f}",
    "memory times float": _ratio("memory"),
    "batch 1, ms": lambda r: f"{1000 * r['seconds 1']:.2f}",
    "batch 1 times float": _ratio("seconds 1"),
    "batch 256, ms": lambda r: f"{1000 * r['seconds 256']:.1f}",
    "batch 256 times float": _ratio("seconds 256"),
}
