"""What a decision may know, as a scheduler has it: a read-only face of batch, queues and KV cache."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence

from brim.core.batch import Batch, DecodeLoad
from brim.core.config import SchedulerConfig
from brim.core.estimators.step_time import StepShape
from brim.core.flight import Flight
from brim.core.kvcache.manager import KVCacheManager
from brim.core.kvcache.timetable import Growth, Timetable
from brim.core.queues import Queues
from brim.core.request import RequestView, TaskClass


class SchedulerBoard:
    """`decision.Board`, whose docstrings say what each member means."""

    def __init__(
        self,
        config: SchedulerConfig,
        batch: Batch,
        queues: Queues,
        kv: KVCacheManager,
        in_flight: Sequence[Flight],
    ) -> None:
        self.waiting = queues.waiting
        self.parked = queues.parked
        self.max_num_seqs = config.max_num_seqs
        self.num_blocks = config.num_blocks
        self.block_size = config.block_size
        self._batch = batch
        self._kv = kv
        self._in_flight = in_flight
        self._queues = queues
        self._pool = queues.pool
        self._prefixes = None if self._pool is None else self._pool.prefixes

    @property
    def running(self) -> Iterable[RequestView]:
        return self._batch

    @property
    def catching_up(self) -> Collection[RequestView]:
        return self._batch.catching_up

    @property
    def starved(self) -> Sequence[RequestView]:
        return self._batch.starved

    @property
    def num_running(self) -> int:
        return len(self._batch)

    @property
    def num_decoding(self) -> int:
        return self._batch.num_decoding

    @property
    def available_blocks(self) -> int:
        return self._kv.available_blocks

    @property
    def forecast_blocks(self) -> int:
        return self._kv.forecast_blocks

    @property
    def ordinary_blocks(self) -> int:
        return self._kv.ordinary_blocks

    @property
    def releases_delayed(self) -> bool:
        return self._kv.waits_for_steps and len(self._in_flight) > 0

    @property
    def blocks_under_way(self) -> int:
        if not self._in_flight:
            return 0
        given_up = [table for flight in self._in_flight for table in flight.tables]
        ending = [state.block_ids for state in self._batch.catching_up if state.ending]
        return self._kv.freeable_blocks([*given_up, *ending])

    @property
    def tick(self) -> int:
        return self._batch.tick

    @property
    def steps_in_flight(self) -> Sequence[tuple[int, StepShape | None]]:
        return [(flight.start_ns, flight.shape) for flight in self._in_flight]

    def load(self, task_class: TaskClass) -> DecodeLoad:
        return self._batch.load(task_class)

    @property
    def offline_waiting(self) -> int:
        return self._queues.count(TaskClass.OFFLINE)

    def offline_families(self, most: int) -> list[Iterator[RequestView]]:
        return [] if self._pool is None else self._pool.families(most)

    def oldest_offline(self, now_ns: int) -> tuple[RequestView, int] | None:
        return None if self._pool is None else self._pool.oldest(now_ns)

    def pressing_offline(self, now_ns: int) -> RequestView | None:
        return None if self._pool is None else self._pool.pressing(now_ns)

    @property
    def online_blocks(self) -> int:
        return self._kv.online_blocks

    @property
    def offline_blocks(self) -> int:
        return self._kv.used_blocks - self._kv.online_blocks

    def wanted_among(self, blocks: int) -> int:
        return self._kv.wanted_among(blocks)

    def hit_tokens(self, view: RequestView) -> int:
        if self._pool is not None and view in self._pool:
            return self._pool.cached_blocks(view) * self._kv.block_size  # without its hashes
        return self._kv.num_hits(view, self._prefixes) * self._kv.block_size

    def admission_blocks(self, view: RequestView) -> int:
        if self._pool is not None and view in self._pool:
            return self._kv.admission_blocks(view, self._pool.cached_hashes(view))
        return self._kv.admission_blocks(view)

    def freeable_blocks(self, views: Sequence[RequestView]) -> int:
        return self._kv.freeable_blocks([view.block_ids for view in views])

    def held_blocks(self, view: RequestView) -> int:
        return self._kv.ledger.held_blocks(view)

    def own_blocks(self, view: RequestView) -> int:
        return self._kv.own_blocks(view)

    def is_guest(self, view: RequestView) -> bool:
        return self._kv.ledger.is_guest(view)

    def covers(self, view: RequestView) -> bool:
        return self._kv.ledger.covers(view)

    def timetable(self) -> Timetable:
        return self._kv.ledger.timetable.copy()

    def growth(self, view: RequestView, own_blocks: int, *, guest: bool) -> Growth:
        return self._kv.ledger.growth(view, own_blocks, self.held_blocks(view), guest=guest)
