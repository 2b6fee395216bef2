"""Everything a client can get wrong: status, code and the field that is named."""

import json

import httpx2
import pytest

from tests.server.http_harness import HELLO, MODEL, Running

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
TOOL = {"type": "function", "function": {"name": "f"}}
IMAGE = {"type": "image_url", "image_url": {"url": "data:"}}

BAD_CHAT = [
    ({"model": "other"}, 404, "model_not_found", "model"),
    ({"model": 3}, 400, "invalid_value", "model"),
    ({"model": None}, 400, "missing_required_parameter", "model"),
    ({"messages": None}, 400, "missing_required_parameter", "messages"),
    ({"messages": []}, 400, "invalid_value", "messages"),
    ({"messages": "hello"}, 400, "invalid_value", "messages"),
    ({"messages": HELLO * 16_385}, 400, "invalid_value", "messages"),
    ({"messages": [{"role": "robot", "content": "x"}]}, 400, "invalid_value", "messages.0.role"),
    ({"messages": [{"role": "user"}]}, 400, "missing_required_parameter", "messages.0.content"),
    ({"messages": [{"role": "user", "content": None}]}, 400, "invalid_value", "messages.0.content"),
    ({"messages": [{"role": "user", "content": []}]}, 400, "invalid_value", "messages.0.content"),
    ({"messages": [{"role": "user", "content": 3}]}, 400, "invalid_value", "messages.0.content"),
    ({"messages": [{"role": "user", "content": [IMAGE]}]}, 400, "invalid_value", "messages.0.content"),
    (
        {"messages": [{"role": "assistant", "content": "", "tool_calls": [TOOL]}]},
        400,
        "unsupported_parameter",
        "messages.0.tool_calls",
    ),
    ({"temperature": 2.1}, 400, "invalid_value", "temperature"),
    ({"temperature": -0.1}, 400, "invalid_value", "temperature"),
    ({"temperature": "1"}, 400, "invalid_value", "temperature"),
    ({"temperature": float("nan")}, 400, "invalid_value", "temperature"),
    ({"temperature": float("inf")}, 400, "invalid_value", "temperature"),
    ({"temperature": True}, 400, "invalid_value", "temperature"),
    ({"top_p": -0.1}, 400, "invalid_value", "top_p"),
    ({"top_k": -2}, 400, "invalid_value", "top_k"),
    ({"top_k": 1.5}, 400, "invalid_value", "top_k"),
    ({"min_p": 2}, 400, "invalid_value", "min_p"),
    ({"presence_penalty": 3}, 400, "invalid_value", "presence_penalty"),
    ({"repetition_penalty": 0}, 400, "invalid_value", "repetition_penalty"),
    ({"seed": 2**63}, 400, "invalid_value", "seed"),
    ({"max_tokens": 2**63}, 400, "invalid_value", "max_tokens"),
    ({"max_tokens": 0}, 400, "invalid_value", "max_tokens"),
    ({"max_tokens": 1.0}, 400, "invalid_value", "max_tokens"),
    ({"max_tokens": "5"}, 400, "invalid_value", "max_tokens"),
    ({"max_tokens": 5000}, 400, "context_length_exceeded", "max_tokens"),
    ({"max_completion_tokens": 5000}, 400, "context_length_exceeded", "max_completion_tokens"),
    ({"stop_token_ids": [5000]}, 400, "invalid_value", "stop_token_ids"),
    ({"messages": [{"role": "user", "content": "x" * 5000}]}, 400, "context_length_exceeded", "messages"),
    ({"messages": [{"role": "user", "content": "x" * 2**21}]}, 400, "context_length_exceeded", "messages"),
    ({"max_tokens": 2, "min_tokens": 3}, 400, "invalid_value", "min_tokens"),
    ({"min_tokens": 4096}, 400, "invalid_value", "min_tokens"),
    ({"n": 10**9}, 400, "invalid_value", "n"),
    ({"n": 17}, 400, "invalid_value", "n"),
    ({"n": 0}, 400, "invalid_value", "n"),
    ({"stop": ["x"] * 17}, 400, "invalid_value", "stop"),
    ({"stop": [""]}, 400, "invalid_value", "stop.0"),
    ({"stop": [3]}, 400, "invalid_value", "stop.0"),
    ({"stop_token_ids": [-1]}, 400, "invalid_value", "stop_token_ids.0"),
    ({"logit_bias": {"x": 1}}, 400, "invalid_value", "logit_bias"),
    ({"logit_bias": {"5": 101}}, 400, "invalid_value", "logit_bias.5"),
    ({"logit_bias": {"999": 1}}, 400, "invalid_value", "logit_bias"),
    ({"top_logprobs": 2}, 400, "invalid_value", "top_logprobs"),
    ({"logprobs": True, "top_logprobs": 10**6}, 400, "invalid_value", "top_logprobs"),
    ({"logprobs": 1}, 400, "invalid_value", "logprobs"),
    ({"stream": "yes"}, 400, "invalid_value", "stream"),
    ({"stream_options": {"include_usage": True}}, 400, "invalid_value", "stream_options"),
    ({"service_tier": "gold"}, 400, "invalid_value", "service_tier"),
    ({"priority": 1.5}, 400, "invalid_value", "priority"),
    ({"store": True}, 400, "invalid_value", "store"),
    ({"metadata": {"a": 1}}, 400, "invalid_value", "metadata.a"),
    ({"tools": [TOOL]}, 400, "unsupported_parameter", "tools"),
    ({"tool_choice": "required"}, 400, "unsupported_parameter", "tool_choice"),
    ({"functions": [{}]}, 400, "unsupported_parameter", "functions"),
    ({"response_format": {"type": "json_object"}}, 400, "unsupported_parameter", "response_format"),
    ({"guided_regex": "a*"}, 400, "unsupported_parameter", "guided_regex"),
    ({"modalities": ["text", "audio"]}, 400, "unsupported_parameter", "modalities"),
    ({"audio": {"voice": "x"}}, 400, "unsupported_parameter", "audio"),
    ({"prediction": {}}, 400, "unsupported_parameter", "prediction"),
    ({"web_search_options": {}}, 400, "unsupported_parameter", "web_search_options"),
    ({"reasoning_effort": "high"}, 400, "unsupported_parameter", "reasoning_effort"),
    ({"best_of": 3}, 400, "unsupported_parameter", "best_of"),
    ({"use_beam_search": True}, 400, "unsupported_parameter", "use_beam_search"),
    ({"prompt_logprobs": 1}, 400, "unsupported_parameter", "prompt_logprobs"),
]

BAD_COMPLETIONS = [
    ({"prompt": None}, 400, "missing_required_parameter", "prompt"),
    ({"prompt": ""}, 400, "invalid_value", "prompt"),
    ({"prompt": []}, 400, "invalid_value", "prompt"),
    ({"prompt": [[]]}, 400, "invalid_value", "prompt"),
    ({"prompt": [1.5]}, 400, "invalid_value", "prompt"),
    ({"prompt": [True]}, 400, "invalid_value", "prompt"),
    ({"prompt": [-1]}, 400, "invalid_value", "prompt"),
    ({"prompt": [258]}, 400, "invalid_value", "prompt"),
    ({"prompt": [2**40]}, 400, "invalid_value", "prompt"),
    ({"prompt": {"text": "x"}}, 400, "invalid_value", "prompt"),
    ({"prompt": ["x"] * 129}, 400, "invalid_value", "prompt"),
    ({"prompt": "x" * 4096}, 400, "context_length_exceeded", "prompt"),
    ({"prompt": [1] * 4090, "max_tokens": 7}, 400, "context_length_exceeded", "max_tokens"),
    ({"prompt": "x", "min_tokens": 17}, 400, "invalid_value", "min_tokens"),
    ({"prompt": [1] * 4090, "min_tokens": 7}, 400, "invalid_value", "min_tokens"),
    ({"prompt": ["x", [1] * 4090], "min_tokens": 7}, 400, "invalid_value", "min_tokens"),
    ({"logprobs": 21}, 400, "invalid_value", "logprobs"),
    ({"logprobs": True}, 400, "invalid_value", "logprobs"),
    ({"logprobs": 1, "echo": True}, 400, "invalid_value", "echo"),
    ({"suffix": "end"}, 400, "unsupported_parameter", "suffix"),
]

BAD_BODIES = [
    (b"", "invalid_json"),
    (b"{", "invalid_json"),
    (b"[]", "invalid_json"),
    (b"3", "invalid_json"),
    (b"\xff\xfe", "invalid_json"),
    (b'{"model": "\xed\xa0\x80"}', "invalid_json"),
    (b'{"model": "\\ud800"}', "invalid_json"),
    (b"[" * 1_000_000, "invalid_json"),
    (b'{"a":' * 1_000_000, "invalid_json"),
    (b'{"a": [' + b"[]," * 100_000 + b"[]]}", "invalid_json"),
    (b'{"prompt": [' + b"1," * 1_000_001 + b"1]}", "invalid_json"),
    (b"[" * 99_000, "invalid_json"),
    (b'{"n": ' + b"9" * 10_000 + b"}", "invalid_json"),
]


@pytest.fixture(scope="module")
def http(server: Running) -> httpx2.Client:
    return server.http()


def _post(http: httpx2.Client, path: str, body: object) -> httpx2.Response:
    return http.post(path, content=json.dumps(body), headers={"content-type": "application/json"})


def _expect(answer: httpx2.Response, status: int, code: str | None, param: str | None) -> None:
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (answer.status_code, error["code"], error["param"]) == (status, code, param), error
    assert error["message"]


@pytest.mark.parametrize(("fields", "status", "code", "param"), BAD_CHAT)
def test_chat(http: httpx2.Client, fields: dict, status: int, code: str, param: str) -> None:
    _expect(_post(http, CHAT, {"model": MODEL, "messages": HELLO, **fields}), status, code, param)


@pytest.mark.parametrize(("fields", "status", "code", "param"), BAD_COMPLETIONS)
def test_completions(http: httpx2.Client, fields: dict, status: int, code: str, param: str) -> None:
    _expect(_post(http, COMPLETIONS, {"model": MODEL, "prompt": "x", **fields}), status, code, param)


@pytest.mark.parametrize(("body", "code"), BAD_BODIES, ids=lambda value: repr(value)[:24])
def test_bodies(http: httpx2.Client, body: bytes, code: str) -> None:
    _expect(http.post(CHAT, content=body), 400, code, None)


@pytest.mark.parametrize("value", ["0", "-5", "soon", "nan", "inf", "", "1e-7", "1e9"])
@pytest.mark.parametrize("name", ["x-llm-d-slo-ttft-ms", "x-slo-tpot-ms"])
def test_slo_headers(http: httpx2.Client, name: str, value: str) -> None:
    body = {"model": MODEL, "messages": HELLO}
    _expect(http.post(CHAT, json=body, headers={name: value}), 400, "invalid_value", name)


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ({"role": "user", "content": None}, "null is not supported: give a text"),
        ({"role": "user", "content": []}, "an empty list is not supported: give a text"),
        ({"role": "assistant", "content": "", "tool_calls": [TOOL]}, "tool_calls` is not supported here"),
    ],
)
def test_what_a_message_may_not_hold_is_told(http: httpx2.Client, message: dict, told: str) -> None:
    answer = _post(http, CHAT, {"model": MODEL, "messages": [message]})
    assert told in answer.json()["error"]["message"]


def test_numbers_are_in_the_message(http: httpx2.Client) -> None:
    answer = _post(http, COMPLETIONS, {"model": MODEL, "prompt": "x" * 100, "max_tokens": 4000})
    message = answer.json()["error"]["message"]
    assert all(number in message for number in ("4096", "100", "4000"))


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nowhere", 404),
        ("GET", CHAT, 405),
        ("DELETE", "/v1/models", 405),
        ("GET", "/v1/models/x/y", 404),
    ],
)
def test_routes_that_are_not_there(http: httpx2.Client, method: str, path: str, status: int) -> None:
    answer = http.request(method, path)
    assert answer.status_code == status
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


def test_nothing_of_this_reached_the_engine(server: Running, http: httpx2.Client) -> None:
    before = len(server.loop.requests)
    for fields, *_ in BAD_CHAT[:10]:
        _post(http, CHAT, {"model": MODEL, "messages": HELLO, **fields})
    assert len(server.loop.requests) == before
