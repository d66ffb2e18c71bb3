# Arena, size (b), for an accelerator: CIFAR-100, ResNet-20 with 1x1-convolution shortcuts, weights of all but the first
# and last layer at 2 bits per tensor, 100 epochs from float, 3 seeds. Not run yet.
# python -m experiments.sweep --minutes 5        again until it is done
from experiments.arena.protocol import Arena
from experiments.config import Config

arena = Arena(
    config=Config(
        dataset="cifar100",
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
    levels=(4,),
    learning_rates=(0.01, 0.04),
    seeds=3,
)
