"""From the settings of `brim serve` to the targets of its requests and the policy of its scheduler."""

from __future__ import annotations

import pytest

from brim.cli.host import scheduler_config
from brim.cli.serve import _service_options
from brim.cli.settings import ServeSettings
from brim.core.estimators.slack import OnlineStep
from brim.core.estimators.step_time import StepShape, StepTime
from brim.core.policies.named import named
from brim.core.request import SLO
from brim.engines.base import EngineCaps

CAPS = EngineCaps("none", "none", num_blocks=64, block_size=16, max_model_len=512, vocab_size=9)
SLOW = StepTime(7_000_000_000_000, 0, (), 0, 0, 0)  # 7 s
MS = 1_000_000


def test_the_priority_tier_has_the_targets_of_the_others_unless_it_has_its_own() -> None:
    options = _service_options(ServeSettings(ttft_ms=500, tpot_ms=50, itl_ms=60, priority_ttft_ms=100))
    assert options.default_slo == SLO(500 * MS, 50 * MS, 60 * MS)
    assert options.priority_slo == SLO(100 * MS, 50 * MS, 60 * MS)


def test_the_settings_of_a_policy_reach_its_scheduler() -> None:
    settings = ServeSettings(policy="bs", offline_step_tokens=33, step_limit_ms=4.5, slack_share=0.25)
    config = scheduler_config(settings, CAPS)
    assert (config.policy, config.offline_step_tokens) == ("bs", 33)
    assert (config.step_limit_ms, config.slack_share) == (4.5, 0.25)


def test_room_is_kept_for_the_first_who_comes_with_the_target_of_the_server() -> None:
    for ttft_ms, limit_ns in ((None, None), (500, 250 * MS)):
        timing = named(scheduler_config(ServeSettings(ttft_ms=ttft_ms), CAPS)).timing
        assert timing is not None
        assert timing.limit(OnlineStep(0, 0, 0, 0)).limit_ns == limit_ns


@pytest.mark.parametrize("policy", ["bs-e", "bs-e-s", "echo"])
def test_the_estimate_of_a_step_starts_from_what_is_given(policy: str) -> None:
    config = scheduler_config(ServeSettings(policy=policy), CAPS)
    timing, unaware = named(config, step_time=SLOW).timing, named(config).timing
    assert timing is not None
    assert unaware is not None
    assert timing.steps.seconds(StepShape(1)) == 7
    assert unaware.steps.seconds(StepShape(1)) < 1
