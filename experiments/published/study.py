"""What is left of a published network at 4, 3 and 2 bits: rounded, transported, and after a short fine-tune?

The weights are other people's (`experiments.pretrained fetch` gets them), all but the first and last layer's are
quantized, and the network is judged on the first `test_images` real test images; one of ImageNet's on 70 photographs, a
smoke check; one that gives vectors by its examples' nearest neighbours (`pretrained/embedders.py`). Batch-norm
statistics, where there are any, are the network's own, or re-estimated for its new weights on augmented training
batches (of the photographs themselves, without their labels). The fine-tunes start from the same float weights, take
`soft_steps` + `hard_steps` steps each, and differ in the quantizer alone; the float network is trained on by the same
recipe, but where its own vectors are what is learned. A lookup table of words is rounded beside all that, in every row
but "float" and after a fine-tune: to the nearest of 16 equally spaced levels of its row, of least squared error.

    python -m experiments.pretrained fetch resnet56
    python -m experiments.studies.pretrained [--field=value ...] [--out DIR]      # 30 minutes on 2 idle CPU cores
    python -m experiments.pretrained fetch resnet50                               # and `fetch photos`
    python -m experiments.studies.pretrained --network=resnet50 --tune='()' --batch=16 --statistics_batches=30
    python -m experiments.pretrained fetch minilm                                 # and `fetch passages`
    python -m experiments.studies.pretrained --network=minilm --tune_groups=channel --batch=32 --learning_rate=4e-4 \\
        --entropy_weight=0.0 --temperature_end=0.005     # below that 8 and 16 levels a channel are lost: see rates.md
    python -m experiments.pretrained fetch dinov2                                 # a row takes 2 to 3 minutes of a core
    python -m experiments.studies.pretrained --network=dinov2 --tune='()' --test_images=1000

Rows are kept as they come in DIR/NETWORK/rows.jsonl; a row that is there is not computed again. DIR/table.md has a line
for each network and number of bits.
"""

import dataclasses
import inspect
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments import config as configs
from experiments.data import in_memory as data
from experiments.published import embedders, photos, tables
from experiments.published.fine_tune import batches_of, fine_tune
from experiments.published.networks import make_task, network
from experiments.published.tables import METHODS, STATISTICS, TUNED, WEIGHTS
from experiments.reporting.rows import Row, Rows
from experiments.runtime import console as status
from experiments.runtime.run_folder import atomic_write_text, versions
from experiments.studies import common
from experiments.tasks.base import Task
from experiments.training.run import named
from mecq_jax import storage, training
from mecq_jax.granularity import PerChannel, PerTensor
from mecq_jax.params import Quantized, Rule, default_rules, leaves_by_path, relative_squared_error
from mecq_jax.post_training import round_to_nearest, transport_weights
from mecq_jax.quantizers import MEC
from mecq_jax.quantizers.baselines import STE

RESULTS = Path(__file__).resolve().parents[1] / "results" / "pretrained"
TUNING = ("learning_rate", "levels_rate", "prior", "temperature_start", "temperature_end", "entropy_weight")
# What each method reads of a recipe, and so what its rows are told apart by.
_STEPS = ("soft_epochs", "hard_epochs", "batch", "learning_rate")
RECIPE = {"mec": (*_STEPS, *TUNING[1:]), "lsq": (*_STEPS, "levels_rate"), "float": _STEPS}
# A lookup table has 4 bits, its rows each levels of their own, wherever other weights are quantized.
TABLE = STE(k=16, granularity=PerChannel(axis=0))
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
    tune: tuple[str, ...] = METHODS
    tune_groups: str = "tensor"
    soft_steps: int = 80
    hard_steps: int = 20
    learning_rate: float = 2e-4
    levels_rate: float = 0.1
    prior: str | None = "lloyd_max"
    temperature_start: float = 0.02
    temperature_end: float = 0.001
    entropy_weight: float = 0.1
    seeds: int = 1

    def __post_init__(self):
        known: dict[str, Any] = {"weights": WEIGHTS, "groups": _GROUPS, "tune": METHODS, "bits": (1, 2, 3, 4)}
        for field, allowed in known.items():
            if unknown := [x for x in getattr(self, field) if x not in allowed]:
                raise ValueError(f"{field} holds {unknown}, not of {tuple(allowed)}")
        if self.tune_groups not in _GROUPS:
            raise ValueError(f"tune_groups = {self.tune_groups!r}: it must be one of {tuple(_GROUPS)}")
        least = {"test_images": 1, "batch": 1, "statistics_batches": 1, "seeds": 1, "soft_steps": 0, "hard_steps": 0}
        for field, bound in least.items():
            if getattr(self, field) < bound:
                raise ValueError(f"{field} = {getattr(self, field)}: it must be at least {bound}")
        if self.tune and not self.soft_steps + self.hard_steps:
            raise ValueError("soft_steps = hard_steps = 0: a fine-tune has at least one step; without any, --tune='()'")

    def tuning(self, method: str, k: int, seed: int) -> configs.Config:
        """The recipe of a fine-tune."""
        return configs.Config(
            method=method,
            k=k,
            groups=self.tune_groups,
            augment="crop_flip",
            batch=self.batch,
            soft_epochs=self.soft_steps,
            hard_epochs=self.hard_steps,
            seed=seed,
            **{name: getattr(self, name) for name in TUNING},
        )


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
        self.net = network(config.network)

    def run(self) -> None:
        """Every row that is not there yet: the float network, what needs no training, then the fine-tunes."""
        config, task = self.config, self.task
        common_key = {"network": config.network, "test_images": len(task.test)}
        self._pair(
            {**common_key, "weights": "float", "bits": 32},
            lambda: (task.params, task.model_state, {"bytes": file_bytes(task.params, task.model_state)}),
        )
        for groups in config.groups:
            for bits in config.bits:
                for weights in config.weights:
                    key = {**common_key, "weights": weights, "bits": bits, "groups": groups}
                    if weights.startswith("transport"):
                        key["epsilon"] = config.epsilon
                    self._judge(key, partial(self._untrained, weights, bits, groups))
        runs = [(method, bits) for bits in config.bits for method in config.tune]
        if runs and not self.net.embeds:  # one that embeds would be told to stay where it is
            runs = [("float", 32), *runs]
        for method, bits in runs:
            for seed in range(config.seeds):
                recipe = config.tuning(method, 4 if method == "float" else 2**bits, seed)
                fields = {name: getattr(recipe, name) for name in RECIPE[method]}
                key = {**common_key, "weights": TUNED[method], "bits": bits, "seed": seed, "recipe": fields}
                levels_per = {} if method == "float" else {"groups": config.tune_groups}
                self._judge({**key, **levels_per}, partial(fine_tune, task, recipe))

    def _judge(self, about: Row, make: Callable[[], tuple[Quantized, Any, Any]]) -> None:
        """Rows of one set of quantized weights."""
        if self.net.tables:
            about = {**about, "tables": f"{TABLE.k} levels a row"}

        def made() -> tuple[Any, Any, Row]:
            start = time.perf_counter()
            found, params, model_state = make()
            if self.net.tables:
                found = found | round_to_nearest(params, [Rule(self.net.tables, TABLE)], "least_squares")
            hard = found.hard(params)
            return (
                hard,
                model_state,
                {
                    "bytes": file_bytes(found.to_tensors(params), model_state),
                    "error": self._error(found, hard),
                    "making_seconds": time.perf_counter() - start,
                },
            )

        self._pair(about, made)

    def _pair(self, about: Row, make: Callable[[], tuple[Any, Any, Row]]) -> None:
        """Rows with both kinds of statistics, if the network has any, of what `make` gives: weights, the model's state,
        facts about them."""
        own, estimated = ({**about, "statistics": kind} for kind in STATISTICS)
        estimated |= {"statistics_batches": self.config.statistics_batches, "statistics_batch": self.config.batch}
        keys = [own, estimated] if jax.tree.leaves(self.task.model_state) else [own]
        if all(self._there(key) for key in keys):
            return
        params, model_state, facts = make()
        for key in keys:
            self._add(key, partial(self._scored, params, model_state, facts, key is estimated))

    def _untrained(self, weights: str, bits: int, groups: str) -> tuple[Quantized, Any, Any]:
        found = quantized(self.task, weights, bits, groups, self.config.epsilon)
        return found, self.task.params, self.task.model_state

    def _scored(self, params: Any, model_state: Any, facts: Row, reestimated: bool) -> Row:
        if reestimated:
            some = islice(batches_of(self.task, self.config.batch, 0), self.config.statistics_batches)
            model_state = training.reestimate_batch_stats(
                self.task.loss_fn, params, model_state, some, jax.random.key(0)
            )
        return {"accuracy": self.task.evaluate(params, model_state), **facts}

    def _error(self, found: Quantized, hard: Any) -> float | None:
        """Of all quantized weights, if any, against the float network's, relative."""
        if not found.plan.quantizers:
            return None
        float_, low = leaves_by_path(self.task.params), leaves_by_path(hard)
        both = ([np.ravel(leaves[path]) for path in found.plan.quantizers] for leaves in (float_, low))
        return relative_squared_error(*map(np.concatenate, both))

    def _there(self, key: Row) -> bool:
        return any(row["key"] == json.loads(json.dumps(key)) for row in self.rows.rows)

    def _add(self, key: Row, make: Callable[[], Row]) -> None:
        if self._there(key):
            return
        start = time.perf_counter()
        row = {"key": json.loads(json.dumps(key)), **make(), "seconds": time.perf_counter() - start}
        self.rows.add([row])
        write(self.rows, self.config, len(self.task.test))
        self.told(
            f"{key['weights']}, {key['bits']} bits, {key.get('groups', 'float')}, {key['statistics']} "
            f"statistics: {100 * row['accuracy']:.2f} %, {row['bytes']:,} bytes, {row['seconds']:.0f} s"
        )


def file_bytes(params: Any, model_state: Any) -> int:
    """Bytes of the packed file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        storage.save(path, named(params, model_state))
        return path.stat().st_size


def write(rows: Rows, config: Config, images: int) -> str:
    """The network's table.md, whose text this is, and data.json; beside its folder the table.md of all networks."""
    with_what, portable = versions(), dataclasses.replace(config, folder=Config.folder, data_dir=None)
    packages = ", ".join(f"{k} {v}" for k, v in with_what.items() if isinstance(v, str) and k != "git")
    command = common.command("pretrained", portable)
    # Rows by another estimate or of other images stay on disk, but are no repetitions of these.
    asked = {"statistics_batches": config.statistics_batches, "statistics_batch": config.batch, "test_images": images}
    own = [r for r in rows.rows if all(r["key"].get(field, value) == value for field, value in asked.items())]
    title = f"{config.network}, {images:,} test {network(config.network).examples}"
    text = (
        f"    {command}\n\nDevice: {rows.device}, {os.cpu_count()} cores.\nVersions: {packages}.\n\n"
        + tables.detail(own, title).markdown()
    )
    atomic_write_text(rows.folder / "table.md", text)
    numbers = {"command": command, "config": dataclasses.asdict(portable), "rows": own}
    atomic_write_text(rows.folder / "data.json", json.dumps(numbers, indent=1) + "\n")
    all_ = {path.parent.name: json.loads(path.read_text())["rows"] for path in rows.folder.parent.glob("*/data.json")}
    atomic_write_text(rows.folder.parent / "table.md", tables.summary(all_))
    return text


def load(config: Config) -> Task:
    """The network's task on its real test images, the weights from `folder`."""
    net, folder = network(config.network), Path(config.folder)
    path = folder / f"{config.network}.safetensors"
    if not path.is_file():
        raise FileNotFoundError(
            f"no weights {path}; get them by: python -m experiments.pretrained fetch {config.network} --folder {folder}"
        )
    if net.embeds:
        return embedders.make_task(net, path, config.data_dir, config.test_images)
    if not net.in_memory:
        if config.tune:
            raise ValueError(
                f"tune = {config.tune}: {config.network} would be trained on the photographs that it is "
                "judged on; give --tune='()'"
            )
        return photos.make_task(net, path, folder / "photos")
    dataset = data.load(net.dataset, config.data_dir)
    first = slice(config.test_images)
    dataset = dataclasses.replace(
        dataset, test_images=dataset.test_images[first], test_labels=dataset.test_labels[first]
    )
    return make_task(net, path, dataset)


def compute(config: Config, out: Path, told: Callable[[str], None] = lambda line: None) -> str:
    """The study in the folder `out`/NETWORK; the text of its table."""
    task = load(config)
    rows = Rows(out / config.network)
    Study(config, task, rows, told).run()
    return write(rows, config, len(task.test))


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
