"""ImageNet, MobileNetV2 in float, and from it 2, 3 or 4 bits per tensor. Not run here.

python -m experiments.train --config experiments/configs/imagenet_mobilenetv2.py:method=float
python -m experiments.train --config experiments/configs/imagenet_mobilenetv2.py:bits=2       (or 3, or 4)

The first and last layer stay float. Hours on one H100, estimated, not measured: float about 13, from 4,000
images/s; few bits about 10, from a fifth fewer. The input must keep up (`benchmarks input`: about 290
images/s a core, measured).
Expected in float: 72.0 % top-1 (arXiv 1801.04381, table 4; this recipe is not theirs).
Expected at few bits: none published that we know.
"""

from experiments.config import Config, Variants

config = Variants(
    Config(
        dataset="imagenet2012",
        size=(224, 224),
        model="mobilenetv2",
        width=32,
        compute="bfloat16",
        batch=1024,
        optimizer="sgd",
        float_epochs=150,
        float_learning_rate=0.2,
        weight_decay=4e-5,
        warmup=0.03,
        label_smoothing=0.1,
    ),
    float_run="runs/imagenet_mobilenetv2_float",
    soft_epochs=70,
    hard_epochs=20,
    learning_rate=0.02,
    levels_rate=0.01,
    temperature_end=1e-3,
    entropy_weight=0.0,
)
