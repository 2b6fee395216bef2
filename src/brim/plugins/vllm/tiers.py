"""Service tiers and latency targets of clients, as the facts that the scheduler reads from `vllm_xargs`.

vLLM does nothing with `service_tier`, and knows no targets.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from brim.plugins.vllm.settings import TARGETS
from brim.wire.errors import ApiError
from brim.wire.targets import FAIRNESS_ID, target_ms

PATHS = ("/v1/chat/completions", "/v1/completions", "/v1/responses")
PRIORITY_TIERS = ("priority", "fast")
TIERS = ("auto", "default", "flex", "scale", *PRIORITY_TIERS)

Fact = str | float
Facts = dict[str, Fact]


@dataclass(frozen=True, slots=True)
class TierRules:
    """What a tier means here. Targets are by their name in `vllm_xargs`, in milliseconds."""

    client_targets: bool = True  # False: clients' own targets are dropped, wherever they stand
    priority_targets: Mapping[str, float] = field(default_factory=dict)
    flex_wait_seconds: float = 600.0  # someone waits for a flex answer: it is due then


class Translated(NamedTuple):
    """A body for vLLM, and the tier that its request runs in."""

    body: bytes
    tier: str


def facts_in(headers: Mapping[str, str], rules: TierRules) -> Facts:
    """What the headers ask for. Raises ApiError 400 for a target that is no number above 0."""
    asked: dict[str, Fact | None] = {"tenant": headers.get(FAIRNESS_ID)}
    if rules.client_targets:
        asked |= {name: target_ms(headers, name.removesuffix("_ms")) for name in TARGETS}
    return {name: value for name, value in asked.items() if value}


def translate(raw: bytes, asked: Facts, rules: TierRules) -> Translated | None:
    """The body with its facts in `vllm_xargs`; None where it has none, or is for vLLM to refuse.

    A fact that the body's own `vllm_xargs` hold goes before the same from a header, and that before a tier's.
    Raises ApiError 400 for a tier that is none.
    """
    if not asked and rules.client_targets and b'"service_tier"' not in raw:
        return None
    try:
        body = json.loads(raw)  # as vLLM reads it: another parser would refuse other things
    except (ValueError, RecursionError):
        return None
    if not isinstance(body, dict) or not isinstance(body.get("vllm_xargs"), dict | None):
        return None
    if body.get("service_tier") not in (None, *TIERS):
        message = f"service_tier must be one of {', '.join(TIERS)}."
        raise ApiError(400, message, param="service_tier", code="invalid_value")
    tier = _put(body, asked, rules)
    return Translated(json.dumps(body).encode(), tier)


def _put(body: dict[str, Any], asked: Facts, rules: TierRules) -> str:
    own = body.get("vllm_xargs") or {}
    if not rules.client_targets:
        own = {name: value for name, value in own.items() if name not in TARGETS}
    tier = body.get("service_tier")
    facts = _of_tier(tier, rules) | asked | own
    if facts or body.get("vllm_xargs"):
        body["vllm_xargs"] = facts
    if tier in PRIORITY_TIERS:
        body["service_tier"] = "priority"
        if body.get("priority") is None:
            body["priority"] = -1
    if facts.get("task_class") == "offline":
        return "flex"
    return "priority" if tier in PRIORITY_TIERS else "default"


def _of_tier(tier: object, rules: TierRules) -> Facts:
    if tier == "flex":
        return {"task_class": "offline", "deadline_ms": rules.flex_wait_seconds * 1e3}
    if tier in PRIORITY_TIERS:
        return {"task_class": "online", **rules.priority_targets}
    return {}


class Tiers:
    """Middleware before vLLM's routes. A request that says nothing of tiers or targets passes as it came."""

    def __init__(self, app: ASGIApp, rules: TierRules) -> None:
        self._app = app
        self._rules = rules

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not _is_generation(scope):
            await self._app(scope, receive, send)
            return
        raw = await _read(receive)
        if raw is None:
            return  # the client left
        try:
            translated = translate(raw, facts_in(Headers(scope=scope), self._rules), self._rules)
        except ApiError as exc:
            await exc.response()(scope, receive, send)
            return
        if translated is None:
            await self._app(scope, _again(raw, receive), send)
        else:
            answer = _Answer(send, translated.tier)
            scope = _with_length(scope, len(translated.body))
            await self._app(scope, _again(translated.body, receive), answer.send)


class _Answer:
    """Tells the tier in vLLM's answer, which leaves it out, and in each chunk of a stream."""

    def __init__(self, send: Send, tier: str) -> None:
        self._send = send
        self._tier = tier.encode()
        self._ok = False
        self._held: Message | None = None

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._ok = message["status"] == 200
            if self._ok and "content-length" in Headers(raw=message["headers"]):
                self._held = message  # its length will be another
                return
        elif message["type"] == "http.response.body" and self._ok:
            message = await self._body(message)
        await self._send(message)

    async def _body(self, message: Message) -> Message:
        body = message.get("body", b"")
        start, self._held = self._held, None
        if start is not None and message.get("more_body"):
            self._ok = False  # in parts of a known length: they stay as they are
        else:
            message = {**message, "body": self._with_tier(body)}
        if start is not None:
            MutableHeaders(raw=start["headers"])["content-length"] = str(
                int(Headers(raw=start["headers"])["content-length"]) + len(message["body"]) - len(body)
            )
            await self._send(start)
        return message

    def _with_tier(self, body: bytes) -> bytes:
        """A quote inside of a JSON text is escaped, so the bytes looked for can only be a key."""
        if b'"service_tier":null' in body:
            return body.replace(b'"service_tier":null', b'"service_tier":"%s"' % self._tier, 1)
        if body.startswith((b'{"id":', b'data: {"id":')) and b'"service_tier":' not in body:
            return body.replace(b"{", b'{"service_tier":"%s",' % self._tier, 1)
        return body


def _is_generation(scope: Scope) -> bool:
    if scope["type"] != "http" or scope["method"] != "POST":
        return False
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", "")) in PATHS


async def _read(receive: Receive) -> bytes | None:
    """The whole body, which vLLM's route would gather as well; None if the client left before."""
    parts: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(parts)


def _again(body: bytes, receive: Receive) -> Receive:
    """Gives the body, then whatever comes next (that the client left)."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def received() -> Message:
        return waiting.pop() if waiting else await receive()

    return received


def _with_length(scope: Scope, length: int) -> Scope:
    headers = Headers(scope=scope).mutablecopy()
    del headers["transfer-encoding"]
    headers["content-length"] = str(length)
    return {**scope, "headers": headers.raw}
