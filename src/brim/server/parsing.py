"""Bytes to a validated request: what is malformed, unsupported or unknown is said by name."""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Mapping
from typing import Any, Generic, NamedTuple, TypeVar
from urllib.parse import quote

from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from brim.server.schemas import GenerationRequest
from brim.wire.errors import ApiError
from brim.wire.json_limits import has_too_many_parts

log = logging.getLogger("brim")
BodyT = TypeVar("BodyT", bound=GenerationRequest)

MAX_NAMED_FIELDS = 32

# Field -> the values of it that ask for nothing, besides null. Any other value is refused.
UNSUPPORTED: Mapping[str, tuple[Any, ...]] = {
    # tools and other forms of answer
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "structured_outputs": ({},),
    "guided_json": (),
    "guided_regex": (),
    "guided_choice": (),
    "guided_grammar": (),
    "structural_tag": (),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "web_search_options": (),
    "reasoning_effort": ("none",),
    "verbosity": ("medium",),
    # other ways to search and to score
    "best_of": (1,),
    "use_beam_search": (False,),
    "length_penalty": (1,),
    "prompt_logprobs": (),
    "suffix": ("",),
    "prompt_embeds": (),
    "logits_processors": ([],),
    "allowed_token_ids": ([],),
    "bad_words": ([],),
    # other ways to make the prompt or to show the tokens
    "truncate_prompt_tokens": (),
    "chat_template": (),
    "chat_template_kwargs": ({},),
    "documents": ([],),
    "continue_final_message": (False,),
    "add_generation_prompt": (True,),
    "include_stop_str_in_output": (False,),
    "skip_special_tokens": (True,),
    "return_token_ids": (False,),
    "return_tokens_as_token_ids": (False,),
}


class Parsed(NamedTuple, Generic[BodyT]):
    """A request, and the names of the fields that were sent and have no meaning here."""

    body: BodyT
    ignored: tuple[str, ...]


def parse(raw: bytes, schema: type[BodyT]) -> Parsed[BodyT]:
    """The request in `raw`. Raises ApiError 400 or RequestValidationError; both name the field."""
    return validate(_load_json(raw), schema)


def validate(payload: Any, schema: type[BodyT]) -> Parsed[BodyT]:
    """As `parse`, from JSON that is already decoded."""
    if not isinstance(payload, dict):
        raise ApiError(400, "The body must be a JSON object.", code="invalid_json")
    unknown = [name for name in payload if name not in schema.model_fields and payload[name] is not None]
    for name in unknown:
        if name in UNSUPPORTED and payload[name] not in UNSUPPORTED[name]:
            message = f"`{name}` is not supported here: leave it out."
            raise ApiError(400, message, param=name, code="unsupported_parameter")
    try:
        body = schema.model_validate(payload)
    except ValidationError as exc:
        raise RequestValidationError(exc.errors(include_url=False)) from None
    ignored = [quote(name[:64]) for name in unknown[:MAX_NAMED_FIELDS] if name not in UNSUPPORTED]
    for name in ignored:
        _warn_once(name)
    return Parsed(body, tuple(ignored))


def _load_json(raw: bytes) -> Any:
    """The hook costs little and makes the interpreter's lock change hands in the middle of a huge body."""
    if has_too_many_parts(raw):
        raise ApiError(400, "The body's JSON has too many parts.", code="invalid_json")
    try:
        payload = json.loads(raw.decode(), object_hook=_unchanged)
        if b"\\ud" in raw or b"\\uD" in raw:
            json.dumps(payload, ensure_ascii=False).encode()  # half a surrogate pair passes json.loads
    except RecursionError:
        raise ApiError(400, "The body's JSON is nested too deeply.", code="invalid_json") from None
    except ValueError as exc:
        raise ApiError(400, f"The body is not valid JSON: {exc}.", code="invalid_json") from None
    return payload


def _unchanged(decoded: dict[str, Any]) -> dict[str, Any]:
    return decoded


@functools.lru_cache(maxsize=1024)
def _warn_once(name: str) -> None:
    log.warning("the request field %s is unknown here and was ignored; said once", name)
