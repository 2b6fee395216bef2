"""The OpenAI protocol without HTTP: a validated body goes in, an answer under way comes out."""

from __future__ import annotations

import hashlib
import logging
import time
import uuid
from collections.abc import Sequence
from typing import Any

import brim
from brim.core.request import Request, TaskClass
from brim.engines.base import EngineCaps, Tokenizer
from brim.engines.loop import EngineLoop
from brim.server.answers import ChatForm, CompletionForm, Form, Head
from brim.server.choice import Choice
from brim.server.failures import no_room
from brim.server.generation import Generation
from brim.server.options import ServiceOptions
from brim.server.prompts import PromptEncoder
from brim.server.requests import RequestContext, RequestMaker, tier_used
from brim.server.schemas import ChatRequest, CompletionRequest, GenerationRequest
from brim.wire.errors import ApiError, unavailable

log = logging.getLogger("brim")


class OpenAIService:
    """Answers chat completions and completions with one engine loop, which its caller starts and closes."""

    def __init__(self, loop: EngineLoop, tokenizer: Tokenizer, options: ServiceOptions | None = None) -> None:
        self.loop = loop
        self._options = options or ServiceOptions()
        self.targets = self._options.default_slo
        self.model_names = self._options.model_names or (loop.caps.model,)
        self._tokenizer = tokenizer
        self._prompts = PromptEncoder(tokenizer, loop.caps, self._options.max_prompts)
        self._requests = RequestMaker(loop.caps, tokenizer.eos_token_ids, self._options)
        self._fingerprint = _fingerprint(loop.caps)

    async def complete(self, body: GenerationRequest, context: RequestContext) -> dict[str, Any]:
        """The whole answer. Raises as `start` and `pieces` do; a cancelled one drops the request."""
        generation = await self.start(body, context)
        return await generation.complete()

    async def start(self, body: GenerationRequest, context: RequestContext) -> Generation:
        """Checks the body and hands it to the engine; the answer is under way when this returns.

        Someone who waits for a flex answer is told soon when there is no room: it returns with the first
        token only. Raises ApiError (unknown model, overload, no room), RequestRefused or EngineDead.
        """
        self.check_model(body.model)
        self._requests.check(body)
        prompts = await self._prompts.encode(body)
        tier = tier_used(body, context)
        self._check_load(tier, len(prompts) * body.n)
        form = self._form(body)
        answer_id = f"{form.id_prefix}-{uuid.uuid4().hex}"
        log.debug("request %s is answered as %s", context.request_id, answer_id)
        requests = self._requests.make(body, context, prompts, answer_id)
        head: Head = {
            "id": answer_id,
            "object": form.whole_object,
            "created": int(time.time()),
            "model": body.model,
            "system_fingerprint": self._fingerprint,
            "service_tier": tier,
        }
        openings = [""] * len(prompts)
        if isinstance(body, CompletionRequest) and body.echo:
            openings = await self._prompts.echoed(body.prompt)
        choices = self._submit(requests, body, [opening for opening in openings for _ in range(body.n)])
        generation = Generation(choices, form, head, prompt_tokens=sum(map(len, prompts)), n=body.n)
        if tier == "flex" and context.task_class is TaskClass.ONLINE:
            await self._wait_for_room(generation)
        return generation

    async def _wait_for_room(self, generation: Generation) -> None:
        try:
            await generation.wait_for_first_token(self._options.flex_wait_seconds)
        except TimeoutError:
            raise no_room("There was no room for a flex request in time: try again later.") from None

    def check_model(self, name: str) -> None:
        """Raises ApiError 404 for a model that is not served here."""
        if name not in self.model_names:
            message = f"The model `{name}` does not exist here; there is {', '.join(self.model_names)}."
            raise ApiError(404, message, param="model", code="model_not_found")

    def _check_load(self, tier: str, num_new: int) -> None:
        """Online requests are turned away once too many wait, those of the priority tier last."""
        if tier == "flex":
            return
        limit = self._options.max_queued_online * (2 if tier == "priority" else 1)
        waiting = self.loop.stats().num_waiting_online
        if waiting and waiting + num_new > limit:
            raise unavailable("Too many requests are waiting: try again later.", code="server_is_overloaded")

    def _submit(
        self, requests: Sequence[Request], body: GenerationRequest, openings: Sequence[str]
    ) -> list[Choice]:
        """All or none of them. `openings` are what each answer's text begins with: the echoed prompt."""
        choices: list[Choice] = []
        try:
            for request, opening in zip(requests, openings, strict=True):
                text = self._tokenizer.stream()
                stream = self.loop.submit(request)
                choices.append(Choice(len(choices), stream, text, request.sampling, body.stop, opening))
        except BaseException:
            for choice in choices:
                choice.stream.abort()
            raise
        return choices

    def _form(self, body: GenerationRequest) -> Form:
        kind = ChatForm if isinstance(body, ChatRequest) else CompletionForm
        return kind(self._tokenizer, logprobs=body.num_logprobs is not None)


def _fingerprint(caps: EngineCaps) -> str:
    """Changes when another version, engine, model, device or number format may give other tokens."""
    facts = "\n".join((brim.__version__, caps.name, caps.model, caps.device, caps.dtype))
    return "fp_" + hashlib.sha256(facts.encode()).hexdigest()[:12]
