"""Each rule on books filled by hand."""

from __future__ import annotations

import pytest

from brim.core.errors import ConfigError
from brim.core.request import SLO
from brim.simulation.cluster.books import Books
from brim.simulation.cluster.routing import ROUTINGS, routing
from tests.helpers import MS
from tests.unit.simulation.scenarios import asked, machine

NO_SLO = SLO()


def books(number: int, *prompts: int, started: int = 0, blocks: tuple[int, ...] = ()) -> Books:
    """A replica with requests of these prompts; the first `started` have their first token."""
    filled = Books(number)
    for place, tokens in enumerate(prompts):
        filled.send(place, asked(0, tokens, 1, block_ids=blocks), is_offline=False, sequence=place)
    for place in range(started):
        filled.first_token(place)
    return filled


def pick(
    rule: str, *replicas: Books, prompt: int = 8, blocks: tuple[int, ...] = (), slo: SLO = NO_SLO
) -> int:
    chosen = routing(rule, machine(), 4).pick(replicas, asked(0, prompt, 1, block_ids=blocks), slo)
    return chosen.number


def test_round_robin_takes_turns():
    both = [Books(0), Books(1), Books(2)]
    turns = []
    for sequence in range(6):
        number = pick("round-robin", *both)
        both[number].send(sequence, asked(0, 4, 1), is_offline=False, sequence=sequence)
        turns.append(number)
    assert turns == [0, 1, 2, 0, 1, 2]


def test_least_load_counts_requests_and_then_prompts_that_wait():
    assert pick("least-load", books(0, 9, 9), books(1, 90)) == 1
    assert pick("least-load", books(0, 90), books(1, 90, started=1)) == 1


def test_prefix_affinity_weighs_a_known_prefix_against_the_queue():
    knows = books(0, 8, started=1, blocks=(1, 2))
    assert pick("prefix-affinity", knows, Books(1), blocks=(1, 2)) == 0
    assert pick("prefix-affinity", knows, Books(1), blocks=(3,)) == 1
    waits = books(0, 8, 8, started=1, blocks=(1, 2))  # 8 tokens wait, as many as the prefix saves
    assert pick("prefix-affinity", waits, Books(1), blocks=(1, 2)) == 1


def test_prefix_affinity_does_not_crowd_one_replica():
    crowded = books(0, *[1] * 5, started=5, blocks=(1, 2))
    assert pick("prefix-affinity", crowded, Books(1), blocks=(1, 2)) == 1


def test_slack_aware_goes_where_the_tightest_target_is_kept_best():
    """10 ms a step and 1 a token: 60 prompt tokens wait at one, 4 requests decode at the other."""
    waiting, decoding = books(0, 60), books(1, 4, 4, 4, 4, started=4)
    tight_ttft, tight_tpot = (
        SLO(ttft_ns=50 * MS, tpot_ns=1000 * MS),
        SLO(ttft_ns=10_000 * MS, tpot_ns=13 * MS),
    )
    assert pick("slack-aware", waiting, decoding, slo=tight_ttft) == 1
    assert pick("slack-aware", waiting, decoding, slo=tight_tpot) == 0


@pytest.mark.parametrize("rule", ROUTINGS)
def test_equals_take_turns(rule: str):
    sent_before, never = books(0, 4), Books(1)
    sent_before.over(0)
    assert pick(rule, sent_before, never) == 1


def test_an_unknown_rule_names_those_there_are():
    with pytest.raises(ConfigError, match="did you mean 'least-load'"):
        routing("leastload", machine(), 4)
