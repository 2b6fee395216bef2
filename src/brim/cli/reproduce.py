"""`brim reproduce`: published experiments, run again in virtual time."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from brim.cli import flags
from brim.core.errors import ConfigError

reproduce_app = typer.Typer(
    help="Run published experiments again, in virtual time.", no_args_is_help=True, add_completion=False
)


SetUps = Annotated[
    list[str] | None, typer.Option(help="Only the set-ups with this in their name; several times.")
]
Seed = Annotated[int, typer.Option(help="Decides whatever is drawn.")]


@reproduce_app.callback()
def reproduce() -> None:
    """Run published experiments again, in virtual time."""


@reproduce_app.command()
def econoserve(
    quick: Annotated[
        bool, typer.Option("--quick", help="One set-up and minutes of virtual time: the directions only.")
    ] = False,
    data: Annotated[
        Path | None, typer.Option(help="A folder with the length files of Alpaca and ShareGPT.")
    ] = None,
    output: Annotated[
        Path, typer.Option("-o", "--output", help="The folder for tables, pictures and results.json.")
    ] = Path("docs/results/econoserve"),
    setup: SetUps = None,
    hours: Annotated[float, typer.Option(help="Virtual time of arrivals in each point.")] = 1.0,
    max_requests: Annotated[
        int, typer.Option(help="End a point sooner after so many requests; 0: never.")
    ] = 0,
    gpus: Annotated[
        bool, typer.Option("--gpus", help="Instead: how many GPUs DistServe needs, and how many we do.")
    ] = False,
    jobs: Annotated[int, typer.Option(help="Processes; 0: one for each core.")] = 0,
    seed: Seed = 0,
    json_output: flags.Json = False,
) -> None:
    """EconoServe (arXiv 2411.06364): each claim of its abstract beside what is measured here."""
    from brim.reproduction.econoserve import reproduce
    from brim.reproduction.plan import full_plan, quick_plan
    from brim.reproduction.plots import draw
    from brim.reproduction.report import text
    from brim.reproduction.writing import refuse_unwritable, write

    if hours <= 0 or max_requests < 0 or jobs < 0:
        raise ConfigError("--hours must be above 0, --max-requests and --jobs 0 or more")
    if gpus:
        _gpus(output / "gpus", quick, setup or [], seed, jobs or os.cpu_count() or 1, json_output)
        return
    plan = quick_plan(seed) if quick else full_plan(hours, max_requests, seed, data, setup or [])
    _refuse_nothing(plan.benches, setup)
    refuse_unwritable(output)
    for results in reproduce(plan, jobs or os.cpu_count() or 1, _Progress):
        write(results, output, text, draw)
    print(json.dumps(results) if json_output else text(results))


@reproduce_app.command()
def echo(
    quick: Annotated[
        bool,
        typer.Option("--quick", help="Two set-ups, fewer documents: the directions only."),
    ] = False,
    data: Annotated[
        Path | None, typer.Option(help="A folder with traces of Azure, ServeGen, LooGLE and ShareGPT.")
    ] = None,
    output: Annotated[
        Path, typer.Option("-o", "--output", help="The folder for tables, picture and results.json.")
    ] = Path("docs/results/echo"),
    setup: SetUps = None,
    seconds: Annotated[float, typer.Option(help="Virtual time that each point measures.")] = 240.0,
    jobs: Annotated[int, typer.Option(help="Processes of 0.2 GB each; 0: one for each core.")] = 0,
    seed: Seed = 0,
    json_output: flags.Json = False,
) -> None:
    """Echo (arXiv 2504.03651): its claims on offline work beside online load, and what is measured here."""
    from brim.reproduction.echo.experiment import reproduce
    from brim.reproduction.echo.plan import full_plan, quick_plan
    from brim.reproduction.echo.plots import draw
    from brim.reproduction.echo.report import text
    from brim.reproduction.writing import refuse_unwritable, write

    if seconds <= 0 or jobs < 0:
        raise ConfigError("--seconds must be above 0, --jobs 0 or more")
    plan = quick_plan(seed, data) if quick else full_plan(seconds, seed, data, setup or [])
    _refuse_nothing(plan.benches, setup)
    refuse_unwritable(output)
    for results in reproduce(plan, jobs or os.cpu_count() or 1, _Progress):
        write(results, output, text, draw)
    print(json.dumps(results) if json_output else text(results))


def _gpus(folder: Path, quick: bool, setup: list[str], seed: int, jobs: int, as_json: bool) -> None:
    from brim.reproduction.gpus.experiment import reproduce
    from brim.reproduction.gpus.report import text
    from brim.reproduction.writing import write_tables

    seconds, goals = (60.0, [0.8]) if quick else (120.0, [0.8, 0.85])
    for results in reproduce(seconds, goals, setup, seed, jobs, _Progress):
        write_tables(results, folder, text)
    print(json.dumps(results) if as_json else text(results))


def _refuse_nothing(benches: Sequence[object], setup: list[str] | None) -> None:
    if not benches:
        raise ConfigError(f"no set-up has {' or '.join(setup or [])} in its name")


class _Progress:
    """A line on standard error for every tenth of the points."""

    def __init__(self, what: str, total: int) -> None:
        self._what, self._total, self._done = what, total, 0
        self._console = Console(stderr=True)

    def __call__(self) -> None:
        self._done += 1
        if self._done % max(self._total // 10, 1) == 0 or self._done == self._total:
            self._console.print(f"{self._what}: {self._done} of {self._total}", style="dim", highlight=False)
