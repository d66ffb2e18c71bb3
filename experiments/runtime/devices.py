"""Where a run computes: one device, a mesh of many, or the meshes of several processes; who of them writes files.

    devices = over(count, split=True)     # count None: all that there are; without a mesh: ONE
    quantized = devices.split(quantize_tree(params, rules), params)
    state = devices.place(steps.init(params, quantized))
    step = devices.jit(steps.soft_step, state)
    state, metrics = step(state, devices.batch(batch))

Only the first process of several writes; what it decides or reads, the others are told.
"""

import contextlib
import dataclasses
import itertools
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh

from experiments.models.small import TENSOR_PARALLEL
from experiments.runtime.interruption import stop_on_sigterm
from mecq_jax.params import Quantized
from mecq_jax.training import Layout, Split, TrainState, host_copy
from mecq_jax.training import fully_sharded as fully_sharded_

T = TypeVar("T")
# Entries of a leaf that is worth splitting; a smaller one is gathered in less time than the splitting saves.
LEAST = 2**18
_calls = itertools.count(1)


@dataclasses.dataclass(frozen=True)
class Devices:
    """The devices of a run.

    mesh: with axes 'data' and 'model'; None: the default device alone.
    fully_sharded: leaves of at least `least` entries are split over 'data'.
    tensor_parallel: rules of the leaves that are split over 'model'.
    """

    mesh: Mesh | None = None
    fully_sharded: bool = False
    least: int = LEAST
    tensor_parallel: Sequence[Split] = ()

    def in_use(self) -> contextlib.AbstractContextManager:
        """Within it the mesh is JAX's current one."""
        return contextlib.nullcontext() if self.mesh is None else jax.set_mesh(self.mesh)

    @property
    def parts(self) -> int:
        """In how many parts a batch is split."""
        return 1 if self.mesh is None else self.mesh.shape["data"]

    def check(self, batch: int) -> None:
        """Raises ValueError if a batch does not split over the devices, or over the processes as over the devices."""
        processes = jax.process_count()
        if self.parts % processes:
            raise ValueError(
                f"{self.parts} parts of a batch do not split over {processes} processes; give "
                f"--tensor_parallel a divisor of the {jax.local_device_count()} devices of a process"
            )
        if batch % self.parts:
            raise ValueError(f"batch = {batch} does not split over {self.parts} devices; give --batch=... a multiple")

    def rounded_up(self, batch: int) -> int:
        """The batch, or the next one that splits over the devices."""
        return -(-batch // self.parts) * self.parts

    def layout(self, params: Any) -> Layout:
        """Where the leaves of these parameters lie on the mesh."""
        assert self.mesh is not None
        rules = list(self.tensor_parallel)
        if self.fully_sharded:
            rules += fully_sharded_(params, self.mesh, least=self.least)
        return Layout(self.mesh, rules)

    def split(self, quantized: Quantized, params: Any) -> Quantized:
        """Quantizers that know the parts of the leaves that are split."""
        return quantized if self.mesh is None else self.layout(params).split(quantized, params)

    def place(self, state: TrainState) -> TrainState:
        """The state on its devices."""
        return state if self.mesh is None else self.layout(state.params).place(state)

    def jit(self, step: Callable, state: TrainState) -> Callable:
        """(state, batch) -> (state, metrics), jitted; takes the old state's buffers over."""
        if self.mesh is None:
            return jax.jit(step, donate_argnums=0)
        return self.layout(state.params).jit(step, state)

    def jit_state(self, function: Callable, state: TrainState) -> Callable:
        """state -> state, jitted; the new one lies where the old one does."""
        if self.mesh is None:
            return jax.jit(function)
        return jax.jit(function, out_shardings=self.layout(state.params).shardings(state))

    def batch(self, batch: Any) -> Any:
        """This process's part of a batch, with those of the others, on the devices."""
        return batch if self.mesh is None else Layout(self.mesh).batch(batch)

    def order(self, batch: int) -> np.ndarray:
        """Which example of a batch stands where in what comes back: int [batch]. A mesh need not follow the order of
        processes, in which examples are dealt."""
        own = np.split(np.arange(batch), jax.process_count())[jax.process_index()]
        return host_copy(self.batch(own))


ONE = Devices()


def over(count: int | None = None, split: bool = False, tensor_parallel: int = 1, least: int = LEAST) -> Devices:
    """The first `count` devices of all processes (None: all).

    split: fully sharded; tensor_parallel: over how many the kernels of a transformer are split, which must divide the
    number of devices.
    """
    found = jax.devices()[:count]
    if count is not None and len(found) < count:
        raise ValueError(f"{count} devices are wanted, {len(found)} are here")
    if tensor_parallel < 1 or len(found) % tensor_parallel:
        raise ValueError(f"tensor_parallel = {tensor_parallel} does not divide {len(found)} devices")
    mesh = jax.make_mesh(
        (len(found) // tensor_parallel, tensor_parallel),
        ("data", "model"),
        axis_types=(AxisType.Auto, AxisType.Auto),
        devices=found,
    )
    return Devices(mesh, split, least, TENSOR_PARALLEL if tensor_parallel > 1 else ())


def preempted() -> bool:
    """Whether any process of several was told to stop, and all have come to the call at which they do.

    JAX stops at the greatest number that any process has come to, plus 1. All call this equally often, so that the
    number of the call serves, also for a request that comes before the first.
    """
    return multihost_utils.reached_preemption_sync_point(next(_calls))


def join(coordinator: str | None, processes: int | None, process: int | None) -> None:
    """Become one process of many; without arguments JAX asks the cluster (TPU pods, Slurm, MPI)."""
    if coordinator:  # on a cluster of CPUs too; elsewhere the option means nothing
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(coordinator, processes, process)


def in_processes(number: int, command: Sequence[str]) -> int:
    """Start a command `number` times on this machine, as processes of one run; the first bad exit status ends all.

    SIGTERM goes to one of them, from which the others hear of it.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        coordinator = f"127.0.0.1:{free.getsockname()[1]}"
    command = [sys.executable, *command, "--distributed", "--coordinator", coordinator, "--processes", str(number)]
    with stop_on_sigterm() as asked:
        started, told = [subprocess.Popen([*command, "--process", str(i)]) for i in range(number)], False
        try:
            while any(p.poll() is None for p in started) and not any(p.returncode for p in started):
                if asked() and not told:
                    started[0].terminate()
                    told = True
                time.sleep(0.1)
            return next((p.returncode for p in started if p.returncode), 0)
        finally:
            for process in started:
                process.kill()
