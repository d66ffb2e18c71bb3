"""All runs behind a table, one after the other:  python -m experiments.sweep [NAME ...] [--minutes M] [--field=value]

A NAME is the folder of its results. An arena (arena/cifar10_resnet20: all methods, ResNet-20 on CIFAR-10 at 1 to 4
bits) is a file of its own. Of any other, for every seed a float network is trained, from it each number of levels with
each method, and the float network on under the same recipe; after each its row and the table are written, as
`reporting collect` does. Runs are in --runs (runs/), named as `experiments.train` names them, with the method and a
seed above 0 behind; one whose row the results hold is not trained again. No NAME: all that waits for an accelerator.

The same command goes on where it stopped (exit status 75): with --minutes any short stretch of a machine's time moves
the tables on. What cannot run, for its data is not there, is said, with exit status 2 at the end, and stops nothing
else. Fields, such as --float_epochs=1, go to all but arenas; data sets of tensorflow-datasets are where TFDS_DATA_DIR
says, others where --data_dir or, for each its own, --data says.
"""

import argparse
import dataclasses
import json
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from experiments import config as configs
from experiments.arena import protocol
from experiments.arena.protocol import Arena, Clock
from experiments.arena.table import table
from experiments.config import CONFIGS, Config
from experiments.reporting.collect import RESULTS, collect, finished, of_config
from experiments.reporting.rows import Row, Rows
from experiments.runtime import console
from experiments.runtime.interruption import EXIT_STATUS, Interrupted, stop_on_sigterm
from experiments.training import run as runs


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sweep:
    """A file of experiments/configs: its float network, and what is trained from it; with which of METHODS."""

    network: str
    bits: tuple[int, ...] = (2, 3, 4)
    methods: tuple[str, ...] = ("mec", "mec_lloyd_max", "lsq")


# What each changes in a config.
METHODS: dict[str, dict[str, Any]] = {
    "mec": {"method": "mec"},
    "mec_lloyd_max": {"method": "mec", "prior": "lloyd_max"},
    "lsq": {"method": "lsq"},
    "float": {"method": "float"},
}
ARENAS = ("arena/cifar10_resnet20", "arena/cifar10_vgg_small", "arena/cifar100_resnet20")
ON_A_CPU = ("camvid", "text8")
IMAGENET = ("resnet18", "resnet50", "mobilenetv2", "deit_s")
SWEEPS = {
    "camvid": Sweep(network="camvid_unet", bits=(2, 3)),
    "text8": Sweep(network="text8_llama", bits=(2, 3)),
    "camvid_segformer": Sweep(network="camvid_segformer"),
    "camvid_deeplab": Sweep(network="camvid_deeplab18"),
    "text8_large": Sweep(network="text8_llama_large", bits=(2, 3)),
    "cifar100_resnet20": Sweep(network="cifar100_resnet20"),
    **{f"imagenet_{model}": Sweep(network=f"imagenet_{model}") for model in IMAGENET},
    "ade20k_deeplab_resnet50": Sweep(network="ade20k_deeplab_resnet50"),
    "ade20k_segformer_b0": Sweep(network="ade20k_segformer_b0"),
}


def plan(sweep: Sweep, seeds: int, root: Path, overrides: Sequence[str] = ()) -> Iterator[tuple[Path, Config]]:
    """(folder, config) of every run, in an order in which each finds the float network that it starts from."""

    def of(variant: str, method: str, **fields: Any) -> tuple[Path, Config]:
        name, config = configs.named(CONFIGS / f"{sweep.network}.py:{variant}")
        name = "_".join([name, *[method] * (method != "mec"), *[str(fields["seed"])] * bool(fields["seed"])])
        return root / name, dataclasses.replace(configs.override(config, overrides), **METHODS[method], **fields)

    for seed in range(seeds):
        start, config = of("method=float", "mec", seed=seed)
        yield start, config
        low = [(bits, method) for bits in sweep.bits for method in sweep.methods]
        for bits, method in [*low, (sweep.bits[0], "float")]:
            yield of(f"bits={bits}", method, seed=seed, float_run=str(start))


def run(name: str, options: argparse.Namespace, overrides: Sequence[str], end: float) -> str:
    """Train what is missing of a name and write its table in its folder of the results; the table's text.

    Raises:
      Interrupted: at SIGTERM or at the time `end`; what is done is kept.
    """
    out = options.results / name
    if name in ARENAS:
        arena = configs.load_object(CONFIGS / f"{name}.py", "arena", Arena)
        return table(protocol.run(arena, out, clock=Clock(limit=end - time.monotonic())))
    place = options.data.get(_dataset(name))
    asked = dict(plan(SWEEPS[name], options.seeds, options.runs, [*[f"--data_dir={place}"] * bool(place), *overrides]))
    rows = {row["run"]: row for row in Rows(out).rows}
    for folder, config in asked.items():
        if folder.name in rows and not is_of(rows[folder.name], config):
            raise ValueError(
                f"{out} holds a row of {folder.name} by another config; give another --results, or delete "
                "its rows.jsonl"
            )
        path = folder / "config.json"
        if path.is_file() and not is_of({"config": json.loads(path.read_text(encoding="utf-8"))}, config):
            raise ValueError(f"{folder} holds a run of another config; delete it, or give another --runs")
    missing = [folder for folder in asked if folder.name not in rows]
    starts = {Path(asked[folder].float_run or folder) for folder in missing}
    for folder, config in asked.items():
        if folder in {*missing, *starts}:
            if not finished(folder):
                train(config, folder, end)
            collect(out, [folder])  # which refuses a start that is not the one of the rows that are there
    return collect(out, [])


def train(config: Config, folder: Path, end: float) -> None:
    """Train or go on; `Interrupted`, with a checkpoint, at SIGTERM or at the time `end`."""
    with console.bar(f"{folder.name}  ", config.batch) as progress, stop_on_sigterm() as asked:

        def stop() -> bool:
            return asked() or time.monotonic() > end

        runs.run(config, folder, resume=folder.is_dir(), progress=progress, stop=stop)


def is_of(row: Row, config: Config) -> bool:
    """Whether a row is of a run of this config, on whatever machine; fields newer than the row have their defaults."""
    return of_config(row["config"]) == of_config(dataclasses.asdict(config))


def _dataset(name: str) -> str:
    """What a sweep trains on; nothing for an arena, whose data sets are tensorflow-datasets'."""
    return "" if name in ARENAS else configs.load(CONFIGS / f"{SWEEPS[name].network}.py").dataset


def _options(arguments: Sequence[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """(options, fields) of the command line, which ends where no run could come of them."""
    names = (*ARENAS, *SWEEPS)
    parser = console.parser("sweep", __doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(names))
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop after so long")
    where = "camvid, text8 or ade20k, and where it is"
    parser.add_argument("--data", action="append", default=[], metavar="DATASET=PATH", help=where)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--results", type=Path, default=RESULTS)
    options, overrides = parser.parse_known_intermixed_args(arguments)
    # argparse takes a field with a space in it, --size='(45, 60)', for a name.
    overrides += [name for name in options.names if name.startswith("--")]
    options.names = [name for name in options.names if not name.startswith("--")]
    if unknown := [name for name in options.names if name not in names]:
        parser.error(f"{', '.join(unknown)}: not of {', '.join(names)}")
    if wrong := [text for text in options.data if "=" not in text]:
        parser.error(f"{wrong[0]!r} is not DATASET=PATH")
    options.data = dict(text.split("=", 1) for text in options.data)
    if options.data and (unread := {*options.data} - {_dataset(name) for name in names}):
        parser.error(f"--data={', '.join(sorted(unread))}: no sweep reads it")
    if options.seeds < 1:
        parser.error(f"seeds = {options.seeds}: it must be at least 1")
    if own := [x for x in overrides if x.startswith(("--seed=", "--method=", "--prior=", "--float_run="))]:
        parser.error(f"{own[0]}: a sweep gives each run its own; use experiments.train for a single one")
    options.names = options.names or [name for name in names if name not in ON_A_CPU]
    sweeps = [name for name in options.names if name not in ARENAS]
    if overrides and not sweeps:
        parser.error(f"{overrides[0]}: fields go to runs; an arena has its own in its file")
    try:
        for name in sweeps:
            list(plan(SWEEPS[name], options.seeds, options.runs, overrides))
    except ValueError as error:
        parser.error(str(error))
    return options, overrides


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line: all names, after each its table."""
    options, overrides = _options(arguments)
    end, status = time.monotonic() + 60 * options.minutes, 0
    for name in options.names:
        try:
            print(f"## {name}\n\n{run(name, options, overrides, end)}", flush=True)
        except Interrupted:
            print(f"paused in {name}, with what is done kept; the same command goes on", file=sys.stderr)
            return EXIT_STATUS
        except Exception as error:  # whatever it is, the others can run
            if not isinstance(error, console.MENDABLE):
                traceback.print_exc()
            print(f"error: {name}: {error}", file=sys.stderr, flush=True)
            status = 2
    return status


if __name__ == "__main__":
    sys.exit(main())
