"""The running batch: decoding or catching up, and who enters a block when."""

from brim.core.batch import Batch, DecodeLoad
from brim.core.request import RequestState
from tests.helpers import OFFLINE, ONLINE, request, state


def decoding(batch: Batch, name: str, prompt: int) -> RequestState:
    """A request whose prompt is all scheduled, decoding from now on."""
    entering = state(request(name, prompt))
    entering.admit(0)
    batch.add(entering)
    entering.schedule(prompt)
    batch.start_decoding(entering)
    return entering


def entering(batch: Batch, tick: int) -> list[RequestState]:
    return list(batch.entering_block(tick))


def test_a_new_member_catches_up():
    batch = Batch(4)
    a = state(request("a"))
    batch.add(a)
    assert (list(batch), list(batch.catching_up), batch.rows()) == ([a], [a], ())
    assert batch.num_decoding == 0


def test_a_decoding_member_is_a_row():
    batch = Batch(4)
    a = decoding(batch, "a", 4)
    assert (list(batch), list(batch.catching_up), batch.rows()) == ([a], [], (a,))
    assert batch.num_decoding == 1


def test_rows_are_the_same_tuple_until_the_batch_is_edited():
    batch = Batch(4)
    decoding(batch, "a", 4)
    rows = batch.rows()
    batch.tick += 1
    batch.add(state(request("b")))  # catching up: no row
    assert batch.rows() is rows
    decoding(batch, "c", 4)
    assert batch.rows() is not rows


def test_rows_keep_the_order_in_which_decoding_began():
    batch = Batch(4)
    a, b, c = (decoding(batch, name, 4) for name in "abc")
    batch.pause(a)
    assert batch.rows() == (b, c)
    batch.start_decoding(a)
    assert batch.rows() == (b, c, a)


def test_a_block_is_entered_whenever_the_tokens_fill_the_one_before():
    batch = Batch(4)
    a, b = decoding(batch, "a", 4), decoding(batch, "b", 6)
    assert [entering(batch, tick) for tick in range(7)] == [[a], [], [b], [], [a], [], [b]]


def test_with_blocks_of_one_token_every_step_enters_one():
    batch = Batch(1)
    a = decoding(batch, "a", 3)
    assert [entering(batch, tick) for tick in range(3)] == [[a]] * 3


def test_the_entering_of_blocks_is_found_from_the_tick_on_at_which_decoding_began():
    batch = Batch(4)
    batch.tick = 10
    a = decoding(batch, "a", 7)
    assert [tick for tick in range(10, 20) if a in entering(batch, tick)] == [11, 15, 19]


def test_a_paused_member_keeps_its_place_and_enters_no_block():
    batch = Batch(4)
    a = decoding(batch, "a", 4)
    batch.tick = 2
    batch.pause(a)
    batch.tick = 5
    assert (list(batch), list(batch.catching_up), batch.rows()) == ([a], [a], ())
    assert a.num_scheduled_tokens == 6
    assert not any(entering(batch, tick) for tick in range(4))


def test_pausing_a_member_that_catches_up_changes_nothing():
    batch = Batch(4)
    a = state(request("a"))
    batch.add(a)
    batch.pause(a)
    assert list(batch.catching_up) == [a]


def test_a_removed_member_leaves_no_trace():
    batch = Batch(4)
    a, b = decoding(batch, "a", 4), decoding(batch, "b", 4)
    batch.starved = [a, b]
    batch.tick = 3
    batch.remove(a)
    assert (list(batch), batch.rows(), batch.starved, len(batch)) == ([b], (b,), [b], 1)
    assert [entering(batch, tick) for tick in range(4)] == [[b], [], [], []]


def test_a_batch_that_was_left_remembers_nobody():
    batch = Batch(4)
    for seq, name in enumerate("abc"):
        entered = state(request(name, 4, max_tokens=9), seq)
        batch.add(entered)
        entered.schedule(4)
        batch.start_decoding(entered)
        batch.tick += 1
    for entered in list(batch):
        batch.remove(entered)
    assert not any([*batch._phases, batch._ending, batch._decoding, batch._catching_up])


def test_the_load_is_of_those_that_decode_by_class_and_grows_with_every_step():
    batch = Batch(4)
    assert batch.load(ONLINE) == DecodeLoad(0, 0)
    a, b = decoding(batch, "a", 4), decoding(batch, "b", 9)
    assert (batch.load(ONLINE), batch.load(OFFLINE)) == ((2, 15), (0, 0))
    batch.tick += 3
    assert batch.load(ONLINE) == (2, 21)
    batch.pause(a)
    assert batch.load(ONLINE) == (1, 13)
    batch.remove(b)
    assert batch.load(ONLINE) == (0, 0)


class Watch:
    def __init__(self) -> None:
        self.told: list[tuple[str, int | None]] = []

    def started(self, one: RequestState, tick: int) -> None:
        self.told.append((one.request.request_id, tick))

    def stopped(self, one: RequestState) -> None:
        self.told.append((one.request.request_id, None))


def test_a_watch_is_told_of_online_requests_that_start_and_stop():
    watch = Watch()
    batch = Batch(4, watch)
    a, b = decoding(batch, "a", 4), decoding(batch, "b", 4)
    batch.tick += 2
    batch.pause(a)
    batch.pause(a)
    a.schedule(1)
    batch.start_decoding(a)
    batch.park(b)
    batch.remove(a)
    batch.remove(b)
    assert watch.told == [("a", 0), ("b", 0), ("a", None), ("a", 2), ("b", None), ("a", None)]
    offline = state(request("c", 4, task_class=OFFLINE))
    offline.admit(0)
    batch.add(offline)
    offline.schedule(4)
    batch.start_decoding(offline)
    batch.remove(offline)
    assert len(watch.told) == 6
