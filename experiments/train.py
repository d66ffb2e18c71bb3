"""Train one config:  python -m experiments.train --config experiments/configs/digits_cnn.py:bits=2 [--field=value ...]

--folder PATH        the run's folder (default runs/NAME_w2 of NAME.py:bits=2, runs/NAME_float of NAME.py:method=float)
--resume             go on from the folder's last checkpoint (or begin, where there is none), on any devices

On more than one device; the run is the same up to the order of sums:
--devices N          the first N; on a CPU N simulated ones; of one process
--processes N        N processes on this machine, each with its own part of every batch, over the loopback
--distributed        one process of many: start the same command on every host. On a TPU pod slice JAX finds the others
                     by itself; under Slurm or MPI too; elsewhere give --coordinator HOST:PORT --process I --processes N
--fully_sharded      kernels, their optimizer's state and codes are split over the devices too (--least: entries of the
                     smallest leaf that is)
--tensor_parallel M  a transformer's kernels are split over M of the devices

Exit status: 0 done; 2 an error, said on stderr; 75 stopped by SIGTERM, with a checkpoint of the last step to resume
from. A run killed without warning (SIGKILL, a power cut) resumes from its last checkpoint to the same bits.
"""

import argparse
import contextlib
import logging
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax

from experiments import config as configs
from experiments.config import Config
from experiments.runtime import console, devices
from experiments.runtime.divergence import Diverged
from experiments.runtime.interruption import EXIT_STATUS, Interrupted, stop_on_sigterm
from experiments.tasks import registry as tasks
from experiments.training import run as runs
from mecq_jax.training import CheckpointError, writes


def _quiet_orbax() -> None:
    """Of a failure, one message: orbax also logs what it raises, and closes its event loop on callbacks to come."""
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    before = sys.unraisablehook
    sys.unraisablehook = lambda got: None if str(got.exc_value) == "Event loop is closed" else before(got)


def _parser() -> argparse.ArgumentParser:
    parser = console.parser("train", __doc__)
    parser.add_argument("--config", required=True, help="a file in experiments/configs/, with :bits=N,method=NAME")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--devices", type=int)
    parser.add_argument("--processes", type=int)
    parser.add_argument("--distributed", action="store_true")
    parser.add_argument("--coordinator")
    parser.add_argument("--process", type=int)
    parser.add_argument("--fully_sharded", action="store_true")
    parser.add_argument("--least", type=int, default=devices.LEAST)
    parser.add_argument("--tensor_parallel", type=int, default=1)
    return parser


def _check(options: argparse.Namespace) -> None:
    for name in ("devices", "processes", "tensor_parallel", "least"):
        if (value := getattr(options, name)) is not None and value < 1:
            raise ValueError(f"{name} = {value}: it must be at least 1")
    if options.devices and (options.processes or options.distributed):
        raise ValueError(f"devices = {options.devices} is of one process; several compute on all that they have")


def _devices(options: argparse.Namespace) -> devices.Devices:
    if options.distributed:
        devices.join(options.coordinator, options.processes, options.process)
    elif options.devices and options.devices > 1:
        with contextlib.suppress(RuntimeError):  # JAX has begun, with the devices that it has
            jax.config.update("jax_num_cpu_devices", options.devices)
    elif not options.fully_sharded and options.tensor_parallel == 1:
        return devices.ONE
    return devices.over(options.devices, options.fully_sharded, options.tensor_parallel, options.least)


@contextlib.contextmanager
def _told(batch: int) -> Iterator[dict]:
    """Progress and requests to stop. JAX itself hears the SIGTERM of each of several processes."""
    with contextlib.ExitStack() as stack:
        told: dict = {}
        if writes():
            told["progress"] = stack.enter_context(console.bar(batch=batch))
        if jax.process_count() == 1:
            told["stop"] = stack.enter_context(stop_on_sigterm())
        yield told


def _train(config: Config, folder: Path, options: argparse.Namespace) -> None:
    where = _devices(options)
    task = tasks.make_task(config)
    with _told(config.batch) as told:
        result = runs.run(config, folder, resume=options.resume, task=task, devices=where, **told)
    if not writes():
        return
    print(result.report)
    scores = {"float": result.float_score, "soft": result.soft_score, "hard": result.hard_score}
    shown = "  ".join(f"{name} {task.kind.shown(x)}" for name, x in scores.items())
    print(f"{shown}  ({task.kind.title}, test, last epoch)")
    print(f"artifact {result.folder / 'model.safetensors'}")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    options, overrides = _parser().parse_known_args(given)
    _quiet_orbax()
    try:
        name, config = configs.named(options.config)
        config = configs.override(config, overrides)
        _check(options)
        if options.processes and not options.distributed:
            return devices.in_processes(options.processes, ["-m", "experiments.train", *given])
        _train(config, options.folder or Path("runs") / name, options)
    except Interrupted as stopped:
        print(stopped, file=sys.stderr)
        return EXIT_STATUS
    except (ValueError, OSError, Diverged) as error:
        how = " by --resume" if isinstance(error, CheckpointError) else ""  # the library knows no command line
        print(f"error: {error}{how}", file=sys.stderr, flush=True)
        if jax.process_count() > 1:
            os._exit(2)  # a clean end would wait minutes for the other processes, which wait for this one
        return 2
    except Exception:
        if jax.process_count() == 1:
            raise
        traceback.print_exc()
        os._exit(1)  # for the same reason
    return 0


if __name__ == "__main__":
    sys.exit(main())
