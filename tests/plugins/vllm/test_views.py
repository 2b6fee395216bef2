"""What a request brings, as Brim's facts."""

from __future__ import annotations

import time
from typing import Any

import pytest

from brim.core.request import SLO
from brim.core.request import Request as Facts
from brim.plugins.vllm import views
from tests.helpers import MS
from tests.plugins.vllm.driver import make_request

DEFAULT = SLO(ttft_ns=800 * MS, tpot_ns=60 * MS)


def facts(age_seconds: float = 0.0, **told: Any) -> Facts:
    request = make_request("a", [1, 2, 3], 4, None, **told)
    request.arrival_time -= age_seconds
    return views.facts(request, 512, DEFAULT)


@pytest.mark.parametrize(
    ("told", "slo"),
    [
        ({}, DEFAULT),
        ({"ttft_ms": 300}, SLO(ttft_ns=300 * MS, tpot_ns=60 * MS)),
        ({"itl_ms": 9}, SLO(ttft_ns=800 * MS, tpot_ns=60 * MS, itl_ns=9 * MS)),
        ({"ttft_ms": "soon"}, DEFAULT),
        ({"task_class": "offline"}, SLO()),
        ({"task_class": "offline", "ttft_ms": 300}, SLO(ttft_ns=300 * MS)),
    ],
)
def test_each_target_is_looked_up_on_its_own(told: dict[str, Any], slo: SLO) -> None:
    assert facts(**told).slo == slo


def test_nobody_arrives_in_the_future() -> None:
    """After the wall clock was set back."""
    assert facts(age_seconds=-3600).arrival_ns <= time.monotonic_ns()
    assert facts(age_seconds=60).arrival_ns <= time.monotonic_ns() - 60_000 * MS
