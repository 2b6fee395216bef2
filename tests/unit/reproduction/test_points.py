"""One measurement: what is set for it, and that it can be taken again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from brim.core.errors import ConfigError
from brim.reproduction.benches import BENCHES, DAY, HOST_PS, LEAN, MAX_NUM_SEQS
from brim.reproduction.plan import EXACT, full_plan, points, quick_plan
from brim.reproduction.points import ORACLE, REALISTIC, Point, Row, measure
from brim.simulation.bound import NAME as BOUND
from brim.simulation.processes import measure_all
from brim.simulation.results import Figures

SHAREGPT, OPT_175B = BENCHES[0], BENCHES[3]


def small(row: Row, **changes: object) -> Point:
    return replace(Point(SHAREGPT, row, rate=2.0, seconds=30.0), **changes)  # type: ignore[arg-type]


def without_real_time(run: Figures) -> Figures:
    return {key: value for key, value in run.items() if "wall" not in key and "scheduling" not in key}


@pytest.mark.parametrize("bench", [b for b in BENCHES if not b.file], ids=lambda bench: bench.name)
def test_synthetic_lengths_keep_the_stated_averages_and_fit(bench: object) -> None:
    assert bench in BENCHES
    trace = bench.requests(4000, 0, None)  # type: ignore[attr-defined]
    stated = {"sharegpt": (161, 338), "alpaca": (19, 58), "bookcorpus": (1952, 681)}
    means = [sum(r[i] for r in trace.requests) / len(trace) for i in (1, 2)]
    assert means == [pytest.approx(mean, rel=0.02) for mean in stated[bench.lengths]]  # type: ignore[attr-defined]
    longest = max(r.input_tokens + r.output_tokens for r in trace.requests)
    assert longest <= bench.max_model_len  # type: ignore[attr-defined]


def test_the_host_is_added_to_a_profile_without_it_and_taken_out_of_one_with_it() -> None:
    for bench in (SHAREGPT, OPT_175B):
        day, lean = bench.machine(DAY).step_time, bench.machine(LEAN).step_time
        assert day.constant_ps - lean.constant_ps == HOST_PS
    assert SHAREGPT.machine(DAY).step_time == SHAREGPT.load_profile().step_time
    assert OPT_175B.machine(LEAN).step_time == OPT_175B.load_profile().step_time


def test_a_file_without_its_folder_is_refused() -> None:
    with pytest.raises(ConfigError, match="--data"):
        replace(SHAREGPT, file="some.csv").requests(1, 0, None)


def test_longer_requests_of_a_file_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "some.csv").write_text("input_tokens,output_tokens\n10,20\n2000,20\n10,3000\n")
    trace = replace(SHAREGPT, file="some.csv").requests(50, 0, tmp_path)
    assert {(r.input_tokens, r.output_tokens) for r in trace.requests} == {(10, 20)}


@pytest.mark.parametrize("row", [Row("vllm-2023"), Row("econoserve", REALISTIC), Row(BOUND)], ids=str)
def test_a_point_measured_again_gives_the_same_figures(row: Row) -> None:
    assert without_real_time(measure(small(row))) == without_real_time(measure(small(row)))


def test_a_backlog_tells_what_is_served_in_its_middle() -> None:
    run = measure(Point(SHAREGPT, Row("vllm-2023"), count=100))
    assert 0.5 < run["saturated_throughput"] < 5
    assert run["requests"] == 100


def test_a_budget_is_the_most_that_a_step_runs() -> None:
    wide, narrow = (measure(small(Row("sarathi", budget_tokens=n))) for n in (2048, 64))
    assert narrow["ttft"] > wide["ttft"]


def test_the_time_of_decisions_is_a_share_of_the_machines_only_where_each_step_is_taken() -> None:
    assert "scheduling_share_of_busy" not in measure(small(Row("vllm")))
    assert 0 < measure(small(Row("vllm"), skip=False))["scheduling_share_of_busy"] < 1


def test_the_oracle_is_not_padded_and_a_label_tells_what_predicts() -> None:
    assert Row("econoserve", ORACLE, EXACT).label == "econoserve (oracle)"
    assert Row("econoserve", REALISTIC).label == "econoserve"


def test_a_full_plan_has_every_row_at_every_load_and_the_most_requests() -> None:
    plan = full_plan(1.0, 1000, 0, None, ["alpaca synthetic"])
    [bench] = plan.benches
    made = points(plan, bench, 10.0, 512)
    rates = [p for p in made if p.group == "rates"]
    assert len(rates) == len({(p.row, p.load) for p in rates}) == 17 * len(plan.loads)
    assert all(p.rate * p.seconds <= 1000 + 1e-6 for p in made if p.rate)
    assert {p.value for p in made if p.group == "length_padding"} >= {0.0, 0.5}
    for point in made:
        point.bench.config("vllm", **dict(point.row.settings))
    assert not [p for p in full_plan(1.0, 0, 0, None, []).benches if p.file]
    assert len(quick_plan(0).benches) == 1
    assert bench.config("vllm").max_num_seqs == MAX_NUM_SEQS


def test_processes_give_the_same_figures_in_the_order_asked() -> None:
    asked = [small(Row(name)) for name in ("vllm-2023", "vllm", "sarathi")]
    told: list[None] = []
    together, alone = (measure_all(measure, asked, jobs, lambda: told.append(None)) for jobs in (2, 1))
    assert [without_real_time(run) for run in together] == [without_real_time(run) for run in alone]
    assert len(told) == 6


def test_an_error_in_a_process_is_raised() -> None:
    with pytest.raises(ConfigError, match="no policy"):
        measure_all(measure, [small(Row("vlm")), small(Row("vllm"))], 2, lambda: None)
