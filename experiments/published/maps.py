"""Name maps of published checkpoints: how PyTorch, torchvision, Keras and transformers name what our networks have."""

from collections.abc import Iterator, Sequence

from experiments.models.imagenet import MOBILENET_V2
from experiments.published.name_map import Rename


def norm_rules(ours: str, theirs: str) -> tuple[Rename, ...]:
    """A batch norm of ours from PyTorch's: scale, bias, and running mean and variance."""
    return (
        Rename(f"{ours}/scale", f"{theirs}.weight"),
        Rename(f"{ours}/bias", f"{theirs}.bias"),
        Rename(f"{ours}/(mean|var)", rf"{theirs}.running_\g<{ours.count('(') + 1}>"),
    )


_BLOCK = r"layer(\d)/(\d+)"
TORCH_RESNET = (
    Rename("conv1/kernel", "conv1.weight", "conv"),
    *norm_rules("bn1", "bn1"),
    Rename(rf"{_BLOCK}/conv(\d)/kernel", r"layer\1.\2.conv\3.weight", "conv"),
    *norm_rules(rf"{_BLOCK}/bn(\d)", r"layer\1.\2.bn\3"),
    Rename(rf"{_BLOCK}/shortcut/kernel", r"layer\1.\2.shortcut.0.weight", "conv"),
    *norm_rules(rf"{_BLOCK}/shortcut_bn", r"layer\1.\2.shortcut.1"),
    Rename("linear/kernel", "linear.weight", "linear"),
    Rename("linear/bias", "linear.bias"),
)
TORCH_IGNORE = (r".*num_batches_tracked",)


def _torch_conv(ours: str, norm: str, conv_theirs: str, norm_theirs: str) -> Iterator[Rename]:
    yield Rename(f"{ours}/kernel", f"{conv_theirs}.weight", "conv")
    yield from norm_rules(norm, norm_theirs)


def _torch_dense(ours: str, theirs: str) -> Iterator[Rename]:
    yield Rename(f"{ours}/kernel", f"{theirs}.weight", "linear")
    yield Rename(f"{ours}/bias", f"{theirs}.bias")


def torchvision_resnet(blocks: Sequence[int], convolutions: int) -> Iterator[Rename]:
    """`imagenet_models.ResNet` from torchvision's; 2 convolutions a block, or 3 in bottlenecks."""
    yield from _torch_conv("stem", "stem_norm", "conv1", "bn1")
    names = [f"layer{stage + 1}.{i}" for stage, count in enumerate(blocks) for i in range(count)]
    for n, theirs in enumerate(names):
        for j in range(convolutions):
            own = (f"blocks/{n}/convs/{j}", f"blocks/{n}/norms/{j}")
            yield from _torch_conv(*own, f"{theirs}.conv{j + 1}", f"{theirs}.bn{j + 1}")
        own = (f"blocks/{n}/shortcut", f"blocks/{n}/shortcut_norm")
        yield from _torch_conv(*own, f"{theirs}.downsample.0", f"{theirs}.downsample.1")
    yield from _torch_dense("head", "fc")


def torchvision_mobilenet_v2() -> Iterator[Rename]:
    """`imagenet_models.MobileNetV2` from torchvision's."""
    yield from _torch_conv("stem", "stem_norm", "features.0.0", "features.0.1")
    expansions = [expansion for expansion, _, count, _ in MOBILENET_V2 for _ in range(count)]
    for n, expansion in enumerate(expansions):
        inner = 1 if expansion == 1 else 2  # convolutions with an activation, each with its norm in a module
        for j in range(inner + 1):
            theirs = f"features.{n + 1}.conv.{j}"
            pair = (f"{theirs}.0", f"{theirs}.1") if j < inner else (theirs, f"features.{n + 1}.conv.{j + 1}")
            yield from _torch_conv(f"blocks/{n}/convs/{j}", f"blocks/{n}/norms/{j}", *pair)
    end = f"features.{len(expansions) + 1}"
    yield from _torch_conv("last", "last_norm", f"{end}.0", f"{end}.1")
    yield from _torch_dense("head", "classifier.1")


def _keras_layer(ours: str, theirs: str, layout: str = "same") -> Iterator[Rename]:
    yield Rename(f"{ours}/kernel", f"{theirs}/kernel", layout)
    yield Rename(f"{ours}/bias", f"{theirs}/bias")


def _keras_norm(ours: str, theirs: str) -> Iterator[Rename]:
    yield Rename(f"{ours}/scale", f"{theirs}/gamma")
    yield Rename(f"{ours}/bias", f"{theirs}/beta")
    yield Rename(f"{ours}/mean", f"{theirs}/moving_mean")
    yield Rename(f"{ours}/var", f"{theirs}/moving_variance")


def keras_resnet8() -> Iterator[Rename]:
    """`foreign_models.KerasResNet` from MLPerf Tiny's, whose layers are numbered as they were made."""

    def numbered(kind: str, number: int) -> str:
        return f"{kind}_{number}" if number else kind

    yield from _keras_layer("stem", "conv2d")
    yield from _keras_norm("stem_norm", "batch_normalization")
    for n, first in enumerate((1, 3, 6)):
        for j in range(2):
            yield from _keras_layer(f"blocks/{n}/convs/{j}", numbered("conv2d", first + j))
            yield from _keras_norm(f"blocks/{n}/norms/{j}", numbered("batch_normalization", 2 * n + 1 + j))
        yield from _keras_layer(f"blocks/{n}/shortcut", numbered("conv2d", first + 2))
    yield from _keras_layer("head", "dense")


def keras_resnet50() -> Iterator[Rename]:
    """`foreign_models.KerasResNet` from keras-applications' ResNet50 (its layers' first names), which sees blue, green,
    red."""
    yield from _keras_layer("stem", "conv1", "reversed_inputs")
    yield from _keras_norm("stem_norm", "bn_conv1")
    names = [
        f"{stage}{letter}"
        for stage, letters in zip((2, 3, 4, 5), ("abc", "abcd", "abcdef", "abc"), strict=True)
        for letter in letters
    ]
    for n, theirs in enumerate(names):
        for j, branch in enumerate(("2a", "2b", "2c")):
            yield from _keras_layer(f"blocks/{n}/convs/{j}", f"res{theirs}_branch{branch}")
            yield from _keras_norm(f"blocks/{n}/norms/{j}", f"bn{theirs}_branch{branch}")
        yield from _keras_layer(f"blocks/{n}/shortcut", f"res{theirs}_branch1")
        yield from _keras_norm(f"blocks/{n}/shortcut_norm", f"bn{theirs}_branch1")
    yield from _keras_layer("head", "fc1000")


def _torch_layer_norm(ours: str, theirs: str) -> Iterator[Rename]:
    yield Rename(f"{ours}/scale", f"{theirs}.weight")
    yield Rename(f"{ours}/bias", f"{theirs}.bias")


def dinov2() -> Iterator[Rename]:
    """`foreign_transformers.DinoV2` from facebookresearch/dinov2's."""
    yield Rename("first/kernel", "patch_embed.proj.weight", "conv")
    yield Rename("first/bias", "patch_embed.proj.bias")
    for ours, theirs in (("token", "cls_token"), ("registers", "register_tokens"), ("positions", "pos_embed")):
        yield Rename(ours, theirs)
    for ours, theirs in (("qkv", "attn.qkv"), ("out", "attn.proj"), ("up", "mlp.fc1"), ("down", "mlp.fc2")):
        yield from _torch_dense(rf"blocks/(\d+)/{ours}", rf"blocks.\1.{theirs}")
    for number in (1, 2):
        yield from _torch_layer_norm(rf"blocks/(\d+)/norm{number}", rf"blocks.\1.norm{number}")
        yield Rename(rf"blocks/(\d+)/scale{number}", rf"blocks.\1.ls{number}.gamma")
    yield from _torch_layer_norm("norm", "norm")


def sentence_bert() -> Iterator[Rename]:
    """`foreign_transformers.SentenceBert` from transformers' BertModel."""
    for ours, theirs in (("words", "word"), ("positions", "position"), ("kinds", "token_type")):
        yield Rename(f"{ours}/embedding", f"embeddings.{theirs}_embeddings.weight")
    yield from _torch_layer_norm("norm", "embeddings.LayerNorm")
    layer = r"encoder.layer.\1"
    dense = {
        **{part: f"attention.self.{part}" for part in ("query", "key", "value")},
        "out": "attention.output.dense",
        "up": "intermediate.dense",
        "down": "output.dense",
    }
    for ours, theirs in dense.items():
        yield from _torch_dense(rf"blocks/(\d+)/{ours}", f"{layer}.{theirs}")
    for number, theirs in ((1, "attention.output"), (2, "output")):
        yield from _torch_layer_norm(rf"blocks/(\d+)/norm{number}", f"{layer}.{theirs}.LayerNorm")
