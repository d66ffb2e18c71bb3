# ADE20K at 512x512, DeepLab v3 on ResNet-50, 4 bits per tensor, first and last layer float, from
# the float run's weights. Not run here.
# python -m experiments.train --folder runs/ade20k_deeplab_resnet50_w4 \
#     --config experiments/configs/ade20k_deeplab_resnet50_w4.py
# About 12 hours on one H100: estimated, not measured.
# Expected: none published that we know.
import dataclasses

from experiments.configs.ade20k_deeplab_resnet50_float import config as base

config = dataclasses.replace(
    base,
    k=16,
    float_run="runs/ade20k_deeplab_resnet50_float",
    soft_epochs=50,
    hard_epochs=14,
    learning_rate=2e-3,
    levels_rate=0.01,
    temperature_end=1e-3,
    entropy_weight=0.0,
)
