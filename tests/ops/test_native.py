"""oneDNN's convolutions against NumPy loops, PyTorch, plain XLA and themselves."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxcnn import cli, ops
from jaxcnn.errors import InputError
from jaxcnn.ops import lowering
from jaxcnn.ops.native import calls, library
from tests.ops import oracles
from tests.ops.oracles import close, normal
from tests.ops.test_agreement import CONVS, conv_and_gradients
from tests.ops.test_conv import AS_IN_PYTORCH, GRID, KERNELS, SHAPES, are_those_of_pytorch

X, W = normal(0, (2, 9, 8, 16)), normal(1, (3, 3, 16, 32))  # enough to be worth a call
ALL = ("onednn",) * 3


def all_close(actual, expected):
    for a, b in zip(actual, expected, strict=True):
        close(a, b)


@pytest.mark.slow
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_convolutions_are_the_loop(onednn, rank):
    for arguments in GRID:
        if rank == 3 and arguments["padding"] == "VALID" and arguments["dilation"] == 2:
            continue  # the kernel would not fit
        x = normal(0, SHAPES[rank])
        w = normal(1, (*KERNELS[rank], 4 // arguments["groups"], 8))
        actual = conv_and_gradients(x, w, "onednn", arguments)
        close(actual[0], oracles.conv(x, w, **arguments))
        all_close(actual, conv_and_gradients(x, w, "lax", arguments))


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("arguments", AS_IN_PYTORCH)
def test_values_and_gradients_are_those_of_pytorch(onednn, rank, arguments):
    are_those_of_pytorch("onednn", rank, arguments)


@pytest.mark.parametrize(("x", "w", "arguments"), CONVS)
def test_every_kind_of_convolution_agrees_with_lax(onednn, x, w, arguments):
    x, w = normal(0, x), normal(1, w)
    all_close(
        conv_and_gradients(x, w, "onednn", arguments), conv_and_gradients(x, w, "lax", arguments)
    )


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_odd_convolutions_agree_with_lax(onednn, data):
    """Sides, strides and pads that no network has; kernels larger than the image; one channel."""
    sides = st.integers(1, 9)
    groups = data.draw(st.sampled_from([1, 1, 2, 3]))
    x = normal(0, (data.draw(st.integers(1, 3)), data.draw(sides), data.draw(sides), groups * 3))
    w = normal(1, (data.draw(sides), data.draw(sides), 3, groups * data.draw(st.integers(1, 40))))
    pad = st.tuples(st.integers(0, 9), st.integers(0, 9))
    arguments = {
        "stride": (data.draw(st.integers(1, 4)), data.draw(st.integers(1, 4))),
        "dilation": (data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3))),
        "padding": (data.draw(pad), data.draw(pad)),
        "groups": groups,
    }
    try:
        expected = conv_and_gradients(x, w, "lax", arguments)
    except ValueError as error:
        assert "larger than the padded input" in str(error)  # noqa: PT017
        return
    all_close(conv_and_gradients(x, w, "onednn", arguments), expected)


@pytest.mark.parametrize(
    "arguments",
    [{}, {"stride": 2}, {"stride": 2, "output_padding": 1, "padding": 0}, {"groups": 2}],
)
def test_transposed_convolutions_agree_with_lax(onednn, arguments):
    w = normal(1, (3, 3, 16 // arguments.get("groups", 1), 6))
    if "output_padding" in arguments:  # a side is padded by less than nothing
        with pytest.raises(ValueError, match="impl='onednn' needs"):
            conv_and_gradients(X, w, "onednn", arguments, ops.conv_transpose)
        given_impl = "auto"
    else:
        given_impl = "onednn"
    all_close(
        conv_and_gradients(X, w, given_impl, arguments, ops.conv_transpose),
        conv_and_gradients(X, w, "lax", arguments, ops.conv_transpose),
    )


def test_auto_takes_it_and_explain_says_so(onednn):
    (record,) = ops.explain(ops.conv, X, W, platform="cpu")
    assert record.plan == ALL
    assert "oneDNN" in str(record)
    assert ops.explain(ops.conv, X, W, platform="gpu")[0].plan == ("lax",) * 3
    with lowering.without_onednn():
        assert "onednn" not in ops.explain(ops.conv, X, W, platform="cpu")[0].plan
        assert not lowering.onednn_version()
    assert lowering.onednn_version() == library.version()


def test_traces_with_it_and_without_it_are_kept_apart(onednn):
    conv = jax.jit(ops.conv)
    assert "jaxcnn_onednn" in conv.lower(X, W).as_text()
    with lowering.without_onednn():
        assert "jaxcnn_onednn" not in conv.lower(X, W).as_text()
    with lowering.force_impl("lax"):
        assert "jaxcnn_onednn" not in conv.lower(X, W).as_text()


@pytest.mark.parametrize(
    "change",
    [{"dtype": "float16"}, {"dtype": "float64"}, {"preferred_element_type": "float64"}],
    ids=str,
)
def test_what_it_does_not_take_goes_another_way(onednn, change):
    with jax.enable_x64(True):
        dtype = change.pop("dtype", "float32")
        x, w = jnp.asarray(X, dtype), jnp.asarray(W, dtype)
        assert "onednn" not in ops.explain(ops.conv, x, w, **change)[0].plan
        with pytest.raises(ValueError, match="impl='onednn' needs oneDNN"):
            ops.conv(x, w, impl="onednn", **change)


def test_empty_batches_go_another_way(onednn):
    assert ops.conv(X[:0], W).shape == (0, 9, 8, 32)


def test_sizes_may_multiply_beyond_an_integer(onednn):
    x, w = normal(0, (1, 32, 32, 2048)), normal(1, (1, 1, 2048, 2048))
    assert x.size * w.size * x.size % 2**64 == 0  # x and y have one size
    close(ops.conv(x, w, impl="onednn"), x @ w[0, 0])


def test_vmap_scan_and_gradients_of_gradients(onednn):
    many = normal(3, (3, *W.shape))
    each = np.stack([ops.conv(X, w, impl="lax") for w in many])
    close(jax.vmap(ops.conv, (None, 0))(X, many), each)
    close(jax.lax.map(lambda w: ops.conv(X, w), many), each)
    images = normal(4, (3, *X.shape))
    close(jax.vmap(ops.conv, (0, None))(images, W), [ops.conv(x, W, impl="lax") for x in images])

    def gradients(impl):
        def norm_of_gradient(x, w):
            loss = lambda x, w: (jnp.sin(ops.conv(x, w, impl=impl)) ** 2).sum()  # noqa: E731
            dx, dw = jax.grad(loss, (0, 1))(x, w)
            return (dx**2).sum() + (jnp.sin(dw) ** 2).sum()

        return jax.jit(jax.grad(norm_of_gradient, (0, 1)))(X, W)

    all_close(gradients("onednn"), gradients("lax"))


def test_bits_are_the_same_each_time_and_inside_loops(onednn):
    x, w = normal(0, (8, 17, 17, 32)), normal(1, (3, 3, 32, 64))
    once = conv_and_gradients(x, w, "onednn", {})
    for _ in range(5):
        again = conv_and_gradients(x, w, "onednn", {})
        assert all(map(np.array_equal, again, once))

    @jax.jit
    def in_loop(x, w):
        body = lambda carry, _: (carry, conv_and_gradients(x, w, "onednn", {}))  # noqa: E731
        return jax.lax.scan(body, 0, None, length=3)[1]

    assert all(np.array_equal(many[2], one) for many, one in zip(in_loop(x, w), once, strict=True))


def test_handlers_refuse_what_is_wrong(onednn):
    """The tables let nothing of this through; what comes nevertheless is an error, not a crash."""
    spec = lowering.ConvSpec(X.shape, W.shape, (1, 1), ((1, 1), (1, 1)), (1, 1), 1)
    shape = (2, 9, 8, 32)
    for x, w, shape_of_y, said in (
        (X, W[:, :, :8], shape, "oneDNN"),
        (X, W, (2, 5, 8, 32), "oneDNN"),
        (X, W[0, 0], shape, "one rank"),
        (X.astype(np.float16), W.astype(np.float16), shape, "float32"),
        (X.astype(np.int32), W.astype(np.int32), shape, "float32"),
    ):
        with pytest.raises(jax.errors.JaxRuntimeError, match=said):
            jax.block_until_ready(
                calls._call("conv_forward", spec, shape_of_y, jnp.asarray(x), jnp.asarray(w))
            )


SHARDED = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P
from jaxcnn import cli, ops
from jaxcnn.ops.native import library
print(library.why_not())
mesh = jax.make_mesh((8,), ("data",))
x = np.random.default_rng(0).standard_normal((16, 9, 8, 4)).astype("f")
w = np.random.default_rng(1).standard_normal((3, 3, 4, 8)).astype("f")
loss = lambda w, x: jnp.sin(ops.conv(x, w)).sum()
split = NamedSharding(mesh, P()), NamedSharding(mesh, P("data"))
step = jax.jit(jax.grad(loss), in_shardings=split)
np.testing.assert_allclose(step(w, x), jax.grad(loss)(w, x), rtol=1e-4, atol=1e-4)
"""


def test_a_batch_on_eight_devices_is_left_to_xla(onednn):
    flags = "--xla_force_host_platform_device_count=8"
    env = {**os.environ, "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {flags}"}
    done = subprocess.run([sys.executable, "-c", SHARDED], env=env, capture_output=True, text=True)
    assert done.stdout.startswith("there are 8 devices"), done.stderr
    assert done.returncode == 0, done.stderr


# ------------------------------------------------------------------------------------- building


def test_without_a_build_everything_goes_as_before(onednn, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    onednn()
    assert "jaxcnn native build" in library.why_not()
    assert "onednn" not in ops.explain(ops.conv, X, W)[0].plan
    with pytest.raises(ValueError, match="impl='onednn' needs oneDNN"):
        ops.conv(X, W, impl="onednn")
    library.path().parent.mkdir(parents=True)
    (library.path().parent / "onednn-jaxlib-0.1-f.so").touch()
    onednn()
    assert "onednn-jaxlib-0.1-f.so is of another version" in library.why_not()
    library.path().write_text("no library")
    onednn()
    assert "cannot be loaded" in library.why_not()
    assert "onednn" not in ops.explain(ops.conv, X, W)[0].plan


def installation(folder, major="3", library_text="no library"):
    """A folder that looks like an installation of oneDNN."""
    (folder / "include").mkdir(parents=True)
    (folder / "lib").mkdir()
    version = "".join(
        f"#define DNNL_VERSION_{part} {number}\n"
        for part, number in (("MAJOR", major), ("MINOR", "6"), ("PATCH", "0"))
    )
    (folder / "include/dnnl_version.h").write_text(version)
    (folder / "include/dnnl.hpp").write_text("")
    (folder / "lib/libdnnl.so.3").write_text(library_text)
    return folder


@pytest.mark.parametrize(
    ("make", "environment", "said"),
    [
        (lambda folder: folder, {}, "holds no include/dnnl.hpp"),
        (
            lambda folder: installation(folder / "a", "2"),
            {},
            "--onednn .*: is oneDNN 2.6.0, and must be 3.x",
        ),
        (lambda folder: None, {"CXX": "no-such-compiler"}, "CXX='no-such-compiler': must name"),
        (lambda folder: installation(folder / "b"), {}, "could not build the handlers: .*error"),
        (lambda folder: None, {"JAXCNN_NO_CACHE": "1"}, "JAXCNN_NO_CACHE must not be set"),
    ],
    ids=["nothing there", "version 2", "no compiler", "broken headers", "nowhere to keep it"],
)
def test_a_build_that_cannot_be_made_says_why(
    onednn, monkeypatch, tmp_path, make, environment, said
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=said):
        library.build(make(tmp_path))
    assert not list(tmp_path.rglob("*-jaxlib-*"))


@pytest.mark.slow
def test_a_library_of_another_machine_is_refused(onednn, monkeypatch, tmp_path):
    """The headers are right, and the linker finds out."""
    found = library.find()
    other = installation(tmp_path / "other", library_text="\x7fELF of another machine")
    monkeypatch.setattr(
        library, "find", lambda prefix: found._replace(library=other / "lib/libdnnl.so.3")
    )
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(InputError, match=r"could not build the handlers: .*libdnnl.so.3"):
        library.build()


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"CXX": "env no-such g++"}, "env could not build the handlers"),
        ({"CXX": "'g++"}, r"CXX=.*must be words for a shell"),
        ({"CXXFLAGS": "-no-such-flag"}, "no-such-flag"),
        ({"CXXFLAGS": "'"}, "CXXFLAGS=.*must be words"),
    ],
    ids=str,
)
def test_what_the_compiler_is_told_is_checked(onednn, monkeypatch, tmp_path, environment, said):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=said):
        library.build()


def test_a_library_of_the_system_counts_where_there_is_no_wheel(onednn, monkeypatch, tmp_path):
    """pkg-config knows version 2 here, which is passed over for the wheel and refused without."""
    old = installation(tmp_path / "old", "2")
    program = tmp_path / "pkg-config"
    program.write_text(
        f"#!/bin/sh\ncase $1 in *includedir) echo {old}/include;; *) echo {old}/lib;; esac\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert library.find().version.startswith("3.")
    monkeypatch.setattr(library, "PACKAGES", ("no-such-package", "no-such-package"))
    with pytest.raises(InputError, match=r"pkg-config's dnnl: is oneDNN 2.6.0, and must"):
        library.find()
    (old / "include/dnnl_version.h").write_text(
        (old / "include/dnnl_version.h").read_text().replace("MAJOR 2", "MAJOR 3")
    )
    assert library.find().include == old / "include"


def test_a_cache_folder_that_cannot_be_read_costs_no_more_than_onednn(onednn, monkeypatch):
    def refused(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "exists", refused)
    onednn()
    assert "cannot be loaded" in library.why_not()
    assert "onednn" not in ops.explain(ops.conv, X, W)[0].plan


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (("status",), 0, "in use: oneDNN 3."),
        (("nonsense",), 2, "must be one of 'build', 'status'"),
        ((), 2, "build|status"),
        (("build", "--onednn", "/nowhere"), 2, "--onednn /nowhere: holds no include/dnnl.hpp"),
    ],
)
def test_the_command_says_what_is(onednn, capfd, args, code, said):
    assert cli.main(["native", *args]) == code
    out, errors = capfd.readouterr()
    assert said in out + errors
    assert len((out + errors).splitlines()) == 1


def test_packages_that_are_half_there_are_no_onednn(onednn, monkeypatch):
    monkeypatch.setattr(library, "PACKAGES", ("onednn-cpu-gomp", "no-such-package"))
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    with pytest.raises(InputError, match=r"pip install 'jaxcnn\[native\]'"):
        library.find()
