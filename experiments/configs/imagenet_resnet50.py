"""ImageNet, ResNet-50 in float, and from it 2, 3 or 4 bits per tensor. Not run here.

python -m experiments.train --config experiments/configs/imagenet_resnet50.py:method=float
python -m experiments.train --config experiments/configs/imagenet_resnet50.py:bits=2       (or 3, or 4)

The first and last layer stay float. Hours on one H100, estimated, not measured: float about 11, from 3,000
images/s; few bits about 13, from a fifth fewer. The input must keep up (`benchmarks input`: about 290
images/s a core, measured).
Expected in float: 76.13 % top-1, of torchvision's weights IMAGENET1K_V1 (this recipe is not quite theirs).
Expected at few bits: none published for weights alone that we know. LSQ with weights and activations at 2, 3 and 4
bits: 73.7, 75.8 and 76.7 % (arXiv 1902.08153, table 1; a pre-activation ResNet-50 of 76.9 % in float).
"""

from experiments.config import Config, Variants

config = Variants(
    Config(
        dataset="imagenet2012",
        size=(224, 224),
        model="resnet50",
        width=64,
        compute="bfloat16",
        batch=1024,
        optimizer="sgd",
        float_epochs=90,
        float_learning_rate=0.4,
        weight_decay=1e-4,
        warmup=0.05,
        label_smoothing=0.1,
    ),
    float_run="runs/imagenet_resnet50_float",
    soft_epochs=70,
    hard_epochs=20,
    learning_rate=0.04,
    levels_rate=0.01,
    temperature_end=1e-3,
    entropy_weight=0.0,
)
