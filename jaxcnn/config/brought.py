"""What users bring: objects that Python hands over, and that files know by name alone.

A config may hold an object, such as a class of a network, where it may hold a name. JSON records
it as ``module:attribute``. Such a name is data: it leads back to an object only in a process that
has been given the object, or has one in an installed package that offers it as an entry point of
the group ``jaxcnn.plugins``. No name imports anything by itself.
"""

import dataclasses
import functools
import importlib.metadata
import inspect
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxcnn.errors import InputError

FILE_MODULE = "file "
"""With this and their path begin the names of modules that were run from a file."""
PLUGINS = "jaxcnn.plugins"
"""The group of entry points by which an installed package offers objects."""


class Brought:
    """An object and its name. Two are equal if they hold the same object under the same name.

    Attributes:
        name: ``module:attribute``, such as ``tiny:TinyNet``; a file's module is called as the file.
        target: the object.
    """

    def __init__(self, target: Any, name: str) -> None:
        self.target, self.name = target, name

    def __repr__(self) -> str:
        return repr(self.name)

    def __str__(self) -> str:
        return self.name

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Brought):
            return False
        return self.name == other.name and self.target is other.target

    def __hash__(self) -> int:
        return hash((self.name, id(self.target)))

    def __deepcopy__(self, memo: Any) -> "Brought":
        return self

    @property
    def title(self) -> str:
        """The last part of the name, for people."""
        return self.name.rpartition(":")[2].rpartition(".")[2]


if TYPE_CHECKING:
    Handed = Any
else:
    Handed = Brought
"""An object in a config: any may be handed over, which :func:`bring` makes a :class:`Brought`."""

_known: dict[str, Brought] = {}


def bring(value: Any) -> Any:
    """Returns what a config holds for a value that may be a name or an object.

    An object is known in this process from then on by its name; a name of an object that is known,
    or that an installed package offers, becomes that object. Whatever else it is, it is returned.

    >>> bring("lenet5")
    'lenet5'
    >>> bring("nowhere:Net")
    'nowhere:Net'
    """
    if isinstance(value, str):
        return found if ":" in value and (found := _find(value)) is not None else value
    if isinstance(value, Brought) or not callable(value):
        return value
    return know(value, name_of(value))


def bring_network(value: Any) -> tuple[Any, dict[str, Any]]:
    """Returns the same for a network; of a Linen module its class, and its fields as options.

    Fields that no config could hold stay with the class, and so does the number of classes, which
    must be that of the data.
    """
    if isinstance(value, type) or not _is_linen(type(value)):
        return bring(value), {}
    options: dict[str, Any] = {}
    fixed: dict[str, Any] = {}
    for field in dataclasses.fields(value):
        given = getattr(value, field.name)
        if field.init and field.name not in ("parent", "name") and given is not field.default:
            plain = field.name != "num_classes" and _is_option(given)
            (options if plain else fixed)[field.name] = given
    make: Any = type(value)
    make = functools.partial(make, **fixed) if fixed else make
    return know(make, name_of(value)), options


def _is_option(value: Any) -> bool:
    """Returns whether a config can hold a value as an option."""
    if isinstance(value, tuple):
        return all(_is_option(part) and not isinstance(part, tuple) for part in value)
    return isinstance(value, bool | int | float | str)


def _is_linen(kind: type) -> bool:
    """Returns whether a class is one of Linen modules, without importing Flax."""
    names = ((base.__module__, base.__name__) for base in kind.__mro__[1:])
    return ("flax.linen.module", "Module") in names


def know(target: Any, name: str) -> Brought:
    """Makes an object known by a name, in place of another of this name, and returns both."""
    known = Brought(target, name)
    if _known.get(name) != known:
        _known[name] = known
    return _known[name]


def know_networks(module: Mapping[str, Any]) -> None:
    """Makes the networks known that a module holds, which was given to be run.

    Only classes of Linen modules are: whatever else a file imports, a name in a config.json from
    somebody else must not call.

    Args:
        module: its names and values.
    """
    for value in list(module.values()):
        if isinstance(value, type) and _is_linen(value):
            know(value, name_of(value))


def name_of(target: Any) -> str:
    """Returns the name of an object as ``module:attribute``; of an instance, that of its class.

    >>> name_of(Brought)
    'jaxcnn.config.brought:Brought'
    """
    target = _definition(target)
    module = str(target.__module__)
    if module.startswith(FILE_MODULE):
        module = Path(module).stem
    return f"{module}:{target.__qualname__}"


def _definition(target: Any) -> Any:
    """Returns the class or function that an object is made by."""
    while isinstance(target, functools.partial):
        target = target.func
    target = inspect.unwrap(target)
    return target if hasattr(target, "__qualname__") else type(target)


def _find(name: str) -> Brought | None:
    """Finds the object of a name, if it is at hand; imports nothing but what is offered."""
    if name not in _known:
        for offer in importlib.metadata.entry_points(group=PLUGINS):
            if offer.value == name:
                try:
                    know(offer.load(), name)
                except Exception as error:
                    raise InputError(
                        f"{name}: the package {offer.dist and offer.dist.name} that offers it "
                        f"cannot be imported ({type(error).__name__}: {error})"
                    ) from error
    return _known.get(name)


def source_of(target: Any) -> tuple[str, str] | None:
    """Returns the file that defines an object, and its text; in a notebook, the object's own text.

    Returns:
        None where Python does not know it, as in an interactive session.
    """
    target = _definition(target)
    module = sys.modules.get(target.__module__)
    file = getattr(module, "__file__", None)
    try:
        if file is not None and Path(file).suffix == ".py":
            return Path(file).name, Path(file).read_text(encoding="utf-8")
        return f"{target.__qualname__}.py", inspect.getsource(target)
    except (OSError, TypeError, UnicodeDecodeError):
        return None


def require_given(name: object, field: str) -> None:
    """Refuses a name that did not become an object, and says how the object can be given.

    Args:
        name: what a config holds.
        field: the config's field.

    Raises:
        InputError: it is the name of an object that is not at hand.
    """
    if isinstance(name, str) and ":" in name:
        file = name.partition(":")[0].rpartition(".")[2]
        raise InputError(
            f"{field}={name!r}: was brought by a user, and is known here by name alone; give it "
            f"again: --from {file}.py, or in Python as an argument"
        )
