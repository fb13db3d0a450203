"""What is planned before any memory is taken: trainings that have no room are refused in a line."""

import contextlib
import functools
import json
from dataclasses import replace

import numpy as np
import pytest

from jaxcnn import memory
from jaxcnn.config import Data, Experiment, Model, Train
from jaxcnn.data import sources
from jaxcnn.errors import InputError
from jaxcnn.learning import mesh, processes
from jaxcnn.runs import network
from jaxcnn.runs import program as program_of_runs
from jaxcnn.runs.program import Program

SMALL = Experiment(model=Model("mlp", {"hidden": (8,)}))


load = functools.cache(sources.load)


def program(experiment):
    return Program(experiment, load(experiment.data), mesh.one_device())


def refused(experiment):
    with pytest.raises(InputError) as error:
        program(experiment)
    return str(error.value)


def test_one_of_several_processes_digests_the_data(monkeypatch):
    about = program(SMALL).about
    assert json.loads(json.dumps(about)) == about  # so that the others can be told
    monkeypatch.setattr(program_of_runs, "describe", None)
    monkeypatch.setattr(processes, "on_first", lambda function: {"told": "by the first"})
    assert program(SMALL).about == {"told": "by the first"}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (
            {"train": Train(epochs=2**31 - 1)},
            "train.epochs=2147483647: must be of fewer than 2**31",
        ),
        (
            {"data": Data("digits", mean=(0.1, 0.2, 0.3))},
            "data.mean=(0.1, 0.2, 0.3): must be 1 number, or one for each of the images' channels",
        ),
        ({"data": Data("digits", std=(0.1, 0.2))}, "data.std=(0.1, 0.2): must be 1 number"),
        ({"model": Model("mlp", {"hidden": (2**20, 2**20)})}, "model.name='mlp': its state: needs"),
    ],
)
def test_what_no_machine_has_room_for_is_named(change, named):
    assert named in refused(replace(SMALL, **change))


@pytest.mark.parametrize(
    ("room", "change", "named"),
    [
        (32 * 22 * 10**6 - 1, {"train": Train(epochs=10**6)}, "train.epochs=1000000: the learning"),
        (10**7, {"data": Data("synthetic", num_classes=2000, examples=(64, 1))}, "2,000 classes: "),
    ],
)
def test_what_this_machine_has_no_room_for_is_named(monkeypatch, room, change, named):
    experiment = replace(SMALL, **change)
    program(experiment)
    monkeypatch.setattr(memory, "available", lambda: room)
    assert named in refused(experiment)


def test_a_compiled_step_that_has_no_room_is_named(monkeypatch):
    large = program(replace(SMALL, model=Model("convnet", {"widths": (512,)})))
    state, rates = large.init(np.int32(0)), large.rates(large.experiment)
    monkeypatch.setattr(memory, "available", lambda: 10**6)
    with contextlib.ExitStack() as closing:
        with pytest.raises(InputError, match=r"data\.batch_size=64: each step .* needs "):
            large.compile_chunk(state, rates, closing)
        small = program(SMALL)
        small.compile_chunk(small.init(np.int32(0)), rates, closing)


def test_bytes_of_arrays_too_large_to_be():
    shapes = program(SMALL).network.shapes
    assert network.nbytes(shapes.params) == 4 * (64 * 8 + 8 + 8 * 10 + 10)
