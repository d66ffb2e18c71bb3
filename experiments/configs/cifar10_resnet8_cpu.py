"""CIFAR-10 at 16x16, ResNet-8, 2 bits per tensor: one epoch of each phase, to see the whole path on a CPU.

python -m experiments.train --config experiments/configs/cifar10_resnet8_cpu.py
"""

from experiments.config import Config, Variants

config = Variants(
    Config(
        dataset="cifar10",
        downscale=2,
        model="resnet8",
        width=16,
        augment="crop_flip",
        pad=2,
        batch=128,
        optimizer="sgd",
        float_epochs=1,
        float_learning_rate=0.05,
        weight_decay=1e-4,
    ),
    soft_epochs=1,
    hard_epochs=1,
    learning_rate=0.02,
    levels_rate=0.01,
    temperature_end=1e-3,
    entropy_weight=0.0,
)
