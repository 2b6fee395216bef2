"""`brim trace`: look at request traces, convert them and make synthetic ones."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from brim.cli import flags
from brim.core.errors import ConfigError
from brim.core.request import TaskClass
from brim.workloads.arrivals import SPELLINGS, parse_arrivals
from brim.workloads.documents import LOOGLE_DOCUMENTS, documents_of, loogle_shaped
from brim.workloads.formats import AUTO, FORMATS, read, write
from brim.workloads.lengths import PRESETS, sampled, synthetic
from brim.workloads.mixing import mixed
from brim.workloads.statistics import LengthStatistics, TraceStatistics, statistics
from brim.workloads.trace import (
    Trace,
    reblocked,
    rescaled,
    shuffled,
    spread_quantised,
    unshared,
    with_arrivals,
)
from brim.workloads.wording import counted

trace_app = typer.Typer(help="Request traces: look at them, convert them, make synthetic ones.")

LOOGLE = "loogle"
File = Annotated[Path, typer.Argument(help="A trace, gzip or not.")]
Format = Annotated[str, typer.Option("--format", help=f"One of {', '.join(FORMATS)}.")]
Output = Annotated[Path, typer.Option("-o", "--output", help="Where to write it: .csv or .csv.gz.")]
ArrivalsFlag = Annotated[str | None, typer.Option("--arrivals", help=f"Generate arrivals: {SPELLINGS}.")]
SeedFlag = Annotated[int, typer.Option("--seed", help="Decides whatever is drawn.")]
ClassFlag = Annotated[TaskClass | None, typer.Option("--class", help="Make every request of this class.")]
Shuffle = Annotated[bool, typer.Option("--shuffle", help="Mix the order; arrivals stay.")]
WorkingSet = Annotated[
    int | None, typer.Option(help="Mix the order so that prefixes in use hold so many tokens at most.")
]
Unshared = Annotated[bool, typer.Option("--unshared", help="A control: the same lengths, no prefix shared.")]


@trace_app.command()
def stats(file: File, format: Format = AUTO, json_output: flags.Json = False) -> None:
    """Requests, rate, burstiness, lengths and how much of the prompts was seen before."""
    trace = read(file, format)
    figures = statistics(trace)
    if json_output:
        print(json.dumps({"name": trace.name, "note": trace.note, **asdict(figures)}))
    else:
        print("\n".join(_lines(trace, figures)))


@trace_app.command()
def convert(
    file: File,
    output: Output,
    format: Format = AUTO,
    first: Annotated[int | None, typer.Option(help="Keep the first N requests.")] = None,
    sample: Annotated[int | None, typer.Option(help="Draw N of the requests, lengths only.")] = None,
    block_tokens: Annotated[int | None, typer.Option(help="Join prefix blocks to larger ones.")] = None,
    unshare: Unshared = False,
    spread: Annotated[
        bool, typer.Option("--spread-quantised", help="Spread requests of one time stamp over the tick.")
    ] = False,
    shuffle: Shuffle = False,
    working_set: WorkingSet = None,
    arrivals: ArrivalsFlag = None,
    window: Annotated[float | None, typer.Option(help="Keep the first so many seconds.")] = None,
    rate: Annotated[float | None, typer.Option(help="Scale the gaps to so many requests/s.")] = None,
    scale: Annotated[float | None, typer.Option(help="Scale the rate by a factor.")] = None,
    task_class: ClassFlag = None,
    seed: SeedFlag = 0,
) -> None:
    """Read any known format and write Brim's own. Changes happen in the order of the flags listed here."""
    if output.exists() and file.exists() and output.samefile(file):
        raise ConfigError(f"--output {output} is the trace that is read: give another name")
    flags.refuse_unwritable("--output", output)
    trace = read(file, format)
    if first is not None:
        trace = trace.first(first)
    if sample is not None:
        trace = sampled(trace, sample, seed)
    if block_tokens is not None:
        trace = reblocked(trace, block_tokens)
    if spread:
        trace = spread_quantised(trace, seed)
    trace = _dealt(trace, shuffle, working_set, unshare, arrivals, seed)
    if window is not None:
        trace = trace.window(window)
    if rate is not None or scale is not None:
        trace = rescaled(trace, rate=rate, scale=scale)
    _written(trace, task_class, output)


@trace_app.command()
def synthesize(
    preset: Annotated[str, typer.Argument(help=f"{', '.join(PRESETS)}, {LOOGLE}, or MEAN_IN/MEAN_OUT.")],
    output: Output,
    count: Annotated[int | None, typer.Option(help=f"Requests; not for {LOOGLE}.")] = None,
    documents: Annotated[
        int | None,
        typer.Option(help=f"Documents; for {LOOGLE} only. [{LOOGLE_DOCUMENTS}]"),
    ] = None,
    document_tokens: Annotated[
        int | None, typer.Option(help=f"As many documents as have about so many tokens; for {LOOGLE} only.")
    ] = None,
    shuffle: Shuffle = False,
    working_set: WorkingSet = None,
    unshare: Unshared = False,
    arrivals: ArrivalsFlag = None,
    task_class: ClassFlag = None,
    seed: SeedFlag = 0,
) -> None:
    """Make a trace from stated averages; without --arrivals it has lengths only."""
    flags.refuse_unwritable("--output", output)
    if preset == LOOGLE:
        trace = _loogle(count, documents, document_tokens, seed)
    elif documents is not None or document_tokens is not None:
        raise ConfigError(f"only {LOOGLE} has documents: give {preset} a --count")
    elif count is None:
        raise ConfigError(f"how many requests? Give --count, such as --count 1000, beside {preset}")
    else:
        trace = synthetic(_lengths(preset), count, seed)
    _written(_dealt(trace, shuffle, working_set, unshare, arrivals, seed), task_class, output)


def _loogle(count: int | None, documents: int | None, document_tokens: int | None, seed: int) -> Trace:
    if count is not None:
        raise ConfigError(f"{LOOGLE} has as many requests as its documents have questions: give --documents")
    if documents is not None and document_tokens is not None:
        raise ConfigError("--documents and --document-tokens say the same: give one of them")
    if document_tokens is not None:
        documents = documents_of(document_tokens)
    return loogle_shaped(LOOGLE_DOCUMENTS if documents is None else documents, seed)


def _dealt(
    trace: Trace, shuffle: bool, working_set: int | None, unshare: bool, arrivals: str | None, seed: int
) -> Trace:
    """Another order, then without sharing, then new arrivals: so a control has the order of its model."""
    if shuffle and working_set is not None:
        raise ConfigError("both --shuffle and --working-set set the order: give one of them")
    if shuffle:
        trace = shuffled(trace, seed)
    if working_set is not None:
        trace = mixed(trace, working_set, seed)
    if unshare:
        trace = unshared(trace)
    return trace if arrivals is None else with_arrivals(trace, parse_arrivals(arrivals, seed))


def _lengths(preset: str) -> str | tuple[float, float]:
    means = preset.split("/")
    if preset in PRESETS or len(means) != 2:
        return preset
    try:
        return float(means[0]), float(means[1])
    except ValueError:
        raise ConfigError(f"{preset!r} are no two means: write them like 161/338") from None


def _written(trace: Trace, task_class: TaskClass | None, path: Path) -> None:
    if task_class is not None:
        trace = trace.as_class(task_class)
    try:
        write(trace, path)
    except OSError as exc:
        raise ConfigError(f"{path}: {exc.strerror}: give a path that can be written") from exc
    print(f"{counted(len(trace), 'request')} written to {path}")
    if trace.note:
        print(f"note: {trace.note}")


def _lines(trace: Trace, figures: TraceStatistics) -> list[str]:
    pace = "no arrivals"
    if figures.rate is not None:
        pace = f"{figures.rate:.4g}/s over {figures.span_s:.6g} s, CV of gaps {figures.gap_cv:.3g}"
    sharing = "none told"
    if figures.seen_block_share is not None:
        share = f"{100 * figures.seen_block_share:.1f} %"
        sharing = f"{share} of the blocks of {figures.block_tokens} tokens seen before"
        sharing += f", {figures.prefix_tokens} tokens of different blocks"
    return [
        f"{'trace':<10}{trace.name}",
        f"{'requests':<10}{figures.requests}, of them {figures.offline_requests} offline",
        f"{'arrivals':<10}{pace}",
        f"{'tokens':<10}{'mean':>10}{'p50':>10}{'p90':>10}{'p99':>10}{'max':>10}",
        _length_line("input", figures.input_tokens),
        _length_line("output", figures.output_tokens),
        f"{'prefixes':<10}{sharing}",
        *([f"{'note':<10}{trace.note}"] if trace.note else []),
    ]


def _length_line(name: str, of: LengthStatistics) -> str:
    return f"{name:<10}{of.mean:>10.1f}{of.p50:>10.0f}{of.p90:>10.0f}{of.p99:>10.0f}{of.max:>10}"
