"""AlexNet on ImageNet, as published in 2012.

Command:   jaxcnn train experiments/alexnet_imagenet.py
           jaxcnn eval runs/alexnet_imagenet-seed0 --tta ten_crop
Hardware:  meant for one GPU; not run here
Time:      not run here
Target:    test top-1 59.3 % on the 50,000 validation images, averaged over ten crops (error
           40.7 %: Krizhevsky et al. 2012, table 2, one network), and about 57.1 % without (Caffe's
           bvlc_alexnet); not run here

Recipe: section 5: SGD with momentum 0.9, 128 images, lr 0.01 divided by 10 three times, weight
decay 5e-4, about 90 epochs, random crops and mirror images; pixels in 0 ... 255 less their mean.
The paper divides when the error stops falling; the epochs 20, 40 and 60 are bvlc_alexnet's.

Differs: weight decay spares biases; no change of the light (the paper's PCA of colours). Caffe's
authors found that the network did not start to learn with the paper's initial biases of 1, which
are ours too, and took 0.1: look at the first epoch.

Data: ``tfds build imagenet2012 --file_format=array_record``, or folders train/CLASS and val/CLASS
of images with ``--data.name folder --data.dir FOLDER``.
"""

from jaxcnn.config import Augment, Data, Experiment, Model, Optim, Schedule, Train


def config() -> Experiment:
    """Two groups, local response normalisation, dropout."""
    return Experiment(
        name="alexnet_imagenet",
        data=Data(
            "imagenet2012",
            batch_size=128,
            eval_batch_size=256,
            image_size=224,
            fit="crop",
            read_size=256,
            mean=(0.482, 0.459, 0.408),
            std=(1 / 255,),
        ),
        augment=Augment(flip=True, random_crop=True),
        model=Model("alexnet_2012"),
        optim=Optim("sgd", peak_lr=0.01, nesterov=False, weight_decay=5e-4),
        schedule=Schedule("step", warmup_epochs=0, milestones=(20, 40, 60)),
        train=Train(epochs=90, seed=0),
    )
