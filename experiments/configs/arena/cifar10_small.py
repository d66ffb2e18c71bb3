# Arena, size (a): CIFAR-10 at 16 x 16, all-matmul mixer of width 32, weights of all but the first and last layer at 2
# bits per tensor, 15 epochs from float (57.3 % on the test images), 17 methods, 3 seeds each.
# python -m experiments.arena experiments/configs/arena/cifar10_small.py    76 busy minutes on two cores
from experiments.arena.protocol import Arena
from experiments.config import Config

arena = Arena(
    config=Config(
        dataset="cifar10",
        downscale=2,
        augment="crop_flip",
        pad=2,
        model="mixer",
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
    levels=(4,),
    learning_rates=(2e-3, 5e-3),
    seeds=3,
)
