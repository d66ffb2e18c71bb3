"""CIFAR-100, ResNet-20 in float, and from it 2, 3 or 4 bits per tensor. Not run here.

python -m experiments.train --config experiments/configs/cifar100_resnet20.py:method=float
python -m experiments.train --config experiments/configs/cifar100_resnet20.py:bits=2       (or 3, or 4)

The first and last layer stay float. Half an hour on one H100 for each, about: estimated, not measured.
Expected: none published that we know with this recipe, in float or at few bits.
"""

from experiments.config import Config, Variants

config = Variants(
    Config(
        dataset="cifar100",
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
    float_run="runs/cifar100_resnet20_float",
    soft_epochs=150,
    hard_epochs=50,
    learning_rate=0.05,
    levels_rate=0.01,
    temperature_end=1e-3,
    entropy_weight=0.0,
)
