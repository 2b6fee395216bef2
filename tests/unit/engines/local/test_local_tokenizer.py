from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from brim.core.errors import RequestRefused
from brim.engines.local.tokenizer import HFTokenizer


def spoken(tokenizer: HFTokenizer, ids: list[int]) -> list[str]:
    stream = tokenizer.stream()
    return [*(stream.push(token) for token in ids), stream.flush()]


@pytest.fixture(scope="module")
def fallback() -> HFTokenizer:
    """Like a sentencepiece vocabulary: words begin with a mark, unknown characters fall back to bytes."""
    words = [
        "<unk>",
        "</s>",
        "▁",
        "▁hello",
        "▁world",
        "a",
        "llo",
        *(f"<0x{byte:02X}>" for byte in range(256)),
    ]
    vocabulary = {word: at for at, word in enumerate(words)}
    backend = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return HFTokenizer(PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", unk_token="<unk>"))


ADDED = [
    AddedToken("▁▁", normalized=False),
    AddedToken("▁▁▁", normalized=True),
    AddedToken("<start>", normalized=False),
    AddedToken("<|reserved_1|>", special=True),
    AddedToken("<|im_end|>", special=True, normalized=False),
]
WORDS = ["a", "b", "▁", "▁hello", "Ġthe", "é", "日", "Ã©"]


def with_added_tokens(decoder: Any) -> Any:
    """Runs of spaces as added tokens, like Gemma's; special tokens of no role, like Llama's."""
    backend = Tokenizer(models.BPE({word: at for at, word in enumerate(["</s>", *WORDS])}, []))
    backend.decoder = decoder
    backend.add_tokens(ADDED)
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>")


GEMMA_LIKE = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])


@pytest.mark.parametrize(
    "decoder", [GEMMA_LIKE, decoders.Metaspace(prepend_scheme="never"), decoders.ByteLevel()]
)
@settings(max_examples=50, deadline=None)
@given(ids=st.lists(st.integers(0, len(WORDS) + len(ADDED)), max_size=12))
def test_the_streamed_text_is_the_decoded_one(decoder: Any, ids: list[int]) -> None:
    inner = with_added_tokens(decoder)
    assert "".join(spoken(HFTokenizer(inner), ids)) == inner.decode(ids, skip_special_tokens=True)


@settings(max_examples=100, deadline=None)
@given(text=st.text(max_size=40).filter(lambda text: "<|" not in text))
def test_any_text_comes_back_whole(tokenizer: HFTokenizer, text: str) -> None:
    assert "".join(spoken(tokenizer, tokenizer.encode(text))) == text


def test_never_half_a_character(tokenizer: HFTokenizer) -> None:
    pieces = spoken(tokenizer, tokenizer.encode("né 😀!"))
    assert "".join(pieces) == "né 😀!"
    assert "😀" in pieces
    assert not any("\ufffd" in piece for piece in pieces)


def test_what_stays_incomplete_is_said_at_the_end(tokenizer: HFTokenizer) -> None:
    pieces = spoken(tokenizer, tokenizer.encode("😀")[:2])
    assert pieces[:-1] == ["", ""]
    assert pieces[-1] == "\ufffd"


def test_a_broken_character_holds_nothing_back(tokenizer: HFTokenizer) -> None:
    first = tokenizer.encode("😀")[0]
    assert "".join(spoken(tokenizer, [first, *tokenizer.encode("ok")])) == "\ufffdok"


def test_special_tokens_are_not_said(tokenizer: HFTokenizer) -> None:
    (end,) = tokenizer.eos_token_ids
    assert spoken(tokenizer, [end, *tokenizer.encode(" the"), end]) == ["", " the", "", ""]
    assert tokenizer.token_bytes(end) == b"<|endoftext|>"


def test_bytes_of_a_byte_level_token(tokenizer: HFTokenizer) -> None:
    ids = tokenizer.encode(" the ö")
    assert b"".join(map(tokenizer.token_bytes, ids)) == " the ö".encode()
    assert tokenizer.token_bytes(10_000) == b""


def test_bytes_with_byte_fallback(fallback: HFTokenizer) -> None:
    assert fallback.token_bytes(3) == b" hello"
    assert fallback.token_bytes(6) == b"llo"
    assert fallback.token_bytes(7 + 0xC3) == b"\xc3"
    assert spoken(fallback, [3, 7 + 0xC3, 7 + 0xB6, 4, 1]) == [" hello", "", "ö", " world", "", ""]
    assert fallback.eos_token_ids == {1}


def test_a_conversation_becomes_tokens(tokenizer: HFTokenizer) -> None:
    ids = tokenizer.encode_chat([{"role": "user", "content": "hi"}])
    said = b"".join(map(tokenizer.token_bytes, ids))
    assert said == b"<|user|>hi<|end|><|assistant|>"


def test_no_chat_template_is_refused(fallback: HFTokenizer) -> None:
    with pytest.raises(RequestRefused, match="no chat template") as refusal:
        fallback.encode_chat([{"role": "user", "content": "hi"}])
    assert (refusal.value.param, refusal.value.code) == ("messages", "no_chat_template")


def test_messages_a_template_refuses_are_refused(loaded: Any) -> None:
    inner = loaded[1]._tokenizer
    strict = "{% if messages[0].role != 'user' %}{{ raise_exception('user first') }}{% endif %}"
    before, inner.chat_template = inner.chat_template, strict
    try:
        with pytest.raises(RequestRefused, match="user first"):
            loaded[1].encode_chat([{"role": "assistant", "content": "hi"}])
    finally:
        inner.chat_template = before
