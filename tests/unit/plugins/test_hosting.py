"""Brim beside a host that serves: it comes, goes, fails and comes again, and no request is lost."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from brim.core.errors import ConfigError
from brim.core.hosted import HostedScheduler, Orders
from brim.core.request import SLO
from brim.plugins.hosting import PATIENCE_STEPS, Hosting, Settings
from brim.plugins.recording import Recording
from brim.workloads.journals import load_journal
from tests.helpers import OFFLINE
from tests.hosting import TARGETS, Engine


@pytest.fixture
def engine() -> Engine:
    return Engine()


def test_without_an_engine_nothing_happens() -> None:
    hosting = Hosting()
    assert not hosting.changes
    assert hosting.guarded(lambda brim: 1 / 0) is None
    assert hosting.landed(object()) is None
    assert hosting.figures() == {"active": 0.0, "deviations_total": 0.0, "failures_total": 0.0}


def test_who_says_nothing_of_policy_or_targets_waits_for_a_request_that_does(engine: Engine) -> None:
    engine.hosting.configure(Settings(strict=True))
    engine.ask("a")
    engine.turn()
    assert engine.hosting.mode == "stock"
    engine.hosting.wake()
    engine.turn()
    assert (engine.hosting.mode, engine.hosting.figures()["active"]) == ("active", 1.0)
    assert engine.hosting.scheduler is not None
    assert engine.hosting.scheduler.config.policy == "echo"
    engine.serve()


def test_a_switch_keeps_what_was_asked_and_what_was_learnt(engine: Engine) -> None:
    engine.hosting.configure(Settings("echo", slo=TARGETS, strict=True))
    for number in range(6):
        engine.ask(f"r{number}", task_class=OFFLINE)
    learnt = []
    for mode in ("active", "stock", "shadow", "active"):
        assert engine.hosting.switch(mode) == mode
        for _ in range(3):
            engine.turn()
        assert engine.hosting.mode == mode
        scheduler = engine.hosting.scheduler
        if scheduler is not None:
            assert scheduler.policy.timing is not None
            learnt.append(scheduler.policy.timing.steps.step_time)
    assert engine.engaged == [True, False, True]
    assert learnt[2] == learnt[1]
    engine.serve()
    assert engine.ended == {f"r{number}": 12 for number in range(6)}


def test_a_shadow_only_looks(engine: Engine) -> None:
    engine.hosting.configure(Settings("brim", "shadow", TARGETS, strict=True))
    engine.ask("a")
    engine.serve()
    assert engine.hosting.figures()["shadow_steps_total"] == 12
    assert engine.hosting.figures()["deviations_total"] == 0  # nothing was ordered


def test_what_requests_got_is_counted_by_class(engine: Engine) -> None:
    engine.hosting.configure(Settings("brim", slo=TARGETS, strict=True))
    assert "requests_arrived" not in str(engine.hosting.samples())  # nobody has looked yet
    engine.ask("a", slo=TARGETS)
    engine.ask("b", task_class=OFFLINE)
    engine.turn()
    waiting = engine.hosting.samples()
    assert (waiting["online_requests_waiting"], waiting['target_seconds{slo="tpot"}']) == (0, 0.1)
    engine.serve()
    found = engine.hosting.samples()
    assert found['ttft_seconds_count{class="online"}'] == found['e2e_seconds_count{class="offline"}'] == 1
    assert found['output_tokens_total{class="online"}'] == found['output_tokens_total{class="offline"}'] == 12
    assert found['itl_seconds_count{class="online"}'] == 11
    assert found['slo_attainment_total{class="online",slo="all",met="true"}'] == 1


def test_a_stock_interval_counts_nobody_twice(engine: Engine) -> None:
    engine.hosting.configure(Settings("vllm", slo=TARGETS, strict=True))
    for number in range(20):  # 8 run at a time, 3 of them may begin in one step
        engine.ask(f"r{number}", task_class=OFFLINE)
    engine.turn()
    before = engine.hosting.samples()
    assert before['requests_arrived_total{class="offline"}'] == 20
    assert 0 < before['prompt_tokens_total{class="offline"}'] < 20 * 9
    for mode in ("stock", "active", "stock", "shadow"):
        engine.hosting.switch(mode)
        engine.turn()
    engine.ask("late", task_class=OFFLINE)
    engine.serve()
    found = engine.hosting.samples()
    assert found['requests_arrived_total{class="offline"}'] == 21
    admitted = found['queue_seconds_count{class="offline"}']
    assert admitted <= 21
    assert found['prompt_tokens_total{class="offline"}'] == 9 * admitted
    assert found['ttft_seconds_count{class="offline"}'] <= admitted


def test_a_prompt_that_is_half_computed_counts_once(engine: Engine) -> None:
    engine.hosting.configure(Settings("brim", slo=TARGETS, strict=True))
    engine.ask("a", prompt_tokens=60)  # two steps long
    engine.turn()
    for mode in ("stock", "active"):
        engine.hosting.switch(mode)
        engine.hosting.change()
    engine.serve()
    found = engine.hosting.samples()
    assert (
        found['requests_arrived_total{class="online"}'] == found['queue_seconds_count{class="online"}'] == 1
    )
    assert found['prompt_tokens_total{class="online"}'] == 60
    assert found['ttft_seconds_count{class="online"}'] == found['e2e_seconds_count{class="online"}'] == 1


def test_who_leaves_while_nothing_runs_is_counted_at_once(engine: Engine) -> None:
    engine.hosting.configure(Settings(policy="brim"))
    engine.turn()
    engine.ask("gone")
    del engine.requests["gone"]
    engine.waiting.remove("gone")
    engine.hosting.guarded(lambda brim: brim.abort("gone", engine.now_ns) and None)
    assert engine.turn() == {}
    assert engine.hosting.scheduler is not None
    assert engine.hosting.scheduler.take_events() == []  # they would pile up
    assert engine.hosting.samples()['requests_arrived_total{class="online"}'] == 1


@pytest.mark.parametrize("mode", ["active", "shadow", "stock"])
@pytest.mark.parametrize(("slo", "policy"), [(TARGETS, "brim"), (SLO(), "echo")])
def test_the_policy_where_none_is_named(engine: Engine, mode: str, slo: SLO, policy: str) -> None:
    """The same in whatever mode the server started: without a target arrival order stays."""
    engine.hosting.configure(Settings(mode=mode, slo=slo, strict=True))
    engine.hosting.switch("active")
    engine.turn()
    assert engine.hosting.scheduler is not None
    assert engine.hosting.scheduler.config.policy == policy


def test_a_scheduler_that_never_began_counts_nobody(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    engine.hosting.configure(Settings("brim"))
    engine.ask("a")
    begin = Recording.begin
    monkeypatch.setattr(Recording, "begin", lambda *_: 1 / 0)
    engine.turn()
    assert (engine.hosting.mode, engine.hosting.figures()["failures_total"]) == ("stock", 1)
    monkeypatch.setattr(Recording, "begin", begin)
    engine.hosting.switch("active")
    engine.ask("b")
    engine.serve()
    assert engine.hosting.samples()['requests_arrived_total{class="online"}'] == 1  # "a" drew unseen


def test_a_failed_mode_can_be_asked_for_at_once(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    engine.hosting.configure(Settings("brim"))
    engine.ask("a")
    engine.turn()
    with monkeypatch.context() as broken:
        broken.setattr(HostedScheduler, "order", lambda *_: 1 / 0)
        engine.turn()
    engine.hosting.switch("active")  # before the next step
    engine.turn()
    assert engine.hosting.scheduler is not None
    assert engine.hosting.mode == "active"


def test_deviations_are_those_of_all_schedulers(engine: Engine) -> None:
    engine.hosting.configure(Settings("brim", strict=True))
    engine.ask("a")
    engine.turn()
    assert engine.hosting.scheduler is not None
    engine.hosting.scheduler.deviations = 2
    for anew in ("outdated", "shadow", "stock", "active"):
        engine.hosting.outdated() if anew == "outdated" else engine.hosting.switch(anew)
        engine.turn()
        assert engine.hosting.figures()["deviations_total"] == 2


@pytest.mark.parametrize("anew", ["shadow", "outdated"])
def test_books_made_anew_lose_no_count(engine: Engine, anew: str) -> None:
    engine.hosting.configure(Settings("brim", slo=TARGETS, strict=True))
    engine.ask("a", slo=TARGETS)
    for _ in range(3):
        engine.turn()
    engine.hosting.switch(anew) if anew == "shadow" else engine.hosting.outdated()
    engine.serve()
    found = engine.hosting.samples()
    assert found['requests_arrived_total{class="online"}'] == found['ttft_seconds_count{class="online"}'] == 1
    assert found['output_tokens_total{class="online"}'] == 12
    assert found['itl_seconds_count{class="online"}'] == 11
    assert found['slo_attainment_total{class="online",slo="all",met="true"}'] == 1


def test_who_drew_tokens_that_nobody_told_of_is_not_counted(engine: Engine) -> None:
    engine.hosting.configure(Settings("brim", slo=TARGETS, strict=True))
    engine.ask("a", slo=TARGETS)
    for _ in range(3):
        engine.turn()
    engine.hosting.switch("stock")
    for _ in range(3):
        engine.turn()
    engine.hosting.switch("active")
    engine.ask("b", slo=TARGETS)
    engine.serve()
    assert engine.ended == {"a": 12, "b": 12}
    found = engine.hosting.samples()
    assert found['ttft_seconds_count{class="online"}'] == 2
    assert found['tpot_seconds_count{class="online"}'] == 1
    assert found['slo_attainment_total{class="online",slo="all",met="true"}'] == 1


def test_a_failure_is_the_end_of_brim_and_of_nothing_else(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.hosting.configure(Settings("brim", slo=TARGETS))
    engine.ask("a")
    engine.turn()
    monkeypatch.setattr(HostedScheduler, "order", lambda *_: 1 / 0)
    engine.serve()
    assert engine.ended == {"a": 12}
    assert (engine.hosting.mode, engine.hosting.figures()["failures_total"]) == ("stock", 1.0)
    monkeypatch.undo()
    engine.hosting.switch("active")
    engine.ask("b")
    engine.serve()
    assert engine.hosting.mode == "active"


def test_strict_lets_a_failure_through(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    engine.hosting.configure(Settings("brim", strict=True))
    engine.ask("a")
    engine.turn()
    monkeypatch.setattr(HostedScheduler, "order", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        engine.turn()


def test_where_nobody_could_run_for_a_while_the_gate_opens(engine: Engine) -> None:
    engine.hosting.configure(Settings("vllm", strict=True))
    engine.turn()
    for _ in range(PATIENCE_STEPS + 1):
        assert engine.hosting.order(0, ["x"], paused=False) == Orders([])
        engine.hosting.ran({}, (), 0, idle=True)
    assert engine.hosting.order(0, ["x"], paused=False) == Orders(["x"])
    engine.hosting.ran({}, (), 0, idle=False)
    assert engine.hosting.order(0, ["x"], paused=True) is None


def test_with_a_reason_brim_stays_away(engine: Engine) -> None:
    engine.hosting.configure(Settings("brim"))
    engine.turn()
    engine.hosting.step_back("a pooling request")
    engine.turn()
    assert engine.hosting.mode == "stock"
    with pytest.raises(ConfigError, match="a pooling request"):
        engine.hosting.switch("active")
    with pytest.raises(ConfigError, match="Without strict"):
        engine.hosting.configure(Settings("brim", strict=True))
    with pytest.raises(ConfigError, match="active, shadow, stock"):
        engine.hosting.switch("fast")


def test_books_that_are_outdated_are_made_anew(engine: Engine) -> None:
    engine.hosting.configure(Settings("brim", strict=True))
    engine.ask("a")
    engine.turn()
    before = engine.hosting.scheduler
    engine.hosting.outdated()
    engine.turn()
    assert engine.hosting.scheduler is not before
    engine.serve()


def test_nothing_changes_while_a_step_is_in_flight(engine: Engine) -> None:
    engine.hosting.configure(Settings("brim"))
    step, empty = object(), object()
    engine.hosting.launched(empty, None, runs=False)
    assert not engine.hosting.flying
    engine.hosting.launched(step, None, runs=True)
    assert (engine.hosting.changes, engine.hosting.flying) == (True, True)
    assert engine.hosting.landed(step) is None  # the empty one was not reported
    assert not engine.hosting.flying


def test_a_decision_log_tells_the_gpus(engine: Engine, tmp_path: Path) -> None:
    engine.hosting.configure(Settings("brim", decision_log=str(tmp_path / "journal")))
    engine.hosting.change()
    [journal] = tmp_path.iterdir()
    assert load_journal(journal).gpus == engine.gpus == 4
    assert engine.hosting.scheduler is not None
    engine.hosting.scheduler.close()


def test_a_decision_log_is_written(engine: Engine, tmp_path: Path) -> None:
    engine.hosting.configure(Settings("brim", decision_log=str(tmp_path / "log"), strict=True))
    engine.ask("a")
    engine.serve()
    assert len(list(tmp_path.glob("log.*"))) == 1
    engine.hosting.switch("stock")
    engine.turn()


@pytest.mark.parametrize("settings", [Settings("brim"), Settings(), Settings(mode="stock")])
def test_a_decision_log_that_cannot_be_written_is_said_at_once(
    engine: Engine, tmp_path: Path, settings: Settings
) -> None:
    with pytest.raises(ConfigError, match=r"decision_log can't be written to .*: No such file or directory"):
        engine.hosting.configure(replace(settings, decision_log=str(tmp_path / "none" / "log")))
    engine.hosting.configure(replace(settings, decision_log=str(tmp_path / "log")))
    assert not list(tmp_path.iterdir())  # nothing before there is something to write
