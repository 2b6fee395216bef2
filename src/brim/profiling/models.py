"""The sizes of a decoder-only model that its step time and memory follow from."""

from __future__ import annotations

import json
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from brim.core.errors import ConfigError

WEIGHT_BYTES = 2  # BF16
UNGATED = {"opt", "gpt2", "gpt_neox", "phi", "falcon", "bloom", "starcoder2", "mpt", "gptj"}
EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")


@dataclass(frozen=True, slots=True)
class ModelSizes:
    """`mlp` is the inner width of the feed-forward; a gated one has two matrices going up."""

    name: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp: int
    vocab: int
    gated: bool = True
    tied: bool = False

    def linears(self, tensor_parallel: int = 1) -> tuple[tuple[int, int], ...]:
        """(n, k) of one layer's matrices on one GPU: attention in, attention out, MLP up, MLP down."""
        wide = (self.heads + 2 * self.kv_heads) * self.head_dim // tensor_parallel
        up = (2 if self.gated else 1) * self.mlp // tensor_parallel
        attention = self.heads * self.head_dim // tensor_parallel
        return (
            (wide, self.hidden),
            (self.hidden, attention),
            (up, self.hidden),
            (self.hidden, self.mlp // tensor_parallel),
        )

    @property
    def linear_parameters(self) -> int:
        """Parameters of all layers' matrices."""
        return self.layers * sum(n * k for n, k in self.linears())

    @property
    def head_parameters(self) -> int:
        """Parameters of the output matrix, whether it is also the embedding or not."""
        return self.vocab * self.hidden

    @property
    def weight_bytes(self) -> int:
        """BF16 bytes of the matrices and embeddings; norms and biases are below 0.1 % and left out."""
        embeddings = self.head_parameters * (1 if self.tied else 2)
        return WEIGHT_BYTES * (self.linear_parameters + embeddings)

    @property
    def kv_bytes_per_token(self) -> int:
        return 2 * WEIGHT_BYTES * self.layers * self.kv_heads * self.head_dim

    def kv_bytes_on(self, tensor_parallel: int) -> int:
        """Of a token on so many GPUs together: where they outnumber the KV heads, each head has copies."""
        return self.kv_bytes_per_token * max(tensor_parallel // self.kv_heads, 1)

    def refuse_uneven(self, tensor_parallel: int) -> None:
        """Raises ConfigError where so many GPUs can't share the heads of a layer alike."""
        works = [n for n in range(1, self.heads + 1) if self._shared_alike(n)]
        if tensor_parallel not in works:
            raise ConfigError(
                f"--tensor-parallel {tensor_parallel} does not divide the {self.heads} attention and "
                f"{self.kv_heads} KV heads of {self.name}: give one of {', '.join(map(str, works))}"
            )

    def _shared_alike(self, gpus: int) -> bool:
        return not self.heads % gpus and not (self.kv_heads % gpus and gpus % self.kv_heads)


PRESETS = {
    "llama-2-7b": ModelSizes("meta-llama/Llama-2-7b", 32, 4096, 32, 32, 128, 11008, 32000),
    "llama-2-70b": ModelSizes("meta-llama/Llama-2-70b", 80, 8192, 64, 8, 128, 28672, 32000),
    "llama-3-8b": ModelSizes("meta-llama/Meta-Llama-3-8B", 32, 4096, 32, 8, 128, 14336, 128256),
    "llama-3.1-8b": ModelSizes("meta-llama/Llama-3.1-8B", 32, 4096, 32, 8, 128, 14336, 128256),
    "llama-3-70b": ModelSizes("meta-llama/Meta-Llama-3-70B", 80, 8192, 64, 8, 128, 28672, 128256),
    "qwen2.5-7b": ModelSizes("Qwen/Qwen2.5-7B", 28, 3584, 28, 4, 128, 18944, 152064),
    "opt-13b": ModelSizes("facebook/opt-13b", 40, 5120, 40, 40, 128, 20480, 50272, gated=False, tied=True),
    "opt-66b": ModelSizes("facebook/opt-66b", 64, 9216, 72, 72, 128, 36864, 50272, gated=False, tied=True),
    "opt-175b": ModelSizes("facebook/opt-175b", 96, 12288, 96, 96, 128, 49152, 50272, gated=False, tied=True),
}


def model_sizes(config_or_preset: str) -> ModelSizes:
    """A preset by its name, or the sizes in a Hugging Face `config.json` (or the folder it lies in).

    Raises ConfigError for an unknown name and for a model whose step time isn't modelled.
    """
    if config_or_preset in PRESETS:
        return PRESETS[config_or_preset]
    path = Path(config_or_preset)
    path = path / "config.json" if path.is_dir() else path
    if not path.is_file():
        close = get_close_matches(config_or_preset, PRESETS, 1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise ConfigError(
            f"there is no file or model size {config_or_preset}: {hint}Give a config.json or one of "
            f"{', '.join(PRESETS)}"
        )
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        raise ConfigError(f"can't read the model's configuration {path}: {exc}") from exc
    return _from_config(config, path)


def _from_config(config: dict[str, Any], path: Path) -> ModelSizes:
    _refuse(config, path)
    hidden, heads = _size(config, path, "hidden_size"), _size(config, path, "num_attention_heads")
    kind = config.get("model_type", "")
    return ModelSizes(
        name=config.get("_name_or_path") or path.resolve().parent.name,
        layers=_size(config, path, "num_hidden_layers"),
        hidden=hidden,
        heads=heads,
        kv_heads=config.get("num_key_value_heads") or heads,
        head_dim=config.get("head_dim") or hidden // heads,
        mlp=_size(config, path, "intermediate_size", "ffn_dim"),
        vocab=_size(config, path, "vocab_size"),
        gated=kind not in UNGATED,
        tied=bool(config.get("tie_word_embeddings", kind == "opt")),
    )


def _refuse(config: dict[str, Any], path: Path) -> None:
    """What would get a wrong time rather than none."""
    experts = next((name for name in EXPERTS if (config.get(name) or 0) > 1), None)
    reasons = {
        f"it is a mixture of experts ({experts})": experts,
        "its attention compresses the KV cache (kv_lora_rank)": config.get("kv_lora_rank"),
        "its weights are quantised (quantization_config)": config.get("quantization_config"),
    }
    for reason, holds in reasons.items():
        if holds:
            raise ConfigError(f"{path}: no roofline for this model: {reason}; only dense BF16 is modelled")


def _size(config: dict[str, Any], path: Path, *names: str) -> int:
    value = next((config[name] for name in names if config.get(name)), None)
    if not isinstance(value, int) or value <= 0:
        raise ConfigError(f"{path}: field {names[0]} must be a whole number above 0, not {value!r}")
    return value
