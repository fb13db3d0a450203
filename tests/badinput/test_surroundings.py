"""What surrounds a command: experiment files, places to write to, the environment, signals."""

import os
import random
import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.badinput import world
from tests.badinput.conftest import table
from tests.badinput.harness import Case
from tests.badinput.values import RUIN

TINY = world.EXPERIMENT.format(data=world.DIGITS, epochs=1)
CONFIG = "def config():\n    "
SOURCES: dict[str, str] = {
    "exits": "import sys\nsys.exit()",
    "exits with 3": "import sys\nsys.exit(3)",
    "exits with words": "import sys\nsys.exit('bye')",
    "exits in config": f"import sys\n{CONFIG}sys.exit(0)",
    "quits": "quit()",
    "is interrupted": "raise KeyboardInterrupt",
    "is interrupted in config": f"{CONFIG}raise KeyboardInterrupt",
    "closes itself": f"{CONFIG}raise GeneratorExit",
    "raises": f"{CONFIG}raise ValueError('wrong')",
    "raises without words": f"{CONFIG}raise ValueError",
    "raises many lines": f"{CONFIG}raise ValueError('a\\nb\\r\\nc')",
    "raises a surrogate": f"{CONFIG}raise ValueError('\\ud800 \\udcff')",
    "raises an escape": f"{CONFIG}raise ValueError('\\x1b[31m')",
    "raises a megabyte": f"{CONFIG}raise ValueError('x' * 10**6)",
    "raises a group": f"{CONFIG}raise ExceptionGroup('g', [ValueError('a\\nb'), TypeError()])",
    "raises what no text shows": (
        f"class E(Exception):\n    def __str__(self): raise ValueError('a')\n{CONFIG}raise E"
    ),
    "raises what shows no text": (
        f"class E(Exception):\n    def __str__(self): return 3\n{CONFIG}raise E"
    ),
    "raises what exits when shown": (
        f"import sys\nclass E(Exception):\n    def __str__(self): sys.exit(0)\n{CONFIG}raise E"
    ),
    "raises a base": f"class E(BaseException): pass\n{CONFIG}raise E",
    "raises for want of memory": f"{CONFIG}raise MemoryError",
    "raises for want of a file": f"{CONFIG}open('nothing\\nhere')",
    "raises an input error": (
        f"from jaxcnn.errors import InputError\n{CONFIG}raise InputError('a\\nb')"
    ),
    "raises divergence": f"from jaxcnn.errors import Diverged\n{CONFIG}raise Diverged('a\\nb')",
    "raises a stop": f"from jaxcnn.errors import Stopped\n{CONFIG}raise Stopped(15)",
    "raises a broken pipe": f"{CONFIG}raise BrokenPipeError",
    "recurses": f"{CONFIG}return config()",
    "takes an argument": "def config(x):\n    return x",
    "yields": f"{CONFIG}yield 1",
    "is asynchronous": "async def config():\n    return 1",
    "has a number for config": "config = 3",
    "has no config": "x = 1",
    "is empty": "",
    "returns nothing": f"{CONFIG}return None",
    "returns a type": f"from jaxcnn.config import Experiment\n{CONFIG}return Experiment",
    "returns a dictionary": f"{CONFIG}return {{'name': 'a'}}",
    "imports nothing": "import nothing_of_this_name",
    "has a wrong indent": "def config():\nreturn 1",
    "has a wrong syntax": "def config(:",
    "has a NUL": "x = '\0'",
    "nests deeply": "x = " + "(" * 500 + ")" * 500,
    "is long": "x = " + "1 + " * 100_000 + "1",
    "declares another coding": "# coding: nothing\n",
    "asks": f"{CONFIG}return input('Name? ')",
    "breaks the experiment": TINY.replace("return Experiment(", "found = Experiment(")
    + "    object.__setattr__(found, 'train', 5)\n    return found\n",
    "breaks a field": TINY.replace("return Experiment(", "found = Experiment(")
    + "    object.__setattr__(found.train, 'epochs', 'x')\n    return found\n",
    "gives options of any type": TINY.replace('{"hidden": (4,)}', '{"hidden": object()}'),
    "gives an option that is not text": TINY.replace('{"hidden": (4,)}', "{1: 2}"),
    "gives nested options": TINY.replace("(4,)", "((4, (5,)),)"),
    "gives a NumPy number": TINY.replace("peak_lr=0.05", "peak_lr=__import__('numpy').float32(1)"),
    "gives a list": TINY.replace("(4,)", "[4]"),
    "has a name of surrogates": TINY.replace('"tiny"', '"a\\ud800"'),
    "has a long name": TINY.replace('"tiny"', '"a" * 300'),
    "has a name upward": TINY.replace('"tiny"', '".."'),
    "has accents in its name": TINY.replace('"tiny"', '"é²"'),
    "closes stdout": f"import sys\nsys.stdout.close()\n{TINY}",
    "closes stderr": f"import sys\nsys.stderr.close()\n{CONFIG}raise ValueError('a')",
    "changes the folder": f"import os\nos.chdir('/')\n{CONFIG}return None",
}
ON_A_FILE = {
    "train": ("train", "spoilt.py", "--workdir", "new"),
    "train help": ("train", "spoilt.py", "--help"),
    "sweep": ("sweep", "spoilt.py", "--workdir", "new", "optim.peak_lr=0.1"),
    "compare": ("compare", "spoilt.py", "--workdir", "new"),
}


def experiment_cases() -> Iterator[Case]:
    for command, argv in ON_A_FILE.items():
        for what, source in SOURCES.items():

            def write(folder: Path, source: str = source) -> None:
                (folder / "spoilt.py").write_text(source)

            yield Case(f"{command} a file that {what}", argv, write)
        for way, ruin in RUIN.items():

            def spoil(folder: Path, ruin: Any = ruin) -> None:
                (folder / "spoilt.py").write_text(TINY)
                ruin(folder / "spoilt.py")

            yield Case(f"{command} a file {way}", argv, spoil)
    for name in ("x.txt", "x", "a b.py", "-x.py", "x.py.py", "jax.py", "é.py", "\udcff.py", ".py"):

        def named(folder: Path, name: str = name) -> None:
            (folder / name).write_text("def config():\n    return 3\n")

        yield Case(f"train a file named {name}", ("train", name), named)


TARGETS: dict[str, Callable[[Path], object]] = {
    "a folder": Path.mkdir,
    "a full folder": lambda path: (path.mkdir(), (path / "x").touch()),
    "a file": lambda path: path.write_text("mine"),
    "a FIFO": os.mkfifo,
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a link to nothing": lambda path: path.symlink_to("nothing"),
    "a link to a file": lambda path: (
        (path.parent / "mine").write_text("mine"),
        path.symlink_to("mine"),
    ),
    "a link to a folder": lambda path: ((path.parent / "f").mkdir(), path.symlink_to("f")),
    "a device": lambda path: os.mknod(path, 0o20666, os.makedev(1, 7)),  # /dev/full
    "below a file": lambda path: None,
    "a file that may not be written": lambda path: (path.write_text("mine"), path.chmod(0o444)),
}
if os.getuid():
    del TARGETS["a device"]
WRITING: dict[str, tuple[str, ...]] = {
    "report": ("report", "run", "--out", "{}"),
    "bench": ("bench", "mlp", "--batch-size", "1", "--infer", "--out", "{}"),
    "import": (*world.IMPORT, "--out", "{}"),
    "train": ("train", "experiment.py", "--workdir", "{}"),
    "seeds": ("train", "experiment.py", "--seeds", "1", "--workdir", "{}"),
    "compare": ("compare", "comparison.py", "--seeds", "1", "--workdir", "{}"),
    "sweep": ("sweep", "experiment.py", "optim.peak_lr=0.1", "--workdir", "{}"),
}
NAMES = {
    "a long name": "x" * 300,
    "a long path": "/".join("x" * 5000),
    "a missing folder": "a/b/c.html",
    "a line break": "a\nb",
    "not UTF-8": "a\udcff",
    "markup": "[/a]$x",
    "a trailing slash": "new/",
}
INNER = ("config.json", "checkpoints", "metrics.jsonl", "summary.json", "tb", ".lock", "curves.png")
"""What a training writes into its folder."""


def output_cases() -> Iterator[Case]:
    for command, argv in WRITING.items():
        for what, make in TARGETS.items():

            def spoil(folder: Path, make: Any = make) -> None:
                (folder / "file").touch()
                make(folder / "out")

            place = "file/out" if what == "below a file" else "out"
            call = tuple(word.format(place) for word in argv)
            yield Case(f"{command} into {what}", call, spoil)
            for name in (f"{n}.partial" for n in ("out", "out/config.json")):

                def beside(folder: Path, make: Any = make, name: str = name) -> None:
                    (folder / "file").touch()
                    (folder / name).parent.mkdir(exist_ok=True)
                    make(folder / name)

                call = tuple(word.format("out") for word in argv)
                yield Case(f"{command} with {what} for {name}", call, beside)
        for what, word in NAMES.items():
            yield Case(f"{command} into {what}", tuple(w.format(word) for w in argv))
        for limit in (2_000, 10_000, 30_000, 100_000, 300_000):
            call = tuple(word.format("new") for word in argv)
            limits = {"RLIMIT_FSIZE": limit}
            yield Case(f"{command} files of {limit} bytes", call, limits=limits)
    for inner in INNER:
        for what, make in TARGETS.items():

            def inside(folder: Path, make: Any = make, inner: str = inner) -> None:
                (folder / "new").mkdir()
                make(folder / "new" / inner)

            call = ("train", "experiment.py", "--workdir", "new")
            yield Case(f"train where {inner} is {what}", call, inside)
    for what, make in TARGETS.items():

        def picture(folder: Path, make: Any = make) -> None:
            make(folder / "run" / "viz")

        yield Case(f"viz where viz is {what}", ("viz", "run"), picture)

        def answers(folder: Path, make: Any = make) -> None:
            make(folder / "run" / "predictions.npz")

        for name in ("calibration.png", "temperature.json"):

            def honest(folder: Path, make: Any = make, name: str = name) -> None:
                make(folder / "run" / name)

            call = ("eval", "run", "--calibration")
            yield Case(f"eval where {name} is {what}", call, honest)

        yield Case(f"report where predictions.npz is {what}", WRITING["report"], answers)


WRONG = ("", "x", "-1", "0", "1e9", "/dev/null/x", "\udcff", "9" * 100)
NUMBERS = ("COLUMNS", "LINES", "NPROC", "OMP_NUM_THREADS", "JAX_NUM_CPU_DEVICES", "SLURM_PROCID")
FOLDERS = ("HOME", "TMPDIR", "XDG_CACHE_HOME", "JAX_COMPILATION_CACHE_DIR", "MPLCONFIGDIR")
OTHERS: tuple[Mapping[str, str | None], ...] = (
    *({"JAX_PLATFORMS": v} for v in ("", "tpu", "cuda", "nothing", "cpu,tpu", "CPU")),
    *(
        {"XLA_FLAGS": v}
        for v in ("--nothing", "nothing", "--xla_force_host_platform_device_count=0")
    ),
    *({"XLA_FLAGS": f"--xla_force_host_platform_device_count={n}"} for n in ("x", "3", "-1")),
    *({"JAX_ENABLE_X64": v} for v in ("1", "maybe")),
    *({"JAX_DISABLE_JIT": v} for v in ("1", "x")),
    *({"JAX_DEBUG_NANS": v} for v in ("1", "x")),
    *({"JAX_DEFAULT_MATMUL_PRECISION": v} for v in ("float32", "x")),
    *({"LC_ALL": v} for v in ("C", "POSIX", "nothing", "de_DE.UTF-8")),
    *({"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"} for _ in "1"),
    *({"PYTHONIOENCODING": v} for v in ("ascii", "latin-1", "utf-16", "ascii:strict")),
    *({"MPLBACKEND": v} for v in ("", "nothing", "TkAgg", "module://canary")),
    *({"TERM": v} for v in ("", "dumb", "nothing")),
    *({"TZ": v} for v in ("nothing", "")),
    *({"JAXCNN_DEBUG": v} for v in ("", "0")),
    *({"TFDS_DATA_DIR": v} for v in WRONG),
    {"HOME": None, "XDG_CACHE_HOME": None},
    {"PATH": None},
    {"FORCE_COLOR": "1"},
    {"PYTHONOPTIMIZE": "2"},
    {"SLURM_JOB_ID": "1", "SLURM_NTASKS": "2", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"},
    {"SLURM_JOB_ID": "x", "SLURM_STEP_NODELIST": "[", "SLURM_NTASKS": "2", "SLURM_PROCID": "9"},
    {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "0", "OMPI_MCA_orte_hnp_uri": "x"},
    {"JOB_COMPLETION_INDEX": "0", "JOBSET_NAME": "x", "KUBERNETES_SERVICE_HOST": "x"},
    {"CUDA_VISIBLE_DEVICES": "x"},
)
IN_AN_ENVIRONMENT = {
    "help": ("--help",),
    "train help": ("train", "experiment.py", "--help"),
    "summary": ("summary", "mlp"),
    "eval": ("eval", "run"),
    "report": ("report", "run", "--out", "page.html"),
    "train": ("train", "experiment.py", "--workdir", "new"),
    "wrong": ("eval", "not there: é"),
}


def environment_cases() -> Iterator[Case]:
    settings = [*OTHERS, *({name: word} for name in (*NUMBERS, *FOLDERS) for word in WRONG)]
    for command, argv in IN_AN_ENVIRONMENT.items():
        for env in settings:
            said = " ".join(f"{name}={value}"[:60] for name, value in env.items())
            yield Case(f"{command} with {said}", argv, env=env, plain=True)
        for fd in (1, 2):
            for target in (None, "/dev/full"):
                name = f"{command} with {'stdout' if fd == 1 else 'stderr'} {target or 'closed'}"
                streams = {fd: target}
                yield Case(name, argv, streams=streams, plain=True)
        yield Case(f"{command} with all closed", argv, streams={1: None, 2: None}, plain=True)
        for name, limit in (
            ("RLIMIT_NOFILE", 40),
            ("RLIMIT_AS", 1 << 30),
            ("RLIMIT_STACK", 1 << 18),
        ):
            yield Case(f"{command} with {name} {limit}", argv, limits={name: limit}, plain=True)


LONG = ("--train.epochs", "100000", "--train.checkpoint-every", "50")
INTERRUPTED = {
    "train": ("train", "experiment.py", "--workdir", "new", *LONG),
    "seeds": ("train", "experiment.py", "--workdir", "new", "--seeds", "2", *LONG),
    "eval": ("eval", "run", "--tta", "ten_crop"),
    "report": ("report", "run", "--out", "page.html"),
    "compare": ("compare", "comparison.py", "--workdir", "new"),
    "sweep": ("sweep", "two.py", "--workdir", "new", "optim.peak_lr=0.1,0.2,0.3"),
    "import": (*world.IMPORT, "--out", "new"),
    "viz": ("viz", "run"),
    "stream": (
        *("train", "photos.py", "--workdir", "new", "--data.streaming", "True", *LONG),
        *("--data.workers", "2"),
    ),
}
SIGNALS = {
    "SIGHUP": (signal.SIGHUP,),
    "SIGTERM": (signal.SIGTERM,),
    "SIGINT": (signal.SIGINT,),
    "SIGINT twice": (signal.SIGINT, signal.SIGINT),
    "SIGTERM twice": (signal.SIGTERM, signal.SIGTERM),
    "SIGTERM and SIGINT": (signal.SIGTERM, signal.SIGINT),
    "SIGINT thrice": (signal.SIGINT,) * 3,
}


def signal_cases() -> Iterator[Case]:
    for command, argv in INTERRUPTED.items():
        for name, numbers in SIGNALS.items():
            for plain in (False, True):
                for trial in range(8):
                    rng = random.Random(f"{command} {name} {trial} {plain}")
                    delays = [
                        rng.uniform(plain, 3 + 2 * plain),
                        *(rng.uniform(0.01, 0.2) for _ in "12"),
                    ]
                    yield Case(
                        f"{command} with {name} {trial}{' from the start' * plain}",
                        argv,
                        writes=("new*", "new/**", "page.html", "run/viz*", "run/viz/*"),
                        signals=tuple(zip(delays, numbers, strict=False)),
                        plain=plain,
                        needs=("photos",),
                    )


@table(experiment_cases(), fast=12)
def test_experiments(clean, case):
    clean("experiments", case)


@table(output_cases(), fast=3)
def test_outputs(clean, case):
    clean("outputs", case)


@table(environment_cases(), fast=3)
def test_environments(clean, case):
    clean("environments", case)


@table(signal_cases(), fast=2)
def test_signals(clean, case):
    clean("signals", case)
