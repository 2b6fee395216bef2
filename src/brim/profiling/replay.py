"""A measured run of vLLM beside what the simulator says of the same requests at the same moments."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from brim.core.config import SchedulerConfig
from brim.core.errors import ConfigError
from brim.metrics.samples import Samples
from brim.profiles.loader import Profile
from brim.profiles.unevenness import EVEN
from brim.profiling.measured import RTX_RUN, rtx_host_seconds
from brim.profiling.tables import records
from brim.simulation.machine import Machine
from brim.simulation.run import Run, Setup, simulate
from brim.workloads.trace import NANOSECONDS, Trace, with_arrivals

BLOCK_SIZE = 16
ASYNCHRONOUS = 2  # steps under way at once: the stamps show requests scheduled while a step still runs
PICOSECONDS = 1_000_000_000_000


@dataclass(frozen=True, slots=True)
class Outcome:
    """Means over all requests, and the time from the first arrival to the last token; all in seconds."""

    ttft: float
    tpot: float
    e2e: float
    makespan: float

    def errors(self, measured: Outcome) -> dict[str, float]:
        """How far each figure lies from the measured one, as a fraction of it."""
        return {name: getattr(self, name) / getattr(measured, name) - 1 for name in Outcome.__slots__}


@dataclass(frozen=True, slots=True)
class Stamps:
    """When a request reached the engine, got its first token and its last; seconds of the engine's clock."""

    queued: float
    first: float
    last: float
    prompt_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True)
class Replay:
    """`bare` has no parameter from the run; `hosted` adds `host_seconds` to each step, which the run gave."""

    measured: Outcome
    bare: Outcome
    hosted: Outcome
    host_seconds: float


def replay(folder: Path, trace: Trace, profile: Profile) -> Replay:
    """The run of vLLM 0.19.0 under `folder`, whose workload is `trace`, on `profile`'s step times.

    Policy, batch limits and arrivals are the run's. Raises ConfigError where a file is missing or the
    trace is another one.
    """
    stamps = read_stamps(folder / f"{RTX_RUN}_requests.csv.gz")
    if [(s.prompt_tokens, s.output_tokens) for s in stamps] != [(r[1], r[2]) for r in trace.requests]:
        raise ConfigError(f"{trace.name} is not what {RTX_RUN} ran: its lengths differ, give the run's trace")
    start = min(stamp.queued for stamp in stamps)
    same = with_arrivals(trace, [round((stamp.queued - start) * NANOSECONDS) for stamp in stamps])
    config = _config(folder / f"{RTX_RUN}_meta.json", same, profile)
    host_seconds = rtx_host_seconds(folder, profile.step_time)
    bare, hosted = (_simulated(same, config, profile, seconds) for seconds in (0.0, host_seconds))
    return Replay(_measured(stamps), bare, hosted, host_seconds)


def read_stamps(path: Path) -> list[Stamps]:
    """In the order in which the requests were sent. Raises ConfigError where the file is missing."""
    return [
        Stamps(
            float(row["queued_ts"]),
            float(row["first_token_ts"]),
            float(row["last_token_ts"]),
            int(row["input_toks"]),
            int(row["output_toks"]),
        )
        for row in records(path)
    ]


def _measured(stamps: list[Stamps]) -> Outcome:
    return Outcome(
        ttft=fmean(s.first - s.queued for s in stamps),
        tpot=fmean((s.last - s.first) / (s.output_tokens - 1) for s in stamps if s.output_tokens > 1),
        e2e=fmean(s.last - s.queued for s in stamps),
        makespan=max(s.last for s in stamps) - min(s.queued for s in stamps),
    )


def _config(meta: Path, trace: Trace, profile: Profile) -> SchedulerConfig:
    if not meta.is_file():
        raise ConfigError(f"{meta} is missing; --data must be the folder that docs/profiles.md describes")
    engine = json.loads(meta.read_text(encoding="utf-8"))["engine_kwargs"]
    longest = max(request.input_tokens + request.output_tokens for request in trace.requests)
    return SchedulerConfig(
        num_blocks=profile.kv_tokens() // BLOCK_SIZE,
        block_size=BLOCK_SIZE,
        max_model_len=longest + 1,
        max_num_seqs=engine["max_num_seqs"],
        max_num_batched_tokens=engine["max_num_batched_tokens"],
        enable_prefix_caching=True,
        policy="vllm",
    )


def _simulated(trace: Trace, config: SchedulerConfig, profile: Profile, host_seconds: float) -> Outcome:
    overhead_ps = round(host_seconds * PICOSECONDS)
    unevenness = profile.unevenness or EVEN
    machine = Machine(profile.step_time, profile.target_forward_tokens, overhead_ps, unevenness=unevenness)
    return _outcome(simulate(trace, Setup(config, machine, depth=ASYNCHRONOUS)))


def _outcome(run: Run) -> Outcome:
    [metrics] = (metrics for metrics in run.by_class.values() if metrics.arrived)

    def mean(samples: Samples) -> float:
        assert samples.mean is not None
        return samples.mean

    return Outcome(
        mean(metrics.ttft_seconds),
        mean(metrics.tpot_seconds),
        mean(metrics.e2e_seconds),
        run.end.now_ns / NANOSECONDS,
    )
