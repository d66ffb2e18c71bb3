"""What the study of a published network asks for, and the recipe of its fine-tunes."""

import dataclasses
from typing import Any

from experiments import config as configs
from experiments.published.tables import METHODS, WEIGHTS
from mecq_jax.granularity import PerChannel, PerTensor

TUNING = ("learning_rate", "levels_rate", "prior", "temperature_start", "temperature_end", "entropy_weight")
# What each method reads of a recipe, and so what its rows are told apart by.
_STEPS = ("soft_steps", "hard_steps", "batch", "learning_rate")
RECIPE = {"mec": (*_STEPS, *TUNING[1:]), "lsq": (*_STEPS, "levels_rate"), "float": _STEPS}
GROUPS = {"tensor": PerTensor(), "channel": PerChannel()}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """`network`: of networks.NETWORKS, in `folder`; the `bits`, `weights` (of WEIGHTS) and `groups` to try.

    temperature: of the transport, epsilon / var(w). statistics_batches: of `batch` images, to re-estimate from.
    tune: methods of the fine-tune (none: ()), at `tune_groups`; its other fields are those of experiments.config.Config
    with steps for epochs; seeds: of the fine-tunes.
    """

    network: str = "resnet56"
    folder: str = "runs/pretrained"
    data_dir: str | None = None
    test_images: int = 10_000
    bits: tuple[int, ...] = (4, 3, 2)
    weights: tuple[str, ...] = WEIGHTS
    groups: tuple[str, ...] = ("tensor", "channel")
    temperature: float = 1e-3
    batch: int = 64
    statistics_batches: int = 40
    tune: tuple[str, ...] = METHODS
    tune_groups: str = "tensor"
    soft_steps: int = 80
    hard_steps: int = 20
    learning_rate: float = 2e-4
    levels_rate: float = 0.1
    prior: str | None = "lloyd_max"
    temperature_start: float = 0.02
    temperature_end: float = 0.001
    entropy_weight: float = 0.1
    seeds: int = 1

    def __post_init__(self):
        known: dict[str, Any] = {"weights": WEIGHTS, "groups": GROUPS, "tune": METHODS, "bits": (1, 2, 3, 4)}
        for field, allowed in known.items():
            if unknown := [x for x in getattr(self, field) if x not in allowed]:
                raise ValueError(f"{field} holds {unknown}, not of {tuple(allowed)}")
        if self.tune_groups not in GROUPS:
            raise ValueError(f"tune_groups = {self.tune_groups!r}: it must be one of {tuple(GROUPS)}")
        least = {"test_images": 1, "batch": 1, "statistics_batches": 1, "seeds": 1, "soft_steps": 0, "hard_steps": 0}
        for field, bound in least.items():
            if getattr(self, field) < bound:
                raise ValueError(f"{field} = {getattr(self, field)}: it must be at least {bound}")
        if self.tune and not self.soft_steps + self.hard_steps:
            raise ValueError("soft_steps = hard_steps = 0: a fine-tune has at least one step; without any, --tune='()'")

    def tuning(self, method: str, k: int, seed: int) -> configs.Config:
        """The recipe of a fine-tune."""
        return configs.Config(
            method=method,
            k=k,
            groups=self.tune_groups,
            augment="crop_flip",
            batch=self.batch,
            soft_epochs=self.soft_steps,
            hard_epochs=self.hard_steps,
            seed=seed,
            **{name: getattr(self, name) for name in TUNING},
        )
