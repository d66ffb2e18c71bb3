"""Fashion-MNIST, all-matmul network, 2 bits per tensor, 4 epochs from float; soft and hard should agree to 0.1 points.

python -m experiments.train --config experiments/configs/fashion_mlp.py        (compare: fashion_mlp.py:method=lsq)
"""

from experiments.config import Config, Variants

config = Variants(
    Config(dataset="fashion_mnist", model="mlp", width=256, batch=128, float_epochs=6),
    gradient="implicit",
    soft_epochs=4,
    hard_epochs=0,
    learning_rate=2e-3,
    temperature_start=0.3,
    temperature_end=0.01,
    temperature_hold=0.9,
    entropy_weight=0.3,
)
