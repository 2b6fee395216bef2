"""What the online requests ask of the coming step: kept up to date, so that no step walks through them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from brim.core.estimators.arrivals import Arrivals
from brim.core.estimators.due_times import DueTimes, end_due_ns, first_due_ns, gaps, pacing
from brim.core.estimators.slack import PromptWork
from brim.core.lazy_heap import LazyHeap
from brim.core.request import RequestView


class _Ending(NamedTuple):
    """An answer that is due as a whole: at `at_ns` what is left of its time is spread anew."""

    at_ns: int
    view: RequestView
    first_ns: int  # when its first token was drawn


class OnlineWatch:
    """Told by batch and scheduler what happens to requests; offline ones are let pass.

    It sets no time itself: due times come from the targets of each request, and what an arrival may ask
    for from those that came of late, or from `ttft_ns`. `shortest_ns` tells what the shortest step takes.
    """

    def __init__(self, ttft_ns: int | None = None, shortest_ns: Callable[[], int] = lambda: 0) -> None:
        # half: a target near the shortest step must not come and go where steps are uneven
        self.dues = DueTimes(lambda: shortest_ns() // 2)
        self._shortest_ns = shortest_ns
        self.arrivals = Arrivals(ttft_ns)
        self._committed_ns = 0
        self._decoding: set[str] = set()
        self._last_ns: dict[str, int] = {}  # of those that sit out after their first token
        self._ending: dict[str, _Ending] = {}
        self._ends: LazyHeap[tuple[int, str]] = LazyHeap(self._is_to_end)

    def started(self, view: RequestView, tick: int) -> None:
        """From the step of `tick` on it draws a token in every step."""
        request_id = view.request.request_id
        self._last_ns.pop(request_id, None)
        self._decoding.add(request_id)
        if view.num_tokens == view.num_prompt_tokens:  # its first token is in flight
            self.dues.pace(request_id, gaps(view.request), self._committed_ns)
        self.dues.start(request_id, view.num_scheduled_tokens - view.num_prompt_tokens + 1, tick)

    def stopped(self, view: RequestView) -> None:
        request_id = view.request.request_id
        self._decoding.discard(request_id)
        self._last_ns[request_id] = self._committed_ns
        self.dues.stop(request_id)

    def committed(self, now_ns: int) -> None:
        """The tokens of a step were drawn."""
        self._committed_ns = now_ns

    @property
    def spreads_at_ns(self) -> float:
        """When `spread` next has something to do."""
        first = self._ends.first()
        return math.inf if first is None else first[0]

    def spread(self, now_ns: int, output_tokens: Callable[[RequestView], int]) -> None:
        """The requests have the tokens of the step that was over at `now_ns`.

        An answer may outgrow what was expected of it: each time that a quarter of the time is over that was
        left until its end is due, the rest is spread over what is expected then, by `output_tokens`.
        """
        while (first := self._ends.first()) is not None and first[0] <= now_ns:
            _, view, first_ns = self._ending.pop(first[1])
            self._pace(view, first_ns, now_ns, output_tokens(view))

    def _is_to_end(self, end: tuple[int, str]) -> bool:
        at_ns, request_id = end
        return request_id in self._ending and self._ending[request_id].at_ns == at_ns

    def _pace(self, view: RequestView, drawn_first_ns: int, now_ns: int, output_tokens: int) -> None:
        """Its first token was drawn then, and `output_tokens` in all are expected by now."""
        request, end_ns = view.request, end_due_ns(view.request)
        drawn, most = view.num_tokens - view.num_prompt_tokens, request.sampling.max_tokens
        pace = pacing(request, now_ns, output_tokens - drawn, most - drawn, self._shortest_ns())
        first_ns, each_ns, tpot_ns = drawn_first_ns, pace.per_token_ns, request.slo.tpot_ns
        if each_ns is not None and each_ns != tpot_ns:
            from_ns = now_ns - each_ns * (drawn - 1)
            # behind its TPOT it stays behind: at the faster pace it makes up for it
            first_ns = from_ns if tpot_ns is None else min(from_ns, first_ns + (tpot_ns - each_ns) * drawn)
        self.dues.pace(request.request_id, pace, first_ns)
        if end_ns is not None and end_ns > now_ns:
            at_ns = now_ns + -(-(end_ns - now_ns) // 4)
            self._ending[request.request_id] = _Ending(at_ns, view, drawn_first_ns)
            self._ends.push((at_ns, request.request_id))

    def first_token(self, view: RequestView, now_ns: int, tick: int) -> None:
        """It was drawn. `tick` is the coming step's."""
        request = view.request
        if not request.is_offline:
            self.dues.stop(request.request_id)  # it is started below, with what it asks from now on
            self._pace(view, now_ns, now_ns, view.expected_tokens - view.num_prompt_tokens)
            if request.request_id in self._decoding:
                self.started(view, tick)

    def adopted(self, view: RequestView, now_ns: int) -> None:
        """It drew its first token while nobody watched: from now on it is on pace, neither early nor late."""
        self._committed_ns = max(self._committed_ns, now_ns)
        if not view.request.is_offline:
            drawn = view.num_tokens - view.num_prompt_tokens
            first_ns = now_ns - (view.request.slo.tpot_ns or 0) * (drawn - 1)
            self._pace(view, first_ns, now_ns, view.expected_tokens - view.num_prompt_tokens)

    def admitted(self, view: RequestView, cached_tokens: int) -> None:
        resumed = view.num_preemptions or view.num_tokens > view.num_prompt_tokens
        if not view.request.is_offline and not resumed:
            request, tokens = view.request, max(view.num_prompt_tokens - cached_tokens, 1)
            self.arrivals.observe(request.arrival_ns, request.slo.ttft_ns, tokens, cached_tokens)

    def ended(self, view: RequestView) -> None:
        request_id = view.request.request_id
        self._last_ns.pop(request_id, None)
        self._ending.pop(request_id, None)
        self.dues.end(request_id)

    @property
    def last_ns(self) -> int:
        """When the newest tokens were drawn."""
        return self._committed_ns

    def work(self, view: RequestView, cached_tokens: int, prompt_ns: Callable[[int], int]) -> PromptWork:
        """Of a request that does not decode: what it still computes, and when its next token is due.

        `prompt_ns` tells what a prompt of so many tokens takes: it only weighs prompt and answer where they
        have one deadline together, and else is not asked.
        """
        request, start = view.request, max(view.num_scheduled_tokens, cached_tokens)
        left = max(view.num_tokens - start, 0)  # its newest tokens may be in flight
        if view.num_tokens > view.num_prompt_tokens:
            drawn = view.num_tokens - view.num_prompt_tokens
            last_ns = self._last_ns.get(request.request_id, self._committed_ns)
            due_ns = self.dues.due_ns(request.request_id, drawn, last_ns)
        elif end_due_ns(request) is None:
            due_ns = None if request.slo.ttft_ns is None else request.arrival_ns + request.slo.ttft_ns
        else:
            cached = cached_tokens if view.num_cached_tokens is None else view.num_cached_tokens
            outputs = view.expected_tokens - view.num_prompt_tokens
            due_ns = first_due_ns(
                request, prompt_ns(view.num_prompt_tokens - cached), outputs * self._shortest_ns()
            )
        return PromptWork(request.request_id, due_ns, start, left)
