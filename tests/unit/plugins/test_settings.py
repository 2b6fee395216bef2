"""What the operator may say to the scheduler inside vLLM."""

from __future__ import annotations

from typing import Any

import pytest

from brim.core.errors import ConfigError
from brim.core.request import SLO
from brim.plugins.hosting import Settings
from brim.plugins.vllm.settings import TARGETS, with_defaults
from brim.plugins.vllm.settings import read as read_config
from tests.helpers import MS


def read(**told: Any) -> Settings:
    return read_config({"brim": told})


@pytest.mark.parametrize("told", [None, {}, "x", {"other": 1}, {"brim": {}}])
def test_who_says_nothing_gets_vllm_as_it_is(told: Any) -> None:
    settings = read_config(told)
    assert settings.waits
    assert settings.policy is None


def test_policy_targets_and_rules_are_taken() -> None:
    settings = read(policy="echo", ttft_ms=800, itl_ms=12.5, slack_share=0.5, server={"data_folder": ""})
    assert not settings.waits
    assert settings.slo == SLO(ttft_ns=800 * MS, itl_ns=12_500_000)
    assert settings.rules == {"slack_share": 0.5}


def test_stock_is_a_policy_by_name() -> None:
    assert read(policy="stock") == Settings(mode="stock")
    assert not read(policy="stock").waits
    assert not read(mode="shadow").waits


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({"slackshare": 1}, "'slackshare': did you mean 'slack_share'"),
        ({"max_num_seqs": 4}, "that is vLLM's own: give it to vllm serve"),
        ({"policy": "ecko"}, "did you mean 'echo'"),
        ({"mode": "on"}, "mode must be one of active, shadow, stock"),
        ({"ttft_ms": 0}, "ttft_ms must be a number of milliseconds from 0.000001"),
        ({"itl_ms": 1e-9}, "itl_ms must be a number of milliseconds from 0.000001"),
        ({"e2e_ms": float("inf")}, "e2e_ms must be a number of milliseconds"),
        ({"itl_ms": "fast"}, "itl_ms must be a number"),
        ({"tpot_ms": float("nan")}, "tpot_ms must be a number"),
        ({"tpot_ms": float("inf")}, "tpot_ms must be a number"),
    ],
)
def test_what_makes_no_sense_is_refused(told: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        read(**told)


def test_each_target_is_looked_up_on_its_own() -> None:
    default = SLO(ttft_ns=800 * MS, tpot_ns=60 * MS)
    assert with_defaults(SLO(), default) == default
    assert with_defaults(SLO(ttft_ns=300 * MS), default) == SLO(ttft_ns=300 * MS, tpot_ns=60 * MS)
    assert with_defaults(SLO(e2e_ns=9), default) == SLO(ttft_ns=800 * MS, tpot_ns=60 * MS, e2e_ns=9)
    assert TARGETS == ("ttft_ms", "tpot_ms", "itl_ms", "e2e_ms")


def test_brim_must_be_an_object() -> None:
    with pytest.raises(ConfigError, match="must be an object"):
        read_config({"brim": 3})
