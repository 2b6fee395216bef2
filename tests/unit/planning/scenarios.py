"""A question small enough to be answered in seconds: one seat's worth of load, three replicas."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from brim.planning.backlog import Backlog
from brim.planning.plan import Question
from brim.planning.question import Aim, Kind
from brim.workloads.arrivals import Deterministic
from brim.workloads.lengths import synthetic
from brim.workloads.trace import Trace, TraceRequest, with_arrivals
from tests.helpers import MS


def lengths(*pairs: tuple[int, int], tokens: float = 0.0) -> Backlog:
    """Offline requests of so many tokens in and out."""
    requests = [TraceRequest(0, *pair) for pair in pairs]
    return Backlog(Trace("lengths", requests, has_arrivals=False), tokens)


def nobody(what: str, total: int) -> Callable[[], None]:
    """Is told what is done."""
    return lambda: None


def question(**changes: Any) -> Question:
    """OPT-13B takes 20 ms for a decode step and more: a TPOT of 35 ms leaves some room."""
    base = {
        "trace": with_arrivals(synthetic((60.0, 40.0), 240), Deterministic(24.0)),
        "aim": Aim(400 * MS, 35 * MS, 0.95),
        "kinds": [Kind("a100-opt-13b", "vllm", kv_tokens=3200)],
        "prices": {"a100-opt-13b": 2.0},
        "samples": 1,
        "startup_seconds": 1.0,
        "most_replicas": 12,
    }
    return Question(**base | changes)
