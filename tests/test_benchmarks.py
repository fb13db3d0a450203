"""The benchmarks' own parts; what they measure is not tested."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import peers, vs_peers

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
    results, skipped = vs_peers.measure(running, case, 2, lines.append)
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
