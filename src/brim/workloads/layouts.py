"""Which column means what: one row for each trace format that is a table."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from brim.workloads.sharing import DocumentBlocks, SessionBlocks
from brim.workloads.source import exact
from brim.workloads.trace import NANOSECONDS

STAMP = re.compile(r"(\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:?\d\d)?")


def seconds(value: Any, column: str) -> int:
    return int((exact(value, column) * NANOSECONDS).to_integral_value())


def milliseconds(value: Any, column: str) -> int:
    """Whole ones: Mooncake's have no fraction, and a table in seconds has the same columns."""
    number = exact(value, column)
    if number != number.to_integral_value():
        raise ValueError(
            f"{column} is {value}, read as milliseconds: these look like seconds: name the columns "
            "arrival_s, input_tokens and output_tokens (round them if they are milliseconds)"
        )
    return int(number) * (NANOSECONDS // 1000)


def date_and_time(value: Any, column: str) -> int:
    """2023-11-16 18:15:46.6805900, to the nanosecond; UTC where no zone is given."""
    if not (stamp := STAMP.fullmatch(str(value).strip())):
        raise ValueError(f"{column} is {value!r}: give a time such as 2023-11-16 18:15:46.6805900")
    moment, fraction, zone = stamp.groups()
    try:
        whole_seconds = int(datetime.fromisoformat(moment + (zone or "Z")).timestamp())
    except ValueError as exc:
        raise ValueError(f"{column} is {value!r}: {exc}") from None
    return whole_seconds * NANOSECONDS + int((fraction or "").ljust(9, "0"))


@dataclass(frozen=True)
class Sharing:
    """How prefix blocks are made from columns: who shares, and how many tokens (a sum of columns)."""

    maker: type[DocumentBlocks] | type[SessionBlocks]
    group: str
    tokens: tuple[str, ...]
    meaning: str

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.group, *self.tokens)


@dataclass(frozen=True)
class Layout:
    """Names of columns, in lower case; `block_tokens` is the tokens of one id in the column `ids`.

    A file has this layout if it has the columns `input`, `output` and `marks`. Where `own_clock` is set
    the arrivals are stamps of the source's clock, and the first becomes 0.
    """

    name: str
    input: str = "input_tokens"
    output: str = "output_tokens"
    marks: tuple[str, ...] = ()
    arrival: str = "timestamp"
    clock: Callable[[Any, str], int] = seconds
    own_clock: bool = True
    keys: tuple[str, ...] = ()
    ids: str = ""
    block_tokens: int = 0
    sharing: Sharing | None = None

    @property
    def needed(self) -> tuple[str, ...]:
        return (self.input, self.output, *self.marks)

    def missing(self, columns: Iterable[str]) -> list[str]:
        return [name for name in self.needed if name not in columns]


DOCUMENTS = Sharing(
    DocumentBlocks,
    "doc_id",
    ("prompt_head_tokens", "doc_tokens"),
    "requests of one doc_id share prompt_head_tokens + doc_tokens",
)
SESSIONS = Sharing(
    SessionBlocks,
    "session",
    ("shared_prefix_tokens",),
    "a turn shares shared_prefix_tokens with the turn before, blocks of answers from the second prompt on",
)

LAYOUTS = (  # the first one that fits is taken: special ones first
    Layout("azure", "contexttokens", "generatedtokens", ("timestamp",), clock=date_and_time),
    Layout("burstgpt", "request tokens", "response tokens", ("timestamp",), keys=("model", "log type")),
    Layout(
        "bailian",
        "input_length",
        "output_length",
        ("timestamp", "chat_id"),
        keys=("type",),
        ids="hash_ids",
        block_tokens=16,
    ),
    Layout(
        "mooncake",
        "input_length",
        "output_length",
        ("timestamp",),
        clock=milliseconds,
        ids="hash_ids",
        block_tokens=512,
    ),
    Layout(
        "loogle", output="reference_answer_tokens", marks=DOCUMENTS.columns, keys=("task",), sharing=DOCUMENTS
    ),
    Layout("sessions", marks=SESSIONS.columns, arrival="arrival_s", sharing=SESSIONS),
    Layout("servegen", marks=("timestamp",), keys=("client",)),
    Layout(
        "servegen-offline", "input_length", "output_length", keys=("type",), ids="hash_ids", block_tokens=16
    ),
    Layout("vidur", "num_prefill_tokens", "num_decode_tokens", arrival="arrived_at"),
    Layout("brim", arrival="arrival_s", own_clock=False, keys=("key", "client")),
)
