"""LeNet-5 on Fashion-MNIST."""

from jaxcnn.config import Augment, Data, Experiment, Model, Optim, Schedule, Train


def config() -> Experiment:
    """LeNet-5, images padded to 32x32 and mirrored at random."""
    return Experiment(
        name="lenet5_fashion_mnist",
        data=Data("fashion_mnist", batch_size=128, image_size=32, mean=(0.2,), std=(0.33,)),
        augment=Augment(flip=True),
        model=Model("lenet5"),
        optim=Optim("sgd", peak_lr=0.05, weight_decay=1e-3),
        schedule=Schedule("cosine", warmup_epochs=1),
        train=Train(epochs=20, seed=0),
    )
