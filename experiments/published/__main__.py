"""Published weights as a float run of ours.

python -m experiments.pretrained fetch resnet56 --folder runs/pretrained        # theirs, as safetensors
python -m experiments.pretrained float_run resnet56 --folder runs/pretrained --out runs/resnet56
python -m experiments.train --config FILE --model=torch_resnet56 --dataset=cifar10 --float_run=runs/resnet56
python -m experiments.pretrained fetch photos                                   # see photos.py, and passages.py
"""

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from experiments.data import in_memory as data
from experiments.models import imagenet as imagenet_models
from experiments.published import passages, photos
from experiments.published.fetch import FetchError, fetch
from experiments.published.networks import NETWORKS, Network, Statistics, network, write_float_run
from experiments.runtime import console as status

_DATA = {"photos": photos.fetch, "passages": passages.fetch}


def statistics(net: Network, data_dir: str | None) -> Statistics:
    """Mean and std by which the network's task gives its pixels; only a data set in memory is read for them."""
    if not net.in_memory:
        return imagenet_models.MEAN, imagenet_models.STD
    dataset = data.load(net.dataset, data_dir)
    return dataset.mean, dataset.std


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("fetch", "float_run"))
    parser.add_argument("network", choices=[*sorted(NETWORKS), *_DATA])
    parser.add_argument("--folder", type=Path, default=Path("runs/pretrained"), help="of the .safetensors of theirs")
    parser.add_argument("--out", type=Path, help="float_run: the folder to write (default: runs/NETWORK)")
    parser.add_argument("--data_dir", help="float_run: of the data set, whose mean and std the weights need")
    options = parser.parse_args(arguments)

    def run() -> None:
        if options.action == "fetch":
            print(_DATA.get(options.network, partial(fetch, options.network))(options.folder))
            return
        net, path = network(options.network), options.folder / f"{options.network}.safetensors"
        if net.embeds:
            raise ValueError(
                f"{options.network} gives vectors, not classes: no run starts from it; judge it by python "
                f"-m experiments.studies.pretrained --network={options.network}"
            )
        out = options.out or Path("runs") / options.network
        fields = {"model": net.model, "width": net.width, "dataset": net.dataset, "float_run": out}
        if not net.in_memory:
            fields["size"] = f"'({net.size}, {net.size})'"
        print(
            f"{write_float_run(net, path, out, statistics(net, options.data_dir))}: use it by\n"
            f"python -m experiments.train --config FILE",
            *(f"--{name}={value}" for name, value in fields.items()),
        )

    return status.of(run, (FetchError, OSError, ValueError))


if __name__ == "__main__":
    sys.exit(main())
