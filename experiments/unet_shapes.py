"""Which pixels belong to which figure: a small U-Net on drawn shapes.

Command:   jaxcnn train experiments/unet_shapes.py
Hardware:  2 cores of an AMD EPYC (AVX-512), jax 0.10.2
Time:      10 min 31 s of training, 6 epochs, beside other work
Result:    test mean IoU 96.40 %, pixel accuracy 99.55 % with seed 0 (measured)

The figures lie on sloping, noisy backgrounds of other colours; every picture is drawn anew from its
number, and the test pictures are others than those for training.
"""

from jaxcnn import Augment, Data, Experiment, Model, Optim, Schedule, Task, Train


def config() -> Experiment:
    """A U-Net of four levels on pictures of 32x32 pixels."""
    return Experiment(
        name="unet_shapes",
        data=Data("shapes_masks", image_size=32, examples=(20000, 1000), batch_size=32),
        augment=Augment(flip=True),
        model=Model("unet", {"widths": (16, 32, 64, 128), "batch_norm": True, "dropout": 0.0}),
        task=Task("segmentation"),
        optim=Optim("adamw", peak_lr=3e-3, weight_decay=1e-4),
        schedule=Schedule("one_cycle", warmup_epochs=2),
        train=Train(epochs=6, seed=0),
    )
