"""Every command of docs/simulation.md works as it stands, and every field is explained there."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from brim.cli.main import app

DOCUMENT = (Path(__file__).parents[3] / "docs" / "simulation.md").read_text()
COMMANDS = [line.removeprefix("$ brim ") for line in DOCUMENT.splitlines() if line.startswith("$ brim ")]


def test_commands_and_fields(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for command in COMMANDS:
        done = CliRunner().invoke(app, shlex.split(command), catch_exceptions=False)
        assert done.exit_code == 0, command
        if "--json" in command:
            [run] = json.loads(done.stdout)["runs"]
    names = [*run, *run["online"], *(f"kv.{name}" for name in run["kv"]), *run["compute"]]
    assert [name for name in names if name not in ("kv", "compute") and name not in DOCUMENT] == []
    assert (tmp_path / "rates.svg").exists()
