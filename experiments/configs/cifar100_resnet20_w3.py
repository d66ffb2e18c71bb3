# CIFAR-100, ResNet-20, 3 bits per tensor, first and last layer float, from
# the float run's weights. Not run here.
# python -m experiments.train --folder runs/cifar100_resnet20_w3 \
#     --config experiments/configs/cifar100_resnet20_w3.py
# About half an hour on one H100: estimated, not measured.
# Expected: none published that we know.
import dataclasses

from experiments.configs.cifar100_resnet20_float import config as base

config = dataclasses.replace(
    base,
    k=8,
    float_run="runs/cifar100_resnet20_float",
    soft_epochs=150,
    hard_epochs=50,
    learning_rate=0.05,
    levels_rate=0.01,
    temperature_end=1e-3,
    entropy_weight=0.0,
)
