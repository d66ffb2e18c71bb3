# ADE20K at 512x512, DeepLab v3 on ResNet-50, float. Not run here.
# python -m experiments.train --folder runs/ade20k_deeplab_resnet50_float \
#     --config experiments/configs/ade20k_deeplab_resnet50_float.py
# About 20 hours on one H100: estimated, not measured.
# Expected: none published that we know for training from scratch.
# With --encoder_run=runs/imagenet_resnet50_float the encoder starts from that run's weights, as published ones do.
from experiments.config import Config

config = Config(
    task="segment",
    dataset="ade20k",
    size=(512, 512),
    model="resnet50_deeplab",
    width=64,
    compute="bfloat16",
    batch=16,
    optimizer="sgd",
    float_epochs=127,
    float_learning_rate=0.01,
    weight_decay=5e-4,
    warmup=0.01,
    soft_epochs=0,
    hard_epochs=0,
)
