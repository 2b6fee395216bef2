"""What the estimators of a policy are told."""

from dataclasses import replace
from itertools import pairwise

from brim.core.batch import Batch
from brim.core.estimators.online_demand import OnlineDemand
from brim.core.estimators.pace import Pace
from brim.core.estimators.slack import Miss
from brim.core.estimators.step_time import StepShape
from brim.core.events import MissPredicted
from brim.core.kvcache.headroom import Headroom
from brim.core.plan import Chunk
from brim.core.policies.named import named
from brim.core.timekeeping import Timekeeper
from tests.helpers import MS, OFFLINE, ONLINE, config, request, state


def policy(name: str = "echo"):
    return named(config(policy=name))


def decoding(batch: Batch, name: str, task_class=OFFLINE):
    one = state(request(name, 4, 9, task_class=task_class))
    one.admit(0)
    one.schedule(4)
    batch.add(one)
    batch.start_decoding(one)
    return one


def test_a_policy_that_asks_for_no_time_is_told_nothing():
    time, batch = Timekeeper(policy("priority")), Batch(4)
    one = decoding(batch, "a")
    assert time.watch is None
    assert time.shape(batch, [one], []) is None
    assert not time.counts(batch, 5)
    time.step_begins(0, 3)
    time.step_took(0, 5, None)
    time.admitted(one, 0)
    time.first_token(one, 0, 1)
    time.ended(one)


def test_a_shape_has_chunks_and_the_decodes_of_both_classes():
    time, batch = Timekeeper(policy()), Batch(4)
    rows = [decoding(batch, "a"), decoding(batch, "b", ONLINE)]
    chunk = Chunk(state(request("c", 8)), 0, 8, True)
    assert time.shape(batch, rows, [chunk]) == StepShape(10, 36, 2, 10)
    assert time.shape(batch, (), [chunk]) == StepShape(8, 36, 0, 0)  # the decodes sit it out


def test_a_target_that_was_asked_for_long_ago_is_forgotten_before_a_decision():
    time = Timekeeper(policy())
    assert time.watch is not None
    time.watch.arrivals.observe(0, 1000 * MS, 200)
    time.step_begins(300_000 * MS, 0)
    assert time.watch.arrivals.ttfts_ns() == [1000 * MS]
    time.step_begins(300_001 * MS, 0)
    assert time.watch.arrivals.ttfts_ns() == []


def test_a_step_begins_when_the_one_before_is_over():
    pace = Pace()
    time = Timekeeper(replace(policy(), pace=pace))
    time.step_took(0, 10 * MS, None)
    assert pace.step_ns == 10 * MS
    before = pace.step_ns
    time.step_took(1 * MS, 20 * MS, None)  # scheduled ahead
    assert pace.step_ns == before
    assert time.watch is not None
    assert time.watch.last_ns == 20 * MS


def test_quiet_steps_count_like_one_after_the_other():
    together, apart = Pace(), Pace()
    ends_ns = [12 * MS, 20 * MS, 31 * MS]
    time = Timekeeper(replace(policy(), pace=together))
    time.steps_took(3 * MS, ends_ns)
    one_by_one = Timekeeper(replace(policy(), pace=apart))
    for start_ns, end_ns in pairwise([3 * MS, *ends_ns]):
        one_by_one.step_took(start_ns, end_ns, None)
    assert together.step_ns == apart.step_ns
    assert time.watch is not None
    assert time.watch.last_ns == 31 * MS


def test_only_a_step_with_a_shape_is_learnt():
    rules = policy()
    time, steps = Timekeeper(rules), rules.timing.steps
    before = steps.nanoseconds(StepShape(4, 0, 4, 40))
    time.step_took(0, 77 * MS, None)
    assert steps.nanoseconds(StepShape(4, 0, 4, 40)) == before
    time.step_took(100 * MS, 177 * MS, StepShape(4, 0, 4, 40))
    assert abs(steps.nanoseconds(StepShape(4, 0, 4, 40)) - 77 * MS) < MS


def test_time_counts_while_offline_work_runs_or_waits():
    time, batch = Timekeeper(policy("bs-e")), Batch(4)
    assert not time.counts(batch, 0)
    assert time.counts(batch, 1)
    decoding(batch, "a", ONLINE)
    assert not time.counts(batch, 0)
    decoding(batch, "b", OFFLINE)
    assert time.counts(batch, 0)


def test_the_demand_is_told_what_is_held():
    demand = OnlineDemand(4.0, 4)
    time = Timekeeper(replace(policy(), headroom=Headroom(7, demand)))
    time.step_begins(0, 3)
    time.step_begins(1000 * MS, 3)
    assert demand.forecast_blocks == 3


def test_a_miss_is_told_once_a_request():
    time, one = Timekeeper(policy()), state(request("a"))
    assert time.miss(Miss("a", 5), 7, 3) == [MissPredicted(7, 3, "a", 5)]
    assert time.miss(Miss("a", 9), 8, 4) == []
    assert len(time.miss(Miss("b", 9), 8, 4)) == 1
    time.ended(one)
    assert not time._missing - {"b"}
