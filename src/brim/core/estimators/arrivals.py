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


class Arrivals:
    """`ttft_ns` is a target to keep even when no request of late had one so tight."""

    def __init__(self, ttft_ns: int | None = None) -> None:
        self._configured_ns = ttft_ns
        self._latest: deque[_Arrival] = deque()
        self._ttfts_ns: Counter[int | None] = Counter()
        self._tokens = 0
        self._squares = 0  # of the numbers of tokens
        self._pairs_with_cached = 0

    def observe(
        self, arrival_ns: int, ttft_ns: int | None, prompt_tokens: int, cached_tokens: int = 0
    ) -> None:
        """One was admitted, with so many prompt tokens behind those that a cache held."""
        self._latest.append(_Arrival(arrival_ns, ttft_ns, prompt_tokens, cached_tokens))
        self._ttfts_ns[ttft_ns] += 1
        self._add(prompt_tokens, cached_tokens, 1)
        if len(self._latest) > _WINDOW:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        _, ttft_ns, tokens, cached_tokens = self._latest.popleft()
        self._add(tokens, cached_tokens, -1)
        self._ttfts_ns[ttft_ns] -= 1
        if not self._ttfts_ns[ttft_ns]:
            del self._ttfts_ns[ttft_ns]

    def _add(self, tokens: int, cached_tokens: int, sign: int) -> None:
        self._tokens += sign * tokens
        self._squares += sign * tokens * tokens
        self._pairs_with_cached += sign * tokens * cached_tokens

    def forget(self, now_ns: int) -> None:
        """Those that arrived too long ago."""
        while self._latest and now_ns - self._latest[0].arrival_ns > _MEMORY_NS:
            self._drop_oldest()

    @property
    def few(self) -> bool:
        """Whether they tell next to nothing yet."""
        return len(self._latest) < _FEW

    def ttft_ns(self, least_ns: int = 0) -> int | None:
        """The tightest TTFT target to plan for; None where there is none.

        Nobody can meet targets below `least_ns`: those seen in requests don't count, a configured one does.
        """
        targets = [ns for ns in self._ttfts_ns if ns is not None and ns >= least_ns]
        if self._configured_ns is not None:
            targets.append(self._configured_ns)
        return min(targets, default=None)

    def prompt_tokens(self, span_ns: int, now_ns: int) -> int:
        """Of a request that arrives now and all that follow within the span: no more than this, at least 1.

        True in 19 of 20 cases, for Poisson arrivals at the latest rate, their sum taken as normal.
        """
        num = len(self._latest)
        if not num:
            return 1
        mean, square = self._tokens / num, self._squares / num
        lasted_ns = max(now_ns - self._latest[0].arrival_ns, 1)
        others = (num - 1) * span_ns / lasted_ns
        deviation = sqrt(max(square - mean * mean, 0.0) + others * square)
        return max(ceil(mean * (1 + others) + _SURE * deviation), 1)

    def prompt_pairs(self, num_tokens: int) -> int:
        """Attention pairs of arrivals with so many prompt tokens together: one of them long, the others not.

        A token attends to those of its own prompt alone, cached ones included.
        """
        longest = min(num_tokens, self.prompt_tokens(0, 0))
        pairs, tokens = (self._squares + self._tokens) // 2, max(self._tokens, 1)  # of the latest
        others = (num_tokens - longest) * pairs + num_tokens * self._pairs_with_cached
        return attention_pairs(longest) + others // tokens
