"""The arithmetic of shapes, against numbers worked out by hand."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcnn import ops
from jaxcnn.ops import geometry


def test_the_textbook_layer():
    spatial = geometry.conv_output_shape((28, 28), 3)
    assert spatial == (28, 28)
    assert geometry.layer_activations(spatial, 32) == 25_088
    assert geometry.layer_activations(geometry.pool_output_shape(spatial, 2), 32) == 6_272
    assert geometry.layer_parameters((3, 3), 1, 32) == 320


@pytest.mark.parametrize(
    ("shape", "kernel", "arguments", "expected"),
    [
        ((224, 224), 7, {"stride": 2, "padding": 3}, (112, 112)),
        ((224, 224), 7, {"stride": 2}, (112, 112)),
        ((227, 227), 11, {"stride": 4, "padding": "VALID"}, (55, 55)),
        ((32, 32), 5, {"padding": "VALID"}, (28, 28)),
        ((7, 9), (3, 5), {"dilation": 2, "padding": "VALID"}, (3, 1)),
        ((5,), 2, {"stride": 2, "padding": [(1, 0)]}, (3,)),
        ((8, 8, 8), 3, {"stride": (1, 2, 4)}, (8, 4, 2)),
    ],
)
def test_conv_output_shape(shape, kernel, arguments, expected):
    assert geometry.conv_output_shape(shape, kernel, **arguments) == expected


@pytest.mark.parametrize(
    ("kernel", "in_features", "features", "options", "expected"),
    [
        ((5, 5), 1, 6, {}, 156),  # LeNet-5 C1
        ((11, 11), 3, 96, {}, 34_944),  # AlexNet conv1
        ((3, 3), 32, 32, {"groups": 32, "bias": False}, 288),
        ((1, 1), 64, 256, {"bias": False}, 16_384),
    ],
)
def test_layer_parameters(kernel, in_features, features, options, expected):
    assert geometry.layer_parameters(kernel, in_features, features, **options) == expected


@pytest.mark.parametrize(
    ("layers", "size", "stride"),
    [
        ([], 1, 1),
        ([(3, 1, 1)] * 3, 7, 1),
        ([(5,), (2, 2), (5,), (2, 2)], 16, 4),  # LeNet-5 up to S4
        ([(11, 4), (3, 2), (5, 1, 2), (3, 2), (3, 1, 1), (3, 1, 1), (3, 1, 1), (3, 2)], 195, 32),
        ([(3, 1, 2, 2)], 5, 1),
        # VGG-16 up to the last pool
        ([*[(3, 1, 1)] * 2, (2, 2)] * 2 + [*[(3, 1, 1)] * 3, (2, 2)] * 3, 212, 32),
    ],
)
def test_receptive_field(layers, size, stride):
    field = geometry.receptive_field(layers)
    assert (field.size, field.stride) == (size, stride)


@settings(max_examples=5, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 3), st.integers(1, 2), st.integers(0, 1), st.integers(1, 2)),
        min_size=1,
        max_size=3,
    )
)
def test_receptive_field_is_where_the_gradient_is(layers):
    """The input gradient of one output covers exactly the theoretical field."""
    field, length = geometry.receptive_field(layers), 48

    @jax.jit
    def network(x):
        for k, s, p, d in layers:
            x = ops.conv(x, np.ones((k, 1, 1), "f"), stride=s, padding=p, dilation=d)
        return x[0, :, 0]

    x = np.ones((1, length, 1), "f")
    middle = network(x).shape[0] // 2
    seen = np.flatnonzero(jax.jit(jax.grad(lambda x: network(x)[middle]))(x)[0, :, 0])
    assert seen[-1] - seen[0] + 1 == field.size or any(k == 1 for k, *_ in layers)
    assert (seen[0] + seen[-1]) / 2 == field.center + middle * field.stride


@settings(max_examples=50, deadline=None)
@given(n=st.integers(1, 50), k=st.integers(1, 9), s=st.integers(1, 5), d=st.integers(1, 3))
def test_same_padding_gives_the_output_its_name_promises(n, k, s, d):
    before, after = geometry.same_padding(n, k, s, d)
    assert 0 <= after - before <= 1
    assert (after, before) == geometry.same_padding(n, k, s, d, lower=True)
    assert (n + before + after - d * (k - 1) - 1) // s + 1 == -(-n // s)
