"""Every format is told by its content and read whole; what is left out is counted."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brim.core.errors import ConfigError, TraceError
from brim.core.request import TaskClass
from brim.workloads.formats import read, write
from brim.workloads.trace import Trace, TraceRequest

AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:15:46.6805900,374,44
2023-11-16 18:15:50.9951690,396,109
"""
AZURE_2024 = """TIMESTAMP,ContextTokens,GeneratedTokens
2024-05-10 00:00:00.009930+00:00,2162,5
2024-05-10 00:00:01+00:00,2399,6
"""
BURSTGPT = """Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type
5,ChatGPT,472,18,490,Conversation log
45,GPT-4,1087,0,1087,API log
118.5,GPT-4,417,276,693,API log
"""
BURSTGPT_SESSIONS = """\
Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type
19440110.0,1722ac82,43,GPT-4,906,446,1352,Conversation log
"""
MOONCAKE = """{"timestamp": 0, "input_length": 1000, "output_length": 500, "hash_ids": [0, 1]}
{"timestamp": 3052, "input_length": 600, "output_length": 3, "hash_ids": [0, 2]}
"""
BAILIAN = """{"chat_id": 1, "timestamp": 61.114, "input_length": 20, "output_length": 5,\
 "parent_chat_id": -1, "type": "text", "turn": 1, "hash_ids": [7, 8]}
"""
SERVEGEN = "request_id,timestamp,input_tokens,output_tokens\n0,64800.5,58,12\n1,64801.25,31,3\n"
SERVEGEN_JSON = '{"request_id": 0, "timestamp": 2.5, "data": {"input_tokens": 58, "output_tokens": 12}}\n'
SERVEGEN_OFFLINE = (
    '{"request_id": 0, "type": "text", "input_length": 61, "output_length": 2370, "duration": 14000}\n'
)
VIDUR = "arrived_at,num_prefill_tokens,num_decode_tokens\n1.5,20,4\n2,30,5\n"
LOOGLE = """task,doc_id,prompt_head_tokens,doc_tokens,question_tokens,input_tokens,reference_answer_tokens
qa,0,13,83,4,101,7
qa,0,13,83,9,106,2
cloze,1,2,30,4,36,5
"""
SESSIONS = """session,turn,input_tokens,output_tokens,shared_prefix_tokens
0,0,40,20,0
0,1,80,9,60
1,0,33,1,0
"""
SHAREGPT = [
    {
        "id": "a",
        "conversations": [
            {"from": "system", "value": "x" * 40},
            {"from": "human", "value": "q" * 41},
            {"from": "gpt", "value": "ä" * 20},
            {"from": "human", "value": "again?"},
            {"from": "gpt", "value": ""},
            {"from": "gpt", "value": "yes"},
        ],
    },
    {"id": "b", "conversations": [{"from": "gpt", "value": "hello"}]},
]


def load(tmp_path: Path, text: str, name: str = "trace.csv", **options: object) -> Trace:
    path = tmp_path / name
    path.write_text(text)
    return read(path, **options)  # type: ignore[arg-type]


def lengths(trace: Trace) -> list[tuple[int, int, int]]:
    return [r[:3] for r in trace.requests]


def test_azure_to_the_last_digit(tmp_path: Path) -> None:
    trace = load(tmp_path, AZURE, "conv.csv")
    assert lengths(trace) == [(0, 374, 44), (4_314_579_000, 396, 109)]
    assert (trace.name, trace.has_arrivals, trace.block_tokens, trace.note) == ("conv", True, 0, "")
    assert lengths(load(tmp_path, AZURE_2024)) == [(0, 2162, 5), (990_070_000, 2399, 6)]


def test_burstgpt_in_both_column_sets(tmp_path: Path) -> None:
    trace = load(tmp_path, BURSTGPT)
    assert lengths(trace) == [(0, 472, 18), (113_500_000_000, 417, 276)]
    assert [r.length_key for r in trace.requests] == ["ChatGPT/Conversation log", "GPT-4/API log"]
    assert "1 request without output tokens left out" in trace.note
    newer = load(tmp_path, BURSTGPT_SESSIONS)
    assert lengths(newer) == [(0, 906, 446)]
    assert "columns not read: session id, elapsed time, total tokens" in newer.note


def test_mooncake_as_it_is(tmp_path: Path) -> None:
    trace = load(tmp_path, MOONCAKE, "m.jsonl")
    assert lengths(trace) == [(0, 1000, 500), (3_052_000_000, 600, 3)]
    assert [r.block_ids for r in trace.requests] == [(0, 1), (0, 2)]
    assert (trace.block_tokens, trace.name) == (512, "m")


def test_bailian_has_seconds_and_small_blocks(tmp_path: Path) -> None:
    trace = load(tmp_path, BAILIAN)
    assert (trace.block_tokens, trace.requests[0].block_ids, trace.requests[0].length_key) == (
        16,
        (7, 8),
        "text",
    )


def test_servegen_and_its_offline_traces(tmp_path: Path) -> None:
    assert lengths(load(tmp_path, SERVEGEN)) == [(0, 58, 12), (750_000_000, 31, 3)]
    assert lengths(load(tmp_path, SERVEGEN_JSON)) == [(0, 58, 12)]
    offline = load(tmp_path, SERVEGEN_OFFLINE)
    assert lengths(offline) == [(0, 61, 2370)]
    assert not offline.has_arrivals


def test_vidur(tmp_path: Path) -> None:
    assert lengths(load(tmp_path, VIDUR)) == [(0, 20, 4), (500_000_000, 30, 5)]


def test_documents_are_shared_in_whole_blocks(tmp_path: Path) -> None:
    trace = load(tmp_path, LOOGLE)
    assert [r.block_ids for r in trace.requests] == [tuple(range(6)), tuple(range(6)), (6, 7)]
    assert [r.length_key for r in trace.requests] == ["qa", "qa", "cloze"]
    assert "requests of one doc_id share prompt_head_tokens + doc_tokens" in trace.note
    assert load(tmp_path, LOOGLE, block_tokens=32).requests[0].block_ids == (0, 1, 2)


def test_a_turn_shares_the_prompt_before_it(tmp_path: Path) -> None:
    trace = load(tmp_path, SESSIONS)
    first, second, other = (r.block_ids for r in trace.requests)
    assert (len(first), len(second), len(other)) == (2, 5, 2)
    assert second[:2] == first
    assert not set(other) & {*first, *second}


def test_a_session_that_is_rewritten_shares_only_what_stayed(tmp_path: Path) -> None:
    header, first, *_ = SESSIONS.splitlines()
    one, two = load(tmp_path, f"{header}\n{first}\n0,1,64,9,17\n").requests
    assert one.block_ids[:1] == two.block_ids[:1]
    assert len({*one.block_ids, *two.block_ids}) == 5


def test_sharegpt_with_approximate_and_with_exact_counts(tmp_path: Path) -> None:
    trace = load(tmp_path, json.dumps(SHAREGPT), "s.json")
    assert lengths(trace) == [(0, 21, 10), (0, 33, 1)]
    assert trace.requests[0].block_ids == trace.requests[1].block_ids[:1]
    assert not trace.has_arrivals
    for remark in (
        "APPROXIMATE",
        "1 reply to nothing left out",
        "1 request without output tokens left out",
    ):
        assert remark in trace.note
    counted = load(tmp_path, json.dumps(SHAREGPT), count_tokens=len)
    assert lengths(counted) == [(0, 81, 20), (0, 107, 3)]
    assert "APPROXIMATE" not in counted.note


OWN_JSON = """
{"arrival_s": 1.000000001, "input_tokens": 40, "output_tokens": 2, "class": "offline", "deadline_s": 60}

{"arrival_s": 0.5, "input_tokens": 40, "output_tokens": 2, "key": "chat", "hash_ids_16": [3, 4]}
"""


def test_own_json_lines_sorted_and_said_so(tmp_path: Path) -> None:
    trace = load(tmp_path, OWN_JSON)
    early, late = trace.requests
    assert early == TraceRequest(500_000_000, 40, 2, block_ids=(3, 4), length_key="chat")
    assert late == TraceRequest(1_000_000_001, 40, 2, TaskClass.OFFLINE, 60.0)
    assert "not in order of arrival: sorted" in trace.note


def test_lengths_only(tmp_path: Path) -> None:
    trace = load(tmp_path, "output_tokens,input_tokens,mood\n1,2,fine\n")
    assert lengths(trace) == [(0, 2, 1)]
    assert not trace.has_arrivals
    assert trace.note == "lengths only; columns not read: mood"


@pytest.mark.parametrize("text", [AZURE, MOONCAKE, json.dumps(SHAREGPT)])
def test_gzip_is_told_by_content(tmp_path: Path, text: str) -> None:
    plain = load(tmp_path, text, "trace")
    (tmp_path / "trace").write_bytes(gzip.compress(text.encode()))
    assert read(tmp_path / "trace") == plain


def test_spreadsheet_habits_are_forgiven(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(b"\xef\xbb\xbf\r\n Input_Tokens , OUTPUT_TOKENS\r\n12.0,3\r\n\r\n")
    assert lengths(read(tmp_path / "t.csv")) == [(0, 12, 3)]


def test_a_given_format_wins(tmp_path: Path) -> None:
    text = SERVEGEN.replace("timestamp", "arrival_s")
    assert load(tmp_path, text, format="brim").requests[0].arrival_ns == 64_800_500_000_000
    with pytest.raises(ConfigError, match="give one of auto, sharegpt, azure"):
        load(tmp_path, text, format="azur")


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r"), max_size=8)
requests = st.lists(
    st.builds(
        TraceRequest,
        st.integers(0, 10**18),
        st.integers(33, 10**6),
        st.integers(1, 10**6),
        st.sampled_from(TaskClass),
        st.none() | st.floats(0, 1e9),
        st.lists(st.integers(0, 99), max_size=3).map(tuple),
        texts,
    ),
    min_size=1,
    max_size=6,
)


@given(requests=requests, zipped=st.booleans())
def test_what_is_written_is_read_again(
    requests: list[TraceRequest], zipped: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("own") / ("t.csv.gz" if zipped else "t.csv")
    trace = Trace("t", requests, block_tokens=16, note="SYNTHETIC: #1, from nowhere; seed 3")
    write(trace, path)
    again = read(path)
    assert again == trace
    before = path.read_bytes()
    write(again, path)
    assert path.read_bytes() == before


def test_prompts_of_a_million_tokens_are_written_and_read(tmp_path: Path) -> None:
    long = TraceRequest(0, 1_000_000, 1, block_ids=tuple(range(62_500)))
    write(Trace("t", [long], block_tokens=16), tmp_path / "t.csv")
    assert read(tmp_path / "t.csv").requests == (long,)


def test_what_was_done_to_a_trace_is_not_lost_by_writing_it(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    write(Trace("t", [TraceRequest(0, 1, 1)], has_arrivals=False, note="SYNTHETIC\nlengths"), path)
    assert path.read_text() == "# SYNTHETIC lengths\ninput_tokens,output_tokens\n1,1\n"
    assert read(path).note == "SYNTHETIC lengths; lengths only"
    write(read(path), path)
    assert read(path).note == "SYNTHETIC lengths; lengths only"
    path.write_text("# one\n\n# two\ninput_tokens,output_tokens\n1,x\n")
    with pytest.raises(TraceError, match="line 5: output_tokens is 'x'"):
        read(path)


def test_lengths_alone_stay_alone(tmp_path: Path) -> None:
    write(Trace("t", [TraceRequest(0, 1, 1)], has_arrivals=False), tmp_path / "t.csv")
    assert (tmp_path / "t.csv").read_text() == "input_tokens,output_tokens\n1,1\n"
    with pytest.raises(ConfigError, match=r"ends in \.csv"):
        write(Trace("t", []), tmp_path / "t.jsonl")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (MOONCAKE, "timestamps read as milliseconds"),
        (SERVEGEN, "timestamps read as seconds"),
        (AZURE, None),
        (VIDUR, None),
    ],
)
def test_a_unit_that_no_column_tells_is_noted(tmp_path: Path, text: str, said: str | None) -> None:
    path = tmp_path / "t"
    path.write_text(text)
    note = read(path).note
    assert said in note if said else "read as" not in note
