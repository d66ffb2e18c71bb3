"""CamVid at 360x480, 11 classes, DeepLab-ResNet-18 from scratch in float, and from it 2, 3 or 4 bits per tensor.

python -m experiments.train --config experiments/configs/camvid_deeplab18.py:method=float --data_dir=PATH
python -m experiments.train --config experiments/configs/camvid_deeplab18.py:bits=2 --data_dir=PATH       (or 3, or 4)
PATH: a folder of images and masks as experiments/data/masks.py says.

The first and last layer stay float. For an accelerator; hours not known. Expected test mIoU: not yet run.
With --encoder_run=runs/imagenet_resnet18_float the float run's encoder starts from that run's weights.
CamVid (Brostow et al., 2009, University of Cambridge) is for research; its images are not part of this project.
"""

from experiments.config import Config, Variants

config = Variants(
    Config(
        task="segmentation",
        dataset="camvid",
        size=(360, 480),
        augment="scale_crop_flip",
        model="resnet18_deeplab",
        width=64,
        batch=8,
        optimizer="sgd",
        float_epochs=300,
        float_learning_rate=0.02,
        weight_decay=5e-4,
        warmup=0.02,
        clip=5.0,
    ),
    float_run="runs/camvid_deeplab18_float",
    soft_epochs=60,
    hard_epochs=20,
    learning_rate=3e-3,
    weight_decay=0.0,
    temperature_end=1e-3,
    entropy_weight=0.0,
)
