"""Offline work: a backlog of requests, all there from the start."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import count
from pathlib import Path

from brim.core.errors import ConfigError
from brim.core.request import TaskClass
from brim.workloads.documents import loogle_shaped
from brim.workloads.formats import read
from brim.workloads.mixing import mixed
from brim.workloads.trace import Trace, shuffled, unshared

LOOGLE_FILE, SHAREGPT_FILE = "loogle_testdata_llama2tok.csv.gz", "sharegpt_8k_sessions_inferred.csv.gz"
BLOCK_TOKENS = 512  # of the synthetic documents
COPIES = 30  # of the real sample, whose 222 requests would be through too soon
SESSION_TURNS = 8000
CONTROL = "no sharing"


@dataclass(frozen=True, slots=True)
class Work:
    """How a backlog is made. `file`: it is only there with it."""

    make: Callable[[Source], Trace]
    file: str = ""

    def is_there(self, data: Path | None) -> bool:
        return not self.file or (data is not None and (data / self.file).exists())


@dataclass(frozen=True, slots=True)
class Source:
    """`kv_tokens`: of the KV cache, what online requests leave; working sets are told in it."""

    kv_tokens: int
    documents: int
    seed: int
    data: Path | None

    def path(self, file: str) -> Path:
        if self.data is None:
            raise ConfigError(f"needs {file}: give its folder by --data")
        return self.data / file


def _documents(source: Source) -> Trace:
    return loogle_shaped(source.documents, source.seed, BLOCK_TOKENS)


def _working_set(times: float) -> Work:
    return Work(lambda source: mixed(_documents(source), round(times * source.kv_tokens), source.seed))


def _sample(source: Source) -> Trace:
    """The real sample, copied, each copy about documents of its own."""
    sample = read(source.path(LOOGLE_FILE))
    requests, fresh = [], count()
    for _ in range(COPIES):
        renamed: dict[tuple[int, ...], tuple[int, ...]] = {}
        for request in sample.requests:
            ids = request.block_ids
            if ids not in renamed:
                renamed[ids] = tuple(next(fresh) for _ in ids)
            requests.append(request._replace(block_ids=renamed[ids]))
    return replace(sample, requests=requests).noted(f"{COPIES} copies, each about documents of its own")


def _sessions(source: Source) -> Trace:
    """Turns of some hundred sessions at a time, in their order."""
    turns = read(source.path(SHAREGPT_FILE)).first(SESSION_TURNS)
    return mixed(turns, 2 * source.kv_tokens, source.seed)


WORKS = {
    "documents, file order": Work(_documents),
    "documents, working set 1x": _working_set(1),
    "documents, working set 2x": _working_set(2),
    "documents, working set 5x": _working_set(5),
    "documents, working set 10x": _working_set(10),
    "documents, shuffled": Work(lambda source: shuffled(_documents(source), source.seed)),
    "LooGLE sample, file order": Work(_sample, LOOGLE_FILE),
    "LooGLE sample, shuffled": Work(lambda source: shuffled(_sample(source), source.seed), LOOGLE_FILE),
    "ShareGPT sessions": Work(_sessions, SHAREGPT_FILE),
    CONTROL: Work(lambda source: unshared(shuffled(_documents(source), source.seed))),
}


@lru_cache(maxsize=1)
def backlog(kind: str, source: Source) -> Trace:
    return WORKS[kind].make(source).as_class(TaskClass.OFFLINE)


def ideal_hit_rate(trace: Trace) -> float:
    """Of the prompt tokens of the whole backlog, those that an endless cache would hit."""
    seen: set[int] = set()
    hits = 0
    for request in trace.requests:
        hits += sum(block_id in seen for block_id in request.block_ids)
        seen.update(request.block_ids)
    return hits * trace.block_tokens / sum(request.input_tokens for request in trace.requests)
