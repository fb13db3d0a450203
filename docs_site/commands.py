"""Describes commands and the fields of an experiment by what makes their --help."""

import argparse
import dataclasses
import html
import importlib
import inspect
import re
from dataclasses import dataclass, field
from typing import Any

from jaxcnn import cli
from jaxcnn.commands import arguments
from jaxcnn.config import Experiment

SECTIONS = [name for name, part in vars(Experiment()).items() if dataclasses.is_dataclass(part)]


@dataclass(frozen=True)
class Fields(arguments.Command):
    """Takes nothing but the fields of an experiment."""

    experiment: Experiment = field(default_factory=Experiment, metadata={"spread": True})


def commands() -> str:
    """Returns a section for each command: what it does, how it is called, and its options."""
    parts = []
    for name, module in cli.COMMANDS.items():
        kind = importlib.import_module(f"jaxcnn.commands.{module}").Command
        parser = arguments.parser(kind, name)
        parts += [f"## jaxcnn {name}", f"```text\n{parser.usage}\n```", inspect.getdoc(kind) or ""]
        groups = {group.title: group for group in parser._action_groups}
        for title, group in groups.items():
            if title not in SECTIONS:
                parts += [f"**{title}**"] * (title == arguments.MOST_USED and bool(kind.most_used))
                parts.append(_options(group))
        if groups.keys() & set(SECTIONS):
            parts.append(
                "Every field of the experiment is an option too: see [them all](fields.md)."
            )
    return "\n\n".join(filter(None, parts))


def fields() -> str:
    """Returns a section for each part of an experiment, with its fields."""
    found = {group.title: group for group in arguments.parser(Fields, "train")._action_groups}
    parts = []
    for name in SECTIONS:
        parts += [f"## {name}", found[name].description or "", _options(found[name])]
    return "\n\n".join(parts)


def _options(group: Any) -> str:
    """Returns the options of a group as a list of definitions; of none, an empty text."""
    rows = []
    for action in group._group_actions:
        if action.help and action.help != argparse.SUPPRESS:
            value = f" {action.metavar}" if action.metavar and action.option_strings else ""
            if action.nargs == "*" and value:
                value = f" [{value.strip()} ...]"
            names = [html.escape(flag + value) for flag in action.option_strings] or [
                action.metavar
            ]
            shown = " ".join(f"<code>{name}</code>" for name in names)
            text = html.escape(action.help.replace("%%", "%"), quote=False)
            text = re.sub("`([^`]+)`", r"<code>\1</code>", text)
            rows.append(f"<dt>{shown}</dt><dd>{text}</dd>")
    # In one line: Markdown takes what is indented, or behind an empty line, for something else.
    return f'<dl class="options">{"".join(rows)}</dl>' if rows else ""
