"""Command lines from dataclasses: what every field takes, its help, and errors in one line.

A command is a frozen dataclass. Each of its fields is an option of the same name, with the
docstring below the field as its help, unless it is marked with :class:`Positional`. A field that
is itself a dataclass is a section, whose fields are options with a prefix, as ``--optim.peak-lr``.
The standard library's argparse splits the command line; help and errors are made here.
"""

import argparse
import ast
import dataclasses
import difflib
import functools
import inspect
import re
import shutil
import sys
import textwrap
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, TypeVar

from jaxcnn.errors import InputError

INDENT = "      "
FIXED_SPACE = "\xa0"
"""A space at which no line is broken."""
EVERYWHERE = (
    ("--debug", "Shows the traceback of an error."),
    ("-h, --help", "Shows this help."),
)
"""What every command takes; the dispatcher in cli.py reads it."""
ACCEPTED = {int: "a whole number", float: "a number"}
METAVARS = {int: "INT", float: "NUMBER", str: "TEXT", Path: "PATH"}


@dataclass(frozen=True)
class Positional:
    """Marks a field as told by its place on the command line, where the help names it so."""

    metavar: str


class Spread:
    """Marks a section whose fields are options without a prefix."""


class Command:
    """The base of every command's dataclass, which may say more about defaults and help."""

    most_used: ClassVar[Sequence[str]] = ()
    """Names of the fields that the help shows first."""

    @classmethod
    def defaults(cls, given: Mapping[str, Any]) -> Self | None:
        """Returns what holds where the command line says nothing; None takes the fields' defaults.

        Args:
            given: what the command line says, by the names of the fields.
        """
        return None

    def more_help(self, given: Mapping[str, Any]) -> Mapping[str, Sequence[tuple[str, str]]]:
        """Returns further groups of the help: by title, what to type and what it does."""
        return {}


C = TypeVar("C", bound=Command)


@dataclass(frozen=True)
class _Argument:
    """One field as the command line sees it."""

    name: str
    kind: Any
    """The type; None beside it is told by `none`."""
    none: bool
    default: Any
    help: str
    section: str
    about: str
    """What the section is for."""
    metavar: str | None
    """Of an argument that its place tells; options have none."""

    @property
    def label(self) -> str:
        """What errors call it."""
        return self.metavar or self.flags[0]

    @property
    def flags(self) -> list[str]:
        """The spellings of an option; a switch of a section has an opposite."""
        flags = [f"--{self.name}"]
        if self.is_switch and self.section:
            flags.append(f"--{self.section}.no-{self.name.removeprefix(self.section + '.')}")
        return [flag.replace("_", "-") for flag in flags]

    @property
    def count(self) -> int | str | None:
        """How many words it takes, as argparse counts them."""
        if typing.get_origin(self.kind) is tuple:
            parts = typing.get_args(self.kind)
            return "*" if parts[-1] is ... else len(parts)
        return None

    @property
    def is_switch(self) -> bool:
        """Whether it is on or off by itself, without a value."""
        return self.kind is bool and not self.none

    def read(self, text: str) -> Any:
        """Returns the value of one word."""
        if self.none and text == "None":
            return None
        kind = _part(self.kind)
        choices = {str(choice): choice for choice in _choices(kind)}
        try:
            return choices[text] if choices else kind(text)
        except (KeyError, ValueError):
            said = f"one of {', '.join(map(repr, choices))}" if choices else ACCEPTED[kind]
            said += " or None" if self.none else ""
            raise InputError(f"{self.label}: must be {said}, got {text!r}") from None

    @property
    def usage(self) -> str:
        """What to type, as ``--data.image-size INT|None``."""
        if self.metavar:
            return self.metavar + (" ..." if self.count == "*" else "")
        if self.is_switch:
            return ", ".join(self.flags)
        (flag,) = self.flags
        if _is_mapping(self.kind):
            return f"{flag}.NAME VALUE"
        word = _word(_part(self.kind), self.none and bool(self.section))
        if self.count == "*":
            return f"{flag} [{word} ...]"
        return " ".join([flag, *[word] * (self.count if isinstance(self.count, int) else 1)])

    @property
    def explained(self) -> str:
        """The help with the default, unless the help itself says what holds by default."""
        if self.default is MISSING or "by default" in self.help.lower():
            return self.help
        return with_default(self.help, self.default)


def parse(kind: type[C], args: Sequence[str], prog: str) -> C:
    """Returns the command that a command line describes.

    Args:
        kind: the dataclass of the command.
        args: what follows the command's name.
        prog: the command's name, for errors.

    Raises:
        InputError: an unknown option, a missing argument, or a value that a field does not take.
    """
    given, left = _given(kind, args)
    if left:
        raise InputError(f"{prog}: {_hinted(left[0], kind)}")
    default = kind.defaults(given)
    for argument in _arguments(kind, default):
        if argument.default is MISSING and argument.name not in given:
            text = argument.help.rstrip(".")
            raise InputError(f"{prog}: give {argument.label}, {text[:1].lower()}{text[1:]}")
    return _built(kind, default, given)


def explain(kind: type[C], args: Sequence[str], prog: str) -> str:
    """Returns the help, as wide as the terminal, with the defaults that the command line makes."""
    given, _ = _given(kind, [arg for arg in args if arg not in ("-h", "--help")])
    default = kind.defaults(given)
    arguments = {argument.name: argument for argument in _arguments(kind, default)}
    usage = ["usage: jaxcnn", prog]
    for argument in _arguments(kind, None):
        if argument.metavar:
            arguments[argument.name] = argument
        if argument.default is MISSING:
            usage.append(argument.usage)
        elif argument.metavar:
            usage.append(f"[{argument.usage}]")
    first = [arguments.pop(name) for name in kind.most_used]
    rest = list(arguments.values())

    def rows(those: Sequence[_Argument]) -> list[tuple[str, str]]:
        return [(argument.usage, argument.explained) for argument in those]

    groups = {
        "": rows([a for a in rest if a.metavar]),
        "The options that are changed most often": rows(first),
        "Options": [*rows([a for a in rest if not (a.metavar or a.section)]), *EVERYWHERE],
        **(default.more_help(given) if default else {}),
    }
    for section, about in dict.fromkeys((a.section, a.about) for a in rest if a.section):
        groups[f"{section}: {about}"] = rows([a for a in rest if a.section == section])

    fill = functools.partial(
        textwrap.fill,
        width=shutil.get_terminal_size().columns,
        break_on_hyphens=False,
        break_long_words=False,
    )
    blocks = [fill(" ".join([*usage, "[options]"]))]
    blocks += [fill(_one_line(part)) for part in (kind.__doc__ or "").split("\n\n")]
    for title, group in groups.items():
        lines = [fill(title)] if group else []
        for what, text in group:
            lines.append(fill(what, initial_indent="  ", subsequent_indent=INDENT))
            lines.append(fill(text, initial_indent=INDENT, subsequent_indent=INDENT))
        blocks.append("\n".join(filter(None, lines)))
    return "\n\n".join(filter(None, blocks)).replace(FIXED_SPACE, " ")


def with_default(text: str, default: Any) -> str:
    """Returns a help text that ends with the default, as one would type it."""
    if isinstance(default, Mapping):
        default = [word for pair in default.items() for word in pair]
    if isinstance(default, tuple | list):
        default = " ".join(map(str, default)) or "nothing"
    return f"{text} (default:{FIXED_SPACE}{default})".strip()


def _arguments(kind: Any, default: Any, prefix: str = "") -> Iterator[_Argument]:
    """Yields the fields of a dataclass and of its sections, with their defaults."""
    docs = _field_docs(kind.__module__).get(kind.__name__, {})
    about = _one_line((kind.__doc__ or "").split("\n\n")[0])
    for name, inner, marks, value in _fields(kind, default):
        if dataclasses.is_dataclass(inner):
            below = prefix if Spread in marks else f"{prefix}{name}."
            yield from _arguments(inner, value, below)
            continue
        bare, none = _without_none(inner)
        metavar = next((mark.metavar for mark in marks if isinstance(mark, Positional)), None)
        text, section = docs.get(name, ""), prefix.rstrip(".")
        yield _Argument(prefix + name, bare, none, value, text, section, about, metavar)


def _fields(kind: Any, default: Any) -> Iterator[tuple[str, Any, tuple[Any, ...], Any]]:
    """Yields name, type, marks and default of each field; those of `default`, where it is given."""
    bare, marked = typing.get_type_hints(kind), typing.get_type_hints(kind, include_extras=True)
    for field in dataclasses.fields(kind):
        value = field.default
        if default is not None:
            value = getattr(default, field.name)
        elif field.default_factory is not MISSING:
            value = field.default_factory()
        marks = getattr(marked[field.name], "__metadata__", ())
        yield field.name, bare[field.name], marks, value


def _built(kind: Any, default: Any, given: Mapping[str, Any], prefix: str = "") -> Any:
    """Lays what was given over the defaults."""
    values: dict[str, Any] = {}
    for name, inner, marks, value in _fields(kind, default):
        full = prefix + name
        if dataclasses.is_dataclass(inner):
            values[name] = _built(inner, value, given, prefix if Spread in marks else f"{full}.")
        elif isinstance(value, Mapping):
            values[name] = {**value, **given.get(full, {})}
        else:
            values[name] = given.get(full, value)
    return kind(**values)


def _given(kind: type, args: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """What the command line says, by name, and the words that have no place."""
    parser = argparse.ArgumentParser(
        add_help=False,
        allow_abbrev=False,
        exit_on_error=False,
        argument_default=argparse.SUPPRESS,
    )
    # Numbers such as -1e-3 are values, not options.
    parser._negative_number_matcher = re.compile(r"-\.?\d")
    arguments = list(_arguments(kind, None))
    for argument in arguments:
        name = argument.name
        if argument.is_switch:
            for flag, value in zip(argument.flags, (True, False), strict=False):
                parser.add_argument(flag, dest=name, action="store_const", const=value)
        elif _is_mapping(argument.kind):
            parser.add_argument(*argument.flags, dest=name, action="append", nargs="*")
        elif not argument.metavar:
            parser.add_argument(*argument.flags, dest=name, nargs=argument.count)
    mappings = [argument.flags[0] for argument in arguments if _is_mapping(argument.kind)]
    end = args.index("--") if "--" in args else len(args)
    try:
        found, words = parser.parse_known_args(_spelled(args[:end], mappings))
    except argparse.ArgumentError as error:
        raise InputError(f"{error.argument_name}: {error.message}") from None
    unknown = [word for word in words if re.match("-.", word)]
    words = [word for word in words if word not in unknown] + list(args[end + 1 :])
    given = vars(found)
    for argument in arguments:
        if argument.metavar and words:
            taken = len(words) if argument.count else 1
            given[argument.name] = words[:taken] if argument.count else words[0]
            words = words[taken:]
        if argument.name in given:
            given[argument.name] = _value(argument, given[argument.name])
    return given, [*unknown, *words]


def _value(argument: _Argument, given: Any) -> Any:
    """The value of an argument from the words that argparse found."""
    if isinstance(given, bool):
        return given
    if isinstance(given, str):
        return argument.read(given)
    if not _is_mapping(argument.kind):
        return tuple(map(argument.read, given))

    from jaxcnn.runs import search

    pairs = {}
    for words in given:
        if len(words) % 2:
            raise InputError(f"{argument.label}: must be pairs of NAME VALUE, got {words[-1]!r}")
        for name, text in zip(words[::2], words[1::2], strict=True):
            value = search.value(text)
            pairs[name] = tuple(value) if isinstance(value, list) else value
    return pairs


def _spelled(args: Sequence[str], mappings: Sequence[str]) -> list[str]:
    """The words with ``-`` for ``_`` in options, and the entries of mappings as pairs.

    >>> _spelled(["--optim.peak_lr=1", "--model.options.a_b=2", "x_y"], ["--model.options"])
    ['--optim.peak-lr=1', '--model.options', 'a_b', '2', 'x_y']
    """
    words: list[str] = []
    for arg in args:
        flag, equals, value = arg.partition("=")
        mapping = next((m for m in mappings if flag.startswith(f"{m}.")), None)
        if mapping:
            words += [mapping, flag.removeprefix(f"{mapping}.").replace("-", "_")]
            words += [value] if equals else []
        elif arg.startswith("--"):
            words.append(flag.replace("_", "-") + equals + value)
        else:
            words.append(arg)
    return words


def _hinted(word: str, kind: type) -> str:
    """What is wrong with a word that has no place, and what may have been meant."""
    if not word.startswith("-"):
        return f"nothing takes {word!r}"
    flag = word.partition("=")[0]
    known = [flag for a in _arguments(kind, None) if not a.metavar for flag in a.flags]
    near = [f for f in known if re.search(rf"[.-]{re.escape(flag.lstrip('-'))}$", f)]
    near = [*sorted(near, key=len), *difflib.get_close_matches(flag, known, n=1)]
    hint = f". Perhaps you meant: {', '.join(dict.fromkeys(near))}" if near else ""
    return f"unknown option {flag}{hint}"


def _without_none(kind: Any) -> tuple[Any, bool]:
    """The type beside None, and whether None is accepted."""
    if typing.get_origin(kind) not in (typing.Union, types.UnionType):
        return kind, False
    (bare,) = (part for part in typing.get_args(kind) if part is not type(None))
    return bare, True


def _is_mapping(kind: Any) -> bool:
    origin = typing.get_origin(kind)
    return isinstance(origin, type) and issubclass(origin, Mapping)


def _part(kind: Any) -> Any:
    """The type of one word: that of a tuple's elements, else the type itself."""
    return typing.get_args(kind)[0] if typing.get_origin(kind) is tuple else kind


def _choices(kind: Any) -> tuple[Any, ...]:
    if kind is bool:
        return True, False
    return typing.get_args(kind) if typing.get_origin(kind) is Literal else ()


def _word(kind: Any, none: bool) -> str:
    """What stands for a value in the help."""
    choices = _choices(kind)
    if not choices:
        return METAVARS[kind] + ("|None" if none else "")
    return "{" + ",".join(map(str, (*choices, None) if none else choices)) + "}"


def _one_line(text: str) -> str:
    """The text without the breaks of its source and the marks of reStructuredText."""
    return " ".join(text.split()).replace("``", "`")


@functools.cache
def _field_docs(module: str) -> dict[str, dict[str, str]]:
    """The docstrings below the fields of a module's classes, each as one line."""
    found: dict[str, dict[str, str]] = {}
    try:
        tree = ast.parse(inspect.getsource(sys.modules[module]))
    except OSError:  # no source is installed: help without words
        return found
    for node in tree.body:
        if not isinstance(node, ast.ClassDef):
            continue
        docs = found[node.name] = {}
        for field, below in zip(node.body, node.body[1:], strict=False):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(below, ast.Expr)
                and isinstance(below.value, ast.Constant)
            ):
                docs[field.target.id] = _one_line(str(below.value.value))
    return found
