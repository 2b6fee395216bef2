"""Latency targets in a request's headers, under the names that llm-d's gateway uses."""

from __future__ import annotations

import math
from collections.abc import Mapping

from brim.wire.errors import ApiError
from brim.wire.target_limits import LEAST_MS, LIMIT_MS, WITHIN

FAIRNESS_ID = "x-llm-d-inference-fairness-id"


def target_ms(headers: Mapping[str, str], metric: str) -> float | None:
    """The target for `metric` (`ttft`, `tpot` ...) in milliseconds, under its present or its old name.

    `headers` must not mind upper and lower case. Raises ApiError 400 for what is no number between
    the limits of targets.
    """
    for name in (f"x-llm-d-slo-{metric}-ms", f"x-slo-{metric}-ms"):
        if name in headers:
            return _milliseconds(name, headers[name])
    return None


def _milliseconds(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not LEAST_MS <= value < LIMIT_MS:
        message = f"{name} must be a number of milliseconds {WITHIN}."
        raise ApiError(400, message, param=name, code="invalid_value")
    return value
