"""`brim run-batch` on the scripted engine: what it reads, what it writes, who else writes there."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from brim.cli import run_batch as module
from brim.cli.host import Host
from brim.cli.run_batch import run_batch
from brim.cli.settings import RunBatchSettings
from brim.core.errors import ConfigError
from brim.engines.scripted import ByteTokenizer, ScriptedEngine
from brim.server.options import ServiceOptions
from brim.server.service import OpenAIService
from tests.server.http_harness import MODEL, new_loop

loads: list[str] = []


@contextmanager
def scripted(settings: RunBatchSettings, options: ServiceOptions, tell: Any) -> Iterator[Host]:
    loads.append("loaded")
    loop = new_loop(ScriptedEngine())
    loop.start()
    try:
        yield Host(loop.caps, OpenAIService(loop, ByteTokenizer(), options), 1, keeps_targets=False)
    finally:
        loop.close()


@pytest.fixture(autouse=True)
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    loads.clear()
    monkeypatch.setattr(module, "running", scripted)


def line(custom_id: str = "a", **changes: Any) -> bytes:
    body = {"model": MODEL, "prompt": "x", "max_tokens": 2}
    whole = {"custom_id": custom_id, "method": "POST", "url": "/v1/completions", "body": body, **changes}
    return json.dumps(whole).encode() + b"\n"


def source_of(folder: Path, *lines: bytes) -> Path:
    path = folder / "in.jsonl"
    path.write_bytes(b"".join(lines))
    return path


def run(source: Path, target: Path) -> dict[str, Any]:
    return run_batch(RunBatchSettings(), source, target)


def answered(target: Path) -> list[str]:
    return sorted(json.loads(raw)["custom_id"] for raw in target.read_bytes().splitlines())


def refused(source: Path, target: Path, match: str) -> None:
    """Before the model is loaded, and leaving nothing behind."""
    before = set(source.parent.iterdir())
    with pytest.raises(ConfigError, match=match):
        run(source, target)
    assert not loads
    assert set(source.parent.iterdir()) == before


def test_the_output_is_on_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def synced(descriptor: int) -> None:
        fsync(descriptor)
        steps.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")

    def replaced(path: Path, target: Path) -> Path:
        steps.append("replace")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", replaced)
    run(source_of(tmp_path, line()), tmp_path / "out.jsonl")
    assert steps == ["file", "replace", "folder"]


def test_what_a_link_points_to_is_written(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    link = tmp_path / "out.jsonl"
    for name in ("there", "not yet there"):
        behind = tmp_path / "far" / name
        if name == "there":
            behind.write_text("old")
        link.unlink(missing_ok=True)
        link.symlink_to(behind)
        summary = run(source_of(tmp_path, line("a"), line("b")), link)
        assert summary["output"] == str(link)
        assert link.is_symlink()
        assert answered(behind) == ["a", "b"]
        assert [path.name for path in (tmp_path / "far").iterdir() if path.suffix == ".part"] == []


def test_what_is_no_regular_file_is_refused_and_stays(tmp_path: Path) -> None:
    pipe, link = tmp_path / "pipe", tmp_path / "link"
    os.mkfifo(pipe)
    link.symlink_to(pipe)
    source = source_of(tmp_path, line())
    for target in (pipe, link, tmp_path):
        refused(source, target, "give a file, or a new name")
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_a_folder_that_is_not_there_is_said(tmp_path: Path) -> None:
    refused(source_of(tmp_path, line()), tmp_path / "no" / "out", "in a folder that exists")


def test_the_input_is_no_output_under_any_name(tmp_path: Path) -> None:
    source = source_of(tmp_path, line())
    (tmp_path / "link").symlink_to(source)
    refused(source, source, "is the input")
    refused(source, tmp_path / "link", "is the input")


def test_a_second_run_on_one_output_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = source_of(tmp_path, line("a"), line("b")), tmp_path / "out.jsonl"

    @contextmanager
    def during_another(*args: Any) -> Iterator[Host]:
        monkeypatch.setattr(module, "running", scripted)
        with scripted(*args) as host:
            with pytest.raises(ConfigError, match="another run-batch writes"):
                run(source, target)
            assert loads == ["loaded"]
            yield host

    monkeypatch.setattr(module, "running", during_another)
    assert run(source, target)["completed"] == 2
    assert answered(target) == ["a", "b"]


def test_a_file_that_got_its_last_name_meanwhile_is_not_written(tmp_path: Path) -> None:
    part = tmp_path / "x.part"
    with part.open("a+b") as file:
        part.rename(tmp_path / "x")
        assert not module._locked(file, part)
        part.write_bytes(b"of another run")
        assert not module._locked(file, part)


def test_nothing_is_left_of_a_run_that_wrote_nothing(tmp_path: Path) -> None:
    source = source_of(tmp_path, line(body={"model": "another", "prompt": "x"}))
    with pytest.raises(ConfigError, match="not served here"):
        run(source, tmp_path / "out.jsonl")
    assert list(tmp_path.iterdir()) == [source]


WRONG = {
    "nothing": (b"", "has no requests; put one on each line. \\(empty_batch\\)"),
    "blank": (b"\n" + line(), "line 1: The line must be one JSON object .*\\(invalid_json_line\\)"),
    "not JSON": (b"{]\n" + line(), "line 1: The line is not valid JSON: .*\\(invalid_json_line\\)"),
    "many brackets": (b"[" * 200_000, "line 1: The line's JSON has too many parts. \\(invalid_json_line\\)"),
    "deep": (b"[" * 90_000, "line 1: The line is not valid JSON: .*\\(invalid_json_line\\)"),
    "no object": (b"3\n", "line 1: The line must be one JSON object"),
    "a list as url": (line(url=["/v1/completions"]), "line 1: 'url' must be .*'/v1/completions'"),
    "another url": (line(url="/v1/embeddings"), "line 1: 'url' must be .*'/v1/completions'"),
    "two urls": (line() + line("b", url="/v1/chat/completions"), "line 2: All lines must have the same url"),
    "no url": (line().replace(b'"url"', b'"uri"'), "line 1: 'url' is missing"),
}


@pytest.mark.parametrize(("content", "message"), WRONG.values(), ids=WRONG)
def test_a_wrong_input_is_told_by_line_and_code(tmp_path: Path, content: bytes, message: str) -> None:
    refused(source_of(tmp_path, content), tmp_path / "out.jsonl", message)


def test_only_the_line_that_is_wrong_is_told(tmp_path: Path) -> None:
    source = source_of(tmp_path, b"{]\n", line("a"), line("b"))
    with pytest.raises(ConfigError) as caught:
        run(source, tmp_path / "out.jsonl")
    assert len(str(caught.value).splitlines()) == 2
