"""Finds oneDNN and a compiler, builds the handlers once, and loads the build where it fits.

A build stands in the user's cache folder under a name that is made of all that it depends on, so
that after an upgrade of jaxlib, or of this package, the former one is not found any more.
"""

import contextlib
import ctypes
import functools
import hashlib
import importlib.metadata
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jaxlib.version

from jaxcnn import cache
from jaxcnn.errors import InputError

SOURCE = Path(__file__).with_name("onednn.cpp")
HANDLERS = ("conv_forward", "conv_input_gradient", "conv_weight_gradient")
TARGET = "jaxcnn_onednn_"
"""What the names of the handlers begin with, as XLA knows them."""
PACKAGES = ("onednn-cpu-gomp", "onednn-devel-cpu-gomp")
"""The library and its headers, as `pip install 'jaxcnn[native]'` brings them."""
DTYPES = ("float32",)
"""Types of arrays that the handlers are asked to take; they would take bfloat16, unmeasured."""
MAJOR = 3
"""The version of oneDNN's interface that the handlers are written for."""


class OneDnn(NamedTuple):
    """A oneDNN to build with: its version, the folder of its headers, and the library."""

    version: str
    include: Path
    library: Path


def path() -> Path | None:
    """Returns where the build stands that fits this program; None where nothing is kept."""
    folder = cache.folder("native")
    if folder is None:
        return None
    # The environment holds the library that a build loads.
    names = (jaxlib.version.__version__, platform.machine(), sys.prefix)
    of = b"\0".join([SOURCE.read_bytes(), *map(os.fsencode, names)])
    digest = hashlib.sha256(of).hexdigest()[:16]
    return folder / f"onednn-jaxlib-{jaxlib.version.__version__}-{digest}.so"


@functools.cache
def _loaded() -> tuple[str, str]:
    """Loads the build, and returns oneDNN's version; or nothing, and why there is none."""
    if os.environ.get("JAXCNN_NATIVE") == "0":
        return "", "JAXCNN_NATIVE=0 is set"
    if jax.default_backend() != "cpu":
        return "", f"JAX computes on {jax.default_backend()}, not on the CPU"
    if jax.device_count() > 1:
        return "", f"there are {jax.device_count()} devices, among which XLA splits a batch itself"
    try:
        build = path()
        if build is None:
            return "", "there is no cache folder to keep a build in (JAXCNN_NO_CACHE is set)"
        if not build.exists():
            others = sorted(build.parent.glob("onednn-*.so"))
            former = f" ({others[-1].name} is of another version or environment)" if others else ""
            return "", f"not built: run `jaxcnn native build`{former}"
        with _threads_rest():
            found = ctypes.CDLL(str(build))
        number = int(found.onednn_version())
        if number // 10000 != MAJOR:
            return "", f"{build} has loaded oneDNN {_dotted(number)}, and needs {MAJOR}.x"
        for name in HANDLERS:
            handler = jax.ffi.pycapsule(getattr(found, name))
            jax.ffi.register_ffi_target(TARGET + name, handler, platform="cpu")
    except (OSError, AttributeError, RuntimeError) as error:
        return "", f"what was built cannot be loaded ({error}); run `jaxcnn native build` again"
    return _dotted(number), ""


def _dotted(number: int) -> str:
    return f"{number // 10000}.{number // 100 % 100}.{number % 100}"


@contextlib.contextmanager
def _threads_rest() -> Iterator[None]:
    """Has OpenMP's threads, of a runtime loaded inside, sleep soon after a call.

    By default they spin for some milliseconds, on the cores that XLA's threads need. Other
    runtimes in this process, as PyTorch's, are left as they are.
    """
    names = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    if any(name in os.environ for name in names):
        yield
        return
    os.environ[names[0]] = "1000"
    try:
        yield
    finally:
        del os.environ[names[0]]


def version() -> str:
    """Returns the version of oneDNN that convolutions are carried out by; empty without one."""
    return _loaded()[0]


def why_not() -> str:
    """Returns why there is no oneDNN to carry out convolutions; empty where there is."""
    return _loaded()[1]


def find(prefix: Path | None = None) -> OneDnn:
    """Finds the oneDNN to build with.

    Args:
        prefix: the folder of an installation, with ``include`` and ``lib``; None takes the wheels
            of this environment, or else what pkg-config knows.

    Raises:
        InputError: there is none, or none of version 3.
    """
    if prefix is not None:
        found = _under(prefix.expanduser().absolute(), f"--onednn {prefix}")
        if found is None:
            raise InputError(f"--onednn {prefix}: holds no include/dnnl.hpp with a lib/libdnnl")
        return found
    found = _of_wheels() or _of_pkg_config()
    if found is None:
        raise InputError(
            "oneDNN 3.x is not here: on Linux x86-64 `pip install 'jaxcnn[native]'` brings it; "
            "elsewhere install it (Debian's libdnnl-dev, Homebrew's or conda-forge's onednn), or "
            "name its folder by --onednn"
        )
    return found


def _under(prefix: Path, called: str) -> OneDnn | None:
    """Returns the oneDNN of a folder with ``include`` and ``lib``; faults name ``called``."""
    folders = [prefix / name for name in ("lib", "lib64", f"lib/{platform.machine()}-linux-gnu")]
    return _checked(prefix / "include", folders, called)


def _of_wheels() -> OneDnn | None:
    """Returns the oneDNN that pip has installed."""
    found = []
    for package, name in zip(PACKAGES, ("libdnnl.so.3", "dnnl.hpp"), strict=True):
        try:
            files = importlib.metadata.files(package) or []
        except importlib.metadata.PackageNotFoundError:
            return None
        found += [Path(str(f.locate())).resolve() for f in files if f.name == name][:1]
    if len(found) < len(PACKAGES):
        return None
    return _checked(found[1].parent, [found[0].parent], PACKAGES[0])


def _of_pkg_config() -> OneDnn | None:
    """Returns the oneDNN that pkg-config knows."""
    folders = []
    for variable in ("includedir", "libdir"):
        line = ["pkg-config", f"--variable={variable}", "dnnl"]
        try:
            done = subprocess.run(line, capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            return None
        folders.append(Path(done.stdout.strip()))
    return _checked(folders[0], folders[1:], "pkg-config's dnnl")


def _checked(include: Path, folders: Sequence[Path], called: str) -> OneDnn | None:
    """Returns a oneDNN whose version fits, or None where it is not whole.

    Raises:
        InputError: it is of another version.
    """
    names = (f"libdnnl.so.{MAJOR}", f"libdnnl.{MAJOR}.dylib")
    library = next((f / n for f in folders for n in names if (f / n).is_file()), None)
    headers = [include / name for name in ("dnnl_version.h", "oneapi/dnnl/dnnl_version.h")]
    numbers: list[str] = []
    for header in headers:
        if header.is_file():
            text = header.read_text(encoding="utf-8", errors="replace")
            numbers += re.findall(r"#define DNNL_VERSION_(?:MAJOR|MINOR|PATCH) +(\d+)", text)
    if len(numbers) < 3 or not (include / "dnnl.hpp").is_file():
        return None
    version = ".".join(numbers[:3])
    if int(numbers[0]) != MAJOR:
        raise InputError(f"{called}: is oneDNN {version}, and must be {MAJOR}.x")
    return None if library is None else OneDnn(version, include, library)


def compiler() -> list[str]:
    """Returns the command of the C++ compiler: what CXX says, g++ or clang++.

    Raises:
        InputError: there is none.
    """
    own = _words("CXX")
    for command in [own] if own else [["g++"], ["clang++"]]:
        if shutil.which(command[0]):
            return command
    given = f"CXX={os.environ['CXX']!r}: must name" if own else "to build, there must be"
    raise InputError(f"{given} a C++ compiler; g++ and clang++ (C++17) will do")


def _words(name: str) -> list[str]:
    """Returns the words of an environment variable, as a shell would split them."""
    value = os.environ.get(name, "")
    try:
        return shlex.split(value)
    except ValueError as error:
        raise InputError(f"{name}={value!r}: must be words for a shell ({error})") from error


def build(prefix: Path | None = None) -> str:
    """Compiles the handlers into the user's cache folder, loads them, and says what was built.

    Args:
        prefix: the folder of oneDNN; see :func:`find`.

    Raises:
        InputError: no oneDNN, no compiler, no cache folder, or what the compiler says last.
    """
    target = path()
    if target is None:
        raise InputError("there is no cache folder to build into: JAXCNN_NO_CACHE must not be set")
    found, program = find(prefix), compiler()
    started = time.monotonic()
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        made = Path(folder) / target.name
        done = _ended([*program, *_arguments(found), "-o", str(made)])
        if done.returncode:
            raise InputError(f"{program[0]} could not build the handlers: {_fault(done.stderr)}")
        _try(made)
        made.replace(target)
    _loaded.cache_clear()
    seconds = time.monotonic() - started
    return f"built with oneDNN {found.version} ({found.library}) by {program[0]} in {seconds:.1f} s"


def _arguments(found: OneDnn) -> list[str]:
    """Returns what the compiler is told, but for the name of the result."""
    undefined = ["-undefined", "dynamic_lookup"] if sys.platform == "darwin" else []
    return [
        *("-std=c++17", "-O2", "-w", "-fPIC", "-shared", str(SOURCE)),
        *_words("CXXFLAGS"),
        *(f"-I{found.include}", f"-isystem{jax.ffi.include_dir()}"),
        *(str(found.library), "-Xlinker", "-rpath", "-Xlinker", str(found.library.parent)),
        *undefined,
    ]


def _fault(said: str) -> str:
    """Returns the line of what a compiler says that tells most."""
    rows = [row.strip() for row in said.splitlines() if row.strip()]
    own = [row for row in rows if not re.match("collect2:|clang.*linker command", row)]
    errors = [row for row in own if "error" in row]
    return (errors or own or rows or ["it does not say why"])[-1]


CHECK = """
import ctypes, sys
print(ctypes.CDLL(sys.argv[1]).onednn_version() // 10000)
"""


def _try(made: Path) -> None:
    """Loads a build in a process of its own, which may end as it likes.

    Raises:
        InputError: it does not load, or has loaded another version.
    """
    done = _ended([sys.executable, "-c", CHECK, str(made)])
    if done.returncode < 0:
        raise InputError(f"what was built does not load: signal {-done.returncode} ends it")
    if done.returncode or done.stdout.strip() != str(MAJOR):
        rows = done.stderr.strip().splitlines() or [f"it loads oneDNN {done.stdout.strip()}.x"]
        raise InputError(f"what was built does not load: {rows[-1]}")


def _ended(line: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Runs a program to its end, and keeps what it says."""
    try:
        return subprocess.run(line, capture_output=True, text=True, errors="replace", check=False)
    except OSError as error:
        raise InputError(f"{line[0]}: cannot be run ({error.strerror})") from error
