"""What the speedrun needs of runs: initialisation that sees images, flips that alternate."""

import contextlib
import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcnn
from benchmarks import speedrun
from experiments import speedrun_cifar10
from jaxcnn.config import Augment, Data, Experiment, Model, Optim, Train
from jaxcnn.data import sources
from jaxcnn.errors import InputError
from jaxcnn.learning import mesh
from jaxcnn.runs import group
from jaxcnn.runs import program as programs
from jaxcnn.runs.program import Program
from jaxcnn.runs.trained import restore

SMALL = Experiment(
    data=Data("digits", image_size=10, batch_size=256, mean=(0.3,), std=(0.4,), train_limit=700),
    model=Model("airbench", {"widths": (6, 6)}),
    optim=Optim("sgd", peak_lr=0.1, freeze=("whiten/kernel",)),
    train=Train(epochs=2),
)


def program(experiment):
    return Program(experiment, sources.load(experiment.data), mesh.one_device())


class Centred(nn.Module):
    """A network that takes off the mean of the images that its initialisation sees."""

    num_classes: int
    init_images = 300

    @nn.compact
    def __call__(self, x, *, train=False):
        x = x - self.param("centre", lambda _: x.mean((0,)))[None]
        return nn.Dense(self.num_classes)(x.reshape(len(x), -1))


def test_an_initialisation_sees_images_that_are_evenly_spread_over_the_training_set():
    experiment = dataclasses.replace(SMALL, model=Model(Centred), optim=Optim())
    state = program(experiment).init(np.int32(0))
    x = sources.load(experiment.data).train.images
    chosen = x[[place * 700 // 300 for place in range(300)]]
    chosen = np.pad(chosen, ((0, 0), (1, 1), (1, 1), (0, 0)))
    want = (chosen / 255 - 0.3).mean(0) / 0.4
    np.testing.assert_allclose(state.params["centre"], want, atol=1e-5)
    few = dataclasses.replace(experiment, data=dataclasses.replace(SMALL.data, train_limit=256))
    assert len(program(few).seen()["image"]) == 256


@pytest.mark.parametrize("number", [-1, 1.5, True, "all"])
def test_an_impossible_number_of_images_is_named(number):
    network = type("Wrong", (Centred,), {"init_images": number})
    with pytest.raises(InputError, match=r"has init_images=.*, must be a whole number >= 0"):
        program(dataclasses.replace(SMALL, model=Model(network), optim=Optim()))


def test_of_other_networks_it_sees_none():
    plain = program(dataclasses.replace(SMALL, model=Model("mlp", {"hidden": (8,)}), optim=Optim()))
    assert plain.seen() == {}
    held, found = plain.network.init(np.int32(3)), plain.init(np.int32(3))
    jax.tree.map(np.testing.assert_array_equal, held, found)


@pytest.mark.slow
def test_a_first_layer_that_whitens_stays_and_a_run_goes_on_with_the_same_bits(tmp_path):
    flips = Augment(flip="alternating", crop_padding=1, padding_mode="reflect")
    experiment = dataclasses.replace(SMALL, augment=flips)
    first = program(experiment).init(np.int32(0)).params["whiten"]
    whole = group.train_one(experiment, tmp_path / "whole")
    kept = restore(tmp_path / "whole").state.params["whiten"]
    np.testing.assert_array_equal(kept["kernel"], first["kernel"])
    assert np.any(kept["bias"] != first["bias"])
    short = dataclasses.replace(experiment, train=Train(epochs=1, save_minutes=0))
    short = dataclasses.replace(short, schedule=jaxcnn.config.Schedule("constant", 0))
    long = dataclasses.replace(short, train=Train(epochs=2))
    group.train_one(short, tmp_path / "cut")
    resumed = group.train_one(long, tmp_path / "cut")
    again = group.train_one(long, tmp_path / "again")
    assert resumed["state_sha256"] == again["state_sha256"]
    assert resumed["state_sha256"] != whole["state_sha256"]


def test_batches_show_every_image_mirrored_in_every_other_epoch(monkeypatch):
    """Images whose pixels say which they are, through the batches of a run."""
    n, size = 60, 20
    x = np.zeros((n, 4, 4, 1), np.uint8)
    x[:, :, 0, 0], x[:, :, 1, 0] = np.arange(n)[:, None] + 1, 255
    split = sources.Split(x, np.zeros(n, np.int32))
    dataset = sources.Dataset(split, split.take(np.arange(4)), ("a", "b"))
    experiment = Experiment(
        data=Data(batch_size=size), augment=Augment(flip="alternating"), model=Model("mlp")
    )
    built = Program(experiment, dataset, mesh.one_device())
    shuffle = programs.pipeline.Shuffle(n, size)

    @jax.jit
    def batch(seed, step):
        order = shuffle.order(programs.stream(seed, "order"), step)
        given = built.given()
        crops, teacher = None, None
        return programs._batch(
            built.network, dataset, crops, shuffle, teacher, given, seed, order, step
        )["image"]

    def mirrored(seed, epoch):
        images = jnp.concatenate([batch(seed, 3 * epoch + i) for i in range(3)])
        images = np.asarray(images * 255).round().astype(int)[..., 0]
        found = np.zeros(n, bool)
        for image in images:
            kept = image[0, 0] in range(1, n + 1) and image[0, 1] == 255
            found[(image[0, 0] if kept else image[0, 3]) - 1] = not kept
        return found

    epochs = [mirrored(0, epoch) for epoch in range(4)]
    assert 15 < epochs[0].sum() < 45
    for epoch in (1, 2, 3):
        np.testing.assert_array_equal(epochs[epoch], ~epochs[epoch - 1])
    assert (mirrored(1, 0) != epochs[0]).any()


def test_flips_of_a_stream_cannot_alternate():
    data = dataclasses.replace(SMALL.data, streaming=True)
    streamed = dataclasses.replace(SMALL, data=data, augment=Augment(flip="alternating"))
    with pytest.raises(InputError, match=r"augment.flip='alternating': must be True or False"):
        program(streamed)
    found = program(dataclasses.replace(streamed, augment=Augment(flip=True))).seen()["image"]
    np.testing.assert_array_equal(found, program(SMALL).seen()["image"])


@pytest.mark.slow
def test_one_program_trains_and_judges_as_the_steps_do(monkeypatch):
    """The benchmark's whole training against the chunks of a run, on images in small."""
    base = speedrun_cifar10.config()
    data = Data("synthetic", batch_size=32, eval_batch_size=24, examples=(70, 40))
    experiment = dataclasses.replace(
        base,
        data=data,
        model=Model("airbench", {"widths": (4, 6, 6)}),
        train=dataclasses.replace(base.train, epochs=3),
    )
    dataset = sources.load(data)
    built = Program(experiment, dataset, mesh.one_device())
    sums = speedrun.make_run(built)(5)
    state = built.init(np.int32(5))
    with contextlib.ExitStack() as closing:
        chunk = built.compile_chunk(state, built.rates(experiment), closing)
        for end in (2, 4, 6):
            (state,) = chunk.run((state,), np.array([end], np.int32))
    evaluate = group.compile_evaluate(built.network, dataset, state, "flip_shift")
    want = jax.device_get(evaluate(state))
    assert sums["count"] == want["count"] == 40
    np.testing.assert_allclose(sums["loss"], want["loss"], rtol=1e-3)

    pytest.importorskip("torch", reason="the peer is in PyTorch")
    peer = speedrun.peers(experiment, dataset, 1)
    assert 0 <= peer["top1"][0] <= 1
