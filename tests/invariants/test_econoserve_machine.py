"""Promises, groups and loans under random traffic, with predictors that are right, wrong and wild.

E1 blocks are never overdrawn, and every request ends with the script's tokens, whatever is predicted
E2 where lengths are known, the forecast use never passes capacity - reserve at any coming step
E3 inside its promise nobody lacks a block, gives way or waits    E4 a group that starts together ends so
E5 no set of lengths is a deadlock                                E6 short answers are lent blocks
E7 nested loans fill a host's span                                E8 a quiet step asks no request
E9 quiet steps taken in at once are the same steps                E10 and decide what a full decision would
"""

from __future__ import annotations

import itertools
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from brim.core.config import SchedulerConfig
from brim.core.events import Finished, Preempted, QuietSteps
from brim.core.plan import StepResult
from brim.core.policies.grouping import SameEnd
from brim.core.policies.named import NAMED, named
from brim.core.request import SLO, FinishReason, Request, RequestState, RequestView
from brim.core.scheduler import Scheduler
from tests.helpers import MS, OFFLINE, ONLINE, Foretold, Host, config, lines, reference, request

PROMISING = ("econoserve-sd", "econoserve-sdo", "econoserve")
DECOUPLED = ("econoserve-d", *PROMISING)
COUPLED = ("s3", "orca", "multires")

RIGHT = {"exact": lambda length: length, "over": lambda length: 2 * length + 3}
WRONG = {"under": lambda length: length // 3, "one": lambda length: 1}


class Wild(Foretold):
    """Another length whenever it is asked about another moment."""

    def predict(self, asked: Request, generated: int) -> int:
        drawn = zlib.crc32(f"{asked.request_id} {generated}".encode())
        return generated + 1 + drawn % (asked.sampling.max_tokens - generated)


@dataclass(frozen=True)
class Life:
    """A request and what befalls it, in steps after the arrival of the one before."""

    asked: Request
    after: int
    fate: str = ""
    at: int = 0

    def __repr__(self) -> str:
        asked, sampling = self.asked, self.asked.sampling
        stops = sorted(sampling.stop_token_ids)
        due = asked.slo.e2e_ns
        prompt = list(asked.prompt_token_ids)
        facts = f"{prompt}, {sampling.max_tokens}, {stops=}, {due=}, {asked.task_class}"
        return f"{asked.request_id}: +{self.after} {facts} {self.fate}@{self.at}"


@dataclass(frozen=True)
class Traffic:
    config: SchedulerConfig
    depth: int
    predictor: str
    lives: tuple[Life, ...]

    def host(self) -> Host:
        lengths = {life.asked.request_id: len(reference(life.asked)) for life in self.lives}
        told = {name: ({**RIGHT, **WRONG}.get(self.predictor) or int)(n) for name, n in lengths.items()}
        predictor = Wild(told) if self.predictor == "wild" else Foretold(told)
        return Host(self.config, depth=self.depth, policy=named(self.config, predictor))

    def turns(self) -> Iterator[tuple[list[Request], list[str], dict[str, str]]]:
        """Of each step: who arrives, who is aborted, who fails."""
        step = 0
        arrivals: dict[int, list[Request]] = {}
        aborts: dict[int, list[str]] = {}
        errors: dict[int, dict[str, str]] = {}
        for life in self.lives:
            step += life.after
            arrivals.setdefault(step, []).append(life.asked)
            if life.fate == "abort":
                aborts.setdefault(step + life.at, []).append(life.asked.request_id)
            if life.fate == "error":
                errors.setdefault(step + life.at, {})[life.asked.request_id] = "no luck"
        for step in range(max([*arrivals, *aborts, *errors], default=-1) + 1):
            yield arrivals.get(step, []), aborts.get(step, []), errors.get(step, {})

    @property
    def most_steps(self) -> int:
        """Each alone, one after the other, and all of it again for every time that it may give way."""
        tokens = sum(life.asked.sampling.max_tokens + len(life.asked.prompt_token_ids) for life in self.lives)
        return 20 + 2 * len(self.lives) + 3 * tokens


def drive(traffic: Traffic, *hosts: Host, each: Callable[[], None]) -> None:
    """The same traffic for every host until all are idle."""

    def turn(entering: list[Request], aborted: list[str], errors: dict[str, str]) -> None:
        for host in hosts:
            host.add(*entering)
            for name in aborted:
                host.scheduler.abort(name, host.now_ns)
            host.step(errors)
        each()

    for events in traffic.turns():
        turn(*events)
    for _ in range(traffic.most_steps):
        if all(host.idle for host in hosts):
            return
        turn([], [], {})
    raise AssertionError(f"not over: {list(hosts[0].scheduler.states())}")


# ---- any traffic


@st.composite
def lives(draw: st.DrawFn, capacity: int, fates: list[str], classes: list[Any]) -> tuple[Life, ...]:
    drawn = []
    for seq in range(draw(st.integers(1, 9))):
        whole = draw(st.integers(2, capacity) | st.integers(2, max(capacity // 3, 2)))
        prompt = draw(st.integers(1, whole - 1))
        common, stem = draw(st.integers(0, prompt)), draw(st.integers(0, 1))
        tokens = [*range(50 * stem, 50 * stem + common), *[900 + seq] * (prompt - common)]
        stops = draw(st.just(frozenset()) | st.frozensets(st.integers(97, 122), max_size=4))
        due = draw(st.sampled_from([None, None, 300 * MS, 520 * MS, 2010 * MS]))
        asked = request(
            f"r{seq}",
            tokens,
            whole - prompt,
            task_class=draw(st.sampled_from(classes)),
            stop_token_ids=stops,
            slo=SLO(e2e_ns=due),
        )
        fate, at = draw(st.sampled_from(fates)), draw(st.integers(0, 20))
        drawn.append(Life(asked, draw(st.integers(0, 9)), fate, at))
    return tuple(drawn)


@st.composite
def traffics(
    draw: st.DrawFn,
    policies: tuple[str, ...],
    predictors: list[str],
    fates: list[str] | None = None,
    classes: list[Any] | None = None,
) -> Traffic:
    block_size = draw(st.sampled_from([1, 2, 4]))
    num_blocks = draw(st.integers(4, 40))
    settings = config(
        policy=draw(st.sampled_from(policies)),
        num_blocks=num_blocks,
        block_size=block_size,
        max_num_seqs=draw(st.integers(1, 9)),
        max_num_batched_tokens=draw(st.sampled_from([9, 17, 64])),
        max_prefill_chunk_tokens=draw(st.sampled_from([0, 0, 3])),
        enable_prefix_caching=draw(st.booleans()),
        prompt_floor_tokens=draw(st.sampled_from([0, 1, num_blocks * block_size])),
        reserve_share=draw(st.sampled_from([0.0, 0.03, 0.2])),
        length_padding=draw(st.sampled_from([0.0, 0.0, 0.3])),
        loan_buffer_tokens=draw(st.sampled_from([0, 3])),
    )
    these = draw(lives(num_blocks * block_size, fates or [""], classes or [ONLINE]))
    return Traffic(settings, draw(st.integers(1, 2)), draw(st.sampled_from(predictors)), these)


ANY = traffics(
    (*DECOUPLED, *COUPLED),
    [*RIGHT, *WRONG, "wild"],
    ["", "", "", "abort", "error"],
    [ONLINE, ONLINE, OFFLINE],
)
FORESEEN = traffics((*PROMISING, "s3", "multires"), [*RIGHT])


# ---- E1, E10


def everybody_ends_and_says_what_the_script_says(traffic: Traffic) -> None:
    host, twin = traffic.host(), traffic.host()
    scheduler, seen = host.scheduler, 0

    def compare() -> None:
        nonlocal seen
        if scheduler.policy.lending is None:  # when to lend is reconsidered at events only
            assert lines(host.events[seen:]) == lines(twin.events[seen:])
            assert host.rows[-1:] == twin.rows[-1:]
        assert host.scheduler.kv.used_blocks <= traffic.config.num_blocks
        seen = len(host.events)
        twin.scheduler._settled.disturb()  # the twin never takes the quiet way

    drive(traffic, host, twin, each=compare)
    assert host.scheduler.kv.used_blocks == 0
    assert sorted(event.request_id for event in host.of(Finished)) == sorted(host.outputs)
    for life in traffic.lives:
        name = life.asked.request_id
        said, whole = host.outputs[name], reference(life.asked)
        cut = host.finish_reasons()[name] in (FinishReason.ABORT, FinishReason.ERROR)
        assert said == (whole[: len(said)] if cut else whole)
    assert all(times < len(traffic.lives) for times in Counter(host.preempted()).values())


@settings(max_examples=120, deadline=None)
@given(ANY)
def test_whatever_is_predicted_nothing_is_lost(traffic: Traffic) -> None:
    everybody_ends_and_says_what_the_script_says(traffic)


@pytest.mark.slow
@settings(max_examples=4000, deadline=None)
@given(ANY)
def test_whatever_is_predicted_nothing_is_lost_in_many_runs(traffic: Traffic) -> None:
    everybody_ends_and_says_what_the_script_says(traffic)


# ---- E2, E3


def forecast(host: Host) -> list[int]:
    """Blocks in use at each coming step if everybody granted ends when expected, step by step."""
    kv, size = host.scheduler.kv, host.config.block_size
    running = list(host.scheduler.batch)
    lasting = [s for s in running if s not in kv.ledger]
    granted = [s for s in running if s in kv.ledger]
    last = max((s.expected_tokens - s.num_scheduled_tokens for s in granted), default=0)
    use = []
    for step in range(last + 1):
        there = [s for s in granted if s.num_scheduled_tokens + step <= s.expected_tokens]
        shared = {block_id for s in [*there, *lasting] for block_id in s.block_ids}
        tokens = [(s, s.num_scheduled_tokens + step) for s in there]
        new = sum(max(-(-n // size) - len(s.block_ids), 0) for s, n in tokens)
        use.append(len(shared) + new)
    return use


def promises_are_kept(traffic: Traffic) -> None:
    host = traffic.host()
    scheduler = host.scheduler
    generating: set[RequestState] = set()
    limit = scheduler.kv.num_blocks - scheduler.policy.admitting.spare_blocks(scheduler.kv.num_blocks)

    def look() -> None:
        generating.update(scheduler.batch.rows())
        assert not generating & set(scheduler.queues.parked)  # nobody waits once it has been granted
        assert all(s.ending for s in scheduler.batch.catching_up if s in generating)
        if len(scheduler.batch) > 1:
            assert max(forecast(host)) <= limit

    drive(traffic, host, each=look)
    assert (scheduler.allocation_failures, host.of(Preempted)) == (0, [])


@settings(max_examples=150, deadline=None)
@given(FORESEEN)
def test_who_is_inside_its_promise_never_fails_waits_or_gives_way(traffic: Traffic) -> None:
    promises_are_kept(traffic)


@pytest.mark.slow
@settings(max_examples=5000, deadline=None)
@given(FORESEEN)
def test_who_is_inside_its_promise_never_fails_in_many_runs(traffic: Traffic) -> None:
    promises_are_kept(traffic)


# ---- E4


class NotedGroups(SameEnd):
    """Remembers in which group each request was seen last."""

    def __init__(self) -> None:
        self.seen: dict[RequestView, int] = {}

    def key(self, view: RequestView) -> int:
        self.seen[view] = super().key(view)
        return self.seen[view]


def groups_end_together(traffic: Traffic) -> int:
    """The size of the largest group that was granted together."""
    host = traffic.host()
    scheduler, grouping = host.scheduler, NotedGroups()
    scheduler.policy = replace(scheduler.policy, grouping=grouping)
    groups: dict[tuple[int, int], list[str]] = {}
    generating: set[RequestState] = set()

    def look() -> None:
        for state in set(host.plans[-1].decodes) - generating:
            groups.setdefault((len(host.plans), grouping.seen[state]), []).append(state.request.request_id)
        generating.update(host.plans[-1].decodes)

    drive(traffic, host, each=look)
    ends = {event.request_id: event.step_id for event in host.of(Finished)}
    for group in groups.values():
        steps = [ends[name] for name in group]
        assert max(steps) - min(steps) <= traffic.config.block_size
    return max((len(group) for group in groups.values()), default=0)


@settings(max_examples=60, deadline=None)
@given(traffics(PROMISING, ["exact"]))
def test_who_is_granted_together_ends_together(traffic: Traffic) -> None:
    groups_end_together(replace(traffic, config=replace(traffic.config, length_padding=0.0)))


def ending_after(num_tokens: int, asked: Request) -> Request:
    """The request with a stop token in that place of its answer."""
    last = reference(asked)[num_tokens - 1]
    stops = replace(asked.sampling, stop_token_ids=frozenset([last]), min_tokens=num_tokens - 1)
    return replace(asked, sampling=stops)


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("policy", PROMISING)
def test_answers_of_one_bucket_are_one_group(policy: str, depth: int) -> None:
    settings = config(
        policy=policy, num_blocks=60, max_num_seqs=9, length_padding=0.0, prompt_floor_tokens=60
    )
    asked = [ending_after(5 + at, request(name, 3, 12)) for at, name in enumerate("abcd")]
    traffic = Traffic(settings, depth, "exact", tuple(Life(one, 0) for one in asked))
    assert groups_end_together(traffic) == 4


# ---- E5


def all_end(policy: str, depth: int, predictor: str, sets: list[tuple[int, int]]) -> Host:
    """Requests of (prompt, output) tokens, in 100 blocks of one token."""
    settings = config(
        policy=policy, num_blocks=100, block_size=1, max_num_batched_tokens=100, length_padding=0.0
    )
    asked = [request(f"r{at}", [at] * prompt, output) for at, (prompt, output) in enumerate(sets)]
    traffic = Traffic(settings, depth, predictor, tuple(Life(one, 0) for one in asked))
    host = traffic.host()
    drive(traffic, host, each=lambda: None)
    assert host.outputs == {one.request_id: reference(one) for one in asked}
    assert all(times < len(sets) for times in Counter(host.preempted()).values())
    if predictor == "exact" and policy != "econoserve-d":
        assert host.preempted() == []
    return host


LOCKS = [
    [(40, 30), (40, 30)],
    *itertools.permutations([(5, 20), (40, 60), (30, 60)]),
    [(40, 60), (30, 60), (30, 60), (40, 60)],
]


@pytest.mark.parametrize("predictor", ["exact", "one"])
@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("policy", DECOUPLED)
def test_no_known_set_of_lengths_is_a_deadlock(policy: str, depth: int, predictor: str) -> None:
    for sets in LOCKS:
        all_end(policy, depth, predictor, list(sets))


@settings(max_examples=50, deadline=None)
@given(
    st.sampled_from(DECOUPLED),
    st.integers(1, 2),
    st.sampled_from(["exact", "one", "under", "wild"]),
    st.lists(
        st.integers(1, 70).flatmap(lambda p: st.tuples(st.just(p), st.integers(1, 100 - p))), max_size=6
    ),
)
def test_no_set_of_lengths_is_a_deadlock(
    policy: str, depth: int, predictor: str, sets: list[tuple[int, int]]
) -> None:
    all_end(policy, depth, predictor, sets)


@pytest.mark.parametrize("policy", PROMISING)
def test_of_two_prompts_that_would_lock_each_other_one_enters(policy: str) -> None:
    host = all_end(policy, 1, "exact", [(40, 30), (40, 30)])
    assert max(len(rows) for rows in host.rows) == 1


# ---- E6, E7


def lend(policy: str, every: int) -> tuple[Host, int, int]:
    """60-token answers in 40 blocks of 16, one every few steps; the most lent, and the most at once."""
    names = [f"r{at}" for at in range(30)]
    settings = config(
        policy=policy,
        num_blocks=40,
        block_size=16,
        max_num_seqs=64,
        max_num_batched_tokens=256,
        reserve_share=0.0,
        length_padding=0.0,
        prompt_floor_tokens=32,
    )
    lives = tuple(Life(request(name, [at] * 10, 60), every) for at, name in enumerate(names))
    traffic = Traffic(settings, 1, "exact", lives)
    host, most_lent, most = traffic.host(), 0, 0

    def look() -> None:
        nonlocal most_lent, most
        most_lent = max(most_lent, host.scheduler.kv.lent_blocks)
        most = max(most, host.scheduler.batch.num_decoding)

    drive(traffic, host, each=look)
    return host, most_lent, most


@pytest.mark.parametrize("every", [2, 4])
def test_blocks_of_16_are_lent_to_answers_of_60_tokens(every: int) -> None:
    alone, _, most_alone = lend("econoserve-sdo", every)
    lending, most_lent, most = lend("econoserve", every)
    assert most_lent > 0
    assert most > most_alone
    assert len(lending.rows) < len(alone.rows)
    assert lending.outputs == alone.outputs
    assert (lending.preempted(), lending.scheduler.allocation_failures) == ([], 0)


@pytest.mark.parametrize("nested", range(4))
def test_guests_in_guests_fill_the_span_of_a_host(nested: int) -> None:
    """One guest of half its span, three of a quarter, nine of an eighth: 1 - 0.5 * 0.75^k of it is used.

    Each guest is 4 tokens shorter than its place: a prompt of one, two steps to leave, and one to enter.
    """
    span = 512
    places = [span >> depth for depth in range(1, nested + 1) for _ in range(3 ** (depth - 1))]
    settings = config(
        policy="econoserve",
        num_blocks=span + 20,
        block_size=1,
        max_num_seqs=40,
        reserve_share=0.0,
        length_padding=0.0,
        loan_buffer_tokens=0,
        prompt_floor_tokens=16,
    )
    host_asked = Life(request("host", [1], span - 1), 0)
    guests = (Life(request(f"g{at}", [2 + at], place - 4), 2 * (at == 0)) for at, place in enumerate(places))
    traffic = Traffic(settings, 1, "exact", (host_asked, *guests))
    host, used = traffic.host(), 0

    def look() -> None:
        nonlocal used
        if "host" not in host.finish_reasons():
            used += sum(len(s.block_ids) for s in host.scheduler.batch if s in host.scheduler.kv.ledger)

    drive(traffic, host, each=look)
    ends = {event.request_id: event.step_id for event in host.of(Finished)}
    assert max(ends.values()) == ends["host"]
    assert used / span**2 == pytest.approx(1 - 0.5 * 0.75**nested, rel=0.03)
    assert host.preempted() == []


# ---- E8


@pytest.mark.parametrize("policy", ["vllm", "econoserve"])
def test_a_quiet_schedule_makes_as_many_calls_for_64_as_for_8(policy: str) -> None:
    assert calls_of_a_quiet_schedule(policy, 8) == calls_of_a_quiet_schedule(policy, 64)


def calls_of_a_quiet_schedule(policy: str, running: int) -> int:
    settings = config(
        policy=policy,
        num_blocks=64 * 8,
        block_size=16,
        max_num_seqs=64,
        max_num_batched_tokens=1024,
        prompt_floor_tokens=64 * 16,
    )
    asked = [request(f"r{at}", [at] * 12, 60) for at in range(running)]
    host = Traffic(settings, 1, "exact", tuple(Life(one, 0) for one in asked)).host()
    host.add(*asked)
    calls = 0

    def count(frame: Any, event: str, arg: Any) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    while not host.scheduler._settled.holds() or host.scheduler.batch.tick % 16 != 8:  # nobody enters a block
        host.step()
    assert host.scheduler.batch.num_decoding == running
    sys.setprofile(count)
    plan = host.scheduler.schedule(host.now_ns)
    sys.setprofile(None)
    assert len(plan.decodes) == running
    return calls


# ---- E9


STEADY = 7  # the token that everybody draws in every step


def tell(scheduler: Scheduler, traffic: Traffic, step_ns: list[int], *, at_once: bool) -> list[str]:
    """The event log; where `at_once`, quiet steps are taken in together as far as nothing arrives."""
    turns = [entering for entering, _, _ in traffic.turns()]
    told: list[str] = []
    now_ns = steps = 0

    def ends(count: int) -> list[int]:
        spent = itertools.accumulate(step_ns[at % len(step_ns)] for at in range(steps, steps + count))
        return [now_ns + ns for ns in spent]

    while steps < len(turns) or len(scheduler):
        for asked in turns[steps] if steps < len(turns) else ():
            scheduler.add(asked, now_ns)
        assert steps < len(turns) + traffic.most_steps
        arrival = next((at for at in range(steps + 1, len(turns)) if turns[at]), steps + 10**6)
        taken = min(scheduler.quiet_steps(now_ns), arrival - steps, 50) if at_once else 0
        if taken:
            taken = scheduler.skip(STEADY, now_ns, ends(taken))
            now_ns, events = ends(taken)[-1], scheduler.take_events()
        else:
            taken, plan, (end_ns,) = 1, scheduler.schedule(now_ns), ends(1)
            drawn = StepResult([STEADY] * len(plan.sampling()))
            events = scheduler.commit(plan, drawn, end_ns) if plan else scheduler.take_events()
            now_ns = end_ns
        steps += taken
        single = [event.steps() if isinstance(event, QuietSteps) else [event] for event in events]
        told += lines(itertools.chain.from_iterable(single))
        scheduler.check()
    return told


def skipped_is_stepped(traffic: Traffic, step_ns: list[int]) -> None:
    told = [tell(traffic.host().scheduler, traffic, step_ns, at_once=at_once) for at_once in (False, True)]
    assert told[0] == told[1]


SKIPPING = traffics(tuple(NAMED), [*RIGHT, *WRONG], classes=[ONLINE, OFFLINE])
STEP_NS = st.lists(st.integers(1, 400 * MS), min_size=1, max_size=4)


@settings(max_examples=150, deadline=None)
@given(SKIPPING, STEP_NS)
def test_quiet_steps_taken_in_at_once_are_the_same_steps(traffic: Traffic, step_ns: list[int]) -> None:
    skipped_is_stepped(traffic, step_ns)


@pytest.mark.slow
@settings(max_examples=5000, deadline=None)
@given(SKIPPING, STEP_NS)
def test_quiet_steps_taken_in_at_once_are_the_same_in_many_runs(traffic: Traffic, step_ns: list[int]) -> None:
    skipped_is_stepped(traffic, step_ns)
