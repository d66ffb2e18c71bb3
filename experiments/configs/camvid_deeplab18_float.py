# CamVid at 360x480, 11 classes, DeepLab-ResNet-18 from scratch, float.
# python -m experiments.train --config experiments/configs/camvid_deeplab18_float.py --data_dir=PATH
# PATH: a folder of images and masks as experiments/segmentation/masks.py says.
# For an accelerator; hours not known. Expected test mIoU: not yet run.
# With --encoder_run=runs/imagenet_resnet18_float the encoder starts from that run's weights.
# CamVid (Brostow et al., 2009, University of Cambridge) is for research; its images are not part of this project.
from experiments.config import Config

config = Config(
    task="segment",
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
    soft_epochs=0,
    hard_epochs=0,
)
