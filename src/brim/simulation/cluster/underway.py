"""The requests of a cluster that are not over, by their place in the order of arrival."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from brim.workloads.trace import TraceRequest


@dataclass(frozen=True, slots=True)
class Stream:
    """Requests in order of arrival, read one by one as they are due: more than would fit in memory."""

    name: str
    requests: Iterable[TraceRequest]
    block_tokens: int = 0


class Underway:
    """Takes the place of a whole trace where only those under way are kept.

    What is left of a request changes as it moves: one that a prefill replica hands on, or a failed replica
    loses, comes back with a longer prompt and a shorter answer.
    """

    def __init__(self, name: str, block_tokens: int) -> None:
        self.name = name
        self.block_tokens = block_tokens
        self.requests: dict[int, TraceRequest] = {}
        self.asked: dict[int, TraceRequest] = {}  # as they arrived
        self.num_arrived = 0

    def __len__(self) -> int:
        return len(self.asked)

    def arrive(self, request: TraceRequest) -> int:
        """Its place. An answer has at least one token."""
        place = self.num_arrived
        self.num_arrived += 1
        request = request if request.output_tokens else request._replace(output_tokens=1)
        self.asked[place] = self.requests[place] = request
        return place

    def drawn(self, place: int) -> int:
        """Tokens of its answer that are part of the prompt by now."""
        return self.requests[place].input_tokens - self.asked[place].input_tokens

    def go_on(self, place: int, drawn_tokens: int) -> None:
        """So many more tokens of the answer are drawn, and part of the prompt from now on."""
        asked, drawn = self.asked[place], self.drawn(place) + drawn_tokens
        self.requests[place] = asked._replace(
            input_tokens=asked.input_tokens + drawn,
            output_tokens=asked.output_tokens - drawn,
        )

    def only_first_token(self, place: int) -> None:
        """Another replica draws the rest."""
        self.requests[place] = self.requests[place]._replace(output_tokens=1)

    def drop(self, place: int) -> TraceRequest:
        del self.requests[place]
        return self.asked.pop(place)


class TrueLengths:
    """The true number of output tokens by request id, as an `Oracle` asks for it."""

    def __init__(self, underway: Underway) -> None:
        self._requests = underway.requests

    def __getitem__(self, request_id: str) -> int:
        return self._requests[int(request_id)].output_tokens
