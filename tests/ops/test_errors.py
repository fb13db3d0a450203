"""Mistakes are met at trace time by an error that names the argument, its value and the remedy.

Run as a script, this file makes the same calls without pytest, so without checked annotations:
the errors must be our own either way.
"""

import re
import subprocess
import sys

import jax
import numpy as np

from jaxcnn import ops
from jaxcnn.ops import filters, geometry


def zeros(*shape, dtype="float32"):
    return np.zeros(shape, dtype)


X, W, C = zeros(2, 8, 8, 4), zeros(3, 3, 4, 6), zeros(4)

BAD = {
    # what is wrong: (call, exception, what the message must say)
    "integer x": (lambda: ops.conv(X.astype(int), W), TypeError, "x.dtype=int.*floating.*astype"),
    "uint8 image": (lambda: ops.conv(X.astype("uint8"), W), TypeError, "x.dtype=uint8.*floating"),
    "integer w": (lambda: ops.conv(X, W.astype(int)), TypeError, "w.dtype=int.*floating"),
    "complex x": (lambda: ops.conv(X.astype(complex), W), TypeError, "x.dtype=complex.*floating"),
    "a list": (lambda: ops.conv([[1.0]], W), TypeError, "x must be an array, not list"),
    "None": (lambda: ops.conv(X, None), TypeError, "w must be an array, not NoneType"),
    "two dtypes": (
        lambda: ops.conv(X, W.astype("float16")),
        TypeError,
        "w.dtype=float16 must equal x.dtype=float32",
    ),
    "rank 2": (lambda: ops.conv(zeros(8, 8), W), ValueError, r"x.shape=\(8, 8\) has rank 2"),
    "rank 6": (lambda: ops.conv(zeros(1, 2, 2, 2, 2, 2), W), ValueError, "rank 6"),
    "kernel rank": (lambda: ops.conv(X, W[0]), ValueError, r"w.shape=\(3, 4, 6\).*rank 4"),
    "channels": (
        lambda: ops.conv(X, zeros(3, 3, 5, 6)),
        ValueError,
        r"w.shape=\(3, 3, 5, 6\).*must have 5 channels.*has 4",
    ),
    "groups and in": (
        lambda: ops.conv(X, zeros(3, 3, 1, 6), groups=3),
        ValueError,
        "groups=3 must divide in_channels=4",
    ),
    "groups and out": (
        lambda: ops.conv(X, zeros(3, 3, 1, 6), groups=4),
        ValueError,
        "groups=4 must divide out_channels=6",
    ),
    "no groups": (lambda: ops.conv(X, W, groups=0), ValueError, "groups=0 must be at least 1"),
    "half a group": (lambda: ops.conv(X, W, groups=1.5), TypeError, "groups=1.5 must be an int"),
    "group channels": (lambda: ops.conv(X, W, groups=2), ValueError, "groups=2.*8 channels"),
    "stride 0": (lambda: ops.conv(X, W, stride=0), ValueError, "stride=0 must be at least 1"),
    "stride -1": (lambda: ops.conv(X, W, stride=(1, -1)), ValueError, r"stride=\(1, -1\).*least 1"),
    "stride 1.5": (lambda: ops.conv(X, W, stride=1.5), TypeError, "stride=1.5 must be an int"),
    "three strides": (
        lambda: ops.conv(X, W, stride=(1, 1, 1)),
        ValueError,
        r"stride=\(1, 1, 1\) has 3 entries.*\(2\)",
    ),
    "stride True": (lambda: ops.conv(X, W, stride=True), TypeError, "stride=True must be an int"),
    "stride text": (lambda: ops.conv(X, W, stride="2"), TypeError, "stride='2' must be an int"),
    "dilation 0": (lambda: ops.conv(X, W, dilation=0), ValueError, "dilation=0 must be at least 1"),
    "padding text": (
        lambda: ops.conv(X, W, padding="same"),
        ValueError,
        "padding='same' must be one of SAME, SAME_LOWER, VALID",
    ),
    "padding -1": (lambda: ops.conv(X, W, padding=-1), ValueError, "padding=-1 must be at least 0"),
    "padding 0.5": (lambda: ops.conv(X, W, padding=0.5), TypeError, "padding=0.5 must be an int"),
    "one pair": (
        lambda: ops.conv(X, W, padding=[(1, 1)]),
        ValueError,
        "one pair per spatial dimension",
    ),
    "triples": (
        lambda: ops.conv(X, W, padding=[(1, 1, 1), (1, 1, 1)]),
        ValueError,
        "must hold pairs",
    ),
    "padding None": (
        lambda: ops.conv(X, W, padding=None),
        TypeError,
        "padding=None must be an int",
    ),
    "mode": (
        lambda: ops.conv(X, W, padding_mode="mirror"),
        ValueError,
        "padding_mode='mirror' must be one of zeros, reflect, replicate, circular",
    ),
    "far reflection": (
        lambda: ops.conv(X, W, padding=8, padding_mode="reflect"),
        ValueError,
        "padding_mode='reflect' must be at most 7 for a dimension of 8",
    ),
    "large kernel": (
        lambda: ops.conv(X, zeros(9, 9, 4, 6), padding="VALID"),
        ValueError,
        r"kernel=\(9, 9\).*larger than the padded input",
    ),
    "large dilation": (
        lambda: ops.conv(X, W, dilation=4, padding="VALID"),
        ValueError,
        r"dilation=\(4, 4\) spans 9",
    ),
    "empty kernel": (lambda: ops.conv(X, zeros(0, 3, 4, 6)), ValueError, "no empty dimension"),
    "empty image": (lambda: ops.conv(zeros(2, 0, 8, 4), W), ValueError, "no empty dimension"),
    "bias shape": (
        lambda: ops.conv(X, W, bias=zeros(4)),
        ValueError,
        r"bias.shape=\(4,\) must be \(6,\)",
    ),
    "integer bias": (lambda: ops.conv(X, W, bias=zeros(6, dtype="int32")), TypeError, "bias.dtype"),
    "impl": (lambda: ops.conv(X, W, impl="fast"), ValueError, "impl='fast' must be one of auto"),
    "dot 3x3": (lambda: ops.conv(X, W, impl="dot"), ValueError, "impl='dot' needs a 1x1 kernel"),
    "shift dense": (lambda: ops.conv(X, W, impl="shift"), ValueError, "impl='shift' needs groups"),
    "output_padding": (
        lambda: ops.conv_transpose(X, W, stride=2, output_padding=2),
        ValueError,
        "output_padding=2 must be smaller than stride=2",
    ),
    "nothing left": (
        lambda: ops.conv_transpose(zeros(1, 1, 1, 4), W, padding=2),
        ValueError,
        "padding=2 removes the whole output",
    ),
    "transposed channels": (
        lambda: ops.conv_transpose(X, zeros(3, 3, 6, 4)),
        ValueError,
        "must have 6 channels",
    ),
    "depthwise kernel": (
        lambda: ops.depthwise_conv(X, zeros(3, 3, 4, 4)),
        ValueError,
        r"w.shape=\(3, 3, 4, 4\) must be \(\*kernel, 1, 4 m\)",
    ),
    "array of strides": (
        lambda: ops.conv(X, W, stride=np.array([2, 2])),
        TypeError,
        r"stride=array\(\[2, 2\]\) must be an int or a sequence",
    ),
    "traced stride": (
        lambda: jax.jit(lambda stride: ops.conv(X, W, stride=stride))(2),
        TypeError,
        "stride=.*must be an int or a sequence",
    ),
    "array of pads": (
        lambda: ops.conv_transpose(X, W, padding=np.array([1, 1])),
        TypeError,
        "padding=array.*must be an int or a sequence",
    ),
    "bytes": (lambda: ops.conv(X, W, padding=b"SAME"), TypeError, "padding=b'SAME' must be an int"),
    "array of text": (lambda: ops.conv(np.array(["a"]), W), TypeError, "x.dtype=<U1 must be float"),
    "list for impl": (lambda: ops.conv(X, W, impl=["lax"]), ValueError, "impl=.'lax'. must be one"),
    "list for mode": (
        lambda: ops.conv(X, W, padding_mode=["zeros"]),
        ValueError,
        "padding_mode=.'zeros'. must be one of zeros",
    ),
    "precision": (
        lambda: ops.conv(X, W, precision="best"),
        ValueError,
        "highest.*but got best",  # lax's own error, which names what there is
    ),
    "narrow output": (
        lambda: ops.conv(X, W, preferred_element_type="bfloat16"),
        ValueError,
        "preferred_element_type='bfloat16'.*no narrower than x.dtype=float32",
    ),
    "unknown output": (
        lambda: ops.depthwise_conv(X, zeros(3, 3, 1, 4), preferred_element_type="floaty"),
        ValueError,
        "preferred_element_type='floaty'",
    ),
    "pointwise dtype": (
        lambda: ops.separable_conv(X, zeros(3, 3, 1, 4), zeros(1, 1, 4, 4, dtype="float16")),
        TypeError,
        "pointwise.dtype=float16 must equal x.dtype=float32",
    ),
    "pointwise kernel": (
        lambda: ops.separable_conv(X, zeros(3, 3, 1, 4), W),
        ValueError,
        r"pointwise.shape=\(3, 3, 4, 6\) must be \(1, 1",
    ),
    "convolve rank": (lambda: ops.convolve(X, zeros(3)), ValueError, "w.shape.*rank 4"),
    "window 0": (lambda: ops.max_pool(X, 0), ValueError, "window=0 must be at least 1"),
    "large window": (lambda: ops.max_pool(X, 9), ValueError, r"window=\(9, 9\).*padded input"),
    "pool integers": (lambda: ops.max_pool(X.astype(int), 2), TypeError, "x.dtype=int"),
    "pool rank": (lambda: ops.avg_pool(zeros(8, 8), 2), ValueError, "rank 2"),
    "pool stride": (lambda: ops.avg_pool(X, 2, stride=0), ValueError, "stride=0"),
    "pool impl": (
        lambda: ops.max_pool(X, 3, stride=2, impl="reshape"),
        ValueError,
        "impl='reshape' needs stride=window",
    ),
    "avg impl": (lambda: ops.avg_pool(X, 3, impl="phases"), ValueError, "impl='phases' must be"),
    "lp order": (lambda: ops.lp_pool(X, 2, 0.5), ValueError, "p=0.5 must be a number, at least 1"),
    "lp order text": (lambda: ops.lp_pool(X, 2, "2"), ValueError, "p='2' must be a number"),
    "no index": (
        lambda: ops.max_pool_with_indices(X, 2, padding=2),
        ValueError,
        r"padding=2 leaves windows of \(2, 2\) without an element",
    ),
    "indices None": (lambda: ops.max_unpool(X, None, 8), TypeError, "indices must be an array"),
    "adaptive 2.5": (lambda: ops.adaptive_avg_pool(X, 2.5), TypeError, "output_size=2.5 must be"),
    "adaptive 0": (lambda: ops.adaptive_avg_pool(X, 0), ValueError, "output_size=0"),
    "adaptive length": (lambda: ops.adaptive_max_pool(X, (1, 2, 3)), ValueError, "output_size="),
    "indices shape": (
        lambda: ops.max_unpool(X, zeros(2, 8, 4, 4, dtype=int), 16),
        ValueError,
        "indices.shape",
    ),
    "indices dtype": (lambda: ops.max_unpool(X, X, 16), TypeError, "indices.dtype=float32"),
    "blur size": (lambda: ops.blur_pool(X, size=0), ValueError, "size=0 must be at least 1"),
    "blur 2.5": (lambda: ops.blur_pool(X, size=2.5), TypeError, "size=2.5 must be an int"),
    "mean shape": (
        lambda: ops.batch_norm(X, zeros(3), C, train=True),
        ValueError,
        r"mean.shape=\(3,\) must be \(4,\)",
    ),
    "momentum": (
        lambda: ops.batch_norm(X, C, C, train=True, momentum=1.5),
        ValueError,
        r"momentum=1.5 must lie in \[0, 1\]",
    ),
    "momentum text": (
        lambda: ops.batch_norm(X, C, C, train=True, momentum="0.9"),
        TypeError,
        "momentum='0.9' must be a number",
    ),
    "nothing to normalise by": (
        lambda: ops.batch_norm(X[:0], C, C, train=True),
        ValueError,
        r"x.shape=\(0, 8, 8, 4\) must not be empty",
    ),
    "no channels": (
        lambda: ops.batch_norm(zeros(2, 0), zeros(0), zeros(0), train=True),
        ValueError,
        r"x.shape=\(2, 0\) must have no empty dimension",
    ),
    "list for mask": (
        lambda: ops.batch_norm(X, C, C, train=True, mask=[1, 0]),
        TypeError,
        "mask must be an array, not list",
    ),
    "mask shape": (
        lambda: ops.batch_norm(X, C, C, train=True, mask=zeros(3)),
        ValueError,
        r"mask.shape=\(3,\) must be \(2,\) or \(2, 8, 8\)",
    ),
    "epsilon": (lambda: ops.layer_norm(X, epsilon=-1), ValueError, "epsilon=-1 must be at least 0"),
    "epsilon None": (lambda: ops.group_norm(X, 2, epsilon=None), TypeError, "epsilon=None must be"),
    "norm axis None": (lambda: ops.layer_norm(X, axis=None), TypeError, "axis=None must be an int"),
    "one axis twice": (
        lambda: ops.layer_norm(X, axis=(3, -1)),
        ValueError,
        r"axis=\(3, -1\) must name distinct dimensions",
    ),
    "norm rank": (lambda: ops.group_norm(C, 2), ValueError, r"x.shape=\(4,\) must have rank 2"),
    "norm groups 2.0": (lambda: ops.group_norm(X, 2.0), TypeError, "groups=2.0 must be an int"),
    "response rank": (lambda: ops.local_response_norm(C), ValueError, "must have rank 2"),
    "response k": (lambda: ops.local_response_norm(X, k=0), ValueError, "k=0 must be above 0"),
    "response alpha": (
        lambda: ops.local_response_norm(X, alpha="small"),
        TypeError,
        "alpha='small' must be a number",
    ),
    "norm integers": (lambda: ops.layer_norm(X.astype(int)), TypeError, "x.dtype=int"),
    "norm axis": (lambda: ops.layer_norm(X, axis=4), ValueError, "axis=4 must name distinct"),
    "norm groups": (lambda: ops.group_norm(X, 3), ValueError, "groups=3 must divide channels=4"),
    "response size": (lambda: ops.local_response_norm(X, 0), ValueError, "size=0 must be at least"),
    "filter shape": (lambda: ops.apply_filter(X[0, ..., 0], zeros(2, 2)), ValueError, "odd sides"),
    "filter image": (
        lambda: ops.apply_filter(zeros(8, 8, 5), filters.SHARPEN),
        ValueError,
        "1, 3 or 4 channels",
    ),
    "sigma": (lambda: filters.gaussian(0), ValueError, "sigma=0 must be above 0"),
    "gaussian size": (lambda: filters.gaussian(1.0, size=4), ValueError, "size=4 must be odd"),
    "gaussian size 3.5": (lambda: filters.gaussian(1.0, size=3.5), TypeError, "size=3.5 must be"),
    "sigma text": (lambda: filters.gaussian("1"), TypeError, "sigma='1' must be a number"),
    "shape 28": (
        lambda: geometry.conv_output_shape(28, 3),
        TypeError,
        "shape=28 must be a sequence of ints",
    ),
    "same stride": (lambda: geometry.same_padding(5, 3, 0), ValueError, "stride=0 must be at"),
    "field of ints": (lambda: geometry.receptive_field([3]), TypeError, r"layers\[0\]=3 must hold"),
    "field of five": (
        lambda: geometry.receptive_field([(3, 1, 1, 1, 1)]),
        ValueError,
        r"layers\[0\].*must be \(kernel, stride, padding, dilation\)",
    ),
    "geometry kernel": (
        lambda: geometry.conv_output_shape((2, 2), 3, padding="VALID"),
        ValueError,
        "larger than the padded input",
    ),
    "geometry groups": (
        lambda: geometry.layer_parameters((3, 3), 3, 4, groups=2),
        ValueError,
        "groups=2 must divide in_channels=3",
    ),
    "receptive field": (lambda: geometry.receptive_field([(3, 0)]), ValueError, r"layers\[0\]"),
    "force": (lambda: ops.force_impl("dot").__enter__(), ValueError, "impl='dot' must be"),
    "platform": (
        lambda: ops.explain(ops.conv, X, W, platform="abacus"),
        ValueError,
        "platform='abacus' must be 'cpu', 'gpu' or 'tpu'",
    ),
}


def complaint(name):
    """What is wrong with the error that one bad call meets, or None."""
    call, kind, pattern = BAD[name]
    try:
        call()
    except Exception as error:
        if type(error) is kind and re.search(pattern, str(error), re.DOTALL):
            return None
        return f"{name}: {type(error).__name__}: {error}"
    return f"{name}: no error"


def pytest_generate_tests(metafunc):
    if "bad" in metafunc.fixturenames:
        metafunc.parametrize("bad", BAD)


def test_error_is_our_own_and_says_what_is_wrong(bad):
    assert complaint(bad) is None


def test_there_are_enough():
    assert len(BAD) >= 40


def test_errors_are_the_same_without_checked_annotations():
    run = subprocess.run(
        [sys.executable, "-m", "tests.ops.test_errors"], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr


if __name__ == "__main__":
    found = [text for text in map(complaint, BAD) if text]
    print("\n".join(found))
    sys.exit(bool(found))
