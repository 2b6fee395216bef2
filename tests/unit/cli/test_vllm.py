"""The command that `brim serve --engine vllm` becomes."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from brim.cli import vllm
from brim.cli.main import app
from brim.cli.settings import MeasureSettings, ServeSettings
from brim.cli.vllm import plugins, vllm_command
from brim.core.errors import ConfigError
from brim.plugins.vllm.options import HttpOptions


@pytest.fixture(autouse=True)
def at_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM is installed, under another name than its own."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())

    def none(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(vllm, "distribution", none)


def command(*extra: str, **settings: Any) -> list[str]:
    return vllm_command(ServeSettings(model="m", **settings), extra)


def additional(words: list[str]) -> dict[str, Any]:
    assert words.count("--additional-config") == 1
    return json.loads(words[words.index("--additional-config") + 1])


def test_the_plainest_command() -> None:
    assert command() == [
        sys.executable,
        *("-m", "vllm.entrypoints.openai.api_server", "--model", "m"),
        *("--scheduler-cls", "brim.plugins.vllm.BrimScheduler"),
        *("--additional-config", '{"brim": {}}'),
        *("--host", "127.0.0.1", "--port", "8000"),
        *("--api-server-count", "1"),
    ]


def test_vllms_own_command_is_taken_where_it_works(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(vllm, "distribution", lambda name: object())
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    assert command()[1] == "-m"
    (tmp_path / "vllm").touch()
    assert command()[:3] == [str(tmp_path / "vllm"), "serve", "m"]


def test_settings_go_to_vllm_to_the_scheduler_and_to_the_plug_in() -> None:
    words = command(
        policy="echo",
        ttft_ms=500,
        itl_ms=40,
        data_folder=Path("d"),
        priority_ttft_ms=50,
        max_num_seqs=8,
        enable_prefix_caching=False,
        shutdown_timeout_seconds=9.6,
        max_prefill_chunk_tokens=64,
    )
    server = {"data_folder": "d", "priority_ttft_ms": 50}
    assert additional(words) == {"brim": {"policy": "echo", "ttft_ms": 500, "itl_ms": 40, "server": server}}
    text = " ".join(words)
    for flags in ("--max-num-seqs 8", "--no-enable-prefix-caching", "--shutdown-timeout 10"):
        assert flags in text
    assert "--long-prefill-token-threshold 64" in text


def test_every_setting_goes_somewhere() -> None:
    """To vLLM, to Brim inside it, or into an error that says what to do instead."""
    elsewhere = {"model", "host", "port", "api_key", "enable_prefix_caching", "shutdown_timeout_seconds"}
    rooms = [elsewhere, vllm.FLAGS, vllm.SCHEDULER_SETTINGS, vllm.SERVER_SETTINGS, vllm.OTHERS]
    named = [name for room in rooms for name in room]
    assert sorted(named) == sorted(ServeSettings.model_fields)
    assert set(vllm.SERVER_SETTINGS) <= HttpOptions.model_fields.keys()


@pytest.mark.parametrize("name", vllm.OTHERS)
def test_a_setting_that_vllm_can_not_have_is_refused(name: str) -> None:
    settings = ServeSettings(model="m").model_copy(update={name: "x"})
    settings.model_fields_set.add(name)
    with pytest.raises(ConfigError, match=name):
        vllm_command(settings, [])


@pytest.mark.parametrize("form", [["--additional-config", "{}"], ["--additional_config={}"]])
def test_an_additional_config_of_ones_own_is_merged_and_goes_first(form: list[str]) -> None:
    own = json.dumps({"other": 1, "brim": {"policy": "stock", "server": {"batch_window": 3}}})
    words = command(
        *(word.replace("{}", own) for word in form),
        "--tensor-parallel-size=2",
        policy="echo",
        ttft_ms=9,
        data_folder=Path("d"),
    )
    assert additional(words) == {
        "other": 1,
        "brim": {"policy": "stock", "ttft_ms": 9, "server": {"data_folder": "d", "batch_window": 3}},
    }
    assert words[-1] == "--tensor-parallel-size=2"


@pytest.mark.parametrize("text", ["{", "[]"])
def test_an_additional_config_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="additional-config"):
        command("--additional-config", text)


def test_engines_without_a_server_have_no_number_of_servers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="--headless is known to the command `vllm` alone"):
        command("--headless")
    monkeypatch.setattr(vllm, "distribution", lambda name: object())
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    (tmp_path / "vllm").touch()
    assert "--api-server-count" not in command("--headless", "--data-parallel-size", "4")


@pytest.mark.parametrize("flag", ["--api-server-count=2", "--api_server_count"])
def test_the_number_of_api_servers_can_be_chosen(flag: str) -> None:
    assert "--api-server-count" not in command(flag)


@pytest.mark.parametrize("model", [None, "--foo"])
def test_a_model_comes_first(model: str | None) -> None:
    with pytest.raises(ConfigError, match="brim serve MODEL"):
        vllm_command(ServeSettings(model=model), [])


def test_without_vllm_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r'in a checkout of Brim, pip install "\.\[vllm\]"'):
        command()


def test_measuring_gives_vllm_the_settings_of_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = MeasureSettings(model="m", dtype="float32", block_size=32, max_num_seqs=9)
    assert vllm.engine_flags(settings) == ["--dtype", "float32", "--block-size", "32", "--max-num-seqs", "9"]
    monkeypatch.setitem(sys.modules, "vllm", None)
    for arguments, said in (
        (["m", "--engine", "vllm"], "vLLM is not installed"),
        (["--engine", "vllm"], "name a model"),
        (["m", "--engine", "vllm", "--kv-tokens", "9"], "num-gpu-blocks-override"),
        (["m", "--", "--seed"], "are for --engine vllm"),
    ):
        run = CliRunner().invoke(app, ["profile", "measure", *arguments, "-o", "m.json"])
        assert isinstance(run.exception, ConfigError)
        assert said in str(run.exception)


def test_plug_ins_that_would_be_loaded_still_are(monkeypatch: pytest.MonkeyPatch) -> None:
    assert plugins({"VLLM_PLUGINS": "a,brim,b"}) == "a,b,brim"
    assert plugins({"VLLM_PLUGINS": ""}) == "brim"

    class EntryPoint:
        name = "npu"

    monkeypatch.setattr(
        vllm, "entry_points", lambda group: [EntryPoint()] if group == "vllm.platform_plugins" else []
    )
    assert plugins({}) == "brim,npu"


def test_the_process_becomes_vllms_and_shows_no_key(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    became: list[Any] = []
    monkeypatch.setattr(os, "execvpe", lambda *args: became.append(args))
    for keys in (["secret"], ["secret", "other"]):
        vllm.serve(ServeSettings(model="m", api_key=keys), ["--seed", "7"], as_json=False)
    (program, words, environment), (_, more, _) = became
    assert (program, words[-2:]) == (sys.executable, ["--seed", "7"])
    assert "secret" not in words
    assert environment["VLLM_API_KEY"] == "secret"
    assert "brim" in environment["VLLM_PLUGINS"].split(",")
    assert more[more.index("--api-key") + 1 :][:2] == ["secret", "other"]
    assert "secret" not in (out := capsys.readouterr().out)
    assert out.startswith("VLLM_PLUGINS=")


@pytest.mark.parametrize(
    "words",
    [
        ["--api-key", "secret", "secret-too"],
        ["--api_key=secret"],
        ["--api-k", "secret"],
        ["--hf-token", "secret"],
    ],
)
def test_a_key_among_vllms_own_flags_is_not_shown(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    became: list[Any] = []
    monkeypatch.setattr(os, "execvpe", lambda *args: became.append(args))
    for as_json in (False, True):
        vllm.serve(ServeSettings(model="m"), [*words, "--seed", "7"], as_json=as_json)
        assert became.pop()[1][-len(words) - 2 :] == [*words, "--seed", "7"]
        out = capsys.readouterr().out
        assert "secret" not in out
        shown = json.loads(out)["command"] if as_json else out.split()
        assert shown[-2:] == ["--seed", "7"]


def test_the_words_after_the_dashes_are_vllms(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "execvpe", lambda *args: None)
    run = CliRunner().invoke(app, ["serve", "m", "--engine", "vllm", "--json", "--", "--seed", "7"])
    assert json.loads(run.output)["command"][-2:] == ["--seed", "7"]
    assert isinstance(CliRunner().invoke(app, ["serve", "m", "--", "--seed"]).exception, ConfigError)
