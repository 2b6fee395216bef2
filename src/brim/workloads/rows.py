"""Rows of a table become requests. Whatever can't be meant is refused with file and line."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from brim.core.errors import TraceError
from brim.core.request import TaskClass
from brim.workloads.layouts import Layout, milliseconds, seconds
from brim.workloads.source import Table, exact, whole
from brim.workloads.trace import TraceRequest
from brim.workloads.wording import counted

IDS_COLUMN = re.compile(r"hash_ids_([1-9]\d{0,8})")
Row = Sequence[Any]
BlockReader = Callable[[Row, int], tuple[int, ...]]


@dataclass
class Reading:
    """What came out of a file: requests in file order, and what a reader of the trace must know."""

    requests: list[TraceRequest]
    remarks: list[str]
    block_tokens: int = 0
    has_arrivals: bool = True


def read_rows(table: Table, layout: Layout, block_tokens: int) -> Reading:
    """Raises TraceError. Requests without output tokens are left out, and counted in the remarks."""
    columns = table.columns
    layout = _with_ids(table, layout)
    reader = _row_reader(table, layout, block_tokens)
    requests, silent = [], 0
    for number, row in table.rows:
        try:
            request = reader(row)
        except ValueError as exc:
            raise table.error(number, exc) from None
        if request.output_tokens:
            requests.append(request)
        else:
            silent += 1
    reading = Reading(requests, _remarks(layout, columns), layout.block_tokens, layout.arrival in columns)
    if layout.sharing:
        reading.block_tokens = block_tokens
        reading.remarks.append(f"prefix blocks of {block_tokens} tokens made: {layout.sharing.meaning}")
    if silent:
        reading.remarks.append(f"{counted(silent, 'request')} without output tokens left out")
    if layout.own_clock and reading.has_arrivals:
        reading.requests = _from_zero(requests)
    return reading


def _with_ids(table: Table, layout: Layout) -> Layout:
    """The layout with the block ids that the file really has."""
    named = {name: match for name in table.columns if (match := IDS_COLUMN.fullmatch(name))}
    if len(named) > 1:
        raise TraceError(f"{table.path}: {' and '.join(named)} both give block ids: keep one of the columns")
    for name, match in named.items():
        return replace(layout, ids=name, block_tokens=int(match[1]))
    return layout if layout.ids in table.columns else replace(layout, ids="", block_tokens=0)


def _row_reader(table: Table, layout: Layout, block_tokens: int) -> Callable[[Row], TraceRequest]:
    columns = table.columns
    inputs, outputs, arrival = columns[layout.input], columns[layout.output], columns.get(layout.arrival)
    keys = [columns[name] for name in layout.keys if name in columns]
    task_class, deadline = columns.get("class"), columns.get("deadline_s")
    blocks = _block_reader(table, layout, block_tokens)

    def request(row: Row) -> TraceRequest:
        arrival_ns = 0 if arrival is None else layout.clock(row[arrival], layout.arrival)
        input_tokens = whole(row[inputs], layout.input)
        output_tokens = whole(row[outputs], layout.output)
        if output_tokens and not input_tokens:
            raise ValueError(f"{layout.input} is 0: a request has at least one token")
        return TraceRequest(
            arrival_ns,
            input_tokens,
            output_tokens,
            TaskClass.ONLINE if task_class is None else _task_class(row[task_class]),
            None if deadline is None else _deadline_s(row[deadline]),
            blocks(row, input_tokens) if blocks and output_tokens else (),
            "/".join(str(row[i]) for i in keys if row[i] is not None),
        )

    return request


def _task_class(value: Any) -> TaskClass:
    try:
        return TaskClass.ONLINE if value in ("", None) else TaskClass(value)
    except ValueError:
        raise ValueError(f"class is {value!r}: give {' or '.join(TaskClass)}") from None


def _deadline_s(value: Any) -> float | None:
    return None if value in ("", None) else float(exact(value, "deadline_s"))


def _block_reader(table: Table, layout: Layout, block_tokens: int) -> BlockReader | None:
    if layout.sharing:
        return _shared_blocks(table, layout, block_tokens)
    if not layout.ids:
        return None
    place = table.columns[layout.ids]

    def blocks(row: Row, input_tokens: int) -> tuple[int, ...]:
        ids = _ids(row[place], layout.ids)
        room = -(-input_tokens // layout.block_tokens)
        if len(ids) > room:
            raise ValueError(
                f"{layout.ids} has {len(ids)} ids of {layout.block_tokens} tokens: "
                f"a prompt of {input_tokens} tokens has {room} such blocks"
            )
        return ids

    return blocks


def _ids(value: Any, column: str) -> tuple[int, ...]:
    try:
        if isinstance(value, str):
            return tuple(map(int, value.split()))
        if all(type(block_id) is int for block_id in value or ()):
            return tuple(value or ())
    except (TypeError, ValueError):
        pass
    raise ValueError(f"{column} is {str(value)[:40]!r}: give whole numbers, such as 0 1 2")


def _shared_blocks(table: Table, layout: Layout, block_tokens: int) -> BlockReader:
    assert layout.sharing is not None
    maker, sharing, columns = layout.sharing.maker(block_tokens), layout.sharing, table.columns

    def blocks(row: Row, input_tokens: int) -> tuple[int, ...]:
        shared_tokens = sum(whole(row[columns[name]], name) for name in sharing.tokens)
        if shared_tokens > input_tokens:
            told = " + ".join(sharing.tokens)
            raise ValueError(f"{told} is {shared_tokens}, more than the {input_tokens} of {layout.input}")
        return maker.blocks(row[columns[sharing.group]], shared_tokens, input_tokens)

    return blocks


def _remarks(layout: Layout, columns: Mapping[str, int]) -> list[str]:
    read = {layout.arrival, layout.ids, "class", "deadline_s", *layout.needed, *layout.keys}
    remarks = [] if layout.arrival in columns else ["lengths only"]
    untold = layout.arrival == "timestamp" and layout.clock in (seconds, milliseconds)
    if untold and "timestamp" in columns:  # it does not tell its unit
        remarks.append(f"timestamps read as {layout.clock.__name__}")
    if unread := [name for name in columns if name not in read]:
        remarks.append(f"columns not read: {', '.join(unread)}")
    if (keys := [name for name in layout.keys if name in columns]) not in ([], ["key"]):
        remarks.append(f"length_key is {'/'.join(keys)}")
    return remarks


def _from_zero(requests: list[TraceRequest]) -> list[TraceRequest]:
    start_ns = min((r.arrival_ns for r in requests), default=0)
    return [r._replace(arrival_ns=r.arrival_ns - start_ns) for r in requests] if start_ns else requests
