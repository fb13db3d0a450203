"""The command line: finds the command, and turns its faults into one line and an exit code.

Everything heavy is imported where it is used, so that ``jaxcnn --help`` answers at once. A fault
in what the user gave ends in one line on stderr and exit code 2, a fault of the program itself in
one line and exit code 70 (EX_SOFTWARE of sysexits.h).
"""

import contextlib
import errno
import importlib
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

from jaxcnn import __version__, text
from jaxcnn.cache import switched_on
from jaxcnn.commands import environment
from jaxcnn.errors import FULL, Diverged, InputError, NotWritten, Stopped

USAGE = f"""\
jaxcnn {__version__.partition("+")[0]}: train, prove and compare convolutional networks in JAX

  jaxcnn new FILE.py                an experiment with a network to start from
  jaxcnn new --from NAME [FILE.py]  a copy of an experiment; --list shows them
  jaxcnn train EXPERIMENT.py [--workdir DIR] [--optim.peak-lr 0.05 ...]
                                    trains, or goes on where a run ended
  jaxcnn eval RUN ... [--data OTHER --corruptions --calibration ...]
                                    accuracy on its test set, on other data and
                                    corrupted images; honesty of probabilities
  jaxcnn predict RUN IMAGE ...      class and probability of image files
  jaxcnn import hf:timm/NAME        published weights; or from a safetensors
                                    file in torchvision's or timm's layout
  jaxcnn export RUN --to stablehlo  a network for JAX alone, or for PyTorch
  jaxcnn compare COMPARISON.py      trains every arm and seed: table and page
  jaxcnn sweep EXPERIMENT.py optim.peak_lr=log:1e-3:1e-1 ...
                                    searches over any field, best first
  jaxcnn launch --on slurm -- train FILE ...
                                    the same on a cluster, or many at once here
  jaxcnn status DIR                 every run in a folder: how far it is
  jaxcnn report RUN ...             one page on finished runs
  jaxcnn viz RUN ...                filters, feature maps, Grad-CAM, fields
  jaxcnn bench [MODEL ...]          speed, memory, utilisation of the device
  jaxcnn plan EXPERIMENT.py --devices 64 --card h100
                                    memory, time and energy beforehand
  jaxcnn summary MODEL              layers, shapes, parameters, MACs
  jaxcnn list [PATTERN] [--stats]   names of the models
  jaxcnn native build               convolutions by oneDNN on CPUs: faster

  jaxcnn COMMAND --help             every option of a command
  jaxcnn COMMAND --debug            the traceback of an error, as JAXCNN_DEBUG=1
"""

COMMANDS = {
    "new": "new",
    "train": "train",
    "eval": "evaluate",
    "predict": "predict",
    "import": "import_weights",
    "export": "export",
    "compare": "compare",
    "sweep": "sweep",
    "launch": "launch",
    "status": "status",
    "report": "report",
    "viz": "viz",
    "bench": "bench",
    "plan": "plan",
    "summary": "summary",
    "list": "list_models",
    "native": "native",
}
"""Names of the commands, and of the modules of ``jaxcnn.commands`` that hold them."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit code."""
    if argv is None and signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, _quit)  # until the process is gone
    given = sys.argv[1:] if argv is None else argv
    args = [arg for arg in given if arg != "--debug"]
    return _told(lambda: _run(args), debug=len(args) < len(given))


def _quit(number: int, frame: FrameType | None) -> None:
    """Ends this process at a Ctrl-C, at once and without a word, wherever it is.

    Compiled libraries turn a KeyboardInterrupt into other errors, threads and finalizers print it.
    What a run has on disk is whole at any instant.
    """
    with contextlib.suppress(Exception):
        if text.draws():
            sys.stdout.write("\x1b[?25h\n")  # the cursor, which a progress bar hides
        sys.stdout.flush()
    os._exit(128 + number)


def guarded(command: Callable[[], int]) -> int:
    """Runs a program beside the commands, such as a benchmark, as the commands are run.

    Args:
        command: returns the exit code; its faults become a line and an exit code.
    """

    def prepared() -> int:
        environment.quiet()
        environment.check()
        return command()

    return _told(prepared)


def _told(command: Callable[[], int], debug: bool = False) -> int:
    """Runs a command, tells its fault in a line or, to debug, a traceback, and returns the code."""
    with text.shown():
        try:
            code = command()
            sys.stdout.flush()
        except BrokenPipeError:  # the reader, such as `head`, has seen enough
            return 0
        except KeyboardInterrupt:
            return 130
        except Stopped as stopped:
            with contextlib.suppress(OSError):
                print(stopped, flush=True)
            return 128 + stopped.signal
        except Exception as error:
            if debug or switched_on("JAXCNN_DEBUG"):
                import traceback

                traceback.print_exc()
            code, line = _verdict(error)
            text.complain(line)
    return code


def _verdict(error: Exception) -> tuple[int, str]:
    """Returns the exit code of an error, and the line that says what is wrong."""
    what = ": ".join(filter(None, [type(error).__name__, str(error).strip().partition("\n")[0]]))
    match error:
        case InputError():
            return 2, f"error: {error}"
        case OSError():
            where = f"{error.filename}: " if error.filename else ""
            ended = error.errno in FULL or error.errno == errno.EIO
            return 1 if ended else 2, f"error: {where}{error.strerror or error}"
        case NotWritten():
            return 1, f"error: {error}"
        case Diverged():
            return 1, str(error)
        case MemoryError():
            return 1, f"error: memory has run out ({what})"
        case RuntimeError() if "RESOURCE_EXHAUSTED" in what:
            return 1, f"error: memory of the device has run out; lower the batch size ({what})"
    if fault := environment.fault_of_devices(error):
        return 2, f"error: {fault}"
    import traceback

    frames = traceback.extract_tb(error.__traceback__)
    package = Path(__file__).parent
    ours = [f for f in frames if package in Path(f.filename).parents and f.filename != __file__]
    frame = (ours or frames)[-1]
    path = Path(frame.filename)
    if package in path.parents:
        path = path.relative_to(package.parent)
    return 70, f"internal error in {path}:{frame.lineno} ({what}); --debug shows where"


def _run(words: Sequence[str]) -> int:
    """Runs the command that the first word names, or shows its help."""
    if not words or words[0] in {"-h", "--help"}:
        print(USAGE, end="")
        return 0 if words else 2
    if words[0] == "--version":
        print(__version__)
        return 0
    name, args = words[0], words[1:]
    if name not in COMMANDS:
        raise InputError(f"command {name!r}: must be one of {', '.join(COMMANDS)}")
    from jaxcnn.commands import arguments

    environment.quiet()
    module = importlib.import_module(f"jaxcnn.commands.{COMMANDS[name]}")
    if {"-h", "--help"} & set(args):
        print(arguments.explain(module.Command, args, name), end="")
        return 0
    updated = _updated(name, args)
    command = arguments.parse(module.Command, updated, name)
    if updated != args:
        usage = f"jaxcnn {name} {RUN_BY_PLACE[name]}"
        text.complain(f"--workdir is now the first argument: {usage}")
    environment.check()
    return module.run(command)


RUN_BY_PLACE = {"eval": "RUN", "predict": "RUN IMAGE ..."}
"""Commands that took their run by --workdir in version 0.1, and what they take now."""


def _updated(name: str, args: Sequence[str]) -> Sequence[str]:
    """Returns arguments in today's spelling, also where they are in that of the last release.

    >>> _updated("eval", ["--tta", "flip", "--workdir", "runs/a"])
    ['runs/a', '--tta', 'flip']
    """
    flags = [arg.partition("=")[0] for arg in args]
    if name not in RUN_BY_PLACE or "--workdir" not in flags:
        return args
    at = flags.index("--workdir")
    _, equals, value = args[at].partition("=")
    words = [value, *args[at + 1 :]] if equals else args[at + 1 :]
    return [*words[:1], *args[:at], *words[1:]]


if __name__ == "__main__":
    sys.exit(main())
