"""Options of the models as their source files state them, for help texts that must not wait.

Importing :mod:`jaxcnn.models` imports JAX, which takes seconds. Its files are plain enough to be
read instead: ``MODELS`` maps names to classes and ``functools.partial`` of classes, and a class
has fields with literal defaults, explained under ``Attributes:`` in its docstring.
"""

import ast
import inspect
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import docstring_parser

from jaxcnn.config.brought import Brought

FOLDER = Path(__file__).parents[1] / "models"
SET_ELSEWHERE = {"num_classes", "dtype"}  # by the data and by model.dtype


def option_docs(name: str) -> dict[str, tuple[Any, str]]:
    """Returns the default and the meaning of every option that a config can give to a model.

    Args:
        name: a model's name, as `jaxcnn list` shows it.

    Raises:
        ValueError: there is no model of this name.

    >>> option_docs("lenet5")["dropout"]
    (0.0, 'rate before the last two dense layers, in training.')
    """
    file, constructor = _constructor(name)
    names = _definitions(_tree(file))
    found = names[constructor]
    given: dict[str, Any] = {}
    while not isinstance(found, ast.ClassDef):  # partial(a class or another partial, field=default)
        given = {str(keyword.arg): keyword.value for keyword in found.keywords} | given
        found = names[found.args[0].id]
    attributes = docstring_parser.parse(ast.get_docstring(found) or "").params
    texts = {attribute.arg_name: attribute.description or "" for attribute in attributes}
    options = {}
    for field, value in (_definitions(found) | given).items():
        if field not in SET_ELSEWHERE:
            literal = names[value.id] if isinstance(value, ast.Name) else value
            text = re.sub(r":\w+:`([^`]*)`|``", r"\1", texts.get(field, ""))  # marks of Sphinx
            options[field] = ast.literal_eval(literal), " ".join(text.split())
    return options


def brought_docs(brought: Brought) -> dict[str, tuple[Any, str]]:
    """Returns the same of a network that was brought, as far as its docstring explains it."""
    texts = {doc.arg_name: doc.description or "" for doc in _documented(brought.target)}
    return {
        name: (parameter.default, " ".join(texts.get(name, "").split()))
        for name, parameter in inspect.signature(brought.target).parameters.items()
        if name not in SET_ELSEWHERE | {"parent", "name"}
    }


def _documented(target: Any) -> Sequence[docstring_parser.common.DocstringParam]:
    return docstring_parser.parse(getattr(target, "__doc__", "") or "").params


def _constructor(name: str) -> tuple[str, str]:
    """Returns the file that defines a model, and what the model is called there."""
    table = _definitions(_tree("__init__"))["MODELS"]
    models = {key.value: value for key, value in zip(table.keys, table.values, strict=True)}
    if name not in models:
        raise ValueError(f"model={name!r} is unknown; `jaxcnn list` shows all")
    file, _, constructor = ast.unparse(models[name]).rpartition(".")
    return file, constructor


def _tree(file: str) -> ast.Module:
    return ast.parse((FOLDER / f"{file}.py").read_text(encoding="utf-8"))


def _definitions(node: ast.Module | ast.ClassDef) -> dict[str, Any]:
    """Returns what the names of a module or class stand for: values and classes."""
    found: dict[str, Any] = {}
    for part in node.body:
        if isinstance(part, ast.ClassDef):
            found[part.name] = part
        elif isinstance(part, ast.Assign | ast.AnnAssign):
            targets = part.targets if isinstance(part, ast.Assign) else [part.target]
            found |= {target.id: part.value for target in targets if isinstance(target, ast.Name)}
    return found
