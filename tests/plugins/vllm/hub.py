"""A Hugging Face cache with the configuration of a few public models and none of their weights.

vLLM's scheduler tests name these models, but read no more of them than shapes and token ids. The files are
written here, so that the tests run without a network; each tokenizer has as many words as the model asks for.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

VERSION = 1  # of the files; raise it when what is written below changes
IMAGE_TOKEN_ID = 32000
REVISION = "0" * 40
SPECIAL_TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
TOKEN_IDS = {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}
CLIP_MEAN, CLIP_STD = [0.4815, 0.4578, 0.4082], [0.2686, 0.2613, 0.2758]

Config = Mapping[str, Any]


def opt(hidden_size: int, num_layers: int, num_heads: int, projection: int) -> Config:
    return {
        "architectures": ["OPTForCausalLM"],
        "model_type": "opt",
        "hidden_size": hidden_size,
        "ffn_dim": 4 * hidden_size,
        "word_embed_proj_dim": projection,
        "num_hidden_layers": num_layers,
        "num_attention_heads": num_heads,
        "max_position_embeddings": 2048,
        "vocab_size": 50272,
        "torch_dtype": "float16",
        **TOKEN_IDS,
    }


def llama_like(architecture: str, model_type: str, hidden_size: int, num_layers: int, **more: Any) -> Config:
    return {
        "architectures": [architecture],
        "model_type": model_type,
        "hidden_size": hidden_size,
        "intermediate_size": 2 * hidden_size,
        "num_hidden_layers": num_layers,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "max_position_embeddings": 32768,
        "vocab_size": 32000,
        "torch_dtype": "bfloat16",
        **TOKEN_IDS,
        **more,
    }


LLAVA: Config = {
    "architectures": ["LlavaForConditionalGeneration"],
    "model_type": "llava",
    "image_token_index": IMAGE_TOKEN_ID,
    "vision_feature_layer": -2,
    "vision_feature_select_strategy": "default",
    "vocab_size": 32064,
    "torch_dtype": "float16",
    "text_config": {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": 32064,
        "max_position_embeddings": 4096,
    },
    "vision_config": {
        "model_type": "clip_vision_model",
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "image_size": 336,
        "patch_size": 14,
        "projection_dim": 768,
    },
}
LLAVA_IMAGES: Config = {
    "image_processor_type": "CLIPImageProcessor",
    "processor_class": "LlavaProcessor",
    "size": {"shortest_edge": 336},
    "crop_size": {"height": 336, "width": 336},
    "image_mean": CLIP_MEAN,
    "image_std": CLIP_STD,
}
LLAVA_PROCESSOR: Config = {
    "processor_class": "LlavaProcessor",
    "image_token": "<image>",
    "patch_size": 14,
    "num_additional_image_tokens": 1,
    "vision_feature_select_strategy": "default",
}
QWEN_VL: Config = {
    **llama_like(
        "Qwen2_5_VLForConditionalGeneration", "qwen2_5_vl", 2048, 36, vocab_size=IMAGE_TOKEN_ID + 64
    ),
    "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
    "image_token_id": IMAGE_TOKEN_ID,
    "video_token_id": IMAGE_TOKEN_ID + 1,
    "vision_start_token_id": IMAGE_TOKEN_ID + 2,
    "vision_config": {"model_type": "qwen2_5_vl", "depth": 32, "hidden_size": 1280, "out_hidden_size": 2048},
}
QWEN_VL_IMAGES: Config = {
    "image_processor_type": "Qwen2VLImageProcessor",
    "processor_class": "Qwen2_5_VLProcessor",
    "patch_size": 14,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "min_pixels": 3136,
    "max_pixels": 12845056,
    "image_mean": CLIP_MEAN,
    "image_std": CLIP_STD,
}
HYBRID = {
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 512,
    "shared_expert_intermediate_size": 512,
    "head_dim": 256,
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 32,
}
CONFIGS: dict[str, Config] = {
    "facebook/opt-125m": opt(768, 12, 12, 768),
    "facebook/opt-350m": opt(1024, 24, 16, 512),
    "hmellor/tiny-random-LlamaForCausalLM": llama_like("LlamaForCausalLM", "llama", 64, 2),
    "Qwen/Qwen1.5-7B": llama_like("Qwen2ForCausalLM", "qwen2", 4096, 32),
    "Qwen/Qwen3-0.6B": llama_like("Qwen3ForCausalLM", "qwen3", 1024, 28, head_dim=128),
    "Qwen/Qwen3-Next-80B-A3B-Instruct": llama_like("Qwen3NextForCausalLM", "qwen3_next", 2048, 48, **HYBRID),
    "Qwen/Qwen2.5-VL-3B-Instruct": QWEN_VL,
    "llava-hf/llava-1.5-7b-hf": LLAVA,
}
MORE_FILES: dict[str, dict[str, Config]] = {
    "llava-hf/llava-1.5-7b-hf": {
        "preprocessor_config.json": LLAVA_IMAGES,
        "processor_config.json": LLAVA_PROCESSOR,
    },
    "Qwen/Qwen2.5-VL-3B-Instruct": {"preprocessor_config.json": QWEN_VL_IMAGES},
}
EXTRA_TOKENS = {"llava-hf/llava-1.5-7b-hf": "<image>"}


def write(home: Path) -> None:
    """Writes the cache under `home` in the layout of `HF_HOME`."""
    for name, config in CONFIGS.items():
        repository = home / "hub" / f"models--{name.replace('/', '--')}"
        snapshot = repository / "snapshots" / REVISION
        snapshot.mkdir(parents=True)
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text(REVISION)
        for file, content in {"config.json": config, **MORE_FILES.get(name, {})}.items():
            (snapshot / file).write_text(json.dumps(content, indent=1))
        tokenizer(config["vocab_size"], EXTRA_TOKENS.get(name)).save_pretrained(snapshot)


def tokenizer(vocab_size: int, image_token: str | None = None) -> PreTrainedTokenizerFast:
    """Whole words of the form `w17`; the image token, where there is one, has the number `IMAGE_TOKEN_ID`."""
    words = ["<s>", "<pad>", "</s>", "<unk>", *(f"w{number}" for number in range(4, vocab_size))]
    if image_token is not None:
        words[IMAGE_TOKEN_ID] = image_token
    base = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    base.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    extra = [image_token] if image_token else []
    return PreTrainedTokenizerFast(tokenizer_object=base, additional_special_tokens=extra, **SPECIAL_TOKENS)
