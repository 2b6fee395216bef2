"""Known runs give known event logs, byte for byte; `python -m tests.golden.regenerate` writes them anew."""

import pytest

from brim.core.events import Admitted, Finished, MissPredicted, Tokens
from tests.golden.regenerate import FOLDER, RUNS, log
from tests.helpers import MS


@pytest.mark.parametrize("name", RUNS)
def test_a_run_gives_the_log_that_is_kept(name):
    assert log(name).decode() == (FOLDER / f"{name}.log").read_bytes().decode()


@pytest.mark.parametrize("name", RUNS)
def test_two_runs_give_the_same_bytes(name):
    assert log(name) == log(name)


def test_every_log_is_of_a_run_and_every_run_has_a_log():
    assert {path.stem for path in FOLDER.glob("*.log")} == set(RUNS)


def test_the_first_run_has_chunks_and_a_prefix_hit():
    host = RUNS["chunks_and_prefix"]()
    assert host.rows[:3] == [[("first", 0, 8)], [("first", 8, 8)], [("first", 16, 1)]]
    assert host.cached_tokens() == {"first": 0, "second": 8}


def test_the_second_run_preempts_and_recomputes():
    host = RUNS["starvation"]()
    assert host.preempted() == ["newer"]
    assert [event.request_id for event in host.of(Admitted) if event.resumed] == ["newer"]


def test_the_third_run_preempts_offline_for_online_a_step_ahead():
    host = RUNS["online_over_offline"]()
    assert host.depth == 2
    assert set(host.preempted()) == {"batch-2"}
    preempted = next(e.step_id for e in host.events if getattr(e, "lost_tokens", None))
    (entered,) = [e.step_id for e in host.of(Admitted) if e.request_id == "user"]
    assert entered > preempted


def test_the_fourth_run_lends_to_one_after_the_other_and_takes_back_from_one_that_outgrew():
    host = RUNS["pipelining"]()
    assert [event.request_id for event in host.of(Finished)] == ["guest", "next", "host", "grows"]
    assert host.preempted() == ["grows"]
    generating = [[name for name, start, _ in rows if start >= 4] for rows in host.rows]
    assert all("host" in names for names in generating[1:44])  # it never waits
    assert [generating.index(names) for names in (["host", "guest"], ["host", "next", "grows"])] == [3, 19]


def test_the_fifth_run_starts_and_ends_the_members_of_a_group_together():
    rows = [[name for name, start, _ in rows if start >= 2] for rows in RUNS["time_synced_groups"]().rows]
    changes = [names for at, names in enumerate(rows) if names and names != rows[at - 1]]
    assert changes == [["long-1", "long-2"], ["short-1", "short-2"]]


def test_the_sixth_run_fits_offline_work_into_the_time_between_the_tokens_of_a_user():
    host = RUNS["echo_over_online"]()
    user = [event.now_ns for event in host.of(Tokens) if "user" in ids(event)]
    assert (user[-1] - user[0]) / (len(user) - 1) <= 8 * MS
    assert not host.of(MissPredicted)
    chunks = [tokens for rows in host.rows for name, _, tokens in rows if name == "ask-0" and tokens > 1]
    assert chunks[:6] == [2, 4, 5, 5, 5, 5]  # with caution, and what came early is spent first
    assert host.cached_tokens() | {"ask-1": 28, "ask-2": 28} == host.cached_tokens()
    assert set(host.preempted()) == {"ask-0", "ask-1", "ask-2"}
    assert [e.request_id for e in host.of(Finished)][-3:] == ["ask-0", "ask-1", "ask-2"]


def ids(event: Tokens) -> list[str]:
    return [state.request.request_id for state in event.states]
