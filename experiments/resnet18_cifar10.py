"""ResNet-18 on CIFAR-10 with modern augmentation.

Command:   jaxcnn train experiments/resnet18_cifar10.py
Hardware:  not run here
"""

from jaxcnn.config import Augment, Data, Experiment, Model, Optim, Schedule, Train


def config() -> Experiment:
    """The stem for small images, TrivialAugment and CutMix, one cycle, averaged parameters."""
    return Experiment(
        name="resnet18_cifar10",
        data=Data("cifar10", batch_size=512, mean=(0.491, 0.482, 0.447), std=(0.247, 0.243, 0.262)),
        augment=Augment(flip=True, crop_padding=4, trivial_augment=True, cutmix=1.0),
        model=Model("resnet18", {"small_images": True}, dtype="bfloat16"),
        optim=Optim("sgd", peak_lr=0.4, weight_decay=5e-4),
        schedule=Schedule("one_cycle", warmup_epochs=30),
        train=Train(epochs=200, label_smoothing=0.1, ema_decay=0.999),
    )
