"""An experiment is a value: frozen dataclasses that say everything a run needs.

An experiment file holds one function, ``config() -> Experiment``, a comparison file
``config() -> Comparison``. Every field can be overridden
from the command line (``--optim.peak-lr 0.2``), and the resolved value is written into the run
folder as config.json, from which :func:`from_dict` builds the same value again.
"""

import dataclasses
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from jaxcnn.errors import InputError

Views = Literal["none", "flip", "five_crop", "ten_crop"]
"""Of a test image, for test-time augmentation."""
SeedsMode = Literal["auto", "map", "unroll", "vmap", "devices", "alone"]
"""How runs are computed together: see ``train.seeds_mode``."""
Option = bool | int | float | str | tuple[int, ...]


def _require(holds: bool, name: str, value: object, accepted: str) -> None:
    if not holds:
        raise InputError(f"{name}={value!r}: must be {accepted}")


def _require_choice(name: str, value: object, *choices: str) -> None:
    accepted = ", ".join(map(repr, choices[:-1])) + f" or {choices[-1]!r}"
    _require(value in choices, name, value, accepted)


def _require_text(name: str, value: object) -> None:
    _require(value is None or isinstance(value, str), name, value, "a text (str of a path) or None")


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_seed(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**31


def _is_number(value: object, low: float, high: float = math.inf) -> bool:
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and math.isfinite(value)
        and low <= value <= high
    )


@dataclass(frozen=True)
class Data:
    """Where the images come from and how they reach the network."""

    name: str = "digits"
    """"digits" (embedded), "shapes" or "synthetic" (generated: figures to learn, or noise to
    measure speed with), "folder" (image files), or the name of a TFDS dataset prepared as
    array_record."""
    dir: str | None = None
    """Folder of prepared TFDS datasets; None takes TFDS_DATA_DIR, else TFDS's default. Of "folder":
    what holds train/CLASS/... and test/CLASS/... (or val/CLASS/...)."""
    train_limit: int | None = None
    """Trains on this many examples only (evaluation stays whole)."""
    batch_size: int = 64
    """Examples per training step."""
    eval_batch_size: int = 500
    """Examples per evaluation step; the last one is padded and masked."""
    image_size: int | None = None
    """Side of the square that the network sees; None keeps the dataset's own size, which is 32 for
    generated images."""
    fit: Literal["pad", "resize", "crop"] = "pad"
    """How an image of another size reaches image_size: zeros around it, bilinear resizing, or
    the middle, of 7/8 of the shorter side, resized bilinearly."""
    read_size: int | None = None
    """Side of the square in which images of different sizes are read, where it is another than
    image_size: with fit "crop" the middle of the whole shorter side, so that 256 for an image_size
    of 224 leaves random crops their margin."""
    mean: tuple[float, ...] = (0.0,)
    """Per channel, of pixels scaled to [0, 1]: x = (pixel / 255 - mean) / std."""
    std: tuple[float, ...] = (1.0,)
    """Per channel, of pixels scaled to [0, 1]."""
    examples: tuple[int, int] = (10_000, 1_000)
    """Of a generated set: numbers of training and of test images."""
    channels: int = 3
    """Of synthetic images and of those in a folder: 1 (grey) or 3 (colour)."""
    num_classes: int = 10
    """Of synthetic images."""
    seed: int = 0
    """Of generated images; their order, as everything else, has train.seed."""
    streaming: bool | None = None
    """Reads batch by batch what does not fit into memory; None decides by the decoded size, of
    which 2 GiB are held in memory. The order of the examples is another than in memory."""
    workers: int | None = None
    """Processes that read a stream, 0 to read in threads of the training process; None takes one
    for each core, or threads where the CPU itself trains. What is learned does not depend on it."""
    max_bad_images: int = 10
    """Files of a folder that may be unreadable; they are named and left out."""

    def __post_init__(self) -> None:
        """Checks what can be checked without the data."""
        _require(
            isinstance(self.name, str) and bool(self.name),
            "data.name",
            self.name,
            "'digits' or the name of a TFDS dataset",
        )
        _require_text("data.dir", self.dir)
        for name in ("batch_size", "eval_batch_size", "num_classes"):
            value = getattr(self, name)
            _require(_is_count(value), f"data.{name}", value, "a positive whole number")
        _require(
            isinstance(self.examples, tuple)
            and len(self.examples) == 2
            and all(_is_count(n) for n in self.examples),
            "data.examples",
            self.examples,
            "two positive whole numbers, of training and of test images",
        )
        _require(
            _is_count(self.channels) and self.channels in (1, 3),
            "data.channels",
            self.channels,
            "1 or 3",
        )
        _require(_is_seed(self.seed), "data.seed", self.seed, "a whole number in [0, 2**31)")
        for name in ("image_size", "read_size", "train_limit"):
            value = getattr(self, name)
            _require(
                value is None or _is_count(value),
                f"data.{name}",
                value,
                "a positive whole number or None",
            )
        _require_choice("data.fit", self.fit, "pad", "resize", "crop")
        _require(
            self.read_size is None or (self.image_size is not None and self.fit != "pad"),
            "data.read_size",
            self.read_size,
            "None without data.image_size and data.fit='resize' or 'crop'",
        )
        _require(
            self.streaming in (True, False, None),
            "data.streaming",
            self.streaming,
            "True, False or None",
        )
        for name in ("workers", "max_bad_images"):
            value = getattr(self, name)
            _require(
                value == 0 or _is_count(value) or (name == "workers" and value is None),
                f"data.{name}",
                value,
                "a whole number >= 0",
            )
        for name, low in (("mean", -math.inf), ("std", 1e-12)):
            value = getattr(self, name)
            _require(
                isinstance(value, tuple)
                and len(value) >= 1
                and all(_is_number(v, low) for v in value),
                f"data.{name}",
                value,
                "one finite number per channel" + (", above 0" if name == "std" else ""),
            )


@dataclass(frozen=True)
class Augment:
    """Random changes to each training image, made inside the compiled step; 0 leaves one out."""

    flip: bool = False
    """Mirrors left and right with probability 1/2."""
    crop_padding: int = 0
    """Pads by this many pixels of zeros and crops back at a random place."""
    random_crop: bool = False
    """Cuts image_size pixels out of the read_size that were read, at a random place (Krizhevsky et
    al. 2012). Evaluation takes the middle 7/8, at the same scale where read_size is 8/7 of
    image_size, as 256 is of 224."""
    cutout: int = 0
    """Side of a square, at a random place, that is set to zero (DeVries & Taylor 2017)."""
    rotate: float = 0.0
    """Largest rotation, in degrees, either way (bilinear)."""
    zoom: float = 0.0
    """Largest relative change of size, either way (bilinear)."""
    random_resized_crop: float = 0.0
    """Smallest share of the area that is cropped and brought to the network's size, as 0.08
    (Szegedy et al. 2015)."""
    crop_aspect: float = 4 / 3
    """Largest width / height, and height / width, of that crop."""
    rand_augment: int = 0
    """Operations on each image, as 2 (RandAugment, Cubuk et al. 2020)."""
    rand_augment_magnitude: int = 9
    """Their strength, 0 to 30."""
    trivial_augment: bool = False
    """One operation of random strength on each image (TrivialAugment, Müller & Hutter 2021)."""
    brightness: float = 0.0
    """Colour jitter: the factor is drawn from 1 - brightness to 1 + brightness."""
    contrast: float = 0.0
    """Likewise; blends with the mean grey value."""
    saturation: float = 0.0
    """Likewise; blends with the grey image. Grey images stay."""
    hue: float = 0.0
    """Largest turn of the hue, as part of the circle, either way. Grey images stay."""
    random_erasing: float = 0.0
    """Probability that a rectangle is set to zero (Zhong et al. 2020)."""
    erasing_area: tuple[float, float] = (0.02, 0.33)
    """Smallest and largest share of the area of that rectangle."""
    erasing_aspect: float = 3.3
    """Largest width / height, and height / width, of that rectangle."""
    mixup: float = 0.0
    """Alpha of mixup (Zhang et al. 2018), as 0.2."""
    cutmix: float = 0.0
    """Alpha of CutMix (Yun et al. 2019), as 1.0; with mixup, each batch uses one of the two."""

    def __post_init__(self) -> None:
        """Checks the ranges."""
        for name in ("flip", "random_crop", "trivial_augment"):
            value = getattr(self, name)
            _require(isinstance(value, bool), f"augment.{name}", value, "True or False")
        for name in ("crop_padding", "cutout", "rand_augment"):
            value = getattr(self, name)
            _require(
                type(value) is int and value >= 0, f"augment.{name}", value, "a whole number >= 0"
            )
        _require(
            type(self.rand_augment_magnitude) is int and 0 <= self.rand_augment_magnitude <= 30,
            "augment.rand_augment_magnitude",
            self.rand_augment_magnitude,
            "a whole number in [0, 30]",
        )
        for name, low, high, accepted in (
            ("rotate", 0, 180, "degrees in [0, 180]"),
            ("zoom", 0, 0.9, "in [0, 0.9]"),
            ("random_resized_crop", 0, 1, "in [0, 1]"),
            ("crop_aspect", 1, math.inf, "a finite number >= 1"),
            ("brightness", 0, math.inf, "a finite number >= 0"),
            ("contrast", 0, math.inf, "a finite number >= 0"),
            ("saturation", 0, math.inf, "a finite number >= 0"),
            ("hue", 0, 0.5, "in [0, 0.5]"),
            ("random_erasing", 0, 1, "in [0, 1]"),
            ("erasing_aspect", 1, math.inf, "a finite number >= 1"),
            ("mixup", 0, math.inf, "a finite number >= 0"),
            ("cutmix", 0, math.inf, "a finite number >= 0"),
        ):
            value = getattr(self, name)
            _require(_is_number(value, low, high), f"augment.{name}", value, accepted)
        _require(
            isinstance(self.erasing_area, tuple)
            and len(self.erasing_area) == 2
            and all(_is_number(v, 0, 1) for v in self.erasing_area)
            and self.erasing_area[0] <= self.erasing_area[1],
            "augment.erasing_area",
            self.erasing_area,
            "two numbers in [0, 1], the smaller first",
        )
        _require(
            not (self.trivial_augment and self.rand_augment),
            "augment.trivial_augment",
            self.trivial_augment,
            f"False with augment.rand_augment={self.rand_augment}",
        )


@dataclass(frozen=True)
class Model:
    """Which network, by its name in ``jaxcnn.models``."""

    name: str = "lenet5"
    """One of `jaxcnn list`."""
    options: Mapping[str, Option] = field(default_factory=dict)
    """Fields of the network that differ from its defaults, such as dropout."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the arithmetic; parameters and statistics stay float32."""
    init_from: str | None = None
    """Folder of a run or of imported weights to start from; layers that give the logits start
    anew where the number of classes differs."""

    def __post_init__(self) -> None:
        """Checks the type of the arithmetic; names are checked where the models are."""
        _require(isinstance(self.name, str), "model.name", self.name, "a name of `jaxcnn list`")
        _require_text("model.init_from", self.init_from)
        _require(isinstance(self.options, Mapping), "model.options", self.options, "a dict")
        _require_choice("model.dtype", self.dtype, "float32", "bfloat16")
        for name, value in self.options.items():
            parts = value if isinstance(value, tuple) else (value,)
            _require(
                all(isinstance(part, bool | int | float | str) for part in parts),
                f"model.options.{name}",
                value,
                "a truth value, number, text or tuple of numbers",
            )


@dataclass(frozen=True)
class Optim:
    """The optimizer. Weight decay and trust ratios spare biases and normalisation."""

    name: Literal["sgd", "adamw", "lamb", "lars", "lion", "muon"] = "sgd"
    """SGD with momentum, AdamW (Loshchilov & Hutter 2019), LAMB (You et al. 2020), LARS (You et
    al. 2017), Lion (Chen et al. 2023), or Muon (Jordan 2024), which orthogonalises the updates of
    kernels as matrices (h * w * i, o), scaled to AdamW's size (Liu et al. 2025), and gives
    biases, normalisation, depthwise kernels and the last layer to Adam."""
    peak_lr: float = 0.1
    """The largest learning rate of the schedule."""
    momentum: float = 0.9
    """Of SGD, LARS and Muon (whose author takes 0.95)."""
    nesterov: bool = True
    """Looks ahead along the momentum (Sutskever et al. 2013): SGD, LARS and Muon."""
    b1: float = 0.9
    """Decay of the first moment: AdamW, LAMB, Lion, and Adam in Muon."""
    b2: float = 0.999
    """Decay of the second moment: AdamW, LAMB, Adam in Muon; in Lion of the momentum (its authors
    take 0.99)."""
    weight_decay: float = 0.0
    """SGD and LARS add weight_decay * kernel to the gradient, the others subtract lr *
    weight_decay * kernel (LAMB before its trust ratio)."""
    clip_norm: float | None = None
    """Largest global norm of the gradient."""
    sam_rho: float = 0.0
    """Above 0, the gradient is that at the worst point within this distance (sharpness-aware
    minimisation, Foret et al. 2021), around any optimizer; a step costs two."""
    schedule_free: bool = False
    """SGD or AdamW without momentum, whose iterates are averaged, weighted by momentum or b1
    (Defazio et al. 2024); the averages are what is evaluated. For a constant schedule."""
    layer_decay: float = 1.0
    """The last top-level module learns at the full rate, each one before it at this times the
    rate of its successor."""
    freeze: tuple[str, ...] = ()
    """Parameters that stay as they are: regular expressions for whole parts of their names, as
    conv1, layer[12]_.*, or conv2/bias. Normalisation goes on following the batches."""
    head_only: bool = False
    """A linear probe: trains only the arrays whose shape depends on the number of classes, on
    features computed as in evaluation (fixed statistics, no dropout)."""

    def __post_init__(self) -> None:
        """Checks the ranges."""
        _require_choice("optim.name", self.name, "sgd", "adamw", "lamb", "lars", "lion", "muon")
        _require(
            _is_number(self.peak_lr, 0) and self.peak_lr > 0,
            "optim.peak_lr",
            self.peak_lr,
            "a finite number above 0",
        )
        for name in ("momentum", "b1", "b2"):
            value = getattr(self, name)
            _require(_is_number(value, 0, 1) and value < 1, f"optim.{name}", value, "in [0, 1)")
        for name in ("weight_decay", "sam_rho"):
            value = getattr(self, name)
            _require(_is_number(value, 0), f"optim.{name}", value, "a finite number >= 0")
        _require(
            self.clip_norm is None or (_is_number(self.clip_norm, 0) and self.clip_norm > 0),
            "optim.clip_norm",
            self.clip_norm,
            "a finite number above 0, or None",
        )
        _require(
            _is_number(self.layer_decay, 0, 1) and self.layer_decay > 0,
            "optim.layer_decay",
            self.layer_decay,
            "in (0, 1]",
        )
        for name in ("nesterov", "schedule_free", "head_only"):
            value = getattr(self, name)
            _require(isinstance(value, bool), f"optim.{name}", value, "True or False")
        _require(
            isinstance(self.freeze, tuple) and all(map(_is_pattern, self.freeze)),
            "optim.freeze",
            self.freeze,
            "a tuple of regular expressions",
        )
        if self.schedule_free:
            _require_choice("optim.name with optim.schedule_free", self.name, "sgd", "adamw")
            beta = "momentum" if self.name == "sgd" else "b1"
            value = getattr(self, beta)
            _require(value > 0, f"optim.{beta}", value, "above 0 with optim.schedule_free")


def _is_pattern(value: object) -> bool:
    try:
        return isinstance(value, str) and bool(value) and bool(re.compile(value))
    except re.error:
        return False


@dataclass(frozen=True)
class Schedule:
    """The learning rate over time: linear warm-up, then the named curve."""

    name: Literal["constant", "cosine", "polynomial", "step", "one_cycle"] = "cosine"
    """Constant; half a cosine down to end_factor (Loshchilov & Hutter 2017); a polynomial down to
    end_factor; steps down at milestones; or one cycle, up from peak_lr / 25 and down to end_factor
    along half cosines (Smith & Topin 2019)."""
    warmup_epochs: float = 1.0
    """Rises linearly from 0 to peak_lr over this time; of one_cycle, the time of the rise."""
    end_factor: float = 0.0
    """The last learning rate, as a share of peak_lr: cosine, polynomial, one_cycle."""
    power: float = 1.0
    """Of the polynomial; 1 is a straight line."""
    milestones: tuple[float, ...] = ()
    """Epochs, counted from the start of the run, at which the step schedule goes down."""
    factor: float = 0.1
    """What each milestone multiplies the learning rate with."""

    def __post_init__(self) -> None:
        """Checks the ranges."""
        _require_choice(
            "schedule.name", self.name, "constant", "cosine", "polynomial", "step", "one_cycle"
        )
        _require(
            _is_number(self.warmup_epochs, 0),
            "schedule.warmup_epochs",
            self.warmup_epochs,
            "a finite number >= 0",
        )
        _require(
            _is_number(self.end_factor, 0, 1), "schedule.end_factor", self.end_factor, "in [0, 1]"
        )
        for name in ("power", "factor"):
            value = getattr(self, name)
            high = 1.0 if name == "factor" else math.inf
            _require(
                _is_number(value, 0, high) and value > 0,
                f"schedule.{name}",
                value,
                "in (0, 1]" if name == "factor" else "a finite number above 0",
            )
        steps, times = self.name == "step", self.milestones
        rising = (
            isinstance(times, tuple)
            and all(_is_number(t, self.warmup_epochs) for t in times)
            and list(times) == sorted(set(times))
        )
        _require(
            rising and bool(times) == steps,
            "schedule.milestones",
            times,
            "rising epochs, after schedule.warmup_epochs"
            if steps
            else f"empty for the {self.name} schedule",
        )


@dataclass(frozen=True)
class Train:
    """How long, from which seed, and how often to look and to save."""

    epochs: int = 10
    """Passes over the training set; each drops what does not fill a batch, another part each
    time."""
    seed: int = 0
    """Of initialisation, order, augmentation and dropout."""
    label_smoothing: float = 0.0
    """Share of each target that is spread over all classes (Szegedy et al. 2016)."""
    accumulate: int = 1
    """Each batch is computed in this many parts, one after the other, to save memory. The
    gradient is that of the whole batch; batch statistics are those of the parts."""
    ema_decay: float = 0.0
    """Above 0, evaluation, prediction and the best checkpoint use a moving average of parameters
    and batch statistics over the steps: this is what each step leaves of the older ones."""
    distill_from: str | None = None
    """Folder of a run or of imported weights that also teaches (Hinton et al. 2015): its network
    sees the same augmented images, in evaluation mode."""
    distill_weight: float = 0.5
    """Share of the teacher in the loss; the rest is for the labels."""
    distill_temperature: float = 2.0
    """Divides both networks' logits in the teacher's part of the loss, which is multiplied with
    its square."""
    patience: int | None = None
    """Ends the run after so many epochs without a better test_top1. This looks at the test set,
    so the accuracy then reached is an optimistic estimate."""
    eval_every: int = 1
    """Epochs between evaluations on the test set."""
    checkpoint_every: int = 1
    """Epochs between checkpoints."""
    seeds_mode: SeedsMode = "auto"
    """How several seeds, or trials of a sweep, are computed in one program: in a loop, one behind
    the other without one, as one batch, or on several devices; auto takes the fastest for a few
    steps. Or alone, each in its own program."""

    def __post_init__(self) -> None:
        """Checks the ranges."""
        _require_text("train.distill_from", self.distill_from)
        for name in ("epochs", "accumulate", "eval_every", "checkpoint_every"):
            value = getattr(self, name)
            _require(_is_count(value), f"train.{name}", value, "a positive whole number")
        _require(_is_seed(self.seed), "train.seed", self.seed, "a whole number in [0, 2**31)")
        _require_choice("train.seeds_mode", self.seeds_mode, *get_args(SeedsMode))
        for name in ("label_smoothing", "ema_decay"):
            value = getattr(self, name)
            _require(_is_number(value, 0, 1) and value < 1, f"train.{name}", value, "in [0, 1)")
        _require(
            _is_number(self.distill_weight, 0, 1),
            "train.distill_weight",
            self.distill_weight,
            "in [0, 1]",
        )
        _require(
            _is_number(self.distill_temperature, 0) and self.distill_temperature > 0,
            "train.distill_temperature",
            self.distill_temperature,
            "a finite number above 0",
        )
        _require(
            self.patience is None or _is_count(self.patience),
            "train.patience",
            self.patience,
            "a positive whole number or None",
        )


@dataclass(frozen=True)
class Devices:
    """How many devices share a run; each step is the same on any number, to float tolerance."""

    data: int | None = None
    """Each takes an equal part of the batch; None takes all devices that there are."""
    fsdp: int = 1
    """Each of these takes a part of the batch and holds a part of large parameters and of their
    moments (fully sharded data parallelism): devices in all are data times fsdp."""

    def __post_init__(self) -> None:
        """Checks that both are counts."""
        accepted = "a positive whole number"
        _require(
            self.data is None or _is_count(self.data),
            "devices.data",
            self.data,
            f"{accepted} or None",
        )
        _require(_is_count(self.fsdp), "devices.fsdp", self.fsdp, accepted)


@dataclass(frozen=True)
class Distributed:
    """One of several processes that train together, where neither SLURM nor Kubernetes says so."""

    coordinator: str | None = None
    """HOST:PORT of process 0, the same for all."""
    processes: int | None = None
    """How many there are."""
    process: int | None = None
    """Which one this is, from 0."""

    def __post_init__(self) -> None:
        """Checks that all is given, or nothing."""
        given = [value is not None for value in vars(self).values()]
        if not any(given):
            return
        for name, value in vars(self).items():
            _require(value is not None, f"distributed.{name}", value, "given with the other two")
        host, _, port = str(self.coordinator).rpartition(":")
        _require(
            bool(host) and port.isdigit() and 0 < int(port) < 2**16,
            "distributed.coordinator",
            self.coordinator,
            "HOST:PORT of process 0",
        )
        _require(
            _is_count(self.processes), "distributed.processes", self.processes, "a positive number"
        )
        assert self.processes is not None
        _require(
            type(self.process) is int and 0 <= self.process < self.processes,
            "distributed.process",
            self.process,
            f"a whole number in [0, {self.processes})",
        )


@dataclass(frozen=True)
class Experiment:
    """One training run, whole."""

    name: str = "experiment"
    data: Data = Data()
    augment: Augment = Augment()
    model: Model = field(default_factory=Model)
    optim: Optim = Optim()
    schedule: Schedule = Schedule()
    train: Train = Train()
    devices: Devices = Devices()

    def __post_init__(self) -> None:
        """Checks what no single part can."""
        _require(
            isinstance(self.name, str)
            and re.fullmatch(r"[\w.+-]*\w[\w.+-]*", self.name) is not None,
            "name",
            self.name,
            "letters, digits and _ . + - (it names the run folder)",
        )
        _require(
            self.schedule.warmup_epochs <= self.train.epochs,
            "schedule.warmup_epochs",
            self.schedule.warmup_epochs,
            f"at most train.epochs={self.train.epochs}",
        )
        _require(
            self.data.batch_size % self.train.accumulate == 0,
            "train.accumulate",
            self.train.accumulate,
            f"a divisor of data.batch_size={self.data.batch_size}",
        )
        if self.augment.random_crop:
            data, margin = self.data, (self.data.read_size or 0) > (self.data.image_size or 0)
            _require(
                data.fit == "crop" and margin and not self.augment.random_resized_crop,
                "augment.random_crop",
                True,
                "False without data.fit='crop' and data.read_size above data.image_size, or with "
                "augment.random_resized_crop",
            )
        if self.optim.schedule_free:
            _require(
                self.schedule.name == "constant",
                "schedule.name",
                self.schedule.name,
                "'constant' with optim.schedule_free",
            )
            _require(
                self.train.ema_decay == 0,
                "train.ema_decay",
                self.train.ema_decay,
                "0 with optim.schedule_free, which averages by itself",
            )


@dataclass(frozen=True)
class Comparison:
    """Experiments on the same test set that differ in what is to be decided, over several seeds.

    Their names tell them apart; their own seeds do not count.
    """

    arms: tuple[Experiment, ...]
    """The first is the one that the others are compared with."""
    seeds: int = 3
    """Every arm is trained with the seeds 0, 1, ..., seeds - 1."""

    def __post_init__(self) -> None:
        """Checks that the arms can be told apart and compared."""
        names = [arm.name for arm in self.arms]
        _require(len(names) >= 2, "arms", names, "two experiments or more")
        for name in names:
            _require(names.count(name) == 1, "arms", names, "of different names")
        _require(_is_count(self.seeds), "seeds", self.seeds, "a positive whole number")
        wanted = _tested_on(self.arms[0].data)
        for arm in self.arms:
            for name, value in _tested_on(arm.data).items():
                _require(
                    value == wanted[name],
                    f"arms[{arm.name!r}].data.{name}",
                    value,
                    f"{wanted[name]!r}, as in the first arm: all are tested on it",
                )


def _tested_on(data: Data) -> dict[str, object]:
    """The fields that decide on which images a network is tested."""
    fields = ("name", "dir", "seed", "num_classes", "channels")
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
        "train.eval_every",
        "train.checkpoint_every",
        "train.seeds_mode",
    }
)
"""Fields that a resumed run may change: where, how long and how often, never what is learned."""


def to_dict(experiment: Experiment) -> dict[str, Any]:
    """The experiment as plain dicts, lists and scalars, ready for JSON."""
    return dataclasses.asdict(experiment)


def from_dict(values: Mapping[str, Any]) -> Experiment:
    """The inverse of :func:`to_dict`, also after a trip through JSON.

    Raises:
        InputError: an unknown section or field, or a value that the field refuses.
    """
    defaults = Experiment()
    parts: dict[str, Any] = {}
    for section, value in values.items():
        if section not in vars(defaults):
            raise InputError(f"config: unknown section {section!r}")
        kind = type(getattr(defaults, section))
        if not dataclasses.is_dataclass(kind):
            parts[section] = value
            continue
        if not isinstance(value, Mapping):
            raise InputError(f"config: section {section!r} must be an object, is {value!r}")
        known = {f.name for f in dataclasses.fields(kind)}
        for name in value:
            if name not in known:
                raise InputError(f"config: unknown field {section}.{name}")
        parts[section] = kind(**{k: _tuples(v) for k, v in value.items()})
    return Experiment(**parts)


def _tuples(value: Any) -> Any:
    """JSON has lists where the dataclasses have tuples."""
    if isinstance(value, list):
        return tuple(_tuples(v) for v in value)
    if isinstance(value, dict):
        return {k: _tuples(v) for k, v in value.items()}
    return value


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Fields, as ``section.field``, in which two :func:`to_dict` dicts differ.

    >>> differences({"train": {"seed": 1}}, {"train": {"seed": 2}})
    {'train.seed': (1, 2)}
    """

    def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
        out: dict[str, Any] = {}
        for key, value in values.items():
            if isinstance(value, Mapping):
                out |= flat(value, f"{prefix}{key}.")
            else:
                out[prefix + key] = _tuples(value)
        return out

    a, b = flat(old), flat(new)
    return {
        k: (a.get(k), b.get(k)) for k in sorted(a | b) if (k in a, a.get(k)) != (k in b, b.get(k))
    }
