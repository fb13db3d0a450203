"""Reads docstrings as Markdown: examples become blocks of code, and roles of Sphinx plain names."""

import re
from typing import Any

import griffe

EXAMPLE = re.compile(r"(?:(?<=\n\n)|\A)((?:>>>).*?)(?=\n\n|\Z)", re.S)


class Docstrings(griffe.Extension):
    """Changes every docstring as it is read from the source."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Changes the docstring of a module, class, function or attribute."""
        if obj.docstring:
            text = re.sub(r":\w+:`~?([^`]+)`", r"`\1`", obj.docstring.value)
            obj.docstring.value = EXAMPLE.sub(r"```pycon\n\1\n```", text)
