"""A validated body and its prompts become the engine's requests, or are refused by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

from brim.core.request import SLO, Request, SamplingParams, TaskClass
from brim.engines.base import EngineCaps
from brim.server.failures import refused
from brim.server.length_keys import length_keys
from brim.server.options import NO_TARGETS, ServiceOptions
from brim.server.schemas import ChatRequest, CompletionRequest, GenerationRequest

COMPLETION_MAX_TOKENS = 16  # OpenAI's default for completions
SEEDS = 2**63


@dataclass(frozen=True, slots=True)
class RequestContext:
    """What a request brings besides its body.

    `request_id` is the caller's name for it, told in logs. Times are in nanoseconds of the loop's clock.
    Targets of `slo` that are None fall back to the options'. Requests share cached prefixes only inside a
    `tenant`. `batch_id` is the batch job it is a line of, `fairness_id` the one its tenant acts for.
    """

    request_id: str
    arrival_ns: int
    task_class: TaskClass = TaskClass.ONLINE
    deadline_ns: int | None = None
    slo: SLO = NO_TARGETS
    tenant: str = ""
    batch_id: str = ""
    fairness_id: str = ""


def tier_used(body: GenerationRequest, context: RequestContext) -> str:
    """The service tier a request runs in: whatever runs in the offline class is `flex`."""
    if context.task_class is TaskClass.OFFLINE or body.service_tier == "flex":
        return "flex"
    return "priority" if body.service_tier in ("priority", "fast") else "default"


class RequestMaker:
    """Makes the engine's requests for one model."""

    def __init__(self, caps: EngineCaps, eos_token_ids: frozenset[int], options: ServiceOptions) -> None:
        self._caps = caps
        self._eos_token_ids = eos_token_ids
        self._options = options

    def check(self, body: GenerationRequest) -> None:
        """Raises RequestRefused for what no prompt could make right."""
        if body.n > self._options.max_n:
            raise refused(f"n is {body.n}; at most {self._options.max_n} are allowed.", "n")
        if body.stream_options is not None and not body.stream:
            raise refused("stream_options needs stream to be true.", "stream_options")
        size = self._caps.vocab_size
        if any(token_id >= size for token_id in body.logit_bias):
            raise refused(f"logit_bias names a token outside the {size} known.", "logit_bias")
        if any(token_id >= size for token_id in body.stop_token_ids):
            raise refused(f"stop_token_ids names a token outside the {size} known.", "stop_token_ids")
        self._check_logprobs(body)

    def _check_logprobs(self, body: GenerationRequest) -> None:
        param = "top_logprobs" if isinstance(body, ChatRequest) else "logprobs"
        if (body.num_logprobs or 0) > self._caps.max_logprobs:
            raise refused(f"At most {self._caps.max_logprobs} alternatives can be told.", param)
        if isinstance(body, ChatRequest) and body.top_logprobs and not body.logprobs:
            raise refused("top_logprobs needs logprobs to be true.", param)
        if isinstance(body, CompletionRequest) and body.echo and body.logprobs is not None:
            raise refused("A prompt has no log probabilities: use echo or logprobs.", "echo")

    def make(
        self,
        body: GenerationRequest,
        context: RequestContext,
        prompts: Sequence[Sequence[int]],
        answer_id: str,
    ) -> list[Request]:
        """`n` requests for each prompt: the choices of one prompt differ in their seed only.

        Raises RequestRefused where a prompt leaves an answer less room than its `min_tokens`.
        """
        like = self._any_choice(body, context)
        return [
            replace(
                like,
                request_id=f"{answer_id}-{prompt_number * body.n + choice}",
                prompt_token_ids=prompt,
                sampling=replace(
                    like.sampling,
                    max_tokens=self._max_tokens(body, len(prompt)),
                    seed=None if body.seed is None else (body.seed + choice) % SEEDS,
                ),
                length_keys=length_keys(
                    body,
                    prompt,
                    batch_id=context.batch_id,
                    tenant=context.tenant,
                    fairness_id=context.fairness_id,
                ),
            )
            for prompt_number, prompt in enumerate(prompts)
            for choice in range(body.n)
        ]

    def _any_choice(self, body: GenerationRequest, context: RequestContext) -> Request:
        """What all requests of one body share."""
        tier = tier_used(body, context)
        slo = self._options.priority_slo if tier == "priority" else self._options.default_slo
        asked = context.slo if self._options.client_targets else NO_TARGETS
        tier_priority = -1 if tier == "priority" else 0
        return Request(
            request_id="",
            prompt_token_ids=(),
            sampling=self._sampling(body),
            task_class=TaskClass.OFFLINE if tier == "flex" else TaskClass.ONLINE,
            arrival_ns=context.arrival_ns,
            priority=tier_priority if body.priority is None else body.priority,
            deadline_ns=self._deadline_ns(tier, context),
            slo=asked if tier == "flex" else _first_set(asked, slo),
            cache_salt=f"{context.tenant}/{body.cache_salt}" if context.tenant else body.cache_salt,
        )

    def _deadline_ns(self, tier: str, context: RequestContext) -> int | None:
        """Someone waits for a flex answer, and not for longer than it is held: it is due then."""
        if tier == "flex" and context.deadline_ns is None:
            return context.arrival_ns + round(self._options.flex_wait_seconds * 1e9)
        return context.deadline_ns

    def _sampling(self, body: GenerationRequest) -> SamplingParams:
        ends = frozenset() if body.ignore_eos else self._eos_token_ids
        return SamplingParams(
            min_tokens=body.min_tokens,
            stop_token_ids=ends.union(body.stop_token_ids),
            temperature=body.temperature if body.top_p else 0.0,  # no share is left but the likeliest token's
            top_p=body.top_p or 1.0,
            top_k=max(body.top_k, 0),
            min_p=body.min_p,
            presence_penalty=body.presence_penalty,
            frequency_penalty=body.frequency_penalty,
            repetition_penalty=body.repetition_penalty,
            logit_bias=tuple(body.logit_bias.items()),
            logprobs=body.num_logprobs,
        )

    def _max_tokens(self, body: GenerationRequest, num_prompt_tokens: int) -> int:
        limit = body.requested_tokens or self._default_max_tokens(body, num_prompt_tokens)
        if body.min_tokens > limit:
            message = f"min_tokens is {body.min_tokens}, and the answer may have {limit} tokens at most"
            raise refused(f"{message}: lower it, or give a larger {body.limit_field}.", "min_tokens")
        return limit

    def _default_max_tokens(self, body: GenerationRequest, num_prompt_tokens: int) -> int:
        room = self._caps.max_model_len - num_prompt_tokens
        return room if isinstance(body, ChatRequest) else min(room, COMPLETION_MAX_TOKENS)


def _first_set(asked: SLO, default: SLO) -> SLO:
    """Each target of `asked`, or of `default` where that is None."""
    own = {name: target for name in _TARGETS if (target := getattr(asked, name)) is not None}
    return replace(default, **own)


_TARGETS = tuple(field.name for field in fields(SLO))
