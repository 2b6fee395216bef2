"""What a scheduler can never run, said before it waits for ever."""

from __future__ import annotations

from brim.core.config import SchedulerConfig
from brim.core.errors import RequestRefused
from brim.core.request import Request


def refuse_impossible(request: Request, config: SchedulerConfig) -> None:
    """Raises RequestRefused where the request could not run even alone."""
    prompt, wanted = len(request.prompt_token_ids), request.sampling.max_tokens
    if prompt == 0:
        raise RequestRefused("the prompt is empty: give at least one token", param="prompt")
    if wanted < 1:
        raise RequestRefused(f"max_tokens must be at least 1, not {wanted}", param="max_tokens")
    if prompt + wanted > config.max_model_len:
        raise RequestRefused(
            f"the prompt has {prompt} tokens and {wanted} more were asked for, "
            f"but prompt and output together may have at most {config.max_model_len} tokens: "
            "shorten the prompt or lower max_tokens",
            param="max_tokens" if prompt < config.max_model_len else "prompt",
            code="context_length_exceeded",
        )
