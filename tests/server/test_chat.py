import asyncio
import logging

import openai
import pytest
from openai.types.chat import ChatCompletion

from brim.core.request import FinishReason, TaskClass
from brim.engines.scripted import ScriptedEngine
from brim.wire import ignored
from tests.server.http_harness import HELLO, MODEL, Running, running, until

FIELDS = {
    "max_tokens": 12,
    "temperature": 0.5,
    "top_p": 0.9,
    "seed": 7,
    "presence_penalty": 0.5,
    "frequency_penalty": -0.5,
    "logit_bias": {"97": -100, "98": 5.5},
    "logprobs": True,
    "top_logprobs": 1,
    "stop": ["zzzzzzzz"],
    "n": 2,
    "user": "someone",
    "metadata": {"a": "b"},
    "service_tier": "auto",
    "store": False,
    "extra_body": {
        "top_k": 5,
        "min_p": 0.1,
        "repetition_penalty": 1.1,
        "min_tokens": 3,
        "ignore_eos": True,
        "stop_token_ids": [200],
        "priority": 4,
        "cache_salt": "salt",
    },
}


def test_every_field_reaches_the_engine(server: Running, client: openai.OpenAI) -> None:
    client.chat.completions.create(model=MODEL, messages=HELLO, **FIELDS)
    first, second = server.loop.requests[-2:]
    sampling = first.sampling
    assert (sampling.max_tokens, sampling.min_tokens) == (12, 3)
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p) == (0.5, 0.9, 5, 0.1)
    assert (sampling.presence_penalty, sampling.frequency_penalty) == (0.5, -0.5)
    assert sampling.repetition_penalty == 1.1
    assert sampling.logit_bias == ((97, -100.0), (98, 5.5))
    assert sampling.stop_token_ids == {200}
    assert sampling.logprobs == 1
    assert (sampling.seed, second.sampling.seed) == (7, 8)
    assert (first.priority, first.cache_salt) == (4, "salt")
    assert list(first.prompt_token_ids) == list(b"user: hello\nassistant: ")


def test_defaults_are_openais(server: Running, client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=HELLO, stop=["a", "b", "c", "d", "e"])
    request = server.loop.requests[-1]
    assert request.sampling.temperature == 1.0
    assert request.sampling.seed is None
    assert request.sampling.stop_token_ids == {256}
    assert request.sampling.max_tokens == 4096 - len(request.prompt_token_ids)
    assert answer.service_tier == "default"


def test_whole_and_streamed_answers_are_equal(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model=MODEL, messages=HELLO, **FIELDS)
    with client.chat.completions.create(
        model=MODEL, messages=HELLO, stream=True, stream_options={"include_usage": True}, **FIELDS
    ) as stream:
        chunks = list(stream)
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens == 24
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert len({chunk.id for chunk in chunks}) == 1
    for index in range(2):
        mine = [c.choices[0] for c in chunks[:-1] if c.choices[0].index == index]
        choice = whole.choices[index]
        assert mine[0].delta.role == "assistant"
        assert "".join(part.delta.content or "" for part in mine) == choice.message.content
        logprobs = [token for part in mine if part.logprobs for token in part.logprobs.content]
        assert logprobs == choice.logprobs.content
        assert [part.finish_reason for part in mine][-1] == choice.finish_reason == "length"


def test_logprobs(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL, messages=HELLO, max_tokens=3, logprobs=True, top_logprobs=1
    )
    tokens = answer.choices[0].logprobs.content
    assert "".join(token.token for token in tokens) == answer.choices[0].message.content
    assert all(token.bytes == list(token.token.encode()) for token in tokens)
    assert all(token.top_logprobs[0].token == token.token for token in tokens)


def test_logprobs_without_alternatives(server: Running, client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=1, logprobs=True)
    assert server.loop.requests[-1].sampling.logprobs == 0
    assert len(answer.choices[0].logprobs.content) == 1


def test_stop_string_ends_the_answer_before_it(client: openai.OpenAI) -> None:
    free = client.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=20)
    text = free.choices[0].message.content
    stopped = client.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=20, stop=text[5:8])
    assert stopped.choices[0].message.content == text[: text.index(text[5:8])]
    assert stopped.choices[0].finish_reason == "stop"
    assert stopped.usage.completion_tokens <= 8


def test_how_an_answer_ends_is_counted() -> None:
    """A stop string is a stop in the figures too, though the engine sees it as an abort."""
    with running(ScriptedEngine(script=lambda token_ids: 256 if len(token_ids) == 8 else 97)) as run:
        client = run.openai()
        fields = {"model": MODEL, "prompt": "xxx", "max_tokens": 9}
        ended = client.completions.create(**fields)
        stopped = client.completions.create(**fields, stop="aa")
        on = client.completions.create(**fields, extra_body={"ignore_eos": True})
        finished = run.loop.metrics.by_class[TaskClass.ONLINE].finished
        until(lambda: finished.total() == 3)
        assert finished == {FinishReason.STOP: 2, FinishReason.LENGTH: 1}
    told = [
        (a.choices[0].text, a.choices[0].finish_reason, a.usage.completion_tokens)
        for a in (ended, stopped, on)
    ]
    assert told == [("aaaaa", "stop", 6), ("", "stop", 2), ("aaaaaaaa", "length", 9)]


def test_usage_tells_cached_tokens(client: openai.OpenAI) -> None:
    messages = [{"role": "user", "content": "the same long beginning " * 20}]
    first = client.chat.completions.create(model=MODEL, messages=messages, max_tokens=2)
    again = client.chat.completions.create(model=MODEL, messages=messages, max_tokens=2)
    assert first.usage.prompt_tokens_details.cached_tokens == 0
    cached = again.usage.prompt_tokens_details.cached_tokens
    assert 0 < cached < again.usage.prompt_tokens
    assert cached % 16 == 0
    salted = client.chat.completions.create(
        model=MODEL, messages=messages, max_tokens=2, extra_body={"cache_salt": "mine"}
    )
    assert salted.usage.prompt_tokens_details.cached_tokens == 0


def test_usage_in_every_chunk(client: openai.OpenAI) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    with client.chat.completions.create(
        model=MODEL, messages=HELLO, max_tokens=4, stream=True, stream_options=options
    ) as stream:
        counts = [chunk.usage.completion_tokens for chunk in stream]
    assert counts == sorted(counts)
    assert counts[-1] == 4


@pytest.mark.parametrize("role", ["system", "developer", "user", "assistant", "tool"])
def test_roles(server: Running, client: openai.OpenAI, role: str) -> None:
    parts = [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]
    message = {"role": role, "content": parts, **({"tool_call_id": "x"} if role == "tool" else {})}
    client.chat.completions.create(model=MODEL, messages=[message], max_tokens=1)
    told = "system" if role == "developer" else role
    assert bytes(server.loop.requests[-1].prompt_token_ids).startswith(f"{told}: one two\n".encode())


def test_an_answers_message_can_be_sent_back(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=2)
    history = [*HELLO, answer.choices[0].message.model_dump(), *HELLO]
    assert client.chat.completions.create(model=MODEL, messages=history, max_tokens=2).choices


def test_max_completion_tokens_goes_before_max_tokens(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL, messages=HELLO, max_tokens=9, max_completion_tokens=3
    )
    assert answer.usage.completion_tokens == 3


def test_neutral_values_of_unsupported_fields_pass(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL,
        messages=HELLO,
        max_tokens=1,
        tools=[],
        tool_choice="none",
        response_format={"type": "text"},
        extra_body={"guided_json": None, "modalities": ["text"], "best_of": 1, "temperature": None},
    )
    assert answer.choices[0].finish_reason == "length"


def test_unknown_fields_are_named_in_a_header(client: openai.OpenAI) -> None:
    answer = client.chat.completions.with_raw_response.create(
        model=MODEL, messages=HELLO, max_tokens=1, extra_body={"speed": 3, "a\r\nb": 1, "nothing": None}
    )
    assert answer.headers["x-brim-ignored-fields"] == "speed, a%0D%0Ab"
    plain = client.chat.completions.with_raw_response.create(model=MODEL, messages=HELLO, max_tokens=1)
    assert "x-brim-ignored-fields" not in plain.headers


def test_unknown_stream_options_are_named_too(client: openai.OpenAI) -> None:
    answer = client.chat.completions.with_raw_response.create(
        model=MODEL,
        messages=HELLO,
        max_tokens=1,
        stream=True,
        stream_options={"include_usage": True, "include_obfuscation": False, "pace": 1},
    )
    assert answer.headers["x-brim-ignored-fields"] == "stream_options.pace"
    answer.parse().close()


def test_the_header_of_ignored_fields_stays_short(client: openai.OpenAI) -> None:
    names = ["é" * 64 + str(number) for number in range(500)]
    answer = client.chat.completions.with_raw_response.create(
        model=MODEL, messages=HELLO, max_tokens=1, extra_body=dict.fromkeys(["speed", *names], 1)
    )
    told = answer.headers["x-brim-ignored-fields"]
    assert len(told) < 1100
    first, *shown, last = told.split(", ")
    assert (first, last) == ("speed", f"and {500 - len(shown)} more")


def test_made_up_fields_do_not_fill_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(ignored, "_logged", set())
    with caplog.at_level(logging.WARNING, "brim"):
        for number in [1, 1, *range(5000)]:
            assert ignored.told([f"field{number}"]) == f"field{number}"
    assert len(caplog.records) == ignored.MAX_LOGGED + 1
    assert "field1 " in caplog.messages[0]
    assert ignored.HEADER in caplog.messages[-1]


def test_no_share_of_the_likeliest_tokens_is_greedy(client: openai.OpenAI, server: Running) -> None:
    client.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=1, temperature=1.5, top_p=0)
    sampling = server.loop.requests[-1].sampling
    assert (sampling.temperature, sampling.top_p) == (0.0, 1.0)


def test_many_async_streams(server: Running) -> None:
    async def one(client: openai.AsyncOpenAI, number: int) -> str:
        messages = [{"role": "user", "content": f"number {number}"}]
        stream = await client.chat.completions.create(
            model=MODEL, messages=messages, max_tokens=10, stream=True
        )
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    async def whole(client: openai.AsyncOpenAI, number: int) -> ChatCompletion:
        messages = [{"role": "user", "content": f"number {number}"}]
        return await client.chat.completions.create(model=MODEL, messages=messages, max_tokens=10)

    async def all_of_them() -> None:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
            texts = await asyncio.gather(*(one(client, number) for number in range(20)))
            answers = await asyncio.gather(*(whole(client, number) for number in range(20)))
        assert texts == [answer.choices[0].message.content for answer in answers]

    asyncio.run(all_of_them())
