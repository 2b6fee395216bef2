"""The engine loop: a real thread beside a real event loop, over the scripted engine."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from brim.core.config import SchedulerConfig
from brim.core.errors import EngineDead, RequestRefused
from brim.core.events import Event, Tokens
from brim.core.plan import StepPlan, StepResult
from brim.core.request import FinishReason
from brim.core.scheduler import Scheduler
from brim.engines import loop as loop_module
from brim.engines.loop import Delta, EngineLoop, TokenStream, _call_each
from brim.engines.scripted import ScriptedEngine
from tests.helpers import reference, request, script

DEPTHS = pytest.mark.parametrize("depth", [1, 2])
FOR_EVER = 500  # tokens: more than any test waits for


class GatedEngine(ScriptedEngine):
    """Begins a step only while its gate is open, and closes it itself before step `hold_at_step`.

    The faults are given the plan of a step and may raise.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(num_blocks=512, block_size=4, max_model_len=1024, script=script, **options)
        self.gate = threading.Event()
        self.gate.set()
        self.hold_at_step: int | None = None
        self.fault_in_begin: Callable[[StepPlan], None] = lambda plan: None
        self.fault_in_finish: Callable[[StepPlan], None] = lambda plan: None
        self.closed = 0
        self.under_way: StepPlan | None = None
        self.steps_run = 0

    def begin(self, plan: StepPlan) -> None:
        if self.steps_run == self.hold_at_step:
            self.gate.clear()
        self.gate.wait()
        self.fault_in_begin(plan)
        super().begin(plan)
        self.under_way = plan

    def finish(self) -> StepResult:
        assert self.under_way is not None
        result = super().finish()
        self.fault_in_finish(self.under_way)
        self.steps_run += 1
        return result

    def close(self) -> None:
        self.closed += 1


def poison(*request_ids: str) -> Callable[[StepPlan], None]:
    def fault(plan: StepPlan) -> None:
        for row in plan.rows():
            if row.state.request.request_id in request_ids:
                raise ValueError(f"bitter {row.state.request.request_id}")

    return fault


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(60):
            await test()

    asyncio.run(bounded())


@asynccontextmanager
async def started(
    depth: int = 1, *, seats: int = 128, engine: GatedEngine | None = None, **options: Any
) -> AsyncIterator[tuple[EngineLoop, GatedEngine]]:
    engine = engine or GatedEngine(depth=depth)
    settings = SchedulerConfig(512, 4, max_model_len=1024, max_num_seqs=seats)
    loop = EngineLoop(engine, Scheduler(settings), **options)
    loop.start()
    try:
        yield loop, engine
    finally:
        engine.gate.set()
        await asyncio.to_thread(loop.close)


async def read(stream: TokenStream) -> tuple[list[int], Delta]:
    """All tokens, and the last delta."""
    tokens: list[int] = []
    last = None
    async for delta in stream:
        assert last is None or last.finish_reason is None
        tokens += delta.token_ids
        last = delta
    assert last is not None
    return tokens, last


async def until(condition: Callable[[], bool]) -> None:
    """At depth 2 blocks come back a step after the last token; `run` bounds the wait."""
    while not condition():
        await asyncio.sleep(0.001)


@DEPTHS
def test_a_hundred_at_once_get_their_own_tokens(depth):
    asked = [request(f"r{i}", [i, *range(i % 13)], max_tokens=1 + i % 17) for i in range(100)]

    async def test() -> None:
        async with started(depth, seats=32) as (loop, _):
            answers = await asyncio.gather(*(read(loop.submit(one)) for one in asked))
            assert [tokens for tokens, _ in answers] == [reference(one) for one in asked]
            assert {last.finish_reason for _, last in answers} == {FinishReason.LENGTH}
            await until(lambda: loop.stats().used_blocks == 0)
            assert loop.stats().num_running == loop.stats().num_waiting == 0

    run(test)


@DEPTHS
def test_the_last_delta_has_the_reason_and_then_the_stream_is_over(depth):
    async def test() -> None:
        async with started(depth) as (loop, _):
            stream = loop.submit(request("a", 4, max_tokens=3))
            await read(stream)
            with pytest.raises(StopAsyncIteration):
                await anext(stream)

    run(test)


def test_logprobs_come_beside_their_tokens_and_only_where_asked_for():
    async def test() -> None:
        async with started() as (loop, _):
            plain, wanted = loop.submit(request("a")), loop.submit(request("b", logprobs=2))
            for stream, expected in ((plain, False), (wanted, True)):
                async for delta in stream:
                    ids = tuple(entry.token_id for entry in delta.logprobs)
                    assert ids == (delta.token_ids if expected else ())

    run(test)


def test_cached_tokens_are_told():
    async def test() -> None:
        async with started() as (loop, _):
            _, first = await read(loop.submit(request("a", range(9))))
            _, second = await read(loop.submit(request("b", range(9))))
            assert (first.num_cached_tokens, second.num_cached_tokens) == (0, 8)

    run(test)


def test_a_slow_reader_gets_fewer_and_larger_deltas():
    async def test() -> None:
        slow, longer = request("a", 4, max_tokens=50), request("b", 4, max_tokens=60)
        async with started() as (loop, _):
            stream = loop.submit(slow)
            await read(loop.submit(longer))  # when it is over, so is the other
            deltas = [delta async for delta in stream]
            assert [list(delta.token_ids) for delta in deltas] == [reference(slow)]
            assert deltas[0].finish_reason is FinishReason.LENGTH

    run(test)


@DEPTHS
def test_an_aborted_request_gets_no_token_of_a_later_step(depth):
    async def test() -> None:
        async with started(depth) as (loop, engine):
            engine.hold_at_step = 3
            stream = loop.submit(request("a", 4, max_tokens=FOR_EVER))
            await anext(stream)
            await until(lambda: not engine.gate.is_set())
            stream.abort()
            engine.gate.set()
            _, last = await read(stream)
            assert last.finish_reason is FinishReason.ABORT
            await loop.drain(30)
            assert engine.steps_run <= 3 + depth  # the one at the gate, and what was in flight

    run(test)


def test_an_abort_may_come_from_another_thread_and_say_another_reason():
    async def test() -> None:
        async with started() as (loop, engine):
            engine.gate.clear()
            stream = loop.submit(request("a", 4, max_tokens=FOR_EVER))
            await asyncio.to_thread(stream.abort, FinishReason.STOP)
            engine.gate.set()
            _, last = await read(stream)
            assert last.finish_reason is FinishReason.STOP

    run(test)


def test_an_abort_after_the_end_does_nothing():
    async def test() -> None:
        async with started() as (loop, _):
            stream = loop.submit(request("a"))
            await read(stream)
            stream.abort()
            tokens, _ = await read(loop.submit(request("a", 5)))
            assert tokens == reference(request("a", 5))

    run(test)


@DEPTHS
@pytest.mark.parametrize("where", ["begin", "finish"])
@pytest.mark.parametrize("bad", [["r3"], ["r0", "r5", "r6"], [f"r{i}" for i in range(9)]])
def test_poisoned_requests_fail_alone(depth, where, bad):
    """Whether one, some or all of them make every step fail that runs them."""
    asked = [request(f"r{i}", [i] * (1 + i), max_tokens=6) for i in range(9)]

    async def test() -> None:
        engine = GatedEngine(depth=depth)
        setattr(engine, f"fault_in_{where}", poison(*bad))
        async with started(engine=engine) as (loop, _):
            answers = await asyncio.gather(*(read(loop.submit(one)) for one in asked))
            for one, (tokens, last) in zip(asked, answers, strict=True):
                if one.request_id in bad:
                    assert (tokens, last.finish_reason) == ([], FinishReason.ERROR)
                    assert last.message == f"ValueError: bitter {one.request_id}"
                else:
                    assert (tokens, last.finish_reason) == (reference(one), FinishReason.LENGTH)
            assert loop.alive
            await until(lambda: loop.stats().used_blocks == 0)

    run(test)


def test_what_an_engine_says_of_a_request_that_fails_is_in_the_log(caplog):
    class Engine(GatedEngine):
        def finish(self) -> StepResult:
            return replace(super().finish(), errors={"a": "bitter"})

    async def test() -> None:
        async with started(engine=Engine()) as (loop, _):
            _, last = await read(loop.submit(request("a", 4)))
            assert last.finish_reason is FinishReason.ERROR

    run(test)
    assert caplog.text.count("request a fails alone: bitter") == 1


@DEPTHS
@pytest.mark.parametrize("where", ["begin", "finish"])
def test_a_request_that_turns_bad_half_way_keeps_what_it_said(depth, where):
    a, b = request("a", 4, max_tokens=20), request("b", 4, max_tokens=20)

    def fault(plan: StepPlan) -> None:
        for row in plan.rows():
            if row.state.request.request_id == "a" and row.start >= 10:
                raise ValueError("bitter")

    async def test() -> None:
        engine = GatedEngine(depth=depth)
        setattr(engine, f"fault_in_{where}", fault)
        async with started(engine=engine) as (loop, _):
            (said, last), (other, _) = await asyncio.gather(read(loop.submit(a)), read(loop.submit(b)))
            assert last.finish_reason is FinishReason.ERROR
            assert said == reference(a)[:7]
            assert other == reference(b)

    run(test)


@DEPTHS
@pytest.mark.parametrize("where", ["begin", "finish"])
def test_a_dead_engine_ends_every_stream_and_takes_nothing_more(depth, where):
    def die(plan: StepPlan) -> None:
        if any(row.start > 8 for row in plan.rows()):
            raise EngineDead("the device is lost")

    async def test() -> None:
        engine = GatedEngine(depth=depth)
        setattr(engine, f"fault_in_{where}", die)
        async with started(engine=engine, seats=1) as (loop, _):
            streams = [loop.submit(request(name, 4, max_tokens=FOR_EVER)) for name in ("a", "b")]
            for stream in streams:
                _, last = await read(stream)
                assert last.finish_reason is FinishReason.ERROR
                assert last.message is None
            assert not loop.alive
            await asyncio.to_thread(loop._over.wait)
            with pytest.raises(EngineDead, match="the device is lost"):
                loop.submit(request("c"))
            assert await loop.drain(0)
        assert engine.closed == 1

    run(test)


def test_after_close_nothing_can_be_submitted_and_what_was_left_is_aborted():
    async def test() -> None:
        async with started() as (loop, engine):
            engine.hold_at_step = 3
            stream = loop.submit(request("a", 4, max_tokens=FOR_EVER))
            await anext(stream)
            closing = asyncio.create_task(asyncio.to_thread(loop.close))
            await until(lambda: loop._close_by is not None)
            engine.gate.set()
            await closing
            _, last = await read(stream)
            assert last.finish_reason is FinishReason.ABORT
            with pytest.raises(EngineDead, match="closed"):
                loop.submit(request("b"))
            await asyncio.to_thread(loop.close)  # twice is as good as once
        assert engine.closed == 1

    run(test)


def test_close_leaves_a_step_behind_that_does_not_return(monkeypatch):
    monkeypatch.setattr(loop_module, "CLOSE_SECONDS", 0.05)

    async def test() -> None:
        async with started() as (loop, engine):
            assert loop.step_seconds == 0
            engine.gate.clear()
            stream = loop.submit(request("a", 4, max_tokens=FOR_EVER))
            await until(lambda: loop.step_seconds > 0)
            for _ in range(2):
                with pytest.raises(EngineDead, match="hangs"):
                    await asyncio.to_thread(loop.close)
            _, last = await read(stream)
            assert last.finish_reason is FinishReason.ABORT
            with pytest.raises(EngineDead):
                loop.submit(request("b"))
            engine.gate.set()
            loop._thread.join()
        assert engine.closed == 1

    run(test)


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("returns", [True, False])
def test_whether_what_ran_hangs_is_known_when_it_has_returned_or_at_the_close(monkeypatch, depth, returns):
    if not returns:
        monkeypatch.setattr(loop_module, "CLOSE_SECONDS", 0.05)

    async def test() -> None:
        async with started(engine=GatedEngine(depth=depth)) as (loop, engine):
            assert not await loop.hangs()
            engine.gate.clear()
            stream = loop.submit(request("a", 4, max_tokens=FOR_EVER))
            await until(lambda: loop.step_seconds > 0)
            stream.abort()
            asked = asyncio.create_task(loop.hangs())
            await asyncio.sleep(0.05)
            assert not asked.done()
            if not returns:
                with pytest.raises(EngineDead, match="hangs"):
                    await asyncio.to_thread(loop.close)
                assert await asked
            engine.gate.set()
            assert await asked is not returns
            if returns:
                await asyncio.to_thread(loop.close)
            await asyncio.to_thread(loop._thread.join)
            assert not await loop.hangs()

    run(test)


def test_what_could_never_run_is_refused_at_once():
    async def test() -> None:
        async with started() as (loop, _):
            with pytest.raises(RequestRefused):
                loop.submit(request("a", 1024, max_tokens=1))

    run(test)


def test_an_id_in_use_is_refused_and_free_again_after_the_end():
    async def test() -> None:
        async with started() as (loop, engine):
            engine.gate.clear()
            stream = loop.submit(request("a"))
            with pytest.raises(RequestRefused) as refusal:
                loop.submit(request("a"))
            assert refusal.value.code == "duplicate_request_id"
            engine.gate.set()
            first, _ = await read(stream)
            second, _ = await read(loop.submit(request("a")))
            assert first == second == reference(request("a"))

    run(test)


def test_drain_waits_until_the_last_request_is_over():
    async def test() -> None:
        async with started() as (loop, engine):
            engine.gate.clear()
            stream = loop.submit(request("a"))
            assert not await loop.drain(0)
            engine.gate.set()
            assert await loop.drain(30)
            tokens, _ = await read(stream)
            assert tokens == reference(request("a"))

    run(test)


def test_a_reader_whose_event_loop_is_closed_harms_nobody():
    async def test() -> None:
        async with started() as (loop, engine):
            engine.gate.clear()

            async def submit_and_go() -> None:
                loop.submit(request("gone", 4, max_tokens=5))

            await asyncio.to_thread(asyncio.run, submit_and_go())
            stays = loop.submit(request("stays", 4, max_tokens=9))
            engine.gate.set()
            tokens, _ = await read(stays)
            assert tokens == reference(stays.request)
            assert await loop.drain(30)
            assert loop.alive

    run(test)


def test_readers_in_several_event_loops_are_served_each_in_its_own():
    async def test() -> None:
        async with started() as (loop, _):

            async def ask(name: str) -> list[int]:
                tokens, _ = await read(loop.submit(request(name, 4, max_tokens=9)))
                return tokens

            answers = await asyncio.gather(
                *(asyncio.to_thread(lambda name=name: asyncio.run(ask(name))) for name in "abc")
            )
            assert answers == [reference(request(name, 4, max_tokens=9)) for name in "abc"]

    run(test)


@DEPTHS
def test_every_event_is_observed_and_counted(depth):
    events: list[Event] = []

    async def test() -> None:
        async with started(depth, observe=events.extend) as (loop, _):
            await read(loop.submit(request("a", 4, max_tokens=5)))
        metrics = loop.metrics.by_class[request("a").task_class]
        assert metrics.finished == {FinishReason.LENGTH: 1}
        assert metrics.output_tokens == sum(len(e.token_ids) for e in events if isinstance(e, Tokens)) == 5

    run(test)


def test_an_observer_that_raises_ends_the_loop_and_not_in_silence():
    def observe(events: list[Event]) -> None:
        raise ZeroDivisionError("by whom")

    async def test() -> None:
        async with started(observe=observe) as (loop, _):
            _, last = await read(loop.submit(request("a")))
            assert last.finish_reason is FinishReason.ERROR
            with pytest.raises(EngineDead, match="by whom"):
                loop.submit(request("b"))

    run(test)


def test_a_reader_cancelled_while_it_is_woken_takes_nothing_from_the_others():
    async def test() -> None:
        cancelled = asyncio.get_running_loop().create_future()
        cancelled.cancel()
        stream = TokenStream(request("r", [1]), lambda *_: None)
        _call_each([(cancelled.set_result, True), (stream.take, 7, None)])
        assert (await anext(stream)).token_ids == (7,)

    run(test)
