"""Texts and conversations become token ids, without holding up the streams that are open."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from brim.core.errors import RequestRefused
from brim.engines.base import EngineCaps, Tokenizer
from brim.server.failures import refused
from brim.server.schemas import ChatRequest, CompletionRequest, GenerationRequest, Message

LONGEST_TOKEN_CHARS = 256  # no vocabulary has longer ones: a text can be too long before it is tokenised
CHARS_FOR_A_THREAD = 16_384
TOKENS_FOR_A_THREAD = 1_024  # one by one, as an answer is decoded


class PromptEncoder:
    """Prompts of one model. Long texts are tokenised in a thread, so `tokenizer` must allow for that."""

    def __init__(self, tokenizer: Tokenizer, caps: EngineCaps, max_prompts: int) -> None:
        self._tokenizer = tokenizer
        self._caps = caps
        self._max_prompts = max_prompts

    async def encode(self, body: GenerationRequest) -> list[list[int]]:
        """The token ids of each prompt. Raises RequestRefused for what does not fit the model."""
        if isinstance(body, ChatRequest):
            prompts = [await self._conversation(body.messages)]
        elif isinstance(body, CompletionRequest):
            if len(body.prompt) > self._max_prompts:
                raise refused(f"At most {self._max_prompts} prompts are allowed.", "prompt")
            prompts = await self._each(body.prompt)
        else:
            raise TypeError(f"no prompt in a {type(body).__name__}")
        for prompt in prompts:
            self._check(prompt, body)
        return prompts

    async def echoed(self, prompts: Sequence[str | Sequence[int]]) -> list[str]:
        """What an answer repeats of each prompt: a text as it was sent, token ids decoded.

        Tokenising and decoding a text need not give it back.
        """
        if sum(len(p) for p in prompts if not isinstance(p, str)) > TOKENS_FOR_A_THREAD:
            return await asyncio.to_thread(lambda: [self._text_of(prompt) for prompt in prompts])
        return [self._text_of(prompt) for prompt in prompts]

    def _text_of(self, prompt: str | Sequence[int]) -> str:
        if isinstance(prompt, str):
            return prompt
        stream = self._tokenizer.stream()
        return "".join([stream.push(token_id) for token_id in prompt]) + stream.flush()

    async def _conversation(self, messages: Sequence[Message]) -> list[int]:
        dicts = [_for_template(message) for message in messages]
        num_chars = sum(len(message.content) for message in messages)
        self._check_chars(num_chars, "messages")
        if num_chars > CHARS_FOR_A_THREAD:
            return await asyncio.to_thread(self._tokenizer.encode_chat, dicts)
        return self._tokenizer.encode_chat(dicts)

    async def _each(self, prompts: Sequence[str | list[int]]) -> list[list[int]]:
        lengths = [len(prompt) for prompt in prompts if isinstance(prompt, str)]
        self._check_chars(max(lengths, default=0), "prompt")
        if sum(lengths) > CHARS_FOR_A_THREAD:
            return await asyncio.to_thread(lambda: [self._ids_of(prompt) for prompt in prompts])
        return [self._ids_of(prompt) for prompt in prompts]

    def _ids_of(self, prompt: str | list[int]) -> list[int]:
        return self._tokenizer.encode(prompt) if isinstance(prompt, str) else prompt

    def _check_chars(self, num_chars: int, param: str) -> None:
        if num_chars > self._caps.max_model_len * LONGEST_TOKEN_CHARS:
            raise self._too_long(f"{num_chars} characters in the prompt", param)

    def _check(self, prompt: Sequence[int], body: GenerationRequest) -> None:
        param = "messages" if isinstance(body, ChatRequest) else "prompt"
        if not prompt:
            raise refused("The prompt is empty.", param)
        answer = body.requested_tokens or 1
        if len(prompt) + answer > self._caps.max_model_len:
            fits = len(prompt) < self._caps.max_model_len
            found = f"{len(prompt)} in the prompt and {answer} for the answer"
            raise self._too_long(found, body.limit_field if fits else param)
        if (largest := max(prompt)) >= self._caps.vocab_size:
            raise refused(
                f"The prompt's token {largest} is not among the {self._caps.vocab_size} known.", param
            )

    def _too_long(self, found: str, param: str) -> RequestRefused:
        return RequestRefused(
            f"The model's context is {self._caps.max_model_len} tokens; this request has {found}.",
            param=param,
            code="context_length_exceeded",
        )


def _for_template(message: Message) -> dict[str, Any]:
    """Chat templates know no developer role: it is the system's."""
    fields = message.model_dump(exclude_none=True)
    return {**fields, "role": "system"} if message.role == "developer" else fields
