"""U-Net against the published figures, and against the same network written in PyTorch."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from benchmarks.zoo import shapes, variables
from jaxcnn import models
from jaxcnn.analysis.summary import endpoint_fields, summarize
from jaxcnn.runs.trained import transfer

WIDTHS = (
    4,
    8,
    8,
)  # the kernel of up1/upconv is square: only its axes' order tells it from a Conv's
BATCH_NORM = pytest.mark.parametrize("batch_norm", [False, True])


def unet(num_classes: int = 3, **options: Any) -> Any:
    return models.create_model("unet", num_classes=num_classes, **({"widths": WIDTHS} | options))


def torch_unet(torch: Any, channels: int, batch_norm: bool) -> Any:
    """The network in PyTorch; its parameters have the names that they have here."""
    nn = torch.nn

    class Level(nn.Module):
        def __init__(self, before: int, width: int) -> None:
            super().__init__()
            for i, c in ((1, before), (2, width)):
                self.add_module(f"conv{i}", nn.Conv2d(c, width, 3, padding=1, bias=not batch_norm))
                self.add_module(f"norm{i}", nn.BatchNorm2d(width) if batch_norm else nn.Identity())

        def forward(self, x: Any) -> Any:
            x = torch.relu(self.norm1(self.conv1(x)))
            return torch.relu(self.norm2(self.conv2(x)))

    class UpLevel(nn.Module):
        def __init__(self, before: int, width: int) -> None:
            super().__init__()
            self.upconv = nn.ConvTranspose2d(before, width, 2, stride=2)
            self.level = Level(2 * width, width)

        def forward(self, x: Any, skip: Any) -> Any:
            x = self.upconv(x)[..., : skip.shape[2], : skip.shape[3]]
            return self.level(torch.cat([skip, x], 1))

    class UNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            one, two, three = WIDTHS
            self.stage1, self.stage2 = Level(channels, one), Level(one, two)
            self.stage3 = Level(two, three)
            self.up1, self.up2 = UpLevel(three, two), UpLevel(two, one)
            self.head = nn.Conv2d(one, 3, 1)
            self.pool = nn.MaxPool2d(2, ceil_mode=True)

        def forward(self, x: Any) -> Any:
            one = self.stage1(x)
            two = self.stage2(self.pool(one))
            three = self.stage3(self.pool(two))
            return self.head(self.up2(self.up1(three, two), one))

    return UNet()


@pytest.mark.parametrize("sides", [(16, 16), (13, 18), (7, 5), (1, 1)], ids=str)
@BATCH_NORM
def test_it_computes_what_pytorch_does(batch_norm: bool, sides: tuple[int, int]) -> None:
    torch = pytest.importorskip("torch", reason="no reference implementation")
    torch.manual_seed(0)
    theirs = torch_unet(torch, 2, batch_norm).eval()
    for name, array in theirs.state_dict().items():  # no scale or statistic is 0 or 1
        if array.ndim == 1:
            low, high = (-0.5, 0.5) if name.endswith(("bias", "mean")) else (0.5, 1.5)
            array.uniform_(low, high)
    state = {name: array.numpy() for name, array in theirs.state_dict().items()}
    ours = unet(batch_norm=batch_norm)
    held = models.from_torch(ours, state, input_shape=(16, 16, 2))
    x = np.random.default_rng(0).standard_normal((2, *sides, 2)).astype(np.float32)
    with torch.inference_mode():
        expected = theirs(torch.from_numpy(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1).numpy()
    found = ours.apply(held, x)
    assert found.shape == (2, *sides, 3)
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


@BATCH_NORM
def test_gradients_reach_every_parameter_with_remat_too(batch_norm: bool) -> None:
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 13, 18, 1)), jnp.float32)
    held = variables(unet(batch_norm=batch_norm), x.shape[1:])

    @functools.partial(jax.jit, static_argnums=1)
    def gradients(params: Any, model: Any) -> Any:
        def loss(params: Any) -> jax.Array:
            logits, _ = model.apply(
                {**held, "params": params},
                x,
                train=True,
                mutable=["batch_stats"],
                rngs={"dropout": jax.random.key(0)},
            )
            return jnp.square(logits).mean()

        return jax.grad(loss)(params)

    kept, again = (
        flatten_dict(gradients(held["params"], unet(batch_norm=batch_norm, remat=remat)), sep="/")
        for remat in (False, True)
    )
    for name, gradient in kept.items():
        assert np.any(gradient), name
        atol = 1e-4 * float(jnp.abs(gradient).max())
        np.testing.assert_allclose(again[name], gradient, atol=atol, err_msg=name)


def test_it_has_as_many_parameters_as_the_published_network() -> None:
    def convs(before: int, width: int) -> int:
        return 9 * before * width + width + 9 * width * width + width

    widths = (64, 128, 256, 512, 1024)
    encoder = sum(map(convs, (1, *widths[:-1]), widths))
    decoder = sum(4 * 2 * w * w + w + convs(2 * w, w) for w in widths[:-1])
    held = shapes(models.create_model("unet", num_classes=2), (64, 64, 1))
    found = sum(leaf.size for leaf in jax.tree.leaves(held))
    assert found == encoder + decoder + 64 * 2 + 2 == 31_030_658


def test_each_level_is_an_endpoint() -> None:
    model = models.create_model("unet", num_classes=2)
    x = jax.ShapeDtypeStruct((1, 512, 512, 1), jnp.float32)
    key = jax.random.key(0)
    (_, ends), _ = jax.eval_shape(lambda x: model.init_with_output(key, x, endpoints=True), x)
    assert {name: end.shape[1:] for name, end in ends.items()} == {
        "stage1": (512, 512, 64),
        "stage2": (256, 256, 128),
        "stage3": (128, 128, 256),
        "stage4": (64, 64, 512),
        "stage5": (32, 32, 1024),
        "up1": (64, 64, 512),
        "up2": (128, 128, 256),
        "up3": (256, 256, 128),
        "up4": (512, 512, 64),
        "features": (512, 512, 64),
    }
    upconv = next(row for row in summarize(model, (512, 512, 1)).rows if row.layer == "up1/upconv")
    assert upconv.macs == 32 * 32 * 4 * 1024 * 512  # each input times a kernel
    fields = endpoint_fields(model, (512, 512, 1))
    assert [fields[f"stage{i}"] for i in range(1, 6)] == [(s, s) for s in (5, 14, 32, 68, 140)]
    assert fields["up4"] == fields["features"] >= (204, 204)  # the most that a gradient reaches


def test_the_head_alone_starts_anew_for_other_classes() -> None:
    three, five = (variables(unet(classes), (8, 8, 1))["params"] for classes in (3, 5))
    moved, left = transfer(three, five, (3, 5), "three")
    assert left == ["['head']['bias']", "['head']['kernel']"]
    np.testing.assert_array_equal(
        moved["up2"]["upconv"]["kernel"], three["up2"]["upconv"]["kernel"]
    )
    assert moved["head"]["kernel"] is five["head"]["kernel"]


def test_dropout_stands_behind_the_deepest_level() -> None:
    x = jnp.ones((1, 8, 8, 1))
    model = unet(dropout=0.9)
    held = variables(model, x.shape[1:])
    _, still = model.apply(held, x, endpoints=True)
    _, ends = model.apply(held, x, train=True, endpoints=True, rngs={"dropout": jax.random.key(0)})
    same = [name for name, end in ends.items() if np.array_equal(end, still[name])]
    assert same == ["stage1", "stage2", "stage3"]
