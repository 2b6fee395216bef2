"""The only real clock: a thread that schedules, runs and commits, beside an asyncio event loop.

asyncio side                     engine thread
submit, abort  -- commands -->   take in, schedule, begin, finish, commit
TokenStream    <-- one call per step with everything that came --
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

from brim.core.errors import EngineDead, RequestRefused
from brim.core.estimators.length_error import LengthError
from brim.core.events import Admitted, Event, Finished, Tokens
from brim.core.figures import figures
from brim.core.limits import refuse_impossible
from brim.core.plan import StepPlan, StepResult, TokenLogprobs
from brim.core.request import FinishReason, Request, RequestState, TaskClass
from brim.core.scheduler import Scheduler
from brim.engines.base import Engine
from brim.engines.stats import LoopStats
from brim.metrics.histogram import Histogram
from brim.metrics.recorder import Recorder, bucketed

log = logging.getLogger("brim")

CLOSE_SECONDS = 30.0  # for the last step and the engine's own end: a step that hangs would hang the process


@dataclass(frozen=True, slots=True)
class Delta:
    """What came since the last one: `logprobs` parallel to `token_ids` where asked for, else empty.

    The last one has the finish reason, and its message where the request failed alone: an error without one
    is the engine's death. `num_cached_tokens` counts prompt tokens that were found in the prefix cache.
    """

    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprobs, ...]
    finish_reason: FinishReason | None
    message: str | None
    num_cached_tokens: int


class TokenStream:
    """An async iterator of Deltas; a slow reader gets fewer and larger ones. Abort it when leaving early."""

    def __init__(self, request: Request, abort: Callable[[str, FinishReason], None]) -> None:
        self.request = request
        self._abort = abort
        self.event_loop = asyncio.get_running_loop()
        self._arrived = asyncio.Event()
        self._token_ids: list[int] = []
        self._logprobs: list[TokenLogprobs] = []
        self._num_cached_tokens = 0
        self._finish: tuple[FinishReason, str | None] | None = None
        self._read_to_end = False

    def abort(self, reason: FinishReason = FinishReason.ABORT) -> None:
        """Ends the request within one step; nothing happens where it is over. Callable from any thread."""
        if self._finish is None:
            self._abort(self.request.request_id, reason)

    def __aiter__(self) -> TokenStream:
        return self

    async def __anext__(self) -> Delta:
        if self._read_to_end:
            raise StopAsyncIteration
        await self._arrived.wait()
        self._arrived.clear()
        self._read_to_end = self._finish is not None
        reason, message = self._finish or (None, None)
        delta = Delta(tuple(self._token_ids), tuple(self._logprobs), reason, message, self._num_cached_tokens)
        self._token_ids.clear()
        self._logprobs.clear()
        return delta

    # what the engine loop tells, called in the event loop's thread

    def take(self, token_id: int, logprobs: TokenLogprobs | None) -> None:
        self._token_ids.append(token_id)
        if logprobs is not None:
            self._logprobs.append(logprobs)
        self._arrived.set()

    def enter(self, num_cached_tokens: int) -> None:
        self._num_cached_tokens = num_cached_tokens

    def end(self, reason: FinishReason, message: str | None) -> None:
        self._finish = (reason, message)
        self._arrived.set()


class _Step:
    """A plan given to the engine. At depth 2 its rows are kept: the next `schedule` moves decodes on."""

    __slots__ = ("plan", "result", "rows")

    def __init__(self, plan: StepPlan, depth: int) -> None:
        self.plan = plan
        self.rows = plan.rows() if depth > 1 else None
        self.result: StepResult | None = None  # known early where the step had to be run in parts


class EngineLoop:
    """Drives one engine with one scheduler. `start` it before the first `submit`."""

    def __init__(
        self,
        engine: Engine,
        scheduler: Scheduler,
        *,
        recorder: Recorder[Histogram] | None = None,
        clock_ns: Callable[[], int] = time.monotonic_ns,
        observe: Callable[[list[Event]], None] | None = None,
        length_error: LengthError | None = None,
    ) -> None:
        """`observe` is given every step's events, in the engine thread.

        `length_error` is what the scheduler's length predictor counts its errors in.
        """
        self.length_error = length_error
        self.caps = engine.caps
        self.metrics = recorder or Recorder(bucketed)
        self.now_ns = clock_ns
        self._engine = engine
        self._scheduler = scheduler
        self._observe = observe
        self._commands: SimpleQueue[Callable[[], object]] = SimpleQueue()
        self._streams: dict[str, TokenStream] = {}
        self._num_submitted: Counter[TaskClass] = Counter()  # by the callers' thread
        self._num_taken: Counter[TaskClass] = Counter()  # of those, by the engine thread
        self._thread = threading.Thread(target=self._run, name="brim-engine", daemon=True)
        self._refusing = False
        self._close_by: float | None = None  # once it is to end
        self._step_since_ns: int | None = None
        self._over = threading.Event()  # the engine thread takes in nothing more
        self._left = False  # it has left its last step
        self._death: str | None = None

    # ---- from any thread -------------------------------------------------------------------------------

    @property
    def alive(self) -> bool:
        """False once the engine is dead: restart the process."""
        return self._death is None

    @property
    def step_seconds(self) -> float:
        """How long the step under way has run so far; 0 without one."""
        since_ns = self._step_since_ns
        return 0.0 if since_ns is None else (self.now_ns() - since_ns) / 1e9

    def start(self) -> None:
        self._thread.start()

    def submit(self, request: Request) -> TokenStream:
        """Hands the request to the scheduler. Call it from a running event loop.

        Raises RequestRefused where the request could never run, EngineDead where nothing more is taken.
        """
        if self._refusing:
            raise EngineDead("the engine takes nothing more")
        refuse_impossible(request, self._scheduler.config)
        if request.request_id in self._streams:
            raise RequestRefused(
                f"a request {request.request_id!r} is already here", code="duplicate_request_id"
            )
        stream = TokenStream(request, self._abort)
        self._streams[request.request_id] = stream
        self._num_submitted[request.task_class] += 1
        self._commands.put(lambda: self._add(request))
        if self._over.is_set():  # nobody will take the command in
            self._streams.pop(request.request_id, None)
            raise EngineDead(self._death or "the engine has been closed")
        return stream

    def stats(self) -> LoopStats:
        scheduler = self._scheduler
        kv = scheduler.kv
        return LoopStats(
            num_running=len(scheduler.batch),
            num_waiting_online=self._num_waiting(TaskClass.ONLINE),
            num_waiting_offline=self._num_waiting(TaskClass.OFFLINE),
            kv_usage=kv.used_blocks / kv.num_blocks,
            used_blocks=kv.used_blocks,
            cached_blocks=kv.cached_blocks,
            free_blocks=kv.free_blocks,
            promised_blocks=kv.promised_blocks,
            lent_blocks=kv.lent_blocks,
        )

    def figures(self) -> dict[str, float]:
        """What the scheduler's rules know of themselves; see `core.figures`."""
        return figures(self._scheduler)

    def _num_waiting(self, task_class: TaskClass) -> int:
        """Those submitted but not yet taken in count too: a burst comes between two steps."""
        on_the_way = self._num_submitted[task_class] - self._num_taken[task_class]
        return max(0, self._scheduler.queues.count(task_class) + on_the_way)

    def take_no_more(self) -> None:
        """What runs goes on; whoever submits from now on gets EngineDead."""
        self._refusing = True

    async def drain(self, timeout_seconds: float) -> bool:
        """Waits until no request is left; False where some are after the time."""
        deadline = time.monotonic() + timeout_seconds
        while self._streams and self.alive:
            if time.monotonic() >= deadline:
                return False
            await asyncio.sleep(0.02)
        return True

    async def hangs(self) -> bool:
        """Whether what runs at the call never leaves the engine: known when it has, or at `close`."""
        for _ in range(self.caps.depth):  # at depth 2 a step is taken in before the one ahead has returned
            taken = threading.Event()
            self._commands.put(taken.set)
            while not taken.is_set():
                if self._over.is_set() or self._thread.ident is None:
                    return self._over.is_set() and not self._left
                await asyncio.sleep(0.02)
        return False

    def close(self) -> None:
        """Aborts what is left, stops the thread and closes the engine.

        Raises EngineDead where a step has not returned `CLOSE_SECONDS` after the first call.
        """
        self._close_by = self._close_by or time.monotonic() + CLOSE_SECONDS
        if self._thread.ident is None:
            self._left = True
            self._over.set()
            self._engine.close()
        elif self._thread.is_alive():
            self._commands.put(lambda: None)
            self._thread.join(max(0.0, self._close_by - time.monotonic()))
            if self._thread.is_alive():
                self._end_all()
                raise EngineDead(f"the engine has not stopped within {CLOSE_SECONDS:g} s: its step hangs")

    def _add(self, request: Request) -> None:
        self._scheduler.add(request, self.now_ns())
        self._num_taken[request.task_class] += 1

    def _abort(self, request_id: str, reason: FinishReason) -> None:
        self._commands.put(lambda: self._scheduler.abort(request_id, self.now_ns(), reason))

    # ---- the engine thread -----------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._serve()
        except Exception as exc:
            log.exception("the engine loop has ended")
            self._death = f"{type(exc).__name__}: {exc}"
        finally:
            self._left = True
            self._end_all()
            self._engine.close()

    def _serve(self) -> None:
        """At depth 2 a step is scheduled while the one before it runs, and begun before that is committed."""
        under_way: _Step | None = None
        while self._close_by is None:
            self._take_commands(wait=under_way is None and not len(self._scheduler))
            self._step_since_ns = now_ns = self.now_ns()
            plan = self._scheduler.schedule(now_ns)
            done, result = under_way, self._finish(under_way)
            under_way = self._begin(plan) if plan else None
            if self.caps.depth == 1:
                done, result, under_way = under_way, self._finish(under_way), None
            if done is not None and result is not None:
                self._deliver(self._scheduler.commit(done.plan, result, self.now_ns()))
            else:
                self._deliver(self._scheduler.take_events())

    def _take_commands(self, *, wait: bool) -> None:
        if wait:
            self._step_since_ns = None
            self._commands.get()()
        while not self._commands.empty():
            self._commands.get()()

    def _begin(self, plan: StepPlan) -> _Step:
        step = _Step(plan, self.caps.depth)
        try:
            self._engine.begin(plan)
        except EngineDead:
            raise
        except Exception:
            step.result = self._run_in_parts(step)
        return step

    def _finish(self, step: _Step | None) -> StepResult | None:
        if step is None or step.result is not None:
            return None if step is None else step.result
        try:
            return self._result()
        except EngineDead:
            raise
        except Exception:
            return self._run_in_parts(step)

    def _result(self) -> StepResult:
        """The engine's. What it says of single requests is in the log alone: clients are not told."""
        result = self._engine.finish()
        for request_id, message in result.errors.items():
            log.error("request %s fails alone: %s", request_id, message)
        return result

    def _run_in_parts(self, step: _Step) -> StepResult:
        """Runs halves of the step, and halves of those, until only the rows that fail alone have failed."""
        plan = step.plan
        drawn: dict[RequestState, int] = {}
        logprobs: dict[str, TokenLogprobs] = {}
        errors: dict[str, str] = {}
        parts = [plan.rows() if step.rows is None else step.rows]
        while parts:
            rows = parts.pop()
            part = plan.part(rows)
            self._step_since_ns = self.now_ns()
            try:
                self._engine.begin(part)
                result = self._result()
            except EngineDead:
                raise
            except Exception as exc:
                if len(rows) == 1:
                    request_id = rows[0].state.request.request_id
                    log.exception("request %s fails its step, and fails alone", request_id)
                    errors[request_id] = f"{type(exc).__name__}: {exc}"
                else:
                    parts += [rows[len(rows) // 2 :], rows[: len(rows) // 2]]
            else:
                drawn.update(zip(part.sampling(), result.token_ids, strict=True))
                logprobs.update(result.logprobs)
                errors.update(result.errors)
        return StepResult([drawn.get(state, 0) for state in plan.sampling()], logprobs, errors)

    def _deliver(self, events: list[Event]) -> None:
        if not events:
            return
        self.metrics.observe(events)
        if self._observe is not None:
            self._observe(events)
        updates: dict[asyncio.AbstractEventLoop, list[tuple[Any, ...]]] = {}
        for event in events:
            for stream, *update in self._updates(event):
                updates.setdefault(stream.event_loop, []).append(tuple(update))
        for event_loop, batch in updates.items():
            _call_in(event_loop, batch)

    def _updates(self, event: Event) -> Iterator[tuple[Any, ...]]:
        """(stream, method, arguments) for everything a stream should hear of the event."""
        match event:
            case Tokens():
                for state, token_id in zip(event.states, event.token_ids, strict=True):
                    request_id = state.request.request_id
                    if stream := self._streams.get(request_id):
                        yield stream, stream.take, token_id, event.logprobs.get(request_id)
            case Admitted(request_id=request_id, resumed=False):
                if stream := self._streams.get(request_id):
                    yield stream, stream.enter, event.cached_tokens
            case Finished():
                if stream := self._streams.pop(event.request_id, None):
                    yield stream, stream.end, event.reason, event.message

    def _end_all(self) -> None:
        """The thread is over, or hangs: whoever still waits is told."""
        self._over.set()
        reason = FinishReason.ABORT if self._death is None else FinishReason.ERROR
        for request_id in list(self._streams):
            if stream := self._streams.pop(request_id, None):
                _call_in(stream.event_loop, [(stream.end, reason, None)])


def _call_in(event_loop: asyncio.AbstractEventLoop, calls: list[tuple[Any, ...]]) -> None:
    with contextlib.suppress(RuntimeError):  # that event loop is closed: nobody listens
        event_loop.call_soon_threadsafe(_call_each, calls)


def _call_each(calls: list[tuple[Any, ...]]) -> None:
    for method, *arguments in calls:
        try:
            method(*arguments)
        except asyncio.InvalidStateError:
            # Ctrl-C cancels tasks between any two bytecodes: this reader was, in the midst of being woken.
            continue
