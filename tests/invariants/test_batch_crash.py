"""SIGKILL at every durable step, then a restart: nothing is lost and nothing is there twice."""

from __future__ import annotations

import multiprocessing
import random
import signal
from collections import Counter
from collections.abc import Collection
from itertools import pairwise
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest

from brim.batch_api.flights import MOST_ENDS
from tests.invariants import crash_scenario
from tests.invariants.crash_scenario import LINES, PARALLEL, notes
from tests.unit.batch_api.batch_harness import ARROWS, names, stamps_are_monotone

POINTS = [
    ("file.written", 1),  # the upload
    ("file.renamed", 1),
    ("batch.created", 1),
    ("batch.validated", 1),
    ("line.dispatched", 1),
    ("line.dispatched", 7),
    ("lines.recorded", 1),
    ("lines.recorded", 3),
    ("file.written", 2),  # the output file
    ("file.renamed", 2),
    ("file.written", 3),  # the error file
    ("file.renamed", 3),
    ("batch.publishing", 1),
    ("batch.published", 1),
]


@pytest.fixture(scope="module")
def processes() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["brim.batch_api.api", "httpx2"])
    return context


def run(
    processes: ForkServerContext,
    folder: Path,
    point: str = "",
    time: int = 1,
    seconds: float | None = None,
    killers: Collection[str] = (),
) -> int | None:
    process = processes.Process(target=crash_scenario.run, args=(str(folder), point, time, killers))
    process.start()
    process.join(seconds)
    if process.is_alive():
        process.kill()
        process.join()
    exit_code = process.exitcode
    process.close()
    return exit_code


def reachable(before: str, after: str) -> bool:
    return before == after or any(reachable(status, after) for status in ARROWS.get(before, ()))


def check(folder: Path, kills: int) -> None:
    """B1 to B5, from what the client saw over all runs."""
    observed = notes(folder, "observed")
    for before, after in pairwise(observed):
        assert before["id"] == after["id"]
        assert reachable(before["status"], after["status"])
        assert all(
            after[name] == at for name, at in before.items() if name.endswith("_at") and at is not None
        )
        assert before["request_counts"]["completed"] <= after["request_counts"]["completed"]
    batch = observed[-1]
    output, errors = notes(folder, "output")[-1], notes(folder, "error")[-1]
    assert batch["status"] == "completed"
    assert stamps_are_monotone(batch)
    assert batch["request_counts"] == {"total": LINES, "completed": len(output), "failed": len(errors)}
    assert sorted(line["custom_id"] for line in (*output, *errors)) == sorted(names(LINES))
    published = {batch["input_file_id"], batch["output_file_id"], batch["error_file_id"]}
    assert {path.name for path in (folder / "data" / "files").iterdir()} == published
    runs = Counter(notes(folder, "submitted"))
    assert sum(runs.values()) <= LINES + kills * PARALLEL, "only lines in flight are run again"


@pytest.mark.parametrize(("point", "time"), POINTS, ids=[f"{point}-{time}" for point, time in POINTS])
def test_killed_at_a_durable_step(
    processes: ForkServerContext, tmp_path: Path, point: str, time: int
) -> None:
    assert run(processes, tmp_path, point, time) == -signal.SIGKILL
    assert run(processes, tmp_path) == 0
    check(tmp_path, kills=1)


@pytest.mark.parametrize("killers", [("line-2",), ("line-2", "line-3"), ("line-1", "line-12")])
def test_only_the_lines_that_kill_the_server_are_given_up(
    processes: ForkServerContext, tmp_path: Path, killers: tuple[str, ...]
) -> None:
    kills = 0
    while run(processes, tmp_path, killers=killers) != 0:
        kills += 1
        assert kills <= MOST_ENDS * len(killers)
    check(tmp_path, kills)
    errors = {line["custom_id"]: line["response"] for line in notes(tmp_path, "error")[-1]}
    assert {name for name, response in errors.items() if response["status_code"] == 500} == {*killers}
    for name in killers:
        assert errors[name]["body"]["error"]["code"] == "server_error"
        assert f"ended unexpectedly {MOST_ENDS} times" in errors[name]["body"]["error"]["message"]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_killed_at_random_times(processes: ForkServerContext, tmp_path: Path, seed: int) -> None:
    moments = random.Random(seed)
    kills = sum(run(processes, tmp_path, seconds=moments.uniform(0.05, 0.6)) != 0 for _ in range(3))
    assert run(processes, tmp_path) == 0
    check(tmp_path, kills)
