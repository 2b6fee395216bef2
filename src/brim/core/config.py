"""Every default, once."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from brim.core.errors import ConfigError


@dataclass(frozen=True, slots=True)
class SchedulerConfig:
    """Limits of one scheduler.

    `num_blocks` x `block_size` tokens is the whole KV cache. `max_model_len` bounds prompt + output of
    one request and must fit in the cache, or a request could wait for ever.

    Raises ConfigError where the values contradict each other.
    """

    num_blocks: int
    block_size: int = 16
    max_model_len: int = 4096
    max_num_seqs: int = 256
    max_num_batched_tokens: int = 2048
    max_prefill_chunk_tokens: int = 0  # 0: a chunk may fill the step
    enable_prefix_caching: bool = True
    policy: str = "brim"
    target_forward_tokens: int = 0  # tokens a step at which the device is busy; 0: max_num_batched_tokens
    prompt_floor_tokens: int = 0  # KV that outputs may not take from prompts; 0: see floor_tokens
    reserve_share: float = 0.03  # of the KV cache, for answers that grow longer than expected
    length_padding: float = 0.15  # added to every predicted length
    loan_buffer_tokens: int = 8  # steps that a guest must be done before its host needs the blocks
    offline_step_tokens: int = 0  # most of offline requests in a step, where that is fixed; 0: no limit
    step_limit_ms: float = 0.0  # most that a step with offline requests may take, where that is fixed
    ttft_ms: float | None = None  # target of online requests that bring none: kept for the first too
    slack_share: float = 1.0  # of the time that online requests leave, for offline ones
    offline_score: str = "rate"  # gain over time, or the "difference" of the two

    def __post_init__(self) -> None:
        for name in ("num_blocks", "block_size", "max_model_len", "max_num_seqs", "max_num_batched_tokens"):
            if not 1 <= getattr(self, name) < inf:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in (
            "max_prefill_chunk_tokens",
            "target_forward_tokens",
            "prompt_floor_tokens",
            "loan_buffer_tokens",
            "offline_step_tokens",
            "step_limit_ms",
            "ttft_ms",
        ):
            if not 0 <= (getattr(self, name) or 0) < inf:  # no comparison holds for a NaN
                raise ConfigError(f"{name} must be 0 or more, and finite, not {getattr(self, name)}")
        if not 0 <= self.reserve_share < 0.5 or not 0 <= self.length_padding <= 100:
            raise ConfigError("reserve_share must be from 0 to under 0.5, length_padding from 0 to 100")
        if not 0 <= self.slack_share <= 1:
            raise ConfigError(f"slack_share must be from 0 to 1, not {self.slack_share}")
        if self.offline_score not in ("rate", "difference"):
            raise ConfigError(f"offline_score must be rate or difference, not {self.offline_score}")
        if self.max_model_len > self.capacity_tokens:
            raise ConfigError(
                f"max_model_len {self.max_model_len} does not fit in the KV cache of {self.capacity_tokens} "
                f"tokens ({self.num_blocks} blocks of {self.block_size}): lower it or give more blocks"
            )
        if self.max_num_seqs > self.max_num_batched_tokens:
            raise ConfigError(
                f"max_num_seqs {self.max_num_seqs} is over max_num_batched_tokens "
                f"{self.max_num_batched_tokens}: every running request needs one token a step"
            )

    @property
    def forward_tokens(self) -> int:
        """The target forward size, never over the most that a step may run."""
        return min(self.target_forward_tokens or self.max_num_batched_tokens, self.max_num_batched_tokens)

    @property
    def floor_tokens(self) -> int:
        """As given, else a quarter of the target and at most 1 % of the cache: prompts that wait fill KV."""
        return self.prompt_floor_tokens or min(self.forward_tokens // 4, self.capacity_tokens // 100)

    @property
    def capacity_tokens(self) -> int:
        return self.num_blocks * self.block_size
