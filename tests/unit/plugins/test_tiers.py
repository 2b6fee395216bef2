"""What a client's tier and targets become before vLLM reads them, and what its answer says of the tier."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Message, Receive, Scope, Send

from brim.plugins.vllm.tiers import TierRules, Tiers, facts_in, translate
from brim.wire.errors import ApiError

RULES = TierRules(priority_targets={"ttft_ms": 100.0}, flex_wait_seconds=60)
OFFLINE = {"task_class": "offline", "deadline_ms": 60_000.0}
CHAT = "/v1/chat/completions"


def translated(
    body: dict[str, Any], asked: Any = None, rules: TierRules = RULES
) -> tuple[dict[str, Any], str]:
    result = translate(json.dumps(body).encode(), asked or {}, rules)
    assert result is not None
    return json.loads(result.body), result.tier


@pytest.mark.parametrize(
    ("tier", "used", "changes"),
    [
        ("auto", "default", {}),
        ("default", "default", {}),
        ("scale", "default", {}),
        (None, "default", {}),
        ("flex", "flex", {"vllm_xargs": OFFLINE}),
        ("priority", "priority", {"vllm_xargs": {"task_class": "online", "ttft_ms": 100.0}, "priority": -1}),
    ],
)
def test_a_tier_becomes_facts_and_is_told(tier: str | None, used: str, changes: dict[str, Any]) -> None:
    body = {"prompt": "a", "service_tier": tier}
    assert translated(body) == (body | changes, used)


def test_fast_is_another_word_for_priority() -> None:
    assert translated({"service_tier": "fast"}) == translated({"service_tier": "priority"})


def test_what_the_body_says_itself_goes_first() -> None:
    body = {"service_tier": "priority", "priority": 5, "vllm_xargs": {"ttft_ms": 7, "other": "x"}}
    told, tier = translated(body, {"ttft_ms": 9.0, "tpot_ms": 8.0})
    assert told["vllm_xargs"] == {"task_class": "online", "ttft_ms": 7, "other": "x", "tpot_ms": 8.0}
    assert (told["priority"], tier) == (5, "priority")


def test_the_class_in_vllm_xargs_decides_the_tier_told() -> None:
    body = {"service_tier": "auto", "vllm_xargs": {"task_class": "offline"}}
    assert translated(body) == (body, "flex")


def test_targets_of_clients_are_dropped_where_the_operator_says_so() -> None:
    rules = TierRules(client_targets=False)
    assert facts_in({"x-slo-ttft-ms": "1", "x-llm-d-inference-fairness-id": "me"}, rules) == {"tenant": "me"}
    body = {"vllm_xargs": {"ttft_ms": 1, "itl_ms": 1, "task_class": "offline"}}
    assert translated(body, rules=rules) == ({"vllm_xargs": {"task_class": "offline"}}, "flex")
    assert translated({"vllm_xargs": {"e2e_ms": 1}}, rules=rules)[0] == {"vllm_xargs": {}}


def test_headers_become_facts() -> None:
    headers = {"x-llm-d-slo-ttft-ms": "250.5", "x-slo-tpot-ms": "20", "x-llm-d-slo-itl-ms": "30"}
    assert facts_in(headers, RULES) == {"ttft_ms": 250.5, "tpot_ms": 20.0, "itl_ms": 30.0}


@pytest.mark.parametrize("text", ["soon", "0", "-1", "nan", "inf", ""])
def test_a_target_that_is_no_time_is_refused_by_name(text: str) -> None:
    with pytest.raises(ApiError) as caught:
        facts_in({"x-slo-ttft-ms": text}, RULES)
    assert (caught.value.status, caught.value.param) == (400, "x-slo-ttft-ms")


@pytest.mark.parametrize("tier", ["ultra", 3, ["flex"]])
def test_a_tier_that_is_none_is_refused_by_name(tier: object) -> None:
    with pytest.raises(ApiError) as caught:
        translated({"service_tier": tier})
    assert (caught.value.status, caught.value.param) == (400, "service_tier")


@pytest.mark.parametrize(
    "raw", [b"{", b"[]", b"\xff", b'{"service_tier":"flex","vllm_xargs":"x"}', b"[" * 9999]
)
def test_what_vllm_has_to_refuse_is_left_to_it(raw: bytes) -> None:
    assert translate(raw, {"ttft_ms": 1.0}, RULES) is None


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from("abc"), VALUES), st.text())
def test_all_else_in_the_body_stays(body: dict[str, Any], text: str) -> None:
    told, _ = translated(body | {"service_tier": "flex", "prompt": text})
    assert told == body | {"service_tier": "flex", "prompt": text, "vllm_xargs": OFFLINE}


class Exchange:
    """One request through the middleware to a route that answers with `answer`; None: a stream of them."""

    def __init__(self, *parts: bytes, path: str = CHAT, headers: Any = (), **answer: Any) -> None:
        self.parts = list(parts)
        self.answer = answer
        self.seen: bytes | None = None
        self.headers: dict[bytes, bytes] = {}
        self.sent: list[Message] = []
        scope = {"type": "http", "method": "POST", "path": path, "root_path": "", "headers": list(headers)}
        asyncio.run(Tiers(self.route, RULES)(scope, self.receive, self.send))

    async def receive(self) -> Message:
        if not self.parts:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": self.parts.pop(0), "more_body": bool(self.parts)}

    async def send(self, message: Message) -> None:
        self.sent.append(message)

    async def route(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.headers = dict(scope["headers"])
        self.seen = b""
        while (message := await receive())["type"] == "http.request":
            self.seen += message["body"]
        chunks, status = self.answer.get("chunks", [b"{}"]), self.answer.get("status", 200)
        sized = self.answer.get("sized", True)
        headers = [(b"content-length", str(sum(map(len, chunks))).encode())] if sized else []
        await send({"type": "http.response.start", "status": status, "headers": headers})
        for place, chunk in enumerate(chunks, 1):
            await send(
                {"type": "http.response.body", "body": chunk, "more_body": place < len(chunks) or not sized}
            )

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)

    @property
    def told_length(self) -> int:
        return int(dict(self.sent[0]["headers"])[b"content-length"])


def test_a_request_that_says_nothing_passes_byte_by_byte() -> None:
    answer = b'{"id":"a","service_tier":null}'
    plain = Exchange(b'{ "a": ', b"1 }", chunks=[answer])
    assert (plain.seen, plain.body) == (b'{ "a": 1 }', answer)


def test_other_paths_are_not_looked_at() -> None:
    other = Exchange(b'{"service_tier":"flex"}', path="/v1/embeddings", headers=[(b"x-slo-ttft-ms", b"soon")])
    assert other.seen == b'{"service_tier":"flex"}'


def test_a_body_that_is_changed_has_its_new_length() -> None:
    headers = [(b"content-length", b"23"), (b"transfer-encoding", b"chunked"), (b"accept", b"*/*")]
    changed = Exchange(b'{"service_tier":', b'"flex"}', headers=headers)
    assert changed.seen is not None
    assert json.loads(changed.seen)["vllm_xargs"] == OFFLINE
    assert changed.headers == {b"accept": b"*/*", b"content-length": str(len(changed.seen)).encode()}


def test_a_bad_target_never_reaches_the_route() -> None:
    refused = Exchange(b"{}", headers=[(b"x-slo-ttft-ms", b"soon")])
    assert refused.seen is None
    assert refused.sent[0]["status"] == 400
    assert json.loads(refused.body)["error"]["param"] == "x-slo-ttft-ms"


def test_a_client_that_leaves_before_its_body_is_there_is_not_answered() -> None:
    gone = Exchange()
    assert (gone.seen, gone.sent) == (None, [])


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (b'{"id":"a","service_tier":null,"b":1}', b'{"id":"a","service_tier":"flex","b":1}'),
        (b'{"id":"a","choices":[]}', b'{"service_tier":"flex","id":"a","choices":[]}'),
        (b'{"id":"a","service_tier":"flex"}', b'{"id":"a","service_tier":"flex"}'),
        (b"null", b"null"),
    ],
)
def test_an_answer_tells_the_tier(answer: bytes, told: bytes) -> None:
    exchange = Exchange(b'{"service_tier":"flex"}', chunks=[answer])
    assert (exchange.body, exchange.told_length) == (told, len(told))


def test_a_text_that_looks_like_the_field_stays() -> None:
    text = {"id": "a", "text": '"service_tier":null', "service_tier": None}
    answer = json.dumps(text, separators=(",", ":")).encode()
    exchange = Exchange(b'{"service_tier":"flex"}', chunks=[answer])
    assert json.loads(exchange.body) == text | {"service_tier": "flex"}


def test_chunks_of_a_stream_tell_the_tier() -> None:
    chunks = [b'data: {"id":"a"}\n\n', b": keep-alive\n\n", b'data: {"error":{}}\n\n', b"data: [DONE]\n\n"]
    stream = Exchange(b'{"service_tier":"flex"}', chunks=chunks, sized=False)
    expected = [b'data: {"service_tier":"flex","id":"a"}\n\n', *chunks[1:]]
    assert [message["body"] for message in stream.sent[1:]] == expected


def test_errors_and_answers_in_parts_stay_as_they_are() -> None:
    for answer in ({"chunks": [b'{"id":', b'"a"}']}, {"chunks": [b'{"id":"a"}'], "status": 400}):
        exchange = Exchange(b'{"service_tier":"flex"}', **answer)
        assert (exchange.body, exchange.told_length) == (b'{"id":"a"}', 10)
