from __future__ import annotations

import math

import pytest
import torch

from brim.core.request import GREEDY, SamplingParams
from brim.engines.local import sampling
from brim.engines.local.sampling import Row, draw, uniform

NEVER = -math.inf


def row(known: list[int] | None = None, prompt: int = 1, seed: str = "s", **params) -> Row:
    return Row(SamplingParams(**params), seed, known or [0], prompt)


def tokens(logits: list[list[float]], rows: list[Row]) -> list[int]:
    return draw(torch.tensor(logits), rows).tokens.tolist()


def frequencies(logits: list[float], count: int = 4000, **params) -> list[float]:
    """How often each token is drawn, over as many seeds."""
    rows = [row(seed=f"{at}", **params) for at in range(count)]
    drawn = draw(torch.tensor([logits] * count), rows).tokens
    return (torch.bincount(drawn, minlength=len(logits)) / count).tolist()


def test_greedy_takes_the_largest() -> None:
    assert tokens([[0, 3, 1], [5, 3, 1]], [Row(GREEDY, "", [0], 1)] * 2) == [1, 0]


def test_rows_of_different_kinds_do_not_mix() -> None:
    logits = [[0.0, 3.0, 1.0]] * 4
    rows = [
        row(temperature=0),
        row(temperature=1, top_k=1),
        row(temperature=0, logit_bias=((2, 9.0),)),
        row(temperature=1, logit_bias=((0, 50.0),)),
    ]
    assert tokens(logits, rows) == [1, 1, 2, 0]


def test_draws_follow_the_distribution() -> None:
    logits = [0.0, 1.0, 2.0, NEVER]
    expected = torch.tensor(logits).softmax(-1).tolist()
    assert frequencies(logits) == pytest.approx(expected, abs=0.03)
    hot = (torch.tensor(logits) / 2).softmax(-1).tolist()
    assert frequencies(logits, temperature=2.0) == pytest.approx(hot, abs=0.03)


@pytest.mark.parametrize(
    ("params", "kept"),
    [
        ({"top_k": 2}, [0, 0, 1, 1]),
        ({"top_p": 0.6}, [0, 0, 0, 1]),  # probabilities 0.03 0.09 0.24 0.64
        ({"top_p": 0.7}, [0, 0, 1, 1]),
        ({"min_p": 0.2}, [0, 0, 1, 1]),
        ({"top_k": 3, "top_p": 0.9, "min_p": 0.05}, [0, 0, 1, 1]),
        ({"top_p": 1e-9}, [0, 0, 0, 1]),
        ({"top_k": 99}, [1, 1, 1, 1]),
    ],
)
def test_what_is_cut_off_is_never_drawn(params: dict, kept: list[int]) -> None:
    logits = [0.0, 1.0, 2.0, 3.0]
    probs = torch.tensor(logits).softmax(-1) * torch.tensor(kept)
    assert frequencies(logits, **params) == pytest.approx((probs / probs.sum()).tolist(), abs=0.03)


def test_few_candidates_give_what_the_whole_vocabulary_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "FEW", 300)
    torch.manual_seed(0)
    logits = torch.randn(40, 300) * torch.linspace(0.1, 6, 40)[:, None]
    kinds = [
        {"top_p": 0.5},
        {"top_p": 0.99},
        {"top_k": 3},
        {"top_k": 90, "top_p": 0.9},
        {"top_k": 9, "top_p": 0.4},
    ]
    rows = [row(seed=str(at), **kinds[at % 5]) for at in range(40)]
    whole = draw(logits.clone(), rows).tokens.tolist()
    monkeypatch.setattr(sampling, "FEW", 8)
    assert draw(logits.clone(), rows).tokens.tolist() == whole
    assert len(set(whole)) > 10


def test_a_tiny_temperature_is_greedy() -> None:
    assert tokens([[1.0, 1.1, 0.0]], [row(temperature=1e-30)]) == [1]


def test_a_draw_depends_on_seed_and_position_only() -> None:
    logits = torch.randn(1, 500, generator=torch.Generator().manual_seed(0))
    alone = draw(logits.clone(), [row([1, 2, 3], seed="7")]).tokens.item()
    among = (
        draw(logits.repeat(3, 1), [row([9]), row([1, 2, 3], seed="7"), row([9], temperature=0)])
        .tokens[1]
        .item()
    )
    assert alone == among
    positions = {draw(logits.clone(), [row([1] * n, seed="7")]).tokens.item() for n in range(1, 30)}
    seeds = {draw(logits.clone(), [row(seed=str(n))]).tokens.item() for n in range(30)}
    assert len(positions) > 20
    assert len(seeds) > 20


def test_uniform_numbers_are_uniform() -> None:
    numbers = [uniform("seed", position) for position in range(2000)]
    assert min(numbers) >= 0
    assert max(numbers) < 1
    assert sum(numbers) / len(numbers) == pytest.approx(0.5, abs=0.02)


def test_repetition_counts_prompt_and_output() -> None:
    known = [0, 1]  # 0 in the prompt, 1 in the output
    assert tokens([[2.0, 2.0, 1.5]], [row(known, temperature=0, repetition_penalty=2.0)]) == [2]
    assert tokens([[-2.0, -2.0, -3.0]], [row(known, temperature=0, repetition_penalty=2.0)]) == [2]


def test_a_penalty_passes_over_a_token_that_has_no_logit() -> None:
    assert tokens([[3.0, 2.0, 1.0]], [row([0, 3], temperature=0.0, repetition_penalty=2.0)]) == [1]


@pytest.mark.parametrize("temperature", [0.0, 1e-5, 1.0, 2.0])
def test_a_repetition_penalty_near_zero_repeats(temperature: float) -> None:
    repeating = row([2, 3], temperature=temperature, repetition_penalty=1e-300)
    assert tokens([[3.0, 2.0, 1.0, -1.0, 0.0]], [repeating]) == [2]


def test_presence_and_frequency_count_the_output_only() -> None:
    known = [0, 0, 1, 2, 2]
    presence = row(known, prompt=2, temperature=0, presence_penalty=1.0)
    frequency = row(known, prompt=2, temperature=0, frequency_penalty=0.6)
    assert tokens([[1.5, 2.0, 2.0]] * 2, [presence, frequency]) == [0, 0]
    assert tokens([[0.5, 2.0, 2.0]] * 2, [presence, frequency]) == [1, 1]


def test_no_end_before_the_minimum_length() -> None:
    params = {"temperature": 0, "min_tokens": 2, "stop_token_ids": frozenset({1, 10_000})}
    assert tokens([[1.0, 9.0, 2.0]] * 2, [row([0, 0], **params), row([0, 0, 0], **params)]) == [2, 1]


def test_a_bias_adds_up() -> None:
    assert tokens([[1.0, 0.0]], [row(temperature=0, logit_bias=((1, 0.6), (1, 0.6)))]) == [1]


def test_logprobs_are_those_of_the_model_whatever_is_sampled() -> None:
    logits = [[0.0, 1.0, 3.0], [0.0, 1.0, 3.0], [2.0, 1.0, 0.0]]
    rows = [
        row(temperature=0, logit_bias=((0, 100.0),), logprobs=2),
        row(temperature=0),
        row(temperature=0, logprobs=0),
    ]
    drawn = draw(torch.tensor(logits), rows)
    raw = torch.tensor(logits).log_softmax(-1)
    entries = drawn.logprobs(rows)
    assert set(entries) == {0, 2}
    assert entries[0].token_id == 0
    assert entries[0].logprob == pytest.approx(raw[0, 0].item())
    assert [token for token, _ in entries[0].top] == [2, 1]
    assert entries[0].top[0][1] == pytest.approx(raw[0, 2].item())
    assert entries[2].top == ()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_broken_row_is_marked_and_breaks_no_other(bad: float, temperature: float) -> None:
    drawn = draw(
        torch.tensor([[0.0, 9.0], [bad, 1.0], [NEVER, 0.0]]), [row(temperature=temperature, top_k=1)] * 3
    )
    assert drawn.finite.tolist() == [True, False, True]
    assert [drawn.tokens[0], drawn.tokens[2]] == [1, 1]
