# ADE20K at 512x512, SegFormer-B0, float. Not run here.
# python -m experiments.train --folder runs/ade20k_segformer_b0_float \
#     --config experiments/configs/ade20k_segformer_b0_float.py
# About 10 hours on one H100: estimated, not measured.
# Expected: below the 37.4 % mIoU of arXiv 2105.15203 (single scale), whose encoder starts from ImageNet's weights: here
# nothing pretrained is loaded.
from experiments.config import Config

config = Config(
    task="segment",
    dataset="ade20k",
    size=(512, 512),
    model="segformer_b0",
    width=32,
    compute="bfloat16",
    batch=16,
    optimizer="adam",
    float_epochs=127,
    float_learning_rate=5e-4,
    weight_decay=0.01,
    warmup=0.01,
    clip=1.0,
    soft_epochs=0,
    hard_epochs=0,
)
