"""Limits that contradict each other are refused, and the message names the setting."""

import math

import pytest

from brim.core.config import SchedulerConfig
from brim.core.errors import ConfigError
from tests.helpers import config


@pytest.mark.parametrize(
    "name", ["num_blocks", "block_size", "max_model_len", "max_num_seqs", "max_num_batched_tokens"]
)
def test_every_size_is_at_least_one(name):
    with pytest.raises(ConfigError, match=f"{name} must be at least 1, not 0"):
        config(**{"max_model_len": 1, name: 0})


def test_a_chunk_limit_is_not_negative():
    with pytest.raises(ConfigError, match="max_prefill_chunk_tokens"):
        config(max_prefill_chunk_tokens=-1)


@pytest.mark.parametrize("name", ["ttft_ms", "step_limit_ms", "max_num_seqs", "reserve_share"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_limit_is_a_number(name, value):
    with pytest.raises(ConfigError, match=name):
        config(**{name: value})


def test_the_longest_request_must_fit_in_the_cache():
    assert config(max_model_len=28).capacity_tokens == 28
    with pytest.raises(ConfigError, match="max_model_len 29 does not fit in the KV cache of 28"):
        config(max_model_len=29)


def test_every_running_request_must_get_a_token_a_step():
    with pytest.raises(ConfigError, match="max_num_seqs 9 is over max_num_batched_tokens 8"):
        config(max_num_seqs=9, max_num_batched_tokens=8)


def test_the_defaults_fit_a_cache_of_a_full_length():
    assert SchedulerConfig(num_blocks=256).policy == "brim"
