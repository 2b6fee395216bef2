"""What clients send: the requests of chat completions and of completions.

Validation is strict (no string becomes a number) and `null` always means "left out". Fields that are
not named here are dealt with in `parsing`.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, FailFast, Field, PlainValidator, model_validator
from pydantic_core import PydanticCustomError

MAX_INT = 2**31 - 1
MAX_MESSAGES = 16_384
MAX_TEXT_PARTS = 4_096
MAX_STOPS = 16
MAX_STOP_CHARS = 1_024
MAX_STOP_TOKENS = 256
MAX_LOGIT_BIAS = 1_024


class Schema(BaseModel):
    """Strict, and `null` counts as absent: a field's default is written once, as its default."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _without_absent(cls, values: Any) -> Any:
        if isinstance(values, dict):
            return {name: value for name, value in values.items() if not cls._is_absent(name, value)}
        return values

    @classmethod
    def _is_absent(cls, name: str, value: Any) -> bool:
        return value is None


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _flatten(content: Any) -> Any:
    """A list of text parts becomes one text; every other kind of part is refused by its name."""
    if content is None or content == []:
        named = "null" if content is None else "an empty list"
        raise PydanticCustomError("no_text", "{named} is not supported: give a text", {"named": named})
    if not isinstance(content, list):
        return content
    if len(content) > MAX_TEXT_PARTS:
        raise PydanticCustomError("too_many_parts", f"Only {MAX_TEXT_PARTS} parts are allowed")
    return "".join(_text_of(part) for part in content)


def _text_of(part: Any) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind != "text":
        named = kind if isinstance(kind, str) else "no type"
        raise PydanticCustomError("part", "Only text parts are supported, not {named}", {"named": named})
    text = part.get("text")
    if not isinstance(text, str):
        raise PydanticCustomError("text_part", "A text part needs a string `text`")
    return text


def _as_prompts(value: Any) -> list[str | list[int]]:
    """The four forms of a prompt (text, token ids, lists of either) as one: a list of prompts."""
    prompts = value if isinstance(value, list) and value and not _is_token_id(value[0]) else [value]
    for prompt in prompts:
        if not (isinstance(prompt, str) or (isinstance(prompt, list) and all(map(_is_token_id, prompt)))):
            raise PydanticCustomError(
                "prompt_form", "Input should be a string, a list of token ids, or a list of such prompts"
            )
    return prompts


def _is_token_id(value: Any) -> bool:
    return type(value) is int and 0 <= value <= MAX_INT


def _token_keys(value: Any) -> Any:
    """JSON has only string keys: {"50256": -100} becomes {50256: -100}."""
    if not isinstance(value, dict):
        return value
    if not all(key.isascii() and key.isdigit() and len(key) < 10 for key in value):
        raise PydanticCustomError("logit_bias_key", "Keys should be token ids")
    return {int(key): bias for key, bias in value.items()}


Count = Annotated[int, Field(ge=1, le=MAX_INT)]
TokenId = Annotated[int, Field(ge=0, le=MAX_INT)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
Text = Annotated[str, BeforeValidator(_flatten)]
Prompts = Annotated[
    list[str | list[int]],
    PlainValidator(_as_prompts, json_schema_input_type=str | list[int] | list[str] | list[list[int]]),
]
Stops = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARS)]],
    Field(max_length=MAX_STOPS),
    FailFast(),
    BeforeValidator(_as_list, json_schema_input_type=str | list[str]),
]
LogitBias = Annotated[
    dict[int, Annotated[float, Field(ge=-100, le=100)]],
    Field(max_length=MAX_LOGIT_BIAS),
    BeforeValidator(_token_keys, json_schema_input_type=dict[str, float]),
]
ServiceTier = Literal["auto", "default", "priority", "fast", "flex", "scale"]


class StreamOptions(Schema):
    """`include_obfuscation` is accepted and has no effect: chunks are never padded."""

    include_usage: bool = False
    continuous_usage_stats: bool = False
    include_obfuscation: bool = False


class Message(Schema):
    """One message of a conversation. Text only; a list of text parts is joined."""

    model_config = ConfigDict(extra="forbid")

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Text
    name: str | None = None
    tool_call_id: str | None = None

    @classmethod
    def _is_absent(cls, name: str, value: Any) -> bool:
        """Empty lists ask for nothing: a message taken from an answer carries `"tool_calls": []`."""
        return name != "content" and (value is None or value == [])


class GenerationRequest(Schema):
    """The fields that chat completions and completions share.

    `user`, `metadata` and `parallel_tool_calls` have no effect on the answer. `priority` orders requests
    inside their class, smaller first; without it, the tier `priority` (or `fast`) counts as -1.
    """

    model: str
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: Count = 1
    max_tokens: Count | None = None
    min_tokens: int = Field(0, ge=0, le=MAX_INT)
    stop: Stops = []
    stop_token_ids: list[TokenId] = Field([], max_length=MAX_STOP_TOKENS)
    ignore_eos: bool = False
    temperature: float = Field(1.0, ge=0, le=2)
    top_p: float = Field(1.0, ge=0, le=1)  # 0: greedy
    top_k: int = Field(0, ge=-1, le=MAX_INT)  # -1 and 0: no limit
    min_p: float = Field(0.0, ge=0, le=1)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    presence_penalty: Penalty = 0.0
    frequency_penalty: Penalty = 0.0
    repetition_penalty: float = Field(1.0, gt=0, le=10)
    logit_bias: LogitBias = {}
    service_tier: ServiceTier = "auto"
    priority: int | None = Field(None, ge=-MAX_INT, le=MAX_INT)
    cache_salt: str = Field("", max_length=256)
    user: str = ""
    metadata: dict[str, str] = {}
    store: Literal[False] = False

    @property
    def requested_tokens(self) -> int | None:
        """The most output tokens the client asked for; None when it set no limit."""
        return self.max_tokens

    @property
    def limit_field(self) -> str:
        """The name of the field that `requested_tokens` came from."""
        return "max_tokens"

    @property
    @abstractmethod
    def num_logprobs(self) -> int | None:
        """Alternatives wanted beside each drawn token; None for no log probabilities at all."""


class ChatRequest(GenerationRequest):
    """Body of `POST /v1/chat/completions`."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES), FailFast()]
    max_completion_tokens: Count | None = None
    logprobs: bool = False
    top_logprobs: int = Field(0, ge=0, le=MAX_INT)
    parallel_tool_calls: bool = True

    @property
    def requested_tokens(self) -> int | None:
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def limit_field(self) -> str:
        return "max_tokens" if self.max_completion_tokens is None else "max_completion_tokens"

    @property
    def num_logprobs(self) -> int | None:
        return self.top_logprobs if self.logprobs else None


class CompletionRequest(GenerationRequest):
    """Body of `POST /v1/completions`."""

    prompt: Prompts
    echo: bool = False
    logprobs: int | None = Field(None, ge=0, le=MAX_INT)

    @property
    def num_logprobs(self) -> int | None:
        return self.logprobs
