"""What a cluster is: its pools of replicas, and what happens to them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from brim.core.config import SchedulerConfig
from brim.core.errors import ConfigError
from brim.core.estimators.step_time import StepShape
from brim.core.plan import Chunk
from brim.core.policy import Policy
from brim.simulation.cluster.routing import LeastLoad, Routing, ShortestPromptQueue
from brim.simulation.cluster.underway import TrueLengths
from brim.simulation.machine import Machine
from brim.simulation.targets import Targets
from brim.workloads.trace import NANOSECONDS, TraceRequest

MakePolicy = Callable[[SchedulerConfig, TrueLengths], Policy]


@dataclass(frozen=True, slots=True)
class Pool:
    """`replicas` of one kind. Each has a policy of its own, made by `policy`: estimators learn alone."""

    config: SchedulerConfig
    machine: Machine
    policy: MakePolicy
    replicas: int
    routing: Routing = field(default_factory=lambda: Routing(LeastLoad()))
    gpus: int = 1  # of each replica

    def __post_init__(self) -> None:
        if self.replicas < 1:
            raise ConfigError(f"a pool of {self.replicas} replicas serves nobody: give 1 or more")


@dataclass(frozen=True, slots=True)
class Disaggregation:
    """Prompts and answers on replicas of their own, as in DistServe (arXiv 2401.09670).

    A request's first token is drawn on a prefill replica. Its KV cache then goes over that replica's link,
    one request after the other, and the rest of its answer is drawn on a decode replica.
    """

    decode: Pool
    kv_bytes_per_token: int
    bytes_per_second: float
    latency_ns: int = 0

    def transfer_ns(self, tokens: int) -> int:
        seconds = tokens * self.kv_bytes_per_token / self.bytes_per_second
        return self.latency_ns + round(seconds * NANOSECONDS)


@dataclass(frozen=True, slots=True)
class ReceivingMachine(Machine):
    """A decode replica's: the KV of a prompt is there when it comes, and costs no step any time.

    The last token of a received prompt, which the prefill replica drew, is computed as a decode. What a
    preemption lost is computed again in full.
    """

    def shape(self, chunks: Sequence[Chunk], num_decodes: int, decode_context: int) -> StepShape:
        lost = [chunk for chunk in chunks if chunk.state.num_preemptions]
        for chunk in chunks:
            if chunk.samples and not chunk.state.num_preemptions:
                num_decodes += 1
                decode_context += chunk.start + chunk.num_tokens
        return Machine.shape(self, lost, num_decodes, decode_context)


@dataclass(frozen=True, slots=True)
class Scaling:
    """As Kubernetes scales by a metric: so many replicas that each has `target` online requests.

    Looked at every `interval_ns`. One more replica is paid for at once and serves `startup_ns` later; fewer
    are kept only when as many were enough for `scale_down_after_ns`, and who leaves ends its requests first.
    `at_first` serve at 0, as if wanted then; None: the least.
    """

    least: int
    most: int
    target: float
    startup_ns: int = 120 * NANOSECONDS
    interval_ns: int = 15 * NANOSECONDS
    scale_down_after_ns: int = 300 * NANOSECONDS
    at_first: int | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.least <= self.most or self.target <= 0:
            raise ConfigError(
                f"scaling from {self.least} to {self.most} replicas of {self.target} requests: "
                "give 1 or more replicas, the most no fewer than the least, and a target above 0"
            )
        if not self.least <= self.begins_with <= self.most:
            raise ConfigError(
                f"scaling that begins with {self.at_first} replicas: give {self.least} to {self.most}"
            )

    @property
    def begins_with(self) -> int:
        return self.least if self.at_first is None else self.at_first


@dataclass(frozen=True, slots=True)
class Failure:
    """The replica of this number and all it held is gone; a new one serves `back_after_ns` later."""

    replica: int
    at_ns: int
    back_after_ns: int | None = None


@dataclass(frozen=True, slots=True)
class ClusterSetup:
    """What a trace is run on. `serving` computes prompts only where there is `disaggregation`.

    `offline_depth` offline requests are kept at each replica; None: as many as it has seats. `window_ns`
    is how often figures are noted. At `stop_ns` the run ends, whoever is under way; from `spare_until_ns` on
    no more spare requests are read. `count_from_ns` leaves out requests that arrive before.
    """

    serving: Pool
    targets: Targets = field(default_factory=Targets)
    max_output_tokens: int = 0
    disaggregation: Disaggregation | None = None
    scaling: Scaling | None = None
    failures: Sequence[Failure] = ()
    offline_depth: int | None = None
    window_ns: int = 60 * NANOSECONDS
    stop_ns: int | None = None
    spare_until_ns: int | None = None
    count_from_ns: int = 0
    skip: bool = True

    def max_tokens(self, prompt_tokens: int) -> int:
        """What a user with such a prompt asks for; 1 where there is no room, and the request is refused."""
        return self.max_output_tokens or max(self.serving.config.max_model_len - prompt_tokens, 1)

    def cut(self, request: TraceRequest) -> TraceRequest:
        """The same, its answer no longer than what is asked for."""
        most = self.max_tokens(request.input_tokens)
        return request if request.output_tokens <= most else request._replace(output_tokens=most)


def decode_pool(pool: Pool, replicas: int) -> Pool:
    """As `pool`, for requests whose prompts were computed elsewhere: no limit to the tokens of a step."""
    machine, config = pool.machine, pool.config
    receiving = ReceivingMachine(
        machine.step_time,
        machine.target_forward_tokens,
        machine.overhead_ps,
        machine.per_sequence_ps,
        machine.unevenness,
    )
    unlimited = replace(config, max_num_batched_tokens=config.capacity_tokens + config.max_num_seqs)
    return replace(pool, config=unlimited, machine=receiving, replicas=replicas, routing=Routing(LeastLoad()))


def prefill_pool(pool: Pool, replicas: int) -> Pool:
    """As `pool`, for prompts only: each goes where the fewest prompt tokens wait."""
    return replace(pool, replicas=replicas, routing=Routing(ShortestPromptQueue()))
