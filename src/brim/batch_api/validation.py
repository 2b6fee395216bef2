"""Checks an input file: every line is right and the job may run, or it fails with the list of problems."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from brim.wire.json_limits import has_too_many_parts

MAX_PROBLEMS = 100
MAX_CUSTOM_ID_CHARACTERS = 512
MAX_MODEL_CHARACTERS = 512
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class InputLine:
    """Where one request lies in the input file. `line_number` starts at 1."""

    line_number: int
    custom_id: str
    byte_offset: int
    byte_length: int


@dataclass(frozen=True, slots=True)
class Problem:
    """One entry of the batch object's `errors`. `line` is None when it concerns the whole file."""

    code: str
    message: str
    param: str | None = None
    line: int | None = None


@dataclass(slots=True)
class Findings:
    """`lines` is complete only if `problems` is empty. `endpoint` and `model` are those of all lines."""

    lines: list[InputLine] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    endpoint: str | None = None
    model: str | None = None


def check(
    path: Path,
    *,
    endpoints: Sequence[str],
    models: Collection[str] | None,
    max_lines: int,
    max_line_bytes: int,
) -> Findings:
    """Reads the file once, in memory bounded by its longest allowed line. Raises OSError.

    Stops at the hundredth problem. All lines must have the same one of `endpoints` as their url. `models`
    None means that any model name is accepted.
    """
    checker = _Checker(endpoints, models)
    with path.open("rb") as file:
        for number, offset, raw in _raw_lines(file, max_line_bytes):
            if number > max_lines:
                message = f"The file has more than {max_lines} requests; split it into several batches."
                checker.findings.problems.append(Problem("too_many_tasks", message))
                break
            if len(raw) > max_line_bytes:
                message = f"The line is longer than {max_line_bytes} bytes."
                checker.report("invalid_json_line", message, None, number)
            else:
                checker.take(number, offset, raw)
            if len(checker.findings.problems) >= MAX_PROBLEMS:
                break
    findings = checker.findings
    if not findings.lines and not findings.problems:
        findings.problems.append(Problem("empty_batch", "The file has no requests; put one on each line."))
    return findings


def _raw_lines(file: BinaryIO, max_line_bytes: int) -> Iterator[tuple[int, int, bytes]]:
    """(number, byte offset, bytes); of a line that is too long only its first bytes."""
    if file.read(len(_BOM)) != _BOM:
        file.seek(0)
    number = 0
    while True:
        offset = file.tell()
        raw = file.readline(max_line_bytes + 2)
        if not raw:
            return
        number += 1
        yield number, offset, raw.removesuffix(b"\n").removesuffix(b"\r")
        while raw and not raw.endswith(b"\n"):
            raw = file.readline(max_line_bytes)


class _Checker:
    def __init__(self, endpoints: Sequence[str], models: Collection[str] | None) -> None:
        self.findings = Findings()
        self._endpoints = endpoints
        self._models = models
        self._line_of: dict[str, int] = {}

    def report(self, code: str, message: str, param: str | None, line: int) -> None:
        self.findings.problems.append(Problem(code, message, param, line))

    def take(self, number: int, offset: int, raw: bytes) -> None:
        """Adds the line to the findings, or what is wrong with it."""
        if has_too_many_parts(raw):
            self.report("invalid_json_line", "The line's JSON has too many parts.", None, number)
            return
        try:
            request = orjson.loads(raw) if raw.strip() else None
        except orjson.JSONDecodeError as exc:
            self.report("invalid_json_line", f"The line is not valid JSON: {exc}.", None, number)
            return
        if not isinstance(request, dict):
            self.report(
                "invalid_json_line", "The line must be one JSON object and nothing else.", None, number
            )
            return
        for code, message, param in self._problems(number, request):
            self.report(code, message, param, number)
        if not self.findings.problems:
            self.findings.lines.append(InputLine(number, request["custom_id"], offset, len(raw)))

    def _problems(self, number: int, request: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
        for name in ("custom_id", "method", "url", "body"):
            if name not in request:
                yield "missing_required_parameter", f"{name!r} is missing.", name
        if "custom_id" in request:
            yield from self._custom_id_problems(number, request["custom_id"])
        if request.get("method", "POST") != "POST":
            yield "invalid_method", "'method' must be \"POST\".", "method"
        if "url" in request:
            yield from self._url_problems(request["url"])
        if "body" in request:
            yield from self._body_problems(request["body"])

    def _url_problems(self, url: Any) -> Iterator[tuple[str, str, str]]:
        if url not in self._endpoints:
            served = " or ".join(map(repr, self._endpoints))
            yield "invalid_url", f"'url' must be the batch's endpoint, {served}.", "url"
            return
        self.findings.endpoint = self.findings.endpoint or url
        if url != self.findings.endpoint:
            message = f"All lines must have the same url; earlier ones have {self.findings.endpoint!r}."
            yield "invalid_url", message, "url"

    def _custom_id_problems(self, number: int, custom_id: Any) -> Iterator[tuple[str, str, str]]:
        if not isinstance(custom_id, str) or not 1 <= len(custom_id) <= MAX_CUSTOM_ID_CHARACTERS:
            expected = f"a string of 1 to {MAX_CUSTOM_ID_CHARACTERS} characters"
            yield "invalid_custom_id", f"'custom_id' must be {expected}.", "custom_id"
            return
        first = self._line_of.setdefault(custom_id, number)
        if first != number:
            yield "duplicate_custom_id", f"'custom_id' is already used on line {first}.", "custom_id"

    def _body_problems(self, body: Any) -> Iterator[tuple[str, str, str]]:
        if not isinstance(body, dict):
            yield "invalid_body", "'body' must be a JSON object.", "body"
            return
        if body.get("stream"):
            yield "invalid_value", "A batch cannot stream; leave 'stream' out.", "body.stream"
        if "model" not in body:
            yield "missing_required_parameter", "'body.model' is missing.", "body.model"
        else:
            yield from self._model_problems(body["model"])

    def _model_problems(self, model: Any) -> Iterator[tuple[str, str, str]]:
        if not isinstance(model, str) or not 1 <= len(model) <= MAX_MODEL_CHARACTERS:
            expected = f"a string of 1 to {MAX_MODEL_CHARACTERS} characters"
            yield "invalid_value", f"'body.model' must be {expected}.", "body.model"
            return
        if self._models is not None and model not in self._models:
            served = ", ".join(sorted(self._models))
            yield (
                "model_not_found",
                f"The model {model!r} is not served here; use one of: {served}.",
                "body.model",
            )
        self.findings.model = self.findings.model or model
        if model != self.findings.model:
            message = f"All lines must name the same model; earlier ones name {self.findings.model!r}."
            yield "mismatched_model", message, "body.model"
