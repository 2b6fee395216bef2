"""Every default, once."""

from __future__ import annotations

from dataclasses import dataclass

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
    policy: str = "priority"

    def __post_init__(self) -> None:
        for name in ("num_blocks", "block_size", "max_model_len", "max_num_seqs", "max_num_batched_tokens"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.max_prefill_chunk_tokens < 0:
            raise ConfigError("max_prefill_chunk_tokens must be 0 (no limit) or more")
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
    def capacity_tokens(self) -> int:
        return self.num_blocks * self.block_size
