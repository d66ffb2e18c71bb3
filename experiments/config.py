"""A run's configuration: one frozen data class, one Python file a recipe, any field from the command line."""

import ast
import dataclasses
import runpy
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar, get_args, get_origin

from mecq_jax import quantizers
from mecq_jax.granularity import PerBlock, PerChannel, PerTensor
from mecq_jax.params import Rule, default_rules
from mecq_jax.quantizers import Quantizer
from mecq_jax.transport import Newton

T = TypeVar("T")
CONFIGS = Path(__file__).resolve().parent / "configs"
# 'float' quantizes nothing and trains on under the recipe: what the others are measured against.
METHODS = (*quantizers.QUANTIZERS, "float")
# The method and its ablations, which take its fields.
MEC_METHODS = ("mec", "mec_hard_forward", "softmax")
# Those whose hard epochs freeze the codes: soft to the end of the soft phase, with levels that train on.
FREEZING = ("mec", "softmax")
COMPUTE = ("float32", "bfloat16")
TASKS = ("classification", "segmentation", "language")
GROUPS = ("tensor", "channel", "block")
_ONE_OF: dict[str, tuple[str, ...]] = {
    "task": TASKS,
    "method": METHODS,
    "groups": GROUPS,
    "optimizer": ("adam", "sgd"),
    "freeze": ("own", "all"),
    "compute": COMPUTE,
    "on_nan": ("stop", "roll_back"),
}
_AT_LEAST = {
    **dict.fromkeys(("batch", "width", "downscale", "newton_steps", "context", "checkpoint_steps"), 1),
    **dict.fromkeys(("float_epochs", "soft_epochs", "hard_epochs", "roll_backs", "mixup", "workers"), 0),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Everything that defines a run.

    Task: `task` (tasks.MODULES): 'classification' or 'segmentation' of images, or 'language', the next token of a text.
    Data: `dataset` (see data.CLASSES; a task has its own), `data_dir`, `train_size` (None: all), `epoch_size`: examples
    in an epoch, which draws its own of the whole (None: all), `downscale` (mean over d x d pixels), `augment`
    (augment.KINDS, scaling.KINDS) with `pad` pixels; `size`: height and width to which images are cut or scaled (None:
    as they are), `test_size`: of 'segmentation's test images, where they are larger and seen by windows of `size`;
    `context`: tokens that a language model sees; `label_smoothing`, and `mixup`'s alpha (0: none); `workers`: processes
    that read what does not fit in memory (0: threads).
    Model: `model` (MODELS of the task's networks), `width`, `compute` ('float32', or 'bfloat16' for the network's
    arithmetic: parameters, their optimizer, batch statistics, quantizers and the loss stay in float32).
    Quantizer: `method` ('float': none), `k` levels, `groups` ('tensor', 'channel', or 'block' of `block` weights),
    `gradient`, `codebook`, `prior` (None: uniform, 'lloyd_max' or 'learned'), `balance`, `newton_steps` a step.
    Recipe: epochs of each phase, `freeze` ('own': the hard epochs freeze the codes of the methods in `FREEZING`, and
    others train on as they did; 'all': of all), `batch`, `optimizer` ('adam' or 'sgd' with momentum 0.9), peak learning
    rates (`levels_rate`: of levels and steps, as a share of the weights'), cosine to 0 over each of float and quantized
    training (where the hard epochs freeze codes, one for each phase, the last from `hard_rate` of the peak),
    `weight_decay` on float weights, `warmup` (share of the steps in which the rate rises), `clip` (bound on the global
    norm of the gradients, None: none), epsilon from `temperature_start` to `temperature_end` (relative to var(w)) over
    `temperature_hold` of the soft phase, `entropy_weight` lambda (risen linearly over the soft phase).
    `float_run`: a finished run's folder to take float weights from, instead of training them; `encoder_run`: one of a
    classifier, whose float weights a network of 'segmentation' with that encoder starts from.
    Safety: a checkpoint is written after every epoch, every `checkpoint_steps` steps and after `checkpoint_seconds`
    (None: not so); at a loss that is not finite a run stops (`on_nan` 'stop') or goes back to its last checkpoint and
    on from there in another order ('roll_back', at most `roll_backs` times).
    """

    task: str = "classification"
    dataset: str = "digits"
    data_dir: str | None = None
    train_size: int | None = None
    epoch_size: int | None = None
    downscale: int = 1
    augment: str = "none"
    pad: int = 4
    size: tuple[int, int] | None = None
    test_size: tuple[int, int] | None = None
    context: int = 128
    label_smoothing: float = 0.0
    mixup: float = 0.0
    workers: int = 0
    model: str = "cnn"
    width: int = 16
    compute: str = "float32"
    method: str = "mec"
    k: int = 4
    groups: str = "tensor"
    block: int = 64
    gradient: str = "mirror"
    codebook: str = "lloyd_max"
    prior: str | None = None
    balance: float = 1.0
    newton_steps: int = 2
    float_run: str | None = None
    encoder_run: str | None = None
    float_epochs: int = 10
    soft_epochs: int = 8
    hard_epochs: int = 2
    batch: int = 128
    optimizer: str = "adam"
    float_learning_rate: float = 2e-3
    learning_rate: float = 2e-3
    hard_rate: float = 1.0
    freeze: str = "own"
    levels_rate: float = 0.1
    weight_decay: float = 0.0
    warmup: float = 0.0
    clip: float | None = None
    temperature_start: float = 0.3
    temperature_end: float = 0.01
    temperature_hold: float = 0.9
    entropy_weight: float = 0.3
    seed: int = 0
    checkpoint_steps: int | None = None
    checkpoint_seconds: float | None = 600.0
    on_nan: str = "stop"
    roll_backs: int = 3

    def __post_init__(self):
        for name, allowed in _ONE_OF.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} = {getattr(self, name)!r} is not one of {allowed}")
        for name, least in {**_AT_LEAST, "epoch_size": self.batch}.items():
            if (value := getattr(self, name)) is not None and value < least:
                raise ValueError(f"{name} = {value}: it must be at least {least}")
        for name in ("warmup", "label_smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)}: it must be a share in [0, 1)")
        if self.clip is not None and self.clip <= 0:
            raise ValueError(f"clip = {self.clip}: it must be above 0, or None")
        for name in ("size", "test_size"):
            if (value := getattr(self, name)) is not None:
                if min(value) < 1:
                    raise ValueError(f"{name} = {value}: height and width must be at least 1")
                object.__setattr__(self, name, tuple(value))  # JSON gives a list back
        if self.method != "float":
            self.quantizer()

    @property
    def freezes(self) -> bool:
        """Whether the hard epochs freeze the codes."""
        return self.freeze == "all" or self.method in FREEZING

    def rules(self, order: Mapping[str, Any]) -> list[Rule]:
        """What to quantize of a model's parameters by path, in the order in which it builds them."""
        return [Rule(".*", None)] if self.method == "float" else default_rules(self.quantizer(), order)

    def quantizer(self) -> Quantizer:
        """The quantizer that the fields describe."""
        granularity = {"tensor": PerTensor(), "channel": PerChannel(), "block": PerBlock(self.block)}[self.groups]
        options = {"k": self.k, "granularity": granularity}
        if self.method in MEC_METHODS:
            solver = Newton(max_iterations=self.newton_steps, tolerance=None)
            options |= {"codebook": self.codebook, "solver": solver, "gradient": self.gradient, "prior": self.prior}
            if self.method != "softmax":  # which is balance 0
                options["balance"] = self.balance
        return quantizers.get_quantizer(self.method, **options)


class Variants:
    """What a file of experiments/configs/ trains: a float network, and with `fields` changed one at few bits.

    After the file's name, `:method=float` takes the float network alone; `:bits=2` the one at 2 bits, which is what a
    file without variant is; `:bits=3,method=lsq` that by another method, of which 'float' is the float network trained
    on under the recipe of few bits.
    """

    ALLOWED: ClassVar = {"bits": ("1", "2", "3", "4"), "method": METHODS}

    def __init__(self, start: Config, **fields: Any):
        self.start, self.fields = dataclasses.replace(start, soft_epochs=0, hard_epochs=0), fields

    def of(self, variant: str) -> tuple[str, Config]:
        """(name, config) of 'key=value,...' or of nothing."""
        chosen: dict[str, str] = {}
        for part in filter(None, variant.split(",")):
            key, _, value = part.partition("=")
            if key not in self.ALLOWED or key in chosen:
                raise ValueError(
                    f"variant {part!r}: write bits=N, method=NAME or both; any field of a config is "
                    "changed by an argument of its own, --field=value"
                )
            if value not in self.ALLOWED[key]:
                raise ValueError(f"variant {part!r}: {key} must be one of {', '.join(self.ALLOWED[key])}")
            chosen[key] = value
        if chosen == {"method": "float"}:
            return "float", self.start
        bits, method = chosen.get("bits", "2"), chosen.get("method", "mec")
        name = f"w{bits}" if method == "mec" else f"w{bits}_{method}"
        return name, dataclasses.replace(self.start, **self.fields, k=2 ** int(bits), method=method)


def load(path: str | Path) -> Config:
    """The config of a file, or of one of its variants: 'FILE.py:key=value,...' (see `Variants`)."""
    return named(path)[1]


def named(path: str | Path) -> tuple[str, Config]:
    """(a run's name, its config): NAME of NAME.py where that has no variants, NAME_float, NAME_w2, NAME_w2_lsq, ..."""
    start, colon, variant = str(path).partition(".py:")
    file = Path(start + ".py") if colon else Path(path)
    found = load_object(file, "config", Config, Variants)
    if isinstance(found, Variants):
        name, config = found.of(variant)
        return f"{file.stem}_{name}", config
    assert isinstance(found, Config)
    if colon:
        raise ValueError(f"variant {variant!r}: {file} has none; a field is changed by --field=value")
    return file.stem, found


def load_object(path: str | Path, name: str, *kinds: type[T]) -> T:
    """The object `name`, of one of the classes `kinds`, that a file of experiments/configs/ defines."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no {name} file {path}; the ones that come along are in experiments/configs/")
    found = runpy.run_path(str(path)).get(name)
    if not isinstance(found, kinds):
        classes = " or ".join(f"{kind.__name__}(...)" for kind in kinds)
        raise ValueError(f"{path} must define {name} = {classes}, it defines {found!r}")
    return found


def override(config: T, arguments: Sequence[str]) -> T:
    """A data class with fields replaced by '--field=value' arguments; an unknown field or a wrong type is refused."""
    fields = {f.name: f for f in dataclasses.fields(config)}  # type: ignore[arg-type]
    changes = {}
    for argument in arguments:
        name, equals, text = argument.removeprefix("--").partition("=")
        if not argument.startswith("--") or not equals:
            raise ValueError(f"argument {argument!r}: write --field=value")
        if name not in fields:
            raise ValueError(f"unknown field {name!r}; the fields are {', '.join(fields)}")
        changes[name] = _parse(name, fields[name].type, text)
    return dataclasses.replace(config, **changes)  # type: ignore[type-var]


def _parse(name: str, kind: Any, text: str) -> Any:
    """`text` as one of the types of a field; where that is a tuple of any length, a single value is one of it."""
    kinds = get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    if types.NoneType in kinds and text == "None":
        return None
    if str in kinds:
        return text
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = text
    for one in kinds:
        if one is int and type(value) is int:
            return value
        if one is float and type(value) in (int, float):
            return float(value)
        if get_origin(one) is tuple:
            several = tuple(value) if isinstance(value, tuple | list) else (value,)
            each, *rest = get_args(one)
            fits = all(isinstance(x, (int, float) if each is float else each) for x in several)
            if fits and (rest == [...] or len(several) == 1 + len(rest)):
                return several
    names = ["None" if k is types.NoneType else getattr(k, "__name__", k) if not get_origin(k) else k for k in kinds]
    raise ValueError(f"{name} = {text!r} is not of type {' or '.join(map(str, names))}")
