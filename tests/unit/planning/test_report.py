"""What the text of a plan says beside its numbers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from brim.planning.plan import plan
from brim.planning.question import Aim, Kind, error_of
from brim.planning.report import text
from brim.profiles.loader import as_json, load
from brim.workloads.trace import NANOSECONDS, Trace, TraceRequest
from tests.helpers import MS
from tests.unit.planning.scenarios import nobody, question


def with_long_prompts(count: int) -> Trace:
    """One request in 0.1 s, of 100; a prompt of 3000 tokens takes more than 400 ms on an idle replica."""
    lengths = [3000] * count + [60] * (100 - count)
    requests = [TraceRequest(i * NANOSECONDS // 10, tokens, 8) for i, tokens in enumerate(lengths)]
    return Trace("long", requests)


@pytest.mark.parametrize(("long", "said"), [(4, True), (1, False), (0, False)])
def test_a_target_near_what_can_be_reached_is_told(long: int, said: bool):
    """95 of 100 are asked for: half of the five that may miss are 2.5."""
    found = plan(question(trace=with_long_prompts(long), aim=Aim(300 * MS, 60 * MS, 0.95)), 1, nobody)
    assert found["plans"][0]["reachable_attainment"] == pytest.approx(1 - long / 100)
    told = f"at most {1 - long / 100:.4f} can be reached, however many replicas"
    assert (told in text(found)) == said


def test_a_range_says_where_arrivals_are_too_few_to_draw_from():
    few, many = with_long_prompts(0), with_long_prompts(0)
    few = Trace("few", few.requests[:99])
    aim = Aim(400 * MS, 60 * MS)
    told = "under 100 requests are too few for a range over other arrivals"
    short = text(plan(question(trace=few, aim=aim), 1, nobody))
    assert told in short
    assert "over step times" in short
    assert "resampled arrivals" not in short
    enough = text(plan(question(trace=many, aim=aim), 1, nobody))
    assert told not in enough
    assert "over resampled arrivals and step times" in enough


@pytest.mark.parametrize(
    ("error", "said"),
    [(0.3, "30.0% off (as the profile says of itself)"), (0.001, "(its fit on steps held back)")],
)
def test_a_range_is_over_the_largest_error_that_is_known(tmp_path: Path, error: float, said: str):
    path = tmp_path / "mine.json"
    path.write_text(as_json(replace(load("a100-opt-13b"), error=error)))
    few = Trace("few", with_long_prompts(0).requests[:30])
    kinds = [Kind(str(path), "vllm")]
    found = plan(question(trace=few, kinds=kinds, prices={}, aim=Aim(400 * MS, 60 * MS)), 1, nobody)
    assert said in text(found)
    factors = [f"steps of {factor} times" for factor in (1.3, 0.7)]
    labels = [run["label"] for run in found["plans"][0]["band"]["runs"]]
    assert (labels == factors) == (error == 0.3)


def test_all_that_are_as_good_are_named():
    kinds = [Kind("a100-opt-13b", "vllm", kv_tokens=kv_tokens) for kv_tokens in (3200, 6400)]
    few = with_long_prompts(0)
    found = plan(
        question(trace=few, kinds=kinds, prices={}, aim=Aim(400 * MS, 60 * MS), samples=0), 1, nobody
    )
    assert (found["best"], found["as_good"]) == ("a100-opt-13b", ["a100-opt-13b"])
    assert "fewest GPUs: a100-opt-13b and a100-opt-13b (" in text(found)
    assert "busy (a step ran) " in text(found)


@pytest.mark.parametrize(
    ("with_fit", "error", "share"), [(False, None, 0.15), (False, 0.05, 0.05), (True, 0.3, 0.3)]
)
def test_the_range_uses_the_larger_error_of_those_that_were_measured(with_fit, error, share):
    profile = load("a100-opt-13b")
    assert error_of(replace(profile, fit=profile.fit if with_fit else None, error=error)).share == share
