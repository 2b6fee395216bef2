"""Waiting offline requests by prefix. A block is named by the text up to its end: "abc" reads a, ab, abc."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Hashable, Iterable, Sequence
from itertools import islice

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from brim.core.errors import InvariantViolated
from brim.core.offline.node import Node, Waiter, length_class, merged
from brim.core.offline.pool import OfflinePool, bucket, urgency
from brim.core.request import RequestState, RequestView
from tests.helpers import OFFLINE, request, state


def chain(text: str) -> list[str]:
    return [text[: end + 1] for end in range(len(text))]


class Crowd:
    """A pool, and beside it everything that it must know, as plain lists and sets."""

    def __init__(self) -> None:
        self.pool = OfflinePool()
        self.texts: dict[RequestState, str] = {}
        self.cached: set[str] = set()
        self.told: list[str] = []
        self.arrivals = 0
        self.pool.prefixes.watch(self)

    def reuse_changed(self, block_hashes: Sequence[Hashable]) -> None:
        self.told += map(str, block_hashes)

    def add(self, text: str, **facts: int) -> RequestState:
        self.arrivals += 1
        new = state(request(f"{self.arrivals}", 1, task_class=OFFLINE, **facts), self.arrivals)
        self.enter(new, text)
        return new

    def enter(self, new: RequestState, text: str) -> None:
        self.texts[new] = text
        self.pool.add(new, chain(text))

    def remove(self, gone: RequestState) -> None:
        del self.texts[gone]
        self.pool.remove(gone)

    def publish(self, text: str, start: int = 0) -> None:
        self.pool.prefixes.published(chain(text), start, len(text))
        self.cached |= {*chain(text)[start:]}

    def evict(self, *block_hashes: str) -> None:
        for block_hash in block_hashes:
            self.cached.remove(block_hash)
            self.pool.prefixes.evicted(block_hash)

    def names(self, views: Iterable[RequestView]) -> list[str]:
        return [self.texts[view] for view in views]  # type: ignore[index]

    # ---- by brute force

    def cached_blocks(self, view: RequestState) -> int:
        hashes = chain(self.texts[view])
        return next((i for i, block_hash in enumerate(hashes) if block_hash not in self.cached), len(hashes))

    def reuse(self, block_hash: str) -> int:
        return sum(text.startswith(block_hash) for text in self.texts.values())

    def candidates(self) -> list[RequestState]:
        best: dict[int, RequestState] = {}
        for view in sorted(self.texts, key=lambda view: (-self.cached_blocks(view), urgency(view))):
            uncached = length_class(len(self.texts[view]) + 1) - self.cached_blocks(view)
            best.setdefault(bucket(max(uncached, 1)), view)
        first = min(self.texts, key=urgency, default=None)
        found = [] if first is None else [first]
        return [*found, *(best[number] for number in sorted(best) if best[number] is not first)]

    def check(self) -> None:
        self.pool.check()
        assert list(self.pool) == sorted(self.texts, key=urgency)
        assert len(self.pool) == len(self.texts)
        for block_hash in self.cached:
            assert self.pool.prefixes.reuse(block_hash) == self.reuse(block_hash)
            assert self.pool.prefixes.depth(block_hash) == len(block_hash) - 1
        for view in self.texts:
            assert self.pool.cached_blocks(view) == self.cached_blocks(view)
        assert self.pool.candidates() == self.candidates()


# ---- the most urgent ---------------------------------------------------------------------------------------


def test_an_empty_pool_has_nobody_to_offer():
    pool = OfflinePool()
    assert (len(pool), list(pool), pool.candidates()) == (0, [], [])


def test_urgency_is_priority_then_deadline_then_arrival():
    crowd = Crowd()
    late = crowd.add("a", arrival_ns=5)
    early = crowd.add("b", arrival_ns=1)
    due = crowd.add("c", arrival_ns=9, deadline_ns=50)
    first = crowd.add("d", arrival_ns=9, priority=-1)
    assert list(crowd.pool) == [first, due, early, late]
    crowd.remove(first)
    assert crowd.pool.candidates()[0] is due
    assert first not in crowd.pool
    assert late in crowd.pool


def test_the_oldest_is_so_since_it_was_first_noted():
    crowd = Crowd()
    crowd.pool.note_oldest(0)
    assert crowd.pool.oldest(0) is None
    old, new = crowd.add("a", arrival_ns=1, priority=5), crowd.add("b", arrival_ns=2, deadline_ns=3)
    for now_ns in (10, 20):
        crowd.pool.note_oldest(now_ns)
        assert crowd.pool.oldest(now_ns) == (old, 10)
    crowd.remove(old)
    crowd.pool.note_oldest(30)
    assert crowd.pool.oldest(35) == (new, 30)
    crowd.enter(old, "a")
    crowd.pool.note_oldest(40)
    assert crowd.pool.oldest(40) == (old, 40)


def test_a_look_at_the_oldest_notes_nothing():
    crowd = Crowd()
    old = crowd.add("a", arrival_ns=1)
    assert (crowd.pool.oldest(5), crowd.pool.oldest(100)) == ((old, 5), (old, 100))


def test_who_waits_already_is_not_added_again_and_who_does_not_is_not_removed():
    crowd = Crowd()
    waiting = crowd.add("ab")
    with pytest.raises(InvariantViolated, match="remove it before"):
        crowd.pool.add(waiting, [])
    with pytest.raises(KeyError):
        crowd.pool.remove(state(request("z")))


# ---- candidates --------------------------------------------------------------------------------------------


def test_without_a_cached_block_each_bucket_offers_its_most_urgent():
    crowd = Crowd()
    for text in ("", "ab", "xy", "cdef", "ghijk"):  # 1, 3, 3, 5 and 6 blocks
        crowd.add(text)
    assert crowd.names(crowd.pool.candidates()) == ["", "ab", "cdef"]


def test_the_most_urgent_is_always_offered_and_first():
    crowd = Crowd()
    crowd.add("abcz")
    crowd.add("stuv", priority=-1)
    crowd.add("x")
    crowd.publish("abc")
    assert crowd.names(crowd.pool.candidates()) == ["stuv", "abcz"]


def test_a_family_is_all_of_a_prefix_and_a_bucket_the_most_urgent_first():
    crowd = Crowd()
    for at in range(30):
        crowd.add(f"abcd{chr(200 + at)}")
    crowd.add("abcdefghijkl")  # another bucket
    crowd.publish("abcd")
    urgent, family, other = (crowd.names(one) for one in crowd.pool.families(64))
    assert urgent == [f"abcd{chr(200)}"]
    assert family == [f"abcd{chr(200 + at)}" for at in range(30)]
    assert other == ["abcdefghijkl"]
    assert [len(list(one)) for one in crowd.pool.families(5)] == [1, 5, 1]


def test_who_takes_few_of_a_family_looks_at_few(monkeypatch):
    crowd, looks = Crowd(), []
    stands_at = Waiter.stands_at
    for at in range(300):
        crowd.add("abc" + "defghij"[: at % 7])  # seven lengths, three of them of the first one's bucket
    crowd.publish("abc")
    one, *_ = crowd.pool.families(256)[1:]
    monkeypatch.setattr(Waiter, "stands_at", lambda who, node: looks.append(who) or stands_at(who, node))
    for taken, looked in ((1, 0), (1, 2), (7, 9), (30, 39)):
        assert len(list(islice(one, taken))) == taken
        assert len(looks) == looked


@given(st.lists(st.lists(st.integers(0, 30), max_size=12), max_size=5), st.integers(0, 40))
def test_heaps_merge_in_order_whatever_is_taken(lists, taken):
    waiters = [[Waiter(None, (number, at), 1) for number in sorted(one)] for at, one in enumerate(lists)]
    merging = [waiter.urgency for waiter in islice(merged(waiters), taken)]
    assert merging == sorted(waiter.urgency for one in waiters for waiter in one)[:taken]


def test_the_hashes_of_the_cached_prefix_are_known():
    crowd = Crowd()
    ab, abcd, xyz = crowd.add("ab"), crowd.add("abcdef"), crowd.add("xyz")
    crowd.publish("abcd")
    crowd.publish("xyzw")
    known = ["".join(map(str, crowd.pool.cached_hashes(one)[-1:])) for one in (ab, abcd, xyz)]
    assert known == ["ab", "abcd", "xyz"]
    assert crowd.pool.cached_hashes(abcd) == chain("abcd")
    crowd.evict("ab")
    assert crowd.pool.cached_hashes(abcd) == chain("a")


def test_one_resident_document_drains_before_the_next():
    crowd = Crowd()
    for tail in "123":
        crowd.add("abcdefgh" + tail)
        crowd.add("ABCDEFGH" + tail)
    crowd.publish("ABCDEFGH")
    crowd.publish("abcd")
    order = []
    while (offered := crowd.pool.candidates()[1:]) and len(crowd.texts) > 3:
        order += crowd.names(offered[:1])
        crowd.remove(offered[0])  # type: ignore[arg-type]
    assert order == ["ABCDEFGH1", "ABCDEFGH2", "ABCDEFGH3"]


def test_uncached_length_decides_the_bucket_and_not_the_whole():
    crowd = Crowd()
    crowd.add("zzz")  # 4 blocks
    crowd.add("abcdefg")  # 8 blocks, 1 uncached
    crowd.add("qrstuvw")  # 8 blocks
    crowd.publish("abcdefg")
    assert crowd.names(crowd.pool.candidates()) == ["zzz", "abcdefg", "qrstuvw"]


def test_an_evicted_parent_hides_its_children_until_it_is_back():
    crowd = Crowd()
    one = crowd.add("abcd")
    two = crowd.add("abxy")
    crowd.publish("abcd")
    crowd.publish("abxy", 2)
    assert [crowd.pool.cached_blocks(view) for view in (one, two)] == [4, 4]
    crowd.evict("a")
    assert [crowd.pool.cached_blocks(view) for view in (one, two)] == [0, 0]
    crowd.check()
    crowd.publish("a")
    assert [crowd.pool.cached_blocks(view) for view in (one, two)] == [4, 4]
    crowd.check()


def test_who_is_not_reached_any_more_is_offered_as_uncached_again():
    crowd = Crowd()
    for text in ("abc1", "abc2", "xyz1"):
        crowd.add(text)
    crowd.publish("abc")
    crowd.publish("xyz")
    assert crowd.names(crowd.pool.candidates()) == ["abc1"]
    crowd.evict("a", "x")
    crowd.add("abcd")
    assert crowd.names(crowd.pool.candidates()) == ["abc1"]
    for waiting in list(crowd.texts)[:2]:
        crowd.remove(waiting)
    assert crowd.names(crowd.pool.candidates()) == ["xyz1"]
    crowd.check()


def test_a_prompt_that_parts_from_others_behind_the_cached_blocks_leaves_them_where_they_were():
    crowd = Crowd()
    first, second, _ = crowd.add("abcd1"), crowd.add("abcd2"), crowd.add("abcd3")
    crowd.publish("ab")
    assert crowd.pool.candidates() == [first]
    crowd.add("abx")
    assert crowd.names(crowd.pool.candidates()) == ["abcd1", "abx"]
    crowd.remove(first)
    assert crowd.pool.candidates()[0] is second
    assert crowd.names(crowd.pool.candidates()) == ["abcd2", "abx"]
    crowd.check()


@pytest.mark.parametrize("num_blocks", [*range(1, 70), 1000, 8191])
def test_a_length_class_is_at_most_an_eighth_too_short(num_blocks):
    assert num_blocks - num_blocks // 8 <= length_class(num_blocks) <= num_blocks
    assert num_blocks > 16 or length_class(num_blocks) == num_blocks


# ---- reuse -------------------------------------------------------------------------------------------------


def test_reuse_counts_those_that_will_read_a_cached_block():
    crowd = Crowd()
    crowd.publish("abz")
    assert crowd.pool.prefixes.reuse("a") == 0
    crowd.add("abcd")
    gone = crowd.add("abz")
    crowd.add("a")
    assert [crowd.pool.prefixes.reuse(block_hash) for block_hash in ("a", "ab", "abz")] == [3, 2, 1]
    crowd.remove(gone)
    assert [crowd.pool.prefixes.reuse(block_hash) for block_hash in ("a", "ab", "abz")] == [2, 1, 0]


def test_a_watcher_is_told_of_new_wants_and_of_every_fall():
    crowd = Crowd()
    crowd.publish("ab")
    first = crowd.add("ab")
    assert crowd.told == ["a", "ab"]
    second = crowd.add("a")
    assert crowd.told == ["a", "ab"]  # wanted more
    crowd.told = []
    crowd.remove(first)
    assert [h for h in crowd.told if crowd.pool.prefixes.reuse(h) == 0] == ["ab"]
    assert set(crowd.told) == {"ab", "a"}
    crowd.told = []
    crowd.remove(second)
    assert crowd.told == ["a"]


# ---- against brute force -----------------------------------------------------------------------------------

texts = st.one_of(st.text("ab", max_size=6), st.sampled_from(["aab" * 12, "aab" * 12 + "b", "b" * 20]))
operations = st.lists(
    st.one_of(
        st.tuples(st.just("add"), texts, st.integers(0, 2)),
        st.tuples(st.just("remove"), st.integers(0, 99)),
        st.tuples(st.just("move"), st.integers(0, 99), texts),
        st.tuples(st.just("publish"), texts, st.integers(0, 4)),
        st.tuples(st.just("publish a request's"), st.integers(0, 99), st.integers(0, 4)),
        st.tuples(st.just("evict"), st.integers(0, 99)),
        st.tuples(st.just("look")),
    ),
    max_size=30,
)


def play(crowd: Crowd, name: str, *details: object) -> None:
    waiting, cached = list(crowd.texts), sorted(crowd.cached)
    match name, *details:
        case "add", str(text), int(priority):
            crowd.add(text, priority=priority)
        case "remove", int(at) if waiting:
            crowd.remove(waiting[at % len(waiting)])
        case "move", int(at), str(text) if waiting:  # admitted, and preempted with other tokens known
            moved = waiting[at % len(waiting)]
            crowd.remove(moved)
            crowd.enter(moved, text)
        case "publish", str(text), int(start):
            crowd.publish(text, min(start, len(text)))
        case "publish a request's", int(at), int(start) if waiting:
            text = crowd.texts[waiting[at % len(waiting)]]
            crowd.publish(text, min(start, len(text)))
        case "evict", int(at) if cached:
            crowd.evict(cached[at % len(cached)])
        case ("look",):
            assert crowd.pool.candidates() == crowd.candidates()


@given(operations)
@settings(max_examples=200, deadline=None)
def test_any_history_leaves_what_a_recount_finds(history):
    crowd = Crowd()
    for operation in history:
        play(crowd, *operation)
        crowd.pool.check()
        assert crowd.pool.candidates() == crowd.candidates()
    crowd.check()


@given(operations)
@settings(max_examples=200, deadline=None)
def test_any_history_without_a_look_leaves_what_a_recount_finds(history):
    crowd = Crowd()
    for operation in history:
        play(crowd, *operation)
    crowd.check()


@pytest.mark.slow
@given(operations)
@settings(max_examples=3000, deadline=None)
def test_any_long_history_is_right_at_every_moment(history):
    crowd = Crowd()
    for operation in history:
        play(crowd, *operation)
        crowd.check()


def test_a_chain_of_prompts_that_continue_each_other_may_be_long():
    crowd, text = Crowd(), "a" * 1100
    shortest, *_, longest = [crowd.add(text[:length]) for length in range(1, 1101)]
    crowd.publish(text, 1)
    assert [crowd.pool.cached_blocks(view) for view in (shortest, longest)] == [0, 0]
    crowd.publish("a")  # all are reached at once
    assert [crowd.pool.cached_blocks(view) for view in (shortest, longest)] == [1, 1100]
    assert crowd.names(crowd.pool.candidates()) == ["a", text]
    crowd.evict("a")
    assert [crowd.pool.cached_blocks(view) for view in (shortest, longest)] == [0, 0]
    crowd.pool.check()


# ---- a hundred thousand ------------------------------------------------------------------------------------

DOCUMENTS, DOCUMENT_BLOCKS, RESIDENT = 500, 50, 40


def prompt(number: int, own_blocks: int) -> list[int]:
    """A document's blocks, and some that no other request has."""
    document = number % DOCUMENTS
    first = -1000 * (number + 1)
    shared = range(document * DOCUMENT_BLOCKS, (document + 1) * DOCUMENT_BLOCKS)
    return [*shared, *range(first, first - own_blocks, -1)]


def waiting(number: int) -> RequestState:
    return state(request(f"{number}", (), task_class=OFFLINE, arrival_ns=number), number)


def filled(count: int) -> OfflinePool:
    pool = OfflinePool()
    for number in range(count):
        pool.add(waiting(number), prompt(number, 1 + number % 7))
    for document in range(RESIDENT):
        pool.prefixes.published(prompt(document, 0), 0, DOCUMENT_BLOCKS)
    pool.candidates()
    return pool


class Visits:
    """Counts the queues that are looked at."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        first = Node.first

        def counted(node: Node, length: int) -> object:
            self.count += 1
            return first(node, length)

        monkeypatch.setattr(Node, "first", counted)


def visits_per_round(pool: OfflinePool, visits: Visits, hashes: Sequence[int]) -> float:
    """Of one admission after the other: look, take the best away, let its blocks come and another one go."""
    rounds, before = 40, visits.count
    for number in range(rounds):
        best = pool.candidates()[-1]
        pool.remove(best)
        pool.prefixes.published(hashes, 0, number + 1)
        if number:
            pool.prefixes.evicted(hashes[number])
        pool.add(waiting(10**6 + number), prompt(number, 3))
    return (visits.count - before) / rounds


def test_a_look_at_a_hundred_thousand_visits_no_more_than_at_a_thousand(monkeypatch):
    few, many = filled(1000), filled(100_000)
    visits = Visits(monkeypatch)
    hashes = prompt(RESIDENT, 1)
    of_few, of_many = (visits_per_round(pool, visits, hashes) for pool in (few, many))
    assert of_many < 20
    assert of_many < 1.5 * of_few
    many.check()


def test_a_waiting_request_keeps_no_list_of_the_blocks_it_shares():
    requests = [waiting(number) for number in range(2000)]
    gc.collect()
    tracemalloc.start()
    pool = OfflinePool()
    for number, asked in enumerate(requests):
        pool.add(asked, prompt(number, 2))
    gc.collect()
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    shared = DOCUMENTS * DOCUMENT_BLOCKS * 40  # a number and its place in the list
    assert (held - shared) / len(pool) < 1500
