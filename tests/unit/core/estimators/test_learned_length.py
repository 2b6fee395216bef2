"""Trees in plain Python, their file, and the correction of a model that is off."""

from __future__ import annotations

import dataclasses
import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brim.core.errors import ConfigError
from brim.core.estimators.learned_length import (
    FEATURES,
    NUM_FEATURES,
    WORDS,
    Learned,
    LengthModel,
    Tree,
    features,
    log_tokens,
    prompt_words,
)
from brim.core.estimators.response_length import History
from brim.core.estimators.served_length import ServedLength
from brim.core.request import Request, SamplingParams, TaskClass

STUMP = Tree([0, 0, 0], [log_tokens(100), 0.0, 0.0], [1, -1, -1], [2, -1, -1], [0.0, 1.0, 2.0])
MODEL = LengthModel(0.7, 6.0, [STUMP, STUMP])  # up to 100 prompt tokens 2**8 - 1, with more 2**10 - 1


def asked(prompt: int = 10, max_tokens: int = 4096, request_id: str = "r") -> Request:
    return Request(request_id, range(prompt), SamplingParams(max_tokens=max_tokens))


def test_trees_by_example() -> None:
    learned = Learned(MODEL)
    assert learned.predict(asked(100), 0) == 255
    assert Learned(MODEL).predict(asked(101), 0) == 1023
    assert learned.predict(asked(100), 254) == 255
    assert learned.predict(asked(100), 255) == 512  # outgrown: what the history says before it knows


@given(st.integers(0, 500), st.integers(0, 600), st.integers(1, 600), st.floats(-5, 40))
def test_a_prediction_is_over_what_there_is_and_within_the_limit(
    prompt: int, generated: int, max_tokens: int, baseline: float
) -> None:
    generated = min(generated, max_tokens - 1)
    learned = Learned(dataclasses.replace(MODEL, baseline=baseline))
    assert generated < learned.predict(asked(prompt, max_tokens), generated) <= max_tokens


def test_features_are_named_and_exact_in_single_precision() -> None:
    import struct

    history = History(min_lengths=1)
    history.observe(asked(), 77)
    sampling = SamplingParams(max_tokens=300, temperature=0.7)
    request = Request("r", range(1000), sampling, TaskClass.OFFLINE)
    values = features(request, history, [0, WORDS - 1])
    assert len(values) == NUM_FEATURES == len(FEATURES) + WORDS
    known = dict(zip(FEATURES, values, strict=False))
    assert known["log2_max_tokens"] == log_tokens(300)
    assert known["offline"] == 1
    assert known["log2_history_0.5"] == 0  # nothing is known of offline requests
    assert features(asked(), history, ())[4] == log_tokens(77)
    assert [i for i, value in enumerate(values[len(FEATURES) :]) if value] == [0, WORDS - 1]
    assert list(struct.unpack(f"{len(values)}f", struct.pack(f"{len(values)}f", *values))) == values


@given(st.lists(st.integers(0, 200_000), max_size=300))
def test_words_are_of_both_ends_of_the_prompt(tokens: list[int]) -> None:
    words = prompt_words(Request("r", tuple(tokens)))
    assert words == sorted(set(words))
    assert all(0 <= word < WORDS for word in words)
    ends = tokens[:64] + tokens[64:][-64:]
    assert words == prompt_words(Request("r", ends))


@pytest.mark.parametrize("true", [100, 255, 600])
def test_a_model_that_is_off_is_corrected_to_its_quantile(true: int) -> None:
    """The model says 255 for all; the truth is spread around `true`."""
    learned, draw = Learned(MODEL), random.Random(0)
    covered = 0
    for number in range(4000):
        request = asked(request_id=str(number))
        predicted = learned.predict(request, 0)
        actual = max(1, round(true * draw.uniform(0.5, 1.5)))
        covered += number >= 1000 and actual <= predicted
        learned.observe(request, actual)
    assert covered / 3000 == pytest.approx(0.7, abs=0.02)
    assert learned.correction == pytest.approx(true * 1.2 / 255, rel=0.15)


def test_an_answer_cut_off_by_its_limit_corrects_nothing() -> None:
    learned = Learned(MODEL)
    request = asked(max_tokens=50)
    assert learned.predict(request, 0) == 50
    learned.observe(request, 50)
    assert learned.correction == 1


def test_a_model_is_the_same_after_its_file() -> None:
    text = MODEL.to_json(rows=3)
    assert LengthModel.from_json(text) == MODEL
    assert json.loads(text)["rows"] == 3


@pytest.mark.parametrize(
    "change",
    [
        {"format": "brim-length-model-0"},
        {"features": ["log2_prompt_tokens"]},
        {"baseline": "much"},
        {"trees": [{"feature": [0], "threshold": [0.0], "left": [0], "right": [0], "value": [0.0]}]},
        {"trees": [{"feature": [0], "threshold": [0.0], "left": [-1], "right": [-1], "value": [1e999]}]},
        {"trees": [{"feature": [], "threshold": [], "left": [], "right": [], "value": []}]},
        {"trees": [{"left": [-1]}]},
        {"trees": 3},
    ],
)
def test_a_file_that_is_no_model_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="train-lengths"):
        LengthModel.from_json(json.dumps({**json.loads(MODEL.to_json()), **change}))


@pytest.mark.parametrize("text", ["", "[]", "null", "{", '{"format": 1}'])
def test_what_is_not_even_an_object_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="train-lengths"):
        LengthModel.from_json(text)


def test_a_served_request_is_a_line_and_a_request_again() -> None:
    sampling = SamplingParams(max_tokens=30, temperature=0.25)
    request = Request("r", (7, 8, 9), sampling, TaskClass.OFFLINE, length_keys=("job:a",))
    served = ServedLength.of(request, 12)
    assert ServedLength.from_json(served.to_json()) == served
    assert served.words == tuple(prompt_words(request))
    again = served.request("r")
    assert ServedLength.of(again, 12) == dataclasses.replace(served, words=tuple(prompt_words(again)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"output_tokens": 31}, "contradict"),
        ({"prompt_tokens": -1}, "contradict"),
        ({"max_tokens": "many"}, "no served request"),
        ({"task_class": "urgent"}, "urgent"),
        ({"words": [WORDS]}, "words"),
    ],
)
def test_a_line_that_can_not_be_is_refused(change: dict[str, object], message: str) -> None:
    served = ServedLength(3, 30, TaskClass.ONLINE, 1.0, (), (), 12)
    line = {**json.loads(served.to_json()), **change}
    with pytest.raises(ConfigError, match=message):
        ServedLength.from_json(json.dumps(line))


def test_a_line_without_a_field_is_refused_by_its_name() -> None:
    with pytest.raises(ConfigError, match="it has no 'prompt_tokens'"):
        ServedLength.from_json("{}")
