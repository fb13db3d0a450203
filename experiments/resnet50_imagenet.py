"""ResNet-50 on ImageNet, by the recipe of torchvision's first weights.

Command:   jaxcnn train experiments/resnet50_imagenet.py
Hardware:  meant for 8 GPUs; not run here
Time:      not run here
Target:    test top-1 76.13 % on the 50,000 validation images (torchvision's
           ResNet50_Weights.IMAGENET1K_V1); not run here

Recipe: references/classification of torchvision: SGD with momentum 0.9, 8 times 32 images, lr 0.1
divided by 10 after 30 and 60 of 90 epochs, weight decay 1e-4, random resized crops, mirror images.
He et al. (2015, section 3.4) have the same but for the augmentation and the number of epochs.

Differs: weight decay spares biases and normalisation; a large photo's JPEG is decoded at a half, a
quarter or an eighth of its size where a crop has twice the pixels that are needed.

Data: ``tfds build imagenet2012 --file_format=array_record``, or folders train/CLASS and val/CLASS
of images with ``--data.name folder --data.dir FOLDER``.
"""

from jaxcnn.config import Augment, Data, Experiment, Model, Optim, Schedule, Train


def config() -> Experiment:
    """Batch normalisation, bottlenecks, stride in the 3x3 convolution."""
    return Experiment(
        name="resnet50_imagenet",
        data=Data(
            "imagenet2012",
            batch_size=256,
            eval_batch_size=256,
            image_size=224,
            fit="crop",
            read_size=256,
            mean=(0.485, 0.456, 0.406),
            std=(0.229, 0.224, 0.225),
        ),
        augment=Augment(flip=True, random_resized_crop=0.08),
        model=Model("resnet50"),
        optim=Optim("sgd", peak_lr=0.1, nesterov=False, weight_decay=1e-4),
        schedule=Schedule("step", warmup_epochs=0, milestones=(30, 60)),
        train=Train(epochs=90, seed=0),
    )
