"""Writes equations as MathML, which browsers show by themselves."""

import html
import re
from typing import Any

from latex2mathml.converter import convert

# What arithmatex makes of $...$ and of $$...$$.
EQUATION = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.S)


def on_page_content(page_html: str, **_: Any) -> str:
    """Changes the equations of a page."""
    return EQUATION.sub(_written, page_html)


def _written(found: re.Match[str]) -> str:
    """Returns an equation as MathML, in a line of its own or within one."""
    tag, opened, text = found.groups()
    display = "block" if opened == "[" else "inline"
    return (
        f'<{tag} class="equation">{convert(html.unescape(text).strip(), display=display)}</{tag}>'
    )
