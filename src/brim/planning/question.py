"""What is asked of the planner."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from brim.core.config import SchedulerConfig
from brim.core.errors import ConfigError
from brim.core.estimators.response_length import History
from brim.core.estimators.step_time import StepTime
from brim.core.policies.named import named
from brim.planning.backlog import Run
from brim.profiles.loader import Profile, load
from brim.profiles.unevenness import EVEN
from brim.simulation.cluster.routing import routing
from brim.simulation.cluster.setup import ClusterSetup, Pool
from brim.simulation.machine import Machine
from brim.simulation.needs import shared_tokens
from brim.simulation.targets import Targets
from brim.workloads.trace import Trace, TraceRequest

BLOCK_SIZE = 16
UNMEASURED_ERROR = 0.15  # of the step times of a profile made from data sheets
MOST_ERROR = 0.9  # a step that takes no time at all says nothing


@dataclass(frozen=True, slots=True)
class Aim:
    """At least a share `attainment` of the online requests meets both targets."""

    ttft_ns: int
    tpot_ns: int
    attainment: float = 0.99

    def __post_init__(self) -> None:
        if self.ttft_ns <= 0 or self.tpot_ns <= 0 or not 0 < self.attainment <= 1:
            raise ConfigError("targets must be above 0 ms, and the attainment above 0 and at most 1")


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of replica; its steps take `slower` times as long as the profile says.

    `limits` are others of its `SchedulerConfig`, by name.
    """

    profile: str
    policy: str
    routing: str = "least-load"
    slower: float = 1.0
    kv_tokens: int | None = None
    limits: tuple[tuple[str, Any], ...] = ()

    def load(self) -> Profile:
        return load(self.profile)


@dataclass(frozen=True, slots=True)
class Load:
    """The online requests, offline ones to fit in, and the tokens that any of them may need at most.

    It lasts until the last arrival, or until `until_ns`, which may be later.
    """

    trace: Trace
    max_model_len: int
    window_ns: int
    measured_from_ns: int = 0
    spare: tuple[Run, ...] = ()
    until_ns: int = 0

    @property
    def span_ns(self) -> int:
        return self.until_ns or self.trace.requests[-1].arrival_ns


class StepError(NamedTuple):
    """A share of the step times, and which figure it is."""

    share: float
    what: str


def error_of(profile: Profile) -> StepError:
    """How far its step times are off: a fit is blind to what all its rows have wrong."""
    known = []
    if profile.fit:
        known.append(StepError(profile.fit.held_back.mape, "its fit on steps held back"))
    if profile.error is not None:
        known.append(StepError(profile.error, "as the profile says of itself"))
    found = max(known, default=StepError(UNMEASURED_ERROR, "assumed: nothing was measured"))
    return found._replace(share=min(found.share, MOST_ERROR))


def cluster(kind: Kind, load: Load, aim: Aim, replicas: int) -> ClusterSetup:
    """So many replicas of one kind. Raises ConfigError where the longest request fits in none."""
    profile = kind.load()
    kv_tokens = kind.kv_tokens or profile.kv_tokens()
    capacity = kv_tokens // BLOCK_SIZE * BLOCK_SIZE
    step_time = scaled(profile.step_time, kind.slower)
    machine = Machine(step_time, profile.target_forward_tokens, unevenness=profile.unevenness or EVEN)
    config = SchedulerConfig(
        num_blocks=kv_tokens // BLOCK_SIZE,
        block_size=BLOCK_SIZE,
        max_model_len=min(load.max_model_len, capacity),
        enable_prefix_caching=bool(load.trace.block_tokens),
        policy=kind.policy,
        target_forward_tokens=profile.target_forward_tokens,
        ttft_ms=aim.ttft_ns / 1e6,
        **dict(kind.limits),
    )
    pool = Pool(
        config,
        machine,
        lambda config, lengths: named(config, History(), profile.step_time),
        replicas,
        routing(kind.routing, machine, load.trace.block_tokens),
        profile.tensor_parallel,
    )
    return ClusterSetup(
        pool,
        Targets(ttft_ns=aim.ttft_ns, tpot_ns=aim.tpot_ns),
        window_ns=load.window_ns,
        count_from_ns=load.measured_from_ns,
    )


def scaled(step_time: StepTime, factor: float) -> StepTime:
    """Every step takes so many times as long."""
    if factor == 1.0:
        return step_time
    names = (
        "constant",
        "per_token",
        "per_pair",
        "per_decode",
        "per_context",
        "mixed_decode",
        "mixed_context",
    )
    changed = {f"{name}_ps": round(getattr(step_time, f"{name}_ps") * factor) for name in names}
    knees = tuple((tokens, round(extra * factor)) for tokens, extra in step_time.knees)
    return replace(step_time, knees=knees, **changed)


def reachable(kind: Kind, load: Load, aim: Aim) -> float:
    """The share of requests that meet both targets on an idle replica: no number of replicas gives more.

    All of a prompt that may be in the prefix cache is taken to be there.
    """
    setup = cluster(kind, load, aim, 1)
    machine, met = setup.serving.machine, 0
    shortest = machine.unevenness.shortest
    shared = shared_tokens(load.trace, setup.serving.config)
    for request, cached in zip(load.trace.requests, shared, strict=True):
        prompt_ps, token_ps = machine.alone_ps(request.input_tokens, request.output_tokens, cached)
        met += (
            fits(setup, request)
            and prompt_ps * shortest <= aim.ttft_ns * 1000
            and (request.output_tokens <= 1 or token_ps * shortest <= aim.tpot_ns * 1000)
        )
    return met / len(load.trace)


def fits(setup: ClusterSetup, request: TraceRequest) -> bool:
    """Whether a replica can hold its prompt and whole answer; else it cuts the answer, or refuses."""
    return request.input_tokens + request.output_tokens <= setup.serving.config.max_model_len


def too_long(setup: ClusterSetup, load: Load) -> int:
    """How many requests fit in no replica."""
    return sum(not fits(setup, request) for request in load.trace.requests)
