"""Llama models with random weights and a byte-level tokenizer, made on this machine."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

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
SHAPES = {"llama-3-8b": LLAMA_3_8B}  # without weights: vLLM draws them where they are needed
MAX_MODEL_LEN = 4096


def ensure(size: str = "tiny") -> Path:
    """The folder of the model of that size, made when it is not there yet.

    Sizes: the keys of `SIZES`, and of `SHAPES`, which need `load_format="dummy"`.
    """
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
