"""Files of records: CSV, JSON lines or a JSON list, plain or gzip, told apart by what is in them."""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation
from io import TextIOWrapper
from itertools import chain
from pathlib import Path
from typing import Any, TextIO

from brim.core.errors import TraceError

GZIP_MAGIC = b"\x1f\x8b"
NOTE = "# "
JOURNAL = "brim_journal"  # how the first line of a journal of decisions begins, and its only column here
LARGEST = 10**12  # of any number in a trace; a larger one is a slip, and would cost minutes as an integer


@dataclass(frozen=True)
class Table:
    """Rows with named columns. Names are in lower case; `unit` says what a row's number counts.

    `note` is what stands in lines before them that begin with `NOTE`.
    """

    path: Path
    columns: Mapping[str, int]
    rows: Iterator[tuple[int, Sequence[Any]]]
    unit: str = "line"
    note: str = ""

    def error(self, number: int, message: object) -> TraceError:
        return TraceError(f"{self.path}, {self.unit} {number}: {message}")


@contextmanager
def opened(path: Path, wanted: str = "a trace") -> Iterator[Table]:
    """The file's records, read as they are asked for. Raises TraceError for whatever is wrong with it.

    `wanted` is what it tells to give instead of a file that is missing or empty.
    """
    try:
        with path.open("rb") as raw:
            binary = gzip.GzipFile(fileobj=raw) if raw.peek(2).startswith(GZIP_MAGIC) else raw
            with TextIOWrapper(binary, encoding="utf-8-sig", newline="") as text:
                table = _table(path, text)
                if not table.columns:
                    raise TraceError(f"{path}: the file is empty, or names nothing: give {wanted}")
                yield table
    except (EOFError, zlib.error, gzip.BadGzipFile) as exc:
        raise TraceError(
            f"{path}: the gzip data is damaged or cut off ({exc}): fetch the file again"
        ) from exc
    except UnicodeDecodeError as exc:
        raise TraceError(f"{path}: not UTF-8 text: give CSV or JSON, plain or gzip") from exc
    except OSError as exc:
        raise TraceError(f"{path}: {exc.strerror or exc}: give the path of {wanted}") from exc


def _table(path: Path, text: TextIO) -> Table:
    notes, skipped, first = [], 0, text.readline()
    while first.startswith(NOTE) or (first and not first.strip()):
        notes.append(first.removeprefix(NOTE).strip())
        skipped, first = skipped + 1, text.readline()
    table = _records(path, text, first, skipped)
    return replace(table, note=" ".join(filter(None, notes)))


def _records(path: Path, text: TextIO, first: str, skipped: int) -> Table:
    if not first:
        return Table(path, {}, iter(()))
    if first.startswith("version https://git-lfs"):
        raise TraceError(f"{path}: a Git LFS pointer, not the data: run `git lfs pull` where it comes from")
    if first.lstrip().startswith("["):
        return _json_list(path, first + text.read(), skipped)
    if first.startswith(f'{{"{JOURNAL}"'):
        return _journal_lines(path, chain((first,), text), skipped)
    if first.lstrip().startswith("{"):
        return _json_lines(path, chain((first,), text), skipped)
    return _csv(path, chain((first,), text), skipped)


def _csv(path: Path, lines: Iterator[str], skipped: int) -> Table:
    csv.field_size_limit(2**31 - 1)  # of the process; the ids of a million tokens exceed the default
    reader = csv.reader(lines)
    names = [name.strip().lower() for name in next(reader)]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise TraceError(f"{path}, line {skipped + 1}: the column {repeated[0]!r} is there twice")
    table = Table(path, {name: i for i, name in enumerate(names)}, iter(()))

    def rows() -> Iterator[tuple[int, Sequence[str]]]:
        try:
            for row in reader:
                if len(row) == len(names):
                    yield skipped + reader.line_num, row
                elif row:
                    message = f"{len(row)} fields where the header names {len(names)}"
                    raise table.error(skipped + reader.line_num, message)
        except csv.Error as exc:
            raise table.error(skipped + reader.line_num, f"not CSV ({exc})") from exc

    return Table(path, table.columns, rows())


def _json_lines(path: Path, lines: Iterator[str], skipped: int) -> Table:
    records = []
    for number, line in enumerate(lines, start=skipped + 1):
        if line.strip():
            records.append((number, _parsed(path, number, line.strip())))
    return _of_records(path, records, "line")


def _journal_lines(path: Path, lines: Iterator[str], skipped: int) -> Table:
    """One by one: they are many. The last one may still be being written."""
    numbered = enumerate(lines, start=skipped + 1)
    rows = ((number, [_parsed(path, number, line)]) for number, line in numbered if line.endswith("\n"))
    return Table(path, {JOURNAL: 0}, rows)


def _json_list(path: Path, text: str, skipped: int) -> Table:
    return _of_records(path, list(enumerate(_parsed(path, skipped + 1, text), start=1)), "record")


def _parsed(path: Path, number: int, text: str) -> Any:
    try:
        return json.loads(text, parse_float=Decimal)
    except json.JSONDecodeError as exc:
        line = number + exc.lineno - 1
        raise TraceError(
            f"{path}, line {line}: not JSON ({exc.msg}): give one object a line, or a list"
        ) from exc
    except (RecursionError, ValueError) as exc:  # a number of thousands of digits is a ValueError
        raise TraceError(f"{path}, line {number}: JSON that no trace needs ({exc})") from exc


def _of_records(path: Path, records: Sequence[tuple[int, Any]], unit: str) -> Table:
    flat = []
    for number, record in records:
        if not isinstance(record, dict):
            raise TraceError(f"{path}, {unit} {number}: {type(record).__name__} where an object belongs")
        inner = record.pop("data", None)
        fields = record | (inner if isinstance(inner, dict) else {})
        flat.append((number, {str(name).strip().lower(): value for name, value in fields.items()}))
    names = dict.fromkeys(name for _, record in flat for name in record)
    rows = ((number, [record.get(name) for name in names]) for number, record in flat)
    return Table(path, {name: i for i, name in enumerate(names)}, rows, unit)


def exact(value: Any, column: str) -> Decimal:
    """A number that is neither negative nor too large, to the last digit. Raises ValueError."""
    if value is None or value == "":
        raise ValueError(f"{column} is missing")
    try:
        number = Decimal("NaN" if isinstance(value, bool | list) else value)
    except (InvalidOperation, TypeError, ValueError):
        raise ValueError(f"{column} is {value!r}, which is no number") from None
    if not number.is_finite():
        raise ValueError(f"{column} is {value!r}, which is no number")
    if number < 0:
        raise ValueError(f"{column} is {value}: a negative number can't be meant")
    if number > LARGEST:
        raise ValueError(f"{column} is {value}: more than {LARGEST} can't be meant")
    return number


def whole(value: Any, column: str) -> int:
    """A whole number, 0 or more, written as 12 or 12.0. Raises ValueError."""
    if type(value) is str and value.isdecimal() and len(value) < 12:
        return int(value)
    number = exact(value, column)
    if number != number.to_integral_value():
        raise ValueError(f"{column} is {value}, which is no whole number")
    return int(number)
