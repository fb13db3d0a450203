"""``jaxcnn new``: a commented experiment file to start from."""

from dataclasses import dataclass, field
from pathlib import Path

from jaxcnn.commands import arguments
from jaxcnn.errors import InputError
from jaxcnn.text import printable

TEMPLATE = Path(__file__).with_name("template.py.txt")


@dataclass(frozen=True)
class Command(arguments.Command):
    """Writes a commented experiment file with a network of its own, which runs as it is."""

    file: Path = field(metadata={"place": "FILE.py"})
    """The file to write, which must not be there yet."""


def run(command: Command) -> int:
    """Writes the file and returns the exit code."""
    file = command.file
    if file.suffix != ".py" or not file.stem.isidentifier():
        shown = printable(str(file), longest=100)
        raise InputError(f"{shown}: must be a name such as my_experiment.py")
    try:
        with file.open("x", encoding="utf-8") as new:
            new.write(TEMPLATE.read_text(encoding="utf-8").replace("NAME", file.stem))
    except FileExistsError as error:
        raise InputError(f"{file}: is there already; give the name of a new file") from error
    except FileNotFoundError as error:
        raise InputError(f"{file}: there is no folder {file.parent}") from error
    print(f"{file}: now `jaxcnn train {file}`, or `jaxcnn train {file} --help`")
    return 0
