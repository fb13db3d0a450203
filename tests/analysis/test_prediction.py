"""The model of `jaxcnn plan`: cards, collectives in a program's text, and the time of a step."""

import csv
import doctest
import json
from pathlib import Path

import jax.numpy as jnp
import pytest

from jaxcnn import models
from jaxcnn.analysis import collectives, hlo, layers, step_cost
from jaxcnn.analysis.cards import CARDS, MEASURED
from jaxcnn.analysis.collectives import HOP, HOP_BETWEEN_NODES, LAUNCH, Collective
from jaxcnn.analysis.roofline import Roofs

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"

HLO = """\
HloModule jit_chunk

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%part (p: f32[8]) -> f32[8] {
  %p = f32[8]{0} parameter(0)
  ROOT %in_parts = f32[8]{0} all-reduce(%p), replica_groups=[2,4]<=[8], to_apply=%add
}

%step (state: f32[8]) -> f32[8] {
  %state = f32[8]{0} parameter(0)
  %whole = bf16[64]{0} all-gather(%state), replica_groups={{0,4},{1,5},{2,6},{3,7}}, dimensions={0}
  %own = f32[2]{0} reduce-scatter(%state), replica_groups=[2,4]<=[4,2]T(1,0), to_apply=%add
  %alone = f32[8]{0} all-reduce(%state), replica_groups=[8,1]<=[8], to_apply=%add
  ROOT %done = f32[8]{0} while(%state), condition=%c, body=%part, THRICE
}

ENTRY %main (x: f32[8]) -> f32[8] {
  %x = f32[8]{0} parameter(0)
  ROOT %steps = f32[8]{0} while(%x), condition=%c, body=%step
}
""".replace("THRICE", 'backend_config={"known_trip_count":{"n":"3"}}')


def test_collectives_are_found_in_loops_with_their_bytes_and_groups():
    found = {one.kind: one for one in collectives.find(HLO, 8)}
    assert len(found) == len(collectives.find(HLO, 8)) == 3  # one of a device alone is none
    gather, reduced, scatter = (found[k] for k in ("all-gather", "all-reduce", "reduce-scatter"))
    assert (gather.bytes, gather.group, gather.times) == (128, (0, 4), 1)
    assert (reduced.bytes, reduced.group, reduced.times) == (32, (0, 1, 2, 3), 3)
    assert (scatter.bytes, scatter.group, scatter.times) == (32, (0, 2, 4, 6), 1)
    assert reduced.sent == 3 * 32 * 2 * 3 / 4
    assert scatter.sent == 32 * 3 / 4
    assert gather.sent == 128 / 2


def test_groups_in_a_form_that_is_not_known_are_not_passed_over():
    with pytest.raises(AssertionError, match="unknown groups"):
        collectives.find(HLO.replace("[2,4]<=[8]", "somehow"), 8)


@pytest.mark.parametrize(
    ("group", "speed", "hops"),
    [
        (range(8), 450e9, 7 * HOP),  # a node
        (range(16), 400e9, 7 * HOP + HOP_BETWEEN_NODES),  # two nodes: all adapters
        (range(64), 400e9, 7 * HOP + 3 * HOP_BETWEEN_NODES),
        (range(0, 64, 8), 50e9, 3 * HOP_BETWEEN_NODES),  # eight such rings share the adapters
        (range(0, 16, 2), 200e9, 3 * HOP + HOP_BETWEEN_NODES),
    ],
)
def test_a_ring_is_as_fast_as_its_slowest_link(group, speed, hops):
    one = Collective("all-reduce", 10**9, tuple(group), 2, "")
    n = len(group)
    expected = 2 * (2 * (n - 1) / n * 1e9 / speed + LAUNCH + 2 * hops)
    assert one.seconds(CARDS["h100"]) == pytest.approx(expected)


def test_the_roofs_of_the_h200_are_those_that_were_measured():
    with (RESULTS / "h200" / "bench.csv").open() as file:
        row = next(csv.DictReader(file))
    measured = Roofs(float(row["device_flops_per_sec"]), float(row["device_bytes_per_sec"]))
    assert measured == MEASURED
    assert CARDS["h200"].roofs("bf16") == pytest.approx(measured)
    for card in CARDS.values():
        assert card.roofs("fp32").flops_per_sec <= card.roofs("bf16").flops_per_sec
        assert card.roofs("bf16").flops_per_sec < card.flops["bf16"]
        assert card.roofs("bf16").bytes_per_sec < card.bandwidth


@pytest.mark.parametrize("name", ["lenet5", "convnet"])
def test_the_cost_of_any_batch_lies_on_the_line_through_two(name):
    shape = models.standard_input(name)
    model = models.create_model(name, num_classes=10, dtype=jnp.bfloat16)
    cost = step_cost.step_cost(model, shape, "bf16")
    direct = layers.paired(model, shape, 5, jnp.bfloat16, "train")
    assert cost.moved(5) == sum(layer.moved("train") for _, layer in direct)
    macs = [row.macs for row, _ in direct]
    # Of the first layer's image there is no gradient.
    assert cost.flops(5) == 5 * (6 * sum(macs) - 2 * macs[0])
    assert cost.activations == sum(row.activations for row, _ in direct)


def test_a_layer_waits_for_its_products_or_for_its_bytes():
    cost = step_cost.StepCost(
        (step_cost.LayerCost(10.0, 1.0, 0.0), step_cost.LayerCost(1.0, 3.0, 20.0)), 7
    )
    assert cost.least(2, Roofs(10.0, 2.0)) == 20 / 10 + 26 / 2
    share, overhead = step_cost.ATTAINED["gpu"]
    card = CARDS["a100"]
    expected = cost.least(2, card.roofs("bf16")) / share + 2 * overhead
    assert cost.seconds(2, card, "bf16") == pytest.approx(expected)


def test_what_is_said_of_errors_is_what_was_measured():
    results = json.loads((RESULTS / "plan.json").read_text())["results"]
    for platform, name in (("gpu", "h200"), ("cpu", "cpu")):
        errors, said = results[name]["errors"], step_cost.VALIDATED[platform]
        assert said.steps == errors["steps"]
        assert said.median == pytest.approx(errors["median"], abs=0.005)
        assert said.largest == pytest.approx(errors["largest"], abs=0.005)
    fitted = results["h200"]["fitted"]
    assert step_cost.ATTAINED["gpu"].share == pytest.approx(fitted["share"], abs=5e-4)
    assert step_cost.ATTAINED["gpu"].overhead == pytest.approx(fitted["overhead"], rel=1e-2)


@pytest.mark.parametrize("module", [collectives, hlo])
def test_examples_in_docstrings(module):
    tests, failed = doctest.testmod(module).attempted, doctest.testmod(module).failed
    assert tests
    assert not failed
