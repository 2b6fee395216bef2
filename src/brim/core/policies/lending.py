"""Whether promised blocks that are not yet written are lent to others."""

from __future__ import annotations

from dataclasses import dataclass

from brim.core.policies.ordering import ByRanges


@dataclass(frozen=True, slots=True)
class Lending:
    """Lent to guests that are expected to be gone `buffer_steps` before a host needs the blocks.

    KVC pipelining of EconoServe (arXiv 2411.06364); what fits is in `kvcache/timetable.py`. Guests pass
    those that don't fit, unless one of these has become urgent.
    """

    ordering: ByRanges
    buffer_steps: int = 8

    def may_pass(self, key: tuple[float, ...]) -> bool:
        """Whether a request of this place in the order may be passed by a guest."""
        return not self.ordering.is_urgent(key)
