"""CamVid at 360x480, 11 classes, SegFormer-B0 from scratch in float, and from it 2, 3 or 4 bits per tensor.

python -m experiments.train --config experiments/configs/camvid_segformer.py:method=float --data_dir=PATH
python -m experiments.train --config experiments/configs/camvid_segformer.py:bits=2 --data_dir=PATH       (or 3, or 4)
PATH: a folder of images and masks as experiments/data/masks.py says.

The first and last layer stay float. For an accelerator; hours not known. Expected test mIoU: not yet run.
CamVid (Brostow et al., 2009, University of Cambridge) is for research; its images are not part of this project.
"""

from experiments.config import Config, Variants

config = Variants(
    Config(
        task="segmentation",
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
    ),
    float_run="runs/camvid_segformer_float",
    soft_epochs=60,
    hard_epochs=20,
    learning_rate=3e-4,
    weight_decay=0.0,
    temperature_end=1e-3,
    entropy_weight=0.0,
)
