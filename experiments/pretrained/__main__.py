"""Published weights as a float run of ours.

    python -m experiments.pretrained fetch resnet56 --folder runs/pretrained        # theirs, as safetensors
    python -m experiments.pretrained float_run resnet56 --folder runs/pretrained --out runs/resnet56
    python -m experiments.train CONFIG --model=torch_resnet56 --dataset=cifar10 --float_run=runs/resnet56
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from experiments import data, status
from experiments.pretrained.fetch import FetchError, fetch
from experiments.pretrained.networks import NETWORKS, make_task, network, write_float_run


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("fetch", "float_run"))
    parser.add_argument("network", choices=sorted(NETWORKS))
    parser.add_argument("--folder", type=Path, default=Path("runs/pretrained"), help="of the .safetensors of theirs")
    parser.add_argument("--out", type=Path, help="float_run: the folder to write (default: runs/NETWORK)")
    parser.add_argument("--data_dir", help="float_run: of the data set, whose mean and std the weights need")
    options = parser.parse_args(arguments)

    def run() -> None:
        if options.action == "fetch":
            print(fetch(options.network, options.folder))
            return
        net, path = network(options.network), options.folder / f"{options.network}.safetensors"
        task = make_task(net, path, data.load(net.dataset, options.data_dir))
        out = options.out or Path("runs") / options.network
        print(f"{write_float_run(task, out)}: use it with --model={net.model} --width={net.width} "
              f"--dataset={net.dataset} --float_run={out}")

    return status.of(run, (FetchError, OSError, ValueError))


if __name__ == "__main__":
    sys.exit(main())
