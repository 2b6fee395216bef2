"""The offline requests that wait, and which of them to look at when a step is planned.

Built from the published summaries of Echo (arXiv 2504.03651): a radix trie over the prompts, buckets by
uncached length, and inside a bucket the longest cached prefix. The structure is our own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

from brim.core.errors import InvariantViolated
from brim.core.kvcache.prefix_index import BlockHash
from brim.core.lazy_heap import LazyHeap
from brim.core.offline.node import Node, Urgency, Waiter
from brim.core.offline.trie import PrefixTrie
from brim.core.request import RequestView

# (-cached blocks, the most urgent there, serial of the look at the node, node): smaller is better
_Place = tuple[int, Waiter, int, Node]
_Timed = tuple[int, int, Waiter]  # when it arrived, or presses; its number; the request


def urgency(view: RequestView) -> Urgency:
    """Smaller goes first. No two requests have the same."""
    return *view.request.urgency, view.arrival_seq


def bucket(uncached_blocks: int) -> int:
    """1 for one block, and one more for every doubling."""
    return uncached_blocks.bit_length()


class OfflinePool:
    """New and preempted offline requests by the prefixes they share; these are told what is cached.

    What a call costs depends on the lengths of prefixes and on the number of buckets, not on how many wait.
    """

    def __init__(self) -> None:
        self.prefixes = PrefixTrie()
        self._waiters: dict[str, Waiter] = {}
        self._by_urgency: LazyHeap[Waiter] = LazyHeap(lambda waiter: waiter.waits)
        self._by_arrival: LazyHeap[_Timed] = LazyHeap(lambda arrival: arrival[-1].waits)
        self._by_deadline: LazyHeap[_Timed] = LazyHeap(lambda deadline: deadline[-1].waits)
        self._oldest: tuple[Waiter | None, int] = (None, 0)  # and since when nobody older waits
        self._places: dict[int, LazyHeap[_Place]] = {}  # by bucket
        self._looks = 0

    def __len__(self) -> int:
        return len(self._waiters)

    def __contains__(self, view: RequestView) -> bool:
        return view.request.request_id in self._waiters

    def __iter__(self) -> Iterator[RequestView]:
        """In order of urgency. Sorts: not for every step."""
        return (waiter.view for waiter in sorted(self._waiters.values()))

    # ---- requests --------------------------------------------------------------------------------------

    def add(self, view: RequestView, hashes: Sequence[BlockHash]) -> None:
        """Lets the request wait. `hashes`: of the whole blocks that a hit may use.

        What is known of its length is one block more than these. Raises InvariantViolated where it waits
        already.
        """
        if view in self:
            raise InvariantViolated(f"{view} waits already: remove it before it is added again")
        waiter = Waiter(view, urgency(view), len(hashes) + 1)
        self._waiters[view.request.request_id] = waiter
        self.prefixes.insert(waiter, hashes)
        self._by_urgency.push(waiter)
        self._by_arrival.push((view.request.arrival_ns, view.arrival_seq, waiter))
        from_ns = view.request.presses_from_ns
        if from_ns is not None:
            self._by_deadline.push((from_ns, view.arrival_seq, waiter))

    def remove(self, view: RequestView) -> None:
        """Raises KeyError where the request does not wait."""
        self.prefixes.remove(self._waiters.pop(view.request.request_id))

    def candidates(self) -> list[RequestView]:
        """The most urgent request, so that nothing starves; then one of each bucket of uncached length.

        Of a bucket the one with the longest cached prefix, of several the most urgent: so one resident
        document drains before the next. The least uncached bucket comes first. For this choice a request's
        length is rounded down, by an eighth at most, and at least one block counts as uncached.
        """
        return list(dict.fromkeys(next(family) for family in self.families(1)))

    def families(self, most: int) -> list[Iterator[RequestView]]:
        """The same, each followed by others of its bucket and prefix, `most` in all: none is empty.

        The most urgent request comes alone, so it may be there twice. To be used before the pool changes.
        """
        while self.prefixes.changed:
            self._look(self.prefixes.changed.popitem()[0])
        first = self._by_urgency.first()
        urgent = [] if first is None else [iter((first.view,))]
        return [*urgent, *(self._family(*best, most) for best in list(self._best_of_buckets()))]

    def note_oldest(self, now_ns: int) -> None:
        """To be called before every decision: who waits longest now has done so since the first such call."""
        first = self._by_arrival.first()
        if first is not None and first[-1] is not self._oldest[0]:
            self._oldest = first[-1], now_ns

    def oldest(self, now_ns: int) -> tuple[RequestView, int] | None:
        """Who has waited longest, whatever its priority and deadline, and since when that was noted, ns."""
        first = self._by_arrival.first()
        if first is None:
            return None
        waiter, since_ns = self._oldest
        return first[-1].view, since_ns if first[-1] is waiter else now_ns

    def pressing(self, now_ns: int) -> RequestView | None:
        """Whose deadline presses most, whatever its priority and prefix."""
        first = self._by_deadline.first()
        return None if first is None or first[0] > now_ns else first[-1].view

    def _family(self, number: int, place: _Place, most: int) -> Iterator[RequestView]:
        _, first, _, node = place
        yield first.view
        others = node.standing(lambda length: _bucket(length, node) == number)
        yield from (other.view for other in islice(others, most) if other is not first)

    def cached_blocks(self, view: RequestView) -> int:
        """The cached prefix of a waiting request. Raises KeyError where it does not wait."""
        return self.prefixes.cached_prefix(self._waiters[view.request.request_id])

    def cached_hashes(self, view: RequestView) -> Sequence[BlockHash]:
        """The same, by name, without a look at its tokens."""
        return self.prefixes.cached_hashes(self._waiters[view.request.request_id])

    def _best_of_buckets(self) -> Iterator[tuple[int, _Place]]:
        for number in sorted(self._places):
            best = self._places[number].first()
            if best is None:
                del self._places[number]
            else:
                yield number, best

    def _look(self, node: Node) -> None:
        """Enters the node's best of each bucket; what was entered before is void."""
        self._looks += 1
        node.serial = self._looks
        if not node.reached:
            return
        best: dict[int, Waiter] = {}
        for waiter in node.firsts():
            number = _bucket(waiter.length, node)
            if number not in best or waiter < best[number]:
                best[number] = waiter
        for number, waiter in best.items():
            places = self._places.setdefault(number, LazyHeap(_is_current))
            places.push((-node.cached_end, waiter, node.serial, node))

    def check(self) -> None:
        """Verifies the books. Raises InvariantViolated. Linear: for tests."""
        self.prefixes.check(self._waiters.values())


def _bucket(length: int, node: Node) -> int:
    """Of a request that stands there."""
    return bucket(max(length - node.cached_end, 1))


def _is_current(place: _Place) -> bool:
    return place[2] == place[3].serial
