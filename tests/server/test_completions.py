import asyncio
import threading

import openai
import pytest

from brim.engines.base import EngineCaps
from brim.engines.scripted import ByteTokenizer, ScriptedEngine
from brim.server.prompts import PromptEncoder
from brim.server.schemas import CompletionRequest
from tests.server.http_harness import MODEL, Running, running

CAPS = EngineCaps("none", "none", num_blocks=64, block_size=16, max_model_len=4096, vocab_size=256)


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("ab", [b"ab"]),
        (["ab", "cd"], [b"ab", b"cd"]),
        ([97, 98], [b"ab"]),
        ([[97, 98], [99]], [b"ab", b"c"]),
    ],
)
def test_four_forms_of_a_prompt(
    server: Running, client: openai.OpenAI, prompt: object, expected: list[bytes]
) -> None:
    answer = client.completions.create(model=MODEL, prompt=prompt, max_tokens=4, n=2)
    sent = server.loop.requests[-len(expected) * 2 :]
    assert [bytes(request.prompt_token_ids) for request in sent] == [p for p in expected for _ in range(2)]
    assert [choice.index for choice in answer.choices] == list(range(len(expected) * 2))
    assert answer.usage.prompt_tokens == sum(map(len, expected))
    assert answer.usage.completion_tokens == 4 * 2 * len(expected)


def test_default_length_is_openais(client: openai.OpenAI) -> None:
    assert client.completions.create(model=MODEL, prompt="a").usage.completion_tokens == 16


def test_default_length_fits_what_is_left(client: openai.OpenAI) -> None:
    answer = client.completions.create(model=MODEL, prompt="a" * 4090)
    assert answer.usage.completion_tokens == 6


@pytest.mark.parametrize("prompt", ["abc", [97, 98, 99]])
def test_echo(client: openai.OpenAI, prompt: object) -> None:
    plain = client.completions.create(model=MODEL, prompt=prompt, max_tokens=3)
    echoed = client.completions.create(model=MODEL, prompt=prompt, max_tokens=3, echo=True)
    assert echoed.choices[0].text == "abc" + plain.choices[0].text
    with client.completions.create(
        model=MODEL, prompt=prompt, max_tokens=3, echo=True, stream=True
    ) as stream:
        assert "".join(chunk.choices[0].text for chunk in stream) == echoed.choices[0].text


@pytest.mark.parametrize("length", [3, 600])  # together beyond what is decoded on the spot
def test_each_choice_begins_with_its_own_prompt(client: openai.OpenAI, length: int) -> None:
    prompts = [[97] * length, [98] * length]
    answer = client.completions.create(model=MODEL, prompt=prompts, max_tokens=2, n=2, echo=True)
    begins = [choice.text[:length] for choice in sorted(answer.choices, key=lambda each: each.index)]
    assert begins == ["a" * length, "a" * length, "b" * length, "b" * length]


def test_a_text_is_echoed_as_it_was_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoded it may be another one: blanks in front, an unknown character, a special token's name."""
    monkeypatch.setattr(ByteTokenizer, "encode", lambda self, text: list(text.lower().encode()))
    with running() as run:
        prompts = ["One", "TWO"]
        answer = run.openai().completions.create(model=MODEL, prompt=prompts, max_tokens=2, echo=True)
    assert [choice.text[:-2] for choice in answer.choices] == prompts


def test_many_echoed_tokens_are_decoded_in_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the event loop they held up every stream."""
    encoder, decoded = PromptEncoder(ByteTokenizer(), CAPS, 8), []
    monkeypatch.setattr(encoder, "_text_of", lambda ids: decoded.append(threading.get_ident()) or "")
    asyncio.run(encoder.echoed([[97] * 10] * 2))
    asyncio.run(encoder.echoed([[97] * 1_000] * 2))
    assert decoded[:2] == [threading.get_ident()] * 2
    assert threading.get_ident() not in decoded[2:]
    assert len(decoded) == 4


@pytest.mark.parametrize(("num_chars", "in_a_thread"), [(100, False), (4_000, True)])
def test_many_prompts_are_tokenised_in_a_thread(num_chars: int, in_a_thread: bool) -> None:
    """Each may be short: together they held up every stream."""

    class Watched(ByteTokenizer):
        def encode(self, text: str) -> list[int]:
            where.append(threading.get_ident())
            return super().encode(text)

    where: list[int] = []
    body = CompletionRequest(model=MODEL, prompt=["a" * num_chars] * 8, max_tokens=1)
    encoded = asyncio.run(PromptEncoder(Watched(), CAPS, 8).encode(body))
    assert [len(ids) for ids in encoded] == [num_chars] * 8
    assert (threading.get_ident() not in where) is in_a_thread


def test_whole_and_streamed_answers_are_equal(client: openai.OpenAI) -> None:
    fields = {"model": MODEL, "prompt": ["one", "two"], "max_tokens": 6, "logprobs": 1}
    whole = client.completions.create(**fields)
    with client.completions.create(**fields, stream=True) as stream:
        parts = [chunk.choices[0] for chunk in stream]
    for choice in whole.choices:
        mine = [part for part in parts if part.index == choice.index]
        assert "".join(part.text for part in mine) == choice.text
        for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
            together = [value for part in mine for value in getattr(part.logprobs, name)]
            assert together == getattr(choice.logprobs, name)
        assert choice.logprobs.text_offset == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("stream", [False, True])
def test_offsets_are_positions_in_the_text(stream: bool) -> None:
    answer = "é😀ok"
    with running(ScriptedEngine(script=lambda seen: answer.encode()[len(seen) - 1])) as run:
        fields = {"model": MODEL, "prompt": "a", "max_tokens": len(answer.encode()), "logprobs": 0}
        given = run.openai().completions.create(**fields, stream=stream)
        parts = [each.choices[0] for each in (given if stream else [given])]
    assert "".join(part.text for part in parts) == answer
    assert [offset for part in parts for offset in part.logprobs.text_offset] == [0, 0, 1, 1, 1, 1, 2, 3]


def test_bench_clients_are_served(client: openai.OpenAI) -> None:
    """The fields that `vllm bench serve` sends."""
    with client.completions.create(
        model=MODEL,
        prompt=[97] * 32,
        max_tokens=5,
        temperature=0.0,
        logprobs=None,
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"repetition_penalty": 1.0, "ignore_eos": True},
    ) as stream:
        chunks = list(stream)
    assert chunks[-1].usage.completion_tokens == 5
    assert chunks[-1].usage.prompt_tokens == 32
