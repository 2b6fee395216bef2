"""The flags and commands of vLLM that the documents tell are what its own parser takes."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
from vllm.utils.argparse_utils import FlexibleArgumentParser

from brim.cli import vllm
from brim.cli.main import app
from brim.cli.settings import ServeSettings
from brim.cli.vllm import vllm_command
from tests import commands

DOCUMENTS = [commands.ROOT / "docs" / name for name in ("scaling.md", "vllm.md")]
README = commands.ROOT / "README.md"
POD = commands.ROOT / "examples" / "vllm-kubernetes.yaml"
FLAG = re.compile(r"(?<![\w-])--[a-z][a-z-]+")


@pytest.fixture(scope="module")
def parser() -> Any:
    return make_arg_parser(FlexibleArgumentParser(prog="vllm serve"))


@pytest.fixture
def with_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As where vLLM has its own name and its command."""
    monkeypatch.setattr(vllm, "distribution", lambda name: object())
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    (tmp_path / "vllm").touch()


def parsed(parser: Any, words: list[str]) -> Any:
    """What vLLM understands; argparse ends the process for what it does not."""
    args = parser.parse_args(words)
    validate_parsed_serve_args(args)
    return args


def ours() -> set[str]:
    flags, commands_left = set(), [typer.main.get_command(app)]
    while commands_left:
        command: Any = commands_left.pop()
        commands_left += getattr(command, "commands", {}).values()
        flags |= {flag for each in command.params for flag in (*each.opts, *each.secondary_opts)}
    return flags


@pytest.mark.parametrize("document", [*DOCUMENTS, POD], ids=lambda path: path.name)
def test_every_flag_is_vllms_or_brims(parser: Any, document: Path) -> None:
    known = {flag for action in parser._actions for flag in action.option_strings} | ours()
    known |= {f"--no-{flag[2:]}" for flag in known}
    assert len(flags := set(FLAG.findall(document.read_text()))) > 3
    assert flags <= known


@pytest.mark.parametrize("words", commands.of("vllm", [*DOCUMENTS, README]), ids=" ".join)
def test_vllm_takes_the_commands_that_are_told(parser: Any, words: list[str]) -> None:
    assert words[1] == "serve"
    args = parsed(parser, words[2:])
    assert args.scheduler_cls == vllm.SCHEDULER
    assert "brim" in args.additional_config


def behind(words: list[str]) -> list[str]:
    return words[words.index("--") + 1 :] if "--" in words else []


SERVED = [words for words in commands.of("brim", [*DOCUMENTS, README]) if words[1] == "serve"]


@pytest.mark.parametrize("words", SERVED, ids=" ".join)
@pytest.mark.usefixtures("with_the_command")
def test_vllm_takes_what_brim_serve_makes_of_them(parser: Any, words: list[str]) -> None:
    settings = ServeSettings(model=words[2], ttft_ms=1000, tpot_ms=50)
    script, serve, *rest = vllm_command(settings, behind(words))
    assert (Path(script).name, serve) == ("vllm", "serve")
    args = parsed(parser, rest)
    assert args.additional_config["brim"]["ttft_ms"] == 1000
    assert args.headless == ("--headless" in words)
    assert args.api_server_count == (None if args.headless else 1)
    if "--data-parallel-size-local" in words:
        assert args.data_parallel_size_local * 2 == args.data_parallel_size
        assert args.data_parallel_start_rank in (None, args.data_parallel_size_local)


def test_vllm_takes_what_the_pod_gives_it(parser: Any) -> None:
    stateful, _ = yaml.safe_load_all(POD.read_text())
    [container] = stateful["spec"]["template"]["spec"]["containers"]
    args = parsed(parser, container["args"])
    assert args.scheduler_cls == vllm.SCHEDULER
    assert args.additional_config == {"brim": {"ttft_ms": 800, "tpot_ms": 60}}
    assert (args.api_server_count, args.shutdown_timeout) == (1, 30)
