"""`brim trace`: what it prints and writes, and that docs/traces.md tells the truth."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from brim.cli.main import app
from brim.core.errors import BrimError
from brim.core.request import TaskClass
from brim.workloads.formats import FORMATS, read
from brim.workloads.statistics import statistics

DOCUMENT = (Path(__file__).parents[3] / "docs" / "traces.md").read_text()
COMMANDS = re.findall(r"^\$ brim (.+)$", DOCUMENT, re.MULTILINE)
EXAMPLES = re.findall(r"`([\w-]+\.\w+)`:\n\n```(?:csv|json)\n(.*?)```", DOCUMENT, re.DOTALL)
SHIFTED = "arrival_s,input_tokens,output_tokens\n3,30,1\n1,10,1\n2,20,1\n"


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def brim(command: str) -> Result:
    return CliRunner().invoke(app, shlex.split(command))


def done(command: str) -> str:
    result = brim(command)
    assert result.exit_code == 0, (command, result.output, result.exception)
    return result.output


def test_every_command_of_the_document_works() -> None:
    for name, text in EXAMPLES:
        Path(name).write_text(text)
    assert len(COMMANDS) >= 10
    for command in COMMANDS:
        assert done(command)


def test_every_format_of_the_document_is_shown_and_read() -> None:
    shown = {
        name.removeprefix("example-").split(".")[0] for name, _ in EXAMPLES if name.startswith("example-")
    }
    assert shown == set(FORMATS) - {"auto"}
    for name, text in EXAMPLES:
        if name.startswith("example-"):
            Path(name).write_text(text)
            by_content = read(name)
            assert by_content == read(name, name.removeprefix("example-").split(".")[0])


def test_stats() -> None:
    Path("t.csv").write_text(SHIFTED)
    text = done("trace stats t.csv")
    assert "3, of them 0 offline" in text
    assert "1/s over 2 s" in text
    assert "not in order of arrival" in text
    figures = json.loads(done("trace stats t.csv --json"))
    assert (figures["name"], figures["requests"], figures["rate"]) == ("t", 3, 1)
    assert figures["input_tokens"]["max"] == 30


def test_convert_changes_what_it_is_told_to() -> None:
    Path("t.csv").write_text(SHIFTED)
    done("trace convert t.csv -o out.csv.gz --first 2 --rate 4 --class offline")
    trace = read("out.csv.gz")
    assert [(r.arrival_ns, r.input_tokens) for r in trace.requests] == [(10**9, 10), (1_250_000_000, 20)]
    assert {r.task_class for r in trace.requests} == {TaskClass.OFFLINE}
    said = done("trace convert t.csv -o out.csv --arrivals uniform:2 --window 0.8")
    assert said == "2 requests written to out.csv\nnote: " + (
        "rows were not in order of arrival: sorted; arrivals generated: uniform 2/s; "
        "the first 0.8 s kept, 2 of 3 requests\n"
    )


def test_documents_in_a_working_set_and_their_control() -> None:
    command = "trace synthesize loogle --document-tokens 480000 --working-set 100000 --class offline"
    assert "working set of 100000" in done(f"{command} -o shared.csv")
    assert "CONTROL" in done(f"{command} --unshared -o control.csv")
    shared, control = read("shared.csv"), read("control.csv")
    assert [r[:4] for r in shared.requests] == [r[:4] for r in control.requests]
    assert len({r.block_ids for r in shared.requests}) == 20
    assert not any(r.block_ids for r in control.requests)
    assert "tokens of different blocks" in done("trace stats shared.csv")
    done("trace convert shared.csv --block-tokens 512 -o coarse.csv")
    assert read("coarse.csv").block_tokens == 512


def test_a_day_of_load_with_the_lengths_of_a_file() -> None:
    Path("t.csv").write_text("input_tokens,output_tokens\n30,1\n10,5\n")
    Path("rates.csv").write_text("window_start_s,total_rate_rps\n0,9\n86400,1\n129600,3\n")
    done("trace convert t.csv --sample 9000 --arrivals diurnal:rates.csv:0.1::2 --window 86400 -o day.csv")
    moments = [r.arrival_ns / 1e9 for r in read("day.csv").requests]
    assert len(moments) == pytest.approx(8640, rel=0.05)
    assert sum(moment < 43_200 for moment in moments) == pytest.approx(2160, rel=0.1)


def test_the_same_seed_gives_the_same_bytes() -> None:
    for name in ("a.csv.gz", "b.csv.gz"):
        done(f"trace synthesize alpaca --count 50 --arrivals gamma:5:2 --seed 7 -o {name}")
    assert Path("a.csv.gz").read_bytes() == Path("b.csv.gz").read_bytes()
    done("trace synthesize alpaca --count 50 --arrivals gamma:5:2 --seed 8 -o c.csv.gz")
    assert Path("a.csv.gz").read_bytes() != Path("c.csv.gz").read_bytes()


def test_what_is_left_out_is_in_the_note() -> None:
    Path("t.csv").write_text(SHIFTED)
    assert "the first 1 of 3 requests kept" in done("trace convert t.csv -o one.csv --first 1")
    assert "1 request written to" in done("trace convert t.csv -o one.csv --first 1")
    assert "kept" not in done("trace convert t.csv -o all.csv --first 3 --window 9")
    assert "the first 1 of 3 requests kept" in read("one.csv").note


def test_a_trace_is_not_written_over_itself() -> None:
    Path("t.csv").write_text(SHIFTED)
    Path("same.csv").symlink_to("t.csv")
    for output in ("t.csv", "./t.csv", "same.csv"):
        failure = brim(f"trace convert t.csv --first 1 -o {output}").exception
        assert "is the trace that is read: give another name" in str(failure)
    assert Path("t.csv").read_text() == SHIFTED


def test_synthesized_means_are_those_asked_for() -> None:
    assert "SYNTHETIC" in done("trace synthesize 100/20 --count 2000 -o t.csv")
    figures = statistics(read("t.csv"))
    assert (figures.input_tokens.mean, figures.output_tokens.mean) == pytest.approx((100, 20), rel=0.02)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("stats none.csv", "No such file"),
        ("stats t.csv --format azur", "give one of auto"),
        ("convert t.csv -o out.txt", "ends in .csv"),
        ("convert t.csv -o none/out.csv", "there is no folder none"),
        ("convert t.csv -o out.csv --rate 1 --scale 2", "give one of the two"),
        ("convert t.csv -o out.csv --arrivals poisson", "give poisson:RATE"),
        ("synthesize alpaca -o out.csv", "Give --count"),
        ("synthesize loogle --count 3 -o out.csv", "give --documents"),
        ("synthesize loogle --documents 3 --document-tokens 3 -o out.csv", "say the same: give one"),
        ("synthesize loogle --shuffle --working-set 3 -o out.csv", "both --shuffle and --working-set"),
        ("synthesize alpaca --documents 3 -o out.csv", "only loogle has documents: give alpaca a --count"),
        ("convert t.csv -o out.csv --working-set 9", "no block ids"),
        ("convert t.csv -o out.csv --sample 0", "0 requests: give 1 or more"),
        ("synthesize 3/x --count 3 -o out.csv", "write them like 161/338"),
        ("synthesize alpacca --count 3 -o out.csv", "give alpaca, sharegpt, bookcorpus"),
    ],
)
def test_wrong_use_says_what_to_do_instead(command: str, message: str) -> None:
    Path("t.csv").write_text(SHIFTED)
    failure = brim(f"trace {command}").exception
    assert isinstance(failure, BrimError)
    assert message in str(failure)
    assert not Path("out.csv").exists()
