# Arena, size (b), for an accelerator: CIFAR-10, ResNet-20 with 1x1-convolution shortcuts, weights of all but the first
# and last layer at 1, 2, 3 and 4 bits per tensor, 100 epochs from float, 3 seeds. Not run yet: goals in the issue are
# float >= 92.9 and 91.4, 92.7, 92.9, 93.0 %.
# python -m experiments.sweep --minutes 5        again until it is done
from experiments.arena.protocol import Arena
from experiments.config import Config

arena = Arena(
    config=Config(
        dataset="cifar10",
        augment="crop_flip",
        pad=4,
        model="resnet20",
        width=16,
        batch=128,
        optimizer="sgd",
        weight_decay=1e-4,
        float_epochs=200,
        float_learning_rate=0.1,
        soft_epochs=80,
        hard_epochs=20,
        hard_rate=1.0,
        entropy_weight=0.0,
    ),
    levels=(2, 4, 8, 16),
    learning_rates=(0.01, 0.04),
    seeds=3,
)
