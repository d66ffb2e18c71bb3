# ImageNet, MobileNetV2, 2 bits per tensor, first and last layer float, from
# the float run's weights. Not run here.
# python -m experiments.train --folder runs/imagenet_mobilenetv2_w2 \
#     --config experiments/configs/imagenet_mobilenetv2_w2.py
# About 10 hours on one H100, estimated from a fifth fewer than 4,000 images/s, not measured;
# the input must keep up (experiments.benchmarks.input: about 290 images/s a core, measured).
# Expected: none published that we know.
import dataclasses

from experiments.configs.imagenet_mobilenetv2_float import config as base

config = dataclasses.replace(
    base,
    k=4,
    float_run="runs/imagenet_mobilenetv2_float",
    soft_epochs=70,
    hard_epochs=20,
    learning_rate=0.02,
    levels_rate=0.01,
    temperature_end=1e-3,
    entropy_weight=0.0,
)
