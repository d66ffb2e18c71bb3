# ImageNet, DeiT-S, float. Not run here.
# python -m experiments.train --folder runs/imagenet_deit_s_float \
#     --config experiments/configs/imagenet_deit_s_float.py
# About 36 hours on one H100, estimated from 3,000 images/s, not measured;
# the input must keep up (experiments.benchmarks.input: about 290 images/s a core, measured).
# Expected: below the 79.8 % top-1 of arXiv 2012.12877, table 5: stochastic depth, CutMix, RandAugment, random erasing
# and repeated augmentation are left out here.
from experiments.config import Config

config = Config(
    dataset="imagenet2012",
    size=(224, 224),
    model="deit_s",
    width=384,
    compute="bfloat16",
    batch=1024,
    optimizer="adam",
    float_epochs=300,
    float_learning_rate=1e-3,
    weight_decay=0.05,
    warmup=0.017,
    clip=1.0,
    label_smoothing=0.1,
    mixup=0.8,
    soft_epochs=0,
    hard_epochs=0,
)
