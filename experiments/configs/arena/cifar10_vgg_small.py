# Arena, size (b), for an accelerator: CIFAR-10, VGG-Small, weights of all but the first and last layer at 2 bits per
# tensor, 100 epochs from float, 3 seeds. Not run yet: published float networks of it reach 94.1 %.
# python -m experiments.sweep --minutes 5        again until it is done
from experiments.arena.protocol import Arena
from experiments.config import Config

arena = Arena(
    config=Config(
        dataset="cifar10",
        augment="crop_flip",
        pad=4,
        model="vgg_small",
        width=128,
        batch=128,
        compute="bfloat16",
        optimizer="sgd",
        weight_decay=1e-4,
        float_epochs=200,
        float_learning_rate=0.02,
        soft_epochs=80,
        hard_epochs=20,
        hard_rate=1.0,
        entropy_weight=0.0,
    ),
    levels=(4,),
    learning_rates=(0.005, 0.02),
    seeds=3,
)
