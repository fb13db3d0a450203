"""A network written as a line, in the notation of VGG's table: ``conv3-32 max2 dense-128``."""

import re
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxcnn import ops
from jaxcnn.config.checked import shown
from jaxcnn.layers import Conv, Dense, check_images, flatten
from jaxcnn.models.googlenet import INCEPTION, Inception2014

_N = "[1-9][0-9]{0,5}"  # below a million
_WORD = re.compile(
    rf"(conv|valid){_N}-{_N}(/{_N})?"
    rf"|(max|avg){_N}(/{_N})?"
    rf"|(inception|naive)-({'|'.join(INCEPTION)})"
    rf"|dense-{_N}|gap|aux"
)
_PARTS = re.compile(r"(?P<kind>[a-z]+)(?P<window>\d*)(-(?P<to>\w+))?(/(?P<stride>\d+))?")
ACCEPTED = (
    "conv3-32 (of stride 2: conv3-32/2), valid3-32, max2, avg2 (overlapping: max3/2), "
    "inception-3a, naive-3a, gap, dense-128 or aux"
)


class Layer(NamedTuple):
    """A word of the line.

    Attributes:
        kind: kind of the layer, such as ``"conv"``.
        window: side of the kernel or pool; 0 where there is none.
        to: number of kernels or units, or a row of GoogLeNet's table; empty where the layer has
            neither.
        stride: step of the window.
    """

    kind: str
    window: int
    to: str
    stride: int


def read(layers: str) -> tuple[Layer, ...]:
    """Returns the layers that a line names.

    Raises:
        ValueError: a word names no layer, a layer needs a feature map behind one that leaves
            none, or the line is empty.

    >>> read("conv3-32/2 max2")
    (Layer(kind='conv', window=3, to='32', stride=2), Layer(kind='max', window=2, to='', stride=2))
    """
    found: list[Layer] = []
    flat = ""
    for word in layers.split():
        parts = _PARTS.fullmatch(word)
        if not _WORD.fullmatch(word) or parts is None:
            raise ValueError(f"layers={shown(layers)}: {shown(word)} must be {ACCEPTED}")
        kind, window = parts["kind"], int(parts["window"] or 0)
        if flat and kind != "dense":
            raise ValueError(f"layers={shown(layers)}: {word!r} cannot stand behind {flat!r}")
        if kind in ("gap", "dense"):
            flat = word
        steps = window if kind in ("max", "avg") else 1
        found.append(Layer(kind, window, parts["to"] or "", int(parts["stride"] or steps)))
    if not found:
        raise ValueError(f"layers={shown(layers)}: must name a layer, as {ACCEPTED}")
    return tuple(found)


def smallest_side(layers: tuple[Layer, ...]) -> int:
    """Returns the side of the smallest image that gives every layer a map of at least 1x1."""
    side = 1
    for layer in reversed(layers):
        reach = layer.window if layer.kind in ("valid", "max", "avg") else 1
        side = (side - 1) * layer.stride + reach
    return side


class Sequential(nn.Module):
    """Layers in a line, and a dense layer for the logits behind them.

    | word                   | layer                                                        |
    |------------------------|--------------------------------------------------------------|
    | conv3-32, conv3-32/2   | 32 kernels of 3x3, at stride 2; zeros around; ReLU           |
    | valid3-32, valid3-32/2 | the same without padding                                     |
    | max2, avg2, max3/2     | 2x2 pool at stride 2; 3x3 at stride 2; no padding            |
    | inception-3a, naive-3a | Inception module, or naive one, of a row of GoogLeNet's table |
    | gap                    | mean of every map                                            |
    | dense-128              | flattens maps; dense layer of 128, ReLU                      |
    | aux                    | auxiliary classifier: mean of every map, dense layer         |

    Parameters are named by kind and number: ``conv1``, ``inception1``, ``aux1``, ``fc1``.
    Auxiliary classifiers are computed in training, or where endpoints are asked for.

    Attributes:
        num_classes: number of logits.
        layers: the words, with spaces between them.
        aux_weight: weight of each auxiliary loss in the total.
        dtype: type of the arithmetic.
    """

    num_classes: int
    layers: str = "conv3-32 max2 conv3-64 max2 dense-128"
    aux_weight: float = 0.3
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: jax.Array, *, train: bool = False, endpoints: bool = False
    ) -> jax.Array | tuple[jax.Array, dict[str, jax.Array | tuple[jax.Array, ...]]]:
        """Maps ``(n, h, w, c)`` to ``(n, num_classes)`` logits."""
        layers = read(self.layers)
        check_images(f"sequential with layers={shown(self.layers)}", x, smallest_side(layers))
        with_aux = train or endpoints or self.is_initializing()
        numbers: dict[str, int] = {}
        ends: dict[str, jax.Array | tuple[jax.Array, ...]] = {}
        aux: list[jax.Array] = []

        def name(kind: str) -> str:
            numbers[kind] = numbers.get(kind, 0) + 1
            return f"{kind}{numbers[kind]}"

        def dense(x: jax.Array, width: int, kind: str = "fc") -> jax.Array:
            return Dense(width, dtype=self.dtype, name=name(kind))(x)

        for kind, window, to, stride in layers:
            match kind:
                case "conv" | "valid":
                    padding = "SAME" if kind == "conv" else "VALID"
                    conv = Conv(
                        *(int(to), window, stride, padding), dtype=self.dtype, name=name("conv")
                    )
                    x = nn.relu(conv(x))
                case "max":
                    x = ops.max_pool(x, window, stride=stride)
                case "avg":
                    x = ops.avg_pool(x, window, stride=stride)
                case "inception" | "naive":
                    naive = kind == "naive"
                    module = Inception2014(
                        INCEPTION[to], naive, dtype=self.dtype, name=name("inception")
                    )
                    x = module(x)
                case "gap":
                    x = ops.global_avg_pool(x)
                case "dense":
                    x = nn.relu(dense(x if x.ndim == 2 else flatten(x), int(to)))
                case "aux":
                    if with_aux:
                        aux.append(dense(ops.global_avg_pool(x), self.num_classes, "aux"))
                    continue
            ends[f"stage{len(ends) + 1}"] = x
        ends["features"] = x = x if x.ndim == 2 else flatten(x)
        logits = dense(x, self.num_classes)
        if aux:
            ends["aux_logits"] = tuple(aux)
        return (logits, ends) if endpoints else logits
