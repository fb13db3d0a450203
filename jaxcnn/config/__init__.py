"""An experiment is a value: frozen dataclasses that say everything a run needs.

An experiment file holds one function, ``config() -> Experiment``; a comparison file holds
``config() -> Comparison``. Every field can be overridden on the command line
(``--optim.peak-lr 0.2``). The resolved value is written into the run folder as config.json, from
which :func:`from_dict` builds the same value again.

A field's annotation says which values it accepts, and :class:`~jaxcnn.config.checked.Checked` sees
to it; only relations between fields are checked by code of their own. The docstrings of sections
and fields are the texts of ``jaxcnn train --help``.
"""

import dataclasses
import enum
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

from jaxcnn.config.brought import Brought, Handed, bring, bring_network
from jaxcnn.config.checked import Accepts, Checked, annotations, require, shown
from jaxcnn.errors import InputError

MOST_CLASSES = 10**6
"""No network has more logits than this."""
MOST_SEEDS = 10_000
"""So many runs are planned at once; their folders alone take a minute to look through."""


def _is_pattern(text: str) -> bool:
    try:  # as it stands, and within a longer one, where flags such as (?i) cannot stand
        return bool(text) and bool(re.compile(text)) and bool(re.compile(f"(?:{text})"))
    except (re.error, OverflowError, RecursionError):
        return False


def _is_address(text: str) -> bool:
    host, _, port = text.rpartition(":")
    return bool(host) and bool(re.fullmatch("[0-9]{1,5}", port)) and 0 < int(port) < 2**16


def _whole(low: int, high: int) -> Accepts:
    """Accepts the whole numbers between two, and these."""
    return Accepts(f"a whole number in [{low}, {high}]", lambda n: low <= n <= high)


Count = Annotated[int, Accepts("a positive whole number below 2**31", lambda n: 0 < n < 2**31)]
Natural = Annotated[int, Accepts("a whole number in [0, 2**31)", lambda n: 0 <= n < 2**31)]
Seed = Natural
Side = Annotated[int, _whole(1, 2**15)]
Positive = Annotated[float, Accepts("a finite number above 0 in float32", lambda x: x > 0)]
NotNegative = Annotated[float, Accepts("a finite number >= 0 in float32", lambda x: x >= 0)]
AtLeastOne = Annotated[float, Accepts("a finite number >= 1 in float32", lambda x: x >= 1)]
Share = Annotated[float, Accepts("in [0, 1]", lambda x: 0 <= x <= 1)]
ShareBelowOne = Annotated[float, Accepts("in [0, 1)", lambda x: 0 <= x < 1)]
ShareAboveZero = Annotated[float, Accepts("in (0, 1]", lambda x: 0 < x <= 1)]
Rising = Annotated[
    tuple[float, ...], Accepts("a tuple of rising numbers", lambda t: [*t] == sorted({*t}))
]
RisingCounts = Annotated[
    tuple[Count, ...],
    Accepts("a tuple of rising positive whole numbers", lambda t: [*t] == sorted({*t})),
]
Pattern = Annotated[str, Accepts("a regular expression", _is_pattern)]
Address = Annotated[str, Accepts("HOST:PORT of process 0", _is_address)]
Folder = Annotated[
    str,
    Accepts(
        "a text (str of a path), not empty and without null characters",
        lambda path: path and "\0" not in path,
    ),
]
FolderName = Annotated[
    str,
    Accepts(
        "at most 200 letters, digits and _ . + - (it names the run folder)",
        lambda name: len(name) <= 200 and re.fullmatch(r"[\w.+-]*\w[\w.+-]*", name),
    ),
]
Validation = (
    Annotated[int, Accepts("a positive whole number below 2**31", lambda n: 0 < n < 2**31)]
    | Annotated[float, Accepts("a share in (0, 1)", lambda x: 0 < x < 1)]
    | Annotated[str, Accepts("the name of a split", bool)]
)
"""Which examples are held out: how many, a share of them, or a split of their own."""
Option = Annotated[
    bool | int | float | str | tuple[bool | int | float | str, ...],
    Accepts("a truth value, number, text, or tuple of these"),
]
Views = Literal["none", "flip", "five_crop", "ten_crop", "flip_shift"]
"""The views of a test image that test-time augmentation averages over."""
SeedsMode = Literal["auto", "map", "unroll", "vmap", "layers", "devices", "alone"]
"""How several runs are computed together, see :attr:`Train.seeds_mode`."""


@dataclass(frozen=True)
class Data(Checked, section="data"):
    """Where the images come from and how they reach the network."""

    name: (
        Annotated[str, Accepts("'digits' or the name of a TFDS dataset", bool)]
        | Annotated[Handed, Accepts("a function that returns a dataset")]
    ) = "digits"
    """The dataset: "digits" (built in), "shapes" (generated figures), "shapes_masks" (the same with
    label maps, in which 0 is the background), "synthetic" (generated noise, to measure speed),
    "folder" (your own image files), or a TFDS dataset that was prepared as array_record; or
    npz:PATH (arrays x_train, y_train, x_test, y_test of NumPy), csv:PATH (a table with the columns
    file, label or mask, and perhaps split) or hf:PATH (Hugging Face's datasets on disk).
    In Python it may be a function of your own, which takes this section, or nothing,
    and returns a dataset, as jaxcnn.from_arrays and jaxcnn.from_source do."""
    dir: Folder | None = None
    """The folder of prepared TFDS datasets (None: TFDS_DATA_DIR, or else TFDS's default); for
    "folder", the one that holds train/CLASS/... and test/CLASS/... (or val/CLASS/...), or
    CLASS/... alone, which is then split. It is recorded as an absolute path."""
    train_limit: Count | None = None
    """Trains on only this many examples; the test set stays whole."""
    validation: Validation | None = None
    """The examples that best checkpoints, patience and sweeps choose by: a share (0.1) or a number
    (5000) of the training examples, which are then not learned from, drawn with data.seed and for
    each class alike, after train_limit; or a split of the dataset by its name, as of TFDS, or a
    folder beside train. None holds out nothing."""
    test_share: Annotated[float, Accepts("a share in (0, 1)", lambda x: 0 < x < 1)] | None = None
    """The share of the images to test on where the folder holds CLASS/... without train and test,
    drawn with data.seed and for each class alike. None takes 0.2."""
    batch_size: Count = 64
    """Training examples per step."""
    eval_batch_size: Count = 500
    """Examples per evaluation step; the last one is padded."""
    image_size: Side | None = None
    """Height and width of the images that the network sees, in pixels. None keeps the dataset's own
    size (32 for generated images)."""
    fit: Literal["pad", "resize", "crop"] = "pad"
    """How images are brought to image_size: by a border of zeros, by resizing, or by resizing a
    centre crop of 7/8 of the shorter side (crop_ratio). Image files of a "folder" get no border:
    where this is left at pad, a run crops them, but resizes squares that are all of one size."""
    read_size: Side | None = None
    """Height and width at which images of varying sizes are read, if not image_size. With fit
    "crop" this is the whole shorter side, which leaves a margin for random crops: 256 for an
    image_size of 224."""
    crop_ratio: Annotated[float, Accepts("in [0.1, 1]", lambda x: 0.1 <= x <= 1)] = 0.875
    """The part of the shorter side that fit "crop" keeps, in evaluation and wherever no random crop
    is taken."""
    mean: Annotated[tuple[float, ...], Accepts("one finite number per channel", bool)] = (0.0,)
    """Mean of each channel, or one for all, of pixels scaled to [0, 1]: the network sees (pixel /
    255 - mean) / std. Where mean and std are left at 0 and 1, a run with model.init_from takes
    both from there."""
    std: Annotated[tuple[Positive, ...], Accepts("one number above 0 per channel", bool)] = (1.0,)
    """Standard deviation of each channel, or one for all; see mean."""
    examples: Annotated[
        tuple[Count, Count], Accepts("two positive whole numbers, of training and of test images")
    ] = (10_000, 1_000)
    """How many images are generated for training and for testing."""
    labels: Literal["classes", "numbers"] = "classes"
    """Whether labels that are whole numbers, or texts of a table, are classes or numbers. A task
    that learns numbers, as regression, sets it."""
    channels: Literal[1, 3] = 3
    """Channels of "synthetic" and "folder" images: 1 (grey) or 3 (RGB)."""
    num_classes: Annotated[int, _whole(1, MOST_CLASSES)] = 10
    """Number of classes of "synthetic" images."""
    seed: Seed = 0
    """Seed of generated images and of which examples are held out; the order of the training
    examples depends on train.seed."""
    streaming: bool | None = None
    """Reads images batch by batch instead of holding them in memory. It changes their order. None
    streams what takes more than 2 GiB decoded."""
    workers: Annotated[int, _whole(0, 1024)] | None = None
    """Processes that read a stream; 0 reads in threads. None starts one per core, or threads when
    training on the CPU. It changes no result."""
    max_bad_images: Natural = 10
    """How many image files may be unreadable; they are reported and left out."""

    def __post_init__(self) -> None:
        """Takes up a function that was brought, and checks the fields and their relations."""
        object.__setattr__(self, "name", bring(self.name))
        super().__post_init__()
        self.require(
            "read_size",
            self.read_size is None or (self.image_size is not None and self.fit != "pad"),
            "None without data.image_size and data.fit='resize' or 'crop'",
        )
        split_here = self.name == "folder" or ":" in str(self.name)
        accepted = "None without data.name='folder', 'npz:...', 'csv:...' or 'hf:...'"
        self.require("test_share", self.test_share is None or split_here, accepted)


@dataclass(frozen=True)
class Augment(Checked, section="augment"):
    """Random changes to each training image, inside the compiled step; 0 or False turns one off."""

    flip: Literal["alternating"] | bool = False
    """Mirrors an image left to right with probability 1/2; alternating draws that for the first
    epoch alone, and then mirrors each image in every other epoch (Jordan 2024)."""
    crop_padding: Annotated[int, _whole(0, 2**12)] = 0
    """Pads each side with this many pixels, then crops back to the original size at a random
    position."""
    padding_mode: Literal["zeros", "reflect"] = "zeros"
    """What crop_padding pads with: zeros, or the image reflected at its border."""
    random_crop: bool = False
    """Crops image_size out of the read_size pixels at random (Krizhevsky et al. 2012). Evaluation
    takes the central 7/8; the scale is the same if read_size is 8/7 of image_size, such as 256 for
    224."""
    cutout: Natural = 0
    """Side, in pixels, of a square at a random position that is set to zero (DeVries & Taylor
    2017)."""
    rotate: Annotated[float, Accepts("degrees in [0, 180]", lambda x: 0 <= x <= 180)] = 0.0
    """Largest rotation in either direction, in degrees (bilinear)."""
    zoom: Annotated[float, Accepts("in [0, 0.9]", lambda x: 0 <= x <= 0.9)] = 0.0
    """Scales by a factor between 1 - zoom and 1 + zoom (bilinear)."""
    random_resized_crop: Share = 0.0
    """Crops a random rectangle of at least this share of the area, such as 0.08, and resizes it to
    image_size (Szegedy et al. 2015). Where images of any size are streamed, it is taken of the
    whole image as that is read; in memory there are only squares of read_size or image_size."""
    crop_aspect: AtLeastOne = 4 / 3
    """Largest ratio of the long to the short side in random_resized_crop."""
    rand_augment: Annotated[int, _whole(0, 100)] = 0
    """RandAugment operations per image, such as 2 (Cubuk et al. 2020)."""
    rand_augment_magnitude: Annotated[int, _whole(0, 30)] = 9
    """Strength of the RandAugment operations, from 0 to 30."""
    trivial_augment: bool = False
    """Applies one random operation of random strength to each image (TrivialAugment, Müller &
    Hutter 2021)."""
    auto_augment: Literal["imagenet", "cifar10", "svhn"] | None = None
    """Applies one random pair of operations, of those that were learned for this dataset, to each
    image (AutoAugment, Cubuk et al. 2019)."""
    augmix: Annotated[int, _whole(0, 10)] = 0
    """Severity of AugMix, such as 3: mixes an image with three random chains of one to three
    operations (Hendrycks et al. 2020)."""
    brightness: NotNegative = 0.0
    """Multiplies the brightness by a random factor between 1 - brightness and 1 + brightness
    (colour jitter)."""
    contrast: NotNegative = 0.0
    """Multiplies the contrast by a random factor between 1 - contrast and 1 + contrast, about the
    image's mean grey value."""
    saturation: NotNegative = 0.0
    """Multiplies the saturation of RGB images by a random factor between 1 - saturation and 1 +
    saturation."""
    hue: Annotated[float, Accepts("in [0, 0.5]", lambda x: 0 <= x <= 0.5)] = 0.0
    """Largest shift of the hue of RGB images in either direction, as a fraction of the colour
    circle."""
    random_erasing: Share = 0.0
    """Probability that a random rectangle of an image is set to zero (Zhong et al. 2020)."""
    erasing_area: Annotated[
        tuple[Share, Share],
        Accepts("two numbers in [0, 1], the smaller first", lambda area: area[0] <= area[1]),
    ] = (0.02, 0.33)
    """Smallest and largest share of the area that is erased."""
    erasing_aspect: AtLeastOne = 3.3
    """Largest ratio of the long to the short side of what is erased."""
    own: Annotated[
        tuple[Annotated[str, Accepts("", lambda name: ":" in name)] | Handed, ...],
        Accepts("a tuple of functions (key, image, label) -> (image, label)"),
    ] = ()
    """Functions of your own, (key, image, label) -> (image, label), which are applied to each
    image (h, w, c) as the network sees it, in this order, after all changes above and before
    mixup and CutMix; one that jaxcnn.on_batches marks, to all images of a batch at once. They are
    part of the compiled step. Only Python can set them."""
    mixup: NotNegative = 0.0
    """Alpha of mixup, such as 0.2: images are averaged with weights drawn from Beta(alpha, alpha)
    (Zhang et al. 2018)."""
    cutmix: NotNegative = 0.0
    """Alpha of CutMix, such as 1.0 (Yun et al. 2019). If mixup is set too, each batch uses one of
    the two at random."""
    repeats: Count = 1
    """How often each example stands in a batch, changed anew each time, such as 3 (repeated
    augmentation, Hoffer et al. 2020). An epoch has as many steps as without, and sees one part in
    so many of the training examples, others each time."""

    def __post_init__(self) -> None:
        """Takes up functions that were brought, and checks the fields and their relations."""
        if isinstance(self.own, tuple):
            object.__setattr__(self, "own", tuple(map(bring, self.own)))
        super().__post_init__()
        first, *others = [name for name in POLICIES if getattr(self, name)] or [""]
        for name in others:
            default = type(self).__dataclass_fields__[name].default
            self.require(name, False, f"{default} with augment.{first}={getattr(self, first)!r}")
        both = self.repeats > 1 and self.flip == "alternating"
        accepted = f"True or False with augment.repeats={self.repeats}, as an epoch leaves out most"
        self.require("flip", not both, accepted)


POLICIES = ("rand_augment", "trivial_augment", "auto_augment", "augmix")
"""Fields of :class:`Augment` of which one at most is set."""


@dataclass(frozen=True)
class Model(Checked, section="model"):
    """The network to train."""

    name: Annotated[
        str | Handed, Accepts("a name of `jaxcnn list`, or a Linen module or its class")
    ] = "lenet5"
    """The network's name; `jaxcnn list` shows all. In Python also a network of your own: a Linen
    module or its class, or a function of the options that returns a module."""
    options: Mapping[str, Option] = field(default_factory=dict)
    """Settings of the network that differ from its defaults, each as a name and a value: dropout
    0.2."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Type of the arithmetic; parameters and statistics stay float32. With float16, for cards
    without bfloat16, the loss is scaled, and steps whose gradients overflow are left out
    (Micikevicius et al. 2018)."""
    init_from: Folder | None = None
    """The folder of a run, or of imported weights, to start from. The last layer starts afresh if
    the number of classes differs."""

    def __post_init__(self) -> None:
        """Takes up a network that was brought, and checks the fields."""
        name, fields = bring_network(self.name)
        object.__setattr__(self, "name", name)
        if isinstance(self.options, Mapping):
            given = {**fields, **self.options}
            names = {k: v.name if isinstance(v, enum.Enum) else v for k, v in given.items()}
            object.__setattr__(self, "options", names)
        super().__post_init__()


@dataclass(frozen=True)
class Task(Checked, section="task"):
    """What is learned, and how it is judged."""

    name: (
        Literal["classification", "multilabel", "regression", "segmentation"]
        | Annotated[str, Accepts("", lambda name: ":" in name)]
        | Annotated[Handed, Accepts("a class derived from jaxcnn.BaseTask")]
    ) = "classification"
    """The task: one class for each image (top-1), any number of labels (multilabel, mean average
    precision), numbers (regression, R2), or a class for each pixel (segmentation, mean IoU). In
    Python also a class of your own, derived from jaxcnn.BaseTask."""
    options: Mapping[str, Option] = field(default_factory=dict)
    """Settings of the task that differ from its defaults, each as a name and a value."""

    def __post_init__(self) -> None:
        """Takes up a task that was brought, and checks the fields."""
        object.__setattr__(self, "name", bring(self.name))
        super().__post_init__()


@dataclass(frozen=True)
class Optim(Checked, section="optim"):
    """The optimizer. Weight decay and trust ratios leave out biases and normalisation."""

    name: (
        Literal["sgd", "adamw", "lamb", "lars", "lion", "muon"]
        | Annotated[str, Accepts("'optax:NAME'", lambda name: ":" in name)]
        | Annotated[Handed, Accepts("a function that returns an optax.GradientTransformation")]
    ) = "sgd"
    """SGD with momentum, AdamW (Loshchilov & Hutter 2019), LAMB (You et al. 2020), LARS (You et al.
    2017), Lion (Chen et al. 2023), or Muon (Jordan 2024; Liu et al. 2025), which orthogonalises the
    updates of kernels as matrices (h * w * i, o) and scales them as AdamW's; biases, normalisation,
    depthwise kernels and the last layer are left to Adam. optax:NAME is any other that Optax has,
    such as optax:adabelief or optax:contrib.prodigy; in Python it may be a function of your own."""
    options: Mapping[str, Option] = field(default_factory=dict)
    """Settings of an optimizer of Optax or of your own, each as a name and a value; the learning
    rate and weight decay have fields for them."""
    peak_lr: Positive = 0.1
    """The largest learning rate that the schedule reaches."""
    momentum: ShareBelowOne = 0.9
    """Momentum of SGD, LARS and Muon (whose author uses 0.95)."""
    nesterov: bool = True
    """Nesterov momentum in SGD, LARS and Muon (Sutskever et al. 2013); Muon's Adam has none."""
    b1: ShareBelowOne = 0.9
    """Decay of the first moment in AdamW, LAMB, Lion and Muon's Adam."""
    b2: ShareBelowOne = 0.999
    """Decay of the second moment in AdamW, LAMB and Muon's Adam, and of the momentum in Lion (whose
    authors use 0.99)."""
    weight_decay: NotNegative = 0.0
    """SGD and LARS add weight_decay * kernel to the gradient; the others subtract lr * weight_decay
    * kernel (LAMB before its trust ratio)."""
    clip_norm: Positive | None = None
    """Scales a gradient of a larger global norm down to this norm."""
    sam_rho: NotNegative = 0.0
    """Above 0, takes the gradient at the worst point within this distance (sharpness-aware
    minimisation, Foret et al. 2021), with any optimizer. A step then costs as much as two."""
    schedule_free: bool = False
    """Averages the iterates of SGD or AdamW, with momentum or b1 as the weight, instead of lowering
    the learning rate (Defazio et al. 2024). The averages are evaluated. Needs the constant
    schedule."""
    layer_decay: ShareAboveZero = 1.0
    """Learning rate of a top-level module as a fraction of the next module's; the last one learns
    at the full rate."""
    freeze: Annotated[tuple[Pattern, ...], Accepts("a tuple of regular expressions")] = ()
    """Parameters to leave untrained, as regular expressions for whole parts of their names: conv1,
    layer[12]_.*, or conv2/bias. Statistics of normalisation layers are still updated."""
    head_only: bool = False
    """Trains only the arrays whose shape depends on the number of classes, on features computed as
    in evaluation (a linear probe)."""

    def __post_init__(self) -> None:
        """Takes up an optimizer that was brought, and checks the fields and their relations."""
        object.__setattr__(self, "name", bring(self.name))
        super().__post_init__()
        if self.is_from_outside:
            for name in ("momentum", "nesterov", "b1", "b2"):
                default = type(self).__dataclass_fields__[name].default
                accepted = f"{default} with optim.name={self.name!r}, which has optim.options"
                self.require(name, getattr(self, name) == default, accepted)
        else:
            accepted = f"empty with optim.name={self.name!r}, whose settings are fields"
            self.require("options", not self.options, accepted)
        if self.schedule_free:
            accepted = "'sgd' or 'adamw' with optim.schedule_free"
            self.require("name", self.name in ("sgd", "adamw"), accepted)
            beta = "momentum" if self.name == "sgd" else "b1"
            self.require(beta, getattr(self, beta) > 0, "above 0 with optim.schedule_free")

    @property
    def is_from_outside(self) -> bool:
        """Whether the optimizer is one of Optax's by its name there, or was brought."""
        return ":" in str(self.name)


@dataclass(frozen=True)
class Schedule(Checked, section="schedule"):
    """The learning rate over time: a linear warm-up, then the named curve."""

    name: (
        Literal["constant", "cosine", "polynomial", "step", "one_cycle"]
        | Annotated[str, Accepts("", lambda name: ":" in name)]
        | Annotated[Handed, Accepts("a function of the share of the run that is done")]
    ) = "cosine"
    """The curve: constant; half a cosine (Loshchilov & Hutter 2017) or a polynomial down to
    end_factor; steps down at milestones; or one cycle, up from peak_lr / 25 and down to end_factor
    (Smith & Topin 2019). In Python also a function of your own, of the share of the steps after the
    warm-up that is done, which returns the factor of peak_lr."""
    warmup_epochs: NotNegative = 1.0
    """Epochs of a linear rise from 0 to peak_lr, or of one_cycle's rise. In a run that is shorter
    than that, it takes a tenth of the run."""
    end_factor: Share = 0.0
    """Last learning rate of cosine, polynomial and one_cycle, as a fraction of peak_lr."""
    power: Positive = 1.0
    """Exponent of the polynomial; 1 gives a straight line."""
    milestones: Rising = ()
    """Epochs from the start of the run at which the step schedule lowers the learning rate."""
    factor: ShareAboveZero = 0.1
    """The factor by which each milestone multiplies the learning rate."""
    options: Mapping[str, Option] = field(default_factory=dict)
    """Settings of a curve of your own, each as a name and a value."""
    swa_lr: Positive | None = None
    """The constant learning rate from train.swa_start on. None goes on along the curve."""
    swa_anneal_epochs: NotNegative = 0.0
    """Epochs in which the learning rate goes from the curve's at train.swa_start to swa_lr."""
    swa_anneal: Literal["cosine", "linear"] = "cosine"
    """Whether it goes there along half a cosine or a straight line."""
    swa_cycle_lr: Positive | None = None
    """Instead of a constant rate, one that falls in a line from swa_cycle_lr to swa_lr between two
    weights that are averaged (Izmailov et al. 2018)."""

    def __post_init__(self) -> None:
        """Takes up a curve that was brought, and checks the fields and their relations."""
        object.__setattr__(self, "name", bring(self.name))
        super().__post_init__()
        own = isinstance(self.name, Brought) or ":" in self.name
        self.require("options", own or not self.options, f"empty for the {self.name} schedule")
        if self.name == "step":
            after = min(self.milestones, default=-1) >= self.warmup_epochs
            self.require("milestones", after, "rising epochs, after schedule.warmup_epochs")
        else:
            self.require("milestones", not self.milestones, f"empty for the {self.name} schedule")
        for name in ("swa_anneal_epochs", "swa_cycle_lr"):
            left_out = self.swa_lr is not None or not getattr(self, name)
            default = type(self).__dataclass_fields__[name].default
            self.require(name, left_out, f"{default} without schedule.swa_lr")
        free = self.swa_cycle_lr is None or not self.swa_anneal_epochs
        self.require("swa_anneal_epochs", free, "0 with schedule.swa_cycle_lr")


@dataclass(frozen=True)
class Train(Checked, section="train"):
    """How long to train, from which seed, and how often to evaluate and save."""

    epochs: Count = 10
    """Passes over the training set. Each leaves out the few examples that do not fill a batch,
    different ones each time."""
    seed: Seed = 0
    """Seed of initialisation, example order, augmentation and dropout."""
    label_smoothing: ShareBelowOne = 0.0
    """Share of each target that is spread evenly over all classes (Szegedy et al. 2016). Regression
    has none."""
    accumulate: Count = 1
    """Computes each batch in this many parts, to save memory. The gradient is that of the whole
    batch; batch statistics are those of each part."""
    ema_decay: ShareBelowOne = 0.0
    """Above 0, evaluation, prediction and the best checkpoint use a moving average of parameters
    and batch statistics with this decay per step."""
    swa_start: NotNegative | None = None
    """From this epoch on, weights are averaged, all alike (stochastic weight averaging, Izmailov et
    al. 2018). Evaluation, prediction and the best checkpoint use the averages, with batch
    statistics computed anew; see schedule.swa_lr. None averages none."""
    swa_every: Count | None = None
    """Steps between the weights that are averaged; None takes those at the end of each epoch."""
    swa_bn_examples: Count = 10_000
    """From how many training examples, at most, the averages get their batch statistics whenever
    they are evaluated or saved: from the batches of the run's first steps."""
    sizes: Annotated[tuple[Side, ...], Accepts("a tuple of sizes in [1, 32768]")] = ()
    """Heights and widths of the images in training, one after the other (progressive resizing), as
    128 160 192; evaluation sees data.image_size. Each has a compiled program, made when it is due.
    Nothing leaves images as evaluation sees them."""
    resize_at: RisingCounts = ()
    """Epochs after which the next of train.sizes is used, one fewer than sizes, as 10 15."""
    distill_from: Folder | None = None
    """The folder of a run, or of imported weights, to use as the teacher (Hinton et al. 2015); it
    sees the same images in evaluation mode."""
    distill_weight: Share = 0.5
    """Weight of the teacher in the loss; the labels get the rest."""
    distill_temperature: Positive = 2.0
    """Divides the logits in the teacher's part of the loss, which is then multiplied by the square
    of this number."""
    patience: Count | None = None
    """Stops after this many epochs without a better result on the validation set, by the task's
    first metric. Without data.validation, a tenth of the training examples is put aside for it; see
    select_on."""
    select_on: Literal["auto", "test"] = "auto"
    """What best checkpoints, patience and sweeps choose by: the validation set (auto), for which
    patience and sweeps put a tenth of the training examples aside where there is none; or the
    test set, whose accuracy is then an optimistic estimate. The best checkpoint of a run with
    neither patience nor data.validation is always the best on the test set."""
    eval_every: Count = 1
    """Epochs between evaluations on the validation set, or where there is none on the test set."""
    save_minutes: NotNegative = 2.0
    """Minutes between checkpoints, within an epoch too: about as much is lost by a run that is
    killed. The last state is always saved."""
    checkpoint_every: Count | None = None
    """Saves a checkpoint after every so many epochs too; None leaves it to save_minutes."""
    seeds_mode: SeedsMode = "auto"
    """How several seeds, or trials of a sweep, are trained in one program: in a loop (map), one
    after another without a loop (unroll), as one batch (vmap), likewise but for convolutions
    (layers), or on several devices (devices). auto takes the fastest for a few steps; alone gives
    each run a program of its own."""


@dataclass(frozen=True)
class Devices(Checked, section="devices"):
    """How many devices share a run; steps are the same on any number of them, up to rounding."""

    data: Count | None = None
    """Number of groups of fsdp devices; None uses all devices. A batch is split evenly over the
    devices of all groups."""
    fsdp: Count = 1
    """Devices per group; these also split large parameters and optimizer state among themselves
    (fully sharded data parallelism)."""


@dataclass(frozen=True)
class Distributed(Checked, section="distributed"):
    """One of several processes that train together; SLURM and Kubernetes set this by themselves."""

    coordinator: Address | None = None
    """HOST:PORT of process 0, the same for all processes."""
    processes: Count | None = None
    """The number of processes."""
    process: Natural | None = None
    """The number of this process, counted from 0."""

    def __post_init__(self) -> None:
        """Checks the fields, and that all are given or none."""
        super().__post_init__()
        if self.processes is not None and self.process is not None:
            accepted = f"a whole number in [0, {self.processes})"
            self.require("process", self.process < self.processes, accepted)
        missing = [name for name, value in vars(self).items() if value is None]
        for name in missing:
            self.require(name, len(missing) == 3, "given with the other two")


@dataclass(frozen=True)
class Experiment(Checked):
    """One training run, whole."""

    name: FolderName = "experiment"
    """The experiment's name, with which the names of run folders begin."""
    data: Data = Data()
    augment: Augment = Augment()
    model: Model = field(default_factory=Model)
    task: Task = field(default_factory=Task)
    optim: Optim = field(default_factory=Optim)
    schedule: Schedule = Schedule()
    train: Train = Train()
    devices: Devices = Devices()

    def __post_init__(self) -> None:
        """Checks the fields, and the relations between sections."""
        super().__post_init__()
        _require_one_name_each([self])
        data, augment = self.data, self.augment
        self.require(
            "train.accumulate",
            data.batch_size % self.train.accumulate == 0,
            f"a divisor of data.batch_size={data.batch_size}",
        )
        self.require(
            "augment.repeats",
            augment.repeats <= data.batch_size,
            f"at most data.batch_size={data.batch_size}",
        )
        if augment.random_crop:
            margin = (data.read_size or 0) > (data.image_size or 0)
            self.require(
                "augment.random_crop",
                data.fit == "crop" and margin and not augment.random_resized_crop,
                "False without data.fit='crop' and data.read_size above data.image_size, or with "
                "augment.random_resized_crop",
            )
        if self.optim.schedule_free:
            constant = self.schedule.name == "constant"
            self.require("schedule.name", constant, "'constant' with optim.schedule_free")
            accepted = "0 with optim.schedule_free, which averages by itself"
            self.require("train.ema_decay", self.train.ema_decay == 0, accepted)
        self._check_averages()
        sizes = self.train.sizes
        self.require(
            "train.resize_at",
            len(self.train.resize_at) == max(len(sizes) - 1, 0),
            f"one epoch fewer than train.sizes={sizes}",
        )
        late = self.train.resize_at[-1:] >= (self.train.epochs,)
        accepted = f"below train.epochs={self.train.epochs}"
        self.require("train.resize_at", not late, accepted)
        if sizes:
            accepted = "False with train.sizes, to which images are resized"
            self.require("augment.random_crop", not augment.random_crop, accepted)
            accepted = "None with train.sizes, since a teacher sees one size"
            self.require("train.distill_from", self.train.distill_from is None, accepted)
        free = data.validation is None or self.train.select_on != "test"
        accepted = f"'auto' with data.validation={data.validation!r}, which is there to choose by"
        self.require("train.select_on", free, accepted)

    def _check_averages(self) -> None:
        """Checks that weights are averaged in one way, if at all."""
        start = self.train.swa_start
        if start is None:
            for name in ("train.swa_every", "schedule.swa_lr"):
                section, _, field = name.partition(".")
                unset = getattr(getattr(self, section), field) is None
                self.require(name, unset, "None without train.swa_start")
            return
        accepted = f"below train.epochs={self.train.epochs}"
        self.require("train.swa_start", start < self.train.epochs, accepted)
        one = "with train.swa_start, which averages by itself"
        self.require("train.ema_decay", self.train.ema_decay == 0, f"0 {one}")
        self.require("optim.schedule_free", not self.optim.schedule_free, f"False {one}")


def with_warmup_cut(experiment: Experiment) -> Experiment:
    """Returns the experiment, with a tenth of its epochs as warm-up if it asks for more than all.

    >>> cut = with_warmup_cut(Experiment(schedule=Schedule(warmup_epochs=2), train=Train(epochs=1)))
    >>> cut.schedule.warmup_epochs
    0.1
    """
    schedule, epochs = experiment.schedule, experiment.train.epochs
    if schedule.warmup_epochs <= epochs:
        return experiment
    return replace(experiment, schedule=replace(schedule, warmup_epochs=epochs / 10))


@dataclass(frozen=True)
class Comparison(Checked):
    """Experiments on the same test set that differ in what is to be decided, over several seeds.

    Their names tell them apart; their own seeds do not count.
    """

    arms: Annotated[tuple[Experiment, ...], Accepts("a tuple of experiments")]
    """The experiments, of which the first is compared with the others."""
    seeds: Annotated[int, _whole(1, MOST_SEEDS)] = 3
    """Every arm is trained with the seeds 0, 1, ..., seeds - 1."""
    corrupted: Count | None = None
    """How many test images, the same of every run, are corrupted in the 15 ways of Hendrycks &
    Dietterich (2019) at 5 severities, to compare what the arms reach on those; by default none."""

    def __post_init__(self) -> None:
        """Checks the fields, and that the arms can be told apart and compared."""
        super().__post_init__()
        judged = str(self.arms[0].task.name) if self.arms else ""
        accepted = f"None with task.name={judged!r}: images are to have one class each"
        fits = self.corrupted is None or judged in ("", "classification")
        require("corrupted", self.corrupted, fits, accepted)
        _require_one_name_each(self.arms)
        names = [arm.name for arm in self.arms]
        require("arms", names, len(names) >= 2, "two experiments or more")
        require("arms", names, len(set(names)) == len(names), "of different names")
        wanted, task = _tested_on(self.arms[0].data), self.arms[0].task.name
        for arm in self.arms:
            accepted = f"{str(task)!r}, as in the first arm: all are judged by it"
            same = arm.task.name == task
            require(f"arms[{arm.name!r}].task.name", str(arm.task.name), same, accepted)
            for name, value in _tested_on(arm.data).items():
                accepted = f"{wanted[name]!r}, as in the first arm: all are tested on it"
                full = f"arms[{arm.name!r}].data.{name}"
                require(full, value, value == wanted[name], accepted)


def _require_one_name_each(experiments: Sequence[Experiment]) -> None:
    """Checks that objects that were brought can be told apart by their names."""
    known: dict[str, Brought] = {}
    for experiment in experiments:
        for place, brought in brought_in(experiment).items():
            other = known.setdefault(brought.name, brought)
            accepted = "the name of one object; two are called so, such as two lambdas: name them"
            require(place, brought.name, other.target is brought.target, accepted)


def _tested_on(data: Data) -> dict[str, object]:
    """Returns the fields that decide on which images a network is tested."""
    fields = ("name", "dir", "seed", "num_classes", "channels", "test_share")
    return {**{name: getattr(data, name) for name in fields}, "examples[1]": data.examples[1]}


RESUME_MAY_CHANGE = frozenset(
    {
        "name",
        "data.dir",
        "data.eval_batch_size",
        "data.workers",
        "data.max_bad_images",
        "devices.data",
        "devices.fsdp",
        "train.epochs",
        "train.patience",
        "train.select_on",
        "train.eval_every",
        "train.checkpoint_every",
        "train.save_minutes",
        "train.seeds_mode",
    }
)
"""Fields that a resumed run may change: where, how long and how often, never what is learned."""


def to_dict(experiment: Experiment) -> dict[str, Any]:
    """Returns the experiment as plain dicts, tuples and scalars, ready for JSON."""
    plain: dict[str, Any] = _plain(experiment)
    return plain


def _plain(value: Any) -> Any:
    if isinstance(value, Brought):
        return value.name
    if dataclasses.is_dataclass(value):
        names = [field.name for field in dataclasses.fields(value)]
        return {name: _plain(getattr(value, name)) for name in names}
    if isinstance(value, Mapping):
        return {name: _plain(inner) for name, inner in value.items()}
    return tuple(map(_plain, value)) if isinstance(value, tuple) else value


def brought_in(experiment: Experiment) -> dict[str, Brought]:
    """Returns the objects that an experiment holds, by the fields that hold them.

    >>> brought_in(Experiment())
    {}
    """

    def of(value: Any, name: str) -> dict[str, Brought]:
        if isinstance(value, Brought):
            return {name: value}
        inner: dict[str, Any] = {}
        if dataclasses.is_dataclass(value):
            inner = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        elif isinstance(value, tuple):
            inner = {str(place): part for place, part in enumerate(value)}
        found: dict[str, Brought] = {}
        for key, part in inner.items():
            found |= of(part, f"{name}.{key}" if name else key)
        return found

    return of(experiment, "")


def from_dict(values: Mapping[str, Any]) -> Experiment:
    """Returns the experiment of a :func:`to_dict` dict, also after a trip through JSON.

    Raises:
        InputError: an unknown section or field, or a value that the field refuses.
    """
    kinds = annotations(Experiment)
    parts = dict(values)
    for section, value in values.items():
        if section not in kinds:
            raise InputError(f"config: unknown section {shown(section)}")
        if section == "name":
            continue
        if not isinstance(value, Mapping):
            raise InputError(f"config: section {section!r} must be an object, is {shown(value)}")
        for name in value:
            if name not in annotations(kinds[section]):
                raise InputError(f"config: unknown field {shown(name)} of {section!r}")
        parts[section] = kinds[section](**_tuples(value))
    return Experiment(**parts)


def _tuples(value: Any, depth: int = 4) -> Any:
    """Returns nested values with tuples for lists, as JSON has no tuples.

    No field is nested deeper than the sections of an experiment, options and tuples in them.
    """
    if isinstance(value, list) and depth:
        return tuple(_tuples(v, depth - 1) for v in value)
    if isinstance(value, Mapping) and depth:
        return {k: _tuples(v, depth - 1) for k, v in value.items()}
    return value


def flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns nested dicts as one dict of dotted names, without JAX; an empty dict has none.

    >>> flat({"name": "a", "model": {"name": "mlp", "options": {}}, "train": {"seed": 1}})
    {'name': 'a', 'model.name': 'mlp', 'train.seed': 1}
    """
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= {f"{name}.{inner}": leaf for inner, leaf in flat(value).items()}
        else:
            found[name] = value
    return found


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Returns the fields in which two :func:`to_dict` dicts differ, with both values.

    A field that one of them lacks is None there.

    >>> differences({"train": {"seed": 1}}, {"train": {"seed": 2}})
    {'train.seed': (1, 2)}
    """
    a, b = flat(_tuples(old)), flat(_tuples(new))
    return {
        k: (a.get(k), b.get(k)) for k in sorted(a | b) if (k in a, a.get(k)) != (k in b, b.get(k))
    }
