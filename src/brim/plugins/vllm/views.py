"""What a vLLM request says of itself, as Brim's facts."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any

from brim.core.errors import ConfigError
from brim.core.request import SLO, SamplingParams, TaskClass
from brim.core.request import Request as Facts
from brim.plugins.vllm.compat import Request
from brim.plugins.vllm.settings import TARGETS, slo_of, with_defaults

logger = logging.getLogger(__name__)
TOLD = frozenset({"task_class", "deadline_ms", *TARGETS})


def extra_args(request: Request) -> dict[str, Any]:
    """What the client said beside OpenAI's fields (`vllm_xargs`)."""
    params = request.sampling_params
    return (params.extra_args if params is not None else None) or {}


def says_something(request: Request) -> bool:
    """Whether it brings a class or a target."""
    return not TOLD.isdisjoint(extra_args(request))


def facts(request: Request, max_model_len: int, default: SLO) -> Facts:
    """What a client says that makes no sense is left out, and logged: here nobody is left to tell it."""
    arrival_ns = time.monotonic_ns() - max(round((time.time() - request.arrival_time) * 1e9), 0)
    try:
        task_class, slo, deadline_ns = _told(extra_args(request), arrival_ns)
    except ConfigError as exc:
        logger.warning("request %s is online without targets: %s", request.request_id, exc)
        task_class, slo, deadline_ns = TaskClass.ONLINE, SLO(), None
    told, room = extra_args(request), max_model_len - request.num_prompt_tokens
    return Facts(
        request.request_id,
        request.prompt_token_ids or [0] * request.num_prompt_tokens,  # of embeddings nothing but the length
        SamplingParams(max_tokens=max(min(request.max_tokens, room), 1)),
        task_class,
        arrival_ns,
        request.priority,
        deadline_ns,
        with_defaults(slo, default) if task_class is TaskClass.ONLINE else slo,
        length_keys=tuple(f"{name}:{told[name]}" for name in ("batch_id", "tenant") if told.get(name)),
    )


def _told(told: Mapping[str, Any], arrival_ns: int) -> tuple[TaskClass, SLO, int | None]:
    try:
        task_class = TaskClass(told.get("task_class", "online"))
        deadline_ms = told.get("deadline_ms")
        deadline_ns = None if deadline_ms is None else arrival_ns + round(float(deadline_ms) * 1e6)
    except (ValueError, TypeError, OverflowError) as exc:
        raise ConfigError(f"task_class is online or offline, deadline_ms a number: {exc}") from None
    return task_class, slo_of(told), deadline_ns
