import sys
import types

import pytest

from jaxcnn.analysis import energy


class NoNvml(Exception):
    pass


@pytest.fixture
def card(monkeypatch):
    """A GPU of which NVML tells: each step takes 3 joules and half a second."""
    state = types.SimpleNamespace(joules=1e6, seconds=0.0, steps=0, asked=[], counts=True)

    def handle(of):
        state.asked.append(of)
        if of not in (0, 3, "GPU-a"):
            raise NoNvml
        return "card"

    def total(card):
        if not state.counts:
            raise NoNvml
        return 1e3 * state.joules

    def step():
        state.joules, state.seconds, state.steps = (
            state.joules + 3,
            state.seconds + 0.5,
            state.steps + 1,
        )
        return ()

    state.step = step
    nvml = types.SimpleNamespace(
        NVMLError=NoNvml,
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByIndex=handle,
        nvmlDeviceGetHandleByUUID=handle,
        nvmlDeviceGetTotalEnergyConsumption=total,
    )
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.setattr(energy.jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(energy.time, "perf_counter", lambda: state.seconds)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return state


def test_joules_of_a_thousand_images(card):
    assert energy.joules_per_1000(card.step, images=8) == pytest.approx(1000 * 3 / 8)
    assert card.steps == 1 + energy.SECONDS / 0.5  # the first one is not counted


@pytest.mark.parametrize(
    ("visible", "asked"), [(None, 0), ("3", 3), ("3,0", 3), ("GPU-a,GPU-b", "GPU-a")]
)
def test_the_card_that_cuda_uses_is_asked(card, monkeypatch, visible, asked):
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert energy.joules_per_1000(card.step, images=1) == pytest.approx(3000)
    assert card.asked == [asked]


@pytest.mark.parametrize("lack", ["a GPU", "the package", "the card", "a counter"])
def test_nothing_is_said_where_nothing_counts(card, monkeypatch, lack):
    if lack == "a GPU":
        monkeypatch.setattr(energy.jax, "default_backend", lambda: "cpu")
    elif lack == "the package":
        monkeypatch.setitem(sys.modules, "pynvml", None)
    elif lack == "the card":
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-b")
    card.counts = lack != "a counter"
    assert energy.joules_per_1000(card.step, images=1) is None
    assert not card.steps
