"""All runs behind a table, one after the other:  python -m experiments.campaign NAME [--minutes M] [--field=value ...]

For every seed a float network, from it each number of levels with each method, and the float network trained on under
the same recipe; after each its row and the table, by `experiments.collect`, in experiments/results/NAME. The same
command goes on where it stopped (exit status 75): with --minutes any short stretch of a machine's time moves the table
on. Runs are in --runs (runs/), named as `experiments.train` names them, with the method and a seed above 0 behind; one
whose row the results hold is not trained again. Fields, such as --data_dir=..., go to all.
"""

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from experiments import config as configs
from experiments.config import Config
from experiments.reporting.collect import RESULTS, collect, finished, of_config, rows_of
from experiments.reporting.rows import Row
from experiments.runtime import console as status
from experiments.runtime.divergence import Diverged
from experiments.runtime.interruption import EXIT_STATUS, Preempted, stop_on_sigterm
from experiments.runtime.progress import bar
from experiments.training import run as runs

CONFIGS = Path(__file__).resolve().parent / "configs"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Campaign:
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


CAMPAIGNS = {
    "camvid": Campaign(network="camvid_unet", bits=(2, 3)),
    "text8": Campaign(network="text8_llama", bits=(2, 3)),
    # For an accelerator.
    "camvid_segformer": Campaign(network="camvid_segformer"),
    "camvid_deeplab": Campaign(network="camvid_deeplab18"),
    "text8_large": Campaign(network="text8_llama_large", bits=(2, 3)),
    **{
        name: Campaign(network=name)
        for name in (
            "cifar100_resnet20",
            "imagenet_resnet18",
            "imagenet_resnet50",
            "imagenet_mobilenetv2",
            "imagenet_deit_s",
            "ade20k_deeplab_resnet50",
            "ade20k_segformer_b0",
        )
    },
}


def plan(campaign: Campaign, seeds: int, root: Path, overrides: Sequence[str] = ()) -> Iterator[tuple[Path, Config]]:
    """(folder, config) of every run, in an order in which each finds the float network that it starts from."""

    def of(variant: str, method: str, **fields) -> tuple[Path, Config]:
        name, config = configs.named(CONFIGS / f"{campaign.network}.py:{variant}")
        name = "_".join([name, *[method] * (method != "mec"), *[str(fields["seed"])] * bool(fields["seed"])])
        return root / name, dataclasses.replace(configs.override(config, overrides), **METHODS[method], **fields)

    for seed in range(seeds):
        start, config = of("method=float", "mec", seed=seed)
        yield start, config
        runs = [(bits, method) for bits in campaign.bits for method in campaign.methods]
        for bits, method in [*runs, (campaign.bits[0], "float")]:
            yield of(f"bits={bits}", method, seed=seed, float_run=str(start))


def run(
    name: str,
    seeds: int,
    root: Path,
    overrides: Sequence[str] = (),
    minutes: float = float("inf"),
    results: Path = RESULTS,
) -> str:
    """Train what is missing and write the table in the folder `name` of `results`; its text.

    Raises:
      preemption.Preempted: when the minutes are over; what is done is kept.
    """
    end = time.monotonic() + 60 * minutes
    asked = planned(name, seeds, root, overrides)
    out = results / name
    rows = {row["run"]: row for row in rows_of(out)}
    for folder, config in asked.items():
        if folder.name in rows and not is_of(rows[folder.name], config):
            raise ValueError(
                f"{out} holds a row of {folder.name} by another config; give another --results, or delete "
                "its rows.jsonl"
            )
    missing = [folder for folder in asked if folder.name not in rows]
    starts = {Path(asked[folder].float_run or folder) for folder in missing}
    for folder, config in asked.items():
        path = folder / "config.json"
        if path.is_file() and not is_of({"config": json.loads(path.read_text(encoding="utf-8"))}, config):
            raise ValueError(f"{folder} holds a run of another config; delete it, or give another --runs")
    for folder, config in asked.items():
        if folder in {*missing, *starts}:
            if not finished(folder):
                train(config, folder, end)
            collect(out, [folder])  # which refuses a start that is not the one of the rows that are there
    return collect(out, [])


def planned(name: str, seeds: int, root: Path, overrides: Sequence[str] = ()) -> dict[Path, Config]:
    """The config of every run's folder.

    Raises:
      ValueError: where no campaign can run so.
    """
    if name not in CAMPAIGNS:
        raise ValueError(f"unknown campaign {name!r}; the campaigns are {', '.join(CAMPAIGNS)}")
    if seeds < 1:
        raise ValueError(f"seeds = {seeds}: it must be at least 1")
    if own := [x for x in overrides if x.startswith(("--seed=", "--method=", "--prior=", "--float_run="))]:
        raise ValueError(f"{own[0]}: a campaign gives each run its own; use experiments.train for a single one")
    return dict(plan(CAMPAIGNS[name], seeds, root, overrides))


def train(config: Config, folder: Path, end: float) -> None:
    """Train or go on; `Preempted`, with a checkpoint, at SIGTERM or at the time `end`."""
    with bar(f"{folder.name}  ", config.batch) as progress, stop_on_sigterm() as asked:
        runs.run(
            config, folder, resume=folder.is_dir(), progress=progress, stop=lambda: asked() or time.monotonic() > end
        )


def is_of(row: Row, config: Config) -> bool:
    """Whether a row is of a run of this config, on whatever machine; fields newer than the row have their defaults."""
    return of_config(row["config"]) == of_config(dataclasses.asdict(config))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.campaign",
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", help=", ".join(CAMPAIGNS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument("--results", type=Path, default=RESULTS)
    options, overrides = parser.parse_known_args(arguments)
    where = (options.runs, overrides, options.minutes, options.results)
    try:
        return status.of(lambda: print(run(options.name, options.seeds, *where)), (ValueError, OSError, Diverged))
    except Preempted:
        print("paused, with a checkpoint; the same command goes on", file=sys.stderr)
        return EXIT_STATUS


if __name__ == "__main__":
    sys.exit(main())
