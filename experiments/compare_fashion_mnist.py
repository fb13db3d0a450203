"""A dense network, LeNet-5, the tutorial network and a small ResNet on a fifth of Fashion-MNIST.

Command:   jaxcnn compare experiments/compare_fashion_mnist.py --seeds 3
Hardware:  2 cores of an AMD EPYC (without AVX-512), jax 0.10.2
Time:      12 minutes, compiling, corruptions and the report included
Result:    test top-1, means of seeds 0 to 2 with their 95 % intervals, measured: mlp 85.18 % (84.82
           to 85.53), lenet5 86.15 % (85.67 to 86.63), convnet 86.95 % (86.54 to 87.36), resnet8
           86.44 % (85.84 to 87.04); all three differ from mlp with p < 0.03 after correction. Of
           1,000 test images under 15 corruptions at 5 severities mlp has 80.31 % right, lenet5
           78.43 %, convnet 78.13 % and resnet8 64.76 %

Trained on 12,000 images for 4 epochs so that it ends in that time: compare the arms with one
another, not with the figures of the other experiments.
"""

from jaxcnn.config import Augment, Comparison, Data, Experiment, Model, Optim, Schedule, Train


def config() -> Comparison:
    """Four networks with the same data, augmentation, optimizer and number of epochs."""
    data = Data("fashion_mnist", train_limit=12_000, batch_size=64, mean=(0.286,), std=(0.353,))

    def arm(name: str, model: Model) -> Experiment:
        return Experiment(
            name=name,
            data=data,
            augment=Augment(flip=True),
            model=model,
            optim=Optim("sgd", peak_lr=0.05, weight_decay=5e-4),
            schedule=Schedule("cosine", warmup_epochs=1),
            train=Train(epochs=4),
        )

    return Comparison(
        arms=(
            arm("mlp", Model("mlp", {"dropout": 0.2})),
            arm("lenet5", Model("lenet5")),
            arm("convnet", Model("convnet", {"batch_norm": True, "dropout": 0.3})),
            arm("resnet8", Model("resnet20", {"depth": 8})),
        ),
        seeds=3,
        corrupted=1_000,
    )
