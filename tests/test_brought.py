"""What users bring: from a file and nothing else to a trained, resumed, compared, explained run."""

import contextlib
import dataclasses
import enum
import functools
import io
import json
import os
import re
import shutil
import signal
import site
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxcnn import cli, models
from jaxcnn.config import (
    Augment,
    Comparison,
    Data,
    Experiment,
    Model,
    Optim,
    Schedule,
    Train,
    brought,
    from_dict,
    to_dict,
)
from jaxcnn.config.brought import require_given
from jaxcnn.data import own, sources
from jaxcnn.data.augment import make_prepare, make_training_batch
from jaxcnn.errors import InputError
from jaxcnn.layers import random_streams
from jaxcnn.learning.optim import make_schedule
from jaxcnn.models import build_model
from jaxcnn.runs import display, group, network

ROOT = Path(__file__).parents[1]
TINY = '''
import flax.linen as nn

from jaxcnn.config import Data, Experiment, Model, Schedule, Train


class TinyNet(nn.Module):
    """A network of two convolutions.

    Attributes:
        width: channels of the first convolution.
    """

    num_classes: int
    width: int = 32

    @nn.compact
    def __call__(self, x, *, train=False):
        for stage in (1, 2):
            x = nn.Conv(self.width * stage, (3, 3), strides=stage)(x)
            x = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
        x = nn.Dropout(0.1, deterministic=not train)(x.mean(axis=(1, 2)))
        return nn.Dense(self.num_classes)(x)


def config():
    return Experiment(
        name="tiny",
        data=Data("digits", train_limit=256),
        model=Model(TinyNet, {"width": 4}),
        schedule=Schedule(warmup_epochs=0),
        train=Train(epochs=2),
    )
'''


def command(folder, *argv, code=0):
    """Runs a command in a folder, as a process of its own would, and returns what it has said."""
    brought._known.clear()
    said = io.StringIO()
    streams = contextlib.redirect_stdout(said), contextlib.redirect_stderr(said)
    with contextlib.chdir(folder), streams[0], streams[1]:
        returned = cli.main(argv)
    assert returned == code, said.getvalue()
    return said.getvalue()


def killed_and_whole(folder, argv, line):
    """The summaries of two runs, of which one was killed at a line and goes on."""
    killed = subprocess.Popen(
        [sys.executable, "-P", "-m", "jaxcnn.cli", *argv, "killed"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    for said in killed.stdout:
        if said.startswith(line):
            killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert not (folder / "killed" / "summary.json").exists()
    for name in ("killed", "whole"):
        command(folder, *argv, name)
    return summary(folder / "killed"), summary(folder / "whole")


def summary(folder):
    return json.loads((folder / "summary.json").read_text())


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """An empty folder with nothing but the file, in which it was trained."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "tiny.py").write_text(TINY)
    out = command(folder, "train", "tiny.py")
    assert "TinyNet on digits" in out
    return folder


def test_an_own_network_is_recorded_by_name_and_copied_to_be_read(trained):
    run = trained / "runs" / "tiny-seed0"
    assert json.loads((run / "config.json").read_text())["model"]["name"] == "tiny:TinyNet"
    known = json.loads((run / "brought.json").read_text())["model.name"]
    assert (known["name"], known["file"]) == ("tiny:TinyNet", "tiny.py")
    assert (run / "brought" / f"tiny.py.{known['sha256'][:8]}.txt").read_text() == TINY


def test_it_is_evaluated_predicted_with_shown_and_reported(trained):
    run = "runs/tiny-seed0"
    given = ("--from", "tiny.py")
    top1 = summary(trained / run)["test_top1"]
    assert f"top-1 {top1:.2%}" in command(trained, "eval", run, *given)
    made = command(trained, "viz", run, *given)
    assert "gradcam_Conv_1.png" in made
    assert (trained / run / "viz" / "receptive_field.png").exists()
    picture = trained / run / "viz" / "filters.png"
    (trained / "other.py").write_text("")
    said = command(trained, "predict", run, "--from", "other.py", *given, str(picture))
    assert re.search(r"filters\.png: \d 0\.\d{4}", said)
    command(trained, "report", run, "--out", "given.html", *given)
    assert "3x3" in (trained / "given.html").read_text()


def test_without_its_file_one_line_says_how_to_give_it_and_the_report_shows_the_rest(trained):
    said = command(trained, "eval", "runs/tiny-seed0", code=2)
    assert said.splitlines() == [
        "jaxcnn: error: model.name='tiny:TinyNet': was brought by a user, and is known here by "
        "name alone; give it again: --from tiny.py, or in Python"
    ]
    (trained / "runs" / "tiny-seed0" / "predictions.npz").unlink(missing_ok=True)
    said = command(trained, "report", "runs/tiny-seed0", "--out", "alone.html")
    assert "left out: predictions of runs/tiny-seed0" in said
    page = (trained / "alone.html").read_text()
    assert "its network was brought" in page
    assert "tiny:TinyNet" in page


@pytest.mark.parametrize(
    "name", ["canary:Evil", "os:system", "posix:system", "file:tool", "canary:Evil.__init__"]
)
def test_no_name_in_a_config_imports_anything(trained, tmp_path, monkeypatch, name):
    """Not with a file given either, which imports much that a config could name."""
    shutil.copytree(trained / "runs" / "tiny-seed0", tmp_path / "run")
    (tmp_path / "canary.py").write_text(
        "import pathlib\npathlib.Path('touched').touch()\n"
        "def Evil(**options): pathlib.Path('touched').touch()\n"
    )
    (tmp_path / "file.py").write_text(
        "from os import system\n\ndef tool(**options): system('touch touched')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    config["model"] |= {"name": name, "options": {"command": "touch touched"}}
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    (tmp_path / "run" / "predictions.npz").unlink(missing_ok=True)
    for code, *argv in ((2, "eval"), (0, "report"), (2, "viz", "--from", "file.py")):
        said = command(tmp_path, argv[0], "run", *argv[1:], code=code)
        assert f"model.name='{name}': was brought by a user" in said
        assert not (tmp_path / "touched").exists()
        assert "canary" not in sys.modules


@pytest.mark.slow
def test_the_same_network_from_a_file_and_from_a_package_gives_the_same_hash(
    trained, tmp_path, monkeypatch
):
    package = tmp_path / "site"
    (package / "mynets").mkdir(parents=True)
    network = TINY[: TINY.index("def config")]
    (package / "mynets" / "__init__.py").write_text("")
    (package / "mynets" / "nets.py").write_text(network)
    offered = package / "mynets-1.dist-info"
    offered.mkdir()
    (offered / "METADATA").write_text("Metadata-Version: 2.1\nName: mynets\nVersion: 1\n")
    (offered / "entry_points.txt").write_text("[jaxcnn.plugins]\ntiny = mynets.nets:TinyNet\n")
    (tmp_path / "packaged.py").write_text(
        TINY.replace(network, "from jaxcnn.config import *\nfrom mynets.nets import TinyNet\n")
    )
    with monkeypatch.context() as patch:
        patch.syspath_prepend(package)
        # A package that is not installed offers nothing, such as one beside an experiment.
        command(tmp_path, "train", "packaged.py", "--workdir", "other", "--train.epochs", "1")
        assert "was brought" in command(tmp_path, "eval", "other", code=2)
        patch.setattr(site, "getsitepackages", lambda: [str(package)])
        command(tmp_path, "train", "packaged.py", "--workdir", "run")
        assert "top-1" in command(tmp_path, "eval", "run")  # nothing has to be given
        assert command(tmp_path, "list", "my*") == "mynets.nets:TinyNet\n"
        shown = command(tmp_path, "summary", "mynets.nets:TinyNet", "--input", "8", "8", "1")
        assert "4x4x64" in shown
    for key in ("params_sha256", "state_sha256"):
        assert summary(tmp_path / "run")[key] == summary(trained / "runs" / "tiny-seed0")[key]
    assert "was brought" in command(tmp_path, "eval", "run", code=2)  # without the package


@pytest.mark.slow
def test_killed_it_goes_on_with_the_same_bits(trained, tmp_path):
    argv = ("train", str(trained / "tiny.py"), "--train.epochs", "12", "--workdir")
    killed, whole = killed_and_whole(tmp_path, argv, "epoch    2")
    for key in ("params_sha256", "state_sha256"):
        assert killed[key] == whole[key]


@pytest.mark.slow
def test_a_changed_source_is_refused_on_resume_and_said_on_evaluation(tmp_path, caplog):
    (tmp_path / "tiny.py").write_text(TINY)
    command(tmp_path, "train", "tiny.py", "--workdir", "run")
    # What config() says is compared by itself; comments and docstrings are for people.
    longer = TINY.replace("epochs=2", "epochs=3").replace("two conv", "2 conv")
    (tmp_path / "tiny.py").write_text(longer)
    assert "going on from step" in command(tmp_path, "train", "tiny.py", "--workdir", "run")
    changed = TINY.replace("epochs=2", "epochs=4").replace("nn.relu(nn", "nn.gelu(nn")
    (tmp_path / "tiny.py").write_text(changed)
    said = command(tmp_path, "train", "tiny.py", "--workdir", "run", code=2)
    assert "TinyNet: tiny.py has changed since the run began, 'x = nn.relu(" in said
    assert "--accept-changes" in said
    command(tmp_path, "eval", "run", "--from", "tiny.py")
    assert "run: TinyNet: tiny.py has changed" in caplog.text
    said = command(tmp_path, "train", "tiny.py", "--workdir", "run", "--accept-changes")
    assert "TinyNet: tiny.py has changed" in said
    caplog.clear()
    command(tmp_path, "eval", "run", "--from", "tiny.py")
    assert "has changed" not in caplog.text
    # What it learned with before is kept.
    known = json.loads((tmp_path / "run" / "brought.json").read_text())["model.name"]
    (before,) = known["before"]
    assert before["until_step"] == 12
    copies = {path.name: path.read_text() for path in (tmp_path / "run" / "brought").iterdir()}
    assert copies[f"tiny.py.{before['sha256'][:8]}.txt"] == TINY.replace(
        "epochs=2", "epochs=3"
    ).replace("two conv", "2 conv")
    assert copies[f"tiny.py.{known['sha256'][:8]}.txt"] == changed


@pytest.mark.slow
def test_its_options_are_swept_summarised_and_explained(trained):
    out = command(trained, "sweep", "tiny.py", "model.options.width=2,3", "--train.epochs", "1")
    assert "model.options.width" in out
    assert "Conv_0" in command(trained, "summary", "tiny.py")
    assert "Channels of the first convolution" in command(trained, "train", "tiny.py", "--help")


@pytest.mark.slow
def test_it_is_compared_with_the_zoo(trained):
    (trained / "against.py").write_text(
        "from dataclasses import replace\n\nimport tiny\n\nfrom jaxcnn.config import *\n\n\n"
        "def config():\n    own = tiny.config()\n"
        "    return Comparison((own, replace(own, name='lenet5', model=Model('lenet5'), "
        "data=replace(own.data, image_size=32))), seeds=2)\n"
    )
    out = command(trained, "compare", "against.py")
    assert "lenet5" in out
    assert "tiny" in (trained / "runs" / "against" / "report.html").read_text()


class Plain(nn.Module):
    """Takes neither train nor num_classes, and has a field that JSON cannot hold."""

    act: object = nn.relu

    @nn.compact
    def __call__(self, x):
        return nn.Dense(10)(self.act(nn.Conv(2, (3, 3))(x)).mean((1, 2)))


def test_parameters_are_those_that_the_module_gives_them():
    model = build_model(Model(Plain), 10, (8, 8, 1))
    x = jnp.ones((2, 8, 8, 1))
    mine = Plain().init(jax.random.key(3), x)
    variables = model.init(jax.random.key(3), x, train=False)
    jax.tree.map(np.testing.assert_array_equal, variables, mine)
    found = model.apply(variables, x, train=True)
    np.testing.assert_allclose(found, Plain().apply(mine, x), rtol=1e-5)  # convolved by ops
    logits, ends = models.with_endpoints(model, variables, x)
    assert ends.keys() == {"Conv_0", "Dense_0"}
    np.testing.assert_array_equal(ends["Dense_0"], logits)


CONVOLUTIONS = [
    {"kernel_size": (3, 3)},
    {"kernel_size": (5, 3), "strides": (2, 1), "padding": "VALID"},
    {"kernel_size": (3, 3), "kernel_dilation": 2, "padding": ((1, 2), (0, 3))},
    {"kernel_size": (3, 3), "feature_group_count": 4},  # depthwise
    {"kernel_size": (3, 3), "feature_group_count": 2, "padding": "CIRCULAR"},
    {"kernel_size": (4, 4), "strides": 4, "use_bias": False, "padding": 1},
    {"kernel_size": (3, 3), "padding": "valid"},
    {"kernel_size": (2, 2), "input_dilation": 2, "padding": 1},
    {"kernel_size": (3, 3), "padding": ((-1, 0), (0, 0))},
]


@pytest.mark.parametrize("fields", CONVOLUTIONS, ids=str)
def test_convolutions_of_linen_are_those_of_ops(fields):
    """Values and gradients are Linen's; what computes them, in a loop of steps too, is ops.conv."""

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Conv(8, **fields)(x)

    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 9, 8, 4), np.float32))
    net = models.own.Own(Net, (), 10)
    variables = Net().init(jax.random.key(0), x)

    def squares(model, variables, x):
        return (model.apply(variables, x) ** 2).sum()

    for found, wanted in zip(
        jax.tree.leaves(jax.value_and_grad(squares, (1, 2))(net, variables, x)),
        jax.tree.leaves(jax.value_and_grad(squares, (1, 2))(Net(), variables, x)),
        strict=True,
    ):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)
    ours = "custom_vjp" in str(jax.make_jaxpr(net.apply)(variables, x))
    assert ours == (fields not in CONVOLUTIONS[-2:])  # which ops.conv has not


class Slope(nn.Module):
    """The slope of a convolution along the image itself, which takes forward-mode derivatives."""

    num_classes: int

    @nn.compact
    def __call__(self, x):
        conv = nn.Conv(self.num_classes, (3, 3))
        _, slope = nn.jvp(lambda module, x: module(x), conv, (x,), (x,), variable_tangents={})
        return slope.mean((1, 2))


class Spectrum(nn.Module):
    """A convolution of complex numbers."""

    num_classes: int

    @nn.compact
    def __call__(self, x):
        found = nn.Conv(self.num_classes, (3, 3))(jnp.fft.fft2(x, axes=(1, 2)))
        return jnp.abs(found).mean((1, 2))


@pytest.mark.parametrize("network", [Slope, Spectrum])
def test_what_ops_cannot_convolve_is_left_to_lax(network):
    model = build_model(Model(network), 10, (8, 8, 1))
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 8, 8, 1), np.float32))
    variables = model.init(jax.random.key(0), x)

    def slope(model):
        return jax.grad(lambda params: model.apply({"params": params}, x).var())

    for found, wanted in zip(
        jax.tree.leaves(slope(model)(variables["params"])),
        jax.tree.leaves(slope(network(10))(variables["params"])),
        strict=True,
    ):
        np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_a_convolution_that_names_its_own_way_goes_it():
    def zero(x, kernel, strides, padding, **others):
        return 0 * jax.lax.conv_general_dilated(x, kernel, strides, padding, **others)

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Conv(8, (3, 3), conv_general_dilated=zero)(x)

    found, _ = models.own.Own(Net, (), 10).init_with_output(
        jax.random.key(0), jnp.ones((1, 4, 4, 1))
    )
    assert not found.any()


class Deep(nn.Module):
    num_classes: int
    widths: Sequence[int] = (4, 4)
    act: object = nn.relu

    @nn.compact
    def __call__(self, x):
        for width in self.widths:
            x = self.act(nn.Dense(width)(x))
        return nn.Dense(self.num_classes)(x.mean((1, 2)))


def test_of_a_module_that_was_made_the_fields_are_options():
    model = Model(Deep(num_classes=3, widths=(2, 3), act=nn.gelu))
    assert model.options == {"widths": (2, 3)}
    assert to_dict(Experiment(model=model))["model"]["name"].endswith(":Deep(act=gelu)")
    x = jnp.ones((1, 4, 4, 1))
    built, direct = build_model(model, 3, (4, 4, 1)), Deep(3, (2, 3), nn.gelu)
    variables = built.init(jax.random.key(0), x, train=False)
    jax.tree.map(np.testing.assert_array_equal, variables, direct.init(jax.random.key(0), x))
    np.testing.assert_array_equal(
        built.apply(variables, x, train=False), direct.apply(variables, x)
    )
    with pytest.raises(InputError, match="has num_classes=3, must be 10"):
        build_model(model, 10, (4, 4, 1))


class Kind(enum.Enum):
    RELU = "relu"
    GELU = "gelu"


@dataclasses.dataclass(frozen=True)
class Head:
    width: int = 8
    drop: float = 0.1


class Odd(nn.Module):
    num_classes: int
    kind: Kind = Kind.RELU
    head: Head = Head()
    act: object = nn.relu

    @nn.compact
    def __call__(self, x):
        x = (nn.gelu if self.kind is Kind.GELU else nn.relu)(nn.Dense(self.head.width)(x))
        return nn.Dense(self.num_classes)(self.act(x).mean((1, 2)))


def test_fields_that_no_config_can_hold_tell_networks_apart():
    by_hand = [
        Model(Odd(3, head=Head(9))),
        Model(Odd(3, head=Head(9, 0.2))),
        Model(Odd(3, act=lambda x: x)),
        Model(Odd(3, act=lambda x: x + 1)),
        Model(Odd(3, act=nn.silu)),
    ]
    assert len({str(model.name) for model in by_hand}) == len(by_hand)
    assert str(by_hand[0].name) == f"{__name__}:Odd(head=Head(width=9, drop=0.1))"
    with pytest.raises(InputError, match=r"what was given is '.*Odd\(act=silu\)', which has other"):
        require_given(f"{__name__}:Odd(act=tanh)", "model.name")


def test_members_of_an_enumeration_are_options_by_their_names():
    for model in (Model(Odd(3, kind=Kind.GELU)), Model(Odd, {"kind": Kind.GELU})):
        assert to_dict(Experiment(model=model))["model"]["options"] == {"kind": "GELU"}
        x = jnp.linspace(-1, 1, 48).reshape(1, 4, 4, 3)
        built, direct = build_model(model, 3, (4, 4, 3)), Odd(3, Kind.GELU)
        variables = direct.init(jax.random.key(0), x)
        np.testing.assert_array_equal(
            built.apply(variables, x, train=False), direct.apply(variables, x)
        )
        assert np.any(built.apply(variables, x, train=False) != Odd(3).apply(variables, x))
    with pytest.raises(InputError, match=r"model\.options\.kind='gelu': must be one of RELU, GELU"):
        build_model(Model(Odd, {"kind": "gelu"}), 3, (4, 4, 3))


def test_of_a_partial_the_arguments_are_options_or_stand_in_the_name():
    model = Model(functools.partial(Deep, widths=(2,), act=nn.gelu))
    assert (model.options, str(model.name)) == (
        {"widths": (2,)},
        f"{__name__}:Deep(act={nn.gelu.__qualname__})",
    )
    assert model.name != Model(functools.partial(Deep, act=nn.tanh)).name
    named = Augment(own=(Shift(0.1),)).own[0]
    assert named.name.endswith(":Shift(by=0.1)")


class Shift:
    def __init__(self, by):
        self.by = by

    def __call__(self, key, image, label):
        return image + self.by, label


def test_two_objects_of_one_name_are_refused():
    one, other = (Experiment(name=n, model=Model(lambda **options: Plain())) for n in "ab")
    with pytest.raises(
        InputError, match=r"model\.name='.*<lambda>': must be the name of one object"
    ):
        Comparison((one, other))
    Comparison((one, replace(other, model=one.model)))


def make(call, **fields):
    return type("Net", (nn.Module,), {"__call__": nn.compact(call), "__annotations__": fields})


def no_parameters(self, x):
    return x.mean((1, 2)) @ jnp.ones((1, 10))


def features(self, x):
    return nn.Dense(7)(x.mean((1, 2)))


def pair(self, x):
    y = nn.Dense(10)(x.mean((1, 2)))
    return y, y


def whole(self, x):
    return nn.Dense(10)(x.mean((1, 2))).astype(int)


def wants_more(self, x, mask):
    return nn.Dense(10)(x.mean((1, 2)))


def grows(self, x):
    seen = self.variable("state", "seen", lambda: jnp.zeros((1,)))
    if not self.is_initializing():
        seen.value = jnp.concatenate([seen.value, seen.value])
    return nn.Dense(10)(x.mean((1, 2)))


def named_otherwise(self, x, training=False):
    return nn.Dense(10)(x.mean((1, 2)))


def breaks(self, x):
    raise KeyError("whatever\nit says")


def draws(self, x):
    return nn.Dense(10)(x.mean((1, 2))) + jax.random.normal(self.make_rng("noise"))


def half(self, x):
    return nn.Dense(10, param_dtype=jnp.bfloat16)(x.mean((1, 2)))


FAULTS = [
    (make(no_parameters), {}, "has no parameters"),
    (
        make(features),
        {},
        r"must return outputs of shape \(n, 10\), returns float32 of shape \(2, 7\)",
    ),
    (make(pair), {}, r"must return outputs of shape \(n, 10\), returns tuple"),
    (make(whole), {}, r"must return outputs .* returns int32"),
    (make(wants_more), {}, "also wants mask"),
    (make(grows), {}, "changes names, shapes or types of its variables in state"),
    (make(named_otherwise), {}, "is told by train .or deterministic. whether it is trained"),
    (make(breaks), {}, r"on images of 8x8x1: KeyError: 'whatever"),
    (make(draws), {}, 'needs PRNG for "noise"'),
    (make(half), {}, "Dense_0/bias is of type bfloat16, must be float32"),
    (make(features, width=int), {}, "cannot be made .*width"),
    (
        make(features, width=int),
        {"width": "abc"},
        r"model\.options\.width='abc': must be of type int",
    ),
    (make(features, width=Callable[[int], int]), {}, "cannot be made .*width"),
    (make(features, width=int | None), {"width": 0.5}, r"width=0\.5: must be of type int or None"),
    (Plain, {"width": 3}, r"model\.options\.width=3: Plain has no such option; it takes act"),
    (Plain, {"num_classes": 3}, r"model\.options\.num_classes=3: is no option"),
    (lambda **options: 7, {}, "must make a flax.linen.Module, made a int"),
    (np.add, {}, "cannot be made"),
]


@pytest.mark.parametrize(("network", "options", "said"), FAULTS)
def test_what_cannot_be_trained_is_said_in_one_line(network, options, said):
    with pytest.raises(InputError, match=said) as error:
        build_model(Model(network, options), 10, (8, 8, 1))
    assert "\n" not in str(error.value)


class Noisy(nn.Module):
    """Returns what it draws, two numbers of one name and one of another, and drops half."""

    num_classes: int

    @nn.compact
    def __call__(self, x, *, train=False):
        kept = nn.Dropout(0.5, deterministic=not train)(jnp.ones((len(x), self.num_classes)))
        weights = self.param("weights", nn.initializers.ones, (3,))
        if not train:
            return kept * weights.sum()
        drawn = [jax.random.normal(self.make_rng(name)) for name in ("noise", "noise", "mask")]
        return kept * 1e-3 + jnp.tile(jnp.stack(drawn) * weights, (len(x), 1))


def test_a_network_draws_under_any_name_anew_in_each_step():
    model = build_model(Model(Noisy), 3, (8, 8, 1))
    images = jnp.zeros((1, 8, 8, 1))
    held = model.init(jax.random.key(0), images, train=False)
    drawn = [
        model.apply(held, images, train=True, rngs=random_streams(jax.random.key(step)))
        for step in (0, 0, 1)
    ]
    assert (drawn[0] == drawn[1]).all()
    assert len(np.unique(np.round(np.concatenate([drawn[0], drawn[2]]), 2))) == 6
    # Dropout draws what it draws where there is no other name.
    one, keys = nn.Dropout(0.5, deterministic=False), {"dropout": jax.random.key(3)}
    x = jnp.ones((4, 99))
    assert (
        one.apply({}, x, rngs=keys) == one.apply({}, x, rngs=random_streams(*keys.values()))
    ).all()


def test_arithmetic_of_another_type_needs_a_field_for_it():
    with pytest.raises(InputError, match=r"model\.dtype='bfloat16': Plain has no field dtype"):
        build_model(Model(Plain, dtype="bfloat16"), 10, (8, 8, 1))


def test_a_name_leads_back_to_what_is_known_in_this_process():
    experiment = Experiment(model=Model(Plain))
    values = json.loads(json.dumps(to_dict(experiment)))
    assert values["model"]["name"].endswith(":Plain")
    assert from_dict(values) == experiment
    values["model"]["name"] = "elsewhere:Plain"
    assert from_dict(values).model.name == "elsewhere:Plain"
    assert brought.bring(3) == 3


# ------------------------------------------------------------------- optimizers, augmentation

DIGITS = Experiment(
    data=Data("digits", train_limit=128, batch_size=32),
    model=Model("mlp", {"hidden": (8,)}),
    schedule=Schedule("constant", warmup_epochs=0),
    train=Train(epochs=1),
)
SAME = [
    pytest.param(
        Optim("adamw", peak_lr=0.01, weight_decay=0.1, clip_norm=1.0, sam_rho=0.05),
        Optim("optax:adamw", peak_lr=0.01, weight_decay=0.1, clip_norm=1.0, sam_rho=0.05),
        marks=pytest.mark.slow,
    ),
    pytest.param(
        Optim("sgd", peak_lr=0.1, weight_decay=1e-3, freeze=("fc1",)),
        Optim(
            "optax:sgd",
            {"momentum": 0.9, "nesterov": True},
            peak_lr=0.1,
            weight_decay=1e-3,
            freeze=("fc1",),
        ),
        marks=pytest.mark.slow,
    ),
    (
        Optim("adamw", b1=0.8, peak_lr=0.01),
        Optim(optax.scale_by_adam, {"b1": 0.8}, peak_lr=0.01),  # a direction
    ),
    pytest.param(
        Optim("lion", b2=0.99, peak_lr=0.001),
        Optim(optax.lion, {"b2": 0.99}, peak_lr=0.001),
        marks=pytest.mark.slow,
    ),
]


def digest(experiment):
    with tempfile.TemporaryDirectory() as folder:
        return group.train_one(experiment, Path(folder) / "run")["params_sha256"]


@pytest.mark.parametrize(("ours", "theirs"), SAME)
def test_an_optimizer_of_optax_is_the_one_that_has_a_name_here(ours, theirs):
    runs = (replace(DIGITS, optim=optim) for optim in (ours, theirs))
    assert len(set(map(digest, runs))) == 1


@pytest.mark.parametrize("name", ["adabelief", "radam", "yogi", "lamb", "contrib.prodigy"])
def test_whatever_optax_exports_can_be_trained_with(name):
    optim = Optim(f"optax:{name}", peak_lr=0.01, weight_decay=1e-4)
    program = group._Session(group.Listener(), None, None, None, 1).program
    assert program(replace(DIGITS, optim=optim), "alone").total_steps == 4


def scalar(learning_rate):
    return optax.GradientTransformation(lambda p: (), lambda g, s, p=None: (jnp.float32(0), s))


def counting(learning_rate):
    return optax.GradientTransformation(
        lambda p: jnp.int32(0), lambda g, s, p=None: (g, s.astype(float))
    )


WRONG = [
    ({"name": "optax:adabelif"}, r"Optax has no such optimizer; did you mean optax:adabelief\?"),
    ({"name": "optax:os.system"}, "Optax has no such optimizer"),
    ({"name": "optax:foo.bar.adam"}, "Optax has no such optimizer"),
    ({"name": "optax:adam", "options": {"b3": 1}}, r"optim\.options\.b3=1: must be of b1, b2"),
    (
        {"name": "optax:adamw", "options": {"weight_decay": 0.1}},
        r"weight_decay=0\.1: is no option; optim\.weight_decay is the field for it",
    ),
    ({"name": "optax:global_norm"}, "cannot be made"),
    ({"name": "optax:lbfgs"}, "cannot update the parameters"),
    ({"name": lambda learning_rate: 3}, "must make an optax.GradientTransformation, made a int"),
    ({"name": scalar}, "updates of the parameters' shapes"),
    ({"name": counting}, "a state of the shapes and types that it was given"),
    ({"name": "mine:adam"}, r"optim\.name='mine:adam': was brought by a user"),
    ({"name": "optax:adam", "momentum": 0.5}, r"optim\.momentum=0\.5: must be 0\.9"),
    ({"name": "adamw", "options": {"b1": 0.5}}, "empty with optim.name='adamw'"),
]


@pytest.mark.parametrize(("fields", "said"), WRONG)
def test_an_optimizer_that_does_not_fit_is_said_in_one_line(fields, said):
    with pytest.raises(InputError, match=said) as error:
        network.build(replace(DIGITS, optim=Optim(**fields)), tuple("0123456789"), (8, 8, 1))
    assert "\n" not in str(error.value)


SOFT = functools.partial(jax.nn.one_hot, num_classes=4)


def mirrored(key, image, label):
    return image[:, ::-1], label + 1


def shifted(key, image, label):
    return image + jax.random.uniform(key), label


def ramp(done, power=1.0):
    return (1 - done) ** power


def test_a_schedule_is_a_function_of_the_share_of_the_run(tmp_path):
    asked = Schedule(ramp, warmup_epochs=1, options={"power": 2.0})
    rates = np.array([make_schedule(asked, 0.4, 10, 5)(step) for step in range(51)])
    warm = np.arange(10) / 10
    done = np.arange(41) / 40
    np.testing.assert_allclose(rates, 0.4 * np.concatenate([warm, (1 - done) ** 2]), atol=1e-6)
    experiment = Experiment(
        model=Model("mlp"), schedule=asked, train=Train(epochs=3), data=Data("digits")
    )
    assert to_dict(experiment)["schedule"]["name"] == f"{__name__}:ramp"
    whole = group.train_one(experiment, tmp_path / "a")
    lines = (tmp_path / "a" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["lr"] for line in lines] == pytest.approx(
        [0.1 * 21 / 22, 0.1 * (1 - 21 / 44) ** 2, 0.1 * (1 - 43 / 44) ** 2], rel=1e-4
    )
    known = json.loads((tmp_path / "a" / "brought.json").read_text())
    assert known["schedule.name"]["name"] == f"{__name__}:ramp"
    assert group.train_one(experiment, tmp_path / "a") == whole


@pytest.mark.parametrize(
    ("curve", "options", "said"),
    [
        (lambda done: jnp.nan * done, {}, "must give finite numbers >= 0, gives nan"),
        (lambda done: done - 1, {}, "must give finite numbers >= 0, gives -0.1"),
        (lambda done: jnp.ones(2), {}, "must return a number, the factor of optim.peak_lr"),
        (lambda done: "x", {}, "TypeError"),
        (lambda: 1.0, {}, "TypeError"),
        (ramp, {"powr": 1.0}, "unexpected keyword argument 'powr'"),
        ("nowhere:ramp", {}, "was brought by a user"),
    ],
)
def test_a_schedule_that_does_not_fit_is_said_in_one_line(tmp_path, curve, options, said):
    schedule = Schedule(curve, warmup_epochs=0, options=options)
    experiment = Experiment(model=Model("mlp"), schedule=schedule)
    with pytest.raises(InputError, match=re.escape(said)):
        group.train_one(experiment, tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_own_functions_change_each_image_in_their_order_with_keys_of_their_own():
    batch = {
        "image": jnp.arange(2 * 3 * 3, dtype=jnp.uint8).reshape(2, 3, 3, 1),
        "label": jnp.array([0, 1], jnp.int32),
    }
    plain = make_training_batch(Data(), Augment(), SOFT)(batch, jax.random.key(0))["image"]
    own = Augment(own=(mirrored, shifted))
    found = jax.jit(make_training_batch(Data(), own, SOFT))(batch, jax.random.key(0))
    assert found["label"].tolist() == [1, 2]
    moved = np.asarray(found["image"] - plain[:, :, ::-1])
    assert (np.ptp(moved, axis=(1, 2)) < 1e-6).all()  # one shift for each image,
    assert abs(moved[0, 0, 0] - moved[1, 0, 0]) > 1e-3  # and another for the other
    mixed = make_training_batch(Data(), replace(own, mixup=1.0), SOFT)(batch, jax.random.key(0))
    assert mixed["target"][:, 3].sum() == 0
    assert mixed["target"][:, 1].sum() == pytest.approx(1)


def test_own_functions_go_with_flips_that_alternate(tmp_path):
    experiment = replace(DIGITS, augment=Augment(flip="alternating", own=(shifted,)))
    assert group.train_one(experiment, tmp_path / "a")["epochs"] == 1


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda key, image, label: (image[:1], label), r"must return image of shape \(3, 3, 1\)"),
        (lambda key, image, label: (image, label * 1.0), "must return label of .* type int32"),
        (lambda key, image, label: image, "augment.own=.*: "),
        (lambda image: image, "augment.own=.*TypeError"),
        ("mine:noise", "was brought by a user"),
    ],
)
def test_an_own_function_that_does_not_fit_is_said_in_one_line(function, said):
    batch = {"image": jnp.zeros((2, 3, 3, 1), jnp.uint8), "label": jnp.zeros(2, jnp.int32)}
    with pytest.raises(InputError, match=said) as error:
        make_training_batch(Data(), Augment(own=(function,)), SOFT)(batch, jax.random.key(0))
    assert "\n" not in str(error.value)


def test_that_it_does_not_fit_is_known_before_anything_is_compiled(tmp_path, capsys):
    experiment = replace(DIGITS, augment=Augment(own=(lambda key, image, label: image,)))
    with pytest.raises(InputError, match=r"augment\.own=.*: "), display.display() as listener:
        group.train_one(experiment, tmp_path / "a", listener)
    assert "compiling" not in capsys.readouterr().out
    assert not (tmp_path / "a").exists()


# ----------------------------------------------------------------------------------- data

MINE = '''
import numpy as np

from jaxcnn import from_arrays, from_source
from jaxcnn.config import Data, Experiment, Model, Schedule, Train


def stripes(n, seed):
    """Horizontal (0) or vertical (1) stripes in noise."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, n)
    images = rng.integers(0, 100, (n, 8, 8, 1), np.uint8)
    images[labels == 0, ::2] += 100
    images[labels == 1, :, ::2] += 100
    return images, labels


def load(data):
    return from_arrays(stripes(256, 0), stripes(64, 1), classes=("horizontal", "vertical"))


class Items:
    def __init__(self, n, seed):
        self.images, self.labels = stripes(n, seed)

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, i):
        return {"image": self.images[i], "label": int(self.labels[i])}


def lazy(data):
    return from_source(Items(256, 0), Items(64, 1), data, ("horizontal", "vertical"))


def config():
    return Experiment(
        name="stripes",
        data=Data(load, batch_size=32),
        model=Model("mlp", {"hidden": (8,)}),
        schedule=Schedule(warmup_epochs=0),
        train=Train(epochs=6),
    )
'''


@pytest.fixture(scope="module")
def striped(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    (folder / "mine.py").write_text(MINE)
    (folder / "lazy.py").write_text(MINE.replace("Data(load,", "Data(lazy,"))
    command(folder, "train", "mine.py", "--workdir", "run")
    return folder


def test_own_data_are_learned_and_known_again(striped, tmp_path):
    assert summary(striped / "run")["test_top1"] > 0.95  # the stripes are plain to see
    about = json.loads((striped / "run" / "dataset.json").read_text())
    assert (about["name"], about["classes"]) == ("mine:load", ["horizontal", "vertical"])
    said = command(striped, "eval", "run", code=2)
    assert "data.name='mine:load': was brought by a user" in said
    top1 = summary(striped / "run")["test_top1"]
    assert f"top-1 {top1:.2%}" in command(striped, "eval", "run", "--from", "mine.py")
    changed = MINE.replace("stripes(64, 1)", "stripes(64, 2)")
    (tmp_path / "mine.py").write_text(changed)
    said = command(tmp_path, "eval", str(striped / "run"), "--from", "mine.py", code=2)
    assert "not the data that" in said
    assert (
        "vertical"
        in command(striped, "report", "run", "--from", "mine.py")
        + (striped / "report.html").read_text()
    )


@pytest.mark.parametrize(
    "workers", [None, *(pytest.param(n, marks=pytest.mark.slow) for n in (0, 1))]
)
def test_a_random_access_source_gives_the_same_examples(striped, tmp_path, workers):
    streaming = () if workers is None else ("--data.streaming", "True")
    how = (*streaming, *(("--data.workers", "1") if workers else ()))
    command(striped, "train", "lazy.py", "--workdir", str(tmp_path / "lazy"), *how)
    if workers is None:
        for key in ("params_sha256", "state_sha256"):
            assert summary(tmp_path / "lazy")[key] == summary(striped / "run")[key]
    assert summary(tmp_path / "lazy")["test_top1"] > 0.95


PIXELS, LABELS = np.zeros((4, 8, 8, 1), np.uint8), np.array([0, 1, 0, 1])
NO_DATA = [
    ((PIXELS[0], LABELS), r"train labels: must be of shape \(8,\)"),
    ((PIXELS[0, 0], LABELS), r"train images: must be of shape \(n, h, w, c\) or \(n, h, w\)"),
    ((PIXELS[:0], LABELS[:0]), "not empty"),
    ((PIXELS, LABELS[:3]), r"train labels: must be of shape \(4,\), one for each image, .*\(3,\)"),
    ((PIXELS, LABELS * np.nan), "train labels: must be finite numbers, hold nan"),
    ((PIXELS, ["a", "b", "a", "b"]), "train labels: must be whole numbers"),
    ((PIXELS.astype(int) + 256, LABELS), "whole numbers from 0 to 255 .* are int64 beyond that"),
    ((PIXELS.astype(float) * np.nan, LABELS), "train images: must be finite numbers"),
    ((PIXELS.astype(complex), LABELS), "are complex128"),
    ((np.full((4, 8, 8), "x"), LABELS), "are <U1"),
]


@pytest.mark.parametrize(("train", "said"), NO_DATA)
def test_arrays_that_are_no_dataset_are_said_in_one_line(train, said):
    with pytest.raises(InputError, match=said) as error:
        own.from_arrays(train, (PIXELS, LABELS))
    assert "\n" not in str(error.value)


def test_arrays_fit_together():
    with pytest.raises(InputError, match=r"must be 8x8x1 uint8 .* are 8x8x3 uint8"):
        own.from_arrays((PIXELS, LABELS), (PIXELS.repeat(3, axis=3), LABELS))
    with pytest.raises(InputError, match="must name 3 classes, for labels up to 2"):
        own.from_arrays((PIXELS, LABELS), (PIXELS, LABELS + 1), ("a", "b"))
    assert own.from_arrays((PIXELS, LABELS), (PIXELS, LABELS)).classes == ("0", "1")


@pytest.mark.parametrize(
    ("train", "test", "line"),
    [
        ([0, 3, 6], [0, 3, 6], "no training example is of the class 1, 2, 4, 5"),
        ([0, 1], [0, 2], "no training example is of the class 2, although test examples are of 2"),
        ([1, 1], [1, 1], "1 is the only class of the training examples; there is nothing to tell "),
        ([0, 1], [0, 0], ""),
    ],
)
def test_classes_that_nothing_is_learned_of_are_named(train, test, line):
    given = (
        (np.zeros((len(labels), 8, 8), np.uint8), np.array(labels)) for labels in (train, test)
    )
    found = sources.unseen(own.from_arrays(*given), Data())
    assert found.startswith(line)
    assert bool(found) == bool(line)


def test_floating_point_images_are_seen_as_they_are():
    images = np.random.default_rng(0).normal(size=(4, 8, 8, 1))
    dataset = own.from_arrays((images, LABELS), (images, LABELS))
    seen = make_prepare(Data(mean=(0.5,), std=(2.0,)))(jnp.asarray(dataset.train.images))
    np.testing.assert_allclose(seen, (images - 0.5) / 2, atol=1e-6)


class Broken:
    def __len__(self):
        return 4

    def __getitem__(self, i):
        return None


SIXES = sources.Split(PIXELS, LABELS.astype(np.int32) + 5)
WRONG_LOADERS = [
    (
        lambda data: sources.Dataset(
            *[sources.Split(PIXELS, LABELS.astype(np.int32) + 5)] * 2, ("a", "b")
        ),
        "train labels must be below 2, the number of classes, hold 6",
    ),
    (
        lambda data: own.from_source(
            [(PIXELS[0], i // 60) for i in range(180)], [(PIXELS[0], 0)], data, ("a", "b")
        ),
        "its label is 2, must be below 2, the classes",
    ),
    (lambda data: 3, "must return a jaxcnn.data.Dataset, .* returned a int"),
    (lambda data: 1 / 0, "ZeroDivisionError"),
    (lambda data: own.from_source([], [], data), "train: must have a length above 0"),
    (lambda data: own.from_source(Broken(), Broken(), data), "must be .image, label., .* NoneType"),
    (
        lambda data: own.from_source([(PIXELS[0] * 1.0, 0)], [(PIXELS[0], 0)], data),
        r"its image must be \(h, w, c\) or \(h, w\) in uint8, is \(8, 8, 1\) in float64",
    ),
    (
        lambda data: own.from_source([(PIXELS[0], -1)], [(PIXELS[0], 0)], data),
        "its label must be a whole number >= 0, is -1",
    ),
    (
        lambda data: own.from_source([(PIXELS[0], 0)], [(PIXELS[0, :4], 0)], data),
        r"data\.image_size=None: must be a size, since images differ: 4x8x1, 8x8x1",
    ),
]


@pytest.mark.parametrize(("load", "said"), WRONG_LOADERS)
def test_a_function_that_gives_no_dataset_is_said_in_one_line(load, said):
    with pytest.raises(InputError, match=said) as error:
        sources.load(Data(load, batch_size=1))
    assert "\n" not in str(error.value)


# ------------------------------------------------------------------------- a file to start from


@pytest.mark.slow
def test_a_new_experiment_runs_as_it_is(tmp_path):
    assert "jaxcnn train mine.py" in command(tmp_path, "new", "mine.py")
    out = command(tmp_path, "train", "mine.py", "--train.epochs", "1")
    assert "runs/mine-seed0: summary.json" in out
    assert "Channels of the first convolution" in command(tmp_path, "train", "mine.py", "--help")
    before = (tmp_path / "mine.py").read_text()
    for name, said in (
        ("mine.py", "is there already"),
        ("nowhere/new.py", "there is no folder nowhere"),
        ("new.txt", "must be a name such as my_experiment.py"),
        ("my-new.py", "must be a name such as my_experiment.py"),
    ):
        assert said in command(tmp_path, "new", name, code=2)
    assert (tmp_path / "mine.py").read_text() == before
