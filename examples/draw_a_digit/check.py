"""The page in headless Chromium: does it compute what JAX computes?"""

import functools
import html
import http.server
import json
import re
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from examples.draw_a_digit.page import PACKAGE, VERSION
from mecq_jax import export

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
SECONDS = 120  # for the browser to load, run and answer

# Digits as pen strokes, in hundredths of the pad.
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


def lines(text: str) -> list[list[list[float]]]:
    """Strokes as lists of [x, y], in sides of the pad; a quarter smaller, and off its centre, as somebody may draw."""
    points = [[tuple(map(int, point.split(","))) for point in line.split()] for line in text.split(";")]
    return [[[0.05 + 0.0075 * x, 0.15 + 0.0075 * y] for x, y in line] for line in points]


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a server of `folder` on this machine, at a free port."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def opened(address: str, program: str) -> dict[str, Any]:
    """What the page at this address finds of itself, in a headless browser."""
    with tempfile.TemporaryDirectory() as profile:
        command = [
            program,
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            f"--user-data-dir={profile}",
            f"--virtual-time-budget={1000 * SECONDS}",  # goes on when nothing is under way: the page has answered
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
        raise RuntimeError(f"the folder holds {PACKAGE} {found['runtime']}, not {VERSION}: delete its files")
    return found


def check(folder: Path, images: np.ndarray, logits: Callable[[np.ndarray], np.ndarray]) -> str:
    """What came of all test images, and of digits drawn on the page by events, in words.

    folder: of the page.
    images: the test images.
    logits: what JAX computes of images.

    Raises:
      MismatchError: if the browser computes anything else.
    """
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        raise SystemExit(f"--check opens the page in Chromium; none of {', '.join(BROWSERS)} is installed")
    strokes = [{"digit": digit, "lines": lines(text)} for digit, text in DRAWN.items()]
    asked = {"images": images.reshape(-1, 64).tolist(), "drawn": strokes}
    (folder / "test.json").write_text(json.dumps(asked))
    with served(folder) as address:
        found = opened(address, program)
    by_page, by_jax = np.asarray(found["logits"], np.float32), logits(images)
    if changed := int((by_page.argmax(axis=1) != by_jax.argmax(axis=1)).sum()):
        raise export.MismatchError(f"{PACKAGE}: {changed} of {len(images)} images fall into another class")
    difference = export.compare(by_page, by_jax, export.TOLERANCE, PACKAGE)
    drawn = np.asarray([d["image"] for d in found["drawn"]], np.uint8).reshape(-1, 8, 8, 1)
    read = [d["read"] for d in found["drawn"]]
    if read != logits(drawn).argmax(axis=1).tolist():
        raise export.MismatchError(f"{PACKAGE}: drawn digits are read as {read}, by JAX otherwise")
    return (
        f"{PACKAGE} {VERSION} in headless Chromium: {len(images)} of {len(images)} images in the class that JAX gives "
        f"them, logits within {difference:.0e} of the largest; {sum(d['digit'] == d['read'] for d in found['drawn'])} "
        f"of {len(read)} digits drawn on the page are read right"
    )
