from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, T5Config

from brim.core.errors import ConfigError, ModelRefused
from brim.engines.local import builtin, device
from brim.engines.local.load import load

CPU: dict[str, Any] = {"dtype": "float32", "device": "cpu"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small GPT-2 that ends with token 5 or 6."""
    config = GPT2Config(vocab_size=64, n_positions=128, n_embd=32, n_layer=2, n_head=2, eos_token_id=None)
    model = GPT2LMHeadModel(config)
    model.generation_config.eos_token_id = [5, 6]
    model.save_pretrained(tmp_path)
    builtin.make_tokenizer().save_pretrained(tmp_path)
    return tmp_path


def test_the_builtin_model_is_made_once_and_says_what_it_is(tmp_path: Path) -> None:
    told: list[str] = []
    engine, _ = load(cache_dir=tmp_path, num_blocks=8, progress=told.append, **CPU)
    assert engine.caps.model == "builtin"
    assert engine.caps.note is not None
    assert "mean nothing" in engine.caps.note
    assert any("Loading builtin" in text for text in told)
    (made,) = tmp_path.iterdir()
    before = {path.name: path.stat().st_mtime_ns for path in made.iterdir()}
    load("builtin", cache_dir=tmp_path, num_blocks=8, **CPU)
    assert {path.name: path.stat().st_mtime_ns for path in made.iterdir()} == before


def test_the_builtin_model_is_always_the_same(tmp_path: Path) -> None:
    one, other = builtin.ensure(tmp_path / "one"), builtin.ensure(tmp_path / "other")
    for name in ("model.safetensors", "tokenizer.json", "config.json"):
        assert (one / name).read_bytes() == (other / name).read_bytes()


def test_it_needs_no_cache_folder() -> None:
    engine, _ = load(num_blocks=8, **CPU)
    assert engine.caps.num_blocks == 8


def test_a_half_made_builtin_model_is_never_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(tokenizer: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(builtin, "make_model", stop)
    with pytest.raises(KeyboardInterrupt):
        builtin.ensure(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_sizes_of_the_kv_cache(folder: Path) -> None:
    per_block = 2 * 2 * 32 * 4 * 16  # keys and values, layers, width, bytes, slots
    assert load(str(folder), num_blocks=5, **CPU)[0].caps.num_blocks == 5
    assert load(str(folder), kv_cache_bytes=7 * per_block + 1, **CPU)[0].caps.num_blocks == 7
    assert load(str(folder), num_blocks=5, block_size=8, **CPU)[0].caps.block_size == 8
    with pytest.raises(ConfigError, match="no memory is left"):
        load(str(folder), kv_cache_bytes=per_block - 1, **CPU)


def test_the_default_is_a_modest_share_of_memory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "_available_bytes", lambda: 1 << 20)
    assert load(str(folder), **CPU)[0].caps.num_blocks == (1 << 18) // 8192


@pytest.mark.parametrize(("blocks", "wanted", "got"), [(100, None, 128), (100, 50, 50), (4, None, 64)])
def test_max_model_len_is_what_all_can_hold(folder: Path, blocks: int, wanted: int | None, got: int) -> None:
    engine, _ = load(str(folder), num_blocks=blocks, max_model_len=wanted, **CPU)
    assert engine.caps.max_model_len == got


@pytest.mark.parametrize(("blocks", "wanted"), [(100, 129), (4, 65)])
def test_a_length_that_can_not_be_held_is_refused(folder: Path, blocks: int, wanted: int) -> None:
    with pytest.raises(ConfigError, match=f"max_model_len {wanted} is more than"):
        load(str(folder), num_blocks=blocks, max_model_len=wanted, **CPU)


def test_ends_come_from_generation_config_and_tokenizer(folder: Path) -> None:
    assert load(str(folder), num_blocks=8, **CPU)[1].eos_token_ids == {0, 5, 6}


def test_two_engines_at_once_do_not_mix(folder: Path, builtin_folder: Path) -> None:
    one, _ = load(str(folder), num_blocks=8, **CPU)
    other, _ = load(str(builtin_folder), num_blocks=8, **CPU)
    assert (one.caps.vocab_size, other.caps.vocab_size) != (0, 0)
    for engine in (one, other, one):
        assert engine._paged is not None
        logits = engine._paged.step(*_two_tokens())
        assert logits.shape == (1, engine.caps.vocab_size)


def _two_tokens() -> tuple[Any, ...]:
    import numpy as np

    return np.array([1, 2]), np.array([2]), np.array([0]), [[0]], np.array([0])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "config.json").unlink(), "no config.json"),
        (lambda folder: (folder / "model.safetensors").unlink(), r"no \*.safetensors"),
        (lambda folder: [path.unlink() for path in folder.glob("tokenizer*")], "no tokenizer"),
        (lambda folder: (folder / "config.json").write_text("{}"), "can't be read"),
    ],
)
def test_a_folder_that_lacks_something(folder: Path, spoil: Any, message: str) -> None:
    spoil(folder)
    with pytest.raises(ConfigError, match=message):
        load(str(folder), **CPU)


def test_weights_that_are_missing_are_not_made_up(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "n_layer": 3}))
    with pytest.raises(ModelRefused, match="lack 12 of its weights"):
        load(str(folder), **CPU)


def test_an_encoder_decoder_is_refused(folder: Path) -> None:
    T5Config().save_pretrained(folder)
    with pytest.raises(ModelRefused, match="encoder-decoder"):
        load(str(folder), **CPU)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no model folder"):
        load(str(tmp_path / "nothing"), **CPU)


def test_offline_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match="hf download someone/some-model"):
        load("someone/some-model", **CPU)


@pytest.mark.parametrize(
    ("setting", "message"),
    [({"device": "abacus"}, "abacus"), ({"device": "meta"}, "not served"), ({"dtype": "int3"}, "int3")],
)
def test_settings_that_mean_nothing(setting: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(**{**CPU, **setting})


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there() -> None:
    with pytest.raises(ConfigError, match="no CUDA device"):
        load(device="cuda")


@pytest.mark.parametrize(
    ("flags", "expected"), [("avx2 avx512_bf16", torch.bfloat16), ("avx2", torch.float32)]
)
def test_dtype_auto_follows_the_cpu(
    flags: str, expected: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "read_text", lambda self: flags)
    assert device.pick_dtype("auto", torch.device("cpu")) == expected


def test_bfloat16_runs_too(folder: Path) -> None:
    assert load(str(folder), num_blocks=8, dtype="bfloat16", device="cpu")[0].caps.dtype == "bfloat16"


def test_importing_the_protocol_does_not_import_torch() -> None:
    code = "import sys, brim.engines.base, brim.engines.local; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
