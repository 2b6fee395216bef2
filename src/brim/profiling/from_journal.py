"""A profile from a server's journal of decisions: its own steps under its own traffic, as they went."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import date
from math import log2, sqrt
from statistics import median

from brim.core.errors import ConfigError
from brim.core.estimators.step_ranges import Lately
from brim.core.estimators.step_time import StepShape, StepTime
from brim.profiles.loader import Fit, Memory, Profile, PublishedCapacity
from brim.profiles.unevenness import Unevenness
from brim.profiling.fitting import Row, errors, fit_step_time
from brim.workloads.journals import Journal, Step

FEWEST_SIZES = 20  # of sizes, to fit and to hold back
HELD_BACK = 5  # every fifth size
STALL = 5  # times the median of its size
UNTOLD = "The journal does not tell how many GPUs served: one is taken (--tensor-parallel)."
FINENESS = 4  # sizes that differ by less than a factor of 2 ** (1 / 4) are one


def profile_of(journal: Journal, name: str, gpus: int | None = None) -> Profile:
    """Fitted to the mean times of steps of like size, of so many GPUs; else of the journal's, or of one.

    Raises ConfigError where the steps are too few to tell.
    """
    found = len(_alike(journal.steps))
    if found < FEWEST_SIZES:
        raise ConfigError(
            f"steps of {found} sizes are too few to tell how long others take, which needs "
            f"{FEWEST_SIZES}: record for longer, with a policy that asks how long steps take (brim, echo)"
        )
    usual = _without_stalls(journal.steps)
    counts = _sizes(usual)
    sizes = list(counts)
    unseen = sizes[HELD_BACK - 1 :: HELD_BACK]
    seen = [row for place, row in enumerate(sizes, 1) if place % HELD_BACK]
    step_time = fit_step_time(seen, lambda row: sqrt(counts[row]))
    kinds = sorted({row.kind for row in unseen})
    by_kind = {kind: errors(step_time, [row for row in unseen if row.kind == kind]) for kind in kinds}
    largest = max(row.shape.new_tokens for row in sizes)
    return Profile(
        name=name,
        gpu="as served",
        model="as served",
        tensor_parallel=gpus or journal.gpus or 1,
        kind="fitted",
        source="measured: a journal of decisions",
        date=date.today().isoformat(),
        notes=_notes(journal.steps, usual, sizes, known=bool(gpus or journal.gpus)),
        step_time=step_time,
        fit=Fit(errors(step_time, seen), errors(step_time, unseen), by_kind, _worst(step_time, sizes)),
        memory=_memory(journal),
        target_forward_tokens=step_time.target_forward_tokens(largest=largest),
        unevenness=Unevenness.of(_over_the_fit(usual, step_time)),
    )


def step_time_of(steps: Sequence[Step]) -> StepTime:
    """Fitted to the mean times of steps of like size, with none held back and stalls counted."""
    counts = _sizes(steps)
    return fit_step_time(list(counts), lambda row: sqrt(counts[row]))


def _over_the_fit(steps: Sequence[Step], step_time: StepTime) -> list[float]:
    """What they took over what the fit says and the steps before: a scheduler follows what lasts.

    In the mean as long as the fit says: what is simulated adds up.
    """
    lately, ratios = Lately(), []
    usual = [step_time.seconds(step.shape) for step in steps]
    for step, seconds in zip(steps, usual, strict=True):
        ratio = step.took_ns / 1e9 / seconds
        ratios.append(ratio / lately.times)
        lately.observe(ratio)
    mean = sum(map(float.__mul__, ratios, usual)) / sum(usual)
    return [ratio / mean for ratio in ratios]


def _without_stalls(steps: Sequence[Step]) -> list[Step]:
    """Those that took no more than many times what the median of all sizes says of them."""
    medians = {
        Row(group[0].shape, median([step.took_ns for step in group]) / 1e9): len(group)
        for group in _alike(steps)
    }
    usual = fit_step_time(list(medians), lambda row: sqrt(medians[row]))
    return [step for step in steps if step.took_ns <= STALL * usual.picoseconds(step.shape) / 1000]


def _sizes(steps: Sequence[Step]) -> dict[Row, int]:
    """How many steps were of each size. The mean of their times: what is simulated adds up."""
    rows = {}
    for group in _alike(steps):
        parts = zip(*[step.shape for step in group], strict=True)
        shape = StepShape(*[round(sum(part) / len(group)) for part in parts])
        rows[Row(shape, sum([step.took_ns for step in group]) / len(group) / 1e9)] = len(group)
    return rows


def _alike(steps: Sequence[Step]) -> list[list[Step]]:
    """Steps of like size together, by size."""
    groups: defaultdict[tuple[int, ...], list[Step]] = defaultdict(list)
    for step in steps:
        groups[tuple(round(FINENESS * log2(part + 1)) for part in step.shape)].append(step)
    return [groups[size] for size in sorted(groups)]


def _worst(step_time: StepTime, rows: Sequence[Row]) -> str:
    off = {step_time.seconds(row.shape) / row.seconds - 1: row for row in rows}
    error = max(off, key=abs)
    tokens, _, decodes, _ = off[error].shape
    return f"{error:+.0%} of {off[error].seconds * 1e3:.2f} ms at {tokens} tokens ({decodes} decodes)"


def _notes(
    steps: Sequence[Step], usual: Sequence[Step], sizes: Sequence[Row], *, known: bool
) -> tuple[str, ...]:
    lost = (sum([step.took_ns for step in steps]) - sum([step.took_ns for step in usual])) / 1e9
    longest = max(row.longest_context for row in sizes)
    tokens = max(row.shape.new_tokens for row in sizes)
    return (
        f"{len(steps)} steps of {len(sizes)} sizes under real traffic, from the end of the step before.",
        f"{len(steps) - len(usual)} of them took over {STALL} times their like ({lost:.2f} s): left out.",
        f"Up to {tokens} tokens a step and {longest:.0f} tokens of context: what is larger is extrapolated.",
        "Of the memory only the KV cache's tokens are known; a byte is counted for each.",
        *(() if known else (UNTOLD,)),
    )


def _memory(journal: Journal) -> Memory:
    tokens = journal.config["num_blocks"] * journal.config["block_size"]
    return Memory(tokens, 0, 0, 1, PublishedCapacity(tokens, "the journal's configuration"))
