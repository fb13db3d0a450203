r"""MobileNetV2, fine-tuned from an imported checkpoint on 2,000 images of CIFAR-10.

Command:   python -m experiments.weights.mobilenet_v2_cifar10 mobilenet_v2.safetensors
           jaxcnn import mobilenet_v2.safetensors --model mobilenet_v2 --num-classes 10 \
               --image-size 64 --dataset cifar10 --out weights/mobilenet_v2
           jaxcnn train experiments/mobilenet_v2_finetune.py --init-from weights/mobilenet_v2
Hardware:  1 core of an AMD EPYC (AVX-512), beside other work, jax 0.10.2
Time:      338 s of training, 5 epochs (100 s when the core was less shared)
Result:    test top-1 49.00 % with seed 0 (measured); 39.52 % without --init-from; the weights
           as imported have 47.43 %, here (jaxcnn eval) as in PyTorch

A stand-in for ImageNet's weights, which could not be downloaded: the checkpoint is torchvision's
network, trained in PyTorch on 10,000 other images of the same set, so this shows the way and not
what ImageNet's features are worth. With network, theirs come from
torchvision.models.mobilenet_v2(weights="DEFAULT").state_dict(), written by safetensors; they are
imported with --model and --out alone, their last layer starts anew, and --data.image-size 224 suits
them better. The copy of CIFAR-10 that this was measured on had its pixels compressed as JPEG:
compare only with figures on the same copy.
"""

from jaxcnn.config import Augment, Data, Experiment, Model, Optim, Schedule, Train


def config() -> Experiment:
    """Images enlarged to 64x64, in the normalisation of torchvision's weights."""
    return Experiment(
        name="mobilenet_v2_finetune",
        data=Data(
            "cifar10",
            train_limit=2000,
            batch_size=32,
            image_size=64,
            fit="resize",
            mean=(0.485, 0.456, 0.406),
            std=(0.229, 0.224, 0.225),
        ),
        augment=Augment(flip=True),
        model=Model("mobilenet_v2"),
        optim=Optim("sgd", peak_lr=0.02, weight_decay=1e-4),
        schedule=Schedule("one_cycle", warmup_epochs=1),
        train=Train(epochs=5, eval_every=5, seed=0),
    )
