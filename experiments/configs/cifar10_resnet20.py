"""CIFAR-10, ResNet-20, 2 bits per tensor, first and last layer float. For an accelerator: not yet run to the end.

python -m experiments.train --config experiments/configs/cifar10_resnet20.py
"""

from experiments.config import Config, Variants

config = Variants(
    Config(
        dataset="cifar10",
        model="resnet20",
        width=16,
        augment="crop_flip",
        pad=4,
        batch=128,
        optimizer="sgd",
        float_epochs=200,
        float_learning_rate=0.1,
        weight_decay=1e-4,
    ),
    soft_epochs=150,
    hard_epochs=50,
    learning_rate=0.05,
    levels_rate=0.01,
    temperature_end=1e-3,
    entropy_weight=0.0,
)
