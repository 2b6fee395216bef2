"""A file that can't be meant is refused with its name, its line and what to do."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from brim.core.errors import ConfigError, TraceError
from brim.workloads.formats import read

HEADER = "arrival_s,input_tokens,output_tokens,class,deadline_s,hash_ids_16\n"
GOOD = "0.5,32,1,online,,0 1\n"
OBJECT = '{"timestamp": 1, "input_length": 1, "output_length": 1, "hash_ids": [0]}\n'
TALK = '{"conversations": [{"from": "gpt", "value": "x"}]}\n'


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("x,1,1,,,", "arrival_s is 'x', which is no number"),
        ("-1,1,1,,,", "arrival_s is -1: a negative number"),
        ("nan,1,1,,,", "arrival_s is 'nan', which is no number"),
        ("inf,1,1,,,", "no number"),
        ("1e99,1,1,,,", "more than 1000000000000"),
        (",1,1,,,", "arrival_s is missing"),
        ("0,,1,,,", "input_tokens is missing"),
        ("0,0,1,,,", "input_tokens is 0: a request has at least one token"),
        ("0,1.5,1,,,", "input_tokens is 1.5, which is no whole number"),
        ("0,1,-3,,,", "output_tokens is -3: a negative number"),
        ("0,1,1,urgent,,", "class is 'urgent': give online or offline"),
        ("0,1,1,,soon,", "deadline_s is 'soon', which is no number"),
        ("0,32,1,,,0 1 2", "3 ids of 16 tokens: a prompt of 32 tokens has 2"),
        ("0,32,1,,,a b", "hash_ids_16 is 'a b': give whole numbers"),
        ("0,1,1", "3 fields where the header names 6"),
    ],
)
def test_a_wrong_row(tmp_path: Path, row: str, message: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text(HEADER + GOOD + row + "\n" + GOOD)
    with pytest.raises(TraceError) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}, line 3: ")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        (OBJECT + OBJECT.replace("1,", "null,", 1), "line 2", "timestamp is missing"),
        (OBJECT + "\n" + OBJECT.replace("1,", "true,", 1), "line 3", "timestamp is True, which is no number"),
        (OBJECT + OBJECT.replace("1,", "NaN,", 1), "line 2", "which is no number"),
        (OBJECT + OBJECT.replace("[0]", "[0, 1]"), "line 2", "2 ids of 512 tokens"),
        (OBJECT + OBJECT.replace("[0]", "7"), "line 2", "hash_ids is '7': give whole numbers"),
        (OBJECT + OBJECT.replace("[0]", "[0.5]"), "line 2", "hash_ids is "),
        (OBJECT + OBJECT.replace("1,", "[0, [5], 0],", 1), "line 2", "which is no number"),
        (OBJECT + "9" * 5000, "line 2", "JSON that no trace needs"),
        (OBJECT + "[" * 100_000, "line 2", "JSON that no trace needs"),
        (OBJECT + "{\n", "line 2", "not JSON"),
        (OBJECT + "[1]\n", "line 2", "list where an object belongs"),
        ("[\n" + TALK + ",\n{]", "line 4", "not JSON"),
        ("[" + TALK + ", 3]", "record 2", "int where an object belongs"),
        ("[" + TALK + ', {"conversations": 3}]', "record 2", "no list of turns"),
        ("[" + TALK + "," + TALK.replace('"gpt"', "[]") + "]", "record 2", "turn 1 is not an object with"),
        ("[" + TALK + "," + TALK.replace('"x"', "1") + "]", "record 2", "turn 1 is not an object with"),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\nyesterday,1,1\n", "line 2", "give a time such as 2023"),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-02-30 00:00:00,1,1\n", "line 2", "timestamp is"),
        ("input_tokens,output_tokens,input_tokens\n1,1,1\n", "line 1", "'input_tokens' is there twice"),
        (
            "input_tokens,output_tokens,session,shared_prefix_tokens\n5,1,0,6\n",
            "line 2",
            "shared_prefix_tokens is 6, more than the 5 of input_tokens",
        ),
    ],
)
def test_a_wrong_record(tmp_path: Path, text: str, place: str, message: str) -> None:
    path = tmp_path / "t"
    path.write_text(text)
    with pytest.raises(TraceError) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}, {place}: ")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the file is empty"),
        (b"\n \n", "the file is empty"),
        (b"[]", "the file is empty, or names nothing: give a trace"),
        (b'""\n1\n', "no known format has the columns without names"),
        (HEADER.encode(), "no request in it"),
        (b"input_tokens,output_tokens\n5,0\n", "1 request without output tokens left out"),
        (b"1,2,3\n4,5,6\n", "the first line must name columns"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"\xff\xfe\x00a", "not UTF-8"),
        (gzip.compress((HEADER + GOOD * 999).encode())[:-20], "cut off"),
        (gzip.compress(b"")[:4] + b"rubbish, no gzip at all", "damaged"),
        (b"hash_ids_16,hash_ids_512,input_tokens,output_tokens\n,,1,1\n", "both give block ids"),
    ],
)
def test_a_wrong_file(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(data)
    with pytest.raises(TraceError) as caught:
        read(path)
    assert str(path) in str(caught.value)
    assert message in str(caught.value)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="No such file"):
        read(tmp_path / "none.csv")
    with pytest.raises(TraceError, match="directory"):
        read(tmp_path)


def test_a_given_format_names_what_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(HEADER + GOOD)
    with pytest.raises(TraceError, match=r"format azure needs the columns contexttokens, generatedtokens"):
        read(path, "azure")
    with pytest.raises(TraceError, match="needs objects with `conversations`"):
        read(path, "sharegpt")
    with pytest.raises(ConfigError, match="give 1 or more"):
        read(path, block_tokens=0)
