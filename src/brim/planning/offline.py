"""What offline work fits beside the online load, and when a backlog of it would be done."""

from __future__ import annotations

from itertools import accumulate, pairwise

from brim.planning.question import Load
from brim.simulation.results import Figures
from brim.workloads.trace import NANOSECONDS

DAY_SECONDS = 86_400


def offline_figures(filled: Figures, load: Load) -> Figures:
    """Of a run with more offline work than fits. Tokens are input and output of requests.

    What is drawn after the last arrival, while nothing new is begun, is left out.
    """
    run, span = filled["run"], load.span_ns / NANOSECONDS
    windows = [w for w in run["windows"] if w["until_seconds"] <= span] or run["windows"]
    mean_output = sum(o for _, o in load.spare) / len(load.spare)
    mean_tokens = sum(i + o for i, o in load.spare) / len(load.spare)
    per_output = mean_tokens / mean_output
    drawn = [window["offline_tokens_per_second"] for window in windows]
    ends = [window["until_seconds"] for window in windows]
    spans = [end - start for start, end in zip([0.0, *ends], ends, strict=False)]
    done = list(accumulate(rate * per_output * span for rate, span in zip(drawn, spans, strict=True)))
    return {
        "replicas": filled["replicas"],
        "attainment": filled["attainment"],
        "tokens_per_second": done[-1] / ends[-1],
        "tokens_per_day": done[-1] / ends[-1] * DAY_SECONDS,
        "busy_share": sum(window["busy_share"] or 0.0 for window in windows) / len(windows),
        "until_seconds": ends,
        "tokens_done": done,
    }


def backlog_done(offline: Figures, load: Load, tokens: float) -> Figures | None:
    """When so many tokens are done, the trace repeating as often as it takes; None without a backlog."""
    if not tokens or not offline["tokens_done"][-1]:
        return None
    span, whole = offline["until_seconds"][-1], offline["tokens_done"][-1]
    rounds, left = divmod(tokens, whole)
    before = [(0.0, 0.0), *zip(offline["until_seconds"], offline["tokens_done"], strict=True)]
    (start, had), (end, has) = next((a, b) for a, b in pairwise(before) if b[1] >= left and b[1] > a[1])
    inside = start + (end - start) * (left - had) / (has - had)
    return {"tokens": tokens, "done_seconds": rounds * span + inside, "rounds_of_trace": tokens / whole}
