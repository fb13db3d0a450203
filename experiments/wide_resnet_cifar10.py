"""A small wide ResNet, WRN-10-2, on CIFAR-10, for three epochs.

Command:   jaxcnn train experiments/wide_resnet_cifar10.py
Hardware:  1 core of an AMD EPYC (AVX-512), beside other work, jax 0.10.2
Time:      905 s of training, 3 epochs
Result:    test top-1 74.78 % with seed 0 (measured), still rising when the epochs ended

Zagoruyko & Komodakis (2016) train WRN-28-10 for 200 epochs, to 96.0 %; --model.options depth 28
widen 10 and --train.epochs 200 give theirs. The copy of CIFAR-10 that this was measured on had its
pixels compressed as JPEG: compare only with figures on the same copy.
"""

from jaxcnn.config import Augment, Data, Experiment, Model, Optim, Schedule, Train


def config() -> Experiment:
    """The paper's weight decay and augmentation, with one cycle of the learning rate."""
    return Experiment(
        name="wide_resnet_cifar10",
        data=Data("cifar10", batch_size=64, mean=(0.491, 0.482, 0.447), std=(0.247, 0.243, 0.262)),
        augment=Augment(flip=True, crop_padding=4),
        model=Model("wide_resnet28_10", {"depth": 10, "widen": 2}),
        optim=Optim("sgd", peak_lr=0.1, weight_decay=5e-4),
        schedule=Schedule("one_cycle", warmup_epochs=0.3),
        train=Train(epochs=3, seed=0),
    )
