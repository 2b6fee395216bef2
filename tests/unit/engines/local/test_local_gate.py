from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from transformers import (
    Llama4ForCausalLM,
    Llama4TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)
from transformers.masking_utils import create_sliding_window_causal_mask
from transformers.models.llama import modeling_llama

from brim.core.errors import ModelRefused
from brim.engines.local.gate import SelfCheck, examine
from brim.engines.local.load import open_model

SMALL: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,
}


@pytest.fixture
def llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SMALL)).eval()


def test_the_geometry_is_what_layers_really_do(llama: LlamaForCausalLM) -> None:
    llama.config.num_key_value_heads = 77  # never asked
    geometry = examine(llama)
    assert [(g.query_heads, g.kv_heads, g.key_dim, g.value_dim) for g in geometry] == [(4, 2, 8, 8)] * 2
    assert [g.module for g in geometry] == [layer.self_attn for layer in llama.model.layers]


def test_it_leaves_the_model_as_it_was(llama: LlamaForCausalLM) -> None:
    ids = torch.arange(5)[None]
    before = llama(ids).logits
    implementation = llama.config._attn_implementation
    examine(llama)
    assert llama.config._attn_implementation == implementation
    assert torch.equal(llama(ids).logits, before)


def test_a_window_that_only_the_mask_knows_is_refused(
    llama: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    llama.config.sliding_window = 9
    monkeypatch.setattr(modeling_llama, "create_causal_mask", create_sliding_window_causal_mask)
    with pytest.raises(ModelRefused, match="another mask than the causal one with window None"):
        examine(llama)


def test_a_window_that_attention_knows_too_is_let_in() -> None:
    assert len(examine(MistralForCausalLM(MistralConfig(**SMALL, sliding_window=9)).eval())) == 2


@pytest.mark.parametrize("tuned", [True, False])
def test_a_scale_that_begins_past_the_self_check_is_refused(tuned: bool) -> None:
    full = {"layer_types": ["full_attention"] * 2, "no_rope_layers": [1, 0], "head_dim": 8}
    config = Llama4TextConfig(**SMALL, **full, attn_temperature_tuning=tuned, num_local_experts=2)
    torch.manual_seed(0)
    model = Llama4ForCausalLM(config)
    with pytest.raises(ModelRefused, match="attn_temperature_tuning") if tuned else nullcontext():
        open_model(model, 16)


def called_with(**more: Any) -> Callable[..., Any]:
    """Llama's attention, passing these arguments on too."""
    forward = modeling_llama.LlamaAttention.forward
    return lambda self, *args, **kwargs: forward(self, *args, **kwargs, **more)


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"position_bias": torch.zeros(1)}, "unknown arguments to attention: position_bias"),
        ({"is_causal": False}, "attends to later tokens"),
    ],
)
def test_what_is_not_understood_is_refused(
    llama: LlamaForCausalLM, more: dict[str, Any], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(modeling_llama.LlamaAttention, "forward", called_with(**more))
    with pytest.raises(ModelRefused, match=reason):
        examine(llama)


def test_a_layer_without_attention_is_refused(
    llama: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forward(hidden_states: torch.Tensor, **kwargs: Any) -> Any:
        return hidden_states.cumsum(1), None  # a state of its own

    monkeypatch.setattr(llama.model.layers[1].self_attn, "forward", forward)
    with pytest.raises(ModelRefused, match="2 layers call the attention interface 1 times"):
        examine(llama)


def test_a_mask_of_its_own_is_refused(llama: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modeling_llama, "create_causal_mask", lambda **how: torch.zeros(1, 1, 3, 3))
    with pytest.raises(ModelRefused, match="mask of its own"):
        examine(llama)


def test_no_mask_at_all_is_refused(llama: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modeling_llama, "create_causal_mask", lambda **how: None)
    with pytest.raises(ModelRefused, match="asks for no mask"):
        examine(llama)


def test_the_self_check_passes_and_fails(llama: LlamaForCausalLM) -> None:
    check = SelfCheck(llama, 16, 64)
    paged, vocab_size = open_model(llama, 16)
    assert vocab_size == 64
    check.run(paged)
    with torch.no_grad():
        llama.model.layers[0].self_attn.q_proj.weight.mul_(1.1)
    with pytest.raises(ModelRefused, match="paged logits differ"):
        check.run(paged)
