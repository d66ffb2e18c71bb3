# Arena, size (a): Fashion-MNIST at 14 x 14 with crops and flips, batch-norm MLP of 4 layers of width 32, weights of all
# but the first and last layer per tensor, 15 epochs from float (84.9 % on the test images), 17 methods, 5 seeds.
# python -m experiments.arena experiments/configs/arena/fashion_small.py        11 to 15 minutes a number of levels
from experiments.arena.protocol import Arena
from experiments.config import Config

arena = Arena(
    config=Config(
        dataset="fashion_mnist",
        downscale=2,
        augment="crop_flip",
        pad=1,
        model="norm_mlp",
        width=32,
        batch=128,
        float_epochs=30,
        float_learning_rate=4e-3,
        soft_epochs=10,
        hard_epochs=5,
        hard_rate=1.0,
        levels_rate=0.4,
        entropy_weight=0.0,
    ),
    levels=(4, 2, 8, 16),
    learning_rates=(2e-3, 5e-3),
    seeds=5,
)
