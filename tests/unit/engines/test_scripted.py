"""The engine that plays given tokens, and its tokenizer of bytes."""

from __future__ import annotations

import pytest

from brim.core.plan import Chunk, StepPlan
from brim.core.request import RequestState
from brim.engines.scripted import ByteTokenizer, ScriptedEngine, echo_script
from tests.helpers import Host, config, reference, request, script, state


def entering(name: str, prompt: int, block_ids: list[int]) -> RequestState:
    running = state(request(name, prompt, max_tokens=9))
    running.admit(0)
    running.block_ids = block_ids
    return running


def whole(running: RequestState) -> StepPlan:
    return StepPlan(0, (), (Chunk(running, 0, running.num_tokens, True),))


def test_it_draws_what_the_script_says_of_all_tokens_so_far():
    engine = ScriptedEngine(7, 4, script=sum)
    engine.begin(whole(entering("a", 5, [3, 0])))
    assert list(engine.finish().token_ids) == [sum(request("a", 5).prompt_token_ids)]


def test_it_reads_tokens_through_the_block_table():
    engine = ScriptedEngine(7, 4, script=script)
    a, b = entering("a", 6, [0, 1]), entering("b", 6, [2, 3])
    engine.begin(StepPlan(0, (), (Chunk(a, 0, 6, True), Chunk(b, 0, 6, True))))
    first = list(engine.finish().token_ids)
    a.block_ids = [2, 1]  # another's block: another token
    engine.begin(StepPlan(1, (), (Chunk(a, 4, 2, True),)))
    assert list(engine.finish().token_ids) != first[:1]


def test_it_does_not_read_what_was_never_written():
    engine = ScriptedEngine(7, 4)
    with pytest.raises(KeyError):
        engine.begin(StepPlan(0, (), (Chunk(entering("a", 6, [0, 1]), 4, 2, True),)))


def test_a_poisoned_request_fails_the_whole_step_and_others_run_without_it():
    engine = ScriptedEngine(7, 4, poison={"a": "bitter"})
    a, b = entering("a", 4, [0]), entering("b", 4, [1])
    plan = StepPlan(0, (), (Chunk(a, 0, 4, True), Chunk(b, 0, 4, True)))
    with pytest.raises(RuntimeError, match="bitter"):
        engine.begin(plan)
    engine.begin(plan.part(plan.rows()[1:]))
    assert list(engine.finish().token_ids) == [echo_script(b.token_ids)]


def test_its_model_length_is_no_longer_than_its_cache():
    assert ScriptedEngine(7, 4).caps.max_model_len == 28
    assert ScriptedEngine(7, 4, max_model_len=9).caps.max_model_len == 9


@pytest.mark.parametrize("depth", [1, 2])
def test_a_step_ahead_it_uses_the_token_it_drew_itself(depth):
    host = Host(config(), depth=depth)
    asked = request("a", 5, max_tokens=9)
    host.add(asked)
    host.run()
    assert host.outputs["a"] == reference(asked)


@pytest.mark.parametrize("text", ["", "plain", "Grüße, 世界 🙂"])
def test_bytes_come_back_as_the_text_they_were(text):
    tokenizer = ByteTokenizer()
    stream = tokenizer.stream()
    pieces = [stream.push(token_id) for token_id in tokenizer.encode(text)]
    assert "".join(pieces) + stream.flush() == text
    assert not any("\ufffd" in piece for piece in pieces)


def test_half_a_character_is_held_back_and_shown_broken_at_the_end():
    stream = ByteTokenizer().stream()
    assert [stream.push(token_id) for token_id in "é".encode()[:1]] == [""]
    assert stream.flush() == "\ufffd"


def test_the_end_token_has_no_text():
    tokenizer = ByteTokenizer()
    assert tokenizer.stream().push(256) == ""
    assert tokenizer.token_bytes(256) == b""
    assert tokenizer.token_bytes(65) == b"A"


def test_a_conversation_ends_with_the_assistants_turn():
    tokens = ByteTokenizer().encode_chat([{"role": "user", "content": "hi"}])
    assert bytes(tokens).decode() == "user: hi\nassistant: "
