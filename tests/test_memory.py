import doctest

import pytest

from jaxcnn import memory
from jaxcnn.errors import InputError


def test_the_examples_of_the_documentation_hold():
    result = doctest.testmod(memory)
    assert result.attempted
    assert not result.failed


def test_what_does_not_fit_is_refused_with_both_numbers(monkeypatch):
    monkeypatch.setattr(memory, "available", lambda: 4_500_000_000)
    memory.require_memory("data", 4_500_000_000)
    with pytest.raises(InputError) as refused:
        memory.require_memory("data", 12_300_000_000)
    assert str(refused.value) == "data: needs 12.3 GB of memory, of which 4.5 GB is available"


def test_there_is_some_memory_and_no_more_than_the_machine_has():
    assert 10**8 < memory.available() < 10**14
