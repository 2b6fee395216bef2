"""What an input file may hold, and what is said of one that may not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from brim.batch_api import validation
from brim.batch_api.validation import Findings
from tests.unit.batch_api.batch_harness import ENDPOINT, jsonl, request_line

GOOD = json.dumps(request_line("good")).encode()


def check(path: Path, content: bytes, **changes: Any) -> Findings:
    (path / "input").write_bytes(content)
    rules = {"endpoints": [ENDPOINT], "models": None, "max_lines": 50_000, "max_line_bytes": 8 << 20}
    return validation.check(path / "input", **rules | changes)


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in request_line("x").items() if key != name}


BAD_LINES = {
    "blank": (b"", "invalid_json_line", None),
    "spaces": (b"  \t", "invalid_json_line", None),
    "not JSON": (b"{]", "invalid_json_line", None),
    "two objects": (b"{} {}", "invalid_json_line", None),
    "not UTF-8": (b'{"custom_id": "\xff"}', "invalid_json_line", None),
    "NUL": (GOOD + b"\x00", "invalid_json_line", None),
    "not finite": (b'{"custom_id": NaN}', "invalid_json_line", None),
    "array": (b"[]", "invalid_json_line", None),
    "null": (b"null", "invalid_json_line", None),
    "a second BOM": (b"\xef\xbb\xbf" + GOOD, "invalid_json_line", None),
    "deep": (b"[" * 100_000, "invalid_json_line", None),
    "lone surrogate": (b'{"custom_id": "\\ud800"}', "invalid_json_line", None),
    "no custom_id": (without("custom_id"), "missing_required_parameter", "custom_id"),
    "empty custom_id": (request_line(""), "invalid_custom_id", "custom_id"),
    "number as custom_id": (request_line(7), "invalid_custom_id", "custom_id"),
    "null as custom_id": (request_line(None), "invalid_custom_id", "custom_id"),
    "long custom_id": (request_line("x" * 513), "invalid_custom_id", "custom_id"),
    "duplicate custom_id": (request_line("good"), "duplicate_custom_id", "custom_id"),
    "no method": (without("method"), "missing_required_parameter", "method"),
    "wrong method": (request_line("x", method="GET"), "invalid_method", "method"),
    "no url": (without("url"), "missing_required_parameter", "url"),
    "other url": (request_line("x", url="/v1/completions"), "invalid_url", "url"),
    "url of another type": (request_line("x", url=[]), "invalid_url", "url"),
    "no body": (without("body"), "missing_required_parameter", "body"),
    "body not an object": ({**request_line("x"), "body": "hi"}, "invalid_body", "body"),
    "no model": ({**request_line("x"), "body": {}}, "missing_required_parameter", "body.model"),
    "number as model": (request_line("x", body={"model": 1}), "invalid_value", "body.model"),
    "long model": (request_line("x", body={"model": "m" * 513}), "invalid_value", "body.model"),
    "other model": (request_line("x", body={"model": "n"}), "mismatched_model", "body.model"),
    "stream": (request_line("x", body={"stream": True}), "invalid_value", "body.stream"),
}


@pytest.mark.parametrize(("line", "code", "param"), BAD_LINES.values(), ids=BAD_LINES)
def test_a_bad_line_is_named_with_its_code(tmp_path: Path, line: Any, code: str, param: str | None) -> None:
    raw = line if isinstance(line, bytes) else json.dumps(line).encode()
    after = json.dumps(request_line("after")).encode()
    (problem,) = check(tmp_path, b"\n".join([GOOD, raw, after])).problems
    assert (problem.code, problem.param, problem.line) == (code, param, 2)
    assert problem.message


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("last", [True, False])
def test_line_ends_and_a_bom_are_fine_and_the_offsets_lead_to_the_lines(
    tmp_path: Path, end: bytes, bom: bytes, last: bool
) -> None:
    names = ["a", "ünïcode", "nul\x00inside"]
    content = bom + end.join(json.dumps(request_line(name)).encode() for name in names) + end * last
    findings = check(tmp_path, content)
    assert findings.problems == []
    assert findings.model == "m"
    for number, (name, line) in enumerate(zip(names, findings.lines, strict=True), start=1):
        raw = content[line.byte_offset : line.byte_offset + line.byte_length]
        assert (line.line_number, line.custom_id) == (number, name)
        assert json.loads(raw) == request_line(name)


@pytest.mark.parametrize("content", [b"", b"\xef\xbb\xbf"])
def test_an_empty_file_is_an_empty_batch(tmp_path: Path, content: bytes) -> None:
    (problem,) = check(tmp_path, content).problems
    assert (problem.code, problem.line) == ("empty_batch", None)


def test_one_line_too_many(tmp_path: Path) -> None:
    lines = jsonl(request_line(str(number)) for number in range(3))
    assert check(tmp_path, lines, max_lines=3).problems == []
    (problem,) = check(tmp_path, lines + GOOD, max_lines=3).problems
    assert (problem.code, problem.line) == ("too_many_tasks", None)


def test_a_line_is_limited_in_bytes_and_the_next_one_is_still_read(tmp_path: Path) -> None:
    limit = len(GOOD)
    exact = check(tmp_path, GOOD + b"\r\n", max_line_bytes=limit)
    assert exact.problems == []
    content = GOOD + b" \n" + b"x" * (5 * limit) + b"\n" + b"{"
    problems = check(tmp_path, content, max_line_bytes=limit).problems
    assert [(problem.code, problem.line) for problem in problems] == [
        ("invalid_json_line", 1),
        ("invalid_json_line", 2),
        ("invalid_json_line", 3),
    ]


def test_only_served_models(tmp_path: Path) -> None:
    assert check(tmp_path, GOOD, models={"m"}).problems == []
    (problem,) = check(tmp_path, GOOD, models={"p", "q"}).problems
    assert problem.code == "model_not_found"
    assert "p, q" in problem.message


def test_a_line_with_two_faults_reports_both_and_the_list_ends_at_a_hundred(tmp_path: Path) -> None:
    both = jsonl([request_line("", method="PUT")])
    codes = [problem.code for problem in check(tmp_path, both).problems]
    assert codes == ["invalid_custom_id", "invalid_method"]
    assert len(check(tmp_path, b"{\n" * 1_000).problems) == 100


def test_one_url_of_several_is_that_of_all_lines(tmp_path: Path) -> None:
    lines = jsonl(request_line(name, url=url) for name, url in (("a", "/x"), ("b", "/y"), ("c", "/z")))
    findings = check(tmp_path, lines, endpoints=["/x", "/y"])
    assert findings.endpoint == "/x"
    told = [(problem.line, problem.code, problem.message) for problem in findings.problems]
    assert told == [
        (2, "invalid_url", "All lines must have the same url; earlier ones have '/x'."),
        (3, "invalid_url", "'url' must be the batch's endpoint, '/x' or '/y'."),
    ]
