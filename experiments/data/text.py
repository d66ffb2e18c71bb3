"""Text as tokens, one a character, and the windows in which a language model sees it."""

import dataclasses
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np

from experiments.data.in_memory import Batch

DATASETS = ("text8", "text")
TEXT8_SIZE = 100_000_000
TEXT8_SYMBOLS = " abcdefghijklmnopqrstuvwxyz"

_MISSING = """text8 is not in {place}.
Download it once (31 MB, 100,000,000 characters; unpacking is not needed):
    curl -O http://mattmahoney.net/dc/text8.zip
and name the folder that holds text8.zip or text8, or the file itself:
    --data_dir <that folder>   (or data_dir=... in Python)"""


@dataclasses.dataclass(frozen=True)
class Text:
    """A text of at most 256 different symbols, cut into parts.

    symbols: token t stands for symbols[t].
    train, validation, test: uint8 [n], the first 90 %, the next 5 % and the last 5 %; of text8 the parts of 90, 5 and
    5 million characters by which it is compared (Mikolov et al., 2012, "Subword language modeling").
    """

    symbols: str
    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


@dataclasses.dataclass(frozen=True)
class Windows:
    """A source of windows: window i is tokens [i context, (i + 1) context], the last of which begins the next one.

    So each token but the first is predicted once, from at most `context` before it; the (n - 1) % context last ones
    are left out of `once`. An epoch moves its windows by a random phase below `context`, and those that reach past
    the end begin again at the front.
    """

    tokens: np.ndarray
    context: int

    def __post_init__(self):
        if len(self.tokens) <= self.context:
            raise ValueError(
                f"a part of {len(self.tokens)} characters holds no window of context + 1 = "
                f"{self.context + 1}; choose a shorter context or more text"
            )

    def __len__(self) -> int:
        return (len(self.tokens) - 1) // self.context

    def epoch(self, batch: int, seed: int, number: int, start: int = 0) -> Iterator[Batch]:
        """The len // batch batches of a shuffled epoch from batch `start` on; a function of the arguments alone."""
        if not 1 <= batch <= len(self):
            raise ValueError(
                f"batch is {batch}, must be from 1 to the {len(self)} windows of {self.context} tokens; "
                "choose a smaller batch or more text"
            )
        rng = np.random.default_rng([seed, number])
        phase = int(rng.integers(self.context))
        order = rng.permutation(len(self))
        for first in range(start * batch, len(self) // batch * batch, batch):
            yield self._own((phase + order[first : first + batch] * self.context) % (len(self.tokens) - self.context))

    def once(self, batch: int) -> Iterator[Batch]:
        """Every window in order; the last batch is filled up with the last window."""
        for first in range(0, len(self), batch):
            yield self._own(np.minimum(np.arange(first, first + batch), len(self) - 1) * self.context)

    def _own(self, starts: np.ndarray) -> Batch:
        mine = np.split(starts, jax.process_count())[jax.process_index()]
        return {"tokens": self.tokens[mine[:, None] + np.arange(self.context + 1)]}


def load(name: str, data_dir: str | os.PathLike | None, train_size: int | None = None) -> Text:
    """The text `name`; never uses the network.

    name: 'text8', or 'text', any file of plain text (UTF-8), whose symbols are the sorted set of its characters.
    data_dir: the file; for text8 also the folder that holds text8 or text8.zip.
    train_size: keep this many characters of the train part, the first ones.
    """
    if name not in DATASETS:
        raise ValueError(f"unknown text {name!r}; use one of {', '.join(DATASETS)}")
    symbols, tokens = _text8(data_dir) if name == "text8" else _plain(data_dir)
    train, validation, test = np.split(tokens, [len(tokens) * 90 // 100, len(tokens) * 95 // 100])
    if train_size is not None and not 1 <= train_size <= len(train):
        raise ValueError(
            f"train_size is {train_size}, must be from 1 to {len(train)} characters; leave it None for all"
        )
    return Text(symbols, train[:train_size], validation, test)


def _text8(data_dir: str | os.PathLike | None) -> tuple[str, np.ndarray]:
    place = Path("." if data_dir is None else data_dir).expanduser()
    files = [place] if place.is_file() else [f for f in (place / "text8", place / "text8.zip") if f.is_file()]
    if not files:
        raise FileNotFoundError(_MISSING.format(place=place))
    if zipfile.is_zipfile(files[0]):
        with zipfile.ZipFile(files[0]) as archive:
            if "text8" not in archive.namelist():
                raise ValueError(f"{files[0]} holds {archive.namelist()[:3]}, not text8; download it again")
            raw = archive.read("text8")
    else:
        raw = files[0].read_bytes()
    if len(raw) != TEXT8_SIZE:
        raise ValueError(
            f"{files[0]} holds {len(raw)} characters, text8 has {TEXT8_SIZE}; download it again, or take "
            "it as --dataset=text"
        )
    return TEXT8_SYMBOLS, _tokens(np.frombuffer(raw, np.uint8), TEXT8_SYMBOLS, files[0])


def _tokens(raw: np.ndarray, symbols: str, path: Path) -> np.ndarray:
    """The place of each byte in `symbols`."""
    table = np.full(256, 255, np.uint8)
    table[np.frombuffer(symbols.encode(), np.uint8)] = np.arange(len(symbols))
    tokens = table[raw]
    if (bad := np.flatnonzero(tokens == 255)).size:
        raise ValueError(
            f"{path} has the byte {raw[bad[0]]} at {bad[0]}; text8 has a space and a to z alone; download it again"
        )
    return tokens


def _plain(data_dir: str | os.PathLike | None) -> tuple[str, np.ndarray]:
    if data_dir is None or not Path(data_dir).expanduser().is_file():
        raise FileNotFoundError(f"data_dir = {data_dir!r} is not a file; name a file of plain text, --data_dir=my.txt")
    text = Path(data_dir).expanduser().read_text(encoding="utf-8")
    codes, tokens = np.unique(np.frombuffer(text.encode("utf-32-le"), "<u4"), return_inverse=True)
    if not 2 <= len(codes) <= 256:
        raise ValueError(f"{data_dir} has {len(codes)} different characters, a token holds 2 to 256; normalise it")
    return "".join(map(chr, codes)), tokens.astype(np.uint8)
