"""Drawn tokens become known tokens: cheap while the same requests draw, step after step."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from brim.core.request import NO_TOKENS, RequestState


class Appender:
    """Does what `RequestState.append_each` does, without a look at each request while none can end.

    None can end while no token drawn is a stop token of any of them, and none is near its limit. Both are
    found out once for as long as the same rows draw, and in their second step: many rows draw only once.
    """

    def __init__(self) -> None:
        self._states: Sequence[RequestState] = ()  # who drew last
        self._stops: frozenset[int] = NO_TOKENS  # of any of them
        self._token_ids: list[list[int]] = []
        self._steps_left = 0  # before one of them may reach its limit; 0: to be looked at again

    def append(self, states: Sequence[RequestState], token_ids: Sequence[int]) -> list[RequestState]:
        """One more output token for each; returns those whose last token it was."""
        if states is not self._states:
            self._states, self._steps_left = states, 0
            return RequestState.append_each(states, token_ids)
        if self._steps_left == 0:
            self._look()
        if self._steps_left <= 1 or not self._stops.isdisjoint(token_ids):
            self._steps_left = 0
            return RequestState.append_each(states, token_ids)
        self._steps_left -= 1
        deque(map(list.append, self._token_ids, token_ids), maxlen=0)
        return []

    def extend(self, states: Sequence[RequestState], token_ids: Sequence[int]) -> None:
        """The same tokens for each, none of them its last."""
        self._steps_left = 0
        for state in states:
            state.known += token_ids

    def _look(self) -> None:
        states = self._states
        self._stops = NO_TOKENS.union(*{state.stop_token_ids for state in states})  # mostly the same set
        self._token_ids = [state.known for state in states]
        self._steps_left = min([s.max_num_tokens - len(s.known) for s in states], default=0)
