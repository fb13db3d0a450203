"""GoogLeNet with its auxiliary classifiers on ImageNet, by the recipe of Caffe's replication.

Command:   jaxcnn train experiments/googlenet_imagenet.py
Hardware:  meant for one GPU; not run here
Time:      not run here
Target:    test top-1 68.7 % on the 50,000 validation images (Caffe's bvlc_googlenet); not run here

Recipe: quick_solver.prototxt of bvlc_googlenet: SGD with momentum 0.9, 32 images, lr 0.01 times the
square root of what is left of 2,400,000 steps (60 epochs), weight decay 2e-4, random crops and
mirror images, auxiliary losses times 0.3; pixels in 0 ... 255 less their mean. Szegedy et al.
(2014, section 6) give the network and the rate's 4 % less every 8 epochs, but neither the size of a
batch nor the first rate; their top-5 error is 10.07 % with one network and one crop (table 3).

Differs: weight decay spares biases; images keep their proportions in a middle square of 256 pixels,
of which crops are taken, where Caffe's are resized to 256 x 256.

Data: ``tfds build imagenet2012 --file_format=array_record``, or folders train/CLASS and val/CLASS
of images with ``--data.name folder --data.dir FOLDER``.
"""

from jaxcnn.config import Augment, Data, Experiment, Model, Optim, Schedule, Train


def config() -> Experiment:
    """The network of 2014: no batch normalisation, two auxiliary classifiers."""
    return Experiment(
        name="googlenet_imagenet",
        data=Data(
            "imagenet2012",
            batch_size=32,
            eval_batch_size=256,
            image_size=224,
            fit="crop",
            read_size=256,
            mean=(0.482, 0.459, 0.408),
            std=(1 / 255,),
        ),
        augment=Augment(flip=True, random_crop=True),
        model=Model("googlenet_2014"),
        optim=Optim("sgd", peak_lr=0.01, nesterov=False, weight_decay=2e-4),
        schedule=Schedule("polynomial", warmup_epochs=0, power=0.5),
        train=Train(epochs=60, seed=0),
    )
