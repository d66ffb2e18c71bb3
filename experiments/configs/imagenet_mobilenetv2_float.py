# ImageNet, MobileNetV2, float. Not run here.
# python -m experiments.train --folder runs/imagenet_mobilenetv2_float \
#     --config experiments/configs/imagenet_mobilenetv2_float.py
# About 13 hours on one H100, estimated from 4,000 images/s, not measured;
# the input must keep up (experiments.benchmarks.input: about 290 images/s a core, measured).
# Expected: 72.0 % top-1 (arXiv 1801.04381, table 4; this recipe is not theirs).
from experiments.config import Config

config = Config(
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
    soft_epochs=0,
    hard_epochs=0,
)
