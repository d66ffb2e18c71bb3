"""What each method of the arena changes in the common config, and the one knob of its own that tuning may turn.

Every method has the same budget: the common learning rates times two values of its knob.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

Numbers = Mapping[str, float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Method:
    """fields: changes to the common config; knob: two settings of the numbers (`team.TRACED`) that tuning tries;
    package: where the rounding is another package's (see `qwix_task`); least: the fewest levels that it can do."""

    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    knob: tuple[Numbers, Numbers]
    package: str | None = None
    least: int = 2


LEVELS = ({"levels_rate": 0.1}, {"levels_rate": 1.0})
IMPLICIT = {"gradient": "implicit"}
DECAY = ({"weight_decay": 1e-4}, {"weight_decay": 1e-2})


def _until(start: float, *ends: float) -> tuple[Numbers, Numbers]:
    """A temperature that falls from `start` to one of two ends."""
    first, second = ({"temperature_start": start, "temperature_end": end} for end in ends)
    return first, second


def _constant(*values: float) -> tuple[Numbers, Numbers]:
    first, second = ({"temperature_start": value, "temperature_end": value} for value in values)
    return first, second


# The float network trained on for as long as the methods train.
CONTINUED = Method(knob=DECAY)

METHODS: dict[str, Method] = {
    "mec": Method(fields={"method": "mec"}, knob=_until(0.3, 1e-2, 1e-3)),
    "mec_learned": Method(fields={"method": "mec", "prior": "learned"}, knob=_until(0.3, 1e-2, 1e-3)),
    "mec_implicit": Method(fields={"method": "mec", **IMPLICIT}, knob=_until(0.3, 3e-2, 1e-2)),
    "mec_hard_forward": Method(fields={"method": "mec_hard_forward", **IMPLICIT}, knob=_constant(0.3, 0.03)),
    "softmax": Method(fields={"method": "softmax", **IMPLICIT}, knob=_until(0.3, 1e-1, 1e-2)),
    "ste": Method(fields={"method": "ste"}, knob=DECAY),
    "dorefa": Method(fields={"method": "dorefa"}, knob=DECAY),
    "lsq": Method(fields={"method": "lsq"}, knob=LEVELS),
    # Not as published: the method's hard phase given to baselines that round, to tell its share of a gain.
    "lsq_frozen": Method(fields={"method": "lsq", "freeze": "all"}, knob=LEVELS),
    "balanced_frozen": Method(fields={"method": "balanced", "freeze": "all"}, knob=LEVELS),
    "apot": Method(fields={"method": "apot"}, knob=LEVELS),
    "ewgs": Method(fields={"method": "ewgs"}, knob=LEVELS),
    "balanced": Method(fields={"method": "balanced"}, knob=LEVELS),
    "parq": Method(fields={"method": "parq"}, knob=_until(1.0, 1e-2, 1e-4)),
    # The logits are trained in the weights' place, and so at their rate.
    "slb": Method(fields={"method": "slb", "levels_rate": 1.0}, knob=_until(1.0, 0.1, 0.01)),
    # int1 would be 0 alone.
    "qwix": Method(fields={"method": "ste"}, knob=DECAY, package="qwix", least=4),
    "dkm": Method(fields={"method": "dkm"}, knob=_constant(1e-2, 1e-3)),
}
