"""What a decision says, and what it may know: the seam between the rules and whoever owns the blocks."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from brim.core.batch import DecodeLoad
from brim.core.estimators.slack import Miss
from brim.core.estimators.step_time import StepShape
from brim.core.kvcache.timetable import Growth, Timetable
from brim.core.policies.picking import Queue
from brim.core.request import RequestView, TaskClass


class Grant(NamedTuple):
    """`blocks` more are promised to a request that is expected to have `output_tokens` in all.

    A `guest` is lent them: hosts have not yet written what they were promised.
    """

    output_tokens: int
    blocks: int
    guest: bool = False


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do before and in the coming step, in this order.

    `preempt` lose their KV and wait again; `pause` sit this step out and keep their KV; `park` keep it
    and don't generate until they are granted more; `admit` enter the batch; `grants` go on or begin to
    generate. `chunk_tokens` says how many tokens each of those catching up runs, the admitted included.
    Every other running request decodes one token, unless `hold_decodes`: then all of them sit this step
    out. `miss` is an online request that is predicted to get its next token too late, whatever offline ones
    do.

    Blocks shared between a victim and a newcomer are counted twice here, so an admission of a decision
    that also preempts may turn out not to fit: it then waits for the next decision.
    """

    preempt: Sequence[RequestView] = ()
    pause: Sequence[RequestView] = ()
    park: Sequence[RequestView] = ()
    admit: Sequence[RequestView] = ()
    grants: Mapping[RequestView, Grant] = field(default_factory=dict)
    chunk_tokens: Mapping[RequestView, int] = field(default_factory=dict)
    hold_decodes: bool = False
    miss: Miss | None = None


class Board(Protocol):
    """What a decision may know. All counts are of this moment, before anything is carried out."""

    @property
    def running(self) -> Iterable[RequestView]:
        """All who hold KV, the parked included."""

    @property
    def catching_up(self) -> Collection[RequestView]:
        """The running requests that have more than one token to run, or sat a step out."""

    @property
    def parked(self) -> Queue:
        """Those that wait to generate, in order of the policy's `ordering`."""

    @property
    def starved(self) -> Sequence[RequestView]:
        """The running requests that lack a block for their next token."""

    @property
    def waiting(self) -> Queue:
        """In order of the policy's `ordering`."""

    @property
    def num_running(self) -> int: ...
    @property
    def num_decoding(self) -> int: ...
    @property
    def max_num_seqs(self) -> int: ...
    @property
    def num_blocks(self) -> int: ...
    @property
    def block_size(self) -> int: ...
    @property
    def available_blocks(self) -> int:
        """Free or evictable, and promised to nobody."""

    @property
    def forecast_blocks(self) -> int:
        """The same, counting on those with a promise to leave when they are expected to."""

    @property
    def ordinary_blocks(self) -> int:
        """What could be promised to hosts if all guests left."""

    @property
    def releases_delayed(self) -> bool:
        """True when a victim's blocks come free only after this step (one is still in flight)."""

    @property
    def blocks_under_way(self) -> int:
        """Blocks given up already, or of requests that end in flight, that come free only after this step."""

    def hit_tokens(self, view: RequestView) -> int:
        """Tokens of a waiting request that are in the prefix cache."""

    def admission_blocks(self, view: RequestView) -> int:
        """Available blocks that admitting it uses up, for its known tokens."""

    def freeable_blocks(self, views: Sequence[RequestView]) -> int:
        """Blocks that preempting all of them makes available."""

    def held_blocks(self, view: RequestView) -> int:
        """Blocks that it holds or is promised."""

    def own_blocks(self, view: RequestView) -> int:
        """Of those it holds, the ones that nobody shares."""

    @property
    def tick(self) -> int:
        """Of the coming step."""

    @property
    def steps_in_flight(self) -> Sequence[tuple[int, StepShape | None]]:
        """When each was decided on, and its sizes where somebody asks how long steps take; oldest first."""

    def load(self, task_class: TaskClass) -> DecodeLoad:
        """What a class would decode in the coming step."""

    @property
    def offline_waiting(self) -> int:
        """Offline requests that wait to enter."""

    def offline_families(self, most: int) -> list[Iterator[RequestView]]:
        """Offline requests to look at: see `OfflinePool.families`."""

    def oldest_offline(self, now_ns: int) -> tuple[RequestView, int] | None:
        """Who of them has waited longest, and since when: see `OfflinePool.oldest`."""

    def pressing_offline(self, now_ns: int) -> RequestView | None:
        """Whose deadline presses most: see `OfflinePool.pressing`."""

    @property
    def online_blocks(self) -> int:
        """Held by online requests, offline ones sharing some of them or not."""

    @property
    def offline_blocks(self) -> int:
        """Held by offline requests alone."""

    def wanted_among(self, blocks: int) -> int:
        """Of so many blocks, taken now, how many would lose a content that somebody waits for."""

    def is_guest(self, view: RequestView) -> bool:
        """Whether its promise fits only because hosts have not yet written theirs."""

    def covers(self, view: RequestView) -> bool:
        """Whether its next block is inside its promise."""

    def timetable(self) -> Timetable:
        """What those with a promise will hold, where there is lending; the caller's own."""

    def growth(self, view: RequestView, own_blocks: int, *, guest: bool) -> Growth:
        """What it will hold if it generates from now on."""
