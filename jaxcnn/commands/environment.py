"""The environment variables that decide how the libraries behave, checked before they are used."""

import contextlib
import os
import re
import sys
from pathlib import Path

from jaxcnn import cache
from jaxcnn.cache import switched_on
from jaxcnn.errors import InputError

NEEDED = {
    "JAX_DISABLE_JIT": False,
    "JAX_ENABLE_X64": False,
    "JAX_NUMPY_DTYPE_PROMOTION": "standard",
    "JAX_TRANSFER_GUARD": "allow",
    "JAX_TRANSFER_GUARD_HOST_TO_DEVICE": "allow",
    "JAX_TRANSFER_GUARD_DEVICE_TO_HOST": "allow",
}
"""Variables of JAX with the only values that the programs here are written for."""


def quiet() -> None:
    """Keeps the libraries' chatter off the terminal; their errors stay."""
    import logging
    import warnings

    # A program that cannot be kept, or read again, is compiled: that costs time and no more.
    warnings.filterwarnings("ignore", "Error (writing|reading) persistent compilation cache")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    os.environ["MPLBACKEND"] = "agg"  # charts go into files, never into windows
    logging.basicConfig(format="jaxcnn: %(message)s")
    for library in ("absl", "matplotlib"):
        logging.getLogger(library).setLevel(logging.ERROR)


def check() -> None:
    """Imports JAX and keeps its compiled programs, after a check of the variables that it reads.

    Raises:
        InputError: a variable that JAX refuses, or that the programs here are not written for.
    """
    flags = os.environ.get("XLA_FLAGS")
    if flags and (fault := _fault_of_xla_flags(flags)):
        raise InputError(f"XLA_FLAGS={flags!r}: must be flags of XLA ({fault})")
    threads = os.environ.get("OMP_NUM_THREADS", "1")
    if not re.fullmatch("[0-9]+( *, *[0-9]+)*", threads.strip(), re.ASCII):
        raise InputError(f"OMP_NUM_THREADS={threads!r}: must be a positive whole number")
    _keep_programs()
    try:
        import jax
    except ValueError as error:  # JAX reads its variables when it is imported
        said = str(error).lower()
        names = [name for name in os.environ if name.startswith("JAX_")]
        name = next((n for n in names if n.lower() in said), "") or next(
            (n for n in names if repr(os.environ[n]).lower() in said), "JAX_..."
        )
        raise InputError(
            f"{name}={os.environ.get(name)!r}: must be a value that JAX takes ({error})"
        ) from error
    for name, needed in NEEDED.items():
        value = getattr(jax.config, name.lower(), needed)
        if name in os.environ and getattr(value, "value", value) != needed:
            accepted = needed or "0"
            raise InputError(f"{name}={os.environ[name]!r}: must be {accepted}, or not set")


DEVICES = ("JAX_PLATFORMS", "JAX_PLATFORM_NAME", "JAX_NUM_CPU_DEVICES", "XLA_FLAGS")
"""Variables that say which devices JAX uses."""


def fault_of_devices(error: Exception) -> str:
    """Returns why JAX, where it is imported, finds no devices; nothing where it has some.

    Args:
        error: what has ended the command. Only then it is asked: to start a device takes time and
            memory. Asked twice, JAX may pass over a platform that it has refused before.
    """
    jax = sys.modules.get("jax")
    reason = str(error) if "Unable to initialize backend" in str(error) else ""
    try:
        if jax is not None:
            jax.devices()
    except Exception as refused:
        reason = reason or str(refused) or "no such devices here"
    if not reason:
        return ""
    names = [f"{name}={os.environ[name]!r}" for name in DEVICES if os.environ.get(name)]
    reason = reason.partition("\n")[0]
    return f"{' and '.join(names) or 'JAX'}: must name devices of this machine ({reason})"


def _fault_of_xla_flags(flags: str) -> str:
    """Returns what is wrong with XLA_FLAGS, or nothing.

    Another process reads them, since XLA ends a process that has a wrong one. It takes a while, so
    flags that were right are remembered in the user's cache folder.
    """
    import hashlib
    import importlib.metadata
    import subprocess

    known = cache.folder("flags")
    if known is not None:
        of = f"{importlib.metadata.version('jaxlib')} {flags}"
        known /= hashlib.sha256(of.encode(errors="surrogateescape")).hexdigest()
        if known.exists():
            return ""
    code = "from jaxlib import _jax; _jax.CompileOptions()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    lines = done.stderr.decode(errors="replace").splitlines() if done.returncode else []
    fault = next((line.partition("] ")[2] for line in lines if "parse_flags" in line), "")
    if known is not None and not done.returncode:
        with contextlib.suppress(OSError):
            known.parent.mkdir(parents=True, exist_ok=True)
            known.touch()
    return fault


def _keep_programs() -> None:
    """Keeps compiled programs in the user's cache folder, unless JAXCNN_NO_CACHE is set.

    JAX's own variable goes first; it is read when JAX is imported.
    """
    if switched_on("JAXCNN_NO_CACHE"):
        return
    own = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    folder = own or str(cache.folder("xla") or "")
    if not folder:
        return
    if "://" not in folder:  # JAX takes the address of a bucket too
        try:
            Path(folder).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            if own:
                name = f"JAX_COMPILATION_CACHE_DIR={own!r}"
                raise InputError(f"{name}: must be a folder ({error.strerror})") from error
            return
    os.environ["JAX_COMPILATION_CACHE_DIR"] = folder
    jax = sys.modules.get("jax")
    if jax is not None and jax.config.jax_compilation_cache_dir is None:
        jax.config.update("jax_compilation_cache_dir", folder)
