"""`brim plan`: how many GPUs a trace needs at its targets."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Annotated

import typer

from brim.cli import flags
from brim.cli.progress import bars
from brim.cli.simulation_options import MOST_KV_TOKENS, core_default
from brim.core.errors import ConfigError
from brim.core.policies.named import refuse_unknown
from brim.core.request import TaskClass
from brim.planning.backlog import KEPT, Backlog
from brim.planning.plan import Question, plan
from brim.planning.question import Aim, Kind
from brim.profiles.loader import load
from brim.simulation.cluster.routing import ROUTINGS
from brim.simulation.results import Figures
from brim.workloads.arrivals import Poisson
from brim.workloads.formats import read
from brim.workloads.lengths import synthetic
from brim.workloads.trace import Trace, rescaled, with_arrivals
from brim.workloads.wording import counted

INFEASIBLE = 1
LONGEST_SECONDS = 1e6
SEATS, STEP_TOKENS = core_default("max_num_seqs"), core_default("max_num_batched_tokens")
OFFLINE_SHAPE = "sharegpt"  # where only the tokens of a backlog are given


OfflineTokens = Annotated[float, typer.Option(help="Offline tokens, input and output, that come every day.")]
Rate = Annotated[float | None, typer.Option(help="Scale the gaps to so many requests/s.")]
Prices = Annotated[
    list[str] | None, typer.Option(help="NAME=2.5,...: dollars for an hour of one of its GPUs.")
]
Policies = Annotated[
    str, typer.Option(help="The scheduler that is planned with, and others to compare it with.")
]
MaxRequests = Annotated[int, typer.Option(min=100, help="Search on the busiest so many in a row, at most.")]
CheckRequests = Annotated[
    int, typer.Option(min=1, help="Of a longer trace, simulate so many from all over it at the answer.")
]
KvTokens = Annotated[
    int | None, typer.Option(min=16, max=MOST_KV_TOKENS, help="KV cache of a replica; else the profile's.")
]
MaxSeqs = Annotated[int, typer.Option(min=1, help="Most requests in one step of a replica.")]
MaxTokens = Annotated[int, typer.Option(min=1, help="Most tokens in one step of a replica.")]


def plan_command(
    trace: Annotated[Path, typer.Option(help="The online requests: any trace format.")],
    profile: Annotated[list[str], typer.Option(help="A profile; several times, or by commas.")],
    ttft: Annotated[float, typer.Option(help="TTFT target, milliseconds.")] = 1000.0,
    tpot: Annotated[float, typer.Option(help="TPOT target, milliseconds.")] = 50.0,
    attainment: Annotated[float, typer.Option(help="Share of requests that meet both.")] = 0.99,
    offline: Annotated[Path | None, typer.Option(help="A backlog of offline requests to fit in.")] = None,
    offline_tokens_per_day: OfflineTokens = 0.0,
    target_request_rate: Rate = None,
    price: Prices = None,
    policy: Policies = "brim",
    routing: Annotated[str, typer.Option(help=f"One of {', '.join(ROUTINGS)}.")] = "least-load",
    startup: Annotated[float, typer.Option(help="Seconds until a new replica serves.")] = 120.0,
    samples: Annotated[int, typer.Option(min=0, help="Resampled traces for the band.")] = 4,
    max_requests: MaxRequests = 30_000,
    check_requests: CheckRequests = 30_000,
    max_replicas: Annotated[int, typer.Option(min=1, help="Look no further.")] = 128,
    kv_tokens: KvTokens = None,
    max_num_seqs: MaxSeqs = SEATS,
    max_num_batched_tokens: MaxTokens = STEP_TOKENS,
    html: Annotated[Path | None, typer.Option(help="Write a page with plots to this file.")] = None,
    jobs: Annotated[int, typer.Option(min=0, help="Processes; 0: one for each core.")] = 0,
    seed: Annotated[int, typer.Option(help="Decides whatever is drawn.")] = 0,
    json_output: flags.Json = False,
) -> None:
    """The least number of GPUs on which a trace keeps its targets, by simulating the scheduler that serves.

    Exit status 1 when no profile can keep them, or none is found that does over the whole trace.
    """
    profiles, policies = _known(profile, policy)
    prices = _prices(price or [], profiles)
    if html is not None:
        flags.refuse_unwritable("--html", html)
    _refuse_senseless(ttft, tpot, attainment, offline_tokens_per_day, startup)
    limits = (("max_num_seqs", max_num_seqs), ("max_num_batched_tokens", max_num_batched_tokens))
    online = _online(trace, target_request_rate, seed)
    question = Question(
        online,
        Aim(round(ttft * 1e6), round(tpot * 1e6), attainment),
        [
            Kind(name, each, routing, kv_tokens=kv_tokens, limits=limits)
            for each in policies
            for name in profiles
        ],
        prices,
        _backlog(offline, offline_tokens_per_day, seed),
        samples,
        startup,
        *(max_requests, check_requests, max_replicas, seed),
    )
    _show(found := _planned(question, jobs or os.cpu_count() or 1), html, json_output)
    if found["best"] is None:
        raise typer.Exit(INFEASIBLE)


def _known(profile: list[str], policy: str) -> tuple[list[str], list[str]]:
    """The names of profiles and policies. Raises ConfigError where there is none of that name."""
    profiles, policies = _names(profile), _names([policy])
    for name in policies:
        refuse_unknown(name)
    for name in profiles:
        load(name)
    return profiles, policies


def _names(given: list[str]) -> list[str]:
    names = [name.strip() for part in given for name in part.split(",") if name.strip()]
    if not names:
        raise ConfigError("--profile and --policy need a name each")
    return list(dict.fromkeys(names))


def _refuse_senseless(
    ttft: float, tpot: float, attainment: float, offline_tokens_per_day: float, startup: float
) -> None:
    """Before a trace is read."""
    for name, value in (("ttft", ttft), ("tpot", tpot)):
        if not 1e-3 <= value <= LONGEST_SECONDS * 1e3:
            raise ConfigError(f"--{name} {value:g}: give a target from 0.001 to 1e9 milliseconds")
    if not 0 < attainment <= 1:
        raise ConfigError(f"--attainment {attainment:g}: give a share above 0 and at most 1, such as 0.99")
    if not 0 <= startup <= LONGEST_SECONDS:
        raise ConfigError(f"--startup {startup:g}: give 0 to 1e6 seconds")
    if not 0 <= offline_tokens_per_day < inf:
        raise ConfigError(f"--offline-tokens-per-day {offline_tokens_per_day:g}: give 0 or more")


def _online(path: Path, rate: float | None, seed: int) -> Trace:
    trace = _online_only(read(path))
    if trace.has_arrivals:
        return trace if rate is None else rescaled(trace, rate=rate)
    if rate is None:
        raise ConfigError(f"{trace.name} has lengths only: give --target-request-rate for Poisson arrivals")
    return with_arrivals(trace, Poisson(rate, seed))


def _online_only(trace: Trace) -> Trace:
    """What is planned for; a trace may hold both classes."""
    online = [r for r in trace.requests if r.task_class is TaskClass.ONLINE]
    if not online:
        raise ConfigError(
            f"{trace.name}: all its requests are offline: give a trace of online requests, "
            "and this one as --offline"
        )
    left_out = len(trace) - len(online)
    if not left_out:
        return trace
    kept = replace(trace, requests=online)
    return kept.noted(
        f"{counted(left_out, 'offline request')} left out: to fit them in, give them as --offline"
    )


def _backlog(path: Path | None, tokens_per_day: float, seed: int) -> Backlog | None:
    """That of a file, or of a day."""
    if path is not None and tokens_per_day:
        raise ConfigError("give --offline or --offline-tokens-per-day, not both")
    if path is None and not tokens_per_day:
        return None
    trace = read(path) if path else synthetic(OFFLINE_SHAPE, KEPT, seed)
    trace = trace.as_class(TaskClass.OFFLINE)
    tokens = tokens_per_day or sum(r.input_tokens + r.output_tokens for r in trace.requests)
    return Backlog(trace, tokens, daily=bool(tokens_per_day))


def _prices(given: list[str], profiles: list[str]) -> dict[str, float]:
    prices: dict[str, float] = {}
    for text in ",".join(given).split(",") if given else ():
        name, _, value = text.strip().rpartition("=")
        try:
            dollars = float(value)
        except ValueError:
            raise ConfigError(f"--price {text}: give it as NAME=2.5, dollars for a GPU-hour") from None
        if name not in profiles:
            raise ConfigError(
                f"--price {text}: {name or value} is none of the profiles {', '.join(profiles)}"
            )
        if not 0 <= dollars < inf:
            raise ConfigError(f"--price {text}: give 0 dollars or more for a GPU-hour")
        if prices.get(name, dollars) != dollars:
            raise ConfigError(f"--price gives {name} two prices, {prices[name]:g} and {dollars:g}: keep one")
        prices[name] = dollars
    return prices


def _planned(question: Question, jobs: int) -> Figures:
    """With bars where somebody watches."""
    if not sys.stderr.isatty():
        return plan(question, jobs, lambda what, total: lambda: None)
    with bars() as begin:
        return plan(question, jobs, begin)


def _show(found: Figures, html: Path | None, as_json: bool) -> None:
    from brim.planning.page import page
    from brim.planning.report import text

    if html is not None:
        try:
            html.write_text(page(found), encoding="utf-8")
        except OSError as exc:
            raise ConfigError(f"can't write the page to {html}: {exc.strerror}") from exc
    print(json.dumps(found) if as_json else text(found))
