"""The local engine says what `generate` says, or refuses; and this check can fail."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from brim.core.errors import ModelRefused
from brim.core.plan import StepPlan
from brim.core.request import RequestState
from brim.engines.local import gate
from brim.engines.local.layout import StepLayout
from tests.conformance.architectures import ARCHITECTURES, CHOSEN, compare, save
from tests.conformance.local_driver import Driver

OTHERS = [name for name in ARCHITECTURES if name not in CHOSEN]
# By the gate, with today's transformers; one that is run some day has to leave this list.
REFUSED = """
    llama-dynamic phimoe stablelm biogpt xglm diffllama llama4_text phi3-longrope bloom mpt falcon gptj
    codegen gpt_neo mamba mamba2 rwkv jamba bamba falcon_h1 lfm2 qwen3_next recurrent_gemma minimax doge
    zamba2 granitemoehybrid glm_moe_dsa openai-gpt deepseek_v32 qwen3_5_text bailing_hybrid zaya
    olmo_hybrid nemotron_h gpt_neox_japanese falcon_mamba
"""


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Equality needs one order of summation."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", CHOSEN)
def test_says_what_generate_says(name: str, tmp_path: Path) -> None:
    assert compare(save(name, tmp_path)) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_says_what_generate_says_or_refuses(name: str, tmp_path: Path) -> None:
    with pytest.raises(ModelRefused) if name in REFUSED.split() else nullcontext():
        assert compare(save(name, tmp_path)) == []


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")
@pytest.mark.parametrize("name", CHOSEN)
def test_says_what_generate_says_on_a_gpu(name: str, tmp_path: Path) -> None:
    assert compare(save(name, tmp_path), "cuda") == []


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("llama-dynamic", "rope type dynamic"),
        ("llama4_text", "chunked_attention"),
        ("bloom", "attention interface"),
        ("recurrent_gemma", "recurrent state"),
        ("diffllama", "6 times"),
        ("doge", "mask of its own"),
    ],
)
def test_refuses_with_the_reason(name: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(ModelRefused, match=reason):
        compare(save(name, tmp_path))


@pytest.fixture
def no_self_check(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate.SelfCheck, "run", lambda self, paged: None)


@pytest.fixture
def dynamic_rope_let_in(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(gate, "ROPE_TYPES_REFUSED", set())
    return "llama-dynamic"


@pytest.fixture
def window_left_out(monkeypatch: pytest.MonkeyPatch) -> str:
    view = StepLayout.view
    monkeypatch.setattr(
        StepLayout, "view", lambda self, window, *sizes, fused: view(self, None, *sizes, fused=fused)
    )
    return "mistral"


@pytest.fixture
def positions_off_by_one(monkeypatch: pytest.MonkeyPatch) -> str:
    class Late(StepLayout):
        def __init__(self, *sizes: Any) -> None:
            super().__init__(*sizes)
            self.positions = self.positions + (self.positions > 30)

    monkeypatch.setattr("brim.engines.local.model.StepLayout", Late)
    return "llama"


@pytest.mark.parametrize("way", ["dynamic_rope_let_in", "window_left_out", "positions_off_by_one"])
@pytest.mark.usefixtures("no_self_check")
def test_the_comparison_sees(way: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    name = request.getfixturevalue(way)
    assert compare(save(name, tmp_path))


@pytest.mark.parametrize("way", ["window_left_out", "positions_off_by_one"])
def test_the_check_at_load_sees(way: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    name = request.getfixturevalue(way)
    with pytest.raises(ModelRefused, match="paged logits differ"):
        compare(save(name, tmp_path))


def test_the_comparison_sees_one_wrong_entry_of_a_block_table(tmp_path: Path) -> None:
    assert compare(save("llama", tmp_path), driver_type=Confused)


class Confused(Driver):
    """Gives one request, once, a block that is not its own."""

    def _plan(self, running: Sequence[RequestState]) -> StepPlan:
        plan = super()._plan(running)
        if self.steps == 20 and plan.decodes and self.chunk > 100:
            plan.decodes[0].block_ids[0] = self.free[0]
        return plan
