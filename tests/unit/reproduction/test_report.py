"""A tiny run, from its points to the files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from brim.core.errors import ConfigError
from brim.reproduction.benches import BENCHES
from brim.reproduction.claims import rate_held
from brim.reproduction.econoserve import reproduce
from brim.reproduction.markdown import cell, table
from brim.reproduction.plan import Plan
from brim.reproduction.plots import draw
from brim.reproduction.report import text
from brim.reproduction.writing import refuse_unwritable, write
from brim.simulation.results import Figures


@pytest.fixture(scope="module")
def results() -> Figures:
    plan = Plan(BENCHES[:1], (1.0,), 20.0, backlog=60, quick=True)
    told: list[str] = []

    def tell(what: str, total: int) -> object:
        return lambda: told.append(what)

    [results] = reproduce(plan, 1, tell)  # type: ignore[arg-type]
    assert len(told) == len(results["benches"][0]["points"])
    return results


def test_files_are_written(results: Figures, tmp_path: Path) -> None:
    write(results, tmp_path, text, draw)
    assert json.loads((tmp_path / "results.json").read_text()) == json.loads(json.dumps(results))
    told = (tmp_path / "tables.md").read_text()
    [picture] = tmp_path.glob("*.svg")
    assert picture.name in told
    for heading in ("What packing can give", "Claims", "Ablation at 1x", "Switch by switch at 1x"):
        assert f"# {heading}" in told
    first = picture.read_bytes()
    write(results, tmp_path, text, draw)
    assert picture.read_bytes() == first


def test_vllm_2023_against_itself_is_one(results: Figures) -> None:
    [bench] = results["benches"]
    held = rate_held(bench, "vllm-2023", 1e9)
    assert (held.rate, held.beyond) == (pytest.approx(bench["saturation"]), ">")
    assert {c["label"] for c in results["claims"]} >= {"econoserve", "econoserve (oracle)"}


def test_a_folder_that_can_not_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="can't write"):
        refuse_unwritable(tmp_path / "file")


def test_a_table_is_markdown() -> None:
    assert table(["a", "b"], [["x", cell(None)], ["y", cell(0.5, ".0%")]]).splitlines() == [
        "| a | b |",
        "| --- | ---: |",
        "| x |  |",
        "| y | 50% |",
    ]


def test_seconds_are_fewer_where_requests_are_limited() -> None:
    plan = Plan(BENCHES[:1], max_requests=100)
    assert (plan.seconds_at(1.0), replace(plan, max_requests=0).seconds_at(1.0)) == (100.0, 3600.0)
