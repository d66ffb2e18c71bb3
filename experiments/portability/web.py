"""A web page that reads drawn digits with a low-bit network:  python -m experiments.portability web [--out DIR]

The folder holds the page (page.html, filled), the network of the run's packed file as model.onnx, the test images and
onnxruntime-web, which npm fetches once; any static server serves it, without special headers. Without --run, the digits
config is trained first, in runs/web/network, where later calls find it.

--check   also opens the page in headless Chromium, which runs the network on every test image and on digits drawn on
          the page by events, and compares its answers with JAX's; what it finds is kept in experiments/results/web
"""

import functools
import gzip
import html
import http.server
import json
import math
import re
import shutil
import subprocess
import tarfile
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

import mecq_reader
from experiments import config as configs
from experiments.config import Config
from experiments.portability.check import difference
from experiments.portability.forward import forward_of
from experiments.reporting.migrate import renamed
from experiments.reporting.rows import RESULTS, Row, stamp
from experiments.runtime import console
from experiments.runtime.run_folder import atomic_write_text, differences, to_json
from experiments.tasks.classification import make_task
from experiments.training.run import run
from mecq_jax import export, inference, storage
from mecq_jax.storage import QuantizedTensor, write_atomically

CONFIG, PAGE = configs.CONFIGS / "digits_cnn.py", Path(__file__).with_name("page.html")
ROOT = Path("runs/web")
PACKAGE, VERSION = "onnxruntime-web", "1.30.0"
RUNTIME = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")  # of its dist/: the one with the CPU alone
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
EXAMPLES_WRONG = 4
SECONDS = 120  # for the browser to load, run and answer

# Digits as pen strokes, in hundredths of the pad: small, off centre, as somebody may draw them.
DRAWN = {
    0: "50,12 32,22 26,50 32,80 50,90 66,80 72,50 66,22 50,12",
    1: "36,36 56,14 56,88",
    2: "30,30 40,14 56,12 66,24 62,46 28,86 74,86",
    3: "30,16 52,10 68,22 62,40 44,48 66,58 70,76 52,90 28,84",
    4: "56,10 24,58 76,58; 60,40 54,90",
    5: "70,12 36,12 32,46 54,42 70,58 64,80 46,90 28,84",
    6: "58,10 38,34 30,62 40,86 60,86 68,70 56,56 34,66",
    7: "28,14 72,14 44,90; 32,50 68,50",
    8: "64,20 48,10 34,24 50,46 64,68 56,88 40,88 34,70 50,48 66,30 64,20",
    9: "66,26 50,12 34,26 40,46 58,46 66,26 64,60 48,90",
}


class Site(NamedTuple):
    """A written folder.

    folder: what a server is to serve.
    row: sizes in bytes, and how many test images JAX reads right.
    logits: uint8 images [N, 8, 8, 1] -> logits [N, 10], as JAX computes them from the packed file.
    images: the test images, uint8 [N, 8, 8, 1].
    """

    folder: Path
    row: Row
    logits: Callable[[np.ndarray], np.ndarray]
    images: np.ndarray


def trained(root: Path) -> Path:
    """The run folder of the digits config, trained there unless it was before."""
    config = configs.load(CONFIG)
    # A folder with the same config goes on where it stopped; one with another is refused by `run`.
    resume = not differences(root / "config.json", to_json(config), to_json(Config()))
    with console.bar() as progress:
        return run(config, root, resume=resume, progress=progress).folder


def runtime_folder(root: Path) -> Path:
    """A folder with the files `RUNTIME` in it, fetched by npm unless they were before."""
    folder = root / f"{PACKAGE}-{VERSION}"
    if all((folder / name).is_file() for name in RUNTIME):
        return folder
    npm = shutil.which("npm")
    if npm is None:
        raise FileNotFoundError(
            f"npm, which fetches {PACKAGE} {VERSION}, is not installed: install Node.js, "
            f"or give the package's files {' and '.join(RUNTIME)} by --runtime FOLDER"
        )
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        command = [npm, "pack", "--loglevel=error", f"{PACKAGE}@{VERSION}"]
        done = subprocess.run(command, cwd=scratch, capture_output=True, text=True)
        archives = list(Path(scratch).glob("*.tgz"))
        if done.returncode or len(archives) != 1:
            raise RuntimeError(f"npm did not fetch {PACKAGE}@{VERSION}: {done.stderr.strip()[-500:]}")
        with tarfile.open(archives[0]) as archive:
            for name in RUNTIME:
                archive.extract(f"package/dist/{name}", scratch, filter="data")
                write_atomically(folder / name, (Path(scratch) / "package" / "dist" / name).read_bytes())
    return folder


def build(run_folder: Path, out: Path, runtime: Path) -> Site:
    """Write the page's folder.

    run_folder: a finished run on the digits.
    out: the folder to write.
    runtime: a folder that holds the files `RUNTIME` of onnxruntime-web.
    """
    path = run_folder / "model.safetensors"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there: give --run the folder of a finished run")
    if missing := [name for name in RUNTIME if not (runtime / name).is_file()]:
        raise FileNotFoundError(f"{runtime} lacks {' and '.join(missing)}, of the dist folder of {PACKAGE} {VERSION}")
    fields = renamed(mecq_reader.read_spec(path).get("extra", {}).get("config", {}))
    if (fields.get("dataset"), fields.get("downscale")) != ("digits", 1):
        raise ValueError(
            f"{path} is of a run on {fields.get('dataset')}: the page draws digits of 8 x 8 pixels; "
            "give --run a run with dataset='digits', downscale=1"
        )
    config = Config(**fields)
    task, tensors = make_task(config), storage.load(path)
    images, labels = task.dataset.test_images, task.dataset.test_labels
    forward, device = forward_of(task), inference.to_device(tensors)
    compiled = jax.jit(lambda x: forward(inference.dense(device), x))

    def logits(x: np.ndarray) -> np.ndarray:
        return np.asarray(compiled(x))

    out.mkdir(parents=True, exist_ok=True)
    onnx_bytes = export.onnx(out / "model.onnx", forward, tensors, images)
    for name in RUNTIME:
        write_atomically(out / name, (runtime / name).read_bytes())
    predictions = logits(images).argmax(axis=1)
    hard = [t for t in tensors.values() if isinstance(t, QuantizedTensor)]
    numbers = sum(int(np.prod(t.shape)) for t in tensors.values())
    row: Row = {
        "levels": config.k,
        "images": len(labels),
        "right": int((predictions == labels).sum()),
        "numbers": numbers,
        "quantized": sum(t.codes.size for t in hard),
        "float_bytes": 4 * numbers,
        "file_bytes": path.stat().st_size,
        "onnx_bytes": onnx_bytes,
        "onnx_gzip_bytes": len(gzip.compress((out / "model.onnx").read_bytes(), mtime=0)),
        "runtime_bytes": sum((out / name).stat().st_size for name in RUNTIME),
    }
    facts = {**row, "bits": f"{math.log2(config.k):.3g}", "runtime": VERSION, **examples(images, labels, predictions)}
    strokes = [{"digit": digit, "lines": lines(text)} for digit, text in DRAWN.items()]
    test = {"images": images.reshape(len(images), -1).tolist(), "labels": labels.tolist(), "drawn": strokes}
    atomic_write_text(out / "test.json", json.dumps(test))
    atomic_write_text(out / "index.html", PAGE.read_text(encoding="utf-8").replace("FACTS", json.dumps(facts), 1))
    return Site(out, row, logits, images)


def examples(images: np.ndarray, labels: np.ndarray, predictions: np.ndarray) -> dict[str, list[Row]]:
    """The first test image of each class that is read right, and the first few that are not, whatever their class."""
    right = predictions == labels
    first = [np.flatnonzero(right & (labels == c))[:1] for c in range(10)]
    chosen = {"examples": np.concatenate(first), "wrong": np.flatnonzero(~right)[:EXAMPLES_WRONG]}
    return {
        name: [
            {"image": images[i].ravel().tolist(), "label": int(labels[i]), "read": int(predictions[i])} for i in rows
        ]
        for name, rows in chosen.items()
    }


def lines(text: str) -> list[list[list[float]]]:
    """Strokes of `DRAWN` as lists of [x, y], in sides of the pad; a quarter smaller, and off its centre."""
    points = [[tuple(map(int, point.split(","))) for point in line.split()] for line in text.split(";")]
    return [[[0.05 + 0.0075 * x, 0.15 + 0.0075 * y] for x, y in line] for line in points]


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a server of `folder` on this machine, at a free port."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def browser() -> str:
    """The first of `BROWSERS` that is installed."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        raise FileNotFoundError(f"--check opens the page in Chromium; none of {', '.join(BROWSERS)} is installed")
    return found


def opened(address: str, program: str) -> dict[str, Any]:
    """What the page at this address finds of itself, in a headless browser."""
    with tempfile.TemporaryDirectory() as profile:
        # Virtual time goes on when nothing is under way, so that the page is printed once it has answered.
        command = [
            program,
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            f"--user-data-dir={profile}",
            f"--virtual-time-budget={1000 * SECONDS}",
            "--dump-dom",
            f"{address}/index.html?check",
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    match = re.search(r'<pre id="check"[^>]*>(.+?)</pre>', done.stdout, re.DOTALL)
    if match is None:
        raise RuntimeError(f"the page did not answer in {program}: {done.stderr.strip()[-500:]}")
    found = json.loads(html.unescape(match[1]))
    if "error" in found:
        raise RuntimeError(f"the page does not run its network: {found['error']}")
    if found["runtime"] != VERSION:
        raise RuntimeError(f"the folder holds {PACKAGE} {found['runtime']}, the page says {VERSION}: give that version")
    return found


def check(site: Site) -> Row:
    """The folder's row with what the page computes in Chromium; an error where that is not what JAX computes."""
    program = browser()
    with served(site.folder) as address:
        found = opened(address, program)
    largest = difference(np.asarray(found["logits"], np.float32), site.logits(site.images), export.TOLERANCE, PACKAGE)
    drawn = np.asarray([d["image"] for d in found["drawn"]], np.uint8).reshape(-1, 8, 8, 1)
    read = [d["read"] for d in found["drawn"]]
    if read != site.logits(drawn).argmax(axis=1).tolist():
        raise export.MismatchError(f"{PACKAGE}: drawn digits are read as {read}, by JAX otherwise")
    said = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=SECONDS).stdout
    return {
        **site.row,
        "difference": largest,
        "drawn": len(read),
        "drawn_right": sum(d["digit"] == d["read"] for d in found["drawn"]),
        "browser": re.sub(r" built on.*", "", said.strip()),
        PACKAGE: found["runtime"],
    }


def sentence(row: Mapping[str, Any]) -> str:
    """A checked row in words."""
    return (
        f"{PACKAGE} {row[PACKAGE]} in headless {row['browser']}: {row['images']} of {row['images']} images in the "
        f"class that JAX gives them, logits within {row['difference']:.0e} of the largest; {row['drawn_right']} of "
        f"{row['drawn']} digits drawn on the page are read right"
    )


def main(arguments: Sequence[str]) -> int:
    """The command line."""
    parser = console.parser("portability web", __doc__)
    parser.add_argument("--run", type=Path, help="a finished run on the digits (default: train one)")
    parser.add_argument("--out", type=Path, default=ROOT / "page", help="the folder to write (default: %(default)s)")
    parser.add_argument("--runtime", type=Path, help=f"a folder with files of {PACKAGE} {VERSION} (default: npm's)")
    parser.add_argument("--check", action="store_true", help="open the page in Chromium and compare it with JAX")
    parser.add_argument("--results", type=Path, default=RESULTS / "web", help="where --check keeps row.json")
    options = parser.parse_args(arguments)

    def work() -> None:
        runtime = options.runtime or runtime_folder(ROOT)
        site = build(options.run or trained(ROOT / "network"), options.out, runtime)
        total = sum(path.stat().st_size for path in site.folder.iterdir())
        print(
            f"{site.folder}: {total:,} bytes, {site.row['onnx_bytes']:,} of them the network. No browser loads it "
            f"from a file: serve it, and open http://localhost:8000\n    python -m http.server -d {site.folder}",
            flush=True,
        )
        if options.check:
            row = check(site)
            atomic_write_text(options.results / "row.json", json.dumps({**row, **stamp()}, indent=2) + "\n")
            print(sentence(row))

    return console.status(work, (RuntimeError, subprocess.TimeoutExpired))
