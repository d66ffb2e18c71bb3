"""A web page in which one draws a digit and a 2-bit network reads it:  python -m examples.draw_a_digit [--check]

A small network is trained to 2 bits on scikit-learn's digits by `mecq_jax.fit` (a minute on two CPU cores that are
free), packed, exported to ONNX, and put beside a page that runs it in onnxruntime-web, which npm fetches once (14 MB).
Any static server serves the folder. A packed file that is there is taken again.

--check   also opens the page in headless Chromium, which runs the network on every test image and on digits drawn on
          the page by events, and compares its answers with JAX's

It printed

    15,984 bytes packed, 27,758 as ONNX; 356 of 360 test images are read right
    onnxruntime-web 1.30.0 in headless Chromium: 360 of 360 images in the class that JAX gives them, logits within 4e-07
    of the largest; 10 of 10 digits drawn on the page are read right

experiments/results/web is of the same architecture, trained by experiments/configs/digits_cnn.py.
"""

import argparse
from pathlib import Path

from examples.draw_a_digit.check import check
from examples.draw_a_digit.network import digits, trained
from examples.draw_a_digit.page import build
from mecq_jax import save


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/draw_a_digit"), help="to write (%(default)s)")
    parser.add_argument("--steps", type=int, default=900, help="of the training (%(default)s)")
    parser.add_argument("--check", action="store_true", help="open the page in Chromium and compare it with JAX")
    options = parser.parse_args(arguments)
    folder, data = options.folder, digits()
    file = folder / "model.safetensors"
    if not file.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        save(file, trained(data, options.steps))
    logits = build(file, folder, data)
    right = int((logits(data.test_images).argmax(axis=1) == data.test_labels).sum())
    print(
        f"{file.stat().st_size:,} bytes packed, {(folder / 'model.onnx').stat().st_size:,} as ONNX; {right} of "
        f"{len(data.test_labels)} test images are read right"
    )
    print(f"No browser loads it from a file:  python -m http.server -d {folder}   and open http://localhost:8000")
    if options.check:
        print(check(folder, data.test_images, logits))


if __name__ == "__main__":
    main()
