"""`brim simulate` and `brim compare`: schedulers on a modelled machine, in virtual time."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from brim.cli import flags
from brim.cli.progress import bar
from brim.cli.simulation_options import Options, takes_options
from brim.core.errors import ConfigError
from brim.core.events import Event, Finished, QuietSteps, line
from brim.core.policies.named import refuse_unknown
from brim.core.request import TaskClass
from brim.profiles.loader import Profile
from brim.simulation.bound import bound
from brim.simulation.results import Figures, figures
from brim.simulation.run import Run, Setup, simulate
from brim.workloads.trace import Trace

Observe = Callable[[list[Event]], None]
RATE = "rate_requests_per_second"


@takes_options
def simulate_command(
    options: Options,
    policy: Annotated[str, typer.Option(help="The scheduler.")] = "brim",
    events: Annotated[Path | None, typer.Option(help="Write every event to this file, a line each.")] = None,
    json_output: flags.Json = False,
) -> None:
    """Run a trace through the scheduler on a modelled machine, in virtual time."""
    refuse_unknown(policy)
    if events is not None:
        flags.refuse_unwritable("--events", events)
    trace, profile = options.trace(), options.load_profile()
    setup = options.setup(trace, profile, policy)
    with _events_file(events) as observe:
        runs = [_run(trace, setup, policy, observe)]
    _print(options, [trace], profile, setup, runs, json_output)


@takes_options
def compare_command(
    options: Options,
    policy: Annotated[list[str], typer.Option(help="A scheduler; several times, or by commas.")],
    rates: Annotated[str | None, typer.Option(help="Run at each of these rates, such as 1,2,4.")] = None,
    with_bound: Annotated[bool, typer.Option("--bound", help="Add what no scheduler can beat.")] = False,
    plot: Annotated[Path | None, typer.Option(help="Draw the figures into this .png or .svg.")] = None,
    json_output: flags.Json = False,
) -> None:
    """Run a trace through several schedulers on the same modelled machine."""
    policies = [name.strip() for part in policy for name in part.split(",") if name.strip()]
    if not policies:
        raise ConfigError("--policy names no scheduler: give one or more, as vllm,econoserve")
    for name in policies:
        refuse_unknown(name)
    if plot is not None:
        from brim.cli.plots import refuse_unwritable

        refuse_unwritable(plot)
    profile, runs, traces = options.load_profile(), [], []
    for rate in _rates(rates):
        trace = options.trace(rate)
        traces.append(trace)
        setups = [options.setup(trace, profile, name) for name in policies]
        rows = [_run(trace, setup, setup.config.policy) for setup in setups]
        rows += [bound(trace, setups[0])] if with_bound else []
        runs += rows if rate is None else [{"policy": row["policy"], RATE: rate, **row} for row in rows]
    _print(options, traces, profile, setups[0], runs, json_output)
    if plot is not None:
        from brim.cli.plots import draw

        draw(runs, _title(trace, profile), plot)


def _rates(text: str | None) -> list[float | None]:
    """None stands for the trace's own."""
    if text is None:
        return [None]
    try:
        rates = [float(part) for part in text.split(",")]
    except ValueError:
        rates = []
    if not rates or min(rates) <= 0:
        raise ConfigError(f"--rates {text!r}: give numbers above 0 with commas between, such as 1,2,4")
    return [*rates]


def _run(trace: Trace, setup: Setup, policy: str, observe: Observe | None = None) -> Figures:
    """Shows how far the run is where somebody watches. Raises ConfigError for a window without anything."""
    if not sys.stderr.isatty():
        return _measured(simulate(trace, setup, observe=observe))
    with bar(len(trace), policy) as advance:

        def watch(events: list[Event]) -> None:
            for event in events:
                if isinstance(event, Finished):
                    advance()
            if observe is not None:
                observe(events)

        return _measured(simulate(trace, setup, observe=watch))


def _measured(run: Run) -> Figures:
    if run.end.now_ns < run.start.now_ns:
        raise ConfigError(f"--measure-from is after the end: all was over at {run.end.now_ns / 1e9:.4g} s")
    return figures(run)


@contextmanager
def _events_file(path: Path | None) -> Iterator[Observe | None]:
    """Writes each event as its line; a quiet stretch as the steps it stands for."""
    if path is None:
        yield None
        return
    try:
        file = path.open("w")
    except OSError as exc:
        raise ConfigError(f"can't write the events to {path}: {exc.strerror}") from exc
    with file:

        def write(events: list[Event]) -> None:
            for event in events:
                single = event.steps() if isinstance(event, QuietSteps) else (event,)
                file.writelines(f"{line(one)}\n" for one in single)

        yield write


def _title(trace: Trace, profile: Profile) -> str:
    kind = "fitted step times" if profile.kind == "fitted" else "analytic (roofline) step times"
    return f"{trace.name}, simulated on {profile.name}: {kind}"


def _cut(run: Figures) -> Iterator[str]:
    """Else a target that the whole answer would miss seems to be met."""
    if cut := sum(run[name]["cut"] for name in TaskClass if run[name]):
        were = "answer was" if cut == 1 else "answers were"
        yield (
            f"{cut} {were} cut to what --max-output-tokens, --max-model-len or the KV cache leaves: "
            "shorter than in the trace, and sooner done"
        )


def _print(
    options: Options,
    traces: list[Trace],
    profile: Profile,
    setup: Setup,
    runs: list[Figures],
    as_json: bool,
) -> None:
    config, trace = setup.config, traces[0]
    notes = dict.fromkeys(one.note for one in traces if one.note)
    if as_json:
        head = {
            "trace": trace.name,
            "trace_note": "; ".join(notes),
            "profile": profile.name,
            "profile_kind": profile.kind,
            "kv_blocks": config.num_blocks,
            "block_size": config.block_size,
            "seed": options.seed,
        }
        print(json.dumps({**head, "runs": runs}))
        return
    from brim.cli.simulation_tables import show

    about = [
        _title(trace, profile),
        f"KV cache of {config.capacity_tokens} tokens; prompt and output up to {config.max_model_len} tokens",
        f"prefix caching {'on' if config.enable_prefix_caching else 'off'}"
        + ("" if trace.block_tokens else ": the trace does not say which prompts begin alike"),
        *(f"trace: {note}" for note in notes),
        *_cut(runs[0]),
    ]
    show(about, runs)
