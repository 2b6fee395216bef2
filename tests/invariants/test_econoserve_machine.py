"""Promises, groups and loans under random traffic, with predictors that are right, wrong and wild.

E1 blocks are never overdrawn, and every request ends with the script's tokens, whatever is predicted
E2 where lengths are known, the forecast use never passes capacity - reserve at any coming step
E3 inside its promise nobody lacks a block, gives way or waits       E4 a group that starts together ends so
E5 no set of lengths is a deadlock                                   E6 short answers are lent to
E7 nested loans fill a host's span                                   E8 a quiet step asks no request
E9 quiet steps taken in at once are the same steps                   E10 they decide what a full decision would
"""

from __future__ import annotations

import itertools
import math
import sys
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from brim.core.config import SchedulerConfig
from brim.core.events import Finished, Preempted, QuietSteps
from brim.core.plan import StepResult
from brim.core.policies.named import NAMED, named
from brim.core.request import SLO, FinishReason, Request, RequestState
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
    (*DECOUPLED, *COUPLED), [*RIGHT, *WRONG, "wild"], ["", "", "", "abort", "error"], [ONLINE, ONLINE, OFFLINE]
)
FORESEEN = traffics((*PROMISING, "s3", "multires"), [*RIGHT])


def many(strategy: st.SearchStrategy[Traffic], few: int) -> Callable[[Any], Any]:
    """The test with a few examples and, marked slow, with very many."""
    raise NotImplementedError


# ---- E1, E10


def everybody_ends_and_says_what_the_script_says(traffic: Traffic) -> None:
    host, twin = traffic.host(), traffic.host()
    seen = 0

    def compare() -> None:
        nonlocal seen
        assert lines(host.events[seen:]) == lines(twin.events[seen:])
        assert host.rows[-1:] == twin.rows[-1:]
        assert host.scheduler.kv.used_blocks <= traffic.config.num_blocks
        seen = len(host.events)
        twin.scheduler._settled = False  # the twin never takes the quiet way

    drive(traffic, host, twin, each=compare)
    assert host.scheduler.kv.used_blocks == 0
    assert sorted(event.request_id for event in host.of(Finished)) == sorted(host.outputs)
    for life in traffic.lives:
        name = life.asked.request_id
        said, whole = host.outputs[name], reference(life.asked)
        cut = host.finish_reasons()[name] in (FinishReason.ABORT, FinishReason.ERROR)
        assert said == (whole[: len(said)] if cut else whole)


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
        assert not generating & set(scheduler.batch.parked)  # nobody waits once it has been granted
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
