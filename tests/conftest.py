"""What every test runs under: checked shapes, no silent rank promotion, perhaps torchvision."""

import contextlib
import gc
import os
import signal
import subprocess
import warnings
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

# Many tests run the same small programs, some of them in processes of their own: each is
# compiled once. Set before JAX is imported, and inherited by those processes.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(".pytest_cache/xla").absolute()))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.05")
# LLVM's optimisations take a third of the suite's time and change nothing that it looks at. The
# older way of compiling fusions, which jaxlib 0.10 still has, takes half as long as the usual one,
# but gets gradients in float64 of some large networks wrong: slow tests (.ci/run, `make test-slow`)
# take the usual one, and so does a newer jaxlib.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0"
    + " --xla_cpu_use_fusion_emitters=false" * version("jaxlib").startswith("0.10."),
)

# What is tested is what everybody has; the fixture `onednn` brings what some have built.
os.environ.setdefault("JAXCNN_NATIVE", "0")

import jax
import pytest
from jaxtyping import install_import_hook

# Every jaxtyping annotation of these packages is enforced while the tests run.
install_import_hook(
    ["jaxcnn.ops", "jaxcnn.data", "jaxcnn.tasks.losses", "jaxcnn.tasks.sums"], "beartype.beartype"
)
jax.config.update("jax_numpy_rank_promotion", "raise")
os.environ.setdefault("MPLBACKEND", "Agg")
# In the background of a script SIGINT is ignored, which tests send.
with contextlib.suppress(ValueError):  # not the main thread
    signal.signal(signal.SIGINT, signal.default_int_handler)
# Tracing makes millions of small objects, of which few are in cycles: looking for those among
# all that is alive took a fifth of the suite's time.
gc.set_threshold(100_000)


MOST_HELD = 2 * 2**30
"""Bytes that a worker may hold before it forgets what it has compiled."""


@pytest.fixture(scope="module", autouse=True)
def _programs_are_forgotten() -> Iterator[None]:
    """A worker would hold several gigabytes of compiled programs at the end."""
    yield
    statm = Path("/proc/self/statm")  # of Linux
    pages = int(statm.read_text().split()[1]) if statm.exists() else MOST_HELD
    if pages * os.sysconf("SC_PAGE_SIZE") > MOST_HELD:
        jax.clear_caches()
        gc.collect()


@pytest.fixture(scope="session")
def torchvision() -> Any:
    """torchvision, or a visible skip."""
    from benchmarks.torch_reference import import_torchvision

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module = import_torchvision()
    except ImportError as error:
        pytest.skip(f"no reference implementation: {error}")
    import torch

    torch.set_num_threads(1)
    return module


@pytest.fixture(scope="session")
def _onednn_built() -> Path:
    """The cache folder with the handlers that call oneDNN, or a visible skip."""
    from jaxcnn.errors import InputError
    from jaxcnn.ops.native import library

    folder = Path(".pytest_cache/native").absolute()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        patch.delenv("JAXCNN_NO_CACHE", raising=False)
        patch.delenv("JAXCNN_NATIVE", raising=False)
        library._loaded.cache_clear()
        # What an earlier session built may have lost its oneDNN since.
        if library.path() is not None and not library.version():
            try:
                library.build()
            except InputError as error:
                pytest.skip(f"no oneDNN: {error}")
    return folder


@pytest.fixture
def onednn(_onednn_built: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """Lets ``impl="auto"`` choose oneDNN, in processes started here too; a call looks anew."""
    from jaxcnn.ops.native import library

    def look() -> None:
        library._loaded.cache_clear()
        jax.clear_caches()

    monkeypatch.delenv("JAXCNN_NATIVE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(_onednn_built))
    look()
    assert library.version(), library.why_not()
    yield look
    monkeypatch.undo()
    look()


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Path]]:
    """A SLURM of one node that runs, or a visible skip.

    Commands of SLURM find it by themselves. A call, such as ``slurm("crash")``, has its script do
    one thing more; it returns the folder with logs and configuration.
    """
    folder = tmp_path_factory.mktemp("slurm")

    def cluster(what: str) -> Path:
        command = [str(Path(__file__).parent / "slurm" / "cluster.sh"), what, str(folder)]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode == os.EX_UNAVAILABLE and "JAXCNN_SLURM" not in os.environ:
            pytest.skip(done.stderr.strip())
        assert done.returncode == 0, done.stderr
        return folder

    try:
        cluster("start")
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
            yield cluster
    finally:
        cluster("stop")
