"""A worker without a model: it knows what every token will be, and what lies in every slot of the KV cache.

Told nothing but vLLM's `SchedulerOutput`, like a real worker, it writes a mark for each computed token into
the slots that the scheduler gave, and before it answers it reads all that attention would read. A block that
was handed out while somebody still needed it, a wrong prefix hit, a lost chunk: each shows as a wrong mark.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vllm.v1.outputs import DraftTokenIds, ModelRunnerOutput

from tests.plugins.vllm.connector import Outside

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
    """One request as the worker knows it: its tokens, the mark behind each of them, and its block tables."""

    def __init__(self, token_ids: Sequence[int], tables: Sequence[Sequence[int]] = ()) -> None:
        self.token_ids: list[int] = []
        self.marks: list[int] = []
        self.tables = [list(table) for table in tables]  # one for each group of layers
        self.guesses: list[int] = []  # of the tokens to come
        self.extend(token_ids)

    def extend(self, token_ids: Sequence[int]) -> None:
        for token_id in token_ids:
            self.token_ids.append(token_id)
            self.marks.append(next_mark(self.marks[-1] if self.marks else 0, token_id))

    def cut(self, length: int) -> None:
        del self.token_ids[length:], self.marks[length:]

    def generate(self) -> int:
        self.extend([next_token(self.marks[-1])])
        return self.token_ids[-1]

    def guess(self, count: int) -> None:
        """Some of them are right."""
        row = Row(self.token_ids)
        self.guesses = [row.generate() for _ in range(count)]
        wrong = self.marks[-1] % (count + 2)
        self.guesses[wrong:] = [VOCAB] * (count - wrong)


@dataclass
class Worker:
    """Carries out scheduler outputs, in the order in which they were scheduled.

    For each group of layers `windows` says how far its attention reaches, None meaning to the first token.
    """

    block_size: int
    windows: Sequence[int | None] = (None,)
    num_guesses: int = 0
    rows: dict[str, Row] = field(default_factory=dict)
    slots: dict[int, list[int | None]] = field(default_factory=dict)  # marks by block
    images: dict[str, list[tuple[str, int, int]]] = field(default_factory=dict)  # name, first and last token
    encoded: set[str] = field(default_factory=set)  # images

    def __post_init__(self) -> None:
        self.outside = Outside(self.slots)

    def execute(self, scheduled: Any) -> ModelRunnerOutput:
        """The tokens of one step.

        Raises `AssertionError` where a token would be computed from wrong keys and values.
        """
        for request_id in scheduled.finished_req_ids:
            self.rows.pop(request_id, None)
        self.encoded.difference_update(scheduled.free_encoder_mm_hashes)
        moves = scheduled.kv_connector_metadata
        moved = None if moves is None else self.outside.move(moves)
        computed = self._begin(scheduled.scheduled_new_reqs) | self._go_on(scheduled.scheduled_cached_reqs)
        assert computed.keys() == scheduled.num_scheduled_tokens.keys()
        self._encode(scheduled.scheduled_encoder_inputs)
        known = {name: len(self.rows[name].token_ids) for name in computed}
        for request_id, drafts in scheduled.scheduled_spec_decode_tokens.items():
            row = self.rows[request_id]
            computed[request_id] = known[request_id] - 1  # the scheduler may not yet know what was rejected
            row.extend([token if token >= 0 else VOCAB for token in drafts])
            if row.guesses and drafts[0] == -1:
                row.cut(known[request_id])
                row.extend((row.guesses + [VOCAB] * len(drafts))[: len(drafts)])
        ends = {name: computed[name] + count for name, count in scheduled.num_scheduled_tokens.items()}
        for request_id, end in ends.items():  # a layer writes the step's keys and values before it reads any
            self._write(request_id, computed[request_id], end)
        for request_id, end in ends.items():
            self._read(request_id, computed[request_id], end)
            self._look_at_images(request_id, computed[request_id], min(end, known[request_id]))
        request_ids = list(ends)
        return ModelRunnerOutput(
            req_ids=request_ids,
            req_id_to_index={name: index for index, name in enumerate(request_ids)},
            sampled_token_ids=[self._sample(name, known[name], end) for name, end in ends.items()],
            kv_connector_output=moved,
        )

    def drafts(self) -> DraftTokenIds:
        """What it guesses of the tokens to come."""
        return DraftTokenIds(list(self.rows), [list(row.guesses) for row in self.rows.values()])

    def _begin(self, new: Sequence[Any]) -> dict[str, int]:
        for data in new:
            token_ids = data.prefill_token_ids or data.prompt_token_ids
            self.rows[data.req_id] = Row(token_ids, data.block_ids)
            self.images[data.req_id] = [
                (item.identifier, item.mm_position.offset, item.mm_position.offset + item.mm_position.length)
                for item in data.mm_features
            ]
        return {data.req_id: data.num_computed_tokens for data in new}

    def _go_on(self, cached: Any) -> dict[str, int]:
        for index, request_id in enumerate(cached.req_ids):
            row, new_blocks = self.rows[request_id], cached.new_block_ids[index]
            if request_id in cached.resumed_req_ids:
                row.tables = [[] for _ in row.tables]
            for table, fresh in zip(row.tables, new_blocks or [()] * len(row.tables), strict=True):
                table.extend(fresh)
            if (told := cached.all_token_ids.get(request_id)) is not None:  # it sat out the last step
                assert told == row.token_ids[: len(told)], f"{request_id} goes on with wrong tokens"
                row.cut(len(told))  # shorter where output in flight was dropped: it will be computed again
        return dict(zip(cached.req_ids, cached.num_computed_tokens, strict=True))

    def _encode(self, inputs: Mapping[str, Sequence[int]]) -> None:
        for request_id, items in inputs.items():
            self.encoded.update(self.images[request_id][item][0] for item in items)

    def _look_at_images(self, request_id: str, start: int, end: int) -> None:
        for name, first, last in self.images[request_id]:
            assert end <= first or last <= start or name in self.encoded, f"{request_id} has not seen {name}"

    def _write(self, request_id: str, start: int, end: int) -> None:
        row = self.rows[request_id]
        assert end <= len(row.token_ids), f"{request_id} computes {end} of {len(row.token_ids)} tokens"
        for table in row.tables:
            for position in range(start, end):
                block, offset = divmod(position, self.block_size)
                assert block < len(table), f"{request_id} has no block for token {position}"
                slots = self.slots.setdefault(table[block], [None] * self.block_size)
                slots[offset] = row.marks[position]

    def _read(self, request_id: str, start: int, end: int) -> None:
        row = self.rows[request_id]
        for table, window in zip(row.tables, self.windows, strict=True):
            first = 0 if window is None else max(start - window + 1, 0)
            for block in range(first // self.block_size, -(-end // self.block_size)):
                begin = max(first, block * self.block_size)
                expected = row.marks[begin : min(end, (block + 1) * self.block_size)]
                offset = begin % self.block_size
                found = self.slots.get(table[block], [])[offset : offset + len(expected)]
                assert found == expected, f"{request_id} reads what it did not write in block {table[block]}"

    def _sample(self, request_id: str, known: int, end: int) -> list[int]:
        row = self.rows[request_id]
        if end < known:
            return []
        guessed = row.token_ids[known:]
        row.cut(known)
        tokens = [row.generate()]
        while guessed and guessed.pop(0) == tokens[-1]:
            tokens.append(row.generate())
        row.guess(self.num_guesses)
        return tokens
