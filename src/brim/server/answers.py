"""The shapes of the answers: chat completions and completions, whole and in chunks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol

from typing_extensions import TypedDict  # pydantic takes typing's own only from Python 3.12 on

from brim.core.plan import TokenLogprobs
from brim.engines.base import TextStream, Tokenizer
from brim.server.choice import Piece

LEAST_LOGPROB = -9999.0  # JSON has no infinity


class PromptTokensDetails(TypedDict):
    cached_tokens: int


class Usage(TypedDict):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails


class TopLogprob(TypedDict):
    token: str
    logprob: float
    bytes: list[int]


class ChatLogprob(TopLogprob):
    top_logprobs: list[TopLogprob]


class ChatLogprobs(TypedDict):
    content: list[ChatLogprob]
    refusal: None


class ChatMessage(TypedDict):
    role: Literal["assistant"]
    content: str
    refusal: None


class ChatChoice(TypedDict):
    index: int
    message: ChatMessage
    logprobs: ChatLogprobs | None
    finish_reason: str | None


class CompletionLogprobs(TypedDict):
    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class CompletionChoice(TypedDict):
    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: str | None


class Head(TypedDict):
    """What an answer and each of its chunks begin with. `service_tier` is the tier really used."""

    id: str
    object: str
    created: int
    model: str
    system_fingerprint: str
    service_tier: str


class ChatCompletion(Head):
    choices: list[ChatChoice]
    usage: Usage


class Completion(Head):
    choices: list[CompletionChoice]
    usage: Usage


class Form(Protocol):
    """How one endpoint writes its answers. A form belongs to one answer and may remember it."""

    id_prefix: str
    whole_object: str
    chunk_object: str
    text_chunk: tuple[bytes, bytes]  # JSON around the text of a chunk that holds only text

    def whole(self, piece: Piece) -> Any:
        """The choice whose complete content is `piece`."""

    def opening(self, index: int) -> Any | None:
        """The choice of the chunk that opens choice `index`; None where none is usual."""

    def chunk(self, piece: Piece) -> Any:
        """The choice of a chunk."""


class ChatForm:
    id_prefix = "chatcmpl"
    whole_object = "chat.completion"
    chunk_object = "chat.completion.chunk"
    text_chunk = (b',"delta":{"content":', b'},"logprobs":null,"finish_reason":null}')

    def __init__(self, tokenizer: Tokenizer, *, logprobs: bool) -> None:
        self._tokenizer = tokenizer
        self._with_logprobs = logprobs

    def whole(self, piece: Piece) -> ChatChoice:
        return {
            "index": piece.choice,
            "message": {"role": "assistant", "content": piece.text, "refusal": None},
            "logprobs": self._logprobs(piece.logprobs),
            "finish_reason": piece.finish_reason,
        }

    def opening(self, index: int) -> dict[str, Any]:
        delta = {"role": "assistant", "content": ""}
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}

    def chunk(self, piece: Piece) -> dict[str, Any]:
        return {
            "index": piece.choice,
            "delta": {"content": piece.text} if piece.text or piece.logprobs else {},
            "logprobs": self._logprobs(piece.logprobs) if piece.logprobs else None,
            "finish_reason": piece.finish_reason,
        }

    def _logprobs(self, drawn: Sequence[TokenLogprobs]) -> ChatLogprobs | None:
        if not self._with_logprobs:
            return None
        return {"content": [self._token(token) for token in drawn], "refusal": None}

    def _token(self, drawn: TokenLogprobs) -> ChatLogprob:
        top = [self._one(token_id, logprob) for token_id, logprob in drawn.top]
        return {**self._one(drawn.token_id, drawn.logprob), "top_logprobs": top}

    def _one(self, token_id: int, logprob: float) -> TopLogprob:
        token = self._tokenizer.token_bytes(token_id)
        return {
            "token": token.decode(errors="replace"),
            "logprob": max(logprob, LEAST_LOGPROB),
            "bytes": list(token),
        }


class CompletionForm:
    id_prefix = "cmpl"
    whole_object = "text_completion"
    chunk_object = "text_completion"
    text_chunk = (b',"text":', b',"logprobs":null,"finish_reason":null}')

    def __init__(self, tokenizer: Tokenizer, *, logprobs: bool) -> None:
        self._tokenizer = tokenizer
        self._with_logprobs = logprobs
        self._spoken: dict[int, tuple[TextStream, int]] = {}  # per choice, with the characters it gave out

    def whole(self, piece: Piece) -> CompletionChoice:
        return {
            "index": piece.choice,
            "text": piece.text,
            "logprobs": self._logprobs(piece) if self._with_logprobs else None,
            "finish_reason": piece.finish_reason,
        }

    def opening(self, index: int) -> None:
        return None

    def chunk(self, piece: Piece) -> CompletionChoice:
        return self.whole(piece)

    def _logprobs(self, piece: Piece) -> CompletionLogprobs:
        return {
            "tokens": [self._name(drawn.token_id) for drawn in piece.logprobs],
            "token_logprobs": [max(drawn.logprob, LEAST_LOGPROB) for drawn in piece.logprobs],
            "top_logprobs": [self._alternatives(drawn) for drawn in piece.logprobs],
            "text_offset": self._offsets(piece),
        }

    def _offsets(self, piece: Piece) -> list[int]:
        """Where in the text each token begins. Names do not tell: a token may be part of a character."""
        stream, offset = self._spoken.get(piece.choice) or (self._tokenizer.stream(), 0)
        offsets = []
        for drawn in piece.logprobs:
            offsets.append(offset)
            offset += len(stream.push(drawn.token_id))
        self._spoken[piece.choice] = stream, offset
        return offsets

    def _alternatives(self, drawn: TokenLogprobs) -> dict[str, float]:
        pairs = (*drawn.top, (drawn.token_id, drawn.logprob))
        return {self._name(token_id): max(logprob, LEAST_LOGPROB) for token_id, logprob in pairs}

    def _name(self, token_id: int) -> str:
        """The token's text; bytes that are no text alone are spelled out, as OpenAI does."""
        token = self._tokenizer.token_bytes(token_id)
        try:
            return token.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token)
