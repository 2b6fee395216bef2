"""KV kept outside of vLLM's cache: what requests leave is stored, and who comes later loads it.

The scheduler's half is a connector of vLLM's kind. Its worker, like that of `tests.plugins.vllm.worker`,
moves marks. What a request meets depends on its name: an answer at once or only when it was asked many
times, KV that is there in the same step or steps later, or not all of it, or nothing.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from vllm.config import KVTransferConfig
from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorBase_V1, KVConnectorMetadata
from vllm.v1.outputs import KVConnectorOutput
from vllm.v1.request import RequestStatus

STEPS_UNDER_WAY = 3  # of what is not there in the same step
QUESTIONS = 20  # before some are told how much there is


class Move(NamedTuple):
    """Of a request's blocks, between the cache and what is outside."""

    request_id: str
    hashes: Sequence[bytes]
    block_ids: Sequence[int]
    at_once: bool = False


@dataclass
class Moves(KVConnectorMetadata):
    loads: list[Move] = field(default_factory=list)
    saves: list[Move] = field(default_factory=list)


def config() -> KVTransferConfig:
    return KVTransferConfig(
        kv_connector="Store",
        kv_connector_module_path=__name__,
        kv_role="kv_both",
        kv_load_failure_policy="recompute",
    )


def mood(request_id: str, count: int) -> int:
    return zlib.crc32(request_id.encode()) % count


class Store(KVConnectorBase_V1):
    """The scheduler's half."""

    def __init__(self, vllm_config: Any, role: Any, kv_cache_config: Any = None) -> None:
        super().__init__(vllm_config, role, kv_cache_config)
        self._block_size = vllm_config.cache_config.block_size
        self._stored: set[bytes] = set()
        self._saving: dict[str, Sequence[bytes]] = {}
        self._asked: Counter[str] = Counter()
        self._first: dict[str, int] = {}  # block that a request would load
        self._moves = Moves()

    def get_num_new_matched_tokens(self, request: Any, num_computed_tokens: int) -> tuple[int | None, bool]:
        name = request.request_id
        self._asked[name] += 1
        if mood(name, 5) == 0 and self._asked[name] < QUESTIONS:
            return None, False
        self._first[name] = end = num_computed_tokens // self._block_size
        while end < len(request.block_hashes) and request.block_hashes[end] in self._stored:
            end += 1
        at_once = mood(name, 2) == 0
        if at_once and end * self._block_size >= request.num_tokens:
            end -= 1  # one token has to run
        tokens = max(end - self._first[name], 0) * self._block_size
        return tokens, tokens > 0 and not at_once

    def update_state_after_alloc(self, request: Any, blocks: Any, num_external_tokens: int) -> None:
        if num_external_tokens:
            first, name = self._first[request.request_id], request.request_id
            part = slice(first, first + num_external_tokens // self._block_size)
            block_ids = blocks.get_block_ids()[0][part]
            self._moves.loads.append(Move(name, request.block_hashes[part], block_ids, mood(name, 2) == 0))

    def request_finished(self, request: Any, block_ids: list[int]) -> tuple[bool, None]:
        whole = min(request.num_computed_tokens, request.num_tokens - 1) // self._block_size
        whole = min(whole, len(block_ids))
        if request.status != RequestStatus.FINISHED_LENGTH_CAPPED or not whole:
            return False, None
        self._saving[request.request_id] = hashes = request.block_hashes[:whole]
        self._moves.saves.append(Move(request.request_id, hashes, block_ids[:whole]))
        return True, None

    def build_connector_meta(self, scheduler_output: Any) -> Moves:
        moves, self._moves = self._moves, Moves()
        return moves

    def update_connector_output(self, connector_output: KVConnectorOutput) -> None:
        for request_id in connector_output.finished_sending or ():
            self._stored.update(self._saving.pop(request_id))

    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None:
        raise NotImplementedError("the worker's half is an Outside")

    wait_for_layer_load = save_kv_layer = wait_for_save = start_load_kv  # type: ignore[assignment]


class Outside:
    """The worker's half, over its slots: marks by block."""

    def __init__(self, slots: dict[int, list[int | None]]) -> None:
        self._slots = slots
        self._stored: dict[bytes, list[int | None]] = {}
        self._under_way: list[tuple[int, bool, Move]] = []  # the step in which it is there, whether a load
        self._step = 0
        self._lost: set[str] = set()
        self.loads = 0

    def move(self, moves: Moves) -> KVConnectorOutput:
        """Before anything is computed in a step."""
        self._step += 1
        self._under_way += [(self._step + STEPS_UNDER_WAY, False, save) for save in moves.saves]
        for load in moves.loads:
            steps = 0 if load.at_once else STEPS_UNDER_WAY
            self._under_way.append((self._step + steps, True, load))
        done = [(loads, move) for step, loads, move in self._under_way if step <= self._step]
        self._under_way = [entry for entry in self._under_way if entry[0] > self._step]
        told = KVConnectorOutput(finished_sending=set(), finished_recving=set(), failed_recving=set())
        for loads, move in done:
            if loads:
                self._load(move, told)
            else:
                self._stored.update({h: list(self._slots[b]) for h, b in zip(*move[1:3], strict=True)})
                told.finished_sending.add(move.request_id)
        return told

    def _load(self, move: Move, told: KVConnectorOutput) -> None:
        self.loads += 1
        found = list(zip(*move[1:3], strict=True))
        if not move.at_once and move.request_id not in self._lost:  # once: vLLM tries again
            self._lost.add(move.request_id)
            if mood(move.request_id, 3) == 0:
                told.invalid_block_ids.add(found.pop()[1])
            elif mood(move.request_id, 3) == 1:
                told.failed_recving.add(move.request_id)
                found.clear()
        for content, block_id in found:
            self._slots[block_id] = list(self._stored[content])
        if not move.at_once:
            told.finished_recving.add(move.request_id)
