# ADE20K at 512x512, SegFormer-B0, 2 bits per tensor, first and last layer float, from
# the float run's weights. Not run here.
# python -m experiments.train --folder runs/ade20k_segformer_b0_w2 \
#     --config experiments/configs/ade20k_segformer_b0_w2.py
# About 6 hours on one H100: estimated, not measured.
# Expected: none published that we know.
import dataclasses

from experiments.configs.ade20k_segformer_b0_float import config as base

config = dataclasses.replace(
    base,
    k=4,
    float_run="runs/ade20k_segformer_b0_float",
    soft_epochs=50,
    hard_epochs=14,
    learning_rate=1e-4,
    levels_rate=0.1,
    temperature_end=1e-3,
    entropy_weight=0.0,
)
