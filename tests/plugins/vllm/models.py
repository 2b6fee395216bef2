"""Llama and Gemma models with random weights and a byte-level tokenizer, made on this machine."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import Gemma3ForCausalLM, Gemma3TextConfig, LlamaConfig, LlamaForCausalLM

from brim.engines.local import builtin
from tests.plugins.vllm import sources

VERSION = 1  # of the files; raise it when what is written below changes
SEED = 0
SIZES: dict[str, dict[str, int]] = {
    "tiny": {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2},
    "25m": {"hidden_size": 512, "num_hidden_layers": 8, "num_attention_heads": 8, "num_key_value_heads": 4},
    "120m": {
        "hidden_size": 960,
        "num_hidden_layers": 12,
        "num_attention_heads": 15,
        "num_key_value_heads": 5,
    },
}
LLAMA_3_8B = {
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "vocab_size": 128_256,
}
WINDOWS = "windows"  # half of its layers attend to a window of two blocks
SHAPES = {"llama-3-8b": LLAMA_3_8B}  # without weights: vLLM draws them where they are needed
MAX_MODEL_LEN = 4096


def ensure(size: str = "tiny") -> Path:
    """The folder of the model of that size, made when it is not there yet.

    Sizes: the keys of `SIZES`, `WINDOWS`, and those of `SHAPES`, which need `load_format="dummy"`.
    """
    if size == WINDOWS:
        return sources.once(sources.cache_folder() / f"gemma-{size}-{VERSION}", write_with_windows)
    return sources.once(sources.cache_folder() / f"llama-{size}-{VERSION}", lambda draft: write(draft, size))


def write(folder: Path, size: str) -> None:
    """Writes model (float32) and tokenizer, the same ones every time.

    The weights are large enough for greedy answers that vary and depend on every token of the prompt.
    """
    tokenizer = builtin.make_tokenizer()
    tokenizer.save_pretrained(folder)
    shape = SIZES.get(size) or SHAPES[size]
    defaults = {"vocab_size": len(tokenizer), "intermediate_size": 3 * shape["hidden_size"]}
    config = LlamaConfig(
        **(defaults | shape),
        max_position_embeddings=MAX_MODEL_LEN,
        initializer_range=2 * shape["hidden_size"] ** -0.5,
        tie_word_embeddings=False,  # tied ones would repeat the last token
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    if size in SHAPES:
        config.architectures = ["LlamaForCausalLM"]
        config.save_pretrained(folder)
        return
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        LlamaForCausalLM(config).save_pretrained(folder)


def write_with_windows(folder: Path) -> None:
    """A Gemma 3, of which vLLM keeps the KV cache of two kinds of layers in one pool."""
    tokenizer = builtin.make_tokenizer()
    tokenizer.save_pretrained(folder)
    config = Gemma3TextConfig(
        **SIZES["tiny"] | {"num_hidden_layers": 4, "head_dim": 32, "query_pre_attn_scalar": 32},
        vocab_size=len(tokenizer),
        intermediate_size=384,
        sliding_window=64,
        layer_types=["sliding_attention", "full_attention"] * 2,
        max_position_embeddings=MAX_MODEL_LEN,
        initializer_range=2 * 128**-0.5,
        tie_word_embeddings=False,
        bos_token_id=None,
        pad_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        Gemma3ForCausalLM(config).save_pretrained(folder)


def adapter(number: int) -> Path:
    """The folder of a LoRA adapter for the model `tiny`, which changes its answers."""
    folder = sources.cache_folder() / f"lora-{number}-{VERSION}"
    return sources.once(folder, lambda draft: write_adapter(draft, number))


def write_adapter(folder: Path, number: int) -> None:
    shape, rank = SIZES["tiny"], 4
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "target_modules": ["o_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    draw, weights = torch.Generator().manual_seed(number), {}
    for layer in range(shape["num_hidden_layers"]):
        name, hidden = f"base_model.model.model.layers.{layer}.self_attn.o_proj", shape["hidden_size"]
        weights[f"{name}.lora_A.weight"] = torch.randn(rank, hidden, generator=draw)
        weights[f"{name}.lora_B.weight"] = torch.randn(hidden, rank, generator=draw)
    save_file(weights, folder / "adapter_model.safetensors")
