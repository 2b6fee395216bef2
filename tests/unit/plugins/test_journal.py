"""A journal holds all that a decision rests on: the same calls give the same decisions."""

from __future__ import annotations

import errno
import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

import pytest

from brim.core.errors import ConfigError
from brim.core.hosted import HostedScheduler
from brim.core.kvcache.hosted import Beside
from brim.core.policy import Policy
from brim.core.request import SLO
from brim.plugins.journal import JournaledScheduler
from brim.plugins.replay import Replay, replay
from tests.helpers import MS, OFFLINE, config, request
from tests.hosted import FakeHost

HEAD = '{"brim_journal": 2, "config": {"num_blocks": 4, "max_model_len": 16}, "profile": null}\n'


class WritingHost(FakeHost):
    def __init__(self, path: Path, beside: Sequence[Beside] = (), **changes: object) -> None:
        self._path = path
        super().__init__(config(num_blocks=9, max_num_batched_tokens=16, **changes), depth=2, beside=beside)

    def make(self, policy: Policy | None) -> HostedScheduler:
        return JournaledScheduler(self.config, self, self._path)


class FullDisk:
    """Takes twenty lines more."""

    def __init__(self, file: TextIO) -> None:
        self.name, self.closed, self._file, self._left = file.name, False, file, 20

    def write(self, text: str) -> None:
        self._left -= 1
        self._file.write(text)

    def flush(self) -> None:
        if self._left < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        self._file.flush()

    def close(self) -> None:
        self.closed = True
        self._file.close()
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return tmp_path / "journal.jsonl"


def play(host: FakeHost) -> None:
    host.add(*(request(f"r{i}", [1] * 5 + [i], 6, task_class=OFFLINE) for i in range(5)))
    for _ in range(4):
        host.step()
    host.add(*(request(f"s{i}", 6, 9, arrival_ns=host.now_ns, deadline_ns=5 * MS) for i in range(3)))
    host.set_aside("s0", steps=2)
    host.step()
    host.abort("s1")
    host.run()
    host.scheduler.close()


@pytest.mark.parametrize("policy", ["vllm", "bs-e-s", "echo", "brim", "econoserve"])
def test_a_replay_takes_the_same_decisions(journal: Path, policy: str) -> None:
    play(WritingHost(journal, policy=policy))
    found = replay(journal)
    assert found.difference is None
    assert found.steps > 10
    play(WritingHost(journal, policy=policy))  # a server that began anew goes on in the same file
    assert replay(journal) == Replay(2 * found.calls, 2 * found.steps)


def test_a_replay_knows_what_newcomers_need_beside_their_tables(journal: Path) -> None:
    play(WritingHost(journal, [Beside(num_tables=1, block_size=4, most_blocks=1)], policy="brim"))
    assert replay(journal).difference is None
    journal.write_text(journal.read_text().replace('"beside":[[1,4,1]]', '"beside":[]', 1))
    assert replay(journal).difference is not None


def test_a_replay_says_where_another_decision_comes_out(journal: Path) -> None:
    play(WritingHost(journal, policy="priority"))
    lines = [json.loads(text) for text in journal.read_text().splitlines()]
    number = next(i for i, line in enumerate(lines) if line.get("call") == "order" and line["admit"])
    lines[number]["admit"].append("r99")
    journal.write_text("\n".join(map(json.dumps, lines)))
    found = replay(journal)
    assert found.difference is not None
    assert f"line {number + 1} (order)" in found.difference
    assert "r99" in found.difference


def test_another_policy_asks_other_questions(journal: Path) -> None:
    play(WritingHost(journal, policy="brim"))
    journal.write_text(journal.read_text().replace('"policy":"brim"', '"policy":"vllm"', 1))
    assert replay(journal).difference is not None


def test_what_is_asked_between_calls_is_no_part_of_them(journal: Path) -> None:
    host = WritingHost(journal, policy="echo")
    host.add(request("a", 6, 4))
    for _ in range(3):
        host.step()
        assert host.scheduler.kv.available_blocks >= 0
    host.scheduler.close()
    assert replay(journal).difference is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "is no JSON: was the file cut"),
        ('{"a": 1}', "no line of a journal"),
        ('{"call": "add", "now_ns": 0}', "does not begin with a configuration"),
        ('{"brim_journal": 99, "config": {}, "profile": null}', "has format 99; known is 2"),
        ("", "is empty: give what a scheduler wrote"),
        ('{"brim_journal": 2, "config": {"block_size": 4}, "profile": null}', "line 1 of .* can't be played"),
        (HEAD.replace(', "profile": null', ""), "line 1 of .* can't be played"),
        (
            '{"brim_journal": 2, "config": {"num_blocks": "x"}, "profile": null}',
            "line 1 of .* can't be played",
        ),
        (HEAD + '{"call": "add", "now_ns": 0, "host": []}', r"line 2 of .* \(KeyError\('request'\)\)"),
        (HEAD + '{"call": "jump", "now_ns": 0, "host": []}', "line 2 of .* can't be played"),
        (HEAD + '{"call": "published"}', "line 2 of .* can't be played"),
        ("[" * 100_000, "is no JSON"),
    ],
)
def test_what_is_no_journal_is_refused(journal: Path, text: str, said: str) -> None:
    journal.write_text(text)
    with pytest.raises(ConfigError, match=said):
        replay(journal)


def test_a_line_that_was_cut_off_is_left_out(journal: Path) -> None:
    play(WritingHost(journal, policy="brim"))
    whole, text = replay(journal), journal.read_text()
    journal.write_text(text[:-9])
    cut = replay(journal)
    assert cut == Replay(whole.calls - 1, cut.steps, None, cut=True)
    journal.write_text(text.replace(text.splitlines()[-2], text.splitlines()[-2][:-9]))
    with pytest.raises(ConfigError, match="is no JSON: was the file cut"):
        replay(journal)


def test_a_replay_knows_what_the_adopted_had_been_answered(journal: Path) -> None:
    host = WritingHost(journal, policy="brim")
    host.add(request("a", 6, 9, slo=SLO(itl_ns=20 * MS)))
    for _ in range(4):
        host.step()
    while host._in_flight:
        host._finish()
    host.scheduler.close()
    host.pool.observer, host.scheduler = None, host.make(None)
    host.scheduler.adopt(host.requests["a"].asked, host.now_ns)
    host.add(request("b", [5] * 12, 9, task_class=OFFLINE, arrival_ns=host.now_ns))
    host.run()
    host.scheduler.close()
    assert replay(journal).difference is None


def test_where_the_disk_is_full_decisions_go_on(
    journal: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    host = WritingHost(journal, policy="brim")
    assert isinstance(host.scheduler, JournaledScheduler)
    broken = FullDisk(host.scheduler._file)
    monkeypatch.setattr(host.scheduler, "_file", broken)
    play(host)
    assert host.ended["r0"] == 6
    assert broken.closed
    known = replay(journal)
    journal.write_text(journal.read_text()[:-9])
    play(WritingHost(journal, policy="brim"))  # it begins anew when there is room
    found = replay(journal)
    assert (found.difference, found.cut) == (None, False)
    assert found.calls > known.calls
    assert caplog.messages == [f"{journal} ends here, and decisions go on: it could not be written"]


def test_what_is_no_text_is_refused(journal: Path) -> None:
    journal.write_bytes(gzip.compress(b"{}"))
    with pytest.raises(ConfigError, match="is no text: give a journal of decisions, unpacked"):
        replay(journal)
    with pytest.raises(ConfigError, match="Is a directory: give a journal"):
        replay(journal.parent)
