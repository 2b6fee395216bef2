"""`brim reproduce echo --quick`: every mechanism helps where it should. Directions, no values."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from brim.cli.main import app
from brim.reproduction.echo.offline import CONTROL
from brim.reproduction.echo.plan import SHUFFLED
from brim.reproduction.echo.points import satisfied
from brim.simulation.results import Figures

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
ROWS = ("bs", "bs-e", "bs-e-s", "echo")
BOTH = pytest.mark.parametrize("offline", [SHUFFLED, CONTROL])


@pytest.fixture(scope="module")
def benches(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Figures]:
    folder = tmp_path_factory.mktemp("echo")
    done = CliRunner().invoke(
        app, ["reproduce", "echo", "--quick", "--jobs", "1", "-o", str(folder)], catch_exceptions=False
    )
    assert done.exit_code == 0
    results = json.loads(Path(folder, "results.json").read_text())
    return {bench["offline"]: bench for bench in results["benches"]}


@pytest.fixture(scope="module")
def at(benches: dict[str, Figures]) -> Any:
    """The figure of a row beside a backlog."""
    found = {(name, row["label"]): row for name, bench in benches.items() for row in bench["rows"]}
    return lambda offline, label, figure: found[offline, label][figure]


@BOTH
@pytest.mark.parametrize("row", ROWS)
def test_the_online_load_keeps_its_slos(at: Any, benches: Any, offline: str, row: str) -> None:
    alone = benches[offline]["online_only"]["attainment"]
    assert satisfied(at(offline, row, "attainment"), alone)


@BOTH
@pytest.mark.parametrize("row", ROWS)
def test_the_backlog_never_runs_empty(at: Any, offline: str, row: str) -> None:
    assert at(offline, row, "backlog_left") > 0


@BOTH
def test_time_by_slack_serves_more_than_a_fixed_number_of_tokens(at: Any, offline: str) -> None:
    assert at(offline, "bs-e", "rate") > at(offline, "bs", "rate")


def test_documents_one_after_the_other_are_hit(at: Any) -> None:
    assert at(SHUFFLED, "bs", "hit_rate") < 0.2 < 0.7 < at(SHUFFLED, "bs-e-s", "hit_rate")
    assert at(SHUFFLED, "bs-e-s", "rate") > 3 * at(SHUFFLED, "bs-e", "rate")


def test_documents_in_mixed_order_reach_the_published_ratio(at: Any) -> None:
    assert at(SHUFFLED, "echo", "ratio") > 3.3


def test_without_sharing_nothing_is_hit_and_nothing_lost(at: Any) -> None:
    assert at(CONTROL, "echo", "hit_rate") == 0
    assert at(CONTROL, "echo", "ratio") >= 1
    assert at(CONTROL, "echo", "cache_bound") == 1
