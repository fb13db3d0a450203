"""VGG-16 on ImageNet, as published in 2014.

Command:   jaxcnn train experiments/vgg16_imagenet.py
Hardware:  meant for 4 GPUs; not run here
Time:      not run here
Target:    test top-1 73.0 % on the 50,000 validation images (error 27.0 %: Simonyan & Zisserman
           2014, table 3, network D at S = Q = 256, over whole images), and about 71.6 % on their
           middles (torchvision's VGG16_Weights.IMAGENET1K_V1, another recipe); not run here

Recipe: section 3.1: SGD with momentum 0.9, 256 images, lr 0.01 divided by 10 three times, weight
decay 5e-4, 74 epochs, dropout 0.5, random crops and mirror images. The paper divides when the
accuracy stops rising and does not say when that was; the epochs 30, 50 and 65 are ours.

Differs: the kernels start as He et al. (2015) draw them, as torchvision's do, where the paper
starts from its 11-layer network; pixels are therefore scaled to deviation 1, not only less their
mean; weight decay spares biases; no change of the light; crops are of the middle square.

Data: ``tfds build imagenet2012 --file_format=array_record``, or folders train/CLASS and val/CLASS
of images with ``--data.name folder --data.dir FOLDER``.
"""

from jaxcnn.config import Augment, Data, Experiment, Model, Optim, Schedule, Train


def config() -> Experiment:
    """Configuration D, without batch normalisation."""
    return Experiment(
        name="vgg16_imagenet",
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
        augment=Augment(flip=True, random_crop=True),
        model=Model("vgg16"),
        optim=Optim("sgd", peak_lr=0.01, nesterov=False, weight_decay=5e-4),
        schedule=Schedule("step", warmup_epochs=0, milestones=(30, 50, 65)),
        train=Train(epochs=74, seed=0),
    )
