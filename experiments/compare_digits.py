"""A dense network, LeNet-5, the tutorial network and a small ResNet on scikit-learn's digits.

Command:   jaxcnn compare experiments/compare_digits.py
Hardware:  2 cores of an AMD EPYC (AVX-512), jax 0.10.2
Time:      85 s, compiling and the report included
Result:    test top-1, means of seeds 0 to 2 with their 95 % intervals, measured: mlp 96.94 % (95.75
           to 98.14), lenet5 99.17 % (97.79 to 100), convnet 98.61 % (97.92 to 99.30), resnet8
           98.89 % (the same for all three); all differ from mlp with p of 0.02 after correction
"""

from jaxcnn.config import Augment, Comparison, Data, Experiment, Model, Optim, Schedule, Train


def config() -> Comparison:
    """Four networks with the same data, augmentation and recipe; LeNet-5 sees enlarged scans."""
    data = Data("digits", batch_size=64, mean=(0.31,), std=(0.35,))
    large = Data("digits", batch_size=64, image_size=32, fit="resize", mean=(0.31,), std=(0.35,))

    def arm(name: str, data: Data, model: Model) -> Experiment:
        return Experiment(
            name=name,
            data=data,
            augment=Augment(crop_padding=1),
            model=model,
            optim=Optim("sgd", peak_lr=0.05, weight_decay=5e-4),
            schedule=Schedule("cosine", warmup_epochs=1),
            train=Train(epochs=15),
        )

    return Comparison(
        arms=(
            arm("mlp", data, Model("mlp", {"hidden": (256, 128)})),
            arm("lenet5", large, Model("lenet5")),
            arm("convnet", data, Model("convnet", {"batch_norm": True})),
            arm("resnet8", data, Model("resnet20", {"depth": 8})),
        ),
        seeds=3,
    )
