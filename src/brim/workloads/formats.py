"""`read` a trace of any known format, `write` one in Brim's own."""

from __future__ import annotations

import csv
import gzip
import io
from pathlib import Path
from typing import Any

from brim.core.errors import ConfigError, TraceError
from brim.core.request import TaskClass
from brim.workloads.journals import read_requests
from brim.workloads.layouts import LAYOUTS, Layout
from brim.workloads.rows import Reading, read_rows
from brim.workloads.sharegpt import CountTokens, read_conversations
from brim.workloads.source import JOURNAL, NOTE, Table, opened
from brim.workloads.trace import NANOSECONDS, Trace, TraceRequest

AUTO, SHAREGPT, DECISIONS = "auto", "sharegpt", "journal"
FORMATS = (AUTO, SHAREGPT, *(layout.name for layout in LAYOUTS), DECISIONS)
BLOCK_TOKENS = 16


def read(
    path: str | Path,
    format: str = AUTO,
    *,
    count_tokens: CountTokens | None = None,
    block_tokens: int = BLOCK_TOKENS,
) -> Trace:
    """The trace in a file, gzip or not; `format` is told by its columns where it is not given.

    `count_tokens` counts the tokens of a text, for formats with words. `block_tokens` is the size of the
    prefix blocks that are made where a file tells who shares but has no block ids. Raises TraceError with
    file and line, and ConfigError for a format that doesn't exist.
    """
    if format not in FORMATS:
        raise ConfigError(f"{format!r} is no trace format: give one of {', '.join(FORMATS)}")
    if block_tokens < 1:
        raise ConfigError(f"blocks of {block_tokens} tokens: give 1 or more")
    path = Path(path)
    with opened(path) as table:
        if _is_journal(table, format):
            reading = read_requests(table)
        elif _is_sharegpt(table, format):
            reading = read_conversations(table, count_tokens, block_tokens)
        else:
            reading = read_rows(table, _layout(table, format), block_tokens)
        return _trace(path, reading, table.note)


def write(trace: Trace, path: str | Path) -> None:
    """Brim's own CSV, gzip if the name ends in .gz; the same trace gives the same bytes.

    Columns that say nothing are left out. The note is the first line; the name is not kept, and a carriage
    return in a key becomes a space. Raises ConfigError for a name that is not CSV's, OSError where it can't
    be written.
    """
    path = Path(path)
    if not path.name.removesuffix(".gz").endswith(".csv"):
        raise ConfigError(f"{path}: traces are written as CSV: give a name that ends in .csv or .csv.gz")
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    if trace.note:
        text.write(f"{NOTE}{' '.join(trace.note.split())}\n")
    columns = _own_columns(trace)
    writer.writerow(columns)
    writer.writerows([cell(r) for cell in columns.values()] for r in trace.requests)
    data = text.getvalue().encode()
    path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)


def _is_journal(table: Table, format: str) -> bool:
    if JOURNAL in table.columns and format in (AUTO, DECISIONS):
        return True
    if format == DECISIONS:
        raise TraceError(f"{table.path}: format {DECISIONS} needs what Brim's `decision_log` wrote")
    return False


def _is_sharegpt(table: Table, format: str) -> bool:
    if "conversations" in table.columns:
        return format in (AUTO, SHAREGPT)
    if format == SHAREGPT:
        raise TraceError(f"{table.path}: format {SHAREGPT} needs objects with `conversations`")
    return False


def _layout(table: Table, format: str) -> Layout:
    chosen = [layout for layout in LAYOUTS if format in (AUTO, layout.name)]
    for layout in chosen:
        if not layout.missing(table.columns):
            return layout
    found = ", ".join(table.columns)[:200] or "without names"
    if format == AUTO:
        raise TraceError(
            f"{table.path}: no known format has the columns {found}: the first line must name columns, "
            f"such as arrival_s,input_tokens,output_tokens; known are {', '.join(FORMATS[1:])}"
        )
    missing = ", ".join(chosen[0].missing(table.columns))
    raise TraceError(f"{table.path}: format {format} needs the columns {missing}; the file has {found}")


def _trace(path: Path, reading: Reading, note: str) -> Trace:
    if not reading.requests:
        why = "".join(f" ({remark})" for remark in reading.remarks)
        raise TraceError(f"{path}: no request in it{why}: give a trace with requests that have output tokens")
    arrivals = [r.arrival_ns for r in reading.requests]
    if arrivals != sorted(arrivals):
        reading.remarks.append("rows were not in order of arrival: sorted")
    name = path.name.removesuffix(".gz")
    return Trace(
        name=name.rpartition(".")[0] or name,
        requests=reading.requests,
        block_tokens=reading.block_tokens,
        has_arrivals=reading.has_arrivals,
        note="; ".join(filter(None, (note, *(remark for remark in reading.remarks if remark not in note)))),
    )


def _own_columns(trace: Trace) -> dict[str, Any]:
    """The columns that say something, each with what it holds of a request."""
    requests, columns = trace.requests, {}
    if trace.has_arrivals:
        columns["arrival_s"] = lambda r: _decimal_seconds(r.arrival_ns)
    columns["input_tokens"] = lambda r: r.input_tokens
    columns["output_tokens"] = lambda r: r.output_tokens
    if any(r.task_class is not TaskClass.ONLINE for r in requests):
        columns["class"] = lambda r: r.task_class
    if any(r.deadline_s is not None for r in requests):
        columns["deadline_s"] = lambda r: r.deadline_s
    if any(r.length_key for r in requests):
        columns["key"] = lambda r: r.length_key.replace("\r", " ")  # Python 3.11 would not quote it
    if trace.block_tokens:
        columns[f"hash_ids_{trace.block_tokens}"] = _spaced_ids
    return columns


def _spaced_ids(request: TraceRequest) -> str:
    return " ".join(map(str, request.block_ids))


def _decimal_seconds(moment_ns: int) -> str:
    """All nine decimals: a float would lose some."""
    return f"{moment_ns // NANOSECONDS}.{moment_ns % NANOSECONDS:09d}"
