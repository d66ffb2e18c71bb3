# CIFAR-100, ResNet-20, float. Not run here.
# python -m experiments.train --folder runs/cifar100_resnet20_float \
#     --config experiments/configs/cifar100_resnet20_float.py
# About half an hour on one H100: estimated, not measured.
# Expected: none published that we know with this recipe.
from experiments.config import Config

config = Config(
    dataset="cifar100",
    model="resnet20",
    width=16,
    augment="crop_flip",
    pad=4,
    batch=128,
    optimizer="sgd",
    float_epochs=200,
    float_learning_rate=0.1,
    weight_decay=1e-4,
    soft_epochs=0,
    hard_epochs=0,
)
