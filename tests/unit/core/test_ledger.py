"""Promises and loans: counts, no addresses."""

from __future__ import annotations

import pytest

from brim.core.errors import InvariantViolated
from brim.core.kvcache.block_pool import BlockPool
from brim.core.kvcache.ledger import Ledger
from brim.core.kvcache.manager import KVCacheManager
from brim.core.request import RequestState
from tests.helpers import compute, request, state


class Clock:
    tick = 0


def a_ledger(**facts) -> Ledger:
    return Ledger(4, Clock(), **{"buffer_steps": 0, **facts})


def holding(name: str, *block_ids: int, outputs: int = 8) -> RequestState:
    """A request whose prompt is computed and fills the blocks."""
    running = state(request(name, 4 * len(block_ids), outputs))
    running.admit(0)
    running.schedule(4 * len(block_ids))
    running.block_ids = list(block_ids)
    return running


def write(ledger: Ledger, view: RequestState, *block_ids: int) -> None:
    ledger.write(view, len(block_ids))
    view.block_ids += block_ids


def sums(ledger: Ledger) -> tuple[int, int, int, int]:
    """Unwritten of hosts, unwritten of guests, held by guests, held by all."""
    return ledger._hosts_unwritten, ledger._guests_unwritten, ledger._lent, ledger._timetable.held


def test_an_empty_ledger_knows_nobody():
    ledger, a = a_ledger(), holding("a", 0)
    assert (len(ledger), a in ledger, ledger.covers(a), ledger.is_guest(a)) == (0, False, False, False)
    assert (ledger.held_blocks(a), ledger.unwritten, ledger.promised, ledger.lent) == (1, 0, 0, 0)
    ledger.release(a)
    ledger.check([])


def test_a_promise_is_written_block_by_block():
    ledger, a = a_ledger(), holding("a", 0)
    ledger.promise(a, 2, a.block_ids[:1])
    assert (sums(ledger), ledger.held_blocks(a)) == ((2, 0, 0, 1), 3)
    assert [ledger.covers(a, blocks) for blocks in (1, 2, 3)] == [True, True, False]
    write(ledger, a, 1)
    assert (sums(ledger), ledger.held_blocks(a), ledger.covers(a)) == ((1, 0, 0, 2), 3, True)
    write(ledger, a, 2)
    assert (sums(ledger), ledger.held_blocks(a), ledger.covers(a)) == ((0, 0, 0, 3), 3, False)
    ledger.check([a])


def test_a_second_promise_comes_to_the_first():
    ledger, a = a_ledger(), holding("a", 0)
    ledger.promise(a, 1, a.block_ids[:1])
    write(ledger, a, 1)
    ledger.promise(a, 2, a.block_ids[:2])
    assert (sums(ledger), ledger.held_blocks(a)) == ((2, 0, 0, 2), 4)
    ledger.check([a])


def test_nobody_writes_beyond_a_promise():
    ledger, a = a_ledger(), holding("a", 0)
    ledger.promise(a, 1, a.block_ids[:1])
    with pytest.raises(InvariantViolated, match="beyond its promise"):
        ledger.write(a, 2)


def test_what_a_guest_holds_is_lent():
    ledger, host, guest = a_ledger(), holding("h", 0), holding("g", 1)
    ledger.promise(host, 3, host.block_ids[:1])
    ledger.promise(guest, 1, guest.block_ids[:1], guest=True)
    assert (sums(ledger), ledger.promised, ledger.kept_for_hosts) == ((3, 1, 1, 2), 4, 2)
    write(ledger, guest, 2)
    assert (sums(ledger), ledger.lent, ledger.kept_for_hosts) == ((3, 0, 2, 3), 2, 1)
    assert (ledger.is_guest(host), ledger.is_guest(guest)) == (False, True)
    ledger.check([host, guest])


def test_who_leaves_is_forgotten_with_all_that_was_promised():
    ledger, host, guest = a_ledger(), holding("h", 0), holding("g", 1)
    ledger.promise(host, 3, host.block_ids[:1])
    ledger.promise(guest, 2, guest.block_ids[:1], guest=True)
    write(ledger, guest, 2)
    ledger.release(guest)
    assert (sums(ledger), guest in ledger) == ((3, 0, 0, 1), False)
    ledger.release(host)
    assert (sums(ledger), len(ledger), ledger.unwritten) == ((0, 0, 0, 0), 0, 0)


def test_blocks_of_others_do_not_come_free_with_a_request():
    ledger, a = a_ledger(), holding("a", 0, 1)
    ledger.promise(a, 2, a.block_ids[:1])
    assert sums(ledger) == (2, 0, 0, 1)
    ledger.release(a)
    assert sums(ledger) == (0, 0, 0, 0)


def test_without_guests_all_promises_are_kept_whole():
    ledger, a, b = a_ledger(), holding("a", 0), holding("b", 1)
    ledger.promise(a, 2, a.block_ids[:1])
    ledger.promise(b, 2, b.block_ids[:1])
    assert ledger.unwritten == ledger.promised == 4


def test_with_a_guest_the_most_that_is_held_at_once_is_kept():
    ledger, host, guest = a_ledger(), holding("h", 0, outputs=20), holding("g", 1, outputs=4)
    ledger.promise(host, 5, host.block_ids[:1])
    ledger.promise(guest, 1, guest.block_ids[:1], guest=True)
    assert (ledger.promised, ledger.unwritten) == (6, ledger.timetable.unwritten) == (6, 5)


def test_a_request_is_forecast_to_its_end_and_two_steps_beyond():
    ledger, a = a_ledger(), holding("a", 0, outputs=8)
    assert ledger.growth(a, 1, 1, guest=False) == (8 + 2, 4 + 4, 0)
    assert ledger.growth(a, 1, 1, guest=True) == (8 + 2, 4 + 4, 0)
    assert a_ledger(buffer_steps=5).growth(a, 1, 1, guest=True) == (8 + 5, 4 + 4, 0)
    assert a_ledger(buffer_steps=5).growth(a, 1, 1, guest=False) == (8 + 2, 4 + 4, 0)
    assert ledger.growth(a, 0, 1, guest=False) == (8 + 2, 4 + 4, -1)  # its prompt's block is shared


def test_who_is_longer_than_expected_may_end_at_every_step():
    ledger, a = a_ledger(), holding("a", 0, 1, 2, outputs=9)
    a.expect(1)
    a.schedule(3)
    assert ledger.growth(a, 3, 3, guest=False) == (1 + 2, 15 + 4, 0)


def test_the_forecast_follows_who_comes_leaves_or_sits_out():
    ledger, host, guest = a_ledger(), holding("h", 0, outputs=20), holding("g", 1, outputs=4)
    ledger.promise(host, 5, host.block_ids[:1])
    write(ledger, host, 9)
    assert (ledger.timetable.peak, ledger.timetable.held) == (7, 2)
    ledger.promise(guest, 1, guest.block_ids[:1], guest=True)
    assert (ledger.timetable.first_end, ledger.timetable.held) == (4 + 2, 3)
    ledger._clock.tick = 3  # type: ignore[misc]
    ledger.disturb(guest)  # it has not run meanwhile
    assert ledger.timetable.first_end == 3 + 4 + 2
    ledger.release(guest)
    assert (ledger.timetable.first_end, ledger.timetable.held) == (20 + 2, 2)


def test_who_should_have_left_may_end_at_every_step_from_now_on():
    ledger, host = a_ledger(), holding("h", 0, outputs=4)
    ledger.promise(host, 1, host.block_ids[:1])
    ledger._clock.tick = 7  # type: ignore[misc]
    host.schedule(7)
    assert ledger.timetable.first_end == 7 + 1 + 2
    ledger.check([host])


def test_the_oldest_guests_become_hosts_when_enough_comes_free():
    ledger, host = a_ledger(), holding("h", 0)
    old, new = holding("o", 1), holding("n", 2)
    ledger.promise(host, 4, host.block_ids[:1])
    for guest in (old, new):
        ledger.promise(guest, 2, guest.block_ids[:1], guest=True)
    assert sums(ledger) == (4, 4, 2, 3)
    ledger.promote(4)  # 4 free, of which hosts need 4 - 2
    assert sums(ledger) == (4, 4, 2, 3)
    ledger.promote(5)  # 3 more: the old one's 2, and the one that it holds is lent no more
    assert (sums(ledger), ledger.is_guest(old), ledger.is_guest(new)) == ((6, 2, 1, 3), False, True)
    ledger.promote(99)
    assert (sums(ledger), ledger.lent) == ((8, 0, 0, 3), 0)
    ledger.check([host, old, new])


def test_a_younger_guest_does_not_pass_an_older_one_that_stays():
    ledger, old, new = a_ledger(), holding("o", 1), holding("n", 2)
    ledger.promise(old, 5, old.block_ids[:1], guest=True)
    ledger.promise(new, 1, new.block_ids[:1], guest=True)
    ledger.promote(3)
    assert (ledger.is_guest(old), ledger.is_guest(new)) == (True, True)


def test_a_block_that_somebody_shares_stays_when_its_first_holder_leaves():
    ledger, a, b = a_ledger(), holding("a", 7, 8), holding("b", 9)
    ledger.promise(a, 1, a.block_ids[:2], guest=True)
    ledger.promise(b, 1, b.block_ids[:1])
    ledger.disown([7, 8])
    assert sums(ledger) == (1, 1, 0, 1)
    ledger.check([a, b])
    ledger.release(a)
    assert sums(ledger) == (1, 0, 0, 1)


def test_a_block_is_disowned_once_and_only_by_its_owner():
    ledger, a = a_ledger(), holding("a", 7, 8)
    ledger.promise(a, 1, a.block_ids[:2])
    ledger.disown([5])
    assert sums(ledger) == (1, 0, 0, 2)
    for _ in range(2):
        ledger.disown([8, 9])
        assert sums(ledger) == (1, 0, 0, 1)


@pytest.mark.parametrize(
    ("break_it", "complaint"),
    [
        (lambda ledger, share: setattr(ledger, "_hosts_unwritten", 9), "sums are not"),
        (lambda ledger, share: setattr(ledger, "_guests_unwritten", 9), "sums are not"),
        (lambda ledger, share: setattr(ledger, "_lent", 9), "sums are not"),
        (lambda ledger, share: setattr(ledger._timetable, "held", 9), "sums are not"),
        (lambda ledger, share: ledger._guests.clear(), "sums are not"),
        (lambda ledger, share: share.view.block_ids.append(99), "blocks that the ledger does not know"),
        (lambda ledger, share: setattr(share, "base", 0), "blocks that the ledger does not know"),
        (lambda ledger, share: ledger.promise(holding("x", 5), 0, []), "does not run"),
        (lambda ledger, share: give_back_more_than_promised(ledger, share), "wrote 0 of -1 blocks"),
    ],
)
def test_check_finds_broken_sums(break_it, complaint):
    ledger, host, guest = a_ledger(), holding("h", 0), holding("g", 1)
    ledger.promise(host, 3, host.block_ids[:1])
    ledger.promise(guest, 2, guest.block_ids[:1], guest=True)
    ledger.check([host, guest])
    break_it(ledger, ledger._shares["g"])
    with pytest.raises(InvariantViolated, match=complaint):
        ledger.check([host, guest])


def give_back_more_than_promised(ledger: Ledger, share) -> None:
    share.blocks -= 3
    ledger._guests_unwritten -= 3


# ---- behind the manager


def shared_prompt(ledger: Ledger) -> tuple[KVCacheManager, RequestState, RequestState]:
    """One whose prompt of two whole blocks is computed, and another that begins alike."""
    kv = KVCacheManager(BlockPool(9), 4, ledger=ledger)
    first, second = (state(request(name, [*range(8), at]), at) for at, name in enumerate("ab"))
    first.admit(kv.admit(first))
    first.schedule(9)
    compute(first, 9)
    kv.publish_computed(first)
    return kv, first, second


def test_who_shares_blocks_keeps_them_from_coming_free_with_their_first_holder():
    ledger = a_ledger()
    kv, first, second = shared_prompt(ledger)
    kv.promise(first, 2)
    assert sums(ledger) == (2, 0, 0, 3)
    kv.admit(second)
    assert sums(ledger) == (2, 0, 0, 1)
    kv.promise(second, 1)
    assert sums(ledger) == (3, 0, 0, 2)


def test_where_lending_counts_on_blocks_to_come_free_to_share_them_costs_as_much_as_new_ones():
    for ledger, blocks in ((a_ledger(), 3), (Ledger(4, Clock()), 1)):
        kv, _, second = shared_prompt(ledger)
        assert kv.admission_blocks(second) == blocks
        third = state(request("c", [*range(8), 2]), 2)
        kv.admit(second)
        assert kv.admission_blocks(third) == 1  # the two have other holders anyway


def test_blocks_given_back_make_a_guest_a_host():
    ledger = a_ledger()
    kv, first, _ = shared_prompt(ledger)
    other = state(request("x", 16), 3)
    kv.admit(other)
    kv.promise(first, 3, guest=True)
    kv.promise(other, 2)
    assert ledger.is_guest(first)
    kv.give_back(kv.detach(other))
    assert not ledger.is_guest(first)
