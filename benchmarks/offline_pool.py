"""What the offline pool and eviction by reuse cost, beside less of the same and beside plain LRU.

    python benchmarks/offline_pool.py [--json]

A round of the pool is one step of a batch job: look for candidates, take the best away, let another request
come. A turn of the cache takes a table, publishes its blocks and releases it, each block evicting another.
Contenders are timed in turn within one process; the figures are medians in microseconds.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from statistics import median
from time import perf_counter_ns

from brim.core.kvcache.block_pool import BlockPool
from brim.core.kvcache.eviction import ByReuse, LeastRecentlyUsed
from brim.core.offline.pool import OfflinePool
from brim.core.request import Request, RequestState, TaskClass

DOCUMENTS, DOCUMENT_BLOCKS, OWN_BLOCKS, RESIDENT = 500, 500, 4, 20
FEW, MANY, ROUNDS, TABLE = 1000, 100_000, 400, 64


def prompt(number: int) -> list[int]:
    """The hashes of a document that many share, and of blocks that no other request has."""
    first = number % DOCUMENTS * DOCUMENT_BLOCKS
    own = -1 - number * OWN_BLOCKS
    return [*range(first, first + DOCUMENT_BLOCKS), *range(own, own - OWN_BLOCKS, -1)]


def waiting(number: int) -> RequestState:
    return RequestState(Request(f"r{number}", (), task_class=TaskClass.OFFLINE, arrival_ns=number), number)


def filled(count: int) -> OfflinePool:
    """`count` requests wait; some documents are resident."""
    pool = OfflinePool()
    for number in range(count):
        pool.add(waiting(number), prompt(number))
    for document in range(RESIDENT):
        pool.prefixes.published(prompt(document), 0, DOCUMENT_BLOCKS)
    return pool


def timed(call: Callable[[], object]) -> float:
    start = perf_counter_ns()
    call()
    return (perf_counter_ns() - start) / 1e3


def pool_round(pool: OfflinePool, number: int) -> Callable[[], None]:
    newcomer, hashes = waiting(number), prompt(number)

    def once() -> None:
        pool.remove(pool.candidates()[-1])
        pool.add(newcomer, hashes)

    return once


def cache_turn(blocks: BlockPool, pool: OfflinePool, number: int) -> Callable[[], None]:
    hashes = list(range(-number * TABLE, -(number + 1) * TABLE, -1))

    def once() -> None:
        table = blocks.take(TABLE)
        for block_id, block_hash in zip(table, hashes, strict=True):
            blocks.publish(block_id, block_hash)
        pool.prefixes.published(hashes, 0, TABLE)
        blocks.release(reversed(table))

    return once


def caches() -> dict[str, tuple[BlockPool, OfflinePool]]:
    """Each full of documents that requests wait for, under one rule or the other."""
    pools = {name: filled(FEW) for name in ("lru", "by_reuse")}
    made = {}
    for name, pool in pools.items():
        rule = ByReuse(pool) if name == "by_reuse" else LeastRecentlyUsed()
        blocks = BlockPool(RESIDENT * DOCUMENT_BLOCKS + TABLE, rule, pool)
        for document in range(RESIDENT):
            table = blocks.take(DOCUMENT_BLOCKS)
            for block_id, block_hash in zip(table, prompt(document), strict=False):
                blocks.publish(block_id, block_hash)
            blocks.release(reversed(table))
        made[name] = (blocks, pool)
    return made


def measure() -> dict[str, float]:
    few, many, under = filled(FEW), filled(MANY), caches()
    times: dict[str, list[float]] = {}
    for number in range(ROUNDS):
        calls = {"round_of_few_us": pool_round(few, MANY + number)}
        calls["round_of_many_us"] = pool_round(many, MANY + number)
        for name, (blocks, pool) in under.items():
            calls[f"turn_{name}_us"] = cache_turn(blocks, pool, 10**6 + number)
        for name, call in calls.items():
            times.setdefault(name, []).append(timed(call))
    figures = {name: median(column) for name, column in times.items()}
    # aborts while all that they would have read lies cached: each block may be evicted sooner
    for name, (blocks, pool) in under.items():
        gone = list(pool)[:RESIDENT]
        figures[f"abort_{name}_us"] = median(timed(lambda p=pool, v=view: p.remove(v)) for view in gone)
        figures[f"evict_{name}_us"] = median(timed(lambda b=blocks: b.take(TABLE)) for _ in range(50))
    figures["many_over_few"] = figures["round_of_many_us"] / figures["round_of_few_us"]
    figures["by_reuse_over_lru"] = figures["turn_by_reuse_us"] / figures["turn_lru_us"]
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object instead of the table")
    as_json = parser.parse_args().json
    figures = measure()
    if as_json:
        print(json.dumps(figures))
        return
    for name, figure in figures.items():
        print(f"{name:>20} {figure:10.4g}")


if __name__ == "__main__":
    main()
