"""What is left of a published network at 4, 3 and 2 bits: rounded, transported, and after a short fine-tune?

The weights are other people's (`experiments.pretrained fetch` gets them), all but the first and last layer's are
quantized, and the network is judged on the first `test_images` real test images. Batch-norm statistics are the
network's own, or re-estimated for its new weights on augmented training batches. The fine-tunes start from the same
float weights, take `soft_steps` + `hard_steps` steps each, and differ in the quantizer alone.

    python -m experiments.pretrained fetch resnet56
    python -m experiments.studies.pretrained [--field=value ...] [--out DIR]      # 30 minutes on 2 idle CPU cores

Rows are kept as they come in DIR/rows.jsonl; a row that is there is not computed again.
"""

import dataclasses
import inspect
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments import config as configs
from experiments import data, status
from experiments.classify import Task
from experiments.post_training import (
    Quantized,
    batches_of,
    fine_tune,
    round_to_nearest,
    transport_weights,
)
from experiments.pretrained.networks import make_task, network
from experiments.rows import Row, Rows
from experiments.run import named
from experiments.runfolder import atomic_write_text, versions
from experiments.studies import common
from experiments.studies.common import Table
from mecq_jax import MEC, STE, PerChannel, PerTensor, artifact, training
from mecq_jax.hardening import squared_error
from mecq_jax.rules import default_rules, flatten

RESULTS = Path(__file__).resolve().parents[1] / "results" / "pretrained"
WEIGHTS = ("nearest, absmax", "nearest, least squares", "transport, equal mass", "transport, Lloyd-Max masses")
TUNED = {"mec": "fine-tuned, MEC", "lsq": "fine-tuned, LSQ"}
STATISTICS = ("own", "re-estimated")
TUNING = ("learning_rate", "levels_rate", "prior", "epsilon_start", "epsilon_end", "entropy_weight")
RECIPE = ("soft_epochs", "hard_epochs", "batch", *TUNING)
_GROUPS = {"tensor": PerTensor(), "channel": PerChannel()}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """`network`: of pretrained.networks.NETWORKS, in `folder`; the `bits`, `weights` (of WEIGHTS) and `groups` to try.

    epsilon: of the transport, relative to var(w). statistics_batches: of `batch` images, to re-estimate from.
    tune: methods of the fine-tune (none: ()), at `tune_groups`; its other fields are those of experiments.config.Config
    with steps for epochs; seeds: of the fine-tunes.
    """

    network: str = "resnet56"
    folder: str = "runs/pretrained"
    data_dir: str | None = None
    test_images: int = 10_000
    bits: tuple[int, ...] = (4, 3, 2)
    weights: tuple[str, ...] = WEIGHTS
    groups: tuple[str, ...] = ("tensor", "channel")
    epsilon: float = 1e-3
    batch: int = 64
    statistics_batches: int = 40
    tune: tuple[str, ...] = tuple(TUNED)
    tune_groups: str = "tensor"
    soft_steps: int = 80
    hard_steps: int = 20
    learning_rate: float = 2e-4
    levels_rate: float = 0.1
    prior: str | None = "lloyd_max"
    epsilon_start: float = 0.02
    epsilon_end: float = 0.001
    entropy_weight: float = 0.1
    seeds: int = 1

    def __post_init__(self):
        for field, allowed in (("weights", WEIGHTS), ("groups", _GROUPS), ("tune", TUNED), ("bits", (1, 2, 3, 4))):
            if unknown := [x for x in getattr(self, field) if x not in allowed]:
                raise ValueError(f"{field} holds {unknown}, not of {tuple(allowed)}")
        for field in ("test_images", "batch", "statistics_batches", "seeds"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field} = {getattr(self, field)}: it must be at least 1")

    def tuning(self, method: str, bits: int, seed: int) -> configs.Config:
        """The recipe of a fine-tune."""
        return configs.Config(
            method=method, k=2**bits, groups=self.tune_groups, soft_epochs=self.soft_steps, augment="crop_flip",
            hard_epochs=self.hard_steps, batch=self.batch, seed=seed,
            **{name: getattr(self, name) for name in TUNING},
        )  # fmt: skip


def quantized(task: Task, weights: str, bits: int, groups: str, epsilon: float) -> Quantized:
    """The task's weights as one of WEIGHTS says."""
    how: dict[str, Any] = {"k": 2**bits, "granularity": _GROUPS[groups]}
    kind, detail = weights.split(", ")
    if kind == "nearest":
        bound = detail.replace(" ", "_")
        return round_to_nearest(task.params, default_rules(STE(**how), task.order), bound)
    if detail == "equal mass":
        quantizer = MEC(**how, codebook="quantile")
    else:
        quantizer = MEC(**how, codebook="lloyd_max", prior="lloyd_max")
    return transport_weights(task.params, default_rules(quantizer, task.order), epsilon)


class Study:
    """The network, what is known of it, and the rows that are left."""

    def __init__(self, config: Config, task: Task, rows: Rows, told: Callable[[str], None] = lambda line: None):
        self.config, self.task, self.rows, self.told = config, task, rows, told

    def run(self) -> None:
        """Every row that is not there yet: the float network, what needs no training, then the fine-tunes."""
        config, task = self.config, self.task
        common_key = {"network": config.network, "test_images": len(task.test)}
        self._add({**common_key, "weights": "float", "bits": 32, "statistics": "own"}, self._float)
        for groups in config.groups:
            for bits in config.bits:
                for weights in config.weights:
                    key = {**common_key, "weights": weights, "bits": bits, "groups": groups}
                    if weights.startswith("transport"):
                        key["epsilon"] = config.epsilon
                    self._judge(key, partial(self._untrained, weights, bits, groups))
        for bits in config.bits:
            for seed in range(config.seeds):
                for method in config.tune:
                    recipe = config.tuning(method, bits, seed)
                    # The fields that this study sets: others can be added to Config without another key.
                    fields = {name: getattr(recipe, name) for name in RECIPE}
                    key = {**common_key, "weights": TUNED[method], "bits": bits, "groups": config.tune_groups,
                           "seed": seed, "recipe": fields}  # fmt: skip
                    self._judge(key, partial(fine_tune, task, recipe))

    def _judge(self, about: Row, make: Callable[[], tuple[Quantized, Any, Any]]) -> None:
        """Rows of one set of weights with both kinds of statistics."""
        keys = [{**about, "statistics": own} for own in STATISTICS]
        keys[1] |= {"statistics_batches": self.config.statistics_batches, "statistics_batch": self.config.batch}
        if all(self._there(key) for key in keys):
            return
        start = time.perf_counter()
        found, params, model_state = make()
        hard = found.dense(params)
        facts = {"bytes": file_bytes(found.hard(params), model_state), "error": self._error(found, hard),
                 "making_seconds": time.perf_counter() - start}  # fmt: skip
        self._add(keys[0], lambda: {"accuracy": self._accuracy(hard, model_state, False), **facts})
        self._add(keys[1], lambda: {"accuracy": self._accuracy(hard, model_state, True), **facts})

    def _untrained(self, weights: str, bits: int, groups: str) -> tuple[Quantized, Any, Any]:
        found = quantized(self.task, weights, bits, groups, self.config.epsilon)
        return found, self.task.params, self.task.model_state

    def _accuracy(self, params: Any, model_state: Any, reestimated: bool) -> float:
        if reestimated:
            some = islice(batches_of(self.task, self.config.batch, 0), self.config.statistics_batches)
            model_state = training.reestimate(self.task.loss_fn, params, model_state, some, jax.random.key(0))
        return self.task.evaluate(params, model_state)

    def _error(self, found: Quantized, hard: Any) -> float:
        """Of all quantized weights against the float network's, relative."""
        float_, low = flatten(self.task.params), flatten(hard)
        both = ([np.ravel(leaves[path]) for path in found.plan.quantizers] for leaves in (float_, low))
        return squared_error(*map(np.concatenate, both))

    def _float(self) -> Row:
        params, model_state = self.task.params, self.task.model_state
        return {"accuracy": self.task.evaluate(params, model_state), "bytes": file_bytes(params, model_state)}

    def _there(self, key: Row) -> bool:
        return any(row["key"] == json.loads(json.dumps(key)) for row in self.rows.rows)

    def _add(self, key: Row, make: Callable[[], Row]) -> None:
        if self._there(key):
            return
        start = time.perf_counter()
        row = {"key": json.loads(json.dumps(key)), **make(), "seconds": time.perf_counter() - start}
        self.rows.add([row])
        write(self.rows, self.config)
        self.told(f"{key['weights']}, {key['bits']} bits, {key.get('groups', 'float')}, {key['statistics']} "
                  f"statistics: {100 * row['accuracy']:.2f} %, {row['bytes']:,} bytes, {row['seconds']:.0f} s")


def file_bytes(params: Any, model_state: Any) -> int:
    """Bytes of the packed file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        artifact.save(path, named(params, model_state))
        return path.stat().st_size


def table(rows: Sequence[Row], title: str) -> Table:
    """A line for each set of weights, with the accuracies by both kinds of statistics (means over seeds)."""

    def accuracy(those: Sequence[Row], statistics: str) -> str:
        values = [100 * r["accuracy"] for r in those if r["key"]["statistics"] == statistics]
        spread = f" ± {np.std(values, ddof=1):.2f}" if len(values) > 1 else ""
        return f"{np.mean(values):.2f}{spread}" if values else ""

    def lines() -> Iterator[Sequence[str]]:
        line = ("bits", "weights", "groups", "recipe", "epsilon")
        kinds = list(dict.fromkeys(json.dumps([row["key"].get(name) for name in line]) for row in rows))
        for kind in sorted(kinds, key=lambda kind: -json.loads(kind)[0]):
            those = [r for r in rows if json.dumps([r["key"].get(name) for name in line]) == kind]
            key, error = those[0]["key"], those[0].get("error")
            recipe = key.get("recipe", {})
            steps = f", {recipe['soft_epochs'] + recipe['hard_epochs']} steps" if recipe else ""
            if recipe and key["weights"] == TUNED["mec"]:
                names = {"lloyd_max": "Lloyd-Max masses", None: "equal mass", "learned": "trained masses"}
                masses = names[recipe.get("prior")]
                steps = f", {masses}, epsilon from {recipe['epsilon_start']:g}{steps}"
            accuracies = [accuracy(those, statistics) for statistics in STATISTICS]
            yield (str(key["bits"]), key["weights"] + steps, key.get("groups", ""), *accuracies,
                   common.significant(error, 3), f"{those[0]['bytes']:,}")  # fmt: skip

    columns = ("bits", "weights", "levels per", "accuracy, %", "statistics re-estimated, %", "squared error", "bytes")
    return Table(title, columns, list(lines()))


def write(rows: Rows, config: Config) -> str:
    """table.md, a table for each network and number of test images, and data.json; the tables' text."""
    with_what, portable = versions(), dataclasses.replace(config, folder=Config.folder, data_dir=None)
    packages = ", ".join(f"{k} {v}" for k, v in with_what.items() if isinstance(v, str) and k != "git")
    command = common.command("pretrained", portable)
    text = f"    {command}\n\nDevice: {rows.device}, {os.cpu_count()} cores.\nVersions: {packages}.\n"
    # Rows by another estimate stay on disk, but are no repetitions of these.
    estimated = {"statistics_batches": config.statistics_batches, "statistics_batch": config.batch}
    for name, images in dict.fromkeys((r["key"]["network"], r["key"]["test_images"]) for r in rows.rows):
        own = [r for r in rows.rows if (r["key"]["network"], r["key"]["test_images"]) == (name, images)
               and all(r["key"].get(field, value) == value for field, value in estimated.items())]  # fmt: skip
        text += "\n" + table(own, f"{name}, first {images:,} test images").markdown()
    atomic_write_text(rows.folder / "table.md", text)
    numbers = {"command": command, "config": dataclasses.asdict(portable), "rows": rows.rows}
    atomic_write_text(rows.folder / "data.json", json.dumps(numbers, indent=1) + "\n")
    return text


def compute(config: Config, out: Path, dataset: data.Dataset | None = None,
            told: Callable[[str], None] = lambda line: None) -> str:
    """The study in the folder `out`; the text of its table."""
    net = network(config.network)
    path = Path(config.folder) / f"{config.network}.safetensors"
    if not path.is_file():
        raise FileNotFoundError(f"no weights {path}; get them by: python -m experiments.pretrained fetch "
                                f"{config.network} --folder {config.folder}")
    dataset = dataset or data.load(net.dataset, config.data_dir)
    first = slice(config.test_images)
    dataset = dataclasses.replace(dataset, test_images=dataset.test_images[first],
                                  test_labels=dataset.test_labels[first])  # fmt: skip
    rows = Rows(out)
    Study(config, make_task(net, path, dataset), rows, told).run()
    return write(rows, config)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if {"-h", "--help"} & set(arguments):
        print(inspect.cleandoc(__doc__ or ""))
        print(*(f"  --{f.name}={f.default}" for f in dataclasses.fields(Config)), sep="\n")
        return 0

    def work() -> None:
        config, out = common.parse(Config, [f"--out={RESULTS}", *arguments], "pretrained")
        print(compute(config, out, told=lambda line: print(line, flush=True)))

    return status.of(work)


if __name__ == "__main__":
    sys.exit(main())
