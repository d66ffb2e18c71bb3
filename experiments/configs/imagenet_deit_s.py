"""ImageNet, DeiT-S in float, and from it 2, 3 or 4 bits per tensor. Not run here.

python -m experiments.train --config experiments/configs/imagenet_deit_s.py:method=float
python -m experiments.train --config experiments/configs/imagenet_deit_s.py:bits=2       (or 3, or 4)

The first and last layer stay float. Hours on one H100, estimated, not measured: float about 36, from 3,000
images/s; few bits about 19, from a fifth fewer. The input must keep up (`benchmarks input`: about 290
images/s a core, measured).
Expected in float: below the 79.8 % top-1 of arXiv 2012.12877, table 5: stochastic depth, CutMix, RandAugment, random
erasing and repeated augmentation are left out here.
Expected at few bits: none published that we know.
"""

from experiments.config import Config, Variants

config = Variants(
    Config(
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
    ),
    float_run="runs/imagenet_deit_s_float",
    soft_epochs=100,
    hard_epochs=30,
    learning_rate=2e-4,
    levels_rate=0.1,
    temperature_end=1e-3,
    entropy_weight=0.0,
)
