# CamVid, PatchUNet with 16 levels (4 bits) per tensor, from runs/camvid_unet_float; first and last float.
# python -m experiments.train --config experiments/configs/camvid_unet_w4.py --data_dir=PATH
# About 7 minutes on one or two CPU cores. Expected test mIoU: not yet run.
# CamVid (Brostow et al., 2009, University of Cambridge) is for research; its images are not part of this project.
import dataclasses

from experiments.configs.camvid_unet_float import config as base

config = dataclasses.replace(
    base,
    float_run="runs/camvid_unet_float",
    k=16,
    soft_epochs=14,
    hard_epochs=6,
    learning_rate=1e-3,
    weight_decay=0.0,
    temperature_end=1e-3,
    entropy_weight=0.0,
)
