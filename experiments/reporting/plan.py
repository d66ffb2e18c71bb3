"""On paper: memory and time of a 2-bit training step on accelerators that this project has not had.

    python -m experiments.plan        # prints the table of experiments/README.md

Nothing here was measured on those devices. For each weight a device keeps, fully sharded,

  float training   16 bytes: weight, gradient and Adam's two moments in float32
  the method       5 more between steps' ends: the soft weight (float32) and the code (uint8); levels and potentials are
                   k numbers a group

and gathers each layer's soft weights in bfloat16 as it comes. Activations of a transformer layer take 34 bytes a token
and unit of width (Korthikanti et al., 2022, arXiv 2205.05198, without the attention matrix), of ResNet-50 22 million
numbers an image (11 before and 11 after normalisation) in bfloat16. The network's time is 6 operations a weight and
token (ResNet-50: 3 x 8.2 GFLOP an image) at 40 % of the device's peak. The method's time is what this project measured
on one CPU core, 28 ns a weight at 2 bits (two Newton passes, readout, two backward passes; half of the 57 ms of 10^6
weights at k = 8), which at the core's 50 GFLOP/s of vector arithmetic is 1,400 operations; they are taken at 30 % of
the accelerator's vector (not matrix) arithmetic, or at its memory's rate for 60 bytes a weight, whichever is slower.
"""

import dataclasses

from experiments.reporting.rows import markdown

OPERATIONS, BYTES = 1400, 60  # of the method, a weight and step at 2 bits
STATE = 16 + 5  # bytes a weight
MATRIX_SHARE, VECTOR_SHARE = 0.4, 0.3


@dataclasses.dataclass(frozen=True)
class Device:
    """Peak rates of one device: bfloat16 matrix and float32 vector operations and bytes a second; bytes of memory.

    Vector rates of TPUs are not published; they are assumed as 1/50 of the matrix rate.
    """

    name: str
    count: int
    matrix: float
    vector: float
    memory_rate: float
    memory: float


@dataclasses.dataclass(frozen=True)
class Network:
    """A network and the batch of a step: weights, operations of a step, bytes of activations kept for it."""

    name: str
    weights: float
    operations: float
    activations: float


def transformer(name: str, weights: float, layers: int, width: int, tokens: float) -> Network:
    """6 operations a weight and token; with rematerialisation only each layer's input stays, and one layer is whole."""
    return Network(name, weights, 6 * weights * tokens, tokens * width * (2 * layers + 34))


DEVICES = [
    Device("v5e-8", 8, 197e12, 197e12 / 50, 819e9, 16e9),
    Device("v5p-128 (64 chips)", 64, 459e12, 459e12 / 50, 2765e9, 95e9),
    Device("8 x H100", 8, 989e12, 67e12, 3350e9, 80e9),
]
NETWORKS = [
    Network("ResNet-50, 1,024 images", 25.6e6, 3 * 8.2e9 * 1024, 1024 * 22e6 * 2),
    transformer("ViT-L/16, 1,024 images", 304e6, 24, 1024, 1024 * 197),
    transformer("7B, 256 x 4,096 tokens", 6.7e9, 32, 4096, 256 * 4096),
]


def seconds(network: Network, device: Device) -> tuple[float, float]:
    """(the network's, the method's) seconds of a step."""
    own = network.weights / device.count
    method = max(OPERATIONS * own / (VECTOR_SHARE * device.vector), BYTES * own / device.memory_rate)
    return network.operations / (MATRIX_SHARE * device.matrix * device.count), method


def table() -> str:
    """The plan as Markdown."""
    rows = []
    for network in NETWORKS:
        for device in DEVICES:
            plain, method = seconds(network, device)
            state = STATE * network.weights / device.count
            kept = network.activations / device.count
            rows.append(
                [
                    network.name,
                    device.name,
                    f"{state / 1e9:.2f}",
                    f"{kept / 1e9:.1f}",
                    f"{device.memory / 1e9:.0f}",
                    f"{1000 * plain:,.0f}",
                    f"{1000 * method:.2f}",
                    f"{100 * method / plain:.2f}",
                ]
            )
    columns = [
        "network and batch",
        "devices",
        "state, GB",
        "activations, GB",
        "memory, GB",
        "network, ms",
        "method, ms",
        "method, % of it",
    ]
    return markdown(columns, rows)


if __name__ == "__main__":
    print(table())
