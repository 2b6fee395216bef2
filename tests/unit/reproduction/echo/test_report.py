"""A tiny run, from its points to the files; the command's refusals."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from brim.cli.main import app
from brim.core.kvcache.eviction import Evicting
from brim.reproduction.echo.experiment import reproduce
from brim.reproduction.echo.plan import A100, AZURE, SHUFFLED, Plan
from brim.reproduction.echo.plots import draw
from brim.reproduction.echo.points import Bench, Point, Row, measure
from brim.reproduction.echo.report import text
from brim.reproduction.writing import write
from brim.simulation.results import Figures

BENCH = Bench(A100, AZURE, SHUFFLED, 50)
PLAN = Plan([BENCH], frozenset([BENCH]), warm_up_s=1.0, measured_s=5.0, documents=4, quick=True)
POINT = Point(BENCH, Row("echo", "echo"), 2.0, 1.0, 5.0, 4, 0, None, 400_000, 1.0)


@pytest.fixture(scope="module")
def results() -> Figures:
    told: list[str] = []

    def tell(what: str, total: int) -> object:
        return lambda: told.append(what)

    [results] = reproduce(PLAN, 1, tell)  # type: ignore[arg-type]
    assert len(told) == 1 + len(results["benches"][0]["rows"])
    return results


def test_files_are_written(results: Figures, tmp_path: Path) -> None:
    write(results, tmp_path, text, draw)
    assert json.loads((tmp_path / "results.json").read_text()) == json.loads(json.dumps(results))
    told, [picture] = (tmp_path / "tables.md").read_text(), tmp_path.glob("*.svg")
    for words in (picture.name, "# Claims", "# Aims", BENCH.name, "SYNTHETIC", "Tried of `bs`", "`hygen`"):
        assert words in told
    first = picture.read_bytes()
    write(results, tmp_path, text, draw)
    assert picture.read_bytes() == first


def test_a_backlog_that_ran_empty_is_told(results: Figures) -> None:
    assert "EMPTY" not in text(results)
    rows = [row | {"backlog_left": 0} for row in results["benches"][0]["rows"]]
    ran_out = {**results, "benches": [{**results["benches"][0], "rows": rows}]}
    assert text(ran_out).count("EMPTY") == len(rows)


def test_a_point_measured_again_gives_the_same_figures() -> None:
    def without_real_time(run: Figures) -> Figures:
        return {key: value for key, value in run.items() if "wall" not in key and "scheduling" not in key}

    assert without_real_time(measure(POINT)) == without_real_time(measure(POINT))


def test_the_load_alone_has_no_offline_figures() -> None:
    alone = measure(replace(POINT, bench=BENCH.alone(), row=Row("online only", "bs")))
    assert (alone["rate"], alone["hit_rate"], alone["backlog_left"]) == (0, None, 0)
    assert alone["online_requests"] > 0


def test_the_order_of_eviction_is_switched() -> None:
    from brim.core.config import SchedulerConfig
    from brim.reproduction.echo.points import _policy

    config = SchedulerConfig(num_blocks=1000, policy="echo")
    assert _policy(config, Row("echo", "echo")).evicting is Evicting.BY_REUSE
    last = _policy(config, Row("last", "echo", online_last=True))
    assert last.evicting is Evicting.BY_REUSE_ONLINE_LAST


def test_an_error_tells_the_point() -> None:
    with pytest.raises(Exception, match="no policy") as caught:
        measure(replace(POINT, row=Row("ecko", "ecko")))
    assert "ecko" in "".join(caught.value.__notes__)


@pytest.mark.parametrize("words", [["--seconds", "0"], ["--jobs", "-1"], ["--setup", "nothing of that name"]])
def test_what_can_not_be_is_refused(words: list[str], tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["reproduce", "echo", "-o", str(tmp_path / "out"), *words])
    assert done.exit_code != 0
    assert not (tmp_path / "out").exists()
