"""What is left of a published network at 4, 3 and 2 bits: rounded, transported, and after a short fine-tune?

The weights are other people's (`published fetch` gets them), all but the first and last layer's are
quantized, and the network is judged on the first `test_images` real test images; one of ImageNet's on 70 photographs, a
smoke check; one that gives vectors by its examples' nearest neighbours (`embedders.py`). Batch-norm
statistics, where there are any, are the network's own, or re-estimated for its new weights on augmented training
batches (of the photographs themselves, without their labels). The fine-tunes start from the same float weights, take
`soft_steps` + `hard_steps` steps each, and differ in the quantizer alone; the float network is trained on by the same
recipe, but where its own vectors are what is learned. A lookup table of words is rounded beside all that, in every row
but "float" and after a fine-tune: to the nearest of 16 equally spaced levels of its row, of least squared error.

    python -m experiments.published fetch resnet56
    python -m experiments.published study [--field=value ...] [--out DIR]      # 30 minutes on 2 idle CPU cores
    python -m experiments.published fetch resnet50                               # and `fetch photos`
    python -m experiments.published study --network=resnet50 --tune='()' --batch=16 --statistics_batches=30
    python -m experiments.published fetch minilm                                 # and `fetch passages`
    python -m experiments.published study --network=minilm --tune_groups=channel --batch=32 --learning_rate=4e-4 \\
        --entropy_weight=0.0 --temperature_end=0.005     # below that 8 and 16 levels a channel are lost: see rates.md
    python -m experiments.published fetch dinov2                                 # a row takes 2 to 3 minutes of a core
    python -m experiments.published study --network=dinov2 --tune='()' --test_images=1000

Rows are kept as they come in DIR/NETWORK/rows.jsonl; a row that is there is not computed again. DIR/table.md has a line
for each network and number of bits.
"""

import dataclasses
import json
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
from experiments.published.study_config import GROUPS, RECIPE, Config
from experiments.published.tables import STATISTICS, TUNED
from experiments.reporting.rows import RESULTS, Row, Rows, packages, stamp
from experiments.runtime import console
from experiments.runtime.run_folder import atomic_write_text
from experiments.tasks.base import Task
from experiments.training.run import named
from mecq_jax import storage, training
from mecq_jax.granularity import PerChannel
from mecq_jax.params import Quantized, Rule, default_rules, leaves_by_path, relative_squared_error
from mecq_jax.post_training import round_to_nearest, transport_weights
from mecq_jax.quantizers import MEC
from mecq_jax.quantizers.baselines import STE

# A lookup table has 4 bits, its rows each levels of their own, wherever other weights are quantized.
TABLE = STE(k=16, granularity=PerChannel(axis=0))


def quantized(task: Task, weights: str, bits: int, groups: str, epsilon: float) -> Quantized:
    """The task's weights as one of WEIGHTS says."""
    how: dict[str, Any] = {"k": 2**bits, "granularity": GROUPS[groups]}
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
                        key["temperature"] = config.temperature
                    self._judge(key, partial(self._untrained, weights, bits, groups))
        runs = [(method, bits) for bits in config.bits for method in config.tune]
        if runs and not self.net.embeds:  # one that embeds would be told to stay where it is
            runs = [("float", 32), *runs]
        for method, bits in runs:
            for seed in range(config.seeds):
                fields = {name: getattr(config, name) for name in RECIPE[method]}
                key = {**common_key, "weights": TUNED[method], "bits": bits, "seed": seed, "recipe": fields}
                levels_per = {} if method == "float" else {"groups": config.tune_groups}
                recipe = config.tuning(method, 4 if method == "float" else 2**bits, seed)
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
            facts = {"bytes": file_bytes(found.to_tensors(params), model_state), "error": self._error(found, hard)}
            return hard, model_state, {**facts, "making_seconds": time.perf_counter() - start}

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
        found = quantized(self.task, weights, bits, groups, self.config.temperature)
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
    portable, machine = dataclasses.replace(config, folder=Config.folder, data_dir=None), stamp()
    command = console.command_line("published study", portable)
    # Rows by another estimate or of other images stay on disk, but are no repetitions of these.
    asked = {"statistics_batches": config.statistics_batches, "statistics_batch": config.batch, "test_images": images}
    own = [r for r in rows.rows if all(r["key"].get(field, value) == value for field, value in asked.items())]
    title = f"{config.network}, {images:,} test {network(config.network).examples}"
    text = (
        f"    {command}\n\nDevice: {machine['device']}, {machine['cores']} cores.\n"
        f"Versions: {packages(machine['versions'])}.\n\n{tables.detail(own, title)}"
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
            f"no weights {path}; get them by: python -m experiments.published fetch {config.network} --folder {folder}"
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


def main(arguments: Sequence[str]) -> int:
    """The command line."""
    parser = console.parser("published study", console.with_fields(__doc__, Config))
    parser.add_argument("--out", type=Path, default=RESULTS / "pretrained", help="of the networks' folders")
    options, overrides = parser.parse_known_args(arguments)

    def work() -> None:
        config = configs.override(Config(), overrides)
        print(compute(config, options.out, told=lambda line: print(line, flush=True)))

    return console.status(work)
