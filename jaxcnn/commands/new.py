"""``jaxcnn new``: an experiment file to start from, of one's own or one of the project's."""

import ast
import difflib
import re
import shutil
import textwrap
from dataclasses import dataclass, field
from pathlib import Path

from jaxcnn.commands import arguments
from jaxcnn.config.checked import shown
from jaxcnn.errors import InputError
from jaxcnn.text import printable

TEMPLATE = Path(__file__).with_name("template.py.txt")
PACKAGE = Path(__file__).parents[1]
EXPERIMENTS = (PACKAGE / "experiments", PACKAGE.with_name("experiments"))
"""Where the project's experiments are: in the package once it is installed, else beside it."""


@dataclass(frozen=True)
class Command(arguments.Command):
    """Writes an experiment file that runs as it is: with a network to change, or one of ours."""

    file: Path | None = field(default=None, metadata={"place": "FILE.py"})
    """The file to write, which must not be there yet; with --from, by default NAME.py in the
    current folder."""
    source: str | None = field(default=None, metadata={"name": "from"})
    """The name of one of the project's experiments, or comparisons, of which the file is a copy; by
    default it is a commented one with a network of its own."""
    shows: bool = field(default=False, metadata={"name": "list"})
    """Shows the names that --from takes, and writes nothing."""


def run(command: Command) -> int:
    """Writes the file, or shows what it can be made of, and returns the exit code."""
    known = experiments()
    if command.shows:
        print("\n".join(_described(name, path) for name, path in known.items()))
        return 0
    file, name = command.file, command.source
    if file is None and name is None:
        raise InputError("new: give FILE.py, the file to write, or --from NAME; --list shows names")
    template = TEMPLATE if name is None else _found(name, known)
    file = file or Path(template.name)
    if file.suffix != ".py" or not file.stem.isidentifier():
        name = printable(str(file), longest=100)
        raise InputError(f"{name}: must be a name such as my_experiment.py")
    text = template.read_text(encoding="utf-8")
    action = "train" if name is None else _action(text)
    try:
        with file.open("x", encoding="utf-8") as new:
            new.write(_renamed(text, name or "NAME", file.stem))
    except FileExistsError as error:
        raise InputError(f"{file}: is there already; give the name of a new file") from error
    except FileNotFoundError as error:
        raise InputError(f"{file}: there is no folder {file.parent}") from error
    print(f"{file}: now `jaxcnn {action} {file}`, or `jaxcnn {action} {file} --help`")
    return 0


def experiments() -> dict[str, Path]:
    """Returns the files of the project's experiments and comparisons by their names."""
    folder = next((folder for folder in EXPERIMENTS if folder.is_dir()), EXPERIMENTS[0])
    return {path.stem: path for path in sorted(folder.glob("*.py"))}


def _found(name: str, known: dict[str, Path]) -> Path:
    """Returns the file of an experiment."""
    if name in known:
        return known[name]
    near = difflib.get_close_matches(Path(name).stem[:40].lower(), known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else "`jaxcnn new --list` shows all"
    raise InputError(f"--from: no experiment is called {shown(name)}; {hint}")


def _described(name: str, path: Path) -> str:
    """Returns an experiment's name and the first line of its header, as wide as the terminal."""
    header = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    width = max(shutil.get_terminal_size().columns, 40)
    text = f"{name:23}{header.partition(chr(10))[0]}"
    return textwrap.fill(text, width, subsequent_indent=" " * 23, break_on_hyphens=False)


def _action(text: str) -> str:
    """Returns the command that carries out an experiment or a comparison, as its header says."""
    found = re.search(r"jaxcnn (\w+) experiments/", text)
    return found[1] if found else "train"


def _renamed(text: str, name: str, new: str) -> str:
    """Returns an experiment under another name, and in the current folder.

    >>> _renamed("jaxcnn train experiments/a.py, of which runs/a-seed0 and a_b come", "a", "mine")
    'jaxcnn train mine.py, of which runs/mine-seed0 and a_b come'
    """
    return re.sub(rf"(\bexperiments/)?\b{name}\b", new, text)
