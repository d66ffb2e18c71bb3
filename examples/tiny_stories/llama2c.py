"""Networks and tokenizers in the files of llama2.c (github.com/karpathy/llama2.c, version 0).

A model is seven int32, its `Shape`, and float32 matrices [out, in], each kind stacked over layers. A tokenizer is an
int32 (length of its longest piece) and for each piece a float32 score, an int32 length and its bytes.
"""

import re
import struct
from itertools import pairwise
from typing import NamedTuple

import numpy as np

BOS = 1  # before every story, and so after its end
_BYTES = 3  # piece 3 + b stands for the byte b


class Shape(NamedTuple):
    """The header; heads are of queries, kv_heads of keys and values, a vocabulary above 0 has the embedding as head."""

    width: int
    hidden: int
    depth: int
    heads: int
    kv_heads: int
    vocabulary: int
    context: int


def read_model(data: bytes) -> tuple[Shape, dict[str, np.ndarray]]:
    """(shape, arrays by path) of a file whose head is its embedding; kernels are turned to [in, out]."""
    shape = Shape(*struct.unpack_from("<7i", data))
    width, hidden = shape.width, shape.hidden
    if min(shape) < 1 or shape.kv_heads != shape.heads:
        raise ValueError(f"{shape}: only models with a tied head and as many heads of keys as of queries are read")
    values, at = np.frombuffer(data, "<f4", offset=28), 0

    def take(*size: int) -> np.ndarray:
        nonlocal at
        at += int(np.prod(size))
        return values[at - int(np.prod(size)) : at].reshape(size)

    # In the order of the file, which goes on with cosines and sines of the positions.
    arrays = {"embed/kernel": take(shape.vocabulary, width)}
    for name, *size in (
        ("attention_norm/scale", width),
        ("query/kernel", width, width),
        ("key/kernel", width, width),
        ("value/kernel", width, width),
        ("out/kernel", width, width),
        ("norm/scale", width),
        ("gate/kernel", hidden, width),
        ("down/kernel", width, hidden),
        ("up/kernel", hidden, width),
    ):
        for i, matrix in enumerate(take(shape.depth, *size)):
            arrays[f"blocks/{i}/{name}"] = np.ascontiguousarray(matrix.T)
    return shape, arrays | {"norm/scale": take(width)}


class Tokenizer(NamedTuple):
    """Byte-pair pieces with scores; a text is cut into characters (or bytes), whose best neighbours are joined."""

    pieces: list[bytes]
    scores: list[float]

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
    for _ in range(vocabulary):
        score, size = struct.unpack_from("<fi", data, at)
        pieces.append(data[at + 8 : at + 8 + size])
        scores.append(score)
        at += 8 + size
    return Tokenizer(pieces, scores)
