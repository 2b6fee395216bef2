"""A worker without a model: it knows what every token will be, and what lies in every slot of the KV cache.

Told nothing but vLLM's `SchedulerOutput`, like a real worker, it writes a mark for each computed token into
the slots that the scheduler gave, and before it answers it reads all that attention would read. A block that
was handed out while somebody still needed it, a wrong prefix hit, a lost chunk: each shows as a wrong mark.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from vllm.v1.outputs import ModelRunnerOutput

VOCAB = 1000


def next_token(mark: int) -> int:
    """The token that follows everything that led to this mark."""
    return zlib.crc32(b"token %d" % mark) % VOCAB


def next_mark(mark: int, token_id: int) -> int:
    """The mark of a token behind all tokens before it."""
    return zlib.crc32(b"%d %d" % (mark, token_id))


def answer(prompt_token_ids: Sequence[int], count: int) -> list[int]:
    """The first `count` tokens that the worker generates for this prompt."""
    row = Row(prompt_token_ids)
    return [row.generate() for _ in range(count)]


class Row:
    """One request as the worker knows it: its tokens, the mark behind each of them, and its block table."""

    def __init__(self, token_ids: Sequence[int], block_ids: Sequence[int] = ()) -> None:
        self.token_ids: list[int] = []
        self.marks: list[int] = []
        self.block_ids = list(block_ids)
        for token_id in token_ids:
            self.append(token_id)

    def append(self, token_id: int) -> None:
        self.token_ids.append(token_id)
        self.marks.append(next_mark(self.marks[-1] if self.marks else 0, token_id))

    def cut(self, length: int) -> None:
        del self.token_ids[length:], self.marks[length:]

    def generate(self) -> int:
        self.append(next_token(self.marks[-1]))
        return self.token_ids[-1]


@dataclass
class Worker:
    """Carries out scheduler outputs, in the order in which they were scheduled."""

    block_size: int
    rows: dict[str, Row] = field(default_factory=dict)
    slots: dict[int, list[int | None]] = field(default_factory=dict)  # marks by block

    def execute(self, scheduled: Any) -> ModelRunnerOutput:
        """The tokens of one step.

        Raises `AssertionError` where a token would be computed from wrong keys and values.
        """
        for request_id in scheduled.finished_req_ids:
            self.rows.pop(request_id, None)
        computed = self._begin(scheduled.scheduled_new_reqs) | self._go_on(scheduled.scheduled_cached_reqs)
        assert computed.keys() == scheduled.num_scheduled_tokens.keys()
        ends = {name: computed[name] + count for name, count in scheduled.num_scheduled_tokens.items()}
        for request_id, end in ends.items():  # a layer writes the step's keys and values before it reads any
            self._write(request_id, computed[request_id], end)
        for request_id, end in ends.items():
            self._read(request_id, end)
        request_ids = list(ends)
        return ModelRunnerOutput(
            req_ids=request_ids,
            req_id_to_index={name: index for index, name in enumerate(request_ids)},
            sampled_token_ids=[self._sample(name, end) for name, end in ends.items()],
        )

    def _begin(self, new: Sequence[Any]) -> dict[str, int]:
        for data in new:
            token_ids = data.prefill_token_ids or data.prompt_token_ids
            self.rows[data.req_id] = Row(token_ids, data.block_ids[0])
        return {data.req_id: data.num_computed_tokens for data in new}

    def _go_on(self, cached: Any) -> dict[str, int]:
        for index, request_id in enumerate(cached.req_ids):
            row, new_blocks = self.rows[request_id], cached.new_block_ids[index]
            if request_id in cached.resumed_req_ids:
                row.block_ids.clear()
            row.block_ids.extend(new_blocks[0] if new_blocks else ())
            if (told := cached.all_token_ids.get(request_id)) is not None:  # it sat out the last step
                assert told == row.token_ids[: len(told)], f"{request_id} goes on with wrong tokens"
                row.cut(len(told))  # shorter where output in flight was dropped: it will be computed again
        return dict(zip(cached.req_ids, cached.num_computed_tokens, strict=True))

    def _write(self, request_id: str, start: int, end: int) -> None:
        row = self.rows[request_id]
        assert end <= len(row.token_ids), f"{request_id} computes {end} of {len(row.token_ids)} tokens"
        for position in range(start, end):
            block, offset = divmod(position, self.block_size)
            assert block < len(row.block_ids), f"{request_id} has no block for token {position}"
            slots = self.slots.setdefault(row.block_ids[block], [None] * self.block_size)
            slots[offset] = row.marks[position]

    def _read(self, request_id: str, end: int) -> None:
        row = self.rows[request_id]
        for index, start in enumerate(range(0, end, self.block_size)):
            expected = row.marks[start : min(end, start + self.block_size)]
            found = self.slots.get(row.block_ids[index], [])[: len(expected)]
            assert found == expected, (
                f"{request_id} reads what it did not write in block {row.block_ids[index]}"
            )

    def _sample(self, request_id: str, end: int) -> list[int]:
        row = self.rows[request_id]
        return [row.generate()] if end == len(row.token_ids) else []
