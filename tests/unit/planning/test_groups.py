"""Groups of equal requests that come at once: how many replicas keep their TTFT can be counted by hand.

A prompt alone in a step is in time, and two in one step are both late, or nearly so: that is what the targets
are set to.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from brim.planning.page import page
from brim.planning.plan import plan
from brim.planning.question import Aim, Kind, Load, cluster
from brim.planning.report import text
from brim.workloads.trace import NANOSECONDS, Trace, TraceRequest
from tests.helpers import MS
from tests.unit.planning.scenarios import lengths, nobody, question

PROMPT_TOKENS, OUTPUT_TOKENS = 1000, 8
GROUPS = 10


def groups(size: int) -> Trace:
    """Five seconds apart, when all before have long ended."""
    return Trace(
        "groups",
        [
            TraceRequest(5 * group * NANOSECONDS, PROMPT_TOKENS, OUTPUT_TOKENS)
            for group in range(GROUPS)
            for _ in range(size)
        ],
    )


def planned(size: int, policy: str, prompts: float, attainment: float, **more: Any) -> dict[str, Any]:
    """The TTFT target is so many times what a prompt takes alone."""
    kind, trace = Kind("a100-opt-13b", policy, kv_tokens=8192), groups(size)
    machine = cluster(kind, Load(trace, 2048, NANOSECONDS), Aim(MS, MS), 1).serving.machine
    prompt_ps, _ = machine.alone_ps(PROMPT_TOKENS, OUTPUT_TOKENS)
    aim = Aim(round(prompts * prompt_ps / 1000), 1000 * MS, attainment)
    asked = {"samples": 0, "most_replicas": 16, **more}
    return plan(question(trace=trace, aim=aim, kinds=[kind], **asked), 1, nobody)


@pytest.mark.parametrize(("attainment", "replicas"), [(0.99, 12), (0.83, 11), (0.66, 10)])
def test_attainment_counts_every_request_of_every_replica(attainment: float, replicas: int):
    """Twelve at once on n replicas: 12 - n pairs are late, so 2n - 12 are in time."""
    found = planned(12, "vllm", 1.3, attainment)
    [one] = found["plans"]
    assert one["replicas"] == replicas
    for n, share in one["attempts"].items():
        assert share == pytest.approx(max(2 * min(n, 12) - 12, 0) / 12)
    assert one["run"]["online"]["requests"] == one["run"]["online"]["finished"] == 12 * GROUPS
    assert one["run"]["online"]["ttft_attainment"] == pytest.approx((2 * replicas - 12) / 12)
    assert one["run"]["online"]["tpot_attainment"] == 1
    assert f"attainment {(2 * replicas - 12) / 12:.4f}" in text(found)
    assert f"{replicas} replicas" in text(found)
    assert str(replicas) in page(found)
    assert json.loads(json.dumps(found))["plans"][0]["replicas"] == replicas


def test_offline_work_that_does_not_fit_is_tried_on_more_replicas():
    """Two at once are in time on one replica, just; with offline work in their steps each needs its own."""
    found = planned(2, "priority", 2.05, 0.9, backlog=lengths((16, 200)))
    [one] = found["plans"]
    offline = one["offline"]
    assert one["replicas"] == 1
    assert one["run"]["online"]["slo_attainment"] == 1
    assert offline["replicas"] == 2
    assert offline["attainment"] >= 0.9
    assert "offline work beside it on 1 more replica:" in text(found)
    assert "NOT held" not in text(found)


def test_a_quarter_more_and_one_at_least_is_all_that_is_tried():
    """First come, first served: those who can wait stand before the chats on any number of replicas."""
    found = planned(2, "vllm", 2.05, 0.9, backlog=lengths((16, 200)))
    offline = found["plans"][0]["offline"]
    assert offline["replicas"] == 2
    assert offline["attainment"] < 0.9
    assert "NOT held with it" in text(found)
    alone = planned(2, "vllm", 2.05, 0.9, backlog=lengths((16, 200)), most_replicas=1)
    assert alone["plans"][0]["offline"]["replicas"] == 1
