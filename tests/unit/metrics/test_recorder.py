"""Figures from events: worked out by hand, and equal on the quick and on the slow way."""

from __future__ import annotations

from dataclasses import asdict, replace

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from brim.core.events import (
    Admitted,
    Arrived,
    Event,
    Finished,
    FirstToken,
    MissPredicted,
    Preempted,
    QuietSteps,
    Tokens,
)
from brim.core.request import SLO, FinishReason
from brim.metrics.histogram import Histogram
from brim.metrics.recorder import ClassMetrics, Recorder, bucketed, exact
from tests.helpers import MS, NO_SLO, OFFLINE, ONLINE, Host, config, request, state

ALL_TARGETS = SLO(ttft_ns=30 * MS, tpot_ns=20 * MS, itl_ns=30 * MS, e2e_ns=90 * MS)


def story(*, slo: SLO = NO_SLO, reason: FinishReason = FinishReason.LENGTH) -> list[Event]:
    """Arrives at 10 ms, enters at 20, draws at 40, 50, 60 and 100."""
    asked = request("a", 7, max_tokens=4, arrival_ns=10 * MS, slo=slo)
    rows = (state(asked),)
    return [
        Arrived(10 * MS, 0, asked),
        Admitted(20 * MS, 0, "a", 4, resumed=False),
        FirstToken(40 * MS, 0, "a"),
        Tokens(40 * MS, 0, rows, [1], {}),
        Tokens(50 * MS, 1, rows, [1], {}),
        Tokens(60 * MS, 2, rows, [1], {}),
        Tokens(100 * MS, 3, rows, [1], {}),
        Finished(100 * MS, 4, "a", reason, 4),
    ]


def recorded(events: list[Event]) -> ClassMetrics:
    recorder = Recorder(bucketed)
    recorder.observe(events)
    return recorder.by_class[ONLINE]


def seen(histogram: Histogram) -> tuple[int, float]:
    """How many, and their sum in milliseconds."""
    return histogram.count, round(histogram.sum * 1000, 6)


def figures(metrics: ClassMetrics) -> dict[str, object]:
    """Everything of it; sums rounded, for the order of additions is free."""
    flat = {name: value for name, value in asdict(metrics).items() if not isinstance(value, Histogram)}
    for name in ("queue", "ttft", "itl", "tpot", "e2e", "normalized_latency"):
        histogram: Histogram = getattr(metrics, f"{name}_seconds")
        flat[name] = (histogram.counts, round(histogram.sum, 9))
    return flat


def test_queue_time_is_from_arrival_to_admission():
    assert seen(recorded(story()).queue_seconds) == (1, 10)


def test_ttft_is_from_arrival_to_the_first_token():
    assert seen(recorded(story()).ttft_seconds) == (1, 30)


def test_itl_is_every_gap_between_two_tokens():
    assert seen(recorded(story()).itl_seconds) == (3, 10 + 10 + 40)


def test_tpot_is_the_mean_gap_one_number_for_a_request():
    assert seen(recorded(story()).tpot_seconds) == (1, 20)


def test_e2e_is_from_arrival_to_the_last_token():
    assert seen(recorded(story()).e2e_seconds) == (1, 90)


def test_tokens_requests_and_steps_are_counted():
    recorder = Recorder(bucketed)
    recorder.observe(story())
    metrics = recorder.by_class[ONLINE]
    assert (metrics.arrived, metrics.finished) == (1, {FinishReason.LENGTH: 1})
    assert (metrics.prompt_tokens, metrics.cached_tokens, metrics.output_tokens) == (7, 4, 4)
    assert recorder.steps == 4
    assert figures(recorder.by_class[OFFLINE]) == figures(bucketed())


def test_events_may_come_in_any_portions():
    at_once, one_by_one = Recorder(bucketed), Recorder(bucketed)
    at_once.observe(story(slo=ALL_TARGETS))
    for event in story(slo=ALL_TARGETS):
        one_by_one.observe([event])
    assert figures(at_once.by_class[ONLINE]) == figures(one_by_one.by_class[ONLINE])


def test_a_single_token_has_a_ttft_and_no_gap():
    events = story()
    metrics = recorded([*events[:4], Finished(40 * MS, 1, "a", FinishReason.STOP, 1)])
    assert seen(metrics.ttft_seconds) == seen(metrics.e2e_seconds) == (1, 30)
    assert (metrics.itl_seconds.count, metrics.tpot_seconds.count) == (0, 0)


def test_a_preemption_counts_and_its_gap_is_a_gap():
    events = story()
    again = [Preempted(65 * MS, 3, "a", 9), Admitted(70 * MS, 3, "a", 8, resumed=True)]
    metrics = recorded([*events[:6], *again, *events[6:]])
    assert (metrics.preempted, metrics.recomputed_tokens) == (1, 1)  # 8 of the 9 lost were found again
    assert seen(metrics.itl_seconds) == (3, 60)
    assert (metrics.queue_seconds.count, metrics.prompt_tokens, metrics.cached_tokens) == (1, 7, 4)


def test_foretold_misses_are_counted_where_the_request_counts():
    events = story()
    recorder = Recorder(bucketed)
    recorder.observe([*events[:3], MissPredicted(45 * MS, 1, "a", 7 * MS), *events[3:]])
    assert recorder.by_class[ONLINE].predicted_misses == 1
    assert recorder.by_class[OFFLINE].predicted_misses == 0


def test_what_a_second_scheduler_tells_again_counts_once():
    asked = request("a", 7, arrival_ns=10 * MS)
    told = [
        Arrived(10 * MS, 0, asked),
        Admitted(20 * MS, 0, "a", 4, resumed=False),
        MissPredicted(30 * MS, 1, "a", late_ns=1),
    ]
    recorder = Recorder(bucketed)
    recorder.observe(told)
    recorder.pause()
    recorder.keep({"a"})
    recorder.observe(told)
    metrics = recorder.by_class[ONLINE]
    assert (metrics.arrived, metrics.prompt_tokens, metrics.cached_tokens) == (1, 7, 4)
    assert (seen(metrics.queue_seconds), metrics.predicted_misses) == ((1, 10), 1)


def test_nobody_waited_less_than_nothing():
    asked = request("a", 7, arrival_ns=10 * MS)
    metrics = recorded([Arrived(10 * MS, 0, asked), Admitted(9 * MS, 0, "a", 0, resumed=False)])
    assert seen(metrics.queue_seconds) == (1, 0)


def test_prefix_reuse_is_the_share_of_the_prompt_found_in_the_cache():
    assert recorded(story()).prefix_reuse == 4 / 7
    assert bucketed().prefix_reuse is None


@pytest.mark.parametrize(("target", "reached_ms"), [("ttft", 30), ("tpot", 20), ("itl", 40), ("e2e", 90)])
def test_a_target_is_met_up_to_and_with_its_value(target, reached_ms):
    for allowed_ms, met in ((reached_ms, True), (reached_ms - 1, False)):
        slo = SLO(**{f"{target}_ns": allowed_ms * MS})
        assert recorded(story(slo=slo)).slo == {(target, met): 1, ("all", met): 1}


def test_all_targets_are_met_only_together():
    met = recorded(story(slo=replace(ALL_TARGETS, itl_ns=40 * MS))).slo
    assert met == {(name, True): 1 for name in ("ttft", "tpot", "itl", "e2e", "all")}
    missed = recorded(story(slo=ALL_TARGETS)).slo
    assert (missed["itl", False], missed["all", False], missed["e2e", True]) == (1, 1, 1)


def test_without_a_target_nothing_is_judged():
    assert recorded(story()).slo == {}


@pytest.mark.parametrize("reason", [FinishReason.ABORT, FinishReason.ERROR])
def test_who_did_not_end_well_counts_for_no_latency(reason):
    metrics = recorded(story(slo=ALL_TARGETS, reason=reason))
    assert metrics.finished == {reason: 1}
    assert (metrics.e2e_seconds.count, metrics.tpot_seconds.count) == (0, 0)
    assert metrics.slo["itl", False] == metrics.slo["all", False] == 1
    assert metrics.output_tokens == 4


def test_an_answer_that_was_stopped_is_judged_as_far_as_it_came_and_one_that_failed_met_nothing():
    """A host stops it at a stop string, and so may its reader."""
    stopped, failed = (
        recorded(story(slo=SLO(ttft_ns=900 * MS, e2e_ns=900 * MS), reason=reason)).slo
        for reason in (FinishReason.ABORT, FinishReason.ERROR)
    )
    assert (stopped, failed) == ({("ttft", True): 1, ("e2e", True): 1, ("all", True): 1}, {})


@pytest.mark.parametrize("reason", [FinishReason.ABORT, FinishReason.ERROR])
@pytest.mark.parametrize(
    ("num_tokens", "target", "last_ms"),
    [(0, "ttft", 30), (0, "e2e", 30), (1, "itl", 60), (1, "tpot", 60), (3, "itl", 80), (3, "tpot", 100)],
)
def test_who_gives_up_has_missed_only_what_its_next_token_would_miss(reason, num_tokens, target, last_ms):
    # the target is 20 ms; a token at `last_ms` would still keep it

    def ended_at(end_ns: int) -> dict[tuple[str, bool], int]:
        told = story(slo=SLO(**{f"{target}_ns": 20 * MS}))[: 3 + num_tokens if num_tokens else 2]
        return recorded([*told, Finished(end_ns, 9, "a", reason, num_tokens)]).slo

    met = reason is FinishReason.ABORT and num_tokens > 0
    assert ended_at(last_ms * MS) == ({(target, True): 1, ("all", True): 1} if met else {})
    assert ended_at(last_ms * MS + 1) == {(target, False): 1, ("all", False): 1}


def test_a_first_token_that_a_host_kept_of_a_dropped_step_is_there_with_the_next():
    told = [event for event in story(slo=ALL_TARGETS) if not isinstance(event, FirstToken)]
    metrics = recorded(told)
    assert seen(metrics.ttft_seconds) == (1, 30)
    assert seen(metrics.tpot_seconds) == (1, 20)
    assert metrics.slo["ttft", True] == 1


def test_tokens_that_were_all_kept_of_dropped_steps_are_there_at_the_end():
    told = [event for event in story(slo=ALL_TARGETS) if not isinstance(event, FirstToken | Tokens)]
    metrics = recorded(told)
    assert seen(metrics.ttft_seconds) == seen(metrics.e2e_seconds) == (1, 90)
    assert metrics.slo["ttft", False] == metrics.slo["e2e", True] == 1


def test_who_is_ended_before_its_first_token_has_no_latency():
    metrics = recorded(
        [Arrived(0, 0, request("a", slo=ALL_TARGETS)), Finished(MS, 0, "a", FinishReason.STOP, 0)]
    )
    assert metrics.finished == {FinishReason.STOP: 1}
    assert (metrics.e2e_seconds.count, metrics.slo) == (0, {})


def test_classes_are_counted_apart_in_a_quiet_stretch():
    asked = [request("a", arrival_ns=0), request("b", task_class=OFFLINE), request("c", task_class=OFFLINE)]
    rows = tuple(state(one) for one in asked)
    recorder = Recorder(bucketed)
    recorder.observe(Arrived(0, 0, one) for one in asked)
    recorder.observe(Tokens(at * MS, at, rows, [1, 1, 1], {}) for at in (10, 20, 30))
    assert seen(recorder.by_class[ONLINE].itl_seconds) == (2, 20)
    assert seen(recorder.by_class[OFFLINE].itl_seconds) == (4, 40)
    assert recorder.by_class[OFFLINE].output_tokens == 6


def test_the_longest_gap_of_a_quiet_stretch_belongs_only_to_those_in_it():
    early, late = (request(name, slo=SLO(itl_ns=15 * MS)) for name in "ab")
    a, b = state(early), state(late)
    one, two = (a,), (a, b)
    recorder = Recorder(bucketed)
    recorder.observe([Arrived(0, 0, early), Arrived(0, 0, late)])
    drawn = [(10, one), (20, one), (50, one), (60, two), (70, two), (80, two)]
    recorder.observe(Tokens(at * MS, at, rows, [1] * len(rows), {}) for at, rows in drawn)
    recorder.observe(Finished(80 * MS, 9, name, FinishReason.STOP, n) for name, n in (("a", 6), ("b", 3)))
    assert recorder.by_class[ONLINE].slo == {
        **{("itl", False): 1, ("all", False): 1},  # a: 30 ms
        **{("itl", True): 1, ("all", True): 1},  # b: 10 ms
    }


REQUESTS = st.lists(
    st.tuples(st.integers(1, 9), st.integers(1, 12), st.sampled_from([ONLINE, OFFLINE]), st.integers(0, 6)),
    min_size=1,
    max_size=5,
)


@settings(max_examples=40, deadline=None)
@given(REQUESTS, st.integers(1, 2), st.lists(st.integers(1, 40), min_size=1, max_size=7), st.integers(0, 9))
def test_quiet_stretches_give_the_figures_that_single_tokens_give(requests, depth, gaps, aborted):
    """The same events, once with the rows' tuples shared as the scheduler shares them, once all copied."""
    host = Host(config(policy="priority", max_num_seqs=3), depth=depth)
    for at, (prompt, max_tokens, task_class, wait) in enumerate(requests):
        for _ in range(wait):
            host.step()
            host.now_ns += gaps[len(host.plans) % len(gaps)] * MS
        slo = SLO(itl_ns=20 * MS, tpot_ns=15 * MS, e2e_ns=200 * MS)
        facts = {"arrival_ns": host.now_ns, "slo": slo, "task_class": task_class}
        host.add(request(f"{at}", prompt, max_tokens, **facts))
    host.scheduler.abort(f"{aborted}", host.now_ns)
    while not host.idle:
        host.step()
        host.now_ns += gaps[len(host.plans) % len(gaps)] * MS
    host.run()
    quick, slow = Recorder(bucketed), Recorder(bucketed)
    quick.observe(host.events)
    slow.observe(replace(e, states=[*e.states]) if isinstance(e, Tokens) else e for e in host.events)
    assert quick.steps == slow.steps
    for task_class in (ONLINE, OFFLINE):
        assert figures(quick.by_class[task_class]) == figures(slow.by_class[task_class])


def test_a_quiet_stretch_counts_as_the_steps_it_stands_for():
    asked = [request("a", slo=SLO(itl_ns=15 * MS)), request("b", task_class=OFFLINE)]
    rows = tuple(state(one) for one in asked)
    quiet = QuietSteps(70 * MS, 2, rows, 1, [20 * MS, 40 * MS, 70 * MS])
    ends = [Finished(80 * MS, 6, name, FinishReason.STOP, 5) for name in "ab"]
    begin = [*(Arrived(0, 0, one) for one in asked), Tokens(10 * MS, 1, rows, [1, 1], {})]
    end = [Tokens(80 * MS, 5, rows, [1, 1], {}), *ends]
    at_once, one_by_one = Recorder(exact), Recorder(exact)
    at_once.observe([*begin, quiet, *end])
    one_by_one.observe([*begin, *quiet.steps(), *end])
    assert at_once.steps == one_by_one.steps == 5
    for task_class in (ONLINE, OFFLINE):
        one, other = at_once.by_class[task_class], one_by_one.by_class[task_class]
        assert one.itl_seconds.percentiles([0, 0.5, 1]) == other.itl_seconds.percentiles([0, 0.5, 1])
        assert (one.output_tokens, one.slo) == (other.output_tokens, other.slo)
    assert at_once.by_class[ONLINE].slo["itl", False] == 1


def test_normalized_latency_is_for_each_output_token():
    assert seen(recorded(story()).normalized_latency_seconds) == (1, 90 / 4)


def test_a_refused_request_has_arrived_and_missed_its_targets():
    recorder = Recorder(bucketed)
    recorder.refuse(request("a", slo=ALL_TARGETS))
    metrics = recorder.by_class[ONLINE]
    assert (metrics.arrived, metrics.judged, metrics.ended_well) == (1, 1, 0)
    assert metrics.finished == {FinishReason.REFUSED: 1}


def test_only_those_wanted_are_counted():
    recorder = Recorder(bucketed, lambda asked: asked.arrival_ns > 20 * MS)
    recorder.observe(story())
    assert figures(recorder.by_class[ONLINE]) == figures(bucketed())
    assert recorder.others[ONLINE].output_tokens == 4
