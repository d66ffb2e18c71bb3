# CamVid at 180x240, 11 classes, PatchUNet from scratch, float.
# python -m experiments.train --config experiments/configs/camvid_unet_float.py --data_dir=PATH
# PATH: a folder of images and masks as experiments/segmentation/masks.py says.
# About 15 minutes on one or two CPU cores. Expected: test mean IoU 44.9 +- 0.5 % (3 seeds). Its file is the float
# network at 2 bits without training: 38.9 +- 1.5 %.
# CamVid (Brostow et al., 2009, University of Cambridge) is for research; its images are not part of this project.
from experiments.config import Config

config = Config(
    task="segment",
    dataset="camvid",
    size=(180, 240),
    augment="scale_crop_flip",
    model="patch_unet",
    width=32,
    batch=8,
    float_epochs=60,
    float_learning_rate=3e-3,
    weight_decay=0.02,
    warmup=0.05,
    clip=1.0,
    soft_epochs=0,
    hard_epochs=0,
)
