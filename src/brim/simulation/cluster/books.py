"""What a router knows of a replica: what it sent there and what came back."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

from brim.workloads.trace import TraceRequest

PREFIXES_REMEMBERED = 50_000  # block ids by replica


class _Sent(NamedTuple):
    request: TraceRequest
    is_offline: bool


class Books:
    """No look inside the replica: the same figures that a gateway in front of it could keep."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.online = 0  # requests sent that are not over
        self.offline = 0
        self.prompt_tokens = 0  # of all these
        self.pending_prompt_tokens = 0  # of online requests without a first token
        self.last_sent = -1  # when it was last chosen, counted in requests
        self._sent: dict[int, _Sent] = {}
        self._pending: set[int] = set()
        self._prefixes: OrderedDict[int, None] = OrderedDict()

    def places(self) -> Sequence[int]:
        """The requests there, by arrival."""
        return sorted(self._sent)

    def send(self, place: int, request: TraceRequest, *, is_offline: bool, sequence: int) -> None:
        self._sent[place] = _Sent(request, is_offline)
        self.prompt_tokens += request.input_tokens
        if is_offline:
            self.offline += 1
            return
        self.online += 1
        self.last_sent = sequence
        self.pending_prompt_tokens += request.input_tokens
        self._pending.add(place)
        for block_id in request.block_ids:
            self._prefixes[block_id] = None
            self._prefixes.move_to_end(block_id)
        while len(self._prefixes) > PREFIXES_REMEMBERED:
            self._prefixes.popitem(last=False)

    def first_token(self, place: int) -> None:
        if place in self._pending:
            self._pending.remove(place)
            self.pending_prompt_tokens -= self._sent[place].request.input_tokens

    def over(self, place: int) -> None:
        """It is done here, or lost."""
        self.first_token(place)
        request, is_offline = self._sent.pop(place)
        self.prompt_tokens -= request.input_tokens
        if is_offline:
            self.offline -= 1
        else:
            self.online -= 1

    def known_blocks(self, block_ids: Sequence[int]) -> int:
        """How many of these blocks, from the first on, were sent there before."""
        for known, block_id in enumerate(block_ids):
            if block_id not in self._prefixes:
                return known
        return len(block_ids)
