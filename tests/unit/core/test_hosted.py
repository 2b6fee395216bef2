"""A host's scheduler: what the host does is what the books say, whatever it does."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brim.core import events
from brim.core.errors import InvariantViolated
from brim.core.estimators.step_time import StepTime
from brim.core.hosted import Orders
from brim.core.kvcache.hosted import Beside
from brim.core.policies.named import NAMED, named
from brim.core.request import SLO, Request, Status, TaskClass
from tests.helpers import MS, OFFLINE, ONLINE, Foretold, Host, config, request
from tests.hosted import FakeHost

TARGETS = [SLO(), SLO(ttft_ns=40 * MS, tpot_ns=5 * MS), SLO(ttft_ns=1, itl_ns=1)]


@st.composite
def traffic(draw: st.DrawFn) -> list[tuple[int, Request]]:
    """Requests with the step before which they come; prompts share beginnings."""
    count = draw(st.integers(1, 12))
    made = []
    for number in range(count):
        shared = [5] * draw(st.sampled_from([0, 4, 8, 9]))
        own = [100 * number + i for i in range(draw(st.integers(1, 6)))]
        task_class = draw(st.sampled_from([ONLINE, OFFLINE]))
        made.append(
            (
                draw(st.integers(0, 12)),
                request(
                    f"r{number}",
                    [*shared, *own],
                    draw(st.integers(1, 9)),
                    task_class=task_class,
                    slo=draw(st.sampled_from(TARGETS)) if task_class is TaskClass.ONLINE else SLO(),
                ),
            )
        )
    return sorted(made, key=lambda entry: entry[0])


def play(
    host: FakeHost, arrivals: list[tuple[int, Request]], aborted: int = -1, *, watched: bool = False
) -> None:
    for step in range(14):
        host.add(*(asked for at, asked in arrivals if at == step))
        if step == aborted:
            host.abort("r0")
        (host.watched_step if watched else host.step)()
    host.run()


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("policy", sorted(NAMED))
@settings(max_examples=15, deadline=None)
@given(arrivals=traffic(), aborted=st.integers(-1, 12), caching=st.booleans())
def test_an_obedient_host_does_exactly_as_told(
    policy: str, depth: int, arrivals: list[tuple[int, Request]], aborted: int, caching: bool
) -> None:
    settings_ = config(policy=policy, num_blocks=12, enable_prefix_caching=caching, max_num_batched_tokens=16)
    host = FakeHost(settings_, depth=depth)
    play(host, arrivals, aborted)
    assert host.scheduler.deviations == 0
    wanted = {asked.request_id: asked.sampling.max_tokens for _, asked in arrivals}
    del wanted["r0"]
    assert {name: count for name, count in host.ended.items() if name != "r0"} == wanted
    assert host.free_blocks == host.num_blocks
    assert not len(host.scheduler)


@pytest.mark.parametrize(("depth", "pipelined"), [(1, False), (2, False), (4, False), (2, True), (4, True)])
@pytest.mark.parametrize("policy", ["vllm", "priority", "echo", "brim", "econoserve"])
@settings(max_examples=25, deadline=None)
@given(arrivals=traffic(), seed=st.integers(0, 2**32), watched=st.booleans())
def test_whatever_a_host_does_the_books_are_true(
    policy: str, depth: int, pipelined: bool, arrivals: list[tuple[int, Request]], seed: int, watched: bool
) -> None:
    settings_ = config(policy=policy, num_blocks=9, max_num_batched_tokens=16)
    host = FakeHost(settings_, depth=depth, pipelined=pipelined, moods=Random(seed))
    play(host, arrivals, watched=watched)
    assert host.ended == {asked.request_id: asked.sampling.max_tokens for _, asked in arrivals}
    assert host.free_blocks == host.num_blocks


@pytest.mark.parametrize("policy", ["vllm", "sarathi", "econoserve-d"])
@settings(max_examples=40, deadline=None)
@given(arrivals=traffic())
def test_both_appliers_carry_out_the_same_decisions(policy: str, arrivals: list[tuple[int, Request]]) -> None:
    """Where nothing is shared and nothing in flight, who owns the blocks makes no difference."""
    settings_ = config(policy=policy, num_blocks=12, enable_prefix_caching=False, max_num_batched_tokens=16)
    hosted, own = FakeHost(settings_), Host(settings_)
    steps = []
    for step in range(60):
        coming = [asked for at, asked in arrivals if at == step]
        hosted.add(*coming)
        own.add(*coming)
        own.step()
        steps.append((hosted.step(), {name: tokens for name, _, tokens in own.rows[-1]}))
    assert all(ran == planned for ran, planned in steps)


def test_requests_that_ran_before_are_adopted() -> None:
    settings_ = config(policy="brim", num_blocks=12)
    before = FakeHost(settings_)
    before.add(request("a", 6, 5), request("b", 9, 4, task_class=OFFLINE), request("c", 4, 3))
    before.step()
    before.step()
    after = FakeHost(settings_)
    after.requests, after.running, after.waiting = before.requests, before.running, before.waiting
    after.pool = before.pool
    after.pool.observer = after.scheduler.observer
    for name, hosted in after.requests.items():
        (after.scheduler.adopt if name in after.running else after.scheduler.add)(hosted.asked, after.now_ns)
    after.scheduler.check()
    after.run()
    assert after.ended == {"a": 5, "b": 4, "c": 3}
    assert after.scheduler.deviations == 0


def test_what_an_answer_has_computed_counts_as_progress() -> None:
    """The host has appended the drawn token when a step's end is told."""
    host = FakeHost(config(policy="brim", num_blocks=40, max_model_len=100))
    host.add(request("a", 8, 40, task_class=OFFLINE))
    for _ in range(21):
        host.step()
    (a,) = host.scheduler.states()
    assert (a.num_tokens, a.num_computed_tokens) == (29, 28)


def test_the_adopted_are_expected_to_go_on_and_their_work_is_their_own() -> None:
    limits = config(policy="brim", num_blocks=40)
    host = FakeHost(limits, named(limits, Foretold({"a": 8})))
    host.add(request("a", 4, 100, slo=SLO(e2e_ns=10_000 * MS), task_class=OFFLINE))
    for _ in range(30):
        host.step()
    host.scheduler = host.make(named(limits, Foretold({"a": 8})))
    host.scheduler.adopt(host.requests["a"].asked, host.now_ns)
    (a,) = host.scheduler.states()
    assert a.expected_tokens > a.num_tokens == 34
    assert a.num_cached_tokens == 0  # what it has computed would be lost


STEP_TIME = StepTime(4 * 10**9, 10**8, (), 0, 0, 0)  # 4 ms, and 0.1 ms a token


def served(chats: int, slo: SLO) -> FakeHost:
    """Chats of 1,000 tokens that have begun to be answered, one every 50 ms."""
    limits = {"num_blocks": 800, "max_num_seqs": 16, "max_num_batched_tokens": 2048}
    host = FakeHost(config(policy="echo", block_size=16, max_model_len=4096, **limits))
    host.scheduler = host.make(named(host.config, step_time=STEP_TIME))
    for number in range(chats):
        asked = request(f"chat{number}", [number] * 1000, 200, arrival_ns=host.now_ns, slo=slo)
        host.add(asked)
        host.step()
        host.now_ns += 50 * MS
    for _ in range(4):
        host.step()
    return host


def made_anew(host: FakeHost) -> None:
    """The books, as where the mode changes: those who run are adopted."""
    known = host.scheduler
    known.close()
    host.scheduler = host.make(named(host.config, step_time=STEP_TIME))
    host.pool.observer = host.scheduler.observer
    for name in host.running:
        host.scheduler.adopt(host.requests[name].asked, host.now_ns)
    for name in host.waiting:
        host.scheduler.add(host.requests[name].asked, host.now_ns)


@pytest.mark.parametrize("slo", [SLO(itl_ns=20 * MS), SLO(tpot_ns=20 * MS), SLO(e2e_ns=4_000 * MS)])
def test_targets_hold_for_the_adopted(slo: SLO) -> None:
    chunks = []
    for anew in (False, True):
        host = served(1, slo)
        if anew:
            made_anew(host)
        host.add(request("batch", [5] * 3000, 4, arrival_ns=host.now_ns, task_class=OFFLINE))
        chunks.append(host.step()["batch"])
    assert 0 < chunks[1] <= 1.1 * chunks[0] < 400


def test_targets_hold_for_who_was_preempted_before_the_scheduler_came() -> None:
    host = served(2, SLO(itl_ns=20 * MS))
    host.preempt("chat0")
    made_anew(host)
    assert host.scheduler.policy.timing is not None
    watch = host.scheduler.policy.timing.watch
    (work,) = [watch.work(state, 0, lambda: 0) for state in host.scheduler.queues.waiting]
    assert work.due_ns == host.now_ns + 20 * MS


def test_the_adopted_are_no_arrivals() -> None:
    host = served(10, SLO(ttft_ns=500 * MS))
    host.preempt("chat0")
    made_anew(host)
    host.step()
    host.step()
    assert host.scheduler.policy.timing is not None
    assert host.scheduler.policy.timing.watch.arrivals.few()


def test_what_others_compute_in_the_same_step_may_be_a_hit() -> None:
    host = FakeHost(config(policy="vllm", num_blocks=12))
    host.add(request("a", [1] * 9, 2), request("b", [1] * 9, 2))
    assert host.step() == {"a": 9, "b": 1}
    assert host.scheduler.deviations == 0


def test_orders_name_only_who_might_run_more_than_it_may() -> None:
    host = FakeHost(config(policy="vllm", num_blocks=12, max_num_batched_tokens=10))
    host.add(request("a", [1] * 9, 2), request("b", [2] * 9, 2))
    assert host.scheduler.foresee(0).orders == Orders(["a", "b"], {"b": 1})
    host.run()
    host.add(request("c", [1] * 9, 2), request("d", [3] * 9, 1))
    # of what we count on for c, 8 tokens, the host may find less
    assert host.scheduler.order(host.now_ns) == Orders(["c", "d"], {"c": 1})


def test_what_is_foreseen_is_not_done() -> None:
    host = FakeHost(config(policy="brim", num_blocks=12))
    host.add(request("a", 6, 5))
    foreseen = host.scheduler.foresee(0)
    assert foreseen.orders == Orders(["a"])
    assert foreseen.scheduled == {"a": 6}
    assert foreseen.step_ns is not None
    assert host.scheduler.offline_tokens(foreseen.scheduled) == 0
    assert host.free_blocks == 12
    host.run()


def test_a_host_that_runs_a_stranger_is_told() -> None:
    host = FakeHost(config(policy="vllm", num_blocks=12))
    host.scheduler.order(0)
    with pytest.raises(InvariantViolated, match="'x', of which it did not tell"):
        host.scheduler.ran({"x": 1}, (), 0)


@pytest.mark.parametrize("task_class", [ONLINE, OFFLINE])
@pytest.mark.parametrize("policy", ["vllm", "brim", "econoserve"])
def test_who_is_set_aside_waits_until_it_is_brought_back(policy: str, task_class: TaskClass) -> None:
    host = FakeHost(config(policy=policy, num_blocks=12))
    host.add(request("a", 6, 5, task_class=task_class), request("b", 6, 5, task_class=task_class))
    host.set_aside("a", steps=4)
    steps = [host.step() for _ in range(4)]
    assert [set(ran) for ran in steps] == [{"b"}, {"b"}, {"b"}, {"a", "b"}]
    host.run()
    assert host.ended == {"a": 5, "b": 5}
    assert host.scheduler.deviations == 0
    host.scheduler.bring_back("a", host.now_ns)  # it is over
    assert not len(host.scheduler)


def test_who_is_set_aside_may_be_aborted() -> None:
    host = FakeHost(config(policy="brim", num_blocks=12))
    host.add(request("a", 6, 5), request("b", 6, 5, task_class=OFFLINE))
    host.set_aside("a", steps=2)
    host.set_aside("b", steps=2)
    host.abort("a")
    host.abort("b")
    host.scheduler.check()
    assert not len(host.scheduler)


def test_who_runs_is_not_set_aside() -> None:
    host = FakeHost(config(policy="vllm", num_blocks=12))
    host.add(request("a", 6, 5))
    host.step()
    with pytest.raises(InvariantViolated, match="'a' does not wait"):
        host.scheduler.set_aside("a", host.now_ns)


@pytest.mark.parametrize("task_class", [ONLINE, OFFLINE])
@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("policy", ["vllm", "brim", "econoserve"])
def test_who_is_left_out_was_never_let_in(policy: str, depth: int, task_class: TaskClass) -> None:
    host = FakeHost(config(policy=policy, num_blocks=12), depth=depth)
    host.add(request("first", [1] * 9, 9), request("cached", [2] * 9, 1))
    while "cached" in host.requests:
        host.step()
    host.add(request("left out", [2] * 9, 5, task_class=task_class))
    (state,) = [s for s in host.scheduler.states() if s.request.request_id == "left out"]
    host.left_out.add("left out")
    for _ in range(3):
        assert "left out" not in host.step()
        assert (state.status, state.num_preemptions, state.num_cached_tokens) == (Status.WAITING, 0, None)
    host.left_out.clear()
    came_ns = host.now_ns + MS
    host.run()
    of_it = [event for event in host.told if getattr(event, "request_id", "") == "left out"]
    assert [type(event) for event in of_it] == [events.Admitted, events.FirstToken, events.Finished]
    assert of_it[0] == events.Admitted(came_ns, of_it[0].step_id, "left out", 8, resumed=False)
    assert host.free_blocks == host.num_blocks


def test_who_is_left_out_keeps_its_place() -> None:
    host = FakeHost(config(policy="vllm", num_blocks=12, max_num_seqs=2))
    host.add(*(request(name, 4, 3) for name in "abc"))
    host.left_out.add("a")
    assert host.step() == {"b": 4}
    host.left_out.clear()
    assert host.step() == {"b": 1, "a": 4}


def test_who_was_preempted_and_is_left_out_has_been_preempted_once() -> None:
    host = FakeHost(config(policy="vllm", num_blocks=12))
    host.add(request("a", 6, 5))
    host.step()
    host.preempt("a")
    host.scheduler.ran({}, {"a"}, host.now_ns)
    host.left_out.add("a")
    host.step()
    host.left_out.clear()
    host.run()
    kinds = [type(event) for event in host.told if isinstance(event, events.Admitted | events.Preempted)]
    assert kinds == [events.Admitted, events.Preempted, events.Admitted]


@pytest.mark.parametrize("depth", [1, 2, 4])
@pytest.mark.parametrize("policy", ["vllm", "brim", "econoserve"])
def test_a_host_may_decide_alone_for_a_while(policy: str, depth: int) -> None:
    host = FakeHost(config(policy=policy, num_blocks=20), depth=depth)
    host.add(request("a", 6, 15), request("b", 7, 12, task_class=OFFLINE))
    for _ in range(3):
        host.step()
    host.add(request("c", 4, 3))
    for _ in range(9):  # past the ends of blocks; the books are looked at behind each
        assert "c" not in host.step_alone()
    host.run()
    assert host.ended == {"a": 15, "b": 12, "c": 3}


def test_a_policy_object_may_be_given() -> None:
    settings_ = config(policy="vllm", num_blocks=12)
    assert FakeHost(settings_, named(config(policy="echo", num_blocks=12))).scheduler.policy.name == "echo"


def test_who_stops_between_orders_and_their_end_keeps_no_block() -> None:
    host = FakeHost(config(policy="echo", num_blocks=12))
    host.add(request("a", [1] * 9, 1))
    host.run()
    host.add(request("b", [1] * 9, 1))
    assert host.scheduler.order(host.now_ns).admit == ["b"]
    assert host.free_blocks == 10  # the two that b will hit are kept
    host.scheduler.close()
    assert host.free_blocks == 12


def test_what_a_newcomer_needs_beside_its_table_binds_only_its_admission() -> None:
    beside = [Beside(num_tables=2, block_size=4, most_blocks=2)]
    host = FakeHost(config(policy="vllm", num_blocks=14, enable_prefix_caching=False), beside=beside)
    host.add(request("a", 12, 24), request("b", 12, 4))
    kv = host.scheduler.kv
    assert kv.admission_blocks(next(iter(host.scheduler.states()))) == 3 + 2 * 2
    assert host.scheduler.order(host.now_ns).admit == ["a", "b"]
    assert kv.available_blocks == 0
    host.scheduler.ran({"a": 12}, (), host.now_ns)  # the host had no room for b, and counts what a holds
    assert kv.available_blocks == 14 - 3


def test_who_runs_may_grow_into_the_last_block() -> None:
    beside = [Beside(num_tables=1, block_size=4, most_blocks=2)]
    host = FakeHost(config(policy="vllm", num_blocks=9, enable_prefix_caching=False), beside=beside)
    host.add(request("a", 12, 24))
    host.run()
    assert host.ended == {"a": 24}
    assert host.scheduler.deviations == 0
