"""ADE20K at 512x512, SegFormer-B0 in float, and from it 2, 3 or 4 bits per tensor. Not run here.

python -m experiments.train --config experiments/configs/ade20k_segformer_b0.py:method=float
python -m experiments.train --config experiments/configs/ade20k_segformer_b0.py:bits=2       (or 3, or 4)

The first and last layer stay float. Hours on one H100, estimated, not measured: float about 10, few bits about 6.
Expected in float: below the 37.4 % mIoU of arXiv 2105.15203 (single scale), whose encoder starts from ImageNet's
weights: here nothing pretrained is loaded. At few bits: none published that we know.
"""

from experiments.config import Config, Variants

config = Variants(
    Config(
        task="segmentation",
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
    ),
    float_run="runs/ade20k_segformer_b0_float",
    soft_epochs=50,
    hard_epochs=14,
    learning_rate=1e-4,
    levels_rate=0.1,
    temperature_end=1e-3,
    entropy_weight=0.0,
)
