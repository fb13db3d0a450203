"""Command lines from dataclasses, read and explained by the standard library's argparse.

A command is a frozen dataclass. Each of its fields is an option of the same name, with the
docstring below the field as its help. A field that is itself a dataclass is a section, whose fields
are options with a prefix, as ``--optim.peak-lr``. The metadata of a field may say otherwise:
``{"place": NAME}`` makes it a positional argument, which the help calls by this name, to which
``"rest": True`` gives all that stands behind two dashes, options too; and
``{"spread": True}`` gives the fields of a section no prefix; ``{"name": NAME}`` gives the option
another name, such as ``from``, which no field of Python can have.

Own code, since libraries that make command lines of dataclasses print boxes where one line is
wanted, and tell what was wrong in no other way.
"""

import argparse
import contextlib
import dataclasses
import difflib
import functools
import operator
import re
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING
from pathlib import Path
from types import NoneType, UnionType
from typing import (
    Any,
    ClassVar,
    Literal,
    NamedTuple,
    Self,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

import docstring_parser

from jaxcnn.config.brought import Brought
from jaxcnn.errors import InputError

MOST_USED = "The options that are changed most often"
ACCEPTED = {int: "a whole number", float: "a number", Path: "a path"}
METAVARS = {int: "INT", float: "NUMBER", str: "TEXT", Path: "PATH"}


class Argument(NamedTuple):
    """Holds what argparse is told about a field; a positional argument has no flags."""

    name: str
    needed: bool
    flags: list[str]
    settings: dict[str, Any]
    about: str
    """What the field's section is for."""


class Command:
    """Lets a command's dataclass, which derives from it, say more about its defaults and help."""

    most_used: ClassVar[Sequence[str]] = ()
    """Names of the fields that the help shows first."""

    @classmethod
    def defaults(cls, given: Mapping[str, Any]) -> Self | None:
        """Returns what holds where the command line says nothing; None takes the fields' defaults.

        Args:
            given: what the command line says, by the names of the fields.
        """
        return None

    def more_help(self, given: Mapping[str, Any]) -> Sequence[Argument]:
        """Returns arguments that the help shows beside those of the fields."""
        return []


C = TypeVar("C", bound=Command)


def parse(kind: type[C], args: Sequence[str], prog: str) -> C:
    """Returns the command that a command line describes.

    Args:
        kind: the dataclass of the command.
        args: what follows the command's name.
        prog: the command's name, for errors.

    Raises:
        InputError: an unknown option, a missing argument, or a value that a field does not take.
    """
    given = _given(kind, args, prog)
    return _built(kind, kind.defaults(given), given)


def explain(kind: type[C], args: Sequence[str], prog: str) -> str:
    """Returns the help, as wide as the terminal, with the defaults that the command line makes."""
    said = [arg for arg in args if arg not in ("-h", "--help")]
    given = _given(kind, said, prog, whole=False)
    default = kind.defaults(given)
    more = default.more_help(given) if default else []
    return _parser(kind, prog, [*more, *_arguments(kind, default)]).format_help()


def parser(kind: type[C], prog: str) -> argparse.ArgumentParser:
    """Returns the parser of a command, for pages that describe it."""
    return _parser(kind, prog, list(_arguments(kind, None)))


def with_default(text: str, default: Any) -> str:
    """Returns a help text that ends with the default, as one would type it."""
    if isinstance(default, Mapping):
        default = [word for pair in default.items() for word in pair]
    if isinstance(default, tuple | list):
        default = " ".join(map(str, default)) or "nothing"
    return f"{text} (default:\xa0{default})".strip()  # no line is broken at this space


class _Help(argparse.HelpFormatter):
    """Breaks lines at spaces alone, and leaves paragraphs apart."""

    def _split_lines(self, text: str, width: int) -> list[str]:
        lines = textwrap.wrap(text, width, break_on_hyphens=False, break_long_words=False)
        return [line.replace("\xa0", " ") for line in lines]

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        paragraphs = (self._split_lines(" ".join(p.split()), width) for p in text.split("\n\n"))
        return textwrap.indent("\n\n".join(map("\n".join, paragraphs)), indent)


class _Switch(argparse.Action):
    """Stores True for the first of its flags, False for the next, or the word behind a `=`."""

    def __call__(self, parser: Any, space: Any, values: Any, option: str | None = None) -> None:
        word = (option or "").partition("=")[2]
        setattr(space, self.dest, word or option == self.option_strings[0])


FROM = {"name": "from", "repeated": True}
"""Metadata of the field ``source``: it is called ``--from``, and may be given several times."""


class _Repeated(argparse.Action):
    """Adds a value each time that the option is given, which takes one word."""

    def __call__(self, parser: Any, space: Any, values: Any, option: str | None = None) -> None:
        before = getattr(space, self.dest)
        setattr(space, self.dest, [*([] if before is MISSING else before), values])


class _Entries(argparse.Action):
    """Adds entries to a mapping: the one that the flag names, or pairs of names and values."""

    def __call__(self, parser: Any, space: Any, values: Any, option: str | None = None) -> None:
        from jaxcnn.runs import search

        words = values if self.nargs else [str(option).rpartition(".")[2].replace("-", "_"), values]
        if len(words) % 2:
            raise argparse.ArgumentError(self, f"must be pairs of NAME VALUE, got {words[-1]!r}")
        for name, text in zip(words[::2], words[1::2], strict=True):
            value = search.value(text)
            getattr(space, self.dest)[name] = tuple(value) if isinstance(value, list) else value


def _parser(kind: type[C], prog: str, arguments: Sequence[Argument]) -> argparse.ArgumentParser:
    """Returns the parser of a command, whose help begins with what is used most."""
    colour: dict[str, Any] = {"color": False} if sys.version_info >= (3, 14) else {}
    parser = argparse.ArgumentParser(
        description=kind.__doc__,
        formatter_class=lambda prog: _Help(prog, max_help_position=6),
        argument_default=MISSING,
        add_help=False,
        allow_abbrev=False,
        exit_on_error=False,
        **colour,
    )
    # Numbers such as -1e-3 are values, not options.
    parser._negative_number_matcher = re.compile(r"-\.?\d")
    groups = {title: parser.add_argument_group(title) for title in (None, MOST_USED, "Options")}
    order = {name: place for place, name in enumerate(kind.most_used)}
    usage = ["jaxcnn", prog]
    ordered = sorted(arguments, key=lambda argument: order.get(argument.name, len(order)))
    for name, needed, flags, settings, about in ordered:
        title = MOST_USED if name in order else name.rpartition(".")[0] or "Options"
        if title not in groups:
            groups[title] = parser.add_argument_group(title, about)
        text, group = settings["help"].replace("%", "%%"), groups[title if flags else None]
        group.add_argument(*flags, dest=name, **settings | {"help": text})
        if needed or not flags:
            usage += [*flags, settings["metavar"] if needed else f"[{settings['metavar']}]"]
    add = groups["Options"].add_argument
    add("--debug", action="store_true", help="Shows the traceback of an error.")
    add("-h", "--help", action="help", help="Shows this help.")
    if any("rest" in field.metadata for field, *_ in _fields(kind, None, "")):
        usage.insert(2, "[options] --")
    else:
        usage.append("[options]")
    parser.usage = " ".join(usage)
    return parser


def _given(kind: type[C], args: Sequence[str], prog: str, whole: bool = True) -> dict[str, Any]:
    """Returns what a command line says, by name; unless it is `whole`, it may lack arguments."""
    end = [*args, "--"].index("--")
    words = [re.sub("^--[^=]*", lambda flag: _flag(flag[0][2:]), arg) for arg in args[:end]]
    arguments = list(_arguments(kind, None, words))
    words = _switched(words, arguments)
    parser = _parser(kind, prog, arguments)
    rest = [field.name for field, *_ in _fields(kind, None, "") if "rest" in field.metadata]
    try:
        space, left = parser.parse_known_intermixed_args([*words, *([] if rest else args[end:])])
    except argparse.ArgumentError as error:
        raise InputError(f"{error.argument_name}: {_said(error, arguments)}") from None
    given = {name: value for name, value in vars(space).items() if value is not MISSING}
    given |= {name: [*given.get(name, []), *args[end + 1 :]] for name in rest}
    if not whole:
        return given
    known = [flag for argument in arguments for flag in argument.flags]
    # An unknown --a="b c" is not left over: argparse takes it for a positional argument.
    flags = [word.partition("=")[0] for word in words if re.match("--?[A-Za-z]", word)]
    for word in [*(flag for flag in flags if flag not in known), *left]:
        near = [flag for flag in known if re.search(rf"[.-]{re.escape(word.lstrip('-'))}$", flag)]
        near = [*sorted(near, key=len), *_alike(word, known)]
        hint = f". Perhaps you meant: {', '.join(dict.fromkeys(near))}" if near else ""
        option = word[:1] == "-" and word not in args[end:]
        wrong = f"unknown option {word}{hint}" if option else f"nothing takes {word!r}"
        raise InputError(f"{prog}: {wrong}")
    for name, needed, flags, settings, _ in arguments:
        if needed and given.get(name, []) == []:
            label = [*flags, settings["metavar"]][0]
            text = settings["help"].split(";")[0].rstrip(".")
            raise InputError(f"{prog}: give {label}, {text[:1].lower()}{text[1:]}")
    return given


def _switched(words: Sequence[str], arguments: Sequence[Argument]) -> list[str]:
    """Returns words with one flag for a switch that is followed by a truth value, as in a sweep."""
    switches = [a.flags for a in arguments if a.flags[1:] and ".no-" in a.flags[1]]
    off = {flags[0]: flags[1] for flags in switches}
    left, found = list(words), []
    while left:
        word = left.pop(0)
        flag, _, value = word.partition("=")
        if flag in off:
            if not value and left and left[0].lower() in ("true", "false"):
                value = left.pop(0)
            word = {"true": flag, "false": off[flag]}.get(value.lower(), word)
        found.append(word)
    return found


def _alike(word: str, flags: Sequence[str]) -> list[str]:
    """Returns the flag whose name is most like that of a word, if one is."""
    names = {flag.lstrip("-"): flag for flag in flags}
    return [names[name] for name in difflib.get_close_matches(word.lstrip("-"), names, n=1)]


def _said(error: argparse.ArgumentError, arguments: Sequence[Argument]) -> str:
    """Returns what argparse finds wrong, with what an option takes that got too little or much."""
    if error.message.startswith("ignored explicit argument"):
        return f"takes no value, got {error.message.rpartition('argument ')[2]}"
    metavars = [a.settings["metavar"] for a in arguments if error.argument_name in a.flags]
    if error.message.startswith("expected") and metavars:
        return f"{error.message}, {metavars[0]}"
    return error.message


def _arguments(
    kind: Any, default: Any, words: Sequence[str] = (), section: str = ""
) -> Iterator[Argument]:
    """Yields the arguments of a dataclass and its sections, with the entries that words name."""
    helps = _helps(kind)
    about = (kind.__doc__ or "").partition("\n\n")[0]
    for field, name, said, value in _fields(kind, default, section):
        inner = _typed(said)
        if dataclasses.is_dataclass(inner):
            yield from _arguments(inner, value, words, name)
            continue
        none = NoneType in get_args(inner)
        # None is written last.
        bare = functools.reduce(operator.or_, get_args(inner)[:-1]) if none else inner
        origin, parts = get_origin(bare), get_args(bare)
        text, flags = helps.get(field.name, ""), [_flag(name)]
        if value is not MISSING and "by default" not in text.lower():
            text = with_default(text, value)
        settings: dict[str, Any] = {"help": text}
        if bool in (bare, *parts) and not none:
            flags += [_flag(f"{section}.no-{field.name}")] if section else []
            flags += [f"{flags[0]}={word}" for part in parts for word in get_args(part)]
            settings |= {"action": _Switch, "nargs": 0}
        elif origin is Mapping:
            settings |= {"action": _Entries, "default": {}, "metavar": "VALUE"}
            entry = f"{flags[0]}."
            told = {word.partition("=")[0] for word in words if word.startswith(entry)}
            for flag in {f"{entry}NAME", *told}:
                yield Argument(name, False, [flag], settings, about)
            settings = settings | {"nargs": "*", "help": argparse.SUPPRESS}
        else:
            many = origin is tuple
            settings |= _reading(parts[0] if many else bare, none, shown=none and bool(section))
            if "repeated" in field.metadata:
                settings["action"] = _Repeated
            elif many:
                settings["nargs"] = "*" if parts[-1] is ... else len(parts)
            if "place" in field.metadata:
                metavar = field.metadata["place"] + " ..." * many
                flags, settings = [], settings | {"metavar": metavar, "nargs": "*" if many else "?"}
        yield Argument(name, value is MISSING, flags, settings, about)


@functools.cache
def _helps(kind: Any) -> Mapping[str, str]:
    """Returns what is said of the fields of a dataclass, which is read from its source."""
    docs = docstring_parser.parse_from_object(kind).params
    return {doc.arg_name: " ".join((doc.description or "").split()) for doc in docs}


def _typed(kind: Any) -> Any:
    """Returns a type without the objects that only Python can hand over."""
    if get_origin(kind) in (Union, UnionType):
        return functools.reduce(operator.or_, (k for k in get_args(kind) if k is not Brought))
    if get_origin(kind) is tuple:
        parts = tuple(part if part is ... else _typed(part) for part in get_args(kind))
        return tuple.__class_getitem__(parts)
    return kind


def _reading(kind: Any, none: bool, shown: bool) -> dict[str, Any]:
    """Returns what reads one word of a type, and what stands for the word in the help.

    A word for one of several types is of the first that takes it; the last is str, which does.
    """
    kinds = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    choices = (True, False) if kind is bool else get_args(kind) if len(kinds) == 1 else ()
    known = {str(choice): choice for choice in choices}

    def read(text: str) -> Any:
        if none and text == "None":
            return None
        try:
            if kind is Path and not text:
                raise ValueError("a path of no letters would be the current folder")
            word = text.capitalize() if kind is bool else text
            return known[word] if known else _first(kinds, text)
        except (KeyError, ValueError):
            said = f"one of {', '.join(map(repr, known))}" if known else ACCEPTED[kinds[0]]
            said += " or None" if none else ""
            raise argparse.ArgumentTypeError(f"must be {said}, got {text!r}") from None

    named = known or [word for part in kinds for word in get_args(part) or [METAVARS[part]]]
    words = [*named, *(["None"] if shown else [])]
    return {"type": read, "metavar": f"{{{','.join(words)}}}" if known else "|".join(words)}


def _first(kinds: Sequence[Any], text: str) -> Any:
    """Returns a word as a value of the first type that takes it."""
    for kind in kinds[:-1]:
        if get_origin(kind) is not Literal:  # its words are texts, which come last
            with contextlib.suppress(ValueError):
                return kind(text)
    return kinds[-1](text)


def _flag(name: str) -> str:
    """Returns the option of a name."""
    return "--" + name.replace("_", "-")


def _fields(kind: Any, default: Any, section: str) -> Iterator[tuple[Any, str, Any, Any]]:
    """Yields the fields with full name, type, and default: that of `default`, where it is given."""
    kinds = get_type_hints(kind)
    for field in dataclasses.fields(kind):
        value = field.default
        if field.default_factory is not MISSING:
            value = field.default_factory()
        if default is not None and value is not MISSING:
            value = getattr(default, field.name)
        name = "" if "spread" in field.metadata else field.metadata.get("name", field.name)
        yield field, ".".join(filter(None, [section, name])), kinds[field.name], value


def _built(kind: Any, default: Any, given: Mapping[str, Any], section: str = "") -> Any:
    """Returns the dataclass with what was given laid over the defaults."""
    values: dict[str, Any] = {}
    for field, name, inner, value in _fields(kind, default, section):
        found = given.get(name, value)
        if dataclasses.is_dataclass(inner):
            found = _built(inner, value, given, name)
        elif isinstance(value, Mapping):
            found = {**value, **found}
        values[field.name] = tuple(found) if isinstance(found, list) else found
    return kind(**values)
