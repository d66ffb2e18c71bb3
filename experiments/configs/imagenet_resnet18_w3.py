# ImageNet, ResNet-18, 3 bits per tensor, first and last layer float, from
# the float run's weights. Not run here.
# python -m experiments.train --folder runs/imagenet_resnet18_w3 \
#     --config experiments/configs/imagenet_resnet18_w3.py
# About 6 hours on one H100, estimated from a fifth fewer than 6,000 images/s, not measured;
# the input must keep up (experiments.benchmarks.input: about 290 images/s a core, measured).
# Expected: none published for weights alone that we know. LSQ with weights and activations at 3 bits: 70.2 %
# (arXiv 1902.08153, table 1; a pre-activation ResNet-18 of 70.5 % in float).
import dataclasses

from experiments.configs.imagenet_resnet18_float import config as base

config = dataclasses.replace(
    base,
    k=8,
    float_run="runs/imagenet_resnet18_float",
    soft_epochs=70,
    hard_epochs=20,
    learning_rate=0.04,
    levels_rate=0.01,
    temperature_end=1e-3,
    entropy_weight=0.0,
)
