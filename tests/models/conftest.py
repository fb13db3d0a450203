"""What the comparisons with torchvision run under."""

import warnings
from typing import Any

import pytest

from tests.models.reference import import_torchvision


@pytest.fixture(scope="session")
def torchvision() -> Any:
    """torchvision, or a visible skip."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module = import_torchvision()
    except ImportError as error:
        pytest.skip(f"no reference implementation: {error}")
    import torch

    torch.set_num_threads(1)
    return module
