"""What the trace knows and the scheduler must not: the true lengths, and the contents of the prompts.

A request's id is its place in the trace.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from itertools import repeat
from typing import Protocol, overload

from brim.core.errors import ConfigError
from brim.core.kvcache.prefix_index import BlockHash
from brim.core.request import Request, RequestView
from brim.workloads.trace import Trace, TraceRequest

FILLER, STOP = 0, 1  # the token ids of a simulated answer
STOPS = frozenset({STOP})
PREFIXES_KEPT = 4096  # names of shared blocks that are not made anew when another request shares them


class ByPlace(Protocol):
    def __getitem__(self, place: int, /) -> TraceRequest: ...


class Known(Protocol):
    """What is known of requests by their place in a trace: the trace itself, or those of it under way."""

    @property
    def name(self) -> str: ...
    @property
    def requests(self) -> ByPlace: ...
    @property
    def block_tokens(self) -> int: ...


class Fillers(Sequence[int]):
    """So many filler tokens, as one number: a prompt of which nobody knows the words."""

    __slots__ = ("_count",)

    def __init__(self, count: int) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[int]:
        return repeat(FILLER, self._count)

    @overload
    def __getitem__(self, at: int) -> int: ...
    @overload
    def __getitem__(self, at: slice) -> Fillers: ...
    def __getitem__(self, at: int | slice) -> int | Fillers:
        if isinstance(at, slice):
            return Fillers(len(range(self._count)[at]))
        range(self._count)[at]  # raises IndexError where there is none
        return FILLER


class Truth:
    """The true length of every answer, drawn as filler tokens and one stop token."""

    def __init__(self, trace: Known) -> None:
        self._requests = trace.requests

    def of(self, request: Request) -> TraceRequest:
        return self._requests[int(request.request_id)]

    def last_context(self, view: RequestView) -> int:
        """The tokens that are computed when the request's last token is drawn. An answer has at least one."""
        return view.num_prompt_tokens + max(self.of(view.request).output_tokens, 1) - 1


class TraceHashing:
    """Names the contents of a trace's requests, whose tokens nobody knows (a `BlockHashing`).

    What the trace's block ids cover is named by the id and the place inside its block; what they don't,
    the output among it, is the request's own. Raises ConfigError where the blocks don't fit into those of
    the trace.
    """

    def __init__(self, trace: Known, block_size: int, max_model_len: int) -> None:
        if trace.block_tokens % block_size:
            raise ConfigError(
                f"block_size {block_size} does not divide the {trace.block_tokens} tokens of a prefix block "
                f"of {trace.name}: take a divisor, or switch prefix caching off"
            )
        self._requests = trace.requests
        self._parts = trace.block_tokens // block_size  # our blocks in one of the trace's
        self._width = max_model_len // block_size + 1  # more blocks than a request can have
        # by the identity of block ids, which many may share; holding them keeps it theirs
        self._names: OrderedDict[int, tuple[Sequence[int], list[BlockHash]]] = OrderedDict()

    def extend(self, hashes: list[BlockHash], view: RequestView, block_size: int) -> None:
        sequence = int(view.request.request_id)
        block_ids = self._requests[sequence].block_ids
        shared = min(len(block_ids) * self._parts, view.num_prompt_tokens // block_size)
        hashes += self._shared(block_ids)[len(hashes) : shared]
        first = -1 - sequence * self._width  # own names are negative, so that they never meet an id
        hashes.extend(range(first - len(hashes), first - view.num_tokens // block_size, -1))

    def _shared(self, block_ids: Sequence[int]) -> list[BlockHash]:
        found = self._names.get(id(block_ids))
        if found is not None:
            return found[1]
        names: list[BlockHash] = [
            block_id * self._parts + part for block_id in block_ids for part in range(self._parts)
        ]
        self._names[id(block_ids)] = (block_ids, names)
        if len(self._names) > PREFIXES_KEPT:
            self._names.popitem(last=False)
        return names


def refuse_unchained(trace: Trace) -> None:
    """An id that names the words of its block alone would make hits of different prompts.

    Raises ConfigError where a block id stands behind two others.
    """
    before: dict[int, int | None] = {}
    looked_at = set()  # by identity: many requests share their ids
    for request in trace.requests:
        if id(request.block_ids) in looked_at:
            continue
        looked_at.add(id(request.block_ids))
        last = None
        for block_id in request.block_ids:
            if before.setdefault(block_id, last) != last:
                raise ConfigError(
                    f"block id {block_id} of {trace.name} stands behind both {before[block_id]} and {last}, "
                    "but an id must name all tokens up to its block: give each prefix an id of its own, "
                    "or switch prefix caching off"
                )
            last = block_id
