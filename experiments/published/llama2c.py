"""Networks and tokenizers in the files of llama2.c (github.com/karpathy/llama2.c, version 0), read and written.

A model is seven int32 (width, hidden, depth, heads, heads of keys, vocabulary, context) and float32 matrices [out, in],
each kind stacked over layers; a vocabulary above 0 says that the head is the embedding. A tokenizer is an int32 (length
of its longest piece) and for each piece a float32 score, an int32 length and its bytes.
"""

import dataclasses
import re
import struct
from itertools import pairwise
from typing import Any

import numpy as np

BOS = 1  # before every story, and so after its end
_BYTES = 3  # piece 3 + b stands for the byte b
_HEADER = struct.Struct("<7i")
# The order in the file: our path in a block, or None for what stands outside; our kernels are [in, out].
_ORDER = (
    "attention_norm/scale",
    "attention/query/kernel",
    "attention/key/kernel",
    "attention/value/kernel",
    "attention/out/kernel",
    "norm/scale",
    "gate/kernel",
    "down/kernel",
    "up/kernel",
)


@dataclasses.dataclass(frozen=True)
class Shape:
    """What the header says."""

    width: int
    hidden: int
    depth: int
    heads: int
    vocabulary: int
    context: int

    def leaf(self, name: str) -> tuple[int, ...]:
        """The shape of a leaf of a block, matrices as the file has them."""
        w, h = self.width, self.hidden
        kernels = {"gate/kernel": (h, w), "up/kernel": (h, w), "down/kernel": (w, h)}
        return (w,) if name.endswith("scale") else kernels.get(name, (w, w))

    @property
    def bytes(self) -> int:
        """Size of the file; it ends with cosines and sines of the positions, which are computed here."""
        block = sum(int(np.prod(self.leaf(name))) for name in _ORDER)
        tables = self.context * (self.width // self.heads)
        return _HEADER.size + 4 * (self.vocabulary * self.width + self.depth * block + self.width + tables)


def read_model(data: bytes) -> tuple[Shape, dict[str, np.ndarray]]:
    """(shape, leaves by the paths of `llama.Llama`) of a file whose head is its embedding."""
    if len(data) < _HEADER.size:
        raise ValueError(f"a file of {len(data)} bytes is no model of llama2.c; fetch it again")
    width, hidden, depth, heads, kv_heads, vocabulary, context = _HEADER.unpack_from(data)
    if min(width, hidden, depth, heads, vocabulary, context) < 1 or kv_heads != heads:
        raise ValueError(
            f"the header {_HEADER.unpack_from(data)} is not of a model with a tied head and as many heads "
            "of keys as of queries, which alone is read; is it the whole file, from its first byte?"
        )
    shape = Shape(width, hidden, depth, heads, vocabulary, context)
    if len(data) != shape.bytes:
        raise ValueError(f"the file holds {len(data)} bytes, its header says {shape.bytes}; fetch it again")
    values, at = np.frombuffer(data, "<f4", offset=_HEADER.size), 0

    def take(*size: int) -> np.ndarray:
        nonlocal at
        at += int(np.prod(size))
        return values[at - int(np.prod(size)) : at].reshape(size).astype(np.float32)

    leaves = {"embed/kernel": take(vocabulary, width)}
    for name in _ORDER:
        for i, matrix in enumerate(take(depth, *shape.leaf(name))):
            leaves[f"blocks/{i}/{name}"] = np.ascontiguousarray(matrix.T)
    return shape, leaves | {"norm/scale": take(width)}


def write_model(shape: Shape, leaves: dict[str, Any]) -> bytes:
    """The inverse of `read_model`."""
    s = shape
    header = _HEADER.pack(s.width, s.hidden, s.depth, s.heads, s.heads, s.vocabulary, s.context)
    arrays = [leaves["embed/kernel"]]
    arrays += [np.asarray(leaves[f"blocks/{i}/{name}"]).T for name in _ORDER for i in range(s.depth)]
    pairs = s.width // s.heads // 2
    angle = np.arange(s.context)[:, None] * 10_000.0 ** (-np.arange(pairs) / pairs)[None]
    arrays += [leaves["norm/scale"], np.cos(angle), np.sin(angle)]
    return header + b"".join(np.asarray(a, "<f4").tobytes() for a in arrays)


@dataclasses.dataclass(frozen=True)
class Tokenizer:
    """Byte-pair pieces with scores; a text is cut into characters (or bytes), whose best neighbours are joined."""

    pieces: tuple[bytes, ...]
    scores: tuple[float, ...]

    def encode(self, text: str) -> list[int]:
        """BOS and the tokens of ` text`: of all pairs that join to a piece, that of the highest score first."""
        place = {piece: i for i, piece in reversed(list(enumerate(self.pieces)))}
        tokens = []
        for character in f" {text}" if text else "":
            raw = character.encode()
            tokens += [place[raw]] if raw in place else [b + _BYTES for b in raw]
        while True:
            joined = [self.pieces[a] + self.pieces[b] for a, b in pairwise(tokens)]
            known = [(-self.scores[place[piece]], i) for i, piece in enumerate(joined) if piece in place]
            if not known:
                return [BOS, *tokens]
            _, i = min(known)
            tokens[i : i + 2] = [place[joined[i]]]

    def decode(self, tokens: list[int]) -> str:
        """The text of tokens; the space that begins a story is left out, as is BOS."""
        out = b""
        for before, token in zip([0, *tokens], tokens, strict=False):
            piece = self.pieces[token]
            if token == BOS:
                continue
            if byte := re.fullmatch(rb"<0x([0-9A-F]{2})>", piece):
                piece = bytes([int(byte[1], 16)])
            out += piece.removeprefix(b" ") if before == BOS else piece
        return out.decode(errors="replace")


def read_tokenizer(data: bytes, vocabulary: int) -> Tokenizer:
    """The tokenizer of `vocabulary` pieces in a file."""
    at, pieces, scores = 4, [], []
    for i in range(vocabulary):
        if len(data) < at + 8:
            raise ValueError(f"the tokenizer ends after {i} pieces of {vocabulary}; fetch it again")
        score, size = struct.unpack_from("<fi", data, at)
        pieces.append(data[at + 8 : at + 8 + size])
        scores.append(score)
        at += 8 + size
    return Tokenizer(tuple(pieces), tuple(scores))
