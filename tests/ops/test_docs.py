"""The examples in the documentation of the ops hold."""

import doctest
import importlib
import pkgutil

import pytest

import jaxcnn.ops

MODULES = [module.name for module in pkgutil.iter_modules(jaxcnn.ops.__path__)]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    module = importlib.import_module(f"jaxcnn.ops.{name}")
    assert doctest.testmod(module).failed == 0
