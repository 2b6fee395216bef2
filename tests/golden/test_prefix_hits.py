"""Hit rates of the real KV cache, LRU: those of a published table, and those of documents in several orders.

Counted as the table counts: every block id of a prompt, the last one too, which it may not fill; a request
is over before the next one comes; of a prompt that is longer than the cache its first blocks stay.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from brim.core.kvcache.block_pool import BlockPool
from brim.core.kvcache.manager import KVCacheManager
from brim.simulation.truth import TraceHashing
from brim.workloads.documents import loogle_shaped
from brim.workloads.formats import read
from brim.workloads.mixing import mixed
from brim.workloads.trace import Trace, TraceRequest, shuffled
from tests.helpers import compute, request, state

FOLDER = Path(__file__).parents[3] / "shared" / "data" / "traces"
needs_data = pytest.mark.skipif(not FOLDER.is_dir(), reason=f"needs the real traces in {FOLDER}")
MOONCAKE = "mooncake_conversation.csv.gz"
SHAREGPT = "llmservingsim_sharegpt_llama-3.1-8b_300_10rps.csv.gz"
LOOGLE = "loogle_testdata_llama2tok.csv.gz"


def hit_share(prompts: Sequence[tuple[int, ...]], num_blocks: int) -> float:
    """The share of all blocks that an LRU cache of `num_blocks` had when their request came.

    A block stands for one token here, and behind them each prompt has one of its own, as the last token is
    always computed: it takes a block more than the cache has, and leaves it free again.
    """
    kept = [ids[:num_blocks] for ids in prompts]
    trace = Trace("t", [TraceRequest(0, len(ids) + 1, 1, block_ids=ids) for ids in kept], block_tokens=1)
    longest = max(map(len, kept)) + 1
    cache = KVCacheManager(BlockPool(num_blocks + 1), 1, hashing=TraceHashing(trace, 1, longest))
    hits = 0
    for number, ids in enumerate(kept):
        prompt = state(request(str(number), [0] * (len(ids) + 1), 1))
        cached = cache.admit(prompt)
        assert cached is not None
        hits += cached
        prompt.admit(cached)
        compute(prompt, len(ids) - cached)
        cache.publish_computed(prompt)
        cache.give_back(cache.detach(prompt))
        cache.forget(str(number))
    return hits / sum(map(len, prompts))


def table(name: str) -> tuple[float, dict[float, float]]:
    """(ideal block hit, LRU block hit by millions of cached tokens) as the folder's README states them."""
    section = (FOLDER / "README.md").read_text().split("## Prefix sharing")[1]
    heading = next(line for line in section.splitlines() if "LRU block hit at" in line)
    sizes = [float(size) for size in re.findall(r"([\d.]+)M", heading)]
    row = next(line for line in section.splitlines() if name in line)
    _, _, _, ideal, _, _, by_size, _ = (cell.strip() for cell in row.split("|"))
    return float(ideal), dict(zip(sizes, map(float, by_size.split("/")), strict=True))


def prompts_of(name: str) -> tuple[int, list[tuple[int, ...]]]:
    trace = read(FOLDER / name)
    return trace.block_tokens, [r.block_ids for r in trace.requests]


@needs_data
@pytest.mark.parametrize("name", [pytest.param(MOONCAKE, marks=pytest.mark.slow), SHAREGPT])
def test_hit_rates_are_those_of_the_table(name: str) -> None:
    ideal, by_size = table(name)
    block_tokens, prompts = prompts_of(name)
    unlimited = len({block_id for ids in prompts for block_id in ids})
    assert hit_share(prompts, unlimited) == pytest.approx(ideal, abs=0.0005)
    found = {size: hit_share(prompts, int(size * 1e6) // block_tokens) for size in by_size}
    assert found == pytest.approx(by_size, abs=0.0005)


@needs_data
@pytest.mark.parametrize(
    ("order", "by_size"),
    [
        (lambda trace: trace, {100_000: 0.918, 300_000: 0.918}),
        (shuffled, {100_000: 0.25, 300_000: 0.74, 400_000: 0.90, 500_000: 0.918}),
        (lambda trace: mixed(trace, 100_000), {50_000: 0.55, 100_000: 0.91}),
    ],
    ids=["file order", "shuffled", "working set of 100k"],
)
def test_the_order_of_long_documents_decides(
    order: Callable[[Trace], Trace], by_size: dict[int, float]
) -> None:
    trace = order(read(FOLDER / LOOGLE))
    prompts = [r.block_ids for r in trace.requests]
    found = {size: hit_share(prompts, size // trace.block_tokens) for size in by_size}
    assert found == pytest.approx(by_size, abs=0.03)


@pytest.mark.parametrize(("times", "hit"), [(0.5, 0.88), (1, 0.84), (2, 0.46), (5, 0.19), (10, 0.11)])
def test_a_working_set_of_several_caches(times: float, hit: float) -> None:
    cache_tokens = 100_000
    trace = mixed(loogle_shaped(300, block_tokens=512), round(times * cache_tokens))
    prompts = [r.block_ids for r in trace.requests]
    assert hit_share(prompts, cache_tokens // 512) == pytest.approx(hit, abs=0.03)
