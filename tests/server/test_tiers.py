"""Which class, priority and targets a request gets, and when it is turned away."""

import asyncio

import openai
import pytest

from brim.core.request import SLO, TaskClass
from brim.engines.scripted import ScriptedEngine
from brim.server.options import ServiceOptions
from tests.server.http_harness import HELLO, MODEL, Running, SteppedEngine, running, until

MS = 1_000_000


@pytest.mark.parametrize(
    ("asked", "used", "task_class", "priority"),
    [
        ("auto", "default", TaskClass.ONLINE, 0),
        ("default", "default", TaskClass.ONLINE, 0),
        ("scale", "default", TaskClass.ONLINE, 0),
        ("priority", "priority", TaskClass.ONLINE, -1),
        ("fast", "priority", TaskClass.ONLINE, -1),
        ("flex", "flex", TaskClass.OFFLINE, 0),
    ],
)
def test_tiers(
    server: Running, client: openai.OpenAI, asked: str, used: str, task_class: TaskClass, priority: int
) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=1, service_tier=asked)
    request = server.loop.requests[-1]
    assert (answer.service_tier, request.task_class, request.priority) == (used, task_class, priority)


def test_slo_headers_go_before_the_tiers_targets() -> None:
    options = ServiceOptions(
        default_slo=SLO(ttft_ns=500 * MS, tpot_ns=50 * MS), priority_slo=SLO(ttft_ns=100 * MS)
    )
    with running(service_options=options) as run:
        client = run.openai()

        def slo(headers: dict[str, str] | None = None, tier: str = "auto") -> SLO:
            client.chat.completions.create(
                model=MODEL, messages=HELLO, max_tokens=1, service_tier=tier, extra_headers=headers
            )
            return run.loop.requests[-1].slo

        assert slo() == SLO(ttft_ns=500 * MS, tpot_ns=50 * MS)
        assert slo(tier="priority") == SLO(ttft_ns=100 * MS)
        assert slo(tier="flex") == SLO()
        assert slo({"x-llm-d-slo-ttft-ms": "250.5"}) == SLO(ttft_ns=250_500_000, tpot_ns=50 * MS)
        assert slo({"x-slo-tpot-ms": "20"}) == SLO(ttft_ns=500 * MS, tpot_ns=20 * MS)
        assert slo({"x-slo-itl-ms": "30"}) == SLO(ttft_ns=500 * MS, tpot_ns=50 * MS, itl_ns=30 * MS)


def test_targets_of_clients_are_taken_only_where_the_operator_allows() -> None:
    own = SLO(ttft_ns=500 * MS)
    with running(service_options=ServiceOptions(client_targets=False, default_slo=own)) as run:
        for tier, expected in (("auto", own), ("flex", SLO())):
            run.openai().chat.completions.create(
                model=MODEL,
                messages=HELLO,
                max_tokens=1,
                service_tier=tier,
                extra_headers={"x-llm-d-slo-ttft-ms": "1", "x-llm-d-slo-tpot-ms": "1"},
            )
            assert run.loop.requests[-1].slo == expected


@pytest.mark.parametrize("stream", [True, False])
def test_flex_is_told_soon_when_there_is_no_room(stream: bool) -> None:
    engine = SteppedEngine()
    with running(engine, ServiceOptions(flex_wait_seconds=0.01)) as run:
        with pytest.raises(openai.RateLimitError) as caught:
            run.openai().chat.completions.create(
                model=MODEL, messages=HELLO, max_tokens=5, service_tier="flex", stream=stream
            )
        assert caught.value.code == "resource_unavailable"
        assert int(caught.value.response.headers["retry-after"]) > 0
        engine.free()
        until(lambda: run.loop.stats().num_running == 0)


@pytest.mark.parametrize("stream", [True, False])
def test_flex_is_answered_where_there_is_room(client: openai.OpenAI, stream: bool) -> None:
    fields = {"model": MODEL, "prompt": "x", "max_tokens": 5}
    expected = client.completions.create(**fields).choices[0].text
    answer = client.completions.create(**fields, stream=stream, extra_body={"service_tier": "flex"})
    if not stream:
        assert answer.choices[0].text == expected
    else:
        with answer:
            assert "".join(chunk.choices[0].text for chunk in answer) == expected


def test_too_many_waiting() -> None:
    engine = SteppedEngine()
    with running(engine, ServiceOptions(max_queued_online=2), max_num_seqs=1) as run:
        client = run.openai()
        held = run.openai().completions.create(model=MODEL, prompt="x", max_tokens=9, stream=True)
        until(lambda: run.loop.stats().num_running == 1)
        second = run.openai().completions.create(model=MODEL, prompt="x", max_tokens=9, stream=True)
        until(lambda: run.loop.stats().num_waiting_online == 1)
        with pytest.raises(openai.InternalServerError) as caught:
            client.completions.create(model=MODEL, prompt="x", n=2)
        assert (caught.value.status_code, caught.value.code) == (503, "server_is_overloaded")
        assert int(caught.value.response.headers["retry-after"]) > 0
        late = client.completions.create(
            model=MODEL, prompt="x", n=3, stream=True, extra_body={"service_tier": "priority"}
        )
        engine.free()
        with held, second, late:
            assert list(held)
            assert list(second)
            assert list(late)


def test_one_request_of_many_choices_is_taken_when_nobody_waits() -> None:
    with running(ScriptedEngine(), ServiceOptions(max_queued_online=2)) as run:
        answer = run.openai().completions.create(model=MODEL, prompt="x", max_tokens=2, n=5)
        assert len(answer.choices) == 5


def test_those_not_yet_taken_in_by_the_engine_count_as_waiting() -> None:
    engine = SteppedEngine()
    with running(engine, ServiceOptions(max_queued_online=2), max_num_seqs=1) as run:

        async def burst() -> list[int]:
            async with openai.AsyncOpenAI(base_url=f"{run.url}/v1", api_key="none", max_retries=0) as client:
                tasks = [
                    asyncio.create_task(client.completions.create(model=MODEL, prompt="x", max_tokens=2))
                    for _ in range(30)
                ]
                await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
                while sum(task.done() for task in tasks) < 30 - 4:
                    await asyncio.sleep(0.01)
                engine.free()
                answers = await asyncio.gather(*tasks, return_exceptions=True)
                return [getattr(answer, "status_code", 200) for answer in answers]

        statuses = asyncio.run(burst())
    assert set(statuses) == {200, 503}
    assert statuses.count(200) <= 4
