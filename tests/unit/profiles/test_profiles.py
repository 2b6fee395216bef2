"""Every shipped profile is whole and sane; a file that isn't says where."""

import json
from dataclasses import replace

import pytest

from brim.core.errors import ConfigError
from brim.core.estimators.step_time import StepShape, attention_pairs
from brim.profiles.loader import FOLDER, as_json, load, names

SHAPES = [
    StepShape(1, 0, 1, 1),
    StepShape(32, 0, 32, 32 * 500),
    StepShape(512, attention_pairs(512)),
    StepShape(160, attention_pairs(128, 1000), 32, 32 * 500),
]


@pytest.fixture(params=names())
def profile(request):
    return load(request.param)


def test_the_profiles_of_the_table_are_shipped():
    assert {"a100-opt-13b", "h100-llama-3-8b", "rtxpro6000-llama-3.1-8b"} < set(names())


def test_a_shipped_profile_is_named_as_its_file_and_written_as_it_was_read(profile):
    assert (FOLDER / f"{profile.name}.json").read_text() == as_json(profile)


def test_times_rise_with_every_size(profile):
    for shape in SHAPES:
        time = profile.step_time.picoseconds(shape)
        assert time > 0
        for field in StepShape._fields:
            larger = shape._replace(**{field: getattr(shape, field) + 7})
            if larger.num_decodes <= larger.new_tokens:
                assert profile.step_time.picoseconds(larger) >= time


def test_a_decode_step_takes_milliseconds_and_a_target_size_is_within_a_step(profile):
    assert 0.004 < profile.step_time.seconds(StepShape(1, 0, 1, 500)) < 0.05
    assert 128 <= profile.target_forward_tokens <= 4096


def test_a_quiet_stretch_is_a_line(profile):
    fixed, per_context = profile.step_time.line(40)
    for context in (40, 1_000, 100_000):
        shape = StepShape(40, 0, 40, context)
        assert profile.step_time.picoseconds(shape) == fixed + per_context * context


def test_sizes_held_back_from_the_fit_are_met_within_ten_percent(profile):
    assert profile.kind == "fitted"
    assert profile.fit.held_back.rows > 50
    assert profile.fit.held_back.mape <= 0.10
    assert all(errors.mape <= 0.10 for errors in profile.fit.by_kind.values())


def test_the_cache_holds_what_memory_leaves(profile):
    memory = profile.memory
    left = int(memory.memory_bytes * 0.9) - memory.weight_bytes - memory.activation_bytes
    assert profile.kv_tokens(0.9) == left // memory.kv_bytes_per_token
    assert profile.kv_tokens(0.8) < profile.kv_tokens(0.9)
    with pytest.raises(ConfigError, match="leaves no KV cache"):
        profile.kv_tokens(0.1)


def test_a_published_capacity_wins_where_no_share_is_given():
    profile = load("a100-opt-13b")
    assert profile.kv_tokens() == 66_144
    unpublished = replace(profile, memory=replace(profile.memory, published=None))
    assert unpublished.kv_tokens() == profile.kv_tokens(0.9)


def test_an_unknown_name_gets_the_nearest_one():
    with pytest.raises(ConfigError, match=r"did you mean h100-llama-3-8b\?.*a100-opt-13b"):
        load("h100-llama3-8b")
    with pytest.raises(ConfigError, match=r"can't read the profile .*nowhere\.json"):
        load("nowhere.json")


def without(body, name):
    return {key: value for key, value in body.items() if key != name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda body: body | {"format": 99}, "field format is 99.*update Brim"),
        (lambda body: without(body, "format"), "field format is None.*make it anew"),
        (lambda body: without(body, "step_time"), "field step_time is missing"),
        (lambda body: body | {"extra": 1}, "field extra is not known"),
        (lambda body: body | {"kind": "guessed"}, "field kind is 'guessed'.*fitted, roofline"),
        (lambda body: body | {"gpu": 5}, "field gpu is 5, and must be str"),
        (lambda body: body | {"target_forward_tokens": True}, "field target_forward_tokens is True"),
        (lambda body: body | {"step_time": []}, "field step_time is .*an object"),
        (lambda body: body | {"step_time": body["step_time"] | {"knees": [[1]]}}, r"knees\[0\].*a list of 2"),
        (
            lambda body: body | {"step_time": body["step_time"] | {"per_pair_ps": -1}},
            "field step_time: .*negative",
        ),
        (lambda body: [], "one JSON object"),
    ],
)
def test_a_file_that_is_not_right_says_which_field(tmp_path, change, message):
    body = json.loads((FOLDER / "a100-opt-13b.json").read_text())
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(change(body)))
    with pytest.raises(ConfigError, match=message) as caught:
        load(path)
    assert str(path) in str(caught.value)
