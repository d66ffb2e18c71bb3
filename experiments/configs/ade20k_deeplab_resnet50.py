"""ADE20K at 512x512, DeepLab v3 on ResNet-50 in float, and from it 2, 3 or 4 bits per tensor. Not run here.

python -m experiments.train --config experiments/configs/ade20k_deeplab_resnet50.py:method=float
python -m experiments.train --config experiments/configs/ade20k_deeplab_resnet50.py:bits=2       (or 3, or 4)

The first and last layer stay float. Hours on one H100, estimated, not measured: float about 20, few bits about 12.
Expected: none published that we know for training from scratch, nor at few bits.
With --encoder_run=runs/imagenet_resnet50_float the float run's encoder starts from that run's weights, as published
ones do.
"""

from experiments.config import Config, Variants

config = Variants(
    Config(
        task="segmentation",
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
    ),
    float_run="runs/ade20k_deeplab_resnet50_float",
    soft_epochs=50,
    hard_epochs=14,
    learning_rate=2e-3,
    levels_rate=0.01,
    temperature_end=1e-3,
    entropy_weight=0.0,
)
