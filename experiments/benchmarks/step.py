"""The training step of each method side by side: one forward, backward and optimizer step, all kernels of the blocks.

python -m experiments.benchmarks step [--tiny --out DIR]   an hour on two busy cores; goes on where it stopped

float, ste, lsq    plain training and the straight-through baselines
mec newton 1, 2    the method with one or two warm Newton passes a step; gradient='mirror' (and 'implicit' with 2)
mec sinkhorn 10    the method with ten Sinkhorn iterations instead
mec ott            the method with ott-jax's Sinkhorn, warm, to an error of 1e-4; backward pass ours
qwix qat           the qwix package's quantized training, int2 weights; left out where it is not installed
dkm                soft k-means with n x k attention, three iterations differentiated through (Cho et al., ICLR 2022)

Models: CIFAR ResNet-20 at batch 128, ViT-Tiny (patch 4 on 32 x 32) at batch 32, and a 50-million-parameter transformer
stack at 4 x 256 tokens. Each step goes on from the last, as in training. Times are ratios to lsq's on the same model.
Memory is the executable's temporaries and the arguments together, and, from the process, the most by which its
resident memory rose in a step (results included), both also as ratios to lsq's.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from experiments.arena.qwix import with_qwix
from experiments.benchmarks import measure
from experiments.models.small import TransformerBlock, build
from experiments.reporting.measured import Pieces
from experiments.reporting.rows import Columns, Row
from experiments.runtime.console import installed
from mecq_jax.params import Rule, quantize_tree
from mecq_jax.quantizers import MEC, Quantizer
from mecq_jax.quantizers.baselines import DKM, LSQ, STE
from mecq_jax.training import Steps, optimizers
from mecq_jax.transport import Newton, Ott, Sinkhorn


def _mec(steps: int, gradient: str) -> MEC:
    return MEC(solver=Newton(max_iterations=steps, tolerance=None), gradient=gradient)


METHODS: dict[str, Quantizer | None] = {
    "float": None,
    "ste": STE(),
    "lsq": LSQ(),
    "mec newton 1": _mec(1, "mirror"),
    "mec newton 2": _mec(2, "mirror"),
    "mec newton 2 implicit": _mec(2, "implicit"),
    "mec sinkhorn 10": MEC(solver=Sinkhorn(max_iterations=10, tolerance=None), gradient="mirror"),
    "mec ott": MEC(solver=Ott(tolerance=1e-4), gradient="mirror"),
    "dkm": DKM(),
}
QWIX = "qwix qat"


class Stack(nnx.Module):
    """Blocks between a linear embedding of each token and a linear head on their mean."""

    def __init__(self, inputs: int, width: int, heads: int, depth: int, rngs: nnx.Rngs):
        self.embed = nnx.Linear(inputs, width, rngs=rngs)
        self.blocks = nnx.List([TransformerBlock(width, heads, rngs) for _ in range(depth)])
        self.head = nnx.Linear(width, 10, rngs=rngs)

    def __call__(self, x):
        x = self.embed(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(axis=1))


def make(name: str, tiny: bool) -> tuple[nnx.Module, tuple[int, ...]]:
    """(model, shape of a batch)."""
    rngs = nnx.Rngs(0)
    match name:
        case "resnet20":
            return build("resnet20", 3, 32, 10, 4 if tiny else 16, 0), (8 if tiny else 128, 32, 32, 3)
        case "vit_tiny":
            return Stack(48, *((16, 2, 2) if tiny else (192, 3, 12)), rngs), (2 if tiny else 32, 64, 48)
    return Stack(64, *((16, 2, 2) if tiny else (768, 12, 7)), rngs), (4, 8 if tiny else 256, 64)


def step_of(model: nnx.Module, method: Quantizer | None, shape: tuple[int, ...]) -> tuple[Callable, Any, Any]:
    """(train step, state, batch)."""
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)  # type: ignore[misc]
    params = nnx.to_pure_dict(params)

    def loss_fn(params, model_state, batch, rng):
        merged = nnx.merge(graphdef, nnx.State(params), rest, copy=True)
        logits = merged(batch["x"])
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"]).mean(), (model_state, {})

    quantized = None if method is None else quantize_tree(params, [Rule("blocks/.*kernel", method)])
    optimizer = optimizers(optax.sgd(1e-3, momentum=0.9), optax.sgd(1e-4))
    temperature, weight = optax.constant_schedule(0.05), optax.constant_schedule(0.1)
    trainer = Steps(loss_fn=loss_fn, optimizer=optimizer, temperature=temperature, entropy_weight=weight)
    rng = np.random.default_rng(0)
    batch = {"x": jnp.asarray(rng.normal(size=shape), jnp.float32), "y": jnp.asarray(rng.integers(0, 10, shape[0]))}
    return trainer.soft_step, trainer.init(params, quantized, {}), batch


def _next(batch: Any, result: tuple[Any, Any]) -> tuple[Any, Any]:
    """The arguments of the step after the one that gave `result`, (state, metrics)."""
    return result[0], batch


def one_model(name: str, tiny: bool, repeats: int) -> list[Row]:
    """Rows of all methods on one model."""
    work, memory = {}, {}
    methods = list(METHODS) + [QWIX] * installed("qwix")
    for method in methods:
        model, shape = make(name, tiny)
        if method == QWIX:
            model = with_qwix(model, "blocks/.*", 4, shape)
        step, state, batch = step_of(model, METHODS.get(method), shape)
        work[method] = measure.compiled(step, state, batch, feed=partial(_next, batch))
        held = sum(
            x.nbytes
            for x in jax.tree.leaves((state.params, state.opt_state, state.quantized.state, batch))
            if hasattr(x, "nbytes")
        )
        memory[method] = work[method].temporaries + held
        print(f"{name} {method}: {work[method].first:.3g} s", flush=True)
    times = measure.seconds(work, repeats, budget=120)
    return [
        {
            "key": f"{name} {method}",
            "model": name,
            "method": method,
            "seconds": t,
            "to_lsq": t / times["lsq"],
            "bytes": memory[method],
            "bytes_to_lsq": memory[method] / memory["lsq"],
            "resident": work[method].resident,
            "resident_to_lsq": work[method].resident / work["lsq"].resident,
        }
        for method, t in times.items()
    ]


COLUMNS: Columns = {
    "model": lambda r: r["model"],
    "method": lambda r: r["method"],
    "step, s": lambda r: f"{r['seconds']:.3g}",
    "times lsq": lambda r: f"{r['to_lsq']:.3f}",
    "memory, MB": lambda r: f"{r['bytes'] / 1e6:.0f}",
    "memory times lsq": lambda r: f"{r['bytes_to_lsq']:.3f}",
    "process, MB": lambda r: f"{r['resident'] / 1e6:.0f}",
    "process times lsq": lambda r: f"{r['resident_to_lsq']:.2f}",
}


def pieces(tiny: bool) -> Pieces:
    models = ("resnet20", "vit_tiny", "stack")
    return {f"{name} lsq": partial(one_model, name, tiny, 2 if tiny else 5) for name in models}
