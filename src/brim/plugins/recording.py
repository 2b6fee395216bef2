"""Latencies by class, whichever mode is in force and whoever decides."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from brim.core.events import Event
from brim.core.request import Request, RequestState
from brim.metrics.exported import figures
from brim.metrics.recorder import Recorder, bucketed


class Recording:
    """Fed by Brim's schedulers, one after the other as modes change.

    A request is counted once, however often schedulers tell of it. Those that drew tokens while there was no
    scheduler are left out: nobody knows when these came.
    """

    def __init__(self) -> None:
        self._recorder = Recorder(bucketed, counted=self._seen_from_the_first)
        self._unseen: Collection[str] = ()
        self._begun = False
        self._told = False  # whether a scheduler reports
        self._gap = False  # whether the engine went on untold since the last one did

    def begin(self, states: Iterable[RequestState]) -> None:
        """A scheduler reports from now on, with these requests; those that the last one reported go on."""
        here = {state.request.request_id: state for state in states}
        drew = {name for name, state in here.items() if state.num_output_tokens}
        self._recorder.keep(here.keys() - drew if self._gap else here)
        self._unseen = {name for name in drew if not self._recorder.knows(name)}
        self._begun = self._told = True
        self._gap = False

    def observe(self, events: Iterable[Event]) -> None:
        self._recorder.observe(events)

    def guessed(self, more: Mapping[str, int]) -> None:
        """Tokens that proved right beside the one that each request drew."""
        for request_id, num_tokens in more.items():
            self._recorder.drew_more(request_id, num_tokens)

    def end(self, events: Iterable[Event]) -> None:
        """The scheduler goes, and these are the last that it tells."""
        told, self._told = self._told, False
        try:
            if told:  # else it failed before it began
                self._recorder.observe(events)
        finally:
            self._recorder.pause()

    def look_away(self) -> None:
        """The engine goes on and nobody tells of it. Who is here now may be here at the next `begin`."""
        self._gap = True

    def samples(self) -> dict[str, float]:
        """See `metrics.exported`; empty before the first scheduler."""
        return figures(self._recorder.by_class) if self._begun else {}

    def _seen_from_the_first(self, request: Request) -> bool:
        return request.request_id not in self._unseen
