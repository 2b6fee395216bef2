"""decide() on boards made by hand: pure values in, a decision out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from brim.core.batch import DecodeLoad
from brim.core.decide import decide
from brim.core.decision import Decision, Grant
from brim.core.kvcache.timetable import Growth, Timetable
from brim.core.policies.named import named
from brim.core.policies.ordering import Ordering
from brim.core.policy import Policy
from brim.core.request import RequestState, RequestView, TaskClass
from tests.helpers import OFFLINE, ONLINE, Foretold, compute, config, request, state


@dataclass
class FakeBoard:
    """Everything a decision may know, given as it is. `need` and `frees` are blocks by request."""

    running: list[RequestView] = field(default_factory=list)
    catching_up: list[RequestView] = field(default_factory=list)
    starved: list[RequestView] = field(default_factory=list)
    waiting: Any = field(default_factory=list)
    max_num_seqs: int = 8
    num_blocks: int = 7
    block_size: int = 4
    parked: Any = field(default_factory=list)
    available_blocks: int = 0
    releases_delayed: bool = False
    blocks_under_way: int = 0
    shared: int = 0  # blocks that come free only when several give way
    need: dict[RequestView, int] = field(default_factory=dict)
    frees: dict[RequestView, int] = field(default_factory=dict)
    hits: dict[RequestView, int] = field(default_factory=dict)
    guests: list[RequestView] = field(default_factory=list)
    covered: list[RequestView] = field(default_factory=list)

    def held_blocks(self, view: RequestView) -> int:
        return len(view.block_ids)

    def is_guest(self, view: RequestView) -> bool:
        return view in self.guests

    def covers(self, view: RequestView) -> bool:
        return view in self.covered

    def own_blocks(self, view: RequestView) -> int:
        return len(view.block_ids)

    def timetable(self) -> Timetable:
        return Timetable(self.block_size)

    def growth(self, view: RequestView, own_blocks: int, *, guest: bool) -> Growth:
        return Growth(1, 0, 0)

    tick: int = 0
    steps_in_flight: list[Any] = field(default_factory=list)
    pooled: list[list[RequestView]] = field(default_factory=list)
    oldest: tuple[RequestView, int] | None = None
    online_blocks: int = 0
    offline_blocks: int = 0
    wanted_blocks: int = 0

    def load(self, task_class: TaskClass) -> DecodeLoad:
        idle = [*self.catching_up, *self.parked]
        decoding = [v for v in self.running if v.request.task_class is task_class and v not in idle]
        return DecodeLoad(len(decoding), sum(view.num_scheduled_tokens + 1 for view in decoding))

    @property
    def offline_waiting(self) -> int:
        waiting = any(view.request.task_class is OFFLINE for view in self.waiting)
        return waiting + sum(map(len, self.pooled)) + (self.oldest is not None)

    def offline_families(self, most: int) -> list[Iterator[RequestView]]:
        return [iter(family[:most]) for family in self.pooled]

    def oldest_offline(self, now_ns: int) -> tuple[RequestView, int] | None:
        return self.oldest

    def pressing_offline(self, now_ns: int) -> RequestView | None:
        return None

    def wanted_among(self, blocks: int) -> int:
        return min(blocks, self.wanted_blocks)

    @property
    def ordinary_blocks(self) -> int:
        return self.available_blocks

    @property
    def forecast_blocks(self) -> int:
        return self.available_blocks

    @property
    def num_running(self) -> int:
        return len(self.running)

    @property
    def num_decoding(self) -> int:
        return len(self.running) - len(self.catching_up) - len(self.parked)

    def hit_tokens(self, view: RequestView) -> int:
        return self.hits.get(view, 0)

    def admission_blocks(self, view: RequestView) -> int:
        return self.need.get(view, 1)

    def freeable_blocks(self, views: Sequence[RequestView]) -> int:
        return sum(self.frees.get(view, 1) for view in views) + (self.shared if len(views) > 1 else 0)


def policy(name: str = "vllm", **changes: Any) -> Policy:
    return named(config(policy=name, **changes))


def decided(board: FakeBoard, name: str = "vllm", **changes: Any) -> Decision:
    return decide(policy(name, **changes), board, 0)


def views(names: str, *, prompt: int = 4, **facts: Any) -> list[RequestState]:
    """Requests in order of arrival."""
    first = "abcdefghijklmnopqrstuvwxyz".index(names[0])
    return [
        state(request(name, prompt, arrival_ns=first + seq, **facts), first + seq)
        for seq, name in enumerate(names)
    ]


@pytest.mark.parametrize("running", ["", "abc"])
def test_where_all_simply_decode_there_is_nothing_to_decide(running):
    board = FakeBoard(running=[*views(running)] if running else [])
    nothing = Decision([], [], [], [], {}, {}, hold_decodes=False)
    assert decided(board) == nothing


# ---- blocks for the running


def test_the_starved_get_a_block_by_the_preemption_of_the_newest():
    a, b, c = views("abc")
    made = decided(FakeBoard(running=[a, b, c], starved=[a]))
    assert (made.preempt, made.pause) == ([c], [])


def test_as_many_are_preempted_as_blocks_are_lacking():
    a, b, c = views("abc")
    assert decided(FakeBoard(running=[a, b, c], starved=[a], frees={c: 0})).preempt == [c, b]
    assert decided(FakeBoard(running=[a, b, c], starved=[a, b], frees={c: 2})).preempt == [c]


def test_a_starved_request_can_be_the_victim_itself():
    a, b = views("ab")
    assert decided(FakeBoard(running=[a, b], starved=[b])).preempt == [b]
    assert decided(FakeBoard(running=[a, b], starved=[a, b])).preempt == [b]


def test_a_victim_that_starved_needs_no_block_any_more():
    a, b, c = views("abc")
    made = decided(FakeBoard(running=[a, b, c], starved=[b, c], frees={c: 1}))
    assert made.preempt == [c]


def test_offline_gives_way_to_starved_online_however_old_it_is():
    (old,) = views("a", task_class=OFFLINE)
    b, c = views("bc")
    assert decided(FakeBoard(running=[old, b, c], starved=[b]), "priority").preempt == [old]
    assert decided(FakeBoard(running=[old, b, c], starved=[b]), "vllm").preempt == [c]


def test_where_releases_are_delayed_the_starved_pause():
    a, b, c = views("abc")
    made = decided(FakeBoard(running=[a, b, c], starved=[a, b], frees={c: 2}, releases_delayed=True))
    assert (made.preempt, made.pause) == ([c], [a, b])


def test_a_paused_request_gets_no_chunk():
    a, b = views("ab")
    made = decided(FakeBoard(running=[a, b], catching_up=[a], starved=[a], releases_delayed=True))
    assert (made.preempt, made.pause, made.chunk_tokens) == ([b], [a], {})


def test_nobody_is_admitted_by_a_decision_that_preempts_for_the_starved():
    a, b, c = views("abc")
    made = decided(FakeBoard(running=[a, b], starved=[a], frees={b: 5}, waiting=[c]))
    assert (made.preempt, made.admit) == ([b], [])


# ---- admission


def test_a_waiting_request_enters_with_its_prompt_as_a_chunk():
    (a,) = views("a", prompt=9)
    made = decided(FakeBoard(waiting=[a], available_blocks=3, need={a: 3}))
    assert (made.admit, made.chunk_tokens) == ([a], {a: 9})


def test_hits_are_not_run_again():
    (a,) = views("a", prompt=9)
    assert decided(FakeBoard(waiting=[a], available_blocks=3, hits={a: 8})).chunk_tokens == {a: 1}


def test_a_full_batch_admits_nobody():
    a, b = views("ab")
    assert decided(FakeBoard(running=[a], waiting=[b], available_blocks=7, max_num_seqs=1)).admit == []


def test_seats_are_given_away_once():
    a, b, c = views("abc")
    made = decided(FakeBoard(running=[a], waiting=[b, c], available_blocks=7, max_num_seqs=2))
    assert made.admit == [b]


def test_blocks_are_given_away_once():
    a, b = views("ab")
    made = decided(FakeBoard(waiting=[a, b], available_blocks=4, need={a: 2, b: 3}))
    assert made.admit == [a]


def test_nobody_overtakes_a_waiting_request_that_does_not_fit():
    a, b = views("ab")
    assert decided(FakeBoard(waiting=[a, b], available_blocks=2, need={a: 3, b: 1})).admit == []


def test_under_priority_a_newcomer_must_leave_a_spare_block_unless_it_is_alone():
    a, b = views("ab")
    alone = FakeBoard(waiting=[b], available_blocks=2, need={b: 2})
    assert decided(alone, "priority").admit == [b]
    assert decided(replace(alone, running=[a]), "priority").admit == []
    assert decided(replace(alone, running=[a], available_blocks=3), "priority").admit == [b]


def test_the_second_newcomer_is_not_alone():
    a, b = views("ab")
    board = FakeBoard(waiting=[a, b], available_blocks=4, need={a: 2, b: 2})
    assert decided(board, "priority").admit == [a]
    assert decided(board, "vllm").admit == [a, b]


# ---- the waiting against the running


def test_offline_gives_its_blocks_to_a_waiting_online_request():
    (a,), (b,) = views("a", task_class=OFFLINE), views("b")
    made = decided(FakeBoard(running=[a], waiting=[b], need={b: 3}, frees={a: 4}), "priority")
    assert (made.preempt, made.admit, made.chunk_tokens) == ([a], [b], {b: 4})


def test_offline_gives_its_seat_to_a_waiting_online_request():
    (a,), (b,) = views("a", task_class=OFFLINE), views("b")
    board = FakeBoard(running=[a], waiting=[b], available_blocks=7, max_num_seqs=1)
    assert decided(board, "priority").preempt == [a]
    assert decided(board, "priority").admit == [b]


def test_the_fewest_give_way_the_newest_first():
    a, b, c = views("abc", task_class=OFFLINE)
    (d,) = views("d")
    board = FakeBoard(running=[a, b, c], waiting=[d], need={d: 2}, frees={a: 2, b: 2, c: 2})
    assert decided(board, "priority").preempt == [c]
    assert decided(replace(board, need={d: 3}), "priority").preempt == [c, b]


def test_those_who_would_yield_are_spare_enough():
    (a,), (b,) = views("a", task_class=OFFLINE), views("b")
    board = FakeBoard(running=[a], waiting=[b], available_blocks=2, need={b: 2})
    assert (decided(board, "priority").preempt, decided(board, "priority").admit) == ([], [b])


def test_blocks_that_several_share_count_when_all_of_them_go():
    a, b = views("ab", task_class=OFFLINE)
    (c,) = views("c")
    board = FakeBoard(running=[a, b], waiting=[c], need={c: 4}, shared=2)
    assert decided(board, "priority").preempt == [b, a]
    assert decided(replace(board, need={c: 5}), "priority").preempt == []


def test_offline_decodes_pause_so_that_an_online_prompt_gets_half_a_step():
    offline = views("abcdef", task_class=OFFLINE)
    (x,) = views("x", prompt=100)
    board = FakeBoard(running=offline, waiting=[x], available_blocks=7, num_blocks=7)
    made = decided(board, "priority", max_num_batched_tokens=8, max_num_seqs=8)
    assert made.pause == [offline[5], offline[4]]
    assert (made.admit, made.chunk_tokens, made.preempt) == ([x], {x: 4}, [])


def test_nobody_pauses_where_the_step_has_room():
    offline = views("abc", task_class=OFFLINE)
    (x,) = views("x", prompt=100)
    board = FakeBoard(running=offline, waiting=[x], available_blocks=7, num_blocks=7)
    assert decided(board, "priority", max_num_batched_tokens=8, max_num_seqs=8).pause == []


def test_nobody_gives_way_for_a_newcomer_that_would_have_no_token_to_run():
    (half_done,) = views("z", prompt=100)
    a, b = views("ab", task_class=OFFLINE)
    (c,) = views("c", priority=1)
    board = FakeBoard(running=[half_done, a, b], catching_up=[half_done, a, b], waiting=[c], need={c: 1})
    made = decided(board, "priority")
    assert (made.preempt, made.admit, made.chunk_tokens) == ([], [], {half_done: 64})


def test_the_starved_pause_for_blocks_that_are_under_way_already():
    a, b = views("ab")
    made = decided(FakeBoard(running=[a, b], starved=[a], blocks_under_way=1, releases_delayed=True))
    assert (made.preempt, made.pause) == ([], [a])


def test_nobody_gives_way_where_even_all_would_not_do():
    a, b = views("ab", task_class=OFFLINE)
    (c,) = views("c")
    board = FakeBoard(running=[*views("z"), a, b], waiting=[c], need={c: 6}, frees={a: 2, b: 2})
    assert (decided(board, "priority").preempt, decided(board, "priority").admit) == ([], [])


@pytest.mark.parametrize(("running", "waiting"), [(ONLINE, ONLINE), (OFFLINE, OFFLINE), (ONLINE, OFFLINE)])
def test_nobody_else_gives_way_to_the_waiting(running, waiting):
    (a,), (b,) = views("a", task_class=running), views("b", task_class=waiting)
    board = FakeBoard(running=[a], waiting=[b], need={b: 1}, frees={a: 4})
    assert (decided(board, "priority").preempt, decided(board, "priority").admit) == ([], [])


def test_where_releases_are_delayed_the_newcomer_waits_for_the_blocks_it_was_given():
    (a,), (b,) = views("a", task_class=OFFLINE), views("b")
    board = FakeBoard(running=[a], waiting=[b], need={b: 3}, frees={a: 4}, releases_delayed=True)
    assert (decided(board, "priority").preempt, decided(board, "priority").admit) == ([a], [])


def test_a_seat_is_free_at_once_though_the_blocks_are_not():
    (a,), (b,) = views("a", task_class=OFFLINE), views("b")
    board = FakeBoard(running=[a], waiting=[b], available_blocks=4, max_num_seqs=1, releases_delayed=True)
    assert decided(board, "priority").admit == [b]


# ---- the token budget


def test_decodes_are_paid_before_chunks():
    a, b, c = views("abc", prompt=20)
    board = FakeBoard(running=[a, b], waiting=[c], available_blocks=7)
    assert decided(board, max_num_batched_tokens=10).chunk_tokens == {c: 8}


def test_a_half_done_prompt_gets_the_rest_of_its_prompt():
    (a,) = views("a", prompt=20)
    a.admit(0)
    a.schedule(16)
    assert decided(FakeBoard(running=[a], catching_up=[a])).chunk_tokens == {a: 4}


def test_the_older_half_done_prompt_goes_first():
    a, b = views("ab", prompt=20)
    board = FakeBoard(running=[b, a], catching_up=[b, a])
    assert decided(board, max_num_batched_tokens=24).chunk_tokens == {a: 20, b: 4}


def test_an_urgent_newcomer_gets_its_tokens_before_a_half_done_prompt():
    (a,), (b,) = views("a", prompt=20, task_class=OFFLINE), views("b", prompt=20)
    board = FakeBoard(running=[a], catching_up=[a], waiting=[b], available_blocks=7)
    made = decided(board, "priority", max_num_batched_tokens=24)
    assert list(made.chunk_tokens.items()) == [(b, 20), (a, 4)]


def test_a_half_done_prompt_behind_a_blocked_newcomer_still_runs():
    (a,), (b,) = views("a", prompt=20, task_class=OFFLINE), views("b", prompt=20)
    board = FakeBoard(running=[a], catching_up=[a], waiting=[b], available_blocks=1, need={b: 9})
    made = decided(board, "priority")
    assert (made.admit, made.chunk_tokens) == ([], {a: 20})


def test_nobody_is_admitted_without_a_token_left():
    a, b = views("ab", prompt=20)
    board = FakeBoard(running=[a], catching_up=[a], waiting=[b], available_blocks=7)
    assert decided(board, max_num_batched_tokens=20).admit == []


def test_chunks_are_no_longer_than_their_limit():
    a, b = views("ab", prompt=20)
    made = decided(FakeBoard(waiting=[a, b], available_blocks=7), max_prefill_chunk_tokens=6)
    assert made.chunk_tokens == {a: 6, b: 6}


def test_the_token_of_a_victim_is_spent_on_somebody_else():
    (a,), (b,) = views("a", task_class=OFFLINE), views("b", prompt=20)
    board = FakeBoard(running=[a], waiting=[b], available_blocks=0, need={b: 3}, frees={a: 4}, max_num_seqs=1)
    assert decided(board, "priority", max_num_batched_tokens=8).chunk_tokens == {b: 8}


def test_a_decision_reads_the_board_and_changes_nothing():
    (a,), (b,) = views("a", task_class=OFFLINE), views("b")
    board = FakeBoard(running=[a], starved=[a], waiting=[b], frees={a: 4})
    before = replace(board, running=[a], starved=[a], waiting=[b])
    assert decided(board, "priority") == decided(board, "priority")
    assert board == before


# ---- promises


def ready(name: str, outputs: int, seq: int = 0, *, prompt: int = 4, arrival_ns: int = 0) -> RequestState:
    """Its prompt is computed and in its blocks; it waits to generate, or does so."""
    one = state(request(name, prompt, outputs, arrival_ns=arrival_ns), seq)
    one.admit(0)
    one.schedule(prompt)
    compute(one, prompt)
    one.block_ids = list(range(-(-prompt // 4)))
    return one


class Parked(list[RequestView]):
    """They are given in order."""

    def __init__(self, ordering: Ordering, views: list[RequestView]) -> None:
        super().__init__(views)
        self._ordering = ordering

    def key(self, view: RequestView) -> tuple[float, ...]:
        return self._ordering.key(view, 0)


def promised(board: FakeBoard, name: str = "econoserve-sd", **changes: Any) -> Decision:
    """With every answer foretold, 100 blocks of 4, none kept."""
    exact = {"reserve_share": 0.0, "length_padding": 0.0, "prompt_floor_tokens": 1, "num_blocks": 100}
    names = [*board.running, *board.waiting]
    lengths = {view.request.request_id: view.request.sampling.max_tokens for view in names}
    policy = named(config(policy=name, **(exact | changes)), Foretold(lengths))
    return decide(policy, replace(board, parked=Parked(policy.ordering, board.parked)), 0)


def test_those_that_end_together_are_granted_one_after_the_other():
    a, b, c = ready("a", 8, 0), ready("b", 4, 1), ready("c", 8, 2)
    board = FakeBoard(running=[a, b, c], parked=[a, b, c], available_blocks=9)
    assert list(promised(board).grants.items()) == [(a, Grant(8, 2)), (c, Grant(8, 2)), (b, Grant(4, 1))]
    on_demand = promised(board, "econoserve-d").grants
    assert list(on_demand.items()) == [(a, Grant(8, 1)), (b, Grant(4, 1)), (c, Grant(8, 1))]


def test_nobody_passes_a_group_that_does_not_fit():
    a, b = ready("a", 40, 0), ready("b", 4, 1, arrival_ns=1)
    (x,) = views("x")
    board = FakeBoard(running=[x, a, b], parked=[a, b], available_blocks=9)
    assert promised(board).grants == {}
    assert promised(replace(board, available_blocks=11)).grants == {a: Grant(40, 10), b: Grant(4, 1)}


def test_in_equal_ranges_a_smaller_one_may_pass():
    a, b = ready("a", 40, 0), ready("b", 4, 1, arrival_ns=1)
    (x,) = views("x")
    board = FakeBoard(running=[x, a, b], parked=[a, b], available_blocks=9)
    assert promised(board, "econoserve-sdo").grants == {b: Grant(4, 1)}


def test_a_guest_is_one_for_whom_no_ordinary_promise_is_left():
    a, b, c = ready("a", 12, 0), ready("b", 12, 1), ready("c", 12, 2)
    (x,) = views("x")
    board = FakeBoard(running=[x, a, b, c], parked=[a, b, c], available_blocks=7)
    made = promised(board, "econoserve")
    assert made.grants == {a: Grant(12, 3), b: Grant(12, 3), c: Grant(12, 3, guest=True)}
    assert promised(board, "econoserve-sdo").grants == {a: Grant(12, 3), b: Grant(12, 3)}


def test_reserve_and_floor_are_kept_from_outputs_unless_one_is_alone():
    (x,), a = views("x"), ready("a", 8)
    kept = {"reserve_share": 0.03, "prompt_floor_tokens": 16}  # 3 blocks and 4
    board = FakeBoard(running=[x, a], parked=[a], num_blocks=100, available_blocks=8)
    assert promised(board, **kept).grants == {}
    assert promised(replace(board, available_blocks=9), **kept).grants == {a: Grant(8, 2)}
    alone = FakeBoard(running=[a], parked=[a], num_blocks=100, available_blocks=2)
    assert promised(alone, **kept).grants == {a: Grant(8, 2)}


def test_who_outgrows_its_promise_takes_the_reserve():
    a, b = ready("a", 8), ready("b", 8, 1)
    board = FakeBoard(running=[a, b], starved=[a], num_blocks=100, available_blocks=2)
    made = promised(board, reserve_share=0.03)
    assert (made.grants, made.park, made.preempt) == ({a: Grant(8, 2)}, [], [])


def test_who_outgrows_its_promise_takes_one_block_where_there_is_no_more():
    a, b = ready("a", 8), ready("b", 8, 1)
    made = promised(FakeBoard(running=[a, b], starved=[a], available_blocks=1))
    assert (made.grants, made.park) == ({a: Grant(8, 1)}, [])


def test_who_outgrows_its_promise_where_nothing_is_left_parks_and_keeps_its_kv():
    a, b = ready("a", 8), ready("b", 8, 1)
    made = promised(FakeBoard(running=[a, b], starved=[a]))
    assert (made.grants, made.park, made.preempt, made.pause) == ({}, [a], [], [])


def test_who_is_parked_while_it_catches_up_gets_no_token_and_stops_nobody_else():
    a, b, c, d = (ready(name, 8, seq) for seq, name in enumerate("abcd"))
    a.append(7)
    made = promised(FakeBoard(running=[a, b], starved=[a], catching_up=[a]))
    assert (made.park, made.chunk_tokens) == ([a], {})
    made = promised(FakeBoard(running=[a, b, c, d], starved=[a], catching_up=[a], parked=[c, d]))
    assert (made.park, made.preempt) == ([a], [])  # b goes on


def test_the_newest_guest_leaves_for_a_host_that_needs_its_blocks():
    host, old, new = ready("h", 40, 0), ready("o", 4, 1), ready("n", 4, 2)
    board = FakeBoard(running=[host, old, new], starved=[host], covered=[host], guests=[old, new])
    made = promised(board, "econoserve")
    assert (made.preempt, made.park) == ([new], [])
    made = promised(replace(board, frees={new: 0}), "econoserve")
    assert (made.preempt, made.park) == ([new, old], [])
    made = promised(replace(board, releases_delayed=True), "econoserve")
    assert (made.preempt, made.park) == ([new], [host])  # the blocks come free after this step


def test_one_guest_leaves_for_as_many_hosts_as_it_has_blocks():
    a, b, guest = ready("a", 40, 0), ready("b", 40, 1), ready("g", 4, 2)
    board = FakeBoard(running=[a, b, guest], starved=[a, b], covered=[a, b], guests=[guest], frees={guest: 2})
    made = promised(board, "econoserve")
    assert (made.preempt, made.park) == ([guest], [])
    made = promised(replace(board, frees={guest: 1}), "econoserve")
    assert (made.preempt, made.park) == ([guest], [b])


def test_a_guest_that_lacks_a_block_makes_nobody_leave():
    host, old, new = ready("h", 40, 0), ready("o", 4, 1), ready("n", 4, 2)
    board = FakeBoard(running=[host, old, new], starved=[old], covered=[old], guests=[old, new])
    made = promised(board, "econoserve")
    assert (made.preempt, made.park) == ([], [old])


def test_where_nothing_runs_and_nothing_can_be_granted_one_of_the_parked_gives_way():
    first, much, little = ready("a", 40, 0), ready("b", 40, 1, prompt=12), ready("c", 40, 2)
    board = FakeBoard(running=[first, much, little], parked=[first, much, little])
    assert promised(board).preempt == [little]  # what loses least, and never the first
    little.num_preemptions = 3
    assert promised(board).preempt == [much]  # nor one that has given way again and again
    (x,) = views("x")
    assert promised(replace(board, running=[x, *board.running])).preempt == []
    assert promised(replace(board, steps_in_flight=[(0, None)])).preempt == []
    assert promised(FakeBoard(running=[first], parked=[first])).preempt == []


# ---- entering under a promise


def test_a_prompt_waits_until_the_one_before_it_is_granted():
    a, (b,) = ready("a", 40, prompt=8), views("b", prompt=8)
    board = FakeBoard(running=[a], parked=[a], waiting=[b], num_blocks=100, available_blocks=9)
    made = promised(board, "econoserve-sd", prompt_floor_tokens=8)
    assert (made.grants, made.admit) == ({}, [])
    made = promised(replace(board, available_blocks=20), "econoserve-sd", prompt_floor_tokens=8)
    assert (made.grants, made.admit) == ({a: Grant(40, 10)}, [b])


def test_one_queue_grants_when_it_admits():
    (a,) = views("a", max_tokens=7)
    board = FakeBoard(waiting=[a], available_blocks=3)
    assert promised(board, "s3").grants == {a: Grant(7, 2)}
    assert promised(board, "orca").grants == {a: Grant(7, 2)}
    assert promised(board, "vllm").grants == {}
    assert promised(replace(board, available_blocks=2), "s3").admit == []


def test_the_maximum_is_reserved_however_little_is_expected():
    (a,) = views("a", max_tokens=20)
    board = FakeBoard(waiting=[a], available_blocks=9)
    a.expect(1)
    blocks = {
        name: promised(board, name).grants[a].blocks for name in ("orca", "fastserve", "s3", "multires")
    }
    assert blocks == {"orca": 5, "fastserve": 5, "s3": 1, "multires": 1}


def test_a_step_with_whole_prompts_holds_the_outputs():
    a, b, c = views("abc", prompt=20)
    board = FakeBoard(running=[a], waiting=[b, c], available_blocks=7)
    made = decided(board, "vllm-2023", max_num_batched_tokens=30)
    assert (made.chunk_tokens, made.hold_decodes) == ({b: 20}, True)
    assert not decided(replace(board, waiting=[]), "vllm-2023").hold_decodes
    assert not decided(board, "sarathi").hold_decodes


def test_srtf_preempts_the_one_with_most_to_come():
    short, long = ready("s", 3, 1), ready("l", 9, 0)
    assert promised(FakeBoard(running=[long, short], starved=[short]), "srtf").preempt == [long]


def test_fastserve_takes_the_seat_of_one_that_was_served_longer():
    (served,) = views("a", prompt=600)
    (fresh,) = views("z")
    board = FakeBoard(running=[served], waiting=[fresh], available_blocks=9, max_num_seqs=1)
    assert promised(board, "fastserve", num_blocks=999).preempt == [served]
    assert promised(board, "srtf", num_blocks=999).preempt == []
