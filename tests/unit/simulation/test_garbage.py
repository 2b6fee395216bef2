"""The collector is left as it was found."""

import gc

import pytest

from brim.simulation.garbage import ALLOCATIONS, collected_seldom


def test_the_collector_looks_seldom_and_then_as_before():
    before = gc.get_threshold()
    with pytest.raises(KeyError), collected_seldom():
        assert gc.get_threshold() == (ALLOCATIONS, *before[1:])
        raise KeyError
    assert gc.get_threshold() == before
