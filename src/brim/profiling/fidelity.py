"""Every measured run at hand, replayed in the simulator: how far each figure lies from what was measured."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median

from brim.core.config import SchedulerConfig
from brim.core.request import TaskClass
from brim.profiles.loader import Profile, load
from brim.profiling.measured import H100_MODEL, H100_RUNS, rtx_step_seconds
from brim.profiling.replay import Replay, replay
from brim.profiling.tables import records
from brim.simulation.machine import Machine
from brim.simulation.run import Setup, simulate
from brim.workloads.trace import Trace, TraceRequest

H100_PROFILE, RTX_PROFILE = "h100-llama-3-8b", "rtxpro6000-llama-3.1-8b"
BLOCK_SIZE = 16
ROUNDS = 4  # requests after each other in a seat
MAX_NUM_BATCHED_TOKENS = 8192
ENGINE = "## Engine: "  # how the headings of sections begin that are made by benchmarks/engine_fidelity.py
NOT_REPLAYED = (
    ("sarathi_osdi24", "steps only, of a model that its files do not name"),
    ("splitwise", "Llama-2-70B and BLOOM-176B: no profile of them is shipped"),
    ("vidur, llmservingsim, aiconfigurator kernels", "the profiles are fitted to them"),
    ("simdistserve", "formulas fitted by their authors; no run"),
)


@dataclass(frozen=True, slots=True)
class Pairs:
    """(measured, predicted) of one figure over several runs, in seconds."""

    what: str
    pairs: Sequence[tuple[float, float]]

    @property
    def errors(self) -> list[float]:
        return [predicted / measured - 1 for measured, predicted in self.pairs]


def h100_runs(folder: Path) -> Pairs:
    """TPOT of the published runs of Llama-3.1-8B on one H100: a fixed number of users, equal requests.

    As many seats as users, `ROUNDS` requests for each, so that the next prompt comes when an answer ends.
    """
    profile = load(H100_PROFILE)
    rows = [
        row
        for row in records(folder / H100_RUNS)
        if row["model_path"] == H100_MODEL and float(row["tp_size"]) == 1
    ]
    pairs = [(float(row["silicon_tpot_ms"]) / 1e3, _closed_loop(profile, row)) for row in rows]
    return Pairs("TPOT, Llama-3.1-8B, one H100, TensorRT-LLM", pairs)


def _closed_loop(profile: Profile, row: dict[str, str]) -> float:
    prompt, answer, users = int(row["isl"]), int(row["osl"]), int(row["concurrency"])
    config = SchedulerConfig(
        num_blocks=profile.kv_tokens() // BLOCK_SIZE,
        block_size=BLOCK_SIZE,
        max_model_len=prompt + answer + 1,
        max_num_seqs=users,
        max_num_batched_tokens=max(MAX_NUM_BATCHED_TOKENS, users),
        enable_prefix_caching=False,
        policy="vllm",
    )
    trace = Trace("closed loop", [TraceRequest(0, prompt, answer)] * users * ROUNDS)
    machine = Machine(profile.step_time, profile.target_forward_tokens)
    mean = simulate(trace, Setup(config, machine)).by_class[TaskClass.ONLINE].tpot_seconds.mean
    assert mean is not None
    return mean


def page(folder: Path, trace: Trace, old: str = "") -> str:
    """The whole page; of an old one, sections of engines stay. Raises ConfigError where a file is missing."""
    profile = load(RTX_PROFILE)
    steps = Pairs(
        "mean step of each second, one RTX PRO 6000, vLLM 0.19.0", rtx_step_seconds(folder, profile.step_time)
    )
    text = "\n".join(_lines([h100_runs(folder), steps], replay(folder, trace, profile)))
    for section in _sections(old):
        if section.startswith(ENGINE):
            text = with_section(text, section)
    return text


def with_section(text: str, section: str) -> str:
    """The page with this section in place of the one of the same heading, or behind all others."""
    heading = section.partition("\n")[0]
    others = [each for each in _sections(text) if each.partition("\n")[0] != heading]
    return "\n\n".join(each.strip() for each in [*others, section]) + "\n"


def _sections(text: str) -> list[str]:
    """The head of the page, and what begins with each heading of the second level."""
    return re.split(r"^(?=## )", text, flags=re.MULTILINE)


def _lines(compared: Sequence[Pairs], run: Replay) -> Iterator[str]:
    yield "# Fidelity"
    yield ""
    yield "What was measured by others, beside what the simulator says. Made by"
    yield ""
    yield "```console"
    yield "$ brim profile fidelity --data PROFILE-DATA --trace SHAREGPT-300.csv.gz -o docs/fidelity.md"
    yield "```"
    yield ""
    yield "The files are those of [profiles](profiles.md). None of these runs took part in a fit."
    yield ""
    yield "## Many runs, one figure each"
    yield ""
    yield "| figure | runs | mean absolute error | median error | largest |"
    yield "| --- | ---: | ---: | ---: | ---: |"
    for each in compared:
        errors = each.errors
        cells = (
            f"{fmean(map(abs, errors)):.1%}",
            f"{median(errors):+.1%}",
            f"{max(errors, key=abs):+.1%}",
        )
        yield f"| {each.what} | {len(errors)} | {' | '.join(cells)} |"
    yield ""
    yield "The first is replayed step by step (policy `vllm`, as many seats as users); its TTFT is left out,"
    yield "since the users' waves queue behind each other in a way that the files do not tell."
    yield ""
    yield "## One run, every figure"
    yield ""
    yield "300 ShareGPT requests on one RTX PRO 6000, vLLM 0.19.0, at the moments they reached its engine."
    yield ""
    yield "| mean | measured, s | profile alone | with the host's time |"
    yield "| --- | ---: | ---: | ---: |"
    bare, hosted = run.bare.errors(run.measured), run.hosted.errors(run.measured)
    for name in bare:
        yield f"| {name} | {getattr(run.measured, name):.4f} | {bare[name]:+.1%} | {hosted[name]:+.1%} |"
    yield ""
    yield f"The host's time, {1e3 * run.host_seconds:.2f} ms a step, is taken from the same run."
    yield ""
    yield "## Not replayed"
    yield ""
    for name, why in NOT_REPLAYED:
        yield f"- {name}: {why}."
    yield ""
