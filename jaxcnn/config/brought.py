"""What users bring: objects that Python hands over, and that files know by name alone.

A config may hold an object, such as a class of a network, where it may hold a name. JSON records
it as ``module:attribute``. Such a name is data: it leads back to an object only in a process that
has been given the object, or has one in an installed package that offers it as an entry point of
the group ``jaxcnn.plugins``. No name imports anything by itself.
"""

import dataclasses
import enum
import functools
import hashlib
import importlib.metadata
import inspect
import site
import sys
import sysconfig
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxcnn.errors import InputError, NotAtHand

FILE_MODULE = "file "
"""With this and their path begin the names of modules that were run from a file."""
PLUGINS = "jaxcnn.plugins"
"""The group of entry points by which an installed package offers objects."""


class Brought:
    """An object and its name. Two are equal if they hold the same object under the same name.

    Attributes:
        name: ``module:attribute``, such as ``tiny:TinyNet``; a file's module is called as the file.
            What is bound to the object and no option stands behind it, as ``(act=gelu)``.
        target: the object.
        has_source: whether its source is part of what is brought; of arrays it is not.
    """

    def __init__(self, target: Any, name: str, has_source: bool = True) -> None:
        self.target, self.name, self.has_source = target, name, has_source

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
        """The last part of the name, for people; of arrays, all of it."""
        if not self.has_source:
            return self.name.replace(":", " ")
        base, bracket, bound = self.name.partition(":")[2].partition("(")
        return base.rpartition(".")[2] + bracket + bound


def titled(name: str | Brought) -> str:
    """Returns a name for people: of what was brought, the last part."""
    return name.title if isinstance(name, Brought) else name


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
    must be that of the data. Of an enumeration, the config holds the member's name.
    """
    if isinstance(value, functools.partial) and not value.args:
        make, given = value.func, dict(value.keywords)
    elif not isinstance(value, type) and _is_linen(type(value)):
        make, given = type(value), _fields(value)
    else:
        return bring(value), {}
    listed = enumerations(make)
    options = {k: v for k, v in given.items() if k in listed or _is_option(v)}
    options.pop("num_classes", None)
    fixed = {k: v for k, v in given.items() if k not in options}
    target = functools.partial(make, **fixed) if fixed else make
    return know(target, name_of(target)), options


def enumerations(make: Any) -> dict[str, type[enum.Enum]]:
    """Returns the fields of a class, or the arguments of a function, that are enumerations."""
    found: dict[str, type[enum.Enum]] = {}
    for name, hint in _annotated(make).items():
        for kind in (hint, *typing.get_args(hint)):  # such as Kind | None
            if isinstance(kind, type) and issubclass(kind, enum.Enum):
                found.setdefault(name, kind)
    return found


def plain_types(make: Any) -> dict[str, Any]:
    """Returns the fields or arguments annotated as text, numbers, truth values, or None."""
    found = {}
    for name, hint in _annotated(make).items():
        is_union = typing.get_origin(hint) in (typing.Union, types.UnionType)
        kinds = typing.get_args(hint) if is_union else (hint,)
        if all(kind in (bool, int, float, str, type(None)) for kind in kinds):
            found[name] = hint
    return found


def _annotated(make: Any) -> dict[str, Any]:
    try:
        return typing.get_type_hints(_definition(make))
    except Exception:  # whatever the user's annotations are
        return {}


def _fields(value: Any) -> dict[str, Any]:
    """Returns the fields of a Linen module that differ from their defaults."""
    known = (f for f in dataclasses.fields(value) if f.init and f.name not in ("parent", "name"))
    given = {field.name: (getattr(value, field.name), field.default) for field in known}
    return {name: held for name, (held, default) in given.items() if held is not default}


def _is_option(value: Any) -> bool:
    """Returns whether a config can hold a value as an option."""
    if isinstance(value, enum.Enum):  # also of numbers or text
        return False
    if isinstance(value, tuple):
        return all(_is_option(part) and not isinstance(part, tuple) for part in value)
    return isinstance(value, bool | int | float | str)


def _is_linen(kind: type) -> bool:
    """Returns whether a class is one of Linen modules, without importing Flax."""
    names = ((base.__module__, base.__name__) for base in kind.__mro__[1:])
    return ("flax.linen.module", "Module") in names


def know(target: Any, name: str, has_source: bool = True) -> Brought:
    """Makes an object known by a name, in place of another of this name, and returns both."""
    known = Brought(target, name, has_source)
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
    made_by, bound = _definition(target), _bound(target)
    module = str(made_by.__module__)
    if module.startswith(FILE_MODULE):
        module = Path(module).stem
    listed = ", ".join(f"{name}={_word(value)}" for name, value in bound.items())
    return f"{module}:{made_by.__qualname__}" + (f"({listed})" if listed else "")


def _bound(target: Any) -> dict[str, Any]:
    """Returns what an object holds beside its definition: arguments of a partial, or attributes."""
    if isinstance(target, functools.partial):
        places = {str(place): value for place, value in enumerate(target.args)}
        given = {**places, **_bound(target.func), **target.keywords}
        return {name: value for name, value in given.items() if name != "num_classes"}
    if hasattr(target, "__qualname__") or not hasattr(target, "__dict__"):
        return {}
    return {name: value for name, value in vars(target).items() if not name.startswith("_")}


def _word(value: Any) -> str:
    """Returns a value in a word that is the same in every process, and another for another value.

    Of what holds more than data, such as an array, it is the name of its type alone.
    """
    name = str(getattr(value, "__qualname__", type(value).__qualname__))
    text = name
    if _is_option(value):
        text = repr(value)
    elif isinstance(value, enum.Enum):
        text = f"{name}.{value.name}"
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        held = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        text = f"{name}({', '.join(f'{key}={_word(inner)}' for key, inner in held.items())})"
    elif isinstance(value, list | tuple):
        text = f"[{', '.join(map(_word, value))}]"
    elif isinstance(value, Mapping):
        text = f"{{{', '.join(f'{key}: {_word(inner)}' for key, inner in value.items())}}}"
    elif "<lambda>" in name:  # which has nothing but what it does to tell it by
        try:
            source = inspect.getsource(value)
        except OSError:
            code = value.__code__
            source = repr((code.co_code, code.co_consts, code.co_names))
        text = f"{name}-{hashlib.sha256(source.encode()).hexdigest()[:8]}"
    return text if len(text) <= 60 else hashlib.sha256(text.encode()).hexdigest()[:12]


def _definition(target: Any) -> Any:
    """Returns the class or function that an object is made by."""
    while isinstance(target, functools.partial):
        target = target.func
    target = inspect.unwrap(target)
    return target if hasattr(target, "__qualname__") else type(target)


def _find(name: str) -> Brought | None:
    """Finds the object of a name, if it is at hand; imports nothing but what is offered."""
    if name not in _known:
        for offer in _offers():
            if offer.value == name:
                try:
                    know(offer.load(), name)
                except Exception as error:
                    raise InputError(
                        f"{name}: the package {offer.dist and offer.dist.name} that offers it "
                        f"cannot be imported ({type(error).__name__}: {error})"
                    ) from error
    return _known.get(name)


def offered() -> list[str]:
    """Returns the names of what installed packages offer, none of which is imported for it."""
    return sorted({offer.value for offer in _offers()})


def _offers() -> list[importlib.metadata.EntryPoint]:
    found = importlib.metadata.entry_points(group=PLUGINS)
    return [offer for offer in found if _is_installed(offer.dist)]


def _is_installed(package: Any) -> bool:
    """Returns whether a package lies where packages are installed.

    Python finds others too, in the current folder or beside an experiment: those of a run folder
    that somebody else made must not be imported.
    """
    places = {*site.getsitepackages(), site.getusersitepackages()}
    places |= {sysconfig.get_path(kind) for kind in ("purelib", "platlib")}
    found = package is not None and Path(str(package.locate_file(""))).resolve()
    return found in {Path(place).resolve() for place in places}


def source_of(target: Any) -> tuple[str, str] | None:
    """Returns the file that defines an object, and its text; in a notebook, the object's own text.

    Returns:
        None where Python does not know it, as in an interactive session, or Flax made it.
    """
    target = _definition(target)
    module = sys.modules.get(target.__module__)
    if target.__module__.partition(".")[0] in ("flax", "jax", "optax"):
        return None
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
        NotAtHand: it is the name of an object that is not at hand.
    """
    if isinstance(name, str) and ":" in name:
        file = name.partition(":")[0].rpartition(".")[2]
        others = [known for known in _known if known.partition("(")[0] == name.partition("(")[0]]
        if others:
            raise NotAtHand(
                f"{field}={name!r}: what was given is {others[-1]!r}, which has other fields; give "
                "it with those that it was trained with"
            )
        handed = file in ("__main__", "arrays") or "<" in name
        how = "in Python, as to jaxcnn.open" if handed else f"--from {file}.py, or in Python"
        raise NotAtHand(
            f"{field}={name!r}: was brought by a user, and is known here by name alone; give it "
            f"again: {how}"
        )
