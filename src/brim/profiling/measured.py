"""Whole runs that others measured, beside what a step time says of them. They take no part in a fit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from statistics import median

from brim.core.estimators.step_time import StepShape, StepTime, attention_pairs
from brim.profiling.tables import records

H100_RUNS = "aiconfigurator/measured_h100_dense_half.csv.gz"
H100_MODEL = "meta-llama/Llama-3.1-8B-Instruct"
RTX_RUN = "measured_vllm/RTXPRO6000_Llama-3.1-8B"
FEWEST_RUNNING = 8


def h100_tpots(folder: Path, step_time: StepTime) -> list[tuple[float, float]]:
    """(measured, predicted) TPOT, seconds, of the published runs of Llama-3.1-8B on one H100 (TensorRT-LLM).

    While a request draws its `osl` tokens, each of the others takes in one prompt: so a gap is a decode step
    plus, `concurrency - 1` times in `osl`, what a whole prompt adds to it.
    """
    found = []
    for row in records(folder / H100_RUNS):
        if row["model_path"] != H100_MODEL or float(row["tp_size"]) != 1:
            continue
        isl, osl, batch = int(row["isl"]), int(row["osl"]), int(row["concurrency"])
        decode = StepShape(batch, 0, batch, batch * (isl + osl // 2))
        mixed = decode._replace(new_tokens=batch + isl, attention_pairs=attention_pairs(isl))
        alone = step_time.seconds(decode)
        added = step_time.seconds(mixed) - alone
        found.append((float(row["silicon_tpot_ms"]) / 1e3, alone + (batch - 1) / osl * added))
    return found


def rtx_step_seconds(folder: Path, step_time: StepTime) -> list[tuple[float, float]]:
    """(measured, predicted) mean seconds of a step, for each second of the published vLLM run.

    Measured: the running requests over the tokens drawn in that second, as each draws one a step. Predicted:
    a step of as many decodes with the context they had, plus what each prompt of that second adds to one.
    """
    requests = list(_requests(folder))
    found = []
    for time, row in enumerate(records(folder / f"{RTX_RUN}_timeseries.csv"), start=1):
        running, drawn = int(row["running"]), float(row["gen_throughput"])
        if running < FEWEST_RUNNING:  # with fewer, the second's edges count for more than its steps
            continue
        context = round(sum(_context(request, time - 0.5) for request in requests))
        prompts = [prompt for first, _, prompt, _ in requests if time - 1 < first <= time]
        found.append((running / drawn, _mean_step(step_time, running, context, prompts, drawn / running)))
    return found


def rtx_host_seconds(folder: Path, step_time: StepTime) -> float:
    """What a step of that run took beyond `step_time`: the median over the seconds that computed no prompt.

    It is the work of the engine's host between two steps, and whatever else no kernel's time tells.
    """
    requests, beyond = list(_requests(folder)), []
    for time, row in enumerate(records(folder / f"{RTX_RUN}_timeseries.csv"), start=1):
        running = sum(_overlap(request, time - 1, time) for request in requests)
        if running < FEWEST_RUNNING or any(time - 1 < first <= time for first, *_ in requests):
            continue
        context = sum(_context(request, time - 0.5) for request in requests)
        step = StepShape(round(running), 0, round(running), round(context))
        beyond.append(running / float(row["gen_throughput"]) - step_time.seconds(step))
    return median(beyond)


def _mean_step(step_time: StepTime, running: int, context: int, prompts: list[int], steps: float) -> float:
    decode = StepShape(running, 0, running, context)
    alone = step_time.seconds(decode)
    mixed = (decode._replace(new_tokens=running + n, attention_pairs=attention_pairs(n)) for n in prompts)
    return alone + sum(step_time.seconds(shape) - alone for shape in mixed) / steps


def told(what: str, pairs: list[tuple[float, float]]) -> str:
    """One line for a profile: how far the predictions lie from what was measured."""
    off = [predicted / measured - 1 for measured, predicted in pairs]
    gap = median(1e3 * (measured - predicted) for measured, predicted in pairs)
    mape = sum(abs(error) for error in off) / len(off)
    return (
        f"{what}: {len(pairs)} rows, MAPE {mape:.1%}, median error {median(off):+.1%}, "
        f"measured less predicted in the median {gap:+.2f} ms"
    )


def _requests(folder: Path) -> Iterator[tuple[float, float, int, int]]:
    """(first token, last token, prompt tokens, output tokens); times in seconds since the first arrival."""
    rows = list(records(folder / f"{RTX_RUN}_requests.csv.gz"))
    begin = min(float(row["queued_ts"]) for row in rows)
    for row in rows:
        first, last = float(row["first_token_ts"]) - begin, float(row["last_token_ts"]) - begin
        yield first, last, int(row["input_toks"]), int(row["output_toks"])


def _context(request: tuple[float, float, int, int], time: float) -> float:
    """Tokens a running request attends to at `time`; 0 while it doesn't run."""
    first, last, prompt, output = request
    return prompt + output * (time - first) / (last - first) if first <= time <= last else 0.0


def _overlap(request: tuple[float, float, int, int], start: float, end: float) -> float:
    """The seconds from `start` to `end` in which a request draws tokens."""
    first, last, *_ = request
    return max(min(last, end) - max(first, start), 0.0)
