"""timm's names without timm: arrays by hand, networks by name, and what is put in front."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from benchmarks import parity
from benchmarks.zoo import TABLE, Row
from jaxcnn import models
from jaxcnn.models import timm_names, torch_weights

# Their names have underscores of torchvision's own.
UNUSUAL = {"inception_v3", "regnet_y_400mf"}
# Written down from the state dicts of both libraries.
BY_HAND = {
    "preact_resnet": {
        "stem.conv.weight": "conv1.weight",
        "stages.1.blocks.0.downsample.conv.weight": "layer2.0.downsample.weight",
        "stages.3.blocks.2.norm3.running_mean": "layer4.2.norm3.running_mean",
        "head.fc.bias": "fc.bias",
    },
    "vgg": {
        "pre_logits.fc1.weight": "classifier.0.weight",
        "pre_logits.fc2.bias": "classifier.3.bias",
        "head.fc.weight": "classifier.6.weight",
    },
    "convnext": {
        "stem.1.weight": "features.0.1.weight",
        "stages.0.blocks.2.gamma": "features.1.2.layer_scale",
        "stages.0.blocks.0.norm.bias": "features.1.0.block.2.bias",
        "stages.2.downsample.1.weight": "features.4.1.weight",
        "stages.2.blocks.8.conv_dw.weight": "features.5.8.block.0.weight",
        "stages.2.blocks.8.mlp.fc2.weight": "features.5.8.block.5.weight",
        "head.norm.weight": "classifier.0.weight",
        "head.fc.weight": "classifier.2.weight",
    },
    "regnet": {
        "stem.bn.running_var": "stem.1.running_var",
        "s1.b1.downsample.conv.weight": "trunk_output.block1.block1-0.proj.0.weight",
        "s3.b10.conv2.bn.bias": "trunk_output.block3.block3-9.f.b.1.bias",
        "s3.b10.se.fc1.bias": "trunk_output.block3.block3-9.f.se.fc1.bias",
        "head.fc.weight": "fc.weight",
    },
    "efficientnet": {
        "conv_stem.weight": "features.0.0.weight",
        "bn1.bias": "features.0.1.bias",
        "blocks.0.0.conv_dw.weight": "features.1.0.block.0.0.weight",
        "blocks.0.0.se.conv_reduce.bias": "features.1.0.block.1.fc1.bias",
        "blocks.0.0.conv_pw.weight": "features.1.0.block.2.0.weight",
        "blocks.0.0.bn2.weight": "features.1.0.block.2.1.weight",
        "blocks.1.0.conv_exp.weight": "features.2.0.block.0.0.weight",
        "blocks.1.0.conv_pwl.weight": "features.2.0.block.1.0.weight",
        "blocks.1.0.bn2.running_mean": "features.2.0.block.1.1.running_mean",
        "blocks.2.1.conv_pw.weight": "features.3.1.block.0.0.weight",
        "blocks.2.1.conv_dw.weight": "features.3.1.block.1.0.weight",
        "blocks.2.1.se.conv_expand.weight": "features.3.1.block.2.fc2.weight",
        "blocks.2.1.conv_pwl.weight": "features.3.1.block.3.0.weight",
        "blocks.2.1.bn3.bias": "features.3.1.block.3.1.bias",
        "conv_head.weight": "features.4.0.weight",
        "bn2.weight": "features.4.1.weight",
        "classifier.bias": "classifier.1.bias",
    },
    "mobilenet_v2": {
        "blocks.0.0.conv_dw.weight": "features.1.conv.0.0.weight",
        "blocks.0.0.conv_pw.weight": "features.1.conv.1.weight",
        "blocks.0.0.bn2.bias": "features.1.conv.2.bias",
        "blocks.1.0.conv_pw.weight": "features.2.conv.0.0.weight",
        "blocks.1.0.conv_dw.weight": "features.2.conv.1.0.weight",
        "blocks.1.0.conv_pwl.weight": "features.2.conv.2.weight",
        "blocks.1.0.bn3.running_var": "features.2.conv.3.running_var",
        "conv_head.weight": "features.3.0.weight",
    },
    "mobilenet_v3": {
        "blocks.0.0.conv_dw.weight": "features.1.block.0.0.weight",
        "blocks.0.0.conv_pw.weight": "features.1.block.1.0.weight",
        "blocks.1.0.conv_pw.weight": "features.2.block.0.0.weight",
        "blocks.1.0.conv_dw.weight": "features.2.block.1.0.weight",
        "blocks.1.0.se.conv_reduce.weight": "features.2.block.2.fc1.weight",
        "blocks.1.0.conv_pwl.weight": "features.2.block.3.0.weight",
        "blocks.2.0.conv.weight": "features.3.0.weight",
        "blocks.2.0.bn1.weight": "features.3.1.weight",
        "conv_head.bias": "classifier.0.bias",
        "classifier.bias": "classifier.3.bias",
    },
    "mnasnet": {
        "conv_stem.weight": "layers.0.weight",
        "blocks.0.0.conv_dw.weight": "layers.3.weight",
        "blocks.0.0.conv_pw.weight": "layers.6.weight",
        "blocks.0.0.bn2.weight": "layers.7.weight",
        "blocks.1.0.conv_pw.weight": "layers.8.0.layers.0.weight",
        "blocks.1.0.conv_dw.weight": "layers.8.0.layers.3.weight",
        "blocks.1.0.conv_pwl.weight": "layers.8.0.layers.6.weight",
        "blocks.1.0.bn3.weight": "layers.8.0.layers.7.weight",
        "conv_head.weight": "layers.9.weight",
        "bn2.weight": "layers.10.weight",
    },
}


@pytest.mark.parametrize("family", BY_HAND)
def test_arrays_are_called_as_torchvision_does(family: str) -> None:
    pairs = BY_HAND[family]
    assert timm_names.renamed(family, pairs) == pairs
    assert timm_names.renamed(family, list(reversed(pairs))) == pairs


def test_names_that_are_not_timms_stay() -> None:
    for family in {row.family for row in TABLE}:
        names = ["layers.0.weight", "", "\n", "." * 9999, "a" * 10**5]
        assert timm_names.renamed(family, names) == {}
    for family in timm_names.MOBILE:
        names = [f"blocks.{'9' * 9999}.0.conv.weight", "blocks.-1.0.conv.weight", "blocks..conv."]
        assert timm_names.renamed(family, names) == {}


def test_networks_by_name() -> None:
    assert timm_names.network("regnety_004") == ("regnet_y_400mf", {})
    assert timm_names.network("efficientnet_b5.sw_in12k") == ("efficientnet_b5", {"epsilon": 1e-5})
    for name, named in (
        ("resnet500", "did you mean resnet50"),
        ("tf_mobilenetv3_large_100", "pads as TensorFlow does"),
        ("resnetv2_50x1_bit", "normalises groups"),
        ("\n" * 10**6, "none of timm's networks that jaxcnn has"),
    ):
        with pytest.raises(ValueError, match=named) as error:
            timm_names.network(name)
        assert str(error.value).isprintable()
        assert len(str(error.value)) < 300


def test_the_documentation_lists_them() -> None:
    page = (Path(__file__).parents[2] / "docs" / "weights.md").read_text()
    assert parity.names() in page, "print it anew: python -m benchmarks.parity --names"
    for pattern, difference in timm_names.DIFFERENT.items():
        assert f"| `{pattern.replace('|', chr(92) + '|')}` | {difference} |" in page


def state_of(name: str, num_classes: int = 5) -> dict[str, np.ndarray]:
    model = models.create_model(name, num_classes=num_classes)
    template = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    return {
        torch_weights.spelled(path): np.full(torch_weights._torch_shape(leaf.shape), 0.5)
        for path, leaf in flatten_dict(template).items()
    }


def test_what_stands_in_front_of_all_names_is_left_out() -> None:
    plain = {
        "fc1.weight": np.ones((5, 4)),
        "fc1.bias": np.full(5, 2.0),
        "fc2.weight": np.full((3, 5), 3.0),
        "fc2.bias": np.full(3, 4.0),
    }

    def read(state: dict[str, Any]) -> Any:
        return models.from_torch("mlp", state, num_classes=3, input_shape=(2, 2, 1), hidden=(5,))

    def put(*prefixes: str, **more: Any) -> dict[str, Any]:
        return {"".join(prefixes) + name: array for name, array in plain.items()} | more

    expected = read(plain)
    others = {name: array + 1 for name, array in put("model.").items()}
    for state in (
        put("module."),
        put("_orig_mod."),
        put("model."),
        put("module.", "_orig_mod."),
        put("state_dict.", "module."),
        put("state_dict.", **{"optimizer.step": np.zeros(1)}),
        put("module.", n_averaged=np.ones(())),
        others | put("model_ema.", "module."),
    ):
        found = read(state)
        assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), found, expected))
    with pytest.raises(ValueError, match=r"5 not part of it: module\.fc1\.weight, .*, other"):
        read(put("module.", other=np.ones(1)))


def test_errors_name_the_keys_of_the_file_and_their_likes() -> None:
    state = state_of("resnet18")
    state["layer1.0.bn1.runing_mean"] = state.pop("layer1.0.bn1.running_mean")
    with pytest.raises(ValueError) as error:
        models.from_torch("resnet18", state, num_classes=5)
    said = str(error.value)
    assert "1 missing: layer1.0.bn1.running_mean (here batch_stats/layer1_0/bn1/mean)" in said
    assert "1 not part of it: layer1.0.bn1.runing_mean" in said
    assert "it has layer1.0.bn1.runing_mean for layer1.0.bn1.running_mean" in said
    with pytest.raises(ValueError, match=r"give 5 logits: give num_classes=5 \(--num-classes\)"):
        models.from_torch("resnet18", state_of("resnet18"), num_classes=7)


def test_timms_names_go_with_timms_epsilon() -> None:
    few = {"blocks": ((3, 16, 16, True, False, 2),)}
    names = {"module.conv_stem.weight": (16, 3, 3, 3), "module.classifier.bias": (12,)}
    found = models.needed("mobilenet_v3_small", names, **few)
    assert found == (12, {"epsilon": 1e-5, **few})
    torchs = {"features.0.0.weight": (16, 3, 3, 3), "classifier.3.bias": (12,)}
    assert models.needed("mobilenet_v3_small", torchs, **few) == (12, few)
    state = {name: np.ones(shape) for name, shape in names.items()}
    with pytest.raises(ValueError, match=r"give epsilon=1e-05 in place of 0\.001"):
        models.from_torch("mobilenet_v3_small", state, **few)


def test_auxiliary_heads_are_those_of_the_weights() -> None:
    shapes = {"fc.weight": (9, 2048), "fc.bias": (9,)}
    assert models.needed("inception_v3", shapes) == (9, {"aux_heads": False})


@pytest.mark.parametrize(
    "row",
    [row for row in TABLE if row.torchvision and row.representative],
    ids=lambda row: row.name,
)
def test_names_are_spelled_as_torchvision_spells_them(row: Row, torchvision: Any) -> None:
    from benchmarks.torch_reference import reference
    from benchmarks.zoo import build, shapes

    ours = {
        torch_weights.spelled(path) for path in flatten_dict(shapes(build(row), row.train_image))
    }
    theirs = reference(row.name, empty=True).state_dict().keys()
    assert ours == {name for name in theirs if not name.endswith("num_batches_tracked")}
