"""What one step runs, as values."""

from brim.core.batch import Batch
from brim.core.plan import Chunk, StepPlan
from brim.core.request import RequestState
from tests.helpers import request, state


def decoding(name: str, scheduled: int) -> RequestState:
    """As after the `schedule` that runs its token number `scheduled`."""
    running = state(request(name, scheduled - 1))
    running.admit(0)
    running.schedule(scheduled - 1)
    clock = Batch(4)
    running.start_decoding(clock)
    clock.tick += 1
    return running


A, B = decoding("a", 6), decoding("b", 9)
C, D = state(request("c", 20)), state(request("d", 3))
PLAN = StepPlan(5, (A, B), (Chunk(C, 8, 4, False), Chunk(D, 0, 3, True)))


def test_an_empty_plan_is_false():
    assert not StepPlan(0, ())
    assert StepPlan(0, (A,))
    assert StepPlan(0, (), (Chunk(C, 0, 1, False),))


def test_its_tokens_are_one_for_each_decode_and_those_of_the_chunks():
    assert PLAN.num_tokens == 9


def test_decodes_draw_first_then_the_chunks_that_reach_the_last_known_token():
    assert PLAN.sampling() == (A, B, D)


def test_without_chunks_the_sampling_requests_are_the_decodes_themselves():
    plan = StepPlan(0, (A, B))
    assert plan.sampling() is plan.decodes


def test_a_row_of_a_decode_is_a_chunk_of_its_last_scheduled_token():
    assert PLAN.rows() == [Chunk(A, 5, 1, True), Chunk(B, 8, 1, True), *PLAN.chunks]


def test_a_part_draws_for_the_same_requests_in_the_same_order():
    rows = PLAN.rows()
    assert PLAN.part(rows).sampling() == PLAN.sampling()
    assert PLAN.part(rows[1:3]).sampling() == (B,)
    assert PLAN.part(rows).num_tokens == PLAN.num_tokens
    assert PLAN.part(rows).step_id == 5
