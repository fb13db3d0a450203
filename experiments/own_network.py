"""A network of one's own on scikit-learn's digits, in one file.

Command:   jaxcnn train experiments/own_network.py
Hardware:  2 cores of an AMD EPYC (AVX-512), jax 0.10.2
Time:      20 s of training, 20 epochs
Result:    test top-1 98.89 % (356 of 360 images) with seed 0 (measured)

The split is random, so writers of test digits are known from training.
"""

import flax.linen as nn
import jax

from jaxcnn import Augment, Data, Experiment, Model, Optim, Schedule, Train


class TinyNet(nn.Module):
    """Two convolutions and the mean over all positions.

    Attributes:
        num_classes: number of logits.
        width: channels of the first convolution; the second has twice as many.
    """

    num_classes: int
    width: int = 32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Returns the logits of images."""
        for stride in (1, 2):
            x = nn.Conv(self.width * stride, (3, 3), strides=stride, use_bias=False)(x)
            x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9)(x))
        return nn.Dense(self.num_classes)(x.mean(axis=(1, 2)))


def config() -> Experiment:
    """TinyNet, which nothing but this file knows."""
    return Experiment(
        name="own_network",
        data=Data("digits", batch_size=64, mean=(0.31,), std=(0.35,)),
        augment=Augment(crop_padding=1),
        model=Model(TinyNet, {"width": 48}),
        optim=Optim("sgd", peak_lr=0.1, weight_decay=5e-4),
        schedule=Schedule("cosine", warmup_epochs=1),
        train=Train(epochs=20, seed=0),
    )
