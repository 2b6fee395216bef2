"""A prompt of which nobody knows the words takes no room, and is a sequence like any other."""

import sys

import pytest

from brim.simulation.truth import FILLER, Fillers


def test_fillers_are_what_a_list_of_them_would_be():
    some, same = Fillers(5), [FILLER] * 5
    assert (list(some), len(some), some[-1], tuple(some[1:4])) == (same, 5, FILLER, (FILLER,) * 3)
    assert len(some[3:99]) == 2
    assert not Fillers(0)
    with pytest.raises(IndexError):
        some[5]


def test_they_take_the_same_room_however_many_they_are():
    assert sys.getsizeof(Fillers(1)) == sys.getsizeof(Fillers(100_000)) < 64
