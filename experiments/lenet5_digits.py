"""LeNet-5 on scikit-learn's digits: the first result, without a download.

Command:   jaxcnn train experiments/lenet5_digits.py
Hardware:  2 cores of an AMD EPYC (AVX-512), jax 0.10.2
Time:      6 s of training, 30 epochs
Result:    test top-1 100.00 % (360 of 360 images) with seed 0 (measured)

The split is random, so writers of test digits are known from training.
"""

from jaxcnn.config import Augment, Data, Experiment, Model, Optim, Schedule, Train


def config() -> Experiment:
    """LeNet-5 on 8x8 scans, enlarged to the 32x32 that the network was drawn for."""
    return Experiment(
        name="lenet5_digits",
        data=Data("digits", batch_size=64, image_size=32, fit="resize", mean=(0.31,), std=(0.35,)),
        augment=Augment(crop_padding=2, rotate=10.0, zoom=0.1),
        model=Model("lenet5"),
        optim=Optim("sgd", peak_lr=0.05, weight_decay=5e-4),
        schedule=Schedule("cosine", warmup_epochs=2),
        train=Train(epochs=30, seed=0),
    )
