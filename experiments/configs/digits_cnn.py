"""Digits (8x8, scikit-learn), small CNN in float and then at 2 bits per tensor; first and last layer float.

python -m experiments.train --config experiments/configs/digits_cnn.py
"""

from experiments.config import Config, Variants

config = Variants(
    Config(dataset="digits", augment="crop", pad=1, model="cnn", width=16, batch=64, float_epochs=20),
    soft_epochs=15,
    hard_epochs=5,
)
