"""When the next token of each online request is due, without a look at each of them."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable
from typing import NamedTuple

from brim.core.request import Request

GRACE_TOKENS = 3  # TPOT is a mean: so many first tokens of an answer may come together, if they must


class Pacing(NamedTuple):
    """What a request asks of its tokens after the first; None: nothing.

    A token is due `gap_ns` after the one before, and `per_token_ns` for each token since the first. So a
    token that came early gives its successors more time, but only up to the gap. For the sake of somebody's
    first token a gap may be as long as `longest_ns`; None: no longer than ever.
    """

    gap_ns: int | None
    per_token_ns: int | None
    longest_ns: int | None = None


def pacing(
    request: Request, now_ns: int, to_come: int, most_to_come: int | None = None, shortest_ns: int = 0
) -> Pacing:
    """From the targets of the request, of which `to_come` tokens more are expected at `now_ns`.

    A deadline is spread evenly over twice as many, or the `most_to_come`, since answers get longer than
    expected; but no step need be shorter for that than two of the `shortest_ns`, which is what one with other
    requests may take. A deadline that has passed asks for nothing any more.
    """
    gap_ns, _, longest_ns = gaps(request)
    per_token_ns, end_ns = request.slo.tpot_ns, end_due_ns(request)
    if end_ns is not None and end_ns > now_ns:
        expected = max(to_come, 1)
        spread = 2 * expected if most_to_come is None else max(min(2 * expected, most_to_come), 1)
        each_ns = max((end_ns - now_ns) // spread, min((end_ns - now_ns) // expected, 2 * shortest_ns))
        per_token_ns = _least(per_token_ns, _coarse(each_ns))
    return Pacing(gap_ns, per_token_ns, longest_ns)


def gaps(request: Request) -> Pacing:
    """What it asks from its first token on, before that is there to count from.

    Without an ITL target the gap is twice the TPOT, and for somebody's first token `GRACE_TOKENS` times.
    """
    itl_ns, tpot_ns = request.slo.itl_ns, request.slo.tpot_ns
    if tpot_ns is None:
        return Pacing(itl_ns, None, itl_ns)
    if itl_ns is None:
        return Pacing(2 * tpot_ns, None, GRACE_TOKENS * tpot_ns)
    return Pacing(min(itl_ns, 2 * tpot_ns), None, itl_ns)


def end_due_ns(request: Request) -> int | None:
    """When the whole answer is due."""
    e2e_ns = request.slo.e2e_ns
    return request.deadline_ns if e2e_ns is None else _least(request.deadline_ns, request.arrival_ns + e2e_ns)


def first_due_ns(request: Request, prefill_ns: int, decoding_ns: int) -> int | None:
    """When the first token is due: by the TTFT target, and by the prompt's part in all the work.

    `prefill_ns` and `decoding_ns` are what prompt and answer are expected to take.
    """
    arrival_ns, ttft_ns, end_ns = request.arrival_ns, request.slo.ttft_ns, end_due_ns(request)
    share_ns = None
    if end_ns is not None:
        work_ns = max(prefill_ns + decoding_ns, 1)
        share_ns = arrival_ns + (end_ns - arrival_ns) * prefill_ns // work_ns
    return _least(None if ttft_ns is None else arrival_ns + ttft_ns, share_ns)


class Due(NamedTuple):
    due_ns: int
    request_id: str


class _Line:
    """`key + per_token_ns * tick` is the due time of the token that it draws in the step of that tick."""

    __slots__ = ("first_ns", "offset", "pacing")

    def __init__(self, pacing: Pacing, first_ns: int) -> None:
        self.pacing = pacing
        self.first_ns = first_ns
        self.offset: int | None = None  # tokens drawn before a tick, less the tick; None: it sits out

    def key(self, per_token_ns: int) -> int:
        return self.first_ns + per_token_ns * (self.offset or 0)


class DueTimes:
    """The online requests that have drawn their first token.

    Those that decode draw a token in every step. So all of them drew the last one together, and the order
    of two requests with the same time per token never changes: `least` looks at one request for each
    distinct target, however many decode.

    A target below `least_ns` can't be kept and asks for nothing: nobody else is to be held up for its sake.
    """

    def __init__(self, least_ns: Callable[[], int] = lambda: 0) -> None:
        self._least_ns = least_ns
        self._lines: dict[str, _Line] = {}
        self._by_pace: dict[int, list[tuple[int, str]]] = {}  # (key, request id), sorted
        self._by_gap: dict[tuple[int, int], dict[str, None]] = {}  # by it and the longest

    def __len__(self) -> int:
        return len(self._lines)

    def pace(self, request_id: str, pacing: Pacing, first_ns: int) -> None:
        """Its pace counts from `first_ns`: its first token was drawn then, or would have been at this pace.

        Call again when either changes.
        """
        line = self._lines.get(request_id)
        offset = None if line is None else line.offset
        self.stop(request_id)
        self._lines[request_id] = _Line(pacing, first_ns)
        if offset is not None:
            self._start(request_id, offset)

    def start(self, request_id: str, num_drawn: int, tick: int) -> None:
        """From the step of `tick` on, every step draws one of its tokens; `num_drawn` come before.

        Nothing happens to a request that was not given a pace.
        """
        self.stop(request_id)
        if request_id in self._lines:
            self._start(request_id, num_drawn - tick)

    def _start(self, request_id: str, offset: int) -> None:
        line = self._lines[request_id]
        line.offset = offset
        gap_ns, per_token_ns, longest_ns = line.pacing
        if per_token_ns is not None:
            insort(self._by_pace.setdefault(per_token_ns, []), (line.key(per_token_ns), request_id))
        if gap_ns is not None:
            self._by_gap.setdefault((gap_ns, longest_ns or gap_ns), {})[request_id] = None

    def stop(self, request_id: str) -> None:
        """It sits out until it is started again. Nothing happens where it does already."""
        line = self._lines.get(request_id)
        if line is None or line.offset is None:
            return
        gap_ns, per_token_ns, longest_ns = line.pacing
        if per_token_ns is not None:
            keys = self._by_pace[per_token_ns]
            del keys[bisect_left(keys, (line.key(per_token_ns), request_id))]
            if not keys:
                del self._by_pace[per_token_ns]
        if gap_ns is not None:
            gaps = gap_ns, longest_ns or gap_ns
            del self._by_gap[gaps][request_id]
            if not self._by_gap[gaps]:
                del self._by_gap[gaps]
        line.offset = None

    def end(self, request_id: str) -> None:
        """It is over, or asks for nothing any more."""
        self.stop(request_id)
        self._lines.pop(request_id, None)

    def least(self, tick: int, last_ns: int) -> Due | None:
        """Whose token of the step of `tick` is due first, all of them having drawn one at `last_ns`."""
        paces, gaps = self._feasible()
        dues = [(pace_ns * tick + keys[0][0], keys[0][1]) for pace_ns, keys in paces]
        if gaps:
            least = min(gaps)
            dues.append((last_ns + least[0], next(iter(self._by_gap[least]))))
        return Due(*min(dues)) if dues else None

    def least_for_first_tokens(self, tick: int, last_ns: int) -> int | None:
        """The same, for a step that is longer for the sake of somebody's first token.

        The first `GRACE_TOKENS` after an answer's first one are due together, with the last of them, and gaps
        may be of the longest. Looks at those that are so young, and one more for each target.
        """
        paces, gaps = self._feasible()
        dues = [last_ns + longest_ns for _, longest_ns in gaps]
        for pace_ns, keys in paces:
            least_ns: int | None = None
            for key_ns, request_id in keys:
                due_ns = pace_ns * tick + key_ns
                if least_ns is not None and due_ns >= least_ns:
                    break
                least_ns = _least(
                    least_ns, max(due_ns, self._lines[request_id].first_ns + GRACE_TOKENS * pace_ns)
                )
            assert least_ns is not None
            dues.append(least_ns)
        return min(dues, default=None)

    def due_ns(self, request_id: str, num_drawn: int, last_ns: int) -> int | None:
        """When the next token is due of one that sits out: the last of `num_drawn` came at `last_ns`."""
        line = self._lines.get(request_id)
        if line is None:
            return None
        gap_ns, per_token_ns, _ = line.pacing
        least_ns = self._least_ns()
        after_last = since_first = None
        if gap_ns is not None and gap_ns >= least_ns:
            after_last = last_ns + gap_ns
        if per_token_ns is not None and per_token_ns >= least_ns:
            since_first = line.first_ns + per_token_ns * num_drawn
        return _least(after_last, since_first)

    def least_gap_ns(self, at_least_ns: int = 0) -> int | None:
        """How long none of those that decode may wait between two tokens, unless it must wait so long."""
        return min([gap_ns for gap_ns, _ in self._feasible()[1] if gap_ns >= at_least_ns], default=None)

    def least_pace_ns(self, at_least_ns: int = 0) -> int | None:
        """How long each of many steps may take for those that decode, where none takes less than that."""
        paces, gaps = self._feasible()
        asked = [*[pace_ns for pace_ns, _ in paces], *[gap_ns for gap_ns, _ in gaps]]
        return min([pace_ns for pace_ns in asked if pace_ns >= at_least_ns], default=None)

    def _feasible(self) -> tuple[list[tuple[int, list[tuple[int, str]]]], list[tuple[int, int]]]:
        """Of the paces, with those who keep them, and of the gaps, the ones that a step can keep."""
        least_ns = self._least_ns()
        paces = [each for each in self._by_pace.items() if each[0] >= least_ns]
        return paces, [gaps for gaps in self._by_gap if gaps[0] >= least_ns]


def _least(*times: int | None) -> int | None:
    known = [time for time in times if time is not None]
    return min(known) if known else None


def _coarse(nanoseconds: int) -> int:
    """Rounded down to four leading bits: deadlines, all different, are to make few distinct paces."""
    dropped = max(nanoseconds.bit_length() - 4, 0)
    return nanoseconds >> dropped << dropped
