"""`brim profile check`: a profile held against a running server."""

from __future__ import annotations

import json
import os
import resource
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from brim.cli import flags
from brim.cli.progress import tell
from brim.cli.simulation_options import Options, takes_options
from brim.core.errors import ConfigError, MissingPackages
from brim.core.policies.named import refuse_unknown
from brim.simulation.run import Setup


@takes_options
def check_command(
    options: Options,
    url: Annotated[str, typer.Option(help="The server, such as http://127.0.0.1:8000.")],
    policy: Annotated[str, typer.Option(help="The scheduler that the server runs.")] = "brim",
    model: Annotated[str, typer.Option(help="The model's name there; else the first it has.")] = "",
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Write the profile with the server's share in it.")
    ] = None,
    json_output: flags.Json = False,
) -> None:
    """Send a trace to a server and simulate the same: measured beside simulated, figure by figure.

    Any server with OpenAI's API that takes `ignore_eos` and prompts in token ids. Offline requests are sent
    with service_tier flex, targets as headers. A key is taken from OPENAI_API_KEY.
    """
    from brim.profiles.loader import as_json

    try:
        from brim.profiling.against_server import check, table
        from brim.profiling.load_client import Client
    except ImportError as exc:
        raise MissingPackages(f"a load client needs aiohttp ({exc})", "profiling") from exc

    refuse_unknown(policy)
    if output is not None and output.suffix != ".json":
        raise ConfigError(f"--output {output} must end in .json, so that it can be told from a name")
    if output is not None:
        flags.refuse_unwritable("--output", output)
    if options.slo_scale is not None:
        raise ConfigError("a server is told targets in milliseconds: give --ttft-ms and --tpot-ms")
    trace, profile = options.trace(), options.load_profile()
    options.setup(trace, profile, policy)  # what is wrong is said before anything is sent
    _allow_many_connections()

    def make_setup() -> Setup:
        return options.setup(trace, profile, policy)

    tell(f"Probing {url}, then sending {len(trace)} requests")
    found = check(Client(url, model=model, headers=_headers(options)), trace, make_setup)
    if output is not None:
        output.write_text(as_json(found.share.within(profile, found.error)), encoding="utf-8")
    print(json.dumps(asdict(found)) if json_output else "\n".join(table(found)))


def _headers(options: Options) -> dict[str, str]:
    targets = {"ttft": options.ttft_ms, "tpot": options.tpot_ms, "itl": options.itl_ms}
    targets["e2e"] = None if options.e2e_s is None else 1e3 * options.e2e_s
    headers = {f"x-slo-{name}-ms": f"{value:g}" for name, value in targets.items() if value is not None}
    key = os.environ.get("OPENAI_API_KEY")
    return headers | ({"Authorization": f"Bearer {key}"} if key else {})


def _allow_many_connections() -> None:
    """Each request is an open file."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
