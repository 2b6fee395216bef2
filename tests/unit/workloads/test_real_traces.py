"""The real traces beside a developer's checkout load whole, and have the figures that their table states."""

from __future__ import annotations

import re
from math import log
from pathlib import Path
from statistics import fmean, pstdev

import pytest

from brim.core.errors import TraceError
from brim.workloads.documents import loogle_shaped
from brim.workloads.envelope import read_envelope
from brim.workloads.formats import read
from brim.workloads.lengths import sampled
from brim.workloads.statistics import LengthStatistics, statistics
from brim.workloads.trace import Trace, spread_quantised

FOLDER = Path(__file__).parents[4] / "shared" / "data" / "traces"
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason=f"needs the real traces in {FOLDER}")
RATES = "servegen_rates_10min_2weeks.csv.gz"


def stated(heading: str) -> dict[str, list[str]]:
    """The table under a heading of the folder's README: cells by file name."""
    if not FOLDER.is_dir():
        return {}
    section = (FOLDER / "README.md").read_text().split(heading)[1].split("\n## ")[0]
    rows = (re.findall(r"[^|]+", line) for line in section.splitlines() if ".csv.gz" in line)
    return {row[0].strip(): [cell.strip() for cell in row[1:]] for row in rows}


FIGURES, SHARING = stated("## Statistics"), stated("## Prefix sharing")


def numbers(of: LengthStatistics) -> list[float]:
    return [of.mean, of.p50, of.p90, of.p99, of.max]


@pytest.mark.parametrize("name", sorted(FIGURES.keys() - {RATES}))
def test_the_figures_of_the_table(name: str) -> None:
    rows, span_s, rate, gap_cv, _, inputs, outputs, *_ = FIGURES[name]
    figures = statistics(read(FOLDER / name))
    assert figures.requests == int(rows)
    for lengths, cell in ((figures.input_tokens, inputs), (figures.output_tokens, outputs)):
        assert numbers(lengths) == pytest.approx([float(x) for x in cell.split("/")], abs=1)
        assert lengths.mean == pytest.approx(float(cell.split("/")[0]), abs=0.051)
    assert (figures.rate is None) == (span_s == "-")
    if figures.rate is not None:
        assert figures.span_s == pytest.approx(float(span_s), abs=0.051)
        assert figures.rate == pytest.approx(float(rate), rel=0.004)  # the table counts one gap more
        assert figures.gap_cv == pytest.approx(float(gap_cv), abs=0.006)


@pytest.mark.parametrize("name", SHARING)
def test_the_prefixes_of_the_table(name: str) -> None:
    block_tokens, seen = SHARING[name][:2]
    figures = statistics(read(FOLDER / name))
    assert figures.block_tokens == int(block_tokens)
    assert figures.seen_block_share == pytest.approx(float(seen), abs=0.0006)


def test_sharing_is_made_where_columns_tell_it() -> None:
    documents = read(FOLDER / "loogle_testdata_llama2tok.csv.gz")
    assert len({r.block_ids for r in documents.requests}) == 19
    sessions = statistics(read(FOLDER / "sharegpt_8k_sessions_inferred.csv.gz"))
    assert sessions.seen_block_share is not None
    assert 0.7 < sessions.seen_block_share < 0.935


def test_made_documents_have_the_sizes_of_the_real_ones() -> None:
    real, made = read(FOLDER / "loogle_testdata_llama2tok.csv.gz"), loogle_shaped()
    for trace_sizes in (shared_tokens, own_tokens):
        assert fmean(trace_sizes(made)) == pytest.approx(fmean(trace_sizes(real)), rel=0.1)
        assert spread(trace_sizes(made)) == pytest.approx(spread(trace_sizes(real)), rel=0.15)
    assert statistics(made).output_tokens.mean == pytest.approx(statistics(real).output_tokens.mean, rel=0.05)


def shared_tokens(trace: Trace) -> list[int]:
    return [len(ids) * trace.block_tokens for ids in {r.block_ids for r in trace.requests}]


def own_tokens(trace: Trace) -> list[int]:
    """Of each request behind its document's whole blocks."""
    return [r.input_tokens - len(r.block_ids) * trace.block_tokens for r in trace.requests]


def spread(lengths: list[int]) -> float:
    """The standard deviation of the logarithm."""
    return pstdev(log(length) for length in lengths)


def test_stamps_of_mooncake_are_spread_on_request_only() -> None:
    trace = read(FOLDER / "mooncake_conversation.csv.gz")
    spread = statistics(spread_quantised(trace))
    assert spread.gap_cv == pytest.approx(1, abs=0.2)
    assert spread.span_s == pytest.approx(statistics(trace).span_s, abs=3.1)


def test_rates_are_an_envelope_and_no_trace() -> None:
    envelope = read_envelope(FOLDER / RATES, "m-small")
    assert (len(envelope.steps), envelope.end_s) == (2016, 14 * 24 * 3600)
    day = envelope.day(3)
    assert (len(day.steps), day.end_s) == (144, 24 * 3600)
    assert day.steps[0][1] == envelope.steps[2 * 144][1]
    both = read_envelope(FOLDER / RATES, "m-small+m-large")
    assert both.mean_rate == pytest.approx(
        envelope.mean_rate + read_envelope(FOLDER / RATES, "m-large").mean_rate
    )
    with pytest.raises(TraceError, match="no known format"):
        read(FOLDER / RATES)


def test_draws_keep_the_means() -> None:
    trace = read(FOLDER / "alpaca_5000_llama2tok.csv.gz")
    assert statistics(sampled(trace, 20_000, 1)).output_tokens.mean == pytest.approx(65.6, rel=0.03)
