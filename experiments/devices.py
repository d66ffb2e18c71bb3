"""The same training on one device, on many, or in several processes:  python -m experiments.devices [options]

--devices 8        eight simulated devices in this process
--processes 2      two processes on this machine, each with its own part of every batch, over the loopback
--distributed      one process of many: start the same command on every host. On a TPU pod slice JAX finds the others by
                   itself; under Slurm or MPI too; elsewhere give --coordinator HOST:PORT --process I --processes N
--fully_sharded    kernels, their optimizer's state and codes split over the devices too

It trains the soft phase of a config (--config, and any --field=value) for --steps steps from float weights drawn by the
seed, and prints the loss of every step, which is that of one device up to the order of sums.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from itertools import chain, count, islice
from pathlib import Path

import jax
import numpy as np

from experiments import config as configs
from experiments import data
from experiments.classify import make_task
from experiments.config import Config
from experiments.recipe import quantized_trainer
from mecq_jax import rules, tree
from mecq_jax.sharding import Layout, fully_sharded

DEFAULT = Path(__file__).resolve().parent / "configs" / "digits_cnn_w2.py"
LEAST = 2**10  # weights of a kernel that is split; the networks here are small


def losses(config: Config, steps: int, split_weights: bool, devices: Sequence[jax.Device] | None = None) -> list[float]:
    """The loss of every step, over all devices of all processes unless `devices` says which."""
    task = make_task(config)
    params, dataset = task.params, task.dataset
    devices = jax.devices() if devices is None else devices
    mesh = jax.make_mesh((len(devices),), ("data",), axis_types=(jax.sharding.AxisType.Auto,), devices=devices)
    layout = Layout(mesh, fully_sharded(params, mesh, least=LEAST) if split_weights else ())
    plan, quant, quant_state = tree.quantize_tree(params, rules.default_rules(config.quantizer(), task.order))
    plan = layout.plan(plan, params)
    trainer = quantized_trainer(config, plan, task.loss_fn, len(dataset.train_labels) // config.batch)
    state = trainer.init(params, quant, quant_state, task.model_state, jax.random.key(config.seed))
    state = layout.place(state, plan)
    step = layout.jit(trainer.soft_step, state, plan)
    epochs = (data.epoch_indices(config.seed, epoch, len(dataset.train_labels), config.batch) for epoch in count())
    found: list[float] = []
    for rows in islice(chain.from_iterable(epochs), steps):
        own = np.split(rows, jax.process_count())[jax.process_index()]
        batch = {"image": dataset.train_images[own], "label": dataset.train_labels[own]}
        state, metrics = step(state, layout.batch(batch))
        found.append(float(metrics.loss))
    return found


def in_processes(number: int, arguments: Sequence[str]) -> int:
    """Start this command `number` times on this machine; the exit status of the first that fails."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        coordinator = f"127.0.0.1:{free.getsockname()[1]}"
    command = [sys.executable, "-m", "experiments.devices", *arguments, "--distributed", "--coordinator", coordinator]
    started = [subprocess.Popen([*command, "--process", str(i)]) for i in range(number)]
    try:
        return next((status for status in [process.wait() for process in started] if status), 0)
    finally:
        for process in started:
            process.kill()


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="python -m experiments.devices", description=__doc__, formatter_class=raw,
                                     allow_abbrev=False)  # fmt: skip
    parser.add_argument("--devices", type=int)
    parser.add_argument("--processes", type=int)
    parser.add_argument("--distributed", action="store_true")
    parser.add_argument("--coordinator")
    parser.add_argument("--process", type=int)
    parser.add_argument("--fully_sharded", action="store_true")
    parser.add_argument("--config", default=DEFAULT)
    parser.add_argument("--steps", type=int, default=20)
    given = list(sys.argv[1:] if arguments is None else arguments)
    options, overrides = parser.parse_known_args(given)
    try:
        config = configs.override(configs.load(options.config), overrides)
    except (ValueError, FileNotFoundError) as error:
        parser.error(str(error))
    if options.processes and not options.distributed:
        return in_processes(options.processes, given)
    if options.devices:
        jax.config.update("jax_num_cpu_devices", options.devices)
    if options.distributed:
        if os.environ.get("JAX_PLATFORMS") == "cpu" or options.coordinator:
            jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(options.coordinator, options.processes, options.process)
    devices = jax.device_count()
    if config.batch % devices:
        parser.error(f"batch = {config.batch} does not split over {devices} devices; give --batch=... a multiple")
    found = losses(config, options.steps, options.fully_sharded)
    if jax.process_index() == 0:
        print(json.dumps({"devices": devices, "processes": jax.process_count(), "losses": found}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
