"""Does the local engine say what `model.generate` says? Asked of many architectures, with random weights.

    python -m tests.conformance.architectures            the table, over all of them
    python -m tests.conformance.architectures llama opt  over these

Every architecture either passes or is refused by the gate with a reason; the script exits with 1 where
one runs and says something else.
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils import logging

from brim.core.errors import ModelRefused
from brim.engines.local import builtin
from brim.engines.local.load import load
from tests.conformance.local_driver import Driver, greedy

VOCAB = 128
NUM_TOKENS = 24
SCENES: list[dict[str, Any]] = [
    {},
    {"chunk": 7, "share": True},
    {"chunk": 19, "share": True, "preempt_every": 5},
]
WINDOW = 24
SMALL: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 256,
    "initializer_range": 0.25,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
    "tie_word_embeddings": False,  # tied ones would repeat the last token
}
MOE = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48}
EXPERTS = {**MOE, "n_routed_experts": 4}
MLA = {"q_lora_rank": 24, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 16, "v_head_dim": 12}
DEEPSEEK = {**MLA, "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48}
DEEPSEEK |= {"n_group": 2, "topk_group": 1, "first_k_dense_replace": 1, "n_shared_experts": 1}
DEEPSEEK |= {"head_dim": 8, "num_key_value_heads": 4}
OMIT = object()  # the model type does not take this one
HYBRID = ["sliding_attention", "full_attention", "sliding_attention"]
SLIDING = {"sliding_window": WINDOW, "layer_types": HYBRID}


def rope(kind: str, **more: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 10000.0, **more}}


# name -> model type, and what differs from SMALL
ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama3-rope": (
        "llama",
        rope(
            "llama3",
            factor=4.0,
            low_freq_factor=1.0,
            high_freq_factor=4.0,
            original_max_position_embeddings=64,
        ),
    ),
    "llama-yarn": ("llama", rope("yarn", factor=4.0, original_max_position_embeddings=64)),
    "llama-dynamic": ("llama", {"max_position_embeddings": 32, **rope("dynamic", factor=4.0)}),
    "mistral": ("mistral", {"sliding_window": WINDOW}),
    "ministral": ("ministral", SLIDING),
    "mixtral": ("mixtral", {**MOE, "sliding_window": WINDOW}),
    "qwen2": ("qwen2", {}),
    "qwen2-sliding": ("qwen2", {"use_sliding_window": True, **SLIDING}),
    "qwen2_moe": ("qwen2_moe", {**MOE, "shared_expert_intermediate_size": 48}),
    "qwen3": ("qwen3", {}),
    "qwen3_moe": ("qwen3_moe", MOE),
    "gemma": ("gemma", {}),
    "gemma2": ("gemma2", {**SLIDING, "attn_logit_softcapping": 5.0, "query_pre_attn_scalar": 16}),
    "gemma3_text": ("gemma3_text", {**SLIDING, "query_pre_attn_scalar": 16}),
    "phi": ("phi", {}),
    "phi3": ("phi3", {"sliding_window": WINDOW}),
    "phimoe": ("phimoe", {**MOE, "sliding_window": WINDOW}),
    "gpt2": ("gpt2", {}),
    "gpt_neox": ("gpt_neox", {}),
    "gpt_oss": ("gpt_oss", {**MOE, **SLIDING, **rope("default")}),
    "opt": ("opt", {"ffn_dim": 96, "word_embed_proj_dim": 64}),
    "olmo": ("olmo", {}),
    "olmo2": ("olmo2", {}),
    "olmo3": ("olmo3", SLIDING),
    "olmoe": ("olmoe", MOE),
    "starcoder2": ("starcoder2", {"sliding_window": WINDOW}),
    "stablelm": ("stablelm", {}),
    "cohere": ("cohere", {}),
    "cohere2": ("cohere2", SLIDING),
    "granite": ("granite", {}),
    "granitemoe": ("granitemoe", MOE),
    "glm": ("glm", {}),
    "glm4": ("glm4", {}),
    "glm4_moe": ("glm4_moe", {**MOE, "n_routed_experts": 4, "first_k_dense_replace": 1}),
    "deepseek_v2": ("deepseek_v2", DEEPSEEK),
    "deepseek_v3": ("deepseek_v3", DEEPSEEK),
    "smollm3": ("smollm3", {}),
    "helium": ("helium", {}),
    "nemotron": ("nemotron", {}),
    "persimmon": ("persimmon", {}),
    "exaone4": ("exaone4", SLIDING),
    "ernie4_5": ("ernie4_5", {}),
    "ernie4_5_moe": ("ernie4_5_moe", {**MOE, "moe_num_experts": 4, "moe_k": 2}),
    "hunyuan_v1_dense": ("hunyuan_v1_dense", rope("default")),
    "seed_oss": ("seed_oss", {}),
    "arcee": ("arcee", {}),
    "apertus": ("apertus", {}),
    "bitnet": ("bitnet", {}),
    "dots1": ("dots1", {**MOE, "n_routed_experts": 4, "n_group": 1, "topk_group": 1, "n_shared_experts": 1}),
    "biogpt": ("biogpt", {}),
    "xglm": ("xglm", {"d_model": 64, "ffn_dim": 96, "num_layers": 3, "attention_heads": 4}),
    "gpt_bigcode": ("gpt_bigcode", {}),
    "diffllama": ("diffllama", {}),
    "llama4_text": ("llama4_text", {**MOE, "intermediate_size_mlp": 96, "attention_chunk_size": 32}),
    "gemma3n_text": ("gemma3n_text", {"num_kv_shared_layers": 1, "sliding_window": WINDOW}),
    "jetmoe": ("jetmoe", {**MOE, "kv_channels": 16}),
    "phi3-longrope": (
        "phi3",
        rope("longrope", short_factor=[1.0] * 8, long_factor=[4.0] * 8, original_max_position_embeddings=32)
        | {"original_max_position_embeddings": 32},
    ),
    "bloom": ("bloom", {}),
    "mpt": ("mpt", {"d_model": 64, "n_heads": 4, "n_layers": 3}),
    "falcon": ("falcon", {"head_dim": OMIT}),
    "gptj": ("gptj", {"rotary_dim": 8}),
    "codegen": ("codegen", {"rotary_dim": 8}),
    "gpt_neo": ("gpt_neo", {"num_layers": 3, "attention_types": [[["global", "local", "local"], 1]]}),
    "mamba": ("mamba", {}),
    "mamba2": ("mamba2", {"head_dim": 16, "num_heads": 8, "expand": 2, "n_groups": 2}),
    "rwkv": ("rwkv", {}),
    "jamba": ("jamba", {"num_experts": 2, "use_mamba_kernels": False}),
    "bamba": (
        "bamba",
        {"mamba_n_heads": 8, "mamba_d_head": 16, "mamba_expand": 2, "attn_layer_indices": [1]},
    ),
    "falcon_h1": ("falcon_h1", {"mamba_d_ssm": 64, "mamba_n_heads": 4, "mamba_d_head": 16}),
    "lfm2": ("lfm2", {"layer_types": ["conv", "full_attention", "conv"]}),
    "qwen3_next": ("qwen3_next", {**MOE, "shared_expert_intermediate_size": 48}),
    "recurrent_gemma": ("recurrent_gemma", {"attention_window_size": WINDOW, "lru_width": 64}),
    "minimax": ("minimax", MOE),
    "minimax_m2": ("minimax_m2", {**MOE, "rotary_dim": 8}),
    "vaultgemma": ("vaultgemma", {**SLIDING, "query_pre_attn_scalar": 16}),
    "gemma4_text": ("gemma4_text", {**SLIDING, "global_head_dim": 32, "hidden_size_per_layer_input": 0}),
    "flex_olmo": ("flex_olmo", MOE),
    "hunyuan_v1_moe": ("hunyuan_v1_moe", {**MOE, **rope("default"), "moe_topk": 2}),
    "doge": ("doge", {}),
    "nanochat": ("nanochat", {}),
    "zamba2": ("zamba2", {"layer_types": ["mamba", "hybrid", "mamba"]}),
    "granitemoehybrid": ("granitemoehybrid", {"layer_types": ["mamba", "attention", "mamba"]}),
    "glm_moe_dsa": ("glm_moe_dsa", {**DEEPSEEK, "index_topk": 16, "index_head_dim": 16, "index_n_heads": 2}),
    "minicpm3": ("minicpm3", DEEPSEEK),
    "internlm3": ("internlm3", {}),
    "jais2": ("jais2", {}),
    "laguna": ("laguna", EXPERTS),
    "ministral3": ("ministral3", {}),
    "afmoe": ("afmoe", EXPERTS),
    "exaone_moe": ("exaone_moe", EXPERTS),
    "cwm": ("cwm", {"bos_token_id": 1, "eos_token_id": 2}),
    "modernbert-decoder": ("modernbert-decoder", {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 3}),
    "solar_open": ("solar_open", EXPERTS),
    "granite_swa": ("granite_swa", SLIDING),
    "mimo_v2_flash": ("mimo_v2_flash", EXPERTS),
    "youtu": ("youtu", DEEPSEEK),
    "hy_v3": ("hy_v3", EXPERTS),
    "mellum": ("mellum", EXPERTS),
    "axk1": ("axk1", DEEPSEEK),
    "iquestcoder": ("iquestcoder", {}),
    "hyperclovax": ("hyperclovax", {}),
    "glm4_moe_lite": ("glm4_moe_lite", DEEPSEEK),
    "openai-gpt": ("openai-gpt", {}),
    "ctrl": ("ctrl", {}),
    "granitemoeshared": ("granitemoeshared", {}),
    "deepseek_v32": ("deepseek_v32", {}),
    "qwen3_5_text": ("qwen3_5_text", {}),
    "bailing_hybrid": ("bailing_hybrid", {}),
    "zaya": ("zaya", {}),
    "cohere2_moe": ("cohere2_moe", {}),
    "granitemoe_swa": ("granitemoe_swa", {}),
    "olmo_hybrid": ("olmo_hybrid", {}),
    "nemotron_h": ("nemotron_h", {}),
    "gpt_neox_japanese": ("gpt_neox_japanese", {}),
    "falcon_mamba": ("falcon_mamba", {}),
    "longcat_flash": ("longcat_flash", {**DEEPSEEK, "num_layers": 3}),
}
CHOSEN = ["llama", "mistral", "qwen2", "qwen3", "qwen3_moe", "gemma2", "gemma3_text"]
CHOSEN += ["phi", "gpt2", "opt", "gpt_neox", "gpt_oss"]


def save(name: str, folder: Path) -> Path:
    """Writes the architecture with random weights, and a tokenizer, as a model folder."""
    kind, more = ARCHITECTURES[name]
    torch.manual_seed(1)
    settings = {key: value for key, value in {**SMALL, **more}.items() if value is not OMIT}
    config = AutoConfig.for_model(kind, **settings)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # norms, biases and sinks start at one value: let them differ
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    model.generation_config.eos_token_id = model.generation_config.pad_token_id = None
    model.save_pretrained(folder)
    _tokenizer().save_pretrained(folder)
    return folder


@cache
def _tokenizer() -> Any:
    return builtin.make_tokenizer()


def prompts() -> list[list[int]]:
    """Short and long ones, some with a long beginning in common, one a copy of another."""
    draw = random.Random(1)
    common = [draw.randrange(1, VOCAB) for _ in range(70)]
    made = [[draw.randrange(1, VOCAB) for _ in range(length)] for length in (1, 5, 16, 33, 90)]
    made += [[*common[:length], *(draw.randrange(1, VOCAB) for _ in range(3))] for length in (48, 64, 70)]
    return [*made, list(made[-1])]


def expected(folder: Path, device: str = "cpu") -> list[list[int]]:
    """What `generate` says, each prompt alone."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).to(device).eval()
    outputs = []
    for prompt in prompts():
        ids = torch.tensor([prompt], device=device)
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=NUM_TOKENS,
            do_sample=False,
            pad_token_id=0,
        )
        outputs.append(out[0, len(prompt) :].tolist())
    return outputs


def compare(folder: Path, device: str = "cpu", driver_type: type[Driver] = Driver) -> list[str]:
    """What went wrong: empty when all is equal. Raises ModelRefused."""
    engine, _ = load(str(folder), dtype="float32", device=device, num_blocks=100)
    truth = expected(folder, device)
    wrong = [] if len({token for tokens in truth for token in tokens}) > 12 else ["the truth is monotonous"]
    for scene in SCENES:
        driver = driver_type(engine, **scene)
        said = driver.run(prompts(), greedy(NUM_TOKENS))
        differ = [at for at, tokens in enumerate(truth) if said[at] != tokens]
        if differ:
            wrong.append(f"{scene}: prompts {differ}")
        happened = (driver.num_mixed, driver.num_shared or not driver.share)
        if not all((*happened, driver.num_preempted or not driver.preempt_every)):
            wrong.append(f"{scene}: the scene did not happen")
    engine.close()
    return wrong


def main(names: list[str]) -> int:
    """Prints the table; 1 where an architecture ran and was wrong."""
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    count = dict.fromkeys(("passed", "refused", "WRONG"), 0)
    for name in names or ARCHITECTURES:
        began = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            try:
                wrong = compare(save(name, Path(folder)))
                verdict, why = ("WRONG", "; ".join(wrong)) if wrong else ("passed", "")
            except ModelRefused as refusal:
                verdict, why = "refused", str(refusal).partition("local engine: ")[2] or str(refusal)
        count[verdict] += 1
        print(f"{name:18} {verdict:8} {time.perf_counter() - began:5.1f} s  {why}", flush=True)
    print(", ".join(f"{number} {verdict}" for verdict, number in count.items()))
    return 1 if count["WRONG"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
