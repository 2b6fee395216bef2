"""A host in the manner of vLLM: it owns loop and blocks, takes blocks chunk by chunk, and publishes early."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from brim.core import events
from brim.core.config import SchedulerConfig
from brim.core.hosted import HostedScheduler, Orders
from brim.core.kvcache.hosted import Beside
from brim.core.kvcache.prefix_index import BlockHash, extend_hashes
from brim.core.plan import StepPlan
from brim.core.policy import Policy
from brim.core.request import Request
from tests.helpers import MS


@dataclass
class Hosted:
    """A request as the host knows it."""

    asked: Request
    token_ids: list[int]
    num_computed: int = 0  # those in flight included
    blocks: list[int] = field(default_factory=list)
    hashes: list[BlockHash] = field(default_factory=list)
    stale: int = 0  # steps in flight whose token is not wanted any more

    @property
    def most(self) -> int:
        return len(self.asked.prompt_token_ids) + self.asked.sampling.max_tokens


class Blocks:
    """Reference counts, contents, and the free ones in the order in which they are taken."""

    def __init__(self, num_blocks: int, block_size: int) -> None:
        self.num_blocks, self.block_size = num_blocks, block_size
        self.refs = [0] * num_blocks
        self.contents: dict[int, BlockHash] = {}
        self.found: dict[BlockHash, int] = {}
        self.free: OrderedDict[int, None] = OrderedDict.fromkeys(range(num_blocks))
        self.observer: Any = None

    def take(self) -> int:
        block_id = self.free.popitem(last=False)[0]
        content = self.contents.pop(block_id, None)
        if content is not None:
            del self.found[content]
            if self.observer is not None:
                self.observer.evicted(content)
        self.refs[block_id] = 1
        return block_id

    def hold(self, block_id: int) -> None:
        self.free.pop(block_id, None)
        self.refs[block_id] += 1

    def release(self, block_ids: Iterable[int]) -> None:
        for block_id in block_ids:
            self.refs[block_id] -= 1
            if not self.refs[block_id]:
                self.free[block_id] = None
                self.free.move_to_end(block_id, last=block_id in self.contents)

    def publish(self, request: Hosted, start: int, stop: int) -> None:
        for block_id, content in zip(request.blocks[start:stop], request.hashes[start:stop], strict=True):
            if content not in self.found and block_id not in self.contents:
                self.contents[block_id] = content
                self.found[content] = block_id
        if self.observer is not None and stop > start:
            self.observer.published(request.hashes, start, stop)


class FakeHost:
    """Runs what it is ordered to run; with `moods` it now and then does something else, as real hosts may,
    or sets a request aside for some steps.

    `depth` steps may be in flight. Where it is `pipelined`, a request runs again when its token is known.
    """

    def __init__(
        self,
        config: SchedulerConfig,
        policy: Policy | None = None,
        *,
        depth: int = 1,
        pipelined: bool = False,
        moods: Random | None = None,
        beside: Sequence[Beside] = (),
    ) -> None:
        self.config, self.depth, self.pipelined, self._moods = config, depth, pipelined, moods
        self.beside = beside
        self.requests: dict[str, Hosted] = {}
        self.waiting: list[str] = []
        self.running: list[str] = []
        self.pool = Blocks(config.num_blocks, config.block_size)
        self.ended: dict[str, int] = {}  # output tokens
        self.left_out: set[str] = set()  # whom it does not let in, whatever it is told
        self.told: list[events.Event] = []
        self.now_ns = 0
        self.scheduler = self.make(policy)
        self.pool.observer = self.scheduler.observer
        self._in_flight: deque[tuple[StepPlan, dict[str, int]]] = deque()
        self._aside: dict[str, int] = {}  # until when

    def make(self, policy: Policy | None) -> HostedScheduler:
        return HostedScheduler(self.config, self, policy)

    # ---- what the scheduler asks -----------------------------------------------------------------------

    @property
    def num_blocks(self) -> int:
        return self.pool.num_blocks

    @property
    def free_blocks(self) -> int:
        return len(self.pool.free)

    def wanted_among(self, count: int) -> int:
        return 0

    def table(self, request_id: str, start: int) -> Sequence[int]:
        return self.requests[request_id].blocks[start:] if request_id in self.requests else ()

    def ref_count(self, block_id: int) -> int:
        return self.pool.refs[block_id]

    def find(self, block_hash: BlockHash) -> int | None:
        return self.pool.found.get(block_hash)

    def hashes(self, request_id: str, start: int) -> Sequence[BlockHash]:
        return self._hashes(self.requests[request_id])[start:]

    def token_ids(self, request_id: str) -> list[int]:
        return self.requests[request_id].token_ids

    def num_computed_tokens(self, request_id: str) -> int:
        return self.requests[request_id].num_computed

    def preempt(self, request_id: str) -> None:
        if request_id in self.running:
            self._preempt(request_id)

    def keep(self, block_id: int) -> None:
        self.pool.hold(block_id)

    def let_go(self, block_ids: Sequence[int]) -> None:
        self.pool.release(block_ids)

    def mark_online(self, block_ids: Iterable[int]) -> None:
        """It evicts in order of use."""

    # ---- what a test does ------------------------------------------------------------------------------

    def add(self, *requests: Request) -> None:
        for asked in requests:
            self.requests[asked.request_id] = Hosted(asked, list(asked.prompt_token_ids))
            self.waiting.append(asked.request_id)
            self.scheduler.add(asked, self.now_ns)

    def abort(self, request_id: str) -> None:
        if request_id in self.requests:
            self._end(request_id)
            self.scheduler.abort(request_id, self.now_ns)

    def step(self) -> dict[str, int]:
        """One turn of the loop; what was scheduled."""
        self._begin()
        orders = self.scheduler.order(self.now_ns)
        assert self._aside.keys().isdisjoint(orders.admit)
        scheduled, preempted = self._schedule(orders)
        return self._launched(scheduled, preempted)

    def watched_step(self) -> dict[str, int]:
        """One turn in which the host decides, first come first served."""
        self._begin()
        self.scheduler.foresee(self.now_ns)
        waiting = [request_id for request_id in self.waiting if request_id not in self._aside]
        scheduled, preempted = self._schedule(Orders(waiting))
        return self._launched(scheduled, preempted)

    def step_alone(self) -> dict[str, int]:
        """One turn in which nobody asks what to do; who runs goes on, and nobody enters."""
        self._begin()
        self.scheduler.stand_by(self.now_ns)
        return self._launched(*self._schedule(Orders()))

    def run(self, max_steps: int = 3000) -> FakeHost:
        for _ in range(max_steps):
            if not self.requests:
                while self._in_flight:
                    self._finish()
                return self
            self.step()
        raise AssertionError(f"not over after {max_steps} steps: {list(self.scheduler.states())}")

    # ---- how -------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        self.now_ns += MS
        for request_id in [name for name, until_ns in self._aside.items() if until_ns <= self.now_ns]:
            del self._aside[request_id]
            assert self.scheduler.is_aside(request_id)
            self.scheduler.bring_back(request_id, self.now_ns)

    def set_aside(self, request_id: str, steps: int) -> None:
        self.scheduler.set_aside(request_id, self.now_ns)
        self._aside[request_id] = self.now_ns + steps * MS

    def _launched(self, scheduled: dict[str, int], preempted: set[str]) -> dict[str, int]:
        plan = self.scheduler.ran(scheduled, preempted, self.now_ns)
        assert bool(plan) == bool(scheduled)
        if plan:
            assert plan.num_tokens == sum(scheduled.values())
            self._in_flight.append((plan, scheduled))
        for request_id in self.waiting:
            if request_id not in self._aside and self._in_a_mood():
                self.set_aside(request_id, steps=3)
        while len(self._in_flight) >= self.depth or (self._in_flight and not plan):
            self._finish()
        self.scheduler.check()
        return scheduled

    def _in_a_mood(self) -> bool:
        return self._moods is not None and self._moods.random() < 0.1

    def _schedule(self, orders: Orders) -> tuple[dict[str, int], set[str]]:
        budget, scheduled, preempted = self.config.max_num_batched_tokens, dict[str, int](), set[str]()
        for request_id in list(self.running):
            request = self.requests[request_id]
            unknown = self._unknown(request)
            need = len(request.token_ids) + unknown - request.num_computed
            need = min(need, budget, orders.tokens.get(request_id, need))
            if request.num_computed >= request.most - 1 or need < 1 or self._in_a_mood():
                continue
            while request_id in self.running and not self._give_blocks(request, need):
                victim = self.running[-1]
                budget += scheduled.pop(victim, 0)
                preempted.add(victim)
                self._preempt(victim)
            if request_id in self.running:
                self._run(request, need, scheduled)
                budget -= need
        if not preempted:
            self._let_in(orders, budget, scheduled)
        return scheduled, preempted

    def _unknown(self, request: Hosted) -> int:
        """How many tokens are in flight that the next step may build on."""
        return 0 if self.pipelined else max(request.num_computed - len(request.token_ids) + 1, 0)

    def _let_in(self, orders: Orders, budget: int, scheduled: dict[str, int]) -> None:
        for request_id in orders.admit:
            if request_id in self.left_out:
                continue
            request = self.requests[request_id]
            hits = self._hits(request)
            if self._in_a_mood():
                hits = hits[: len(hits) // 2]
            for block_id in hits:
                self.pool.hold(block_id)
            request.blocks, request.num_computed = list(hits), len(hits) * self.config.block_size
            need = min(len(request.token_ids) - request.num_computed, budget)
            need = min(need, orders.tokens.get(request_id, need))
            room = self.free_blocks - (-(-len(request.token_ids) // self.config.block_size) - len(hits))
            full = len(self.running) >= self.config.max_num_seqs
            if full or need < 1 or room < 0 or self._in_a_mood() or not self._give_blocks(request, need):
                self.pool.release(reversed(request.blocks))
                request.blocks, request.num_computed = [], 0
                return
            self.waiting.remove(request_id)
            self.running.append(request_id)
            self._run(request, need, scheduled)
            budget -= need

    def _hits(self, request: Hosted) -> list[int]:
        hits: list[int] = []
        for content in self._hashes(request)[: (len(request.token_ids) - 1) // self.config.block_size]:
            if not self.config.enable_prefix_caching or content not in self.pool.found:
                break
            hits.append(self.pool.found[content])
        return hits

    def _give_blocks(self, request: Hosted, tokens: int) -> bool:
        size = self.config.block_size
        lacking = -(-(request.num_computed + tokens) // size) - len(request.blocks)
        if lacking > self.free_blocks:
            return False
        request.blocks += [self.pool.take() for _ in range(lacking)]
        return True

    def _run(self, request: Hosted, tokens: int, scheduled: dict[str, int]) -> None:
        scheduled[request.asked.request_id] = tokens
        before, request.num_computed = request.num_computed, request.num_computed + tokens
        if self.config.enable_prefix_caching:
            whole = min(request.num_computed, len(request.token_ids)) // self.config.block_size
            self._hashes(request)
            self.pool.publish(request, before // self.config.block_size, whole)

    def _hashes(self, request: Hosted) -> list[BlockHash]:
        extend_hashes(request.hashes, request.token_ids, self.config.block_size, "")
        return request.hashes

    def _preempt(self, request_id: str) -> None:
        request = self.requests[request_id]
        self.running.remove(request_id)
        self.waiting.insert(0, request_id)
        self.pool.release(reversed(request.blocks))
        request.blocks, request.num_computed = [], 0
        request.stale = sum(request_id in scheduled for _, scheduled in self._in_flight)

    def _finish(self) -> None:
        plan, scheduled = self._in_flight.popleft()
        over = [request_id for request_id in scheduled if self._take_token(request_id, scheduled)]
        for request_id in over:
            self._end(request_id)
        self.told += self.scheduler.ended(plan, over, self.now_ns)

    def _take_token(self, request_id: str, scheduled: Mapping[str, int]) -> bool:
        """Whether the request is over."""
        request = self.requests.get(request_id)
        if request is None:
            return False
        if request.stale:
            request.stale -= 1
            return False
        later = sum(flown.get(request_id, 0) for _, flown in self._in_flight)
        if request.num_computed - later < len(request.token_ids):
            return False
        request.token_ids.append(7)
        return len(request.token_ids) >= request.most

    def _end(self, request_id: str) -> None:
        request = self.requests.pop(request_id)
        self._aside.pop(request_id, None)
        self.ended[request_id] = len(request.token_ids) - len(request.asked.prompt_token_ids)
        for queue in (self.waiting, self.running):
            if request_id in queue:
                queue.remove(request_id)
        self.pool.release(reversed(request.blocks))
