"""HFTokenizer: a Hugging Face tokenizer as the server sees it."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

from jinja2.exceptions import TemplateError

from brim.core.errors import RequestRefused

BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")  # how byte-fallback vocabularies spell a raw byte


class HFTokenizer:
    """Wraps a transformers tokenizer. `eos_token_ids` are the ones that end an answer."""

    def __init__(self, tokenizer: Any, eos_token_ids: Iterable[int] = ()) -> None:
        self._tokenizer = tokenizer
        own = () if tokenizer.eos_token_id is None else (tokenizer.eos_token_id,)
        self._eos_token_ids = frozenset([*eos_token_ids, *own])
        # an added token may be special without a role such as `eos_token`
        added = (token_id for token_id, token in tokenizer.added_tokens_decoder.items() if token.special)
        self._special = frozenset([*tokenizer.all_special_ids, *added])
        self._byte_of = _bytes_of_byte_level() if _is_byte_level(tokenizer) else None
        self._anchor = tokenizer.encode("a", add_special_tokens=False)
        self._bytes: dict[int, bytes] = {}

    @property
    def eos_token_ids(self) -> frozenset[int]:
        return self._eos_token_ids

    def encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text))

    def encode_chat(self, messages: Sequence[dict[str, Any]]) -> list[int]:
        """Raises RequestRefused where there is no chat template or it refuses the messages."""
        if not self._tokenizer.chat_template:
            raise RequestRefused(
                "this model has no chat template: use the completions endpoint",
                param="messages",
                code="no_chat_template",
            )
        try:
            ids = self._tokenizer.apply_chat_template(
                list(messages), add_generation_prompt=True, tokenize=True, return_dict=False
            )
        except (TemplateError, TypeError, ValueError, KeyError) as error:
            raise RequestRefused(
                f"the model's chat template refuses these messages: {error}",
                param="messages",
                code="invalid_messages",
            ) from error
        return list(ids)

    def stream(self) -> HFTextStream:
        return HFTextStream(self)

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes a token adds to a text that it continues; a special token stands for its name."""
        found = self._bytes.get(token_id)
        if found is None:
            found = self._bytes[token_id] = self._spell(token_id)
        return found

    def is_special(self, token_id: int) -> bool:
        """True for tokens that are never part of the text."""
        return token_id in self._special

    def _spell(self, token_id: int) -> bytes:
        token = self._tokenizer.convert_ids_to_tokens(token_id)
        if token is None:  # the model's vocabulary is padded past the tokenizer's
            return b""
        if token_id in self._special:
            return str(token).encode()
        if self._byte_of is not None and all(character in self._byte_of for character in token):
            return bytes(self._byte_of[character] for character in token)
        if raw := BYTE_TOKEN.fullmatch(token):
            return bytes([int(raw[1], 16)])
        # Decoders strip a leading space at the start of a text, so the token is decoded behind another.
        anchor, both = (self._tokenizer.decode(ids) for ids in (self._anchor, [*self._anchor, token_id]))
        return str(both[len(anchor) :]).encode()


class HFTextStream:
    """Joins the bytes of tokens and gives out whole characters. Special tokens are left out.

    The text continues the prompt: a space in front of the first word is kept.
    """

    def __init__(self, tokenizer: HFTokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token_id: int) -> str:
        if self._tokenizer.is_special(token_id):
            return ""
        return self._decoder.decode(self._tokenizer.token_bytes(token_id))

    def flush(self) -> str:
        return self._decoder.decode(b"", final=True)


def _is_byte_level(tokenizer: Any) -> bool:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return backend is not None and "ByteLevel" in repr(backend.decoder)


@cache
def _bytes_of_byte_level() -> dict[str, int]:
    """GPT-2's alphabet: printable bytes stand for themselves, the others for characters from 256 on."""
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + at): byte for at, byte in enumerate(others)}
