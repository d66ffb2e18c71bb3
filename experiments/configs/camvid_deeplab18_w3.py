# CamVid, DeepLab-ResNet-18 with 8 levels (3 bits) per tensor, from runs/camvid_deeplab18_float; first and last float.
# python -m experiments.train --config experiments/configs/camvid_deeplab18_w3.py --data_dir=PATH
# For an accelerator; hours not known. Expected test mIoU: not yet run.
# CamVid (Brostow et al., 2009, University of Cambridge) is for research; its images are not part of this project.
import dataclasses

from experiments.configs.camvid_deeplab18_float import config as base

config = dataclasses.replace(
    base,
    float_run="runs/camvid_deeplab18_float",
    k=8,
    soft_epochs=60,
    hard_epochs=20,
    learning_rate=3e-3,
    weight_decay=0.0,
    temperature_end=1e-3,
    entropy_weight=0.0,
)
