"""The set-ups: models, targets, lengths and loads."""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random
from typing import NamedTuple

from brim.core.config import SchedulerConfig
from brim.core.estimators.response_length import History
from brim.core.policies.named import named
from brim.profiles.loader import load
from brim.simulation.cluster.setup import (
    ClusterSetup,
    Disaggregation,
    Pool,
    decode_pool,
    prefill_pool,
)
from brim.simulation.lengths import anchored
from brim.simulation.machine import Machine
from brim.simulation.targets import Targets
from brim.workloads.arrivals import Poisson
from brim.workloads.lengths import LengthLaw
from brim.workloads.trace import NANOSECONDS, Trace, TraceRequest, with_arrivals

MAX_NUM_SEQS, MAX_MODEL_LEN = 256, 2048  # OPT knows no more positions
BLOCK_SIZE = 16
LINK_BYTES_PER_SECOND = 200e9  # between two GPUs of a machine with NVLink, of 300 in each direction
# of the natural logarithm of prompt lengths: so a tenth of the prompts take longer than 0.25 s alone, as the
# published 90 % at the lowest rate say of theirs
SPREAD = 0.7
PREDICTING = ("econoserve",)


class Replicas(NamedTuple):
    """So many, each of this profile."""

    profile: str
    number: int

    @property
    def gpus_each(self) -> int:
        return load(self.profile).tensor_parallel

    @property
    def gpus(self) -> int:
        return self.number * self.gpus_each


@dataclass(frozen=True, slots=True)
class Bench:
    """`rate` requests/s of the whole load; `kv_tokens` None: the profile's cache.

    `wider` are profiles of the same model on more GPUs each, for whoever needs fewer in all with them.
    """

    name: str
    profile: str
    ttft_seconds: float
    tpot_seconds: float
    rate: float
    kv_tokens: int | None = None
    mean_input: float = 755.0
    mean_output: float = 200.0
    max_input: int = 1536  # and the rest of the positions for the output
    wider: tuple[str, ...] = ()

    @property
    def profiles(self) -> tuple[str, ...]:
        return (self.profile, *self.wider)

    def trace(self, rate: float, seconds: float, seed: int) -> Trace:
        count = max(round(rate * seconds), 1)
        laws = (
            LengthLaw(self.mean_input, SPREAD, self.max_input),
            LengthLaw(self.mean_output, 1.0, MAX_MODEL_LEN - self.max_input),
        )
        sides = (law.draw(count, Random(f"{seed} {i}")) for i, law in enumerate(laws))
        requests = [TraceRequest(0, i, o) for i, o in zip(*sides, strict=True)]
        return with_arrivals(Trace(self.name, requests, has_arrivals=False), Poisson(rate, seed))

    def pool(self, policy: str, replicas: int, seed: int, name: str | None = None) -> Pool:
        """Replicas of the profile of that name; None: of the narrowest."""
        profile = load(name or self.profile)
        config = SchedulerConfig(
            num_blocks=(self.kv_tokens or profile.kv_tokens()) // BLOCK_SIZE,
            block_size=BLOCK_SIZE,
            max_model_len=MAX_MODEL_LEN,
            max_num_seqs=MAX_NUM_SEQS,
            max_num_batched_tokens=MAX_MODEL_LEN,
            enable_prefix_caching=False,
            policy=policy,
            target_forward_tokens=profile.target_forward_tokens,
        )
        return Pool(
            config,
            Machine(profile.step_time, profile.target_forward_tokens),
            lambda config, lengths: named(
                config,
                anchored(lengths, seed) if config.policy in PREDICTING else History(),
                profile.step_time,
            ),
            replicas,
            gpus=profile.tensor_parallel,
        )

    def together(self, policy: str, replicas: Replicas, seed: int = 0) -> ClusterSetup:
        """Prompts and answers on the same replicas."""
        return self._setup(self.pool(policy, replicas.number, seed, replicas.profile))

    def apart(self, prefill: Replicas, decode: Replicas, seed: int = 0) -> ClusterSetup:
        """DistServe: prompts first come first served, the shortest queue; answers where fewest are."""
        prompts = prefill_pool(self.pool("vllm-2023", 1, seed, prefill.profile), prefill.number)
        answers = decode_pool(self.pool("vllm", 1, seed, decode.profile), decode.number)
        bytes_per_token = load(self.profile).kv_bytes_per_token
        moved = Disaggregation(answers, bytes_per_token, LINK_BYTES_PER_SECOND)
        return replace(self._setup(prompts), disaggregation=moved)

    def _setup(self, pool: Pool) -> ClusterSetup:
        targets = Targets(
            ttft_ns=round(self.ttft_seconds * NANOSECONDS), tpot_ns=round(self.tpot_seconds * NANOSECONDS)
        )
        return ClusterSetup(pool, targets, MAX_MODEL_LEN - self.max_input, window_ns=3600 * NANOSECONDS)


SCARCE = 15_700  # tokens of KV cache in EconoServe's set-up: 12 GB
BENCHES = (
    Bench("opt-13b", "a100-opt-13b", 0.25, 0.1, 12.0, wider=("a100-opt-13b-tp2",)),
    Bench("opt-13b, 12 GB of KV cache", "a100-opt-13b", 0.25, 0.1, 12.0, SCARCE),
    Bench("opt-13b, short prompts", "a100-opt-13b", 0.25, 0.1, 12.0, SCARCE, 161.0, 338.0, 1024),
    Bench("opt-66b", "a100-opt-66b", 2.5, 0.15, 20.0, wider=("a100-opt-66b-tp8",)),
    Bench("opt-175b", "a100-opt-175b", 4.0, 0.2, 20.0),
)
