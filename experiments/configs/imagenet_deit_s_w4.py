# ImageNet, DeiT-S, 4 bits per tensor, first and last layer float, from
# the float run's weights. Not run here.
# python -m experiments.train --folder runs/imagenet_deit_s_w4 \
#     --config experiments/configs/imagenet_deit_s_w4.py
# About 19 hours on one H100, estimated from a fifth fewer than 3,000 images/s, not measured;
# the input must keep up (experiments.benchmarks.input: about 290 images/s a core, measured).
# Expected: none published that we know.
import dataclasses

from experiments.configs.imagenet_deit_s_float import config as base

config = dataclasses.replace(
    base,
    k=16,
    float_run="runs/imagenet_deit_s_float",
    soft_epochs=100,
    hard_epochs=30,
    learning_rate=2e-4,
    levels_rate=0.1,
    temperature_end=1e-3,
    entropy_weight=0.0,
)
