"""ShareGPT: conversations with their words. Each reply is a request with the whole history as its prompt."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from brim.workloads.rows import Reading
from brim.workloads.sharing import SessionBlocks
from brim.workloads.source import Table
from brim.workloads.trace import TraceRequest
from brim.workloads.wording import counted

ANSWERERS = frozenset({"gpt", "assistant", "chatgpt", "bing", "bard", "model"})
BYTES_PER_TOKEN = 4
CountTokens = Callable[[str], int]


def approximate_tokens(text: str) -> int:
    """One token for every four bytes of UTF-8, rounded up: near for English, far off for much else."""
    return -(-len(text.encode("utf-8", "replace")) // BYTES_PER_TOKEN)


def read_conversations(table: Table, count_tokens: CountTokens | None, block_tokens: int) -> Reading:
    """Lengths without arrivals, in file order. Raises TraceError."""
    count = count_tokens or approximate_tokens
    sessions, place = SessionBlocks(block_tokens), table.columns["conversations"]
    requests, unasked, silent = [], 0, 0
    for number, row in table.rows:
        try:
            turns = list(_turns(row[place], count))
        except ValueError as exc:
            raise table.error(number, exc) from None
        known = 0
        for history, reply in turns:
            if not history:
                unasked += 1
            elif not reply:
                silent += 1
            else:
                blocks = sessions.blocks(number, known, history)
                requests.append(TraceRequest(0, history, reply, block_ids=blocks))
                known = history + reply
    remarks = ["lengths only", "one request per reply, its prompt the whole history, no template tokens"]
    remarks.append(f"prefix blocks of {block_tokens} tokens made: a reply's prompt continues the one before")
    if count_tokens is None:
        remarks.append(f"token counts APPROXIMATE: UTF-8 bytes / {BYTES_PER_TOKEN}, no tokenizer was given")
    for left_out, what, why in (
        (unasked, "reply", "to nothing"),
        (silent, "request", "without output tokens"),
    ):
        if left_out:
            remarks.append(f"{counted(left_out, what)} {why} left out")
    return Reading(requests, remarks, block_tokens, has_arrivals=False)


def _turns(conversation: Any, count: CountTokens) -> Iterator[tuple[int, int]]:
    """For each reply: tokens of everything said before, tokens of the reply."""
    if not isinstance(conversation, list):
        raise ValueError("conversations is no list of turns")
    history = 0
    for place, turn in enumerate(conversation, start=1):
        if not isinstance(turn, dict) or not all(isinstance(turn.get(k), str) for k in ("from", "value")):
            raise ValueError(f"turn {place} is not an object with two texts, `from` and `value`")
        tokens = count(turn["value"])
        if turn["from"] in ANSWERERS:
            yield history, tokens
        history += tokens
