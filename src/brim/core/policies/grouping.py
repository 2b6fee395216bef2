"""Which of the requests that wait to generate start together."""

from __future__ import annotations

from typing import Protocol

from brim.core.request import RequestView


class Grouping(Protocol):
    def key(self, view: RequestView) -> int:
        """Requests of the same key are one group."""


class Alone:
    """Each for itself."""

    def key(self, view: RequestView) -> int:
        return view.arrival_seq


class SameEnd:
    """Those that are expected to end at the same step: the batch changes once for all of them.

    Time-synced batching of EconoServe (arXiv 2411.06364).
    """

    def key(self, view: RequestView) -> int:
        return view.expected_tokens - view.num_tokens
