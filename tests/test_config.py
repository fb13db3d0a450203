import ast
import dataclasses
import doctest
import functools
import itertools
import json
from dataclasses import replace
from pathlib import Path

import pytest

from jaxcnn import config
from jaxcnn.config import (
    Augment,
    Comparison,
    Data,
    Devices,
    Distributed,
    Experiment,
    Model,
    Optim,
    Schedule,
    Task,
    Train,
    checked,
)
from jaxcnn.errors import InputError

BAD = [
    (Data, {"name": ""}, "data.name"),
    (Data, {"batch_size": 0}, "data.batch_size=0"),
    (Data, {"batch_size": 1.5}, "data.batch_size=1.5"),
    (Data, {"batch_size": True}, "data.batch_size=True"),
    (Data, {"eval_batch_size": -3}, "data.eval_batch_size=-3"),
    (Data, {"image_size": 0}, "data.image_size=0"),
    (Data, {"train_limit": 0}, "data.train_limit=0"),
    (Data, {"image_size": 8, "fit": "crop", "read_size": 0}, "data.read_size=0"),
    (
        Data,
        {"fit": "crop", "read_size": 8},
        "data.read_size=8: must be None without data.image_size",
    ),
    (Data, {"image_size": 8, "read_size": 10}, "data.read_size=10"),
    (Data, {"fit": "stretch"}, "data.fit='stretch'"),
    (Data, {"examples": (10,)}, "data.examples=(10,)"),
    (Data, {"examples": (10, 0)}, "data.examples=(10, 0)"),
    (Data, {"channels": 4}, "data.channels=4"),
    (Data, {"num_classes": 0}, "data.num_classes=0"),
    (Data, {"seed": -1}, "data.seed=-1"),
    (Data, {"streaming": "yes"}, "data.streaming='yes'"),
    (Data, {"workers": -1}, "data.workers=-1"),
    (Data, {"max_bad_images": None}, "data.max_bad_images=None"),
    (Data, {"mean": ()}, "data.mean=()"),
    (Data, {"mean": (float("nan"),)}, "data.mean"),
    (Data, {"std": (0.0,)}, "data.std=(0.0,)"),
    (Augment, {"crop_padding": -1}, "augment.crop_padding=-1"),
    (Augment, {"random_crop": 1}, "augment.random_crop=1"),
    (Augment, {"cutout": 2.5}, "augment.cutout=2.5"),
    (Augment, {"rotate": 200.0}, "augment.rotate=200.0"),
    (Augment, {"zoom": 1.0}, "augment.zoom=1.0"),
    (Augment, {"flip": 1}, "augment.flip=1"),
    (Augment, {"random_resized_crop": 1.5}, "augment.random_resized_crop=1.5"),
    (Augment, {"crop_aspect": 0.75}, "augment.crop_aspect=0.75"),
    (Augment, {"rand_augment": -2}, "augment.rand_augment=-2"),
    (Augment, {"rand_augment": True}, "augment.rand_augment=True"),
    (Augment, {"rand_augment_magnitude": 31}, "augment.rand_augment_magnitude=31"),
    (Augment, {"trivial_augment": "yes"}, "augment.trivial_augment='yes'"),
    (Augment, {"trivial_augment": True, "rand_augment": 2}, "with augment.rand_augment=2"),
    (Augment, {"auto_augment": "mnist"}, "augment.auto_augment='mnist': must be 'imagenet', 'cif"),
    (
        Augment,
        {"augmix": 3, "auto_augment": "svhn"},
        "augment.augmix=3: must be 0 with augment.auto_augment='svhn'",
    ),
    (
        Augment,
        {"repeats": 2, "flip": "alternating"},
        "augment.flip='alternating': must be True or False with augment.repeats=2",
    ),
    (
        Experiment,
        {"augment": Augment(repeats=65)},
        "augment.repeats=65: must be at most data.batch_size=64",
    ),
    (Augment, {"brightness": -0.1}, "augment.brightness=-0.1"),
    (Augment, {"contrast": float("nan")}, "augment.contrast=nan"),
    (Augment, {"saturation": "0.4"}, "augment.saturation='0.4'"),
    (Augment, {"hue": 0.6}, "augment.hue=0.6"),
    (Augment, {"random_erasing": 2}, "augment.random_erasing=2"),
    (Augment, {"erasing_area": (0.4, 0.2)}, "augment.erasing_area=(0.4, 0.2)"),
    (Augment, {"erasing_area": 0.2}, "augment.erasing_area=0.2"),
    (Augment, {"erasing_aspect": 0.3}, "augment.erasing_aspect=0.3"),
    (Augment, {"mixup": -1.0}, "augment.mixup=-1.0"),
    (Augment, {"cutmix": float("inf")}, "augment.cutmix=inf"),
    (Model, {"dtype": "float8"}, "model.dtype='float8'"),
    (Optim, {"name": "adam"}, "optim.name='adam'"),
    (Optim, {"peak_lr": -0.1}, "optim.peak_lr=-0.1"),
    (Optim, {"peak_lr": 0.0}, "optim.peak_lr=0.0"),
    (Optim, {"peak_lr": float("inf")}, "optim.peak_lr=inf"),
    (Optim, {"momentum": 1.0}, "optim.momentum=1.0"),
    (Optim, {"b2": -0.1}, "optim.b2=-0.1"),
    (Optim, {"weight_decay": -1e-4}, "optim.weight_decay=-0.0001"),
    (Optim, {"clip_norm": 0.0}, "optim.clip_norm=0.0"),
    (Optim, {"name": "Muon"}, "optim.name='Muon': must be 'sgd', 'adamw', 'lamb', 'lars', 'lion'"),
    (Optim, {"sam_rho": -0.1}, "optim.sam_rho=-0.1"),
    (Optim, {"sam_rho": True}, "optim.sam_rho=True"),
    (Optim, {"layer_decay": 0.0}, "optim.layer_decay=0.0"),
    (Optim, {"layer_decay": 1.5}, "optim.layer_decay=1.5"),
    (Optim, {"freeze": "conv1"}, "optim.freeze='conv1'"),
    (Optim, {"freeze": ("conv(",)}, "optim.freeze=('conv(',)"),
    (Optim, {"freeze": ("",)}, "optim.freeze=('',)"),
    (Optim, {"freeze": ("(?i)conv",)}, "optim.freeze=('(?i)conv',)"),
    (Optim, {"freeze": ("a{99999999999}",)}, "optim.freeze=('a{99999999999}',)"),
    (Optim, {"freeze": ("(" * 9999 + ")" * 9999,)}, "optim.freeze=('((("),
    (Optim, {"peak_lr": 10**400}, "optim.peak_lr=1000000"),
    (Data, {"dir": "a\0b"}, r"data.dir='a\x00b'"),
    (Data, {"name": ""}, "data.name=''"),
    (Distributed, {"coordinator": "host:²"}, "distributed.coordinator='host:²'"),
    (Distributed, {"coordinator": "host:" + "9" * 5000}, "distributed.coordinator='host:999"),
    (Optim, {"head_only": 1}, "optim.head_only=1"),
    (Optim, {"nesterov": "no"}, "optim.nesterov='no'"),
    (
        Optim,
        {"name": "lion", "schedule_free": True},
        "optim.name='lion': must be 'sgd' or 'adamw' with optim.schedule_free",
    ),
    (Optim, {"momentum": 0.0, "schedule_free": True}, "optim.momentum=0.0"),
    (Schedule, {"name": "linear"}, "schedule.name='linear'"),
    (Schedule, {"name": "step"}, "schedule.milestones=()"),
    (Schedule, {"name": "step", "milestones": (9, 6)}, "schedule.milestones=(9, 6)"),
    (Schedule, {"name": "step", "milestones": (0.5, 6)}, "schedule.milestones=(0.5, 6)"),
    (Schedule, {"name": "step", "milestones": 6}, "schedule.milestones=6"),
    (Schedule, {"milestones": (6,)}, "schedule.milestones=(6,): must be empty for the cosine"),
    (Schedule, {"factor": 0.0}, "schedule.factor=0.0"),
    (Schedule, {"power": 0}, "schedule.power=0"),
    (Schedule, {"warmup_epochs": -1}, "schedule.warmup_epochs=-1"),
    (Schedule, {"end_factor": 1.5}, "schedule.end_factor=1.5"),
    (Train, {"epochs": 0}, "train.epochs=0"),
    (Train, {"seed": -1}, "train.seed=-1"),
    (Train, {"seed": 2**31}, "train.seed"),
    (Train, {"label_smoothing": 1.0}, "train.label_smoothing=1.0"),
    (Train, {"accumulate": 0}, "train.accumulate=0"),
    (Train, {"ema_decay": 1.0}, "train.ema_decay=1.0"),
    (Train, {"distill_weight": 1.1}, "train.distill_weight=1.1"),
    (Train, {"distill_temperature": 0.0}, "train.distill_temperature=0.0"),
    (Train, {"patience": 0}, "train.patience=0"),
    (Train, {"eval_every": 0}, "train.eval_every=0"),
    (Train, {"select_on": "train"}, "train.select_on='train': must be 'auto' or 'test'"),
    (Data, {"validation": True}, "data.validation=True"),
    (Data, {"test_share": 0.2}, "data.test_share=0.2: must be None without data.name='folder'"),
    (Data, {"name": "folder", "test_share": 1.0}, "data.test_share=1.0: must be a share in (0, 1)"),
    (Train, {"checkpoint_every": -2}, "train.checkpoint_every=-2"),
    (Train, {"swa_start": -1}, "train.swa_start=-1: must be a finite number >= 0"),
    (Train, {"swa_every": 0}, "train.swa_every=0"),
    (Train, {"swa_bn_examples": 0}, "train.swa_bn_examples=0"),
    (Train, {"sizes": 8}, "train.sizes=8: must be a tuple of sizes in [1, 32768]"),
    (Train, {"sizes": (8, 0)}, "train.sizes=(8, 0)"),
    (Train, {"resize_at": (2, 2)}, "train.resize_at=(2, 2): must be a tuple of rising positive"),
    (Train, {"resize_at": (0,)}, "train.resize_at=(0,)"),
    (Schedule, {"swa_lr": 0.0}, "schedule.swa_lr=0.0"),
    (Schedule, {"swa_anneal": "cos"}, "schedule.swa_anneal='cos': must be 'cosine' or 'linear'"),
    (Schedule, {"swa_cycle_lr": 0.1}, "schedule.swa_cycle_lr=0.1: must be None without"),
    (Schedule, {"swa_anneal_epochs": 1}, "schedule.swa_anneal_epochs=1: must be 0.0 without"),
    (
        Schedule,
        {"swa_lr": 0.1, "swa_cycle_lr": 0.2, "swa_anneal_epochs": 1},
        "schedule.swa_anneal_epochs=1: must be 0 with schedule.swa_cycle_lr",
    ),
]


@pytest.mark.parametrize(("kind", "values", "named"), BAD, ids=lambda v: str(v)[:40])
def test_a_bad_value_is_refused_by_name(kind, values, named):
    with pytest.raises(InputError) as error:
        kind(**values)
    assert named in str(error.value)
    assert "must be" in str(error.value)
    assert "\n" not in str(error.value)


FREE = Optim(schedule_free=True)


@pytest.mark.parametrize(
    ("parts", "named"),
    [
        (
            {"data": Data(batch_size=64), "train": Train(accumulate=5)},
            "train.accumulate=5: must be a divisor of data.batch_size=64",
        ),
        ({"optim": FREE}, "schedule.name='cosine': must be 'constant' with optim.schedule_free"),
        (
            {"optim": FREE, "schedule": Schedule("constant"), "train": Train(ema_decay=0.9)},
            "train.ema_decay=0.9: must be 0 with optim.schedule_free",
        ),
        (
            {"data": Data(validation=0.1), "train": Train(select_on="test")},
            "train.select_on='test': must be 'auto' with data.validation=0.1",
        ),
        ({"train": Train(swa_start=10)}, "train.swa_start=10: must be below train.epochs=10"),
        (
            {"train": Train(swa_start=2, ema_decay=0.9)},
            "train.ema_decay=0.9: must be 0 with train.swa_start",
        ),
        (
            {"optim": FREE, "schedule": Schedule("constant"), "train": Train(swa_start=2)},
            "optim.schedule_free=True: must be False with train.swa_start",
        ),
        ({"train": Train(swa_every=2)}, "train.swa_every=2: must be None without train.swa_start"),
        (
            {"schedule": Schedule(swa_lr=0.1)},
            "schedule.swa_lr=0.1: must be None without train.swa_start",
        ),
        ({"train": Train(resize_at=(1,))}, "must be one epoch fewer than train.sizes=()"),
        (
            {"train": Train(epochs=2, sizes=(4, 8), resize_at=(2,))},
            "train.resize_at=(2,): must be below train.epochs=2",
        ),
        (
            {
                "train": Train(sizes=(8,)),
                "data": Data(image_size=8, read_size=10, fit="crop"),
                "augment": Augment(random_crop=True),
            },
            "augment.random_crop=True: must be False with train.sizes",
        ),
        (
            {"train": Train(sizes=(8,), distill_from="a")},
            "train.distill_from='a': must be None with train.sizes",
        ),
        ({"name": "a b"}, "name='a b'"),
    ],
)
def test_parts_that_do_not_fit_together_are_refused(parts, named):
    with pytest.raises(InputError) as error:
        Experiment(**parts)
    assert named in str(error.value)


@pytest.mark.parametrize(
    ("value", "length"),
    [("a" * 10**7, 200), (tuple(range(10**6)), 200), ("\n\r\x1b\u2028" * 9, 200), (10**5000, 99)],
    ids=["long", "many", "controls", "too long for Python to write"],
)
def test_values_are_told_on_one_line_that_is_not_long(value, length):
    with pytest.raises(InputError) as error:
        Train(epochs=value)
    message = str(error.value)
    assert len(message) < length
    assert message.isprintable()


def test_a_warm_up_that_is_longer_than_the_run_is_cut_to_a_tenth_of_it():
    for epochs, asked, taken in ((1, 2, 0.1), (20, 20.5, 2.0), (2, 2, 2), (2, 0.5, 0.5), (2, 0, 0)):
        experiment = Experiment(schedule=Schedule("step", asked, milestones=(30,)))
        experiment = replace(experiment, train=Train(epochs=epochs))
        cut = config.with_warmup_cut(experiment)
        assert cut.schedule == Schedule("step", taken, milestones=(30,))
        assert replace(cut, schedule=experiment.schedule) == experiment


def test_at_least_forty_bad_values_are_refused():
    assert len(BAD) >= 40


def test_survives_json():
    experiment = Experiment(
        name="x",
        data=Data("cifar10", mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.2), image_size=32),
        model=Model("convnet", {"widths": (8, 16), "dropout": 0.5}),
        optim=Optim("adamw", peak_lr=1e-3, clip_norm=1.0, freeze=("conv1", "norm.*")),
        schedule=Schedule("step", milestones=(3, 4.5)),
    )
    again = config.from_dict(json.loads(json.dumps(config.to_dict(experiment))))
    assert again == experiment


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: Data(name=3), "data.name=3"),
        (lambda: Data(dir=Path("/x")), "data.dir=PosixPath('/x'): must be a text (str of a path)"),
        (lambda: Data(channels=3.0), "data.channels=3.0"),
        (lambda: Data(channels=True), "data.channels=True"),
        (lambda: Model(name=3), "model.name=3"),
        (lambda: Model(options=["dropout"]), "model.options=['dropout']"),
        (lambda: Model(init_from=Path("/x")), "model.init_from="),
        (lambda: Train(distill_from=3), "train.distill_from=3"),
        (lambda: Experiment(name=3), "name=3"),
        (lambda: Experiment(name="a" * 201), "must be at most 200 letters"),
    ],
)
def test_values_of_another_type_are_named(make, named):
    with pytest.raises(InputError) as error:
        make()
    assert named in str(error.value)


KINDS = (Data, Augment, Model, Task, Optim, Schedule, Train, Devices, Distributed, Experiment)
FIELDS = [(kind, field.name) for kind in KINDS for field in dataclasses.fields(kind)]
# The annotations as they are written, an oracle that knows nothing of how they are checked.
SOURCE = {
    (node.name, line.target.id): ast.unparse(line.annotation)
    for node in ast.parse(Path(config.__file__).read_text()).body
    if isinstance(node, ast.ClassDef)
    for line in node.body
    if isinstance(line, ast.AnnAssign)
}


def written(kind, field):
    return f"{kind.__name__.lower()}.{field}" if kind is not Experiment else field


def refused(kind, field, value):
    """The message with which a value is refused."""
    with pytest.raises(InputError) as error:
        kind(**{field: value})
    prefix = f"{written(kind, field)}={value!r}: must be "
    assert str(error.value).startswith(prefix)
    assert "\n" not in str(error.value)
    return str(error.value).removeprefix(prefix)


@pytest.mark.parametrize(("kind", "field"), FIELDS, ids=lambda v: getattr(v, "__name__", v))
def test_every_field_refuses_values_of_another_type(kind, field):
    default = getattr(kind(), field)
    for wrong in (object(), b"1", [], {1}, float("nan"), float("inf"), (object(),), 1j):
        refused(kind, field, wrong)
    if not isinstance(default, bool) and "bool" not in SOURCE[kind.__name__, field]:
        refused(kind, field, True)
    if default is not None:
        refused(kind, field, None)
    if isinstance(default, int) and not isinstance(default, bool):
        refused(kind, field, float(default))
    if isinstance(default, float):
        refused(kind, field, str(default))
    if isinstance(default, tuple):
        refused(kind, field, list(default) or ["1"])
        refused(kind, field, (None,) * len(default) or (None,))


CHOICES = [
    (Data, "fit", ("pad", "resize", "crop")),
    (Data, "labels", ("classes", "numbers")),
    (Data, "channels", (1, 3)),
    (Augment, "flip", ("alternating", True, False)),
    (Augment, "padding_mode", ("zeros", "reflect")),
    (Augment, "auto_augment", ("imagenet", "cifar10", "svhn", None)),
    (Model, "dtype", ("float32", "bfloat16", "float16")),
    (Schedule, "swa_anneal", ("cosine", "linear")),
    (Train, "select_on", ("auto", "test")),
    (Train, "seeds_mode", ("auto", "map", "unroll", "vmap", "layers", "devices", "alone")),
]


@pytest.mark.parametrize(("kind", "field", "choices"), CHOICES, ids=lambda v: str(v)[:40])
def test_every_choice_is_accepted_and_a_foreign_one_is_told_them_all(kind, field, choices):
    for choice in choices:
        assert getattr(kind(**{field: choice}), field) == choice
    foreign = ("", "Adam", "PAD", None) if isinstance(choices[0], str) else (2, 1.0, True, "1")
    foreign = tuple(value for value in foreign if value is not None or None not in choices)
    named = ", ".join(map(repr, choices[:-1])) + f" or {choices[-1]!r}"
    for value in foreign:
        assert refused(kind, field, value) == named


def test_no_choice_is_missing_above():
    literal = {key for key, text in SOURCE.items() if "Literal" in text or text == "SeedsMode"}
    assert literal - {(kind, "name") for kind in ("Optim", "Schedule", "Task")} == {
        (kind.__name__, field) for kind, field, _ in CHOICES
    }


@pytest.mark.parametrize("foreign", ["", "Cosine", "STEP", None])
def test_a_schedule_is_a_choice_or_comes_from_outside(foreign):
    for name in ("constant", "cosine", "polynomial", "one_cycle"):
        assert Schedule(name).name == name
    assert refused(Schedule, "name", foreign) == (
        "'constant', 'cosine', 'polynomial', 'step', 'one_cycle' or a function of the share of the "
        "run that is done"
    )
    with pytest.raises(InputError, match=r"schedule\.options=.*: must be empty for the cosine"):
        Schedule("cosine", options={"power": 1.0})


@pytest.mark.parametrize("foreign", ["", "Adam", "SGD", None])
def test_an_optimizer_is_a_choice_or_comes_from_outside(foreign):
    assert refused(Optim, "name", foreign) == (
        "'sgd', 'adamw', 'lamb', 'lars', 'lion', 'muon', 'optax:NAME' or a function that returns "
        "an optax.GradientTransformation"
    )


WHOLE, COUNT = "a whole number in [0, 2**31)", "a positive whole number below 2**31"
SIDE = "a whole number in [1, 32768]"
ABOVE, FROM = "a finite number above 0 in float32", "a finite number >= 0 in float32"
TINY, BELOW = 5e-324, 1 - 2**-53
# What is accepted at either edge, what is refused next to it, and how that is said.
EDGES = [
    *((Data, n, (1, 2**31 - 1), (0, -1, 2**31), COUNT) for n in ("batch_size", "eval_batch_size")),
    (Data, "num_classes", (1, 10**6), (0, -1, 10**6 + 1), "a whole number in [1, 1000000]"),
    (Data, "train_limit", (None, 1), (0, -1), f"{COUNT} or None"),
    (Data, "image_size", (None, 1, 2**15), (0, -1, 2**15 + 1), f"{SIDE} or None"),
    (Data, "read_size", (None,), (0, 2**15 + 1, 10**100), f"{SIDE} or None"),
    (Data, "crop_ratio", (0.1, 1), (0.09, 1.1), "in [0.1, 1]"),
    (Data, "seed", (0, 2**31 - 1), (-1, 2**31), WHOLE),
    (Data, "workers", (None, 0, 1024), (-1, 1025), "a whole number in [0, 1024] or None"),
    (Data, "max_bad_images", (0,), (-1, 2**31), WHOLE),
    (Data, "examples", ((1, 1),), ((0, 1), (1, 0), (1, 1, 1)), "two positive whole numbers, of "),
    (Data, "mean", ((-1e9,), (0, 1, 2)), ((), (float("inf"),)), "one finite number per channel"),
    (Data, "std", ((TINY,), (1, 2, 3)), ((), (1.0, 0.0)), "one number above 0 per channel"),
    (Data, "streaming", (True, False, None), (1,), "True, False or None"),
    (Augment, "cutout", (0, 2**31 - 1), (-1, 2**31), WHOLE),
    (Augment, "crop_padding", (0, 4096), (-1, 4097), "a whole number in [0, 4096]"),
    (Augment, "rand_augment", (0, 100), (-1, 101), "a whole number in [0, 100]"),
    (Augment, "rand_augment_magnitude", (0, 30), (-1, 31), "a whole number in [0, 30]"),
    (Augment, "augmix", (0, 10), (-1, 11), "a whole number in [0, 10]"),
    (Augment, "repeats", (1, 2**31 - 1), (0, -1, 2**31), COUNT),
    (Augment, "rotate", (0, 180), (-TINY, 180.1), "degrees in [0, 180]"),
    (Augment, "zoom", (0, 0.9), (-TINY, 0.91), "in [0, 0.9]"),
    (Augment, "hue", (0, 0.5), (-TINY, 0.51), "in [0, 0.5]"),
    *(
        (kind, name, (0, 0.0, 1, 1.0), (-TINY, 1.1), "in [0, 1]")
        for kind, name in (
            (Augment, "random_resized_crop"),
            (Augment, "random_erasing"),
            (Schedule, "end_factor"),
            (Train, "distill_weight"),
        )
    ),
    *(
        (kind, name, (0, BELOW), (-TINY, 1), "in [0, 1)")
        for kind, name in (
            (Optim, "momentum"),
            (Optim, "b1"),
            (Optim, "b2"),
            (Train, "label_smoothing"),
            (Train, "ema_decay"),
        )
    ),
    *(
        (kind, name, (TINY, 1), (0, 1.1, -1), "in (0, 1]")
        for kind, name in ((Optim, "layer_decay"), (Schedule, "factor"))
    ),
    *(
        (Augment, n, (1, 9.0), (BELOW,), "a finite number >= 1 in float32")
        for n in ("crop_aspect", "erasing_aspect")
    ),
    *(
        (kind, name, (0, 9.0), (-TINY,), FROM)
        for kind, names in (
            (Augment, ("brightness", "contrast", "saturation", "mixup", "cutmix")),
            (Optim, ("weight_decay", "sam_rho")),
            (Schedule, ("warmup_epochs",)),
        )
        for name in names
    ),
    (
        *(Augment, "erasing_area", ((0, 0), (0, 1), (0.2, 0.2))),
        *(((0.3, 0.2), (-0.1, 0.2), (0, 1.1), (0.2,)), "two numbers in [0, 1], the smaller first"),
    ),
    (Optim, "peak_lr", (TINY, 10, 3.4e38), (0, -1.0, 3.5e38), ABOVE),
    (Optim, "clip_norm", (None, TINY), (0, -1.0), f"{ABOVE} or None"),
    (Optim, "freeze", ((), ("a", "b.*")), (("(",), ("a", ""), "a"), "a tuple of regular expr"),
    (Schedule, "power", (TINY, 3), (0, -1.0), ABOVE),
    *(
        (Train, name, (1, 2**31 - 1), (0, -1, 2**31), COUNT)
        for name in ("epochs", "accumulate", "eval_every", "checkpoint_every")
    ),
    (Train, "seed", (0, 2**31 - 1), (-1, 2**31), WHOLE),
    (Train, "patience", (None, 1), (0,), f"{COUNT} or None"),
    (Train, "distill_temperature", (TINY, 8), (0, -1.0), ABOVE),
    (
        *(Data, "validation", (None, 1, 0.1, "validation")),
        *((0, -1, 0.0, 1.0, 1.5, 2**31, ""), f"{COUNT}, a share in (0, 1), the name of a split or"),
    ),
    (Devices, "data", (None, 1), (0,), f"{COUNT} or None"),
    (Devices, "fsdp", (1, 8), (0,), COUNT),
    (Experiment, "name", ("a", "a.b-c_d+1", "é"), ("", "a b", "..", "a/b"), "at most 200 letters"),
]


@pytest.mark.parametrize(
    ("kind", "field", "accepted", "beyond", "words"), EDGES, ids=lambda v: str(v)[:40]
)
def test_ranges_hold_at_their_edges(kind, field, accepted, beyond, words):
    for value in accepted:
        assert getattr(kind(**{field: value}), field) == value
    for value in beyond:
        assert refused(kind, field, value).startswith(words)


@pytest.mark.parametrize(
    ("value", "accepted"),
    [
        *((value, True) for value in (True, 3, 0.5, "relu", (), (8, 16), (8.5, "x"))),
        *((value, False) for value in (None, [8], (None,), ((8,),), {"a": 1}, float("nan"))),
    ],
    ids=str,
)
def test_an_option_of_the_model_is_named(value, accepted):
    if accepted:
        assert Model(options={"dropout": value}).options["dropout"] == value
        return
    with pytest.raises(InputError) as error:
        Model(options={"width": 1, "dropout": value})
    words = "a truth value, number, text, or tuple of these"
    assert str(error.value) == f"model.options.dropout={value!r}: must be {words}"


def test_values_stay_values():
    """Positions, copies, hashes and equality are those of any frozen dataclass."""
    data = Data("digits", batch_size=32)
    assert data == replace(Data("digits"), batch_size=32)
    assert hash(data) == hash(Data("digits", batch_size=32))
    assert Schedule("step", 2, milestones=(3, 4)).warmup_epochs == 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        data.name = "mnist"
    with pytest.raises(InputError, match=r"data\.batch_size=0: must be a positive whole number"):
        replace(data, batch_size=0)


def test_every_field_is_explained_in_whole_sentences():
    explained = set()
    for node in ast.parse(Path(config.__file__).read_text()).body:
        lines = node.body if isinstance(node, ast.ClassDef) else []
        for line, after in itertools.pairwise(lines):
            if isinstance(line, ast.AnnAssign) and isinstance(after, ast.Expr):
                assert after.value.value.endswith("."), after.value.value
                explained.add((node.name, line.target.id))
    sections = {("Experiment", name) for name in vars(Experiment()) if name != "name"}
    assert explained == SOURCE.keys() - sections


def test_the_examples_of_the_documentation_hold():
    for module in (checked, config):
        result = doctest.testmod(module)
        assert result.attempted
        assert not result.failed


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"trian": {}}, "unknown section 'trian'"),
        ({"a\nb" * 999: {}}, r"unknown section 'a\nba\nb"),
        ({"train": {"epoch": 3}}, "unknown field 'epoch' of 'train'"),
        ({"data": 3}, "section 'data' must be an object, is 3"),
    ],
    ids=str,
)
def test_unknown_fields_are_named(values, named):
    with pytest.raises(InputError) as error:
        config.from_dict(values)
    assert named in str(error.value)


NESTED = functools.reduce(lambda inner, _: [inner], range(10**5), [])
GARBAGE = (None, True, -1, 10**400, 1e308, "x" * 10**7, "\n", [], [[]], {}, {"a": {}}, NESTED)


@pytest.mark.parametrize("name", [(), *((kind.__name__.lower(), f) for kind, f in FIELDS)], ids=str)
def test_whatever_a_record_holds_gets_an_experiment_or_a_line(name):
    for value in GARBAGE:
        place = {name[1]: value} if name and name[0] == "experiment" else {}
        if name and name[0] not in ("experiment", "distributed"):
            place = {name[0]: {name[1]: value}}
        line = ""
        try:
            config.from_dict(place or {"data": value})
        except InputError as error:
            line = str(error)
        assert len(line) < 400
        assert not line or line.isprintable()


def test_nested_values_become_flat():
    experiment = Experiment(model=Model("mlp", {"hidden": (8,)}))
    names = config.flat(config.to_dict(experiment))
    own = {written(kind, field) for kind, field in FIELDS if kind is not Distributed}
    sections = {name for name in vars(experiment) if name != "name"}
    empty = {f"{section}.options" for section in ("model", "optim", "schedule", "task")}
    assert names.keys() == own - sections - empty | {"model.options.hidden"}
    assert names["model.options.hidden"] == (8,)
    assert config.flat({"a": {}, "b": {"c": {}, "d": [1]}}) == {"b.d": [1]}
    assert names.keys() >= config.RESUME_MAY_CHANGE


def test_differences_name_the_fields():
    a = Experiment()
    b = replace(a, train=replace(a.train, seed=4), model=Model("mlp", {"dropout": 0.1}))
    found = config.differences(config.to_dict(a), config.to_dict(b))
    assert found == {
        "model.name": ("lenet5", "mlp"),
        "model.options.dropout": (None, 0.1),
        "train.seed": (0, 4),
    }
    assert set(found).isdisjoint(config.RESUME_MAY_CHANGE)


@pytest.mark.parametrize(
    ("arms", "seeds", "named"),
    [
        ((Experiment(),), 3, "arms=['experiment']: must be two experiments or more"),
        ((Experiment("a"), Experiment("b"), Experiment("a")), 3, "of different names"),
        ((Experiment("a"), Experiment("b", Data("mnist"))), 3, "arms['b'].data.name='mnist'"),
        ((Experiment("a"), Experiment("b", Data(seed=4))), 3, "arms['b'].data.seed=4: must be 0"),
        ((Experiment("a"), Experiment("b", Data(dir="x"))), 3, "data.dir='x': must be None"),
        ((Experiment("a"), Experiment("b", Data(channels=1))), 3, "data.channels=1: must be 3"),
        ((Experiment("a"), Experiment("b", Data(num_classes=2))), 3, "data.num_classes=2"),
        (
            (Experiment("a"), Experiment("b", Data(examples=(10_000, 7)))),
            *(3, "data.examples[1]=7: must be 1000"),
        ),
        ((Experiment("a"), Experiment("b")), 0, "seeds=0"),
    ],
)
def test_what_cannot_be_compared_is_named(arms, seeds, named):
    with pytest.raises(InputError) as error:
        Comparison(arms, seeds)
    assert named in str(error.value)


def test_images_of_one_class_each_are_corrupted_or_none():
    arms = tuple(Experiment(name, task=Task("multilabel")) for name in "ab")
    with pytest.raises(InputError, match=r"corrupted=9: must be None with task\.name='multilabel'"):
        Comparison(arms, corrupted=9)
    with pytest.raises(InputError, match="corrupted=0: must be a positive whole number"):
        Comparison((Experiment("a"), Experiment("b")), corrupted=0)
