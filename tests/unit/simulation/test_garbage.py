"""The collector is left as it was found."""

import gc

import pytest

from brim.simulation.garbage import ALLOCATIONS, collected_seldom


def test_the_collector_looks_seldom_and_then_as_before():
    before = gc.get_threshold()
    with collected_seldom():
        assert gc.get_threshold() == (ALLOCATIONS, *before[1:])
    assert gc.get_threshold() == before


def test_an_error_leaves_it_so_too():
    before = gc.get_threshold()

    def fail() -> None:
        with collected_seldom():
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert gc.get_threshold() == before
