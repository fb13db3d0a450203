"""The command line: finds the command, and turns its faults into one line and an exit code.

Everything heavy is imported where it is used, so that ``jaxcnn --help`` answers at once. A fault
in what the user gave ends in one line on stderr and exit code 2.
"""

import contextlib
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from jaxcnn import __version__
from jaxcnn.errors import InputError, Stopped

USAGE = f"""\
jaxcnn {__version__}: train, prove and compare convolutional networks in JAX

  jaxcnn train EXPERIMENT.py [--workdir DIR] [--optim.peak-lr 0.05 ...]
                            train, or go on where a run ended
  jaxcnn eval --workdir DIR                 test accuracy of a trained run
  jaxcnn predict --workdir DIR IMAGE ...    class and probability of images
  jaxcnn import WEIGHTS.safetensors --model NAME --out DIR
                            weights in torchvision's layout, for train, eval and predict
  jaxcnn compare COMPARISON.py [--seeds 5]  trains every arm and seed: table and page
  jaxcnn sweep EXPERIMENT.py --grid optim.peak_lr=0.01,0.1 --random 20 FIELD=LOW:HIGH ...
                            trains over values of any field, best first
  jaxcnn report RUN ... [--out FILE.html]   one page on finished runs
  jaxcnn viz RUN ... [--image FILE]         filters, feature maps, Grad-CAM, receptive fields
  jaxcnn bench [MODEL ...] [--out bench.csv]  speed, memory, share of the roofline
  jaxcnn summary MODEL [--input H W C]      layers, shapes, parameters, MACs
  jaxcnn list [PATTERN] [--stats]           models

  jaxcnn COMMAND --help     every option of a command
"""

COMMANDS = {
    "train": "train",
    "eval": "evaluate",
    "predict": "predict",
    "import": "import_weights",
    "compare": "compare",
    "sweep": "sweep",
    "report": "report",
    "viz": "viz",
    "bench": "bench",
    "summary": "summary",
    "list": "list_models",
}
"""Names of the commands, and of the modules of ``jaxcnn.commands`` that hold them."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit code."""
    args = list(sys.argv[1:] if argv is None else argv)
    if not args or args[0] in {"-h", "--help"}:
        print(USAGE, end="")
        return 0 if args else 2
    if args[0] == "--version":
        print(__version__)
        return 0
    return guarded(lambda: _named(args[0])(args[1:]))


def guarded(command: Callable[[], int]) -> int:
    """Runs a command; libraries are kept quiet, and its faults become a line and an exit code."""
    try:
        _quiet()
        _cache()
        return command()
    except InputError as error:
        print(f"jaxcnn: error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        if isinstance(error, BrokenPipeError):  # the reader, such as `head`, has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        where = f"{error.filename}: " if error.filename else ""
        print(f"jaxcnn: error: {where}{error.strerror or error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except Stopped as stopped:
        with contextlib.suppress(BrokenPipeError):
            print(stopped)
        return 128 + stopped.signal


def _named(name: str) -> Callable[[Sequence[str]], int]:
    if name not in COMMANDS:
        raise InputError(f"command {name!r}: must be one of {', '.join(COMMANDS)}")
    return importlib.import_module(f"jaxcnn.commands.{COMMANDS[name]}").main


def _quiet() -> None:
    """Keeps the libraries' chatter off the terminal; their errors stay."""
    import logging

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    logging.getLogger("absl").setLevel(logging.ERROR)
    logging.basicConfig(format="jaxcnn: %(message)s")


def _cache() -> None:
    """Keeps compiled programs in the user's cache folder, unless JAXCNN_NO_CACHE is set.

    JAX's own variable goes first; it is read when JAX is imported.
    """
    if os.environ.get("JAXCNN_NO_CACHE"):
        return
    home = os.environ.get("XDG_CACHE_HOME") or str(Path("~/.cache").expanduser())
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(home) / "jaxcnn" / "xla"))
    jax = sys.modules.get("jax")
    if jax is not None and jax.config.jax_compilation_cache_dir is None:
        jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])


if __name__ == "__main__":
    sys.exit(main())
