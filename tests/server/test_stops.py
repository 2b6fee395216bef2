"""Stop strings and pieces, however the text is cut into tokens and the tokens into deltas."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from brim.core.request import FinishReason, SamplingParams
from brim.engines.loop import Delta
from brim.engines.scripted import ByteTokenizer
from brim.server.choice import Choice
from brim.server.stops import StopStrings

letters = st.text("ab", max_size=12)
stop_lists = st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=3)
# multi-byte characters, so that a token is only part of a character
mixed = st.text("aé→😀", max_size=10)


def _before_stop(pieces: list[str], stops: list[str]) -> tuple[str, bool]:
    """The same by definition: after each piece, look at the whole text."""
    text = ""
    for piece in pieces:
        text += piece
        begins = [text.find(stop) for stop in stops if stop in text]
        if begins:
            return text[: min(begins)], True
    return text, False


@given(st.lists(letters, max_size=12), stop_lists)
def test_text_before_the_first_stop_string_is_shown(pieces: list[str], stops: list[str]) -> None:
    watcher = StopStrings(stops)
    shown = ""
    for piece in pieces:
        shown += watcher.push(piece)
        if watcher.found:
            break
    assert (shown + watcher.flush(), watcher.found) == _before_stop(pieces, stops)


@given(st.lists(letters, max_size=12), stop_lists)
def test_only_what_may_begin_a_stop_string_is_held_back(pieces: list[str], stops: list[str]) -> None:
    watcher = StopStrings(stops)
    shown = "".join(watcher.push(piece) for piece in pieces if not watcher.found)
    held = watcher.flush()
    if not watcher.found:
        assert shown + held == "".join(pieces)
        assert not held or any(stop.startswith(held) for stop in stops)


def _choice(stops: list[str], **sampling: int) -> Choice:
    params = SamplingParams(stop_token_ids=frozenset({256}), **sampling)
    return Choice(0, None, ByteTokenizer().stream(), params, stops)


def _deltas(token_ids: list[int], cuts: list[int], reason: FinishReason) -> list[Delta]:
    bounds = [0, *sorted({min(cut, len(token_ids)) for cut in cuts}), len(token_ids)]
    parts = [tuple(token_ids[a:b]) for a, b in pairwise(bounds)]
    return [Delta(part, (), None, None, 0) for part in parts] + [Delta((), (), reason, None, 0)]


def _read(choice: Choice, deltas: list[Delta]) -> str:
    text = ""
    for delta in deltas:
        text += choice.take(delta).text
        if choice.finish_reason is not None:
            break
    return text


@given(mixed, st.lists(st.text("aé→😀", min_size=1, max_size=3), max_size=2), st.lists(st.integers(0, 30)))
def test_deltas_of_any_size_give_the_same_answer(text: str, stops: list[str], cuts: list[int]) -> None:
    token_ids = list(text.encode())
    one_by_one = _choice(stops)
    expected = _read(one_by_one, _deltas(token_ids, list(range(len(token_ids))), FinishReason.LENGTH))
    choice = _choice(stops)
    assert _read(choice, _deltas(token_ids, cuts, FinishReason.LENGTH)) == expected
    assert (choice.num_tokens, choice.finish_reason) == (one_by_one.num_tokens, one_by_one.finish_reason)
    assert expected == _before_stop(list(text), stops)[0]


def test_an_incomplete_character_ends_as_a_replacement() -> None:
    choice = _choice([])
    assert _read(choice, _deltas(list("a😀".encode())[:-1], [], FinishReason.LENGTH)) == "a\ufffd"


def test_min_tokens_lets_stop_strings_pass() -> None:
    choice = _choice(["ab"], min_tokens=4)
    assert _read(choice, _deltas(list(b"abababab"), [], FinishReason.LENGTH)) == "abab"
    assert choice.finish_reason == "stop"


def test_the_end_token_is_counted_and_not_shown() -> None:
    choice = _choice([])
    piece = choice.take(Delta((*b"ab", 256), (), FinishReason.STOP, None, 5))
    assert piece.text == "ab"
    assert (choice.num_tokens, choice.num_cached_tokens, choice.finish_reason) == (3, 5, "stop")
