"""The documentation of the ops is whole, and its examples hold."""

import doctest
import importlib
import inspect
import pkgutil

import pytest

import jaxcnn.ops
from jaxcnn import ops

MODULES = [module.name for module in pkgutil.iter_modules(jaxcnn.ops.__path__)]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    module = importlib.import_module(f"jaxcnn.ops.{name}")
    assert doctest.testmod(module).failed == 0


FUNCTIONS = [name for name in ops.__all__ if inspect.isfunction(getattr(ops, name))]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_op_says_what_it_computes_takes_gives_and_refuses(name):
    function = getattr(ops, name)
    text = inspect.getdoc(function)
    assert "\nRaises:\n" in text
    assert "\nReturns:\n" in text or "\nYields:\n" in text
    assert ">>> " in text
    assert "$$" in text or name in ("explain", "force_impl")
    for parameter in inspect.signature(function).parameters.values():
        stars = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
        assert f"\n    {stars}{parameter.name}: " in text, parameter.name
