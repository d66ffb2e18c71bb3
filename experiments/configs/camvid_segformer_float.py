# CamVid at 360x480, 11 classes, SegFormer-B0 from scratch, float.
# python -m experiments.train --config experiments/configs/camvid_segformer_float.py --data_dir=PATH
# PATH: a folder of images and masks as experiments/segmentation/masks.py says.
# For an accelerator; hours not known. Expected test mIoU: not yet run.
# CamVid (Brostow et al., 2009, University of Cambridge) is for research; its images are not part of this project.
from experiments.config import Config

config = Config(
    task="segment",
    dataset="camvid",
    size=(360, 480),
    augment="scale_crop_flip",
    model="segformer_b0",
    width=32,
    batch=8,
    float_epochs=300,
    float_learning_rate=5e-4,
    weight_decay=0.01,
    warmup=0.05,
    clip=1.0,
    soft_epochs=0,
    hard_epochs=0,
)
