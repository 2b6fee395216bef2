"""Online loads and backlogs: what they promise of rate, lengths and sharing."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from brim.core.errors import ConfigError
from brim.core.request import TaskClass
from brim.reproduction.echo.offline import (
    BLOCK_TOKENS,
    CONTROL,
    COPIES,
    LOOGLE_FILE,
    WORKS,
    Source,
    backlog,
    ideal_hit_rate,
)
from brim.reproduction.echo.online import AZURE_FILE, RATES_FILE, online_load
from brim.workloads.trace import NANOSECONDS, Trace, TraceRequest

SMALL = Source(kv_tokens=60_000, documents=20, seed=0, data=None)
SYNTHETIC = [kind for kind, work in WORKS.items() if not work.file]


def test_without_its_file_the_azure_load_is_synthetic_and_says_so() -> None:
    load = online_load("azure", 4.0, 100.0, 400.0, 0, None)
    assert "SYNTHETIC" in load.note
    assert len(load) == pytest.approx(2000, rel=0.1)
    assert load.requests[-1].arrival_ns < 501 * NANOSECONDS
    assert sum(r.input_tokens for r in load.requests) / len(load) == pytest.approx(1155, rel=0.1)
    assert sum(r.output_tokens for r in load.requests) / len(load) == pytest.approx(211, rel=0.1)


def test_the_azure_file_is_paced_from_its_start(tmp_path: Path) -> None:
    rows = "".join(f"{i * i},{i + 1},5\n" for i in range(100))
    (tmp_path / AZURE_FILE.removesuffix(".gz")).write_text("arrival_s,input_tokens,output_tokens\n" + rows)
    (tmp_path / AZURE_FILE.removesuffix(".gz")).rename(tmp_path / AZURE_FILE)
    load = online_load("azure", 2.0, 4.0, 16.0, 0, tmp_path)
    assert [r.input_tokens for r in load.requests] == list(range(1, 41))
    assert load.requests[-1].arrival_ns == pytest.approx(39 / 2 * NANOSECONDS)


def test_a_day_has_the_shape_of_its_rates_and_the_mean_asked_for(tmp_path: Path) -> None:
    hours = "".join(f"m-large,{hour * 3600},{1 if hour % 24 < 12 else 3}\n" for hour in range(48))
    (tmp_path / RATES_FILE).write_text("model,window_start_s,total_rate_rps\n" + hours)
    load = online_load("diurnal", 5.0, 0.0, 400.0, 0, tmp_path)
    by_half = Counter(r.arrival_ns // (200 * NANOSECONDS) for r in load.requests)
    assert by_half[0] + by_half[1] == pytest.approx(2000, rel=0.1)
    assert by_half[1] / by_half[0] == pytest.approx(3, rel=0.2)
    with pytest.raises(ConfigError, match="--data"):
        online_load("diurnal", 5.0, 0.0, 400.0, 0, None)


@pytest.mark.parametrize("kind", SYNTHETIC)
def test_every_order_has_the_same_offline_requests(kind: str) -> None:
    def lengths(trace: Trace) -> Counter[tuple[int, int]]:
        return Counter((r.input_tokens, r.output_tokens) for r in trace.requests)

    made = backlog(kind, SMALL)
    assert lengths(made) == lengths(backlog("documents, file order", SMALL))
    assert {r.task_class for r in made.requests} == {TaskClass.OFFLINE}
    assert "SYNTHETIC" in made.note
    assert (kind == CONTROL) == (ideal_hit_rate(made) == 0)


def test_the_ideal_hit_rate_is_of_repeated_blocks() -> None:
    requests = [TraceRequest(0, 32, 1, block_ids=(1, 2)), TraceRequest(0, 48, 1, block_ids=(1, 3))]
    assert ideal_hit_rate(Trace("two", requests, block_tokens=16)) == pytest.approx(16 / 80)
    shared = ideal_hit_rate(backlog("documents, shuffled", SMALL))
    assert shared == pytest.approx(ideal_hit_rate(backlog("documents, file order", SMALL)))
    assert 0.5 < shared < 1
    assert BLOCK_TOKENS % 16 == 0


def test_copies_of_the_real_sample_share_nothing_with_each_other(tmp_path: Path) -> None:
    columns = "doc_id,prompt_head_tokens,doc_tokens,question_tokens,input_tokens,reference_answer_tokens"
    rows = ["0,8,40,10,58,5", "0,8,40,12,60,6", "1,8,24,10,42,7"]
    (tmp_path / LOOGLE_FILE).write_text("\n".join([f"task,{columns}", *(f"qa,{row}" for row in rows)]) + "\n")
    made = backlog("LooGLE sample, file order", Source(1000, 0, 0, tmp_path))
    assert len(made) == 3 * COPIES
    holders = Counter(block_id for r in made.requests for block_id in r.block_ids)
    assert sorted(Counter(holders.values()).items()) == [(1, 2 * COPIES), (2, 3 * COPIES)]
    assert not WORKS["LooGLE sample, file order"].is_there(None)
    with pytest.raises(ConfigError, match="--data"):
        backlog("LooGLE sample, file order", SMALL)
