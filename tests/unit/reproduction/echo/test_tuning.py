"""What is tuned, the bound and the aims: arithmetic on figures."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brim.reproduction.echo.aims import aims, cache_bound
from brim.reproduction.echo.offline import CONTROL
from brim.reproduction.echo.plan import A100, AZURE, SHUFFLED, TOKENS, Plan, full_plan, points, quick_plan
from brim.reproduction.echo.points import MARGIN, Bench, tuned
from brim.simulation.results import Figures


@given(st.integers(0, len(TOKENS)), st.integers(0, len(TOKENS) - 1))
def test_the_largest_value_that_satisfies_is_found(satisfying: int, start: int) -> None:
    def run(value: float) -> Figures:
        return {"rate": value, "attainment": 1.0 if value in TOKENS[:satisfying] else 0.9, "of": value}

    best = tuned(TOKENS, start, run, 1.0)
    assert best["of"] == best["value"] == TOKENS[max(satisfying - 1, 0)]
    tried = [one["value"] for one in best["tried"]]
    assert len(set(tried)) == len(tried) <= 8


def test_more_tokens_that_finish_less_are_not_the_best() -> None:
    best = tuned((1, 2, 3), 1, lambda value: {"rate": -value, "attainment": 1 - MARGIN}, 1.0)
    assert best["value"] == 2  # 3 satisfies too; 1 was not tried


def figures(label: str, rate: float, hit: float = 0.0, attainment: float = 1.0) -> Figures:
    return {"label": label, "rate": rate, "hit_rate": hit, "prompt_share": 0.9, "attainment": attainment}


def bench(offline: str, *rows: Figures) -> Figures:
    return {"name": offline, "offline": offline, "online_only": {"attainment": 1.0}, "rows": list(rows)}


def test_the_bound_is_what_fewer_prompt_tokens_give() -> None:
    base, echo = figures("bs", 1.0, 0.2), figures("echo", 2.0, 0.6)
    # of bs's time 0.9 is prompts, half of which are hit besides
    assert cache_bound(bench(SHUFFLED, base, echo), echo) == pytest.approx(1 / (0.1 + 0.9 / 2))
    assert cache_bound(bench(SHUFFLED, base, echo), base) == pytest.approx(1)
    assert cache_bound(bench(SHUFFLED, echo), echo) is None


@pytest.mark.parametrize(
    ("offline", "rate", "attainment", "missed"),
    [
        (SHUFFLED, 3.3, 1.0, []),
        (SHUFFLED, 3.2, 1.0, ["echo >= 3.30x bs"]),
        (SHUFFLED, 3.3, 0.99, ["echo's attainment >= online-only's - 0.5%"]),
        (CONTROL, 0.99, 1.0, ["echo not below bs"]),
        (CONTROL, 1.0, 1.0, []),
        ("documents, file order", 0.99, 1.0, []),
    ],
)
def test_an_aim_that_is_not_reached_is_missed(
    offline: str, rate: float, attainment: float, missed: list[str]
) -> None:
    told = aims(bench(offline, figures("bs", 1.0), figures("echo", rate, 0.9, attainment)))
    assert [aim["aim"] for aim in told if not aim["passed"]] == missed


def test_where_hits_can_not_give_it_most_of_the_bound_is_asked_for() -> None:
    told = aims(bench(SHUFFLED, figures("bs", 1.0), figures("echo", 1.5, 0.4)))
    assert told[0]["aim"] == f"echo >= {0.9 / 0.64:.2f}x bs"
    assert told[0]["passed"]


def test_a_step_of_the_ladder_below_the_one_before_is_missed() -> None:
    rows = [figures("bs", 1.0), figures("bs-e", 2.0), figures("bs-e-s", 1.7), figures("echo", 1.6)]
    [missed] = [a["aim"] for a in aims(bench("documents, file order", *rows)) if not a["passed"]]
    assert missed.startswith("bs-e-s not below bs-e")


def test_a_plan_without_files_has_only_what_needs_none() -> None:
    plan = full_plan(60.0, 0, None, [])
    assert {b.offline for b in plan.benches} >= {SHUFFLED, CONTROL}
    assert not [b for b in plan.benches if b.online != AZURE or "sample" in b.offline]
    assert [b.offline for b in full_plan(60.0, 0, None, ["file order"]).benches] == ["documents, file order"]


def test_a_whole_bench_has_every_row_once() -> None:
    plan = full_plan(60.0, 0, None, [])
    made = points(plan, plan.benches[0], {"attainment": 1.0}, 1000)
    labels = [point.row.label for point in made]
    assert labels[0] == "bs"
    assert sorted(labels) == ["brim", "bs", "bs-e", "bs-e-s", "echo", "echo, online evicted last", "hygen"]
    quick: Plan = quick_plan(0, None)
    made = points(quick, Bench(A100, AZURE, SHUFFLED, 50), {"attainment": 1.0}, 1000)
    assert {point.row.label for point in made} == {"bs", "bs-e", "bs-e-s", "echo"}
