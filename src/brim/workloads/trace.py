"""A trace: who asked when, with how many tokens in and out; no words. Each change makes a new trace.

Arrivals are integer nanoseconds. A trace is always in order of arrival, and its `note` tells what was
done to it: nothing is generated, sorted or left out in silence.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import islice, pairwise
from operator import attrgetter
from random import Random
from statistics import median
from typing import NamedTuple

from brim.core.errors import ConfigError, TraceError
from brim.core.request import TaskClass

NANOSECONDS = 1_000_000_000
MAKE_ARRIVALS = "make some, as with `brim trace convert --arrivals poisson:5`"


class TraceRequest(NamedTuple):
    """One request. Equal block ids mean equal tokens up to and including that block.

    The last id may stand for a block that the prompt does not fill. Prompt tokens behind the last id are
    this request's alone.
    """

    arrival_ns: int
    input_tokens: int
    output_tokens: int
    task_class: TaskClass = TaskClass.ONLINE
    deadline_s: float | None = None  # seconds after its arrival
    block_ids: tuple[int, ...] = ()
    length_key: str = ""  # what a predictor of its length may know it by


@dataclass(frozen=True)
class Trace:
    """Requests in order of arrival; equal arrivals keep the order they were given in.

    `block_tokens` is the tokens of one block id, 0 where there are none. Without `has_arrivals` every
    arrival is 0 and only the order of the requests means something.
    """

    name: str
    requests: Sequence[TraceRequest]
    block_tokens: int = 0
    has_arrivals: bool = True
    note: str = ""

    def __post_init__(self) -> None:
        in_order = tuple(sorted(self.requests, key=attrgetter("arrival_ns")))
        object.__setattr__(self, "requests", in_order)

    def __len__(self) -> int:
        return len(self.requests)

    def noted(self, remark: str) -> Trace:
        return replace(self, note="; ".join(filter(None, (self.note, remark))))

    def first(self, count: int) -> Trace:
        """The first `count` requests; all of them where there are fewer."""
        if count < 1:
            raise ConfigError(f"the first {count} requests are none: give 1 or more")
        return self._kept(self.requests[:count], f"the first {count} of {len(self)} requests kept")

    def window(self, seconds: float) -> Trace:
        """What arrives in less than `seconds` after the first request."""
        if not seconds > 0:
            raise ConfigError(f"a window of {seconds:g} s holds nothing: give more than 0")
        requests = _with_arrivals_of(self)
        end_ns = requests[0].arrival_ns + seconds * NANOSECONDS
        kept = tuple(r for r in requests if r.arrival_ns < end_ns)
        return self._kept(kept, f"the first {seconds:g} s kept, {len(kept)} of {len(self)} requests")

    def _kept(self, requests: Sequence[TraceRequest], remark: str) -> Trace:
        return self if len(requests) == len(self) else replace(self, requests=requests).noted(remark)

    def as_class(self, task_class: TaskClass, deadline_s: float | None = None) -> Trace:
        """Every request of this class; with `deadline_s`, due so many seconds after its arrival."""
        of_class = _each(self, lambda r: r._replace(task_class=task_class))
        return (
            of_class if deadline_s is None else _each(of_class, lambda r: r._replace(deadline_s=deadline_s))
        )


def rescaled(trace: Trace, *, rate: float | None = None, scale: float | None = None) -> Trace:
    """The same requests with longer or shorter gaps; the first arrival stays.

    Give `rate`, the requests per second wanted (one over the mean gap), or `scale`, the factor of the
    rate: 2 makes every gap half as long.
    """
    if (rate is None) == (scale is None):
        raise ConfigError("rescale to a rate or by a scale: give one of the two")
    if not (wanted := rate if rate is not None else scale) or not 1e-6 <= wanted <= 1e9:
        raise ConfigError(f"a rate or scale of {wanted} is no pace: give a number from 1e-6 to 1e9")
    requests = _with_arrivals_of(trace)
    first_ns, span_ns = requests[0].arrival_ns, requests[-1].arrival_ns - requests[0].arrival_ns
    if not span_ns:
        raise TraceError(
            f"{trace.name}: all requests arrive at once, there is no gap to scale: {MAKE_ARRIVALS}"
        )
    stretch = 1 / scale if scale else (len(requests) - 1) / wanted * NANOSECONDS / span_ns
    paced = _each(
        trace, lambda r: r._replace(arrival_ns=first_ns + round((r.arrival_ns - first_ns) * stretch))
    )
    return paced.noted(f"gaps scaled to {rate:g} requests/s" if rate else f"rate scaled by {scale:g}")


def from_zero(trace: Trace, requests: Sequence[TraceRequest]) -> Trace:
    """These requests of it alone, the first of them at 0."""
    start_ns = requests[0].arrival_ns
    moved = [r._replace(arrival_ns=r.arrival_ns - start_ns) for r in requests] if start_ns else requests
    return replace(trace, requests=moved)


def begun(trace: Trace) -> Trace:
    """From 0 on: in the hours before an excerpt, or since 1970, nothing runs."""
    begin_ns = trace.requests[0].arrival_ns
    moved = from_zero(trace, trace.requests)
    if begin_ns < NANOSECONDS:
        return moved
    return moved.noted(f"taken from its first request on, which arrives at {begin_ns / NANOSECONDS:.15g} s")


def with_arrivals(trace: Trace, arrivals: Iterable[int]) -> Trace:
    """The same requests, in the same order, at the moments that `arrivals` yields (nanoseconds)."""
    moments = list(islice(arrivals, len(trace)))
    if len(moments) < len(trace):
        raise TraceError(
            f"{trace.name}: {len(moments)} arrivals for {len(trace)} requests: give more of them"
        )
    requests = tuple(r._replace(arrival_ns=ns) for r, ns in zip(trace.requests, moments, strict=True))
    source = "arrivals given" if isinstance(arrivals, Sequence) else f"arrivals generated: {arrivals}"
    return replace(trace, requests=requests, has_arrivals=True).noted(source)


def spread_quantised(trace: Trace, seed: int = 0) -> Trace:
    """Requests that share a time stamp, spread at random over the time until the next stamp.

    For traces whose clock ticks in seconds. Nobody is moved further than one usual tick (the median
    distance of two stamps), and the order stays.
    """
    requests = _with_arrivals_of(trace)
    crowd = Counter(r.arrival_ns for r in requests)
    stamps = sorted(crowd)
    if len(stamps) < 2:
        raise TraceError(f"{trace.name}: has a single time stamp, so no tick to spread over: {MAKE_ARRIVALS}")
    tick_ns = median(b - a for a, b in pairwise(stamps))
    rng, moments = Random(seed), []
    for stamp, following in zip(stamps, [*stamps[1:], stamps[-1] + tick_ns], strict=True):
        width_ns = min(following - stamp, tick_ns)
        moments += sorted(stamp + int(rng.random() * width_ns) for _ in range(crowd[stamp]))
    spread = tuple(r._replace(arrival_ns=ns) for r, ns in zip(requests, moments, strict=True))
    remark = f"equal time stamps spread over ticks of {tick_ns / NANOSECONDS:g} s, seed {seed}"
    return replace(trace, requests=spread).noted(remark)


def shuffled(trace: Trace, seed: int = 0) -> Trace:
    """The same arrivals, the requests dealt to them in another order."""
    dealt = list(trace.requests)
    Random(seed).shuffle(dealt)
    return redealt(trace, dealt).noted(f"order shuffled, seed {seed}")


def redealt(trace: Trace, order: Iterable[TraceRequest]) -> Trace:
    """The same arrivals; the first goes to the first request of `order`, and so on."""
    return replace(
        trace,
        requests=tuple(
            new._replace(arrival_ns=old.arrival_ns) for old, new in zip(trace.requests, order, strict=True)
        ),
    )


def unshared(trace: Trace) -> Trace:
    """The same lengths without shared prefixes: a control. A prefix cache stays on, and hits nothing."""
    bare = _each(trace, lambda r: r._replace(block_ids=()))
    return replace(bare, name=f"{trace.name} unshared").noted("CONTROL: no prefix is shared")


def reblocked(trace: Trace, block_tokens: int) -> Trace:
    """Prefix sharing in larger blocks, `block_tokens` each: a multiple of the present size.

    The id of a large block is that of its last small one; what fills no large block is not shared any more.
    """
    if not trace.block_tokens:
        return trace
    step, rest = divmod(block_tokens, trace.block_tokens)
    if rest or step < 1:
        raise ConfigError(f"{block_tokens} tokens are no multiple of the {trace.block_tokens} of a block id")
    if step == 1:
        return trace
    coarse = _each(trace, lambda r: r._replace(block_ids=r.block_ids[step - 1 :: step]))
    remark = f"prefix blocks of {trace.block_tokens} tokens joined to {block_tokens}"
    return replace(coarse, block_tokens=block_tokens).noted(remark)


def merged(*traces: Trace) -> Trace:
    """All requests on one clock. Requests of different traces share no prefix."""
    if not traces:
        raise ConfigError("nothing to merge: give a trace")
    if len({t.has_arrivals for t in traces}) > 1:
        bare = ", ".join(t.name for t in traces if not t.has_arrivals)
        raise TraceError(f"{bare}: lengths only, beside a trace with arrivals: {MAKE_ARRIVALS}")
    separate = apart(*traces)
    return Trace(
        name=" + ".join(t.name for t in traces),
        requests=[r for trace in separate for r in trace.requests],
        block_tokens=separate[0].block_tokens,
        has_arrivals=traces[0].has_arrivals,
        note="; ".join(f"{t.name}: {t.note}" for t in traces if t.note),
    )


def apart(*traces: Trace) -> list[Trace]:
    """The same, with prefix blocks of one size and no id in two of them.

    Of n traces the ids of the first are 0 modulo n, those of the second 1, and so on. Raises TraceError for
    blocks of several sizes.
    """
    sizes = sorted({t.block_tokens for t in traces} - {0})
    if len(sizes) > 1:
        raise TraceError(
            f"prefix blocks of {' and '.join(map(str, sizes))} tokens don't compare: "
            f"join the small ones first, as with `brim trace convert --block-tokens {sizes[-1]}`"
        )
    block_tokens = sizes[0] if sizes else 0
    return [
        replace(_renamed(trace, len(traces), lane), block_tokens=block_tokens)
        for lane, trace in enumerate(traces)
    ]


def _renamed(trace: Trace, factor: int, lane: int) -> Trace:
    """Requests that have one tuple of ids have one afterwards: a long document costs its ids once."""
    if not trace.block_tokens:
        return trace
    names = {id(r.block_ids): r.block_ids for r in trace.requests}
    new = {key: tuple(block_id * factor + lane for block_id in ids) for key, ids in names.items()}
    return _each(trace, lambda r: r._replace(block_ids=new[id(r.block_ids)]))


def _each(trace: Trace, change: Callable[[TraceRequest], TraceRequest]) -> Trace:
    return replace(trace, requests=tuple(map(change, trace.requests)))


def _with_arrivals_of(trace: Trace) -> Sequence[TraceRequest]:
    """Its requests, of which there is at least one and whose arrivals mean something."""
    if not trace.has_arrivals:
        raise TraceError(f"{trace.name}: has lengths only, no arrivals: {MAKE_ARRIVALS}")
    if not trace.requests:
        raise TraceError(f"{trace.name}: has no requests")
    return trace.requests
