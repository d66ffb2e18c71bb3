"""CamVid at 180x240, 11 classes, PatchUNet from scratch in float, and from it 2, 3 or 4 bits per tensor.

python -m experiments.train --config experiments/configs/camvid_unet.py:method=float --data_dir=PATH
python -m experiments.train --config experiments/configs/camvid_unet.py:bits=2 --data_dir=PATH       (or 3, or 4)
PATH: a folder of images and masks as experiments/data/masks.py says.

The first and last layer stay float. Minutes on one or two CPU cores: float about 15, few bits about 7.
Expected test mean IoU (3 seeds):
    float   44.9 +- 0.5 %; its file, the float network at 2 bits without training, 38.9 +- 1.5 %
    3 bits  44.8 +- 0.7 % (LSQ 45.1 +- 0.9; float trained on as long, bits=2,method=float, 45.4 +- 0.9)
    2 bits  44.8 +- 1.1 % (LSQ 45.1 +- 1.2)
    4 bits  not yet run
CamVid (Brostow et al., 2009, University of Cambridge) is for research; its images are not part of this project.
"""

from experiments.config import Config, Variants

config = Variants(
    Config(
        task="segmentation",
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
    ),
    float_run="runs/camvid_unet_float",
    soft_epochs=14,
    hard_epochs=6,
    learning_rate=1e-3,
    weight_decay=0.0,
    temperature_end=1e-3,
    entropy_weight=0.0,
)
