"""Quiet stretches taken in at once give the events and the figures of the same steps taken one by one."""

from __future__ import annotations

from dataclasses import replace

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from brim.simulation.results import figures
from brim.simulation.run import Setup
from brim.workloads.trace import Trace
from tests.helpers import MS
from tests.unit.simulation.scenarios import run
from tests.unit.simulation.workloads import TRACES, setups

WINDOWS = st.none() | st.tuples(st.integers(0, 200 * MS), st.integers(1, 300 * MS))


def skipped_equals_stepped(requests: Trace, on: Setup, window: tuple[int, int] | None) -> None:
    if window is not None:
        on = replace(on, measure_from_ns=window[0], measure_until_ns=sum(window))
    (quick, quick_lines), (slow, slow_lines) = (
        run(requests, replace(on, skip=skip)) for skip in (True, False)
    )
    assert quick_lines == slow_lines
    assert figures(quick) == figures(slow)
    assert quick.end == slow.end
    assert quick.schedule_calls <= slow.schedule_calls


@settings(max_examples=60, deadline=None)
@given(TRACES, setups(), WINDOWS)
def test_few_workloads(requests: Trace, on: Setup, window: tuple[int, int] | None) -> None:
    skipped_equals_stepped(requests, on, window)


@pytest.mark.slow
@settings(max_examples=1500, deadline=None)
@given(TRACES, setups(), WINDOWS)
def test_many_workloads(requests: Trace, on: Setup, window: tuple[int, int] | None) -> None:
    skipped_equals_stepped(requests, on, window)
