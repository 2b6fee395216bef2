"""Flag over environment over file over default; what is no setting is refused with a hint."""

from __future__ import annotations

from pathlib import Path

import pytest

from brim.cli.settings import RunBatchSettings, ServeSettings, read
from brim.core.errors import ConfigError


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in [name for name in os.environ if name.startswith("BRIM_")]:
        monkeypatch.delenv(name)


def config_file(folder: Path, text: str) -> Path:
    path = folder / "brim.yaml"
    path.write_text(text)
    return path


def test_flag_over_environment_over_file_over_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = config_file(tmp_path, "port: 1\nhost: file\nmax-num-seqs: 7\n")
    monkeypatch.setenv("BRIM_PORT", "2")
    monkeypatch.setenv("BRIM_HOST", "environment")
    settings = read(ServeSettings, {"port": 3, "host": None}, file)
    assert (settings.port, settings.host, settings.max_num_seqs) == (3, "environment", 7)
    assert settings.max_num_batched_tokens == 2048


def test_lists_in_the_environment_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BRIM_API_KEY", "one, two")
    assert read(ServeSettings, {}, None).api_key == ["one", "two"]


def test_a_key_of_another_command_passes(tmp_path: Path) -> None:
    file = config_file(tmp_path, "port: 9000\nbatch_window: 3\n")
    assert read(RunBatchSettings, {}, file).batch_window == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prot: 1", "the file .* has prot, which is not a setting: did you mean port"),
        ("port: many", "port = 'many' \\(from the file .*integer"),
        ("port: 70000", "port = 70000 .*less than or equal to 65535"),
        ("policy: [", "can't read the configuration file"),
        ("- port", "must hold `name: value` lines"),
    ],
)
def test_a_wrong_file_is_refused_with_the_reason(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read(ServeSettings, {}, config_file(tmp_path, text))


def test_an_unknown_variable_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BRIM_POTR", "1")
    with pytest.raises(ConfigError, match=r"the environment has potr.*did you mean port"):
        read(ServeSettings, {}, None)


KUBERNETES = {
    "BRIM_SERVICE_HOST": "10.0.0.1",
    "BRIM_SERVICE_PORT": "8000",
    "BRIM_SERVICE_PORT_HTTP": "8000",
    "BRIM_PORT": "tcp://10.0.0.1:8000",
    "BRIM_PORT_8000_TCP": "tcp://10.0.0.1:8000",
    "BRIM_PORT_8000_TCP_PROTO": "tcp",
    "BRIM_PORT_8000_TCP_PORT": "8000",
    "BRIM_PORT_8000_TCP_ADDR": "10.0.0.1",
    "BRIM_BATCH_SERVICE_HOST": "10.0.0.2",
    "BRIM_BATCH_PORT": "udp://10.0.0.2:53",
}


def test_variables_of_kubernetes_are_left_out(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name, value in KUBERNETES.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("BRIM_HOST", "0.0.0.0")
    settings = read(ServeSettings, {}, None)
    assert (settings.host, settings.port) == ("0.0.0.0", 8000)
    assert "enableServiceLinks: false" in caplog.text


@pytest.mark.parametrize("name", ["BRIM_SERVICE_HOSTS", "BRIM_PORT_HTTP_TCP", "BRIM_PORTS"])
def test_what_kubernetes_does_not_set_is_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "8000")
    with pytest.raises(ConfigError, match="not a setting"):
        read(ServeSettings, {}, None)


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="can't read the configuration file"):
        read(ServeSettings, {}, tmp_path / "absent.yaml")


@pytest.mark.parametrize("value", [0, -1, 1e-7, 1e9, float("inf"), float("nan")])
@pytest.mark.parametrize("name", ["ttft_ms", "tpot_ms", "itl_ms", "priority_ttft_ms", "priority_tpot_ms"])
def test_a_target_that_is_none_is_refused(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"{name} = "):
        read(ServeSettings, {name: value}, None)


def test_a_time_without_end_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"flex_wait_seconds = inf .*finite"):
        read(ServeSettings, {"flex_wait_seconds": float("inf")}, None)
