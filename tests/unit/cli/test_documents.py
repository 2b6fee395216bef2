"""What the documents tell to type is what the commands take."""

from __future__ import annotations

import shlex
from typing import Any

import pytest
import typer
import yaml

from brim.cli.main import app
from tests import commands


@pytest.mark.parametrize("words", commands.of("brim"), ids=shlex.join)
def test_every_flag_is_one_of_the_command(words: list[str]) -> None:
    """Up to `--`, behind which vLLM's begin."""
    own = words[1 : words.index("--")] if "--" in words else words[1:]
    command: Any = typer.main.get_command(app)
    while hasattr(command, "commands"):
        command = command.commands[own.pop(0)]
    known = {flag for each in command.params for flag in (*each.opts, *each.secondary_opts)}
    given = {word.partition("=")[0] for word in own if word.startswith("-")}
    assert given <= known


def test_there_are_commands_to_check() -> None:
    assert len(commands.of("brim")) > 30


def test_the_pod_is_left_time_to_end_its_requests() -> None:
    stateful, service = yaml.safe_load_all((commands.ROOT / "examples/vllm-kubernetes.yaml").read_text())
    assert (stateful["kind"], service["kind"]) == ("StatefulSet", "Service")
    pod = stateful["spec"]["template"]
    [container] = pod["spec"]["containers"]
    [ending] = [arg for arg in container["args"] if arg.startswith("--shutdown-timeout=")]
    assert pod["spec"]["terminationGracePeriodSeconds"] > int(ending.partition("=")[2])
    assert (
        pod["metadata"]["labels"]
        == service["spec"]["selector"]
        == stateful["spec"]["selector"]["matchLabels"]
    )
    volumes = {
        each["name"]
        for each in (
            *pod["spec"]["volumes"],
            *[claim["metadata"] for claim in stateful["spec"]["volumeClaimTemplates"]],
        )
    }
    assert {each["name"] for each in container["volumeMounts"]} == volumes
    assert service["spec"]["ports"][0]["targetPort"] in {port["name"] for port in container["ports"]}
