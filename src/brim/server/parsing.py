"""Bytes to a validated request: what is malformed, unsupported or unknown is said by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Generic, NamedTuple, TypeVar

from brim.server.schemas import GenerationRequest, StreamOptions
from brim.wire.errors import unsupported
from brim.wire.ignored import told
from brim.wire.json_body import load_object, validated

BodyT = TypeVar("BodyT", bound=GenerationRequest)

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
    """A request, and what a header of the answer says of the fields that have no meaning here."""

    body: BodyT
    ignored: str


def parse(raw: bytes, schema: type[BodyT]) -> Parsed[BodyT]:
    """The request in `raw`. Raises ApiError 400 or RequestValidationError; both name the field."""
    return validate(load_object(raw), schema)


def validate(payload: dict[str, Any], schema: type[BodyT]) -> Parsed[BodyT]:
    """As `parse`, from JSON that is already decoded."""
    unknown = [name for name in payload if name not in schema.model_fields and payload[name] is not None]
    for name in unknown:
        if name in UNSUPPORTED and payload[name] not in UNSUPPORTED[name]:
            raise unsupported(name)
    body = validated(payload, schema)
    ignored = [name for name in unknown if name not in UNSUPPORTED]
    return Parsed(body, told([*ignored, *_unknown_options(payload.get("stream_options") or {})]))


def _unknown_options(options: Mapping[str, Any]) -> list[str]:
    return [f"stream_options.{name}" for name in options if name not in StreamOptions.model_fields]
