"""An engine that plays given tokens, for tests and for measuring everything around a model.

It checks what it is given as a device would: every position is written exactly once before it is
read, through the block table, into the very block that the scheduler claims.
"""

from __future__ import annotations

import codecs
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from brim.core.plan import StepPlan, StepResult, TokenLogprobs
from brim.core.request import RequestView
from brim.engines.base import EngineCaps

Script = Callable[[Sequence[int]], int]


def echo_script(token_ids: Sequence[int]) -> int:
    """The next token as a function of all tokens before it: a hash, so that any mistake shows."""
    acc = 2166136261
    for token_id in token_ids:
        acc = ((acc ^ token_id) * 16777619) & 0xFFFFFFFF
    return 97 + (acc ^ len(token_ids)) % 26


class ScriptedEngine:
    """Draws `script(all tokens so far)` for each request, reading the tokens back from a paged store.

    `poison` maps a request id to the message with which any step that runs it fails.
    """

    def __init__(
        self,
        num_blocks: int = 512,
        block_size: int = 16,
        *,
        max_model_len: int = 4096,
        depth: int = 1,
        script: Script = echo_script,
        poison: Mapping[str, str] | None = None,
    ) -> None:
        self.caps = EngineCaps(
            name="scripted",
            model="scripted",
            num_blocks=num_blocks,
            block_size=block_size,
            max_model_len=min(max_model_len, num_blocks * block_size),
            vocab_size=258,
            depth=depth,
            note="scripted: no model is run, the words mean nothing",
        )
        self._script = script
        self._poison = dict(poison or {})
        self._store: dict[tuple[int, int], int] = {}  # (block id, offset) -> token id
        self._drawn: dict[tuple[str, int], int] = {}  # by position: a plan may not know the newest yet
        self._results: deque[StepResult] = deque()

    def begin(self, plan: StepPlan) -> None:
        for request_id in plan.released:
            for key in [key for key in self._drawn if key[0] == request_id]:
                del self._drawn[key]
        rows = plan.rows()
        for state, *_ in rows:
            if state.request.request_id in self._poison:
                raise RuntimeError(self._poison[state.request.request_id])
        for state, start, num_tokens, _ in rows:
            self._write(state, start, num_tokens)
        ends = [(state, start + num_tokens) for state, start, num_tokens, samples in rows if samples]
        tokens = [self._draw(state, end) for state, end in ends]
        logprobs = {
            s.request.request_id: TokenLogprobs(t, 0.0, ((t, 0.0),))
            for (s, _), t in zip(ends, tokens, strict=True)
            if s.request.sampling.logprobs is not None
        }
        self._results.append(StepResult(tokens, logprobs))

    def finish(self) -> StepResult:
        return self._results.popleft()

    def close(self) -> None:
        self._results.clear()

    def _write(self, view: RequestView, start: int, num_tokens: int) -> None:
        size = self.caps.block_size
        for position in range(start, start + num_tokens):
            block_id = view.block_ids[position // size]
            self._store[block_id, position % size] = self._token(view, position)

    def _token(self, view: RequestView, position: int) -> int:
        if position < view.num_tokens:
            return view.token_ids[position]
        return self._drawn[view.request.request_id, position]

    def _draw(self, view: RequestView, end: int) -> int:
        size = self.caps.block_size
        seen = [self._store[view.block_ids[p // size], p % size] for p in range(end)]
        token_id = self._script(seen)
        self._drawn[view.request.request_id, end] = token_id
        self._drawn.pop((view.request.request_id, end - 2), None)
        return token_id


class ByteTokenizer:
    """One token per UTF-8 byte, and an end token: text in and out without a model."""

    eos_token_ids = frozenset({256})

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def encode_chat(self, messages: Sequence[dict[str, Any]]) -> list[int]:
        text = "".join(f"{message['role']}: {message['content']}\n" for message in messages)
        return self.encode(text + "assistant: ")

    def stream(self) -> ByteStream:
        return ByteStream()

    def token_bytes(self, token_id: int) -> bytes:
        return bytes([token_id]) if token_id < 256 else b""


class ByteStream:
    """Bytes to text; an incomplete character waits for its next byte."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token_id: int) -> str:
        return self._decoder.decode(bytes([token_id])) if token_id < 256 else ""

    def flush(self) -> str:
        return self._decoder.decode(b"", final=True)
