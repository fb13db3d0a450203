"""The benchmarks' own parts; what they measure is not tested."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from benchmarks import fusions, peers, timing, vs_peers
from benchmarks.compile import steps_until_ahead
from jaxcnn.analysis import bench
from jaxcnn.models import create_model

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    "case",
    [
        peers.Case("resnet18", (32, 32, 3), 10, True, 2, "fp32"),
        peers.Case("resnet50", (224, 224, 3), 1000, False, 2, "fp32"),
    ],
)
def test_the_resnet_written_out_has_the_layers_of_torchvision(torchvision, case):
    import torch

    def layers(model):
        found = [tuple(p.shape) for p in model.parameters()]
        strides = [m.stride for m in model.modules() if isinstance(m, torch.nn.Conv2d)]
        return sorted(found), sorted(strides)

    with torch.device("meta"):
        assert layers(peers.torch_resnet(case)) == layers(peers.torch_model(case))


def test_peers_answer_in_turn_and_what_is_missing_is_named(monkeypatch):
    monkeypatch.setattr(vs_peers, "ROUND_SECONDS", 0.0)
    case = peers.Case("lenet5", (32, 32, 1), 10, False, 2, "fp32")
    running = {name: vs_peers.Peer(name) for name in ("jaxcnn", "Keras on Theano")}
    lines: list[str] = []
    skipped = {}
    results = list(vs_peers.measure(running, case, 2, lines.append, skipped))
    for peer in running.values():
        peer.close()
    assert skipped == {"Keras on Theano": "KeyError: 'Keras on Theano'"}
    assert [result["work"] for result in results] == ["infer", "train"]
    assert all(list(result["images_per_s"]) == ["jaxcnn"] for result in results)
    assert any("skipped" in line for line in lines)


def test_results_go_to_the_folder_that_out_names(tmp_path):
    code = "from benchmarks import timing; print(timing.write('x', {'a': 1}, rounds=2))"
    out = tmp_path / "new" / "folder"
    env = {**os.environ, "OUT": str(out), "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], env=env, check=True, capture_output=True)
    assert json.loads((out / "x.json").read_text())["results"] == {"a": 1}


@pytest.mark.parametrize(
    ("lax_s", "cold_s", "lax_step_s", "step_s"),
    [
        (9, 13, 6, 1),  # ahead from the first step on
        (8, 31, 4, 3),  # 23 steps draw level
        (5, 4, 2, 1),  # quicker to compile
        (5, 4, 2, 2),
        (5, 5, 3, 2),
    ],
)
def test_ahead_is_the_first_step_after_which_ours_takes_less(lax_s, cold_s, lax_step_s, step_s):
    steps = steps_until_ahead(lax_s, cold_s, lax_step_s, step_s)
    taken = [(cold_s + n * step_s, lax_s + n * lax_step_s) for n in range(100)]
    assert steps == next(n for n, (ours, lax) in enumerate(taken) if ours < lax)


@pytest.mark.parametrize(("cold_s", "step_s"), [(2.0, 0.5), (1.0, 0.5), (2.0, 0.6), (0.5, 0.6)])
def test_what_takes_no_less_in_the_long_run_is_never_ahead(cold_s, step_s):
    assert steps_until_ahead(1.0, cold_s, 0.5, step_s) is None


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ("f32[8,3]{1,0}", 96),
        ("bf16[2,3,5]{2,1,0:T(8,128)(2,1)S(1)}", 60),
        ("f32[]", 4),
        ("pred[7]{0}", 7),
        ("s8[3]", 3),
        ("u4[5]", 3),
        ("f8e4m3fn[6]{0}", 6),
        ("c64[2]", 16),
        ("f32[0,9]{1,0}", 0),
        ("s32[<=5]", 20),
        ("token[]", 0),
        ("(f32[2]{0}, (s64[3]{0}, pred[]), bf16[1,1]{1,0})", 8 + 24 + 1 + 2),
    ],
)
def test_bytes_of_shapes(shape, size):
    assert fusions.shape_bytes(shape) == size


HLO = r"""HloModule jit_f, is_scheduled=true, entry_computation_layout={(f32[8,4]{1,0})->f32[]}

FileNames
1 "a.py"

%region_0.3 (Arg_0.4: f32[], Arg_1.5: f32[]) -> f32[] {
  %Arg_0.4 = f32[] parameter(0)
  %Arg_1.5 = f32[] parameter(1)
  ROOT %add.6 = f32[] add(%Arg_0.4, %Arg_1.5)
}

%fused_add (param_0: f32[8,4], param_1: f32[4]) -> (f32[8,4], f32[]) {
  %param_0 = f32[8,4]{1,0} parameter(0)
  %param_1 = f32[4]{0} parameter(1)
  %broadcast.1 = f32[8,4]{1,0} broadcast(%param_1), dimensions={1}, metadata={op_name="jit(f)/b"}
  %add.1 = f32[8,4]{1,0} add(%param_0, %broadcast.1), metadata={op_name="jit(f)/A/add"}
  %zero = f32[] constant(0)
  %sum.1 = f32[] reduce(%add.1, %zero), dimensions={0,1}, to_apply=%region_0.3
  ROOT %both = (f32[8,4]{1,0}, f32[]) tuple(%add.1, /*index=1*/%sum.1)
}

%fused_transpose (p: f32[8,4]) -> f32[4,8] {
  %p = f32[8,4]{1,0} parameter(0)
  ROOT %transpose.1 = f32[4,8]{1,0} transpose(%p), dimensions={1,0}
}

%inner (p.1: f32[8,4]) -> f32[8,4] {
  %p.1 = f32[8,4]{1,0} parameter(0)
  ROOT %negate.1 = f32[8,4]{1,0} negate(%p.1), metadata={op_name="jit(f)/neg"}
}

%outer (p.2: f32[8,4]) -> f32[8,4] {
  %p.2 = f32[8,4]{1,0} parameter(0)
  ROOT %nested = f32[8,4]{1,0} fusion(%p.2), kind=kLoop, calls=%inner
}

%body (s: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
  %s = (s32[], f32[8,4]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%s), index=0
  %x = f32[8,4]{1,0} get-tuple-element(%s), index=1
  %square = f32[8,4]{1,0} multiply(%x, %x)
  ROOT %next = (s32[], f32[8,4]{1,0}) tuple(%i, %square)
}

%condition (s.1: (s32[], f32[8,4])) -> pred[] {
  %s.1 = (s32[], f32[8,4]{1,0}) parameter(0)
  ROOT %less = pred[] constant(false)
}

%called (c: f32[8,4]) -> f32[8,4] {
  %c = f32[8,4]{1,0} parameter(0)
  ROOT %exponential = f32[8,4]{1,0} exponential(%c)
}

ENTRY %main.9 (x.1: f32[8,4], b.1: f32[4], w: bf16[3,3,4,4]) -> f32[] {
  %x.1 = f32[8,4]{1,0} parameter(0), metadata={op_name="x[\'a (b\']"}
  %b.1 = f32[4]{0} parameter(1)
  %w = bf16[3,3,4,4]{3,2,1,0} parameter(2)
  %add_fusion = (f32[8,4], f32[]) fusion(%x.1, %b.1), calls=%fused_add, metadata={op_name="f/sum"}
  %get.1 = f32[8,4]{1,0} get-tuple-element(%add_fusion), index=0
  %moved = f32[4,8]{1,0} fusion(%get.1), kind=kLoop, calls=%fused_transpose
  %twice = f32[8,4]{1,0} fusion(%get.1), kind=kCustom, calls=%outer, backend_config={"a":"(%b.1"}
  %start = (s32[], f32[8,4]{1,0}) tuple(%i.0, %twice)
  %loop = (s32[], f32[8,4]) while(%start), body=%body, config={"known_trip_count":{"n":"5"}}
  %out = f32[8,4]{1,0} call(%get.1), to_apply=%called
  %conv = (f32[8,4]{0:T(8)}, u8[10]) custom-call(%out, %w), custom_call_target="__cudnn$convForward"
  %gemm.1 = f32[8,8]{1,0} custom-call(%get.1, %moved), custom_call_target="__cublas$gemm"
  %dot.1 = f32[8,8]{1,0} dot(%get.1, %moved), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  %copy.1 = f32[8,8]{0,1} copy(%dot.1)
  ROOT %result = f32[] get-tuple-element(%add_fusion), index=1
}
"""


def test_passes_of_a_program_as_xla_writes_it():
    x = 8 * 4 * 4
    expected = [
        ("add_fusion", "reduction", x + 16, x + 4, 1),
        ("moved", "copy", x, x, 1),
        ("twice", "elementwise", x, x, 1),
        ("square", "elementwise", x, x, 5),  # reads its one operand once
        ("exponential", "elementwise", x, x, 1),
        ("conv", "convolution", x + 3 * 3 * 4 * 4 * 2, x + 10, 1),
        ("gemm.1", "product", 2 * x, 8 * 8 * 4, 1),
        ("dot.1", "product", 2 * x, 8 * 8 * 4, 1),
        ("copy.1", "copy", 8 * 8 * 4, 8 * 8 * 4, 1),
    ]
    found = fusions.passes(HLO)
    assert [tuple(one[:5]) for one in found] == expected
    assert found[3].moved == 5 * 2 * x
    assert found[0].ops == ("f/sum", "jit(f)/A/add", "jit(f)/b")
    assert found[2].ops == ("jit(f)/neg",)


N = 1000


@pytest.mark.parametrize(
    ("program", "shapes", "read", "written", "kind"),
    [
        (lambda x: 2 * x + 1, [(N,)], 4 * N, 4 * N, "elementwise"),
        (lambda x, y: x * y, [(N,), (N,)], 8 * N, 4 * N, "elementwise"),
        (lambda x: x.T + 0, [(N, 7)], 28 * N, 28 * N, "copy"),
        (lambda x, w: x @ w, [(N, 30), (30, 20)], 4 * 30 * (N + 20), 80 * N, "product"),
        (
            lambda x, w: lax.conv(x, w, (1, 1), "SAME"),
            [(2, 3, 8, 8), (5, 3, 3, 3)],
            4 * (2 * 3 * 64 + 5 * 27),
            4 * 2 * 5 * 64,
            "convolution",
        ),
    ],
)
def test_bytes_of_tiny_programs(program, shapes, read, written, kind):
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    compiled = jax.jit(program).lower(*arguments).compile()
    found = fusions.passes(compiled.as_text())
    # XLA may copy an operand into another layout first.
    assert [one[2:4] for one in found if one.kind == kind] == [(read, written)]
    assert sum(one.moved for one in found) == compiled.cost_analysis()["bytes accessed"]


def test_a_training_step_is_counted_as_xla_counts_it():
    found, totals = fusions.count("lenet5", 4, "fp32", (32, 32, 1))
    assert totals["total"] == sum(one.moved for one in found) == sum(totals["kinds"].values())
    assert totals["total"] == pytest.approx(totals["xla"], rel=0.02)
    assert {"convolution", "product", "elementwise"} <= set(totals["kinds"])
    assert any("conv2/conv" in op for one in found for op in one.ops)
    # Parameters and momentum read and written; images and labels read; activations both.
    activations = 4 * 4 * (28 * 28 * 6 + 10 * 10 * 16 + 120 + 84 + 10)
    assert totals["activations"] == activations
    assert totals["learned"] == 2 * 4 * 61_706
    state, batch = 2 * 4 * 61_706, 4 * 4 * (32 * 32 + 1)
    assert totals["fewest"] == 2 * state + batch + 2 * activations


def test_the_fewest_bytes_count_statistics_and_narrow_activations():
    model = create_model("resnet20", num_classes=10)
    images, labels = bench.random_batch(2, (32, 32, 3), 10)
    variables = bench.random_variables(model, (32, 32, 3))
    learned = variables["params"], variables["batch_stats"]
    batch = {"image": jnp.asarray(images, jnp.bfloat16), "label": jnp.asarray(labels, jnp.int32)}
    statistics = 2 * 688  # mean and variance of each channel that is normalised
    expected = 2 * 4 * (269_722 + statistics) + 2 * (2 * 32 * 32 * 3 + 4) + 2 * 100
    assert fusions.fewest_bytes(learned, batch, 100) == expected


def test_the_script_prints_tables_and_writes_json_if_asked(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(timing, "RESULTS", tmp_path)
    options = ("--batch-size", "2", "--dtype", "bfloat16", "--input", "16", "16", "1", "--top", "3")
    fusions.main(["convnet", *options])
    assert not list(tmp_path.iterdir())
    fusions.main(["convnet", *options, "--out", "counted"])
    shown = capsys.readouterr().out
    assert "3 of " in shown
    assert "times the fewest possible" in " ".join(shown.split())
    (path,) = tmp_path.iterdir()
    assert path.name == "counted.json"
    content = json.loads(path.read_text())
    assert content["settings"]["dtype"] == "bfloat16"
    results = content["results"]
    assert results["total"] == sum(one["moved"] for one in results["passes"])


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("lenet6",), "did you mean lenet5"),
        (("lenet5", "--batch-size", "0"), "--batch-size 0: must be at least 1"),
        (("lenet5", "--dtype", "fp8"), "--dtype"),
        (("lenet5", "--input", "8", "8", "1"), "8x8"),
    ],
)
def test_the_script_refuses_bad_input(arguments, named, capsys):
    with pytest.raises(SystemExit, match="2"):
        fusions.main(arguments)
    assert named in capsys.readouterr().err
