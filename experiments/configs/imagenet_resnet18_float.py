# ImageNet, ResNet-18, float. Not run here.
# python -m experiments.train --folder runs/imagenet_resnet18_float \
#     --config experiments/configs/imagenet_resnet18_float.py
# About 5 hours on one H100, estimated from 6,000 images/s, not measured;
# the input must keep up (experiments.benchmarks.input: about 290 images/s a core, measured).
# Expected: 69.76 % top-1, of torchvision's weights IMAGENET1K_V1 (this recipe is not quite theirs).
from experiments.config import Config

config = Config(
    dataset="imagenet2012",
    size=(224, 224),
    model="resnet18",
    width=64,
    compute="bfloat16",
    batch=1024,
    optimizer="sgd",
    float_epochs=90,
    float_learning_rate=0.4,
    weight_decay=1e-4,
    warmup=0.05,
    label_smoothing=0.1,
    soft_epochs=0,
    hard_epochs=0,
)
