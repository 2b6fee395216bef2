"""Best schedules of one machine, held against each other and against brute force."""

from __future__ import annotations

from itertools import combinations

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from brim.simulation.fluid import Job, most_on_time, total_flow, total_weighted_flow

JOBS = st.lists(
    st.builds(Job, st.integers(0, 20), st.integers(1, 9), st.sampled_from([0.5, 1.0, 3.0])),
    min_size=1,
    max_size=6,
)


def first_come_first_served(jobs: list[Job]) -> list[float]:
    now, flows = 0.0, []
    for job in sorted(jobs):
        now = max(now, job.release) + job.work
        flows.append(now - job.release)
    return flows


def test_the_shorter_job_overtakes():
    assert total_flow([Job(0, 10), Job(2, 3)]) == 13 + 3
    assert total_flow([Job(0, 10), Job(8, 3)]) == 10 + 5
    assert total_flow([]) == 0


@settings(max_examples=200)
@given(JOBS)
def test_no_order_of_arrival_is_better(jobs: list[Job]):
    flows = first_come_first_served(jobs)
    assert total_flow(jobs) <= sum(flows) + 1e-9
    weighted = sum(job.weight * flow for job, flow in zip(sorted(jobs), flows, strict=True))
    assert total_weighted_flow(jobs) <= weighted + 1e-9


@settings(max_examples=200)
@given(JOBS)
def test_equal_weights_give_a_bound_under_the_optimum(jobs: list[Job]):
    alike = [job._replace(weight=1.0) for job in jobs]
    assert total_weighted_flow(alike) <= total_flow(alike) + 1e-9


def test_the_weighted_bound_is_reached_by_jobs_that_wait_for_nobody():
    apart = [Job(0, 4, 2.0), Job(10, 3, 0.5)]
    assert total_weighted_flow(apart) == pytest.approx(2 * 4 + 0.5 * 3)


@settings(max_examples=200)
@given(st.lists(st.tuples(st.integers(1, 20), st.integers(1, 9)), max_size=7))
def test_as_many_are_on_time_as_any_choice_allows(jobs: list[tuple[int, int]]):
    def fits(chosen: tuple[tuple[int, int], ...]) -> bool:
        total = 0
        for due, work in sorted(chosen):
            total += work
            if total > due:
                return False
        return True

    best = max(n for n in range(len(jobs) + 1) if any(map(fits, combinations(jobs, n))))
    assert most_on_time(jobs) == best
