"""What the latest online requests were like, and how fast they came: the next ones may be so too."""

from __future__ import annotations

from collections import Counter, deque
from math import ceil, sqrt
from typing import NamedTuple

from brim.core.estimators.step_time import attention_pairs

_SURE = 1.64  # deviations: 19 of 20
_FEW = 8
_WINDOW = 256  # the latest
_MEMORY_NS = 300 * 1_000_000_000  # who came before says nothing of who comes next


class _Arrival(NamedTuple):
    arrival_ns: int
    ttft_ns: int | None
    prompt_tokens: int
    cached_tokens: int


class _Group:
    """Arrivals with targets between one power of two and the next."""

    __slots__ = ("num", "squares", "tokens", "ttfts_ns")

    def __init__(self) -> None:
        self.num = 0
        self.tokens = 0
        self.squares = 0  # of the numbers of tokens
        self.ttfts_ns: Counter[int] = Counter()

    def add(self, ttft_ns: int | None, tokens: int, sign: int) -> None:
        self.num += sign
        self.tokens += sign * tokens
        self.squares += sign * tokens * tokens
        if ttft_ns is not None:
            self.ttfts_ns[ttft_ns] += sign
            if not self.ttfts_ns[ttft_ns]:
                del self.ttfts_ns[ttft_ns]


class Arrivals:
    """`ttft_ns` is a target to keep even when no request of late had one so tight.

    A tight target is one for prompts as long as those that came with such: few short requests in a hurry say
    nothing of how soon the long ones beside them are due.
    """

    def __init__(self, ttft_ns: int | None = None) -> None:
        self._configured_ns = ttft_ns
        self._latest: deque[_Arrival] = deque()
        self._all = _Group()
        self._groups: dict[int, _Group] = {}  # by the target's power of two
        self._pairs_with_cached = 0

    def observe(
        self, arrival_ns: int, ttft_ns: int | None, prompt_tokens: int, cached_tokens: int = 0
    ) -> None:
        """One was admitted, with so many prompt tokens behind those that a cache held."""
        arrival = _Arrival(arrival_ns, ttft_ns, prompt_tokens, cached_tokens)
        self._latest.append(arrival)
        self._add(arrival, 1)
        if len(self._latest) > _WINDOW:
            self._add(self._latest.popleft(), -1)

    def _add(self, arrival: _Arrival, sign: int) -> None:
        _, ttft_ns, tokens, cached_tokens = arrival
        self._all.add(None, tokens, sign)
        self._pairs_with_cached += sign * tokens * cached_tokens
        if ttft_ns is None:
            return
        group = self._groups.setdefault(ttft_ns.bit_length(), _Group())
        group.add(ttft_ns, tokens, sign)
        if not group.num:
            del self._groups[ttft_ns.bit_length()]

    def forget(self, now_ns: int) -> None:
        """Those that arrived too long ago."""
        while self._latest and now_ns - self._latest[0].arrival_ns > _MEMORY_NS:
            self._add(self._latest.popleft(), -1)

    def few(self, ttft_ns: int | None = None) -> bool:
        """Whether those with about such a target tell next to nothing yet; None: all."""
        return self._like(ttft_ns).num < _FEW

    def ttfts_ns(self, least_ns: int = 0) -> list[int]:
        """The TTFT targets to plan for: the tightest from each power of two on, in rising order.

        Nobody can meet targets below `least_ns`: those seen in requests don't count, a configured one does.
        """
        tightest: dict[int, int] = {}
        for octave, group in self._groups.items():
            feasible = [ns for ns in group.ttfts_ns if ns >= least_ns]
            if feasible:
                tightest[octave] = min(feasible)
        own_ns = self._configured_ns
        if own_ns is not None:
            octave = own_ns.bit_length()
            tightest[octave] = min(own_ns, tightest.get(octave, own_ns))
        return sorted(tightest.values())

    def prompt_tokens(self, span_ns: int, now_ns: int, ttft_ns: int | None = None) -> int:
        """Of a request that arrives now and all that follow within the span: no more than this, at least 1.

        That one is like those with about the target `ttft_ns`, where any came; None: like any. True in 19 of
        20 cases, for Poisson arrivals at the latest rate, their sum taken as normal.
        """
        num = self._all.num
        if not num:
            return 1
        one = self._like(ttft_ns)
        mean, square = one.tokens / one.num, one.squares / one.num
        lasted_ns = max(now_ns - self._latest[0].arrival_ns, 1)
        others = (num - 1) * span_ns / lasted_ns
        deviation = sqrt(max(square - mean * mean, 0.0) + others * self._all.squares / num)
        return max(ceil(mean + others * self._all.tokens / num + _SURE * deviation), 1)

    def _like(self, ttft_ns: int | None) -> _Group:
        return self._all if ttft_ns is None else self._groups.get(ttft_ns.bit_length(), self._all)

    def prompt_pairs(self, num_tokens: int, ttft_ns: int | None = None) -> int:
        """Attention pairs of arrivals with so many prompt tokens together: one of them long, the others not.

        A token attends to those of its own prompt alone, cached ones included. `ttft_ns` is as above.
        """
        longest = min(num_tokens, self.prompt_tokens(0, 0, ttft_ns))
        pairs, tokens = (self._all.squares + self._all.tokens) // 2, max(self._all.tokens, 1)  # of the latest
        others = (num_tokens - longest) * pairs + num_tokens * self._pairs_with_cached
        return attention_pairs(longest) + others // tokens
