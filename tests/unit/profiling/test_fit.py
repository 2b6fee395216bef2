"""Fits recover what made the rows; the shipped profiles come out of the published tables again."""

import json
from pathlib import Path

import pytest

pytest.importorskip("scipy", reason="needs brim[profiling]: numpy and scipy")

from typer.testing import CliRunner

from brim.cli.main import app
from brim.core.errors import ConfigError
from brim.core.estimators.step_time import StepShape, StepTime, attention_pairs
from brim.profiles.loader import load, names
from brim.profiling.catalogue import RECIPES, recipe
from brim.profiling.check import deviation, differences
from brim.profiling.fitting import EVERYDAY_CONTEXT, Row, errors, everyday_first, fit, fit_step_time
from brim.profiling.gpus import gpu
from brim.profiling.models import PRESETS, model_sizes
from brim.profiling.roofline import roofline
from brim.profiling.tables import between, curve

DATA = Path(__file__).parents[4] / "shared" / "data" / "profiles"
TRUE = StepTime(8_000_000_000, 5_000_000, ((256, 12_000_000),), 700, 2_000_000, 45_000, 3_000_000, 9_000)
NEW_KERNELS = [name for name in names() if not name.startswith(("a100-opt-13b", "a100-opt-66b"))]
GPU_NAMES = {"a100": "a100-80g"}


def grid() -> list[StepShape]:
    decodes = [(n, n * context) for n in (1, 8, 32, 64, 128, 256) for context in (64, 500, 4000)]
    chunks = [(n, attention_pairs(n, start)) for n in (16, 128, 256, 400, 512, 2048) for start in (0, 3000)]
    alone = [StepShape(n, 0, n, context) for n, context in decodes]
    prompts = [StepShape(n, pairs) for n, pairs in chunks]
    return alone + prompts + [StepShape(n + m, pairs, n, c) for n, c in decodes for m, pairs in chunks]


def rows(time: StepTime) -> list[Row]:
    return [Row(shape, time.seconds(shape)) for shape in grid()]


def test_a_fit_recovers_the_coefficients_that_made_the_rows():
    found, told = fit(rows(TRUE))
    assert found.knees[0][0] == 256
    assert found.per_context_ps == pytest.approx(TRUE.per_context_ps, rel=1e-3)
    assert found.mixed_decode_ps == pytest.approx(TRUE.mixed_decode_ps, rel=1e-2)
    assert told.held_back.mape < 1e-4
    assert set(told.by_kind) == {"decode", "prefill", "mixed"}


def test_held_back_sizes_take_no_part_in_the_fit():
    spoilt = [row._replace(seconds=row.seconds * 3) if row.held_back else row for row in rows(TRUE)]
    found, told = fit(spoilt)
    assert found == fit(rows(TRUE))[0]
    assert told.fitted.mape < 1e-4
    assert told.held_back.mape == pytest.approx(2 / 3, abs=1e-3)


def test_rows_that_weigh_more_are_met_more_closely():
    far = [row for row in rows(TRUE) if row.longest_context > EVERYDAY_CONTEXT / 2]
    near = [row for row in rows(TRUE) if row.longest_context <= EVERYDAY_CONTEXT / 2]
    bent = near + [row._replace(seconds=row.seconds * 1.4) for row in far]

    def near_first(row: Row) -> float:
        return 1.0 if row.longest_context <= EVERYDAY_CONTEXT / 2 else 0.01

    assert errors(fit_step_time(bent, near_first), near).mape < errors(fit_step_time(bent), near).mape / 2


def test_everyday_rows_and_long_steps_weigh_more():
    chunk = Row(StepShape(100, attention_pairs(100, 5000)), 0.04)
    decodes = Row(StepShape(8, 0, 8, 8 * 300), 0.01)
    assert (chunk.longest_context, decodes.longest_context) == (5000, 300)
    assert everyday_first(chunk) == pytest.approx(0.3 * 0.2)
    assert everyday_first(decodes) == pytest.approx(0.1)


def test_no_coefficient_is_negative_even_where_that_would_fit_better():
    falling = [Row(shape, 0.01 / (1 + shape.new_tokens / 100)) for shape in grid()]
    found = fit_step_time(falling)  # StepTime refuses negative ones
    assert found.per_token_ps == 0
    assert errors(found, falling).mape > 0.1


def test_curves_are_straight_between_points_and_in_proportion_beyond():
    one = curve([(1, 10.0), (3, 30.0), (3, 50.0), (5, 50.0)])
    assert (one(2), one(3), one(10)) == (25.0, 40.0, 100.0)
    both = {10.0: one, 20.0: one.scaled(3)}
    assert (between(both, 15)(1), between(both, 40)(1)) == (20.0, 60.0)


@pytest.mark.parametrize("name", RECIPES)
def test_a_shipped_profile_comes_out_of_its_tables_again(name):
    if not DATA.is_dir():
        pytest.skip(
            "the published tables (shared/data/profiles) are not here; docs/profiles.md says what they are"
        )
    assert differences(recipe(name).make(name, DATA)) == []


def test_every_recipe_is_shipped_and_nothing_else():
    assert sorted(RECIPES) == names()


def test_missing_tables_are_named(tmp_path):
    with pytest.raises(ConfigError, match=r"h100_sxm.*csv\.gz is missing; --data must be"):
        recipe("h100-llama-3-8b").make("h100-llama-3-8b", tmp_path)
    with pytest.raises(ConfigError, match=r"did you mean h100-llama-3-8b\?"):
        recipe("h100-llama-3-8")


@pytest.mark.parametrize("name", NEW_KERNELS)
def test_a_roofline_lies_near_what_was_measured(name):
    fitted = load(name)
    key, model = name.split("-", 1)
    made = roofline("x", PRESETS[model], gpu(GPU_NAMES.get(key, key)), fitted.tensor_parallel)
    assert made.kind == "roofline"
    assert made.fit is None
    assert max(deviation(made, fitted).values()) < 0.21


def test_a_roofline_from_a_models_configuration(tmp_path):
    config = {
        "model_type": "llama",
        "hidden_size": 4096,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "num_hidden_layers": 32,
        "intermediate_size": 14336,
        "vocab_size": 128256,
        "tie_word_embeddings": False,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    made = roofline("x", model_sizes(str(tmp_path)), gpu("l40s"))
    assert made.step_time == roofline("x", PRESETS["llama-3-8b"], gpu("l40s")).step_time
    assert made.weight_bytes == pytest.approx(16.06e9, rel=0.01)
    with pytest.raises(ConfigError, match="leaves no KV cache"):
        roofline("x", PRESETS["llama-3-70b"], gpu("l40s"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_local_experts": 8}, "mixture of experts"),
        ({"quantization_config": {"bits": 4}}, "quantised"),
        ({"hidden_size": None}, "field hidden_size must be"),
    ],
)
def test_a_model_that_is_not_modelled_is_refused(tmp_path, change, message):
    config = {"hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2, "vocab_size": 100} | change
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=message):
        model_sizes(str(tmp_path / "config.json"))


def test_the_commands(tmp_path):
    run = CliRunner().invoke
    listed = json.loads(run(app, ["profile", "list", "--json"]).stdout)
    assert [one["name"] for one in listed] == names()
    shown = run(app, ["profile", "show", "h100-llama-3-8b"]).stdout
    assert "TensorRT-LLM" in shown
    path = tmp_path / "mine.json"
    made = run(app, ["profile", "roofline", "--model-config", "llama-3-8b", "--gpu", "l40s", "-o", str(path)])
    assert "analytic, not measured" in made.stdout
    assert load(path).name == "mine"


def test_gpus_that_cannot_share_the_heads_alike_are_refused():
    with pytest.raises(ConfigError, match=r"does not divide the 32 .* give one of 1, 2, 4, 8, 16, 32"):
        roofline("x", PRESETS["llama-3-8b"], gpu("h100"), 3)
    with pytest.raises(ConfigError, match=r"28 attention and 4 KV heads .* give one of 1, 2, 4, 28"):
        roofline("x", PRESETS["qwen2.5-7b"], gpu("h100"), 7)


def test_more_gpus_than_kv_heads_hold_copies_of_them():
    """8 KV heads on 16 GPUs: each has one, so all together have every one twice."""
    model = PRESETS["llama-3-8b"]
    of_eight, of_sixteen = (roofline("x", model, gpu("h100"), gpus) for gpus in (8, 16))
    assert of_eight.kv_bytes_per_token == model.kv_bytes_per_token
    assert of_sixteen.kv_bytes_per_token == 2 * model.kv_bytes_per_token
    assert of_sixteen.step_time.per_context_ps == of_eight.step_time.per_context_ps


def test_a_roofline_into_no_folder_is_refused_and_makes_none(tmp_path):
    path = tmp_path / "none" / "x.json"
    asked = ["profile", "roofline", "--model-config", "llama-3-8b", "--gpu", "h100", "-o", str(path)]
    failure = CliRunner().invoke(app, asked).exception
    assert isinstance(failure, ConfigError)
    assert f"there is no folder {path.parent}; make it first" in str(failure)
    assert not path.parent.exists()
