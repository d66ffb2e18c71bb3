"""Published weights as a float run of ours:  python -m experiments.published float_run NETWORK --out runs/NETWORK

python -m experiments.published fetch resnet56
python -m experiments.published float_run resnet56 --out runs/resnet56
python -m experiments.train --config FILE --model=torch_resnet56 --dataset=cifar10 --float_run=runs/resnet56
"""

from collections.abc import Sequence
from pathlib import Path

from experiments.data import in_memory as data
from experiments.models import imagenet as imagenet_models
from experiments.published.networks import NETWORKS, Network, Statistics, network, write_float_run
from experiments.runtime import console


def statistics(net: Network, data_dir: str | None) -> Statistics:
    """Mean and std by which the network's task gives its pixels; only a data set in memory is read for them."""
    if not net.in_memory:
        return imagenet_models.MEAN, imagenet_models.STD
    dataset = data.load(net.dataset, data_dir)
    return dataset.mean, dataset.std


def written(name: str, folder: Path, out: Path, data_dir: str | None) -> str:
    """Write the float run of a network whose file is in `folder`; how to use it."""
    net = network(name)
    if net.embeds:
        raise ValueError(
            f"{name} gives vectors, not classes: no run starts from it; judge it by python -m experiments.published "
            f"study --network={name}"
        )
    path = write_float_run(net, folder / f"{name}.safetensors", out, statistics(net, data_dir))
    fields = {"model": net.model, "width": net.width, "dataset": net.dataset, "float_run": out}
    if not net.in_memory:
        fields["size"] = f"'({net.size}, {net.size})'"
    arguments = [f"--{field}={value}" for field, value in fields.items()]
    return " ".join([f"{path}: use it by\npython -m experiments.train --config FILE", *arguments])


def main(arguments: Sequence[str]) -> int:
    """The command line."""
    parser = console.parser("published float_run", __doc__)
    parser.add_argument("network", choices=sorted(NETWORKS))
    parser.add_argument("--folder", type=Path, default=Path("runs/pretrained"), help="of what was fetched")
    parser.add_argument("--out", type=Path, help="the folder to write (default: runs/NETWORK)")
    parser.add_argument("--data_dir", help="of the data set, whose mean and std the weights need")
    options = parser.parse_args(arguments)
    out = options.out or Path("runs") / options.network
    return console.status(lambda: print(written(options.network, options.folder, out, options.data_dir)))
