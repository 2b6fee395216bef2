"""What the latest online requests were like, and how fast they came: the next ones may be so too."""

from __future__ import annotations

from collections import Counter, deque
from math import ceil, sqrt
from typing import NamedTuple

_SURE = 1.64  # deviations: 19 of 20
_FEW = 8


class _Arrival(NamedTuple):
    arrival_ns: int
    ttft_ns: int | None
    prompt_tokens: int


class Arrivals:
    """`ttft_ns` is a target to keep even when no request of late had one so tight."""

    def __init__(self, ttft_ns: int | None = None, window: int = 256) -> None:
        self._configured_ns = ttft_ns
        self._window = window
        self._latest: deque[_Arrival] = deque()
        self._ttfts_ns: Counter[int | None] = Counter()
        self._tokens = 0
        self._squares = 0  # of the numbers of tokens

    def observe(self, arrival_ns: int, ttft_ns: int | None, prompt_tokens: int) -> None:
        """One was admitted, with so many prompt tokens that no cache held."""
        self._latest.append(_Arrival(arrival_ns, ttft_ns, prompt_tokens))
        self._ttfts_ns[ttft_ns] += 1
        self._add(prompt_tokens, 1)
        if len(self._latest) > self._window:
            _, old_ttft_ns, old_tokens = self._latest.popleft()
            self._add(old_tokens, -1)
            self._ttfts_ns[old_ttft_ns] -= 1
            if not self._ttfts_ns[old_ttft_ns]:
                del self._ttfts_ns[old_ttft_ns]

    def _add(self, tokens: int, sign: int) -> None:
        self._tokens += sign * tokens
        self._squares += sign * tokens * tokens

    @property
    def few(self) -> bool:
        """Whether they tell next to nothing yet."""
        return len(self._latest) < _FEW

    @property
    def ttft_ns(self) -> int | None:
        """The tightest target, configured or seen."""
        targets = [*self._ttfts_ns, self._configured_ns]
        return min((target for target in targets if target is not None), default=None)

    def prompt_tokens(self, span_ns: int, now_ns: int) -> int:
        """Of one that arrives now and all that follow in so long a time, in 19 of 20 cases; at least 1.

        Poisson arrivals at the latest rate, their sum taken as normal.
        """
        num = len(self._latest)
        if not num:
            return 1
        mean, square = self._tokens / num, self._squares / num
        lasted_ns = max(now_ns - self._latest[0].arrival_ns, 1)
        others = (num - 1) * span_ns / lasted_ns
        deviation = sqrt(max(square - mean * mean, 0.0) + others * square)
        return max(ceil(mean * (1 + others) + _SURE * deviation), 1)
