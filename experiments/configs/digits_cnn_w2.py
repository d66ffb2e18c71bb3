# Digits (8x8, scikit-learn), small CNN, 2 bits per tensor; first and last layer float.
# python -m experiments.train --config experiments/configs/digits_cnn_w2.py
from experiments.config import Config

config = Config(
    dataset="digits",
    augment="crop",
    pad=1,
    model="cnn",
    width=16,
    k=4,
    batch=64,
    float_epochs=20,
    soft_epochs=15,
    hard_epochs=5,
)
