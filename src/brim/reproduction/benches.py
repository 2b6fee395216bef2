"""What EconoServe was measured on, as far as it is known: models, GPUs, KV caches and lengths."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

from brim.core.config import SchedulerConfig
from brim.core.errors import ConfigError
from brim.profiles.loader import Profile, load
from brim.simulation.machine import Machine
from brim.workloads.formats import read
from brim.workloads.lengths import PRESETS, sampled
from brim.workloads.trace import Trace, TraceRequest

BLOCK_SIZE = 16
MAX_NUM_SEQS = 512  # KV binds before it in every set-up
MAX_NUM_BATCHED_TOKENS = 2048
WHOLE_PROMPTS = ("orca", "fastserve", "s3")  # a step of theirs must hold the longest prompt beside outputs
# "GPU is often idle, waiting for CPU operations (5-13ms of GPU bubble)" for each step:
# vLLM issue 6854, July 2024. The middle of the two.
HOST_PS = 9_000_000_000
LEAN, DAY = "lean", "day's"  # engines: without that time of the host, and with it


@dataclass(frozen=True, slots=True)
class Bench:
    """A model on its GPUs, and the lengths of the requests.

    Lengths are synthetic, from the stated averages, cut at `max_input` and `max_output` tokens with the
    averages kept; or those of `file`, of which requests that are longer than this are left out.
    """

    name: str
    profile: str
    lengths: str
    max_input: int
    max_output: int
    kv_tokens: int | None = None  # None: the profile's
    host_in_profile: bool = False
    file: str = ""

    @property
    def max_model_len(self) -> int:
        return self.max_input + self.max_output

    def load_profile(self) -> Profile:
        return load(self.profile)

    def machine(self, engine: str) -> Machine:
        """The profile's steps, the host's time added or taken out as `engine` says."""
        profile = self.load_profile()
        extra_ps = HOST_PS * ((engine == DAY) - self.host_in_profile)
        step_time = replace(profile.step_time, constant_ps=profile.step_time.constant_ps + extra_ps)
        return Machine(step_time, profile.target_forward_tokens)

    def config(self, policy: str, **settings: float) -> SchedulerConfig:
        """Prefix caching is off: the lengths do not tell which prompts begin alike."""
        profile = self.load_profile()
        longest = self.max_input + MAX_NUM_SEQS if policy in WHOLE_PROMPTS else 0
        own = {
            "max_num_seqs": MAX_NUM_SEQS,
            "max_num_batched_tokens": max(MAX_NUM_BATCHED_TOKENS, longest),
            "target_forward_tokens": profile.target_forward_tokens,
        }
        return SchedulerConfig(
            num_blocks=(self.kv_tokens or profile.kv_tokens()) // BLOCK_SIZE,
            block_size=BLOCK_SIZE,
            max_model_len=self.max_model_len,
            enable_prefix_caching=False,
            policy=policy,
            **(own | settings),  # type: ignore[arg-type]
        )

    def requests(self, count: int, seed: int, data: Path | None) -> Trace:
        """`count` requests without arrivals."""
        return self._drawn(count, seed) if not self.file else self._from_file(count, seed, data)

    def _drawn(self, count: int, seed: int) -> Trace:
        inputs, outputs = (
            replace(law, max=most).draw(count, Random(f"{seed} {side}"))
            for side, law, most in zip(
                ("input", "output"), PRESETS[self.lengths], (self.max_input, self.max_output), strict=True
            )
        )
        requests = [TraceRequest(0, i, o) for i, o in zip(inputs, outputs, strict=True)]
        return Trace(self.name, requests, has_arrivals=False)

    def _from_file(self, count: int, seed: int, data: Path | None) -> Trace:
        if data is None:
            raise ConfigError(f"{self.name} needs the file {self.file}: give its folder by --data")
        trace = read(data / self.file)
        fitting = [
            r
            for r in trace.requests
            if r.input_tokens <= self.max_input and r.output_tokens <= self.max_output
        ]
        return sampled(replace(trace, requests=fitting), count, seed)


def _opt_13b(name: str, lengths: str, max_input: int, max_output: int, file: str = "") -> Bench:
    kv_tokens = 15_700  # 12 GB
    return Bench(
        name, "a100-opt-13b", lengths, max_input, max_output, kv_tokens, host_in_profile=True, file=file
    )


BENCHES = (
    _opt_13b("opt-13b sharegpt synthetic", "sharegpt", 1024, 1024),
    _opt_13b("opt-13b alpaca synthetic", "alpaca", 1024, 1024),
    # OPT knows 2,048 positions, and the stated averages alone are 2,633: its step times, at longer contexts
    _opt_13b("opt-13b bookcorpus synthetic", "bookcorpus", 5632, 2560),
    Bench("opt-175b sharegpt synthetic", "a100-opt-175b", "sharegpt", 1024, 1024),
    _opt_13b("opt-13b alpaca file", "alpaca", 1024, 1024, "alpaca_5000_llama2tok.csv.gz"),
    _opt_13b("opt-13b sharegpt file", "sharegpt", 1024, 1024, "sharegpt_8k_llama2tok.csv.gz"),
)
