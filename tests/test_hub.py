"""Weights by name, from a Hub that is served here: fetched, kept, and found without a network."""

import functools
import importlib
import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from PIL import Image
from safetensors.numpy import save

from jaxcnn import models
from jaxcnn.cli import main
from jaxcnn.models import hub, torch_weights
from jaxcnn.runs.trained import restore

COMMIT = "0123456789abcdef0123456789abcdef01234567"
NAME = "hf:timm/resnet18.a1_in1k"
PUBLISHED: dict[str, Any] = {
    "architecture": "resnet18",
    "num_classes": 12,
    "num_features": 512,
    "global_pool": "avg",
    "label_names": [f"n{i}" for i in range(12)],
    "label_descriptions": {f"n{i}": f"thing {i}" for i in range(11)},
    "pretrained_cfg": {
        "tag": "a1_in1k",
        "input_size": [3, 64, 64],
        "test_input_size": [3, 96, 96],
        "interpolation": "bicubic",
        "crop_pct": 0.8,
        "test_crop_pct": 1.0,
        "crop_mode": "center",
        "mean": [0.5, 0.4, 0.3],
        "std": [0.25, 0.2, 1],
    },
}


@functools.cache
def resnet18() -> dict[str, np.ndarray]:
    """A state dict in torchvision's layout, which is timm's too."""
    model = models.create_model("resnet18", num_classes=12)
    template = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    rng = np.random.default_rng(0)
    return {
        torch_weights.spelled(path): rng.uniform(
            0.01, 0.02, torch_weights._torch_shape(leaf.shape)
        ).astype(np.float16)
        for path, leaf in flatten_dict(template).items()
    }


class Hub(BaseHTTPRequestHandler):
    """Answers what huggingface-hub asks for a file of a repository, as the Hub does."""

    repositories: dict[str, dict[str, bytes]]

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        if self.path.startswith("/api/models?"):
            self.list()
        else:
            self.answer(body=True)

    def list(self) -> None:
        asked = parse_qs(urlsplit(self.path).query)
        owner, search = asked["author"][0], asked["search"][0]
        names = [n for n in self.repositories if n.startswith(f"{owner}/") and search in n]
        content = json.dumps([{"id": name} for name in names]).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def answer(self, body: bool) -> None:
        owner, name, _, revision, file = (self.path.lstrip("/").split("/", 4) + [""] * 5)[:5]
        files = self.repositories.get(f"{owner}/{name}")
        fault = None
        if files is None:
            fault = (401, "RepoNotFound")
        elif "gated" in files:
            fault = (403, "GatedRepo")
        elif revision not in ("main", "v2", COMMIT):
            fault = (404, "RevisionNotFound")
        elif file not in files:
            fault = (404, "EntryNotFound")
        content = b"" if fault else files[file]  # type: ignore[index]
        self.send_response(fault[0] if fault else 200)
        if fault:
            self.send_header("X-Error-Code", fault[1])
            self.send_header("X-Error-Message", "not here")
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{abs(hash(content)):x}"')
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *args: Any) -> None:
        """Says nothing."""


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadingHTTPServer]:
    constants = pytest.importorskip("huggingface_hub.constants")
    config = json.dumps(PUBLISHED).encode()
    Hub.repositories = {
        "timm/resnet18.a1_in1k": {"config.json": config, "model.safetensors": save(resnet18())},
        "timm/resnet18d.ra2_in1k": {},
        "timm/resnet18.pickled_in1k": {"config.json": config, "pytorch_model.bin": b""},
        "timm/resnet18.gated_in1k": {"gated": b""},
        "some/one": {"config.json": b'{"architectures": ["X"]}', "model.safetensors": b""},
        "some/other": {"config.json": b"{", "model.safetensors": b""},
        "some/tf": {
            "config.json": b'{"architecture": "tf_mobilenetv3_small_100"}',
            "model.safetensors": b"",
        },
        "some/max": {
            "config.json": json.dumps(PUBLISHED | {"global_pool": "max"}).encode(),
            "model.safetensors": save(resnet18()),
        },
    }
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE",
        constants.ENDPOINT + "/{repo_id}/resolve/{revision}/{filename}",
    )  # fmt: skip
    monkeypatch.chdir(tmp_path)
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def stop(server: ThreadingHTTPServer) -> None:
    server.shutdown()
    server.server_close()


def call(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str, str]:
    capsys.readouterr()
    code = main(["import", *args])
    return code, *capsys.readouterr()


def test_weights_are_fetched_kept_and_found_without_the_hub(
    served: ThreadingHTTPServer,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    code, said, err = call(capsys, NAME)
    assert code == 0, err
    out = Path("weights/resnet18.a1_in1k")
    assert f"{out}: resnet18 with 11,182,668 parameters from {NAME}@{COMMIT}" in said
    assert "64x64: 0.8 of the shorter side" in said
    again = f"`jaxcnn import {NAME} --image-size 96 --out {out}_96` takes them as they were tested"
    assert again in said
    assert "bicubic" in said
    network = restore(out)
    data = network.experiment.data
    assert network.classes == (*(f"thing {i}" for i in range(11)), "n11")
    assert (data.mean, data.std) == ((0.5, 0.4, 0.3), (0.25, 0.2, 1.0))
    assert (data.image_size, data.fit, data.crop_ratio) == (64, "crop", 0.8)
    kernel = np.asarray(network.variables["params"]["conv1"]["kernel"])
    np.testing.assert_array_equal(kernel, resnet18()["conv1.weight"].transpose(2, 3, 1, 0))
    # The picture's middle alone is seen: 64 of 80 pixels, here black within white.
    picture = Image.new("L", (80, 80), 255)
    picture.paste(0, (8, 8, 72, 72))
    picture.save(tmp_path / "x.png")
    assert network.read(tmp_path / "x.png").max() == 0

    stop(served)
    code, _, err = call(capsys, "hf:timm/resnet18.a2_in1k")
    assert (code, err.count("\n")) == (2, 1)
    assert f"Connection refused), and the cache {tmp_path / 'cache'} does not hold its" in err
    code, said, err = call(capsys, NAME, "--out", "again", "--image-size", "96")
    assert code == 0, err
    assert "as they were tested" not in said
    assert json.loads(Path("again/config.json").read_text())["data"]["crop_ratio"] == 1.0
    monkeypatch.setattr(
        importlib.import_module("huggingface_hub.constants"), "HF_HUB_OFFLINE", True
    )
    assert hub.fetch(f"{NAME}@{COMMIT}") == hub.fetch(NAME)
    code, _, err = call(capsys, "hf:timm/resnet18.a2_in1k")
    assert (code, err.count("\n")) == (2, 1)
    assert not Path("weights/resnet18.a2_in1k").exists()


@pytest.mark.parametrize(
    ("args", "named"),
    [
        (
            ("hf:timm/resnet18.a9_in1k",),
            "timm has resnet18.a1_in1k, resnet18.gated_in1k, resnet18.pickled_in1k\n",
        ),
        (("hf:timm/resnet34.a1_in1k",), "the Hub has no such repository"),
        (("hf:other/resnet18.a1_in1k",), "https://huggingface.co/timm lists timm's"),
        (("resnet18.a1_in1k",), "is not a file; hf:timm/resnet18.a1_in1k names weights"),
        (("timm/regnety_004.tv2_in1k",), "is not a file; hf:timm/regnety_004.tv2_in1k names"),
        (("lenet5.safetensors",), "lenet5.safetensors is not a file\n"),
        (("hf:timm/resnet18.gated_in1k",), "accept its terms, at https://huggingface.co/timm/res"),
        (("hf:timm/resnet18.a1_in1k@v3",), "no such revision"),
        (("hf:timm/resnet18.pickled_in1k",), "has no model.safetensors; weights in another"),
        (("hf:some/one",), "--model: must be given"),
        (("hf:some/one", "--model", "resnet18"), "not a whole safetensors file"),
        (("hf:some/other",), "config.json cannot be used"),
        (("hf:some/tf", "--model", "mobilenet_v3_small"), "it pads as TensorFlow does"),
        (("hf:some/max",), "was built with {'global_pool': 'max'}"),
        ((NAME, "--model", "resnet34"), "does not fit"),
        ((NAME, "--num-classes", "7"), "the weights give 12 logits: give num_classes=12"),
        ((NAME, "--image-size", "0"), "data.image_size=0"),
        (("hf:timm",), "must be hf:OWNER/NAME"),
        (("hf:a/b/c",), "must be hf:OWNER/NAME"),
        (("hf:../..",), "must be hf:OWNER/NAME"),
        (("hf:-a/b",), "must be hf:OWNER/NAME"),
    ],
)
def test_what_cannot_be_had_is_said_in_one_line(
    served: ThreadingHTTPServer,
    capsys: pytest.CaptureFixture[str],
    args: tuple[str, ...],
    named: str,
) -> None:
    code, said, err = call(capsys, *args)
    assert (code, said, err.count("\n")) == (2, "", 1), err
    assert named in err
    assert not Path("weights").exists()


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("resnett50.a1_in1k", "did you mean resnet50"),
        ("tf_efficientnet_b0.ns_jft_in1k", "it pads as TensorFlow does"),
        ("vit_base_patch16_224.augreg", "is none of timm's networks that jaxcnn has"),
    ],
)
def test_networks_that_jaxcnn_lacks_are_refused_without_the_hub(
    capsys: pytest.CaptureFixture[str], name: str, named: str
) -> None:
    code, _, err = call(capsys, f"hf:timm/{name}")
    assert (code, err.count("\n")) == (2, 1)
    assert named in err


def test_the_extra_is_named_where_it_is_missing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    code, _, err = call(capsys, NAME)
    assert (code, err.count("\n")) == (2, 1)
    assert "needs `pip install 'jaxcnn[hub]'`" in err
