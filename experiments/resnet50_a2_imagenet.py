"""ResNet-50 on ImageNet by recipe A2 of "ResNet strikes back" (Wightman, Touvron & Jégou 2021).

Command:   jaxcnn train experiments/resnet50_a2_imagenet.py
           and recipe A3, shorter and trained at 160 pixels:
           jaxcnn train experiments/resnet50_a2_imagenet.py --name resnet50_a3_imagenet
           --train.epochs 100 --train.sizes 160 --optim.peak-lr 0.008 --augment.repeats 1
           --augment.rand-augment-magnitude 18 --model.options drop_path 0.0
Hardware:  meant for 4 or 8 GPUs; not run here
Time:      not run here
Target:    test top-1 79.8 % on the 50,000 validation images with A2, 78.1 % with A3 (table 2 of the
           paper, both tested at 224 pixels); not run here

Recipe: table 2: LAMB, 2048 images, lr 5e-3, 5 epochs of warm-up, half a cosine over 300 epochs,
weight decay 0.02, binary cross-entropy, repeated augmentation, random resized crops and mirror
images, RandAugment 7/0.5, mixup 0.1 and CutMix 1.0, stochastic depth 0.05, test crop ratio 0.95. A
class counts as there from a share of 0.2 of a mixed image on, as configurations for timm have it.

Differs: RandAugment is torchvision's, whose strength 21 of 30 is timm's 7 of 10: no noise of 0.5 on
the strength, every operation applied, where timm leaves half of them out. Crops are resized
bilinearly (timm: bicubic), and a large photo's JPEG is decoded at a smaller scale. Weight decay
spares biases and normalisation. In A3 as above, crops are resized twice, by the host to the 224
pixels of the test and in the step to 160.

Data: ``tfds build imagenet2012 --file_format=array_record``, or folders train/CLASS and val/CLASS
of images with ``--data.name folder --data.dir FOLDER``.
"""

from jaxcnn.config import Augment, Data, Experiment, Model, Optim, Schedule, Task, Train


def config() -> Experiment:
    """Bottlenecks with stochastic depth; every class is a question of its own."""
    return Experiment(
        name="resnet50_a2_imagenet",
        data=Data(
            "imagenet2012",
            batch_size=2048,
            eval_batch_size=256,
            image_size=224,
            fit="crop",
            crop_ratio=0.95,
            mean=(0.485, 0.456, 0.406),
            std=(0.229, 0.224, 0.225),
        ),
        augment=Augment(
            flip=True,
            random_resized_crop=0.08,
            rand_augment=2,
            rand_augment_magnitude=21,
            mixup=0.1,
            cutmix=1.0,
            repeats=3,
        ),
        model=Model("resnet50", {"drop_path": 0.05}),
        task=Task(options={"criterion": "binary", "threshold": 0.2}),
        optim=Optim("lamb", peak_lr=5e-3, weight_decay=0.02),
        schedule=Schedule("cosine", warmup_epochs=5),
        train=Train(epochs=300, seed=0),
    )
