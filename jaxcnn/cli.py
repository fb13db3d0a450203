"""The command line: finds the command, and turns its faults into one line and an exit code.

Everything heavy is imported where it is used, so that ``jaxcnn --help`` answers at once. A fault
in what the user gave ends in one line on stderr and exit code 2, a fault of the program itself in
one line and exit code 70 (EX_SOFTWARE of sysexits.h).
"""

import contextlib
import importlib
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

from jaxcnn import __version__
from jaxcnn.errors import FULL, Diverged, InputError, NotWritten, Stopped

USAGE = f"""\
jaxcnn {__version__}: train, prove and compare convolutional networks in JAX

  jaxcnn train EXPERIMENT.py [--workdir DIR] [--optim.peak-lr 0.05 ...]
                                    trains, or goes on where a run ended
  jaxcnn eval RUN                   accuracy of a trained run on its test set
  jaxcnn predict RUN IMAGE ...      class and probability of image files
  jaxcnn import WEIGHTS.safetensors --model NAME --out DIR
                                    weights in torchvision's layout
  jaxcnn compare COMPARISON.py      trains every arm and seed: table and page
  jaxcnn sweep EXPERIMENT.py --grid optim.peak_lr=0.01,0.1 --random 20 ...
                                    trains over values of any field, best first
  jaxcnn report RUN ...             one page on finished runs
  jaxcnn viz RUN ...                filters, feature maps, Grad-CAM, fields
  jaxcnn bench [MODEL ...]          speed, memory, share of the roofline
  jaxcnn summary MODEL              layers, shapes, parameters, MACs
  jaxcnn list [PATTERN] [--stats]   names of the models

  jaxcnn COMMAND --help             every option of a command
  jaxcnn COMMAND --debug            the traceback of an error, as JAXCNN_DEBUG=1
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
    if argv is None:
        _open_closed_streams()
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, _quit)  # until the process is gone
    given = sys.argv[1:] if argv is None else argv
    args = [arg for arg in given if arg != "--debug"]
    if not args or args[0] in {"-h", "--help"}:
        print(USAGE, end="")
        return 0 if args else 2
    if args[0] == "--version":
        print(__version__)
        return 0
    return guarded(lambda: _run(args[0], args[1:]), debug=len(args) < len(given))


def _open_closed_streams() -> None:
    """Gives a standard stream that is closed to /dev/null, or our first file would take its place.

    The first one that is opened gets the lowest number that is free.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode))


def _quit(number: int, frame: FrameType | None) -> None:
    """Ends this process at a Ctrl-C, at once and without a word, wherever it is.

    Compiled libraries turn a KeyboardInterrupt into other errors, threads and finalizers print it.
    What a run has on disk is whole at any instant.
    """
    with contextlib.suppress(Exception):
        if sys.stdout.isatty():
            sys.stdout.write("\x1b[?25h\n")  # the cursor, which a progress bar hides
        sys.stdout.flush()
    os._exit(128 + number)


def guarded(command: Callable[[], int], debug: bool = False) -> int:
    """Runs a command; libraries are kept quiet, and its faults become a line and an exit code.

    Args:
        command: returns the exit code.
        debug: shows the traceback of a fault too, as JAXCNN_DEBUG=1 does.
    """
    try:
        _quiet()
        _cache()
        code = command()
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130
    except Stopped as stopped:
        with contextlib.suppress(BrokenPipeError):
            print(stopped)
        return 128 + stopped.signal
    except Exception as error:
        if debug or os.environ.get("JAXCNN_DEBUG"):
            import traceback

            traceback.print_exc()
        code, line = _verdict(error)
        print(f"jaxcnn: {line}", file=sys.stderr)
    return code


def _verdict(error: Exception) -> tuple[int, str]:
    """Returns the exit code of an error, and the line that says what is wrong."""
    match error:
        case InputError():
            return 2, f"error: {error}"
        case OSError():
            where = f"{error.filename}: " if error.filename else ""
            return 1 if error.errno in FULL else 2, f"error: {where}{error.strerror or error}"
        case NotWritten():
            return 1, f"error: {error}"
        case Diverged():
            return 1, str(error)
    import traceback

    frames = traceback.extract_tb(error.__traceback__)
    package = Path(__file__).parent
    ours = [f for f in frames if package in Path(f.filename).parents and f.filename != __file__]
    frame = (ours or frames)[-1]
    path = Path(frame.filename)
    if package in path.parents:
        path = path.relative_to(package.parent)
    reason = str(error).strip().partition("\n")[0]
    what = ": ".join(filter(None, [type(error).__name__, reason]))
    return 70, f"internal error in {path}:{frame.lineno} ({what}); --debug shows where"


def _run(name: str, args: Sequence[str]) -> int:
    """Runs the command of a name, or shows its help."""
    if name not in COMMANDS:
        raise InputError(f"command {name!r}: must be one of {', '.join(COMMANDS)}")
    from jaxcnn.commands import arguments

    module = importlib.import_module(f"jaxcnn.commands.{COMMANDS[name]}")
    if {"-h", "--help"} & set(args):
        print(arguments.explain(module.Command, args, name), end="")
        return 0
    return module.run(arguments.parse(module.Command, _updated(name, args), name))


RUN_BY_PLACE = {"eval": "RUN", "predict": "RUN IMAGE ..."}
"""Commands that took their run by --workdir in version 0.1, and what they take now."""


def _updated(name: str, args: Sequence[str]) -> Sequence[str]:
    """Returns arguments in today's spelling; those of the last release get a line on stderr.

    >>> _updated("eval", ["--tta", "flip", "--workdir", "runs/a"])
    ['runs/a', '--tta', 'flip']
    """
    flags = [arg.partition("=")[0] for arg in args]
    if name not in RUN_BY_PLACE or "--workdir" not in flags:
        return args
    print(
        f"jaxcnn: --workdir is now the first argument: jaxcnn {name} {RUN_BY_PLACE[name]}",
        file=sys.stderr,
    )
    at = flags.index("--workdir")
    _, equals, value = args[at].partition("=")
    words = [value, *args[at + 1 :]] if equals else args[at + 1 :]
    return [*words[:1], *args[:at], *words[1:]]


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
