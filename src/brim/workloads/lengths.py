"""Lengths without a file: synthetic ones from stated averages, draws from a trace, LooGLE's shape."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from math import exp, log
from random import Random
from statistics import NormalDist

from brim.core.errors import ConfigError, TraceError
from brim.workloads.sharing import DocumentBlocks
from brim.workloads.trace import Trace, TraceRequest

NORMAL = NormalDist()
NO_LOWER = 1e-12  # `NormalDist.inv_cdf` takes neither 0 nor 1


@dataclass(frozen=True)
class LengthLaw:
    """Log-normal lengths between 1 and `max` tokens, whose mean is `mean` after that clipping.

    `sigma` is the standard deviation of the logarithm before it.
    """

    mean: float
    sigma: float = 1.0
    max: int = 8192

    def __post_init__(self) -> None:
        if not 1 <= self.mean <= self.max * 0.9:
            raise ConfigError(
                f"a mean of {self.mean:g} tokens: give 1 or more, and 90 % of {self.max} at most"
            )
        if not 0 < self.sigma <= 4:
            raise ConfigError(f"a sigma of {self.sigma:g}: give a number above 0, 4 at most")

    def draw(self, count: int, rng: Random) -> list[int]:
        """One length out of each of `count` equally likely slices, in random order.

        So the mean is near the stated one in small samples too. Rounding is up or down by chance, which
        keeps the mean.
        """
        location = self._location()
        lengths = []
        for slice_number in range(count):
            share = min(max((slice_number + rng.random()) / count, NO_LOWER), 1 - NO_LOWER)
            length = exp(location + self.sigma * NORMAL.inv_cdf(share))
            lengths.append(int(min(max(length, 1.0), self.max) + rng.random()))
        rng.shuffle(lengths)
        return [min(length, self.max) for length in lengths]

    def _location(self) -> float:
        """Of the logarithm, so that the clipped mean is the stated one."""
        low, high = -6 * self.sigma, log(self.max) + 6 * self.sigma
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if self._clipped_mean(middle) < self.mean else (low, middle)
        return (low + high) / 2

    def _clipped_mean(self, location: float) -> float:
        """The mean of a log-normal value of which all below 1 is made 1 and all above `max` is made `max`."""
        low, high = -location / self.sigma, (log(self.max) - location) / self.sigma
        between = exp(location + self.sigma**2 / 2) * (
            NORMAL.cdf(high - self.sigma) - NORMAL.cdf(low - self.sigma)
        )
        return NORMAL.cdf(low) + between + self.max * (1 - NORMAL.cdf(high))


# Means: the averages EconoServe (arXiv 2411.06364) states. Sigmas: rounded from the logarithms of real
# lengths: Alpaca; the first turns of ShareGPT; arXiv summarization for BookCorpus, which is not to be had.
PRESETS = {
    "alpaca": (LengthLaw(19, 0.6, 1024), LengthLaw(58, 0.9, 1024)),
    "sharegpt": (LengthLaw(161, 1.4, 8192), LengthLaw(338, 1.0, 2048)),
    "bookcorpus": (LengthLaw(1952, 0.7, 8192), LengthLaw(681, 0.8, 4096)),
}

# LooGLE's published totals, and the lengths of the 222 requests of its test data in Llama-2 tokens.
LOOGLE_DOCUMENTS, LOOGLE_QUESTIONS = 776, 6448
DOCUMENT, QUESTION, ANSWER = (
    LengthLaw(24_000, 0.35, 100_000),
    LengthLaw(92, 0.9, 1024),
    LengthLaw(27.5, 0.9, 512),
)


def synthetic(lengths: str | tuple[float, float], count: int, seed: int = 0) -> Trace:
    """`count` requests without arrivals, input and output drawn independently of each other.

    `lengths` is a preset's name or (mean input, mean output) in tokens. Raises ConfigError.
    """
    if isinstance(lengths, str) and lengths not in PRESETS:
        raise ConfigError(f"{lengths!r} is no preset: give {', '.join(PRESETS)}, or two means in tokens")
    _check_count(count, "requests")
    name = lengths if isinstance(lengths, str) else f"{lengths[0]:g}/{lengths[1]:g}"
    laws = PRESETS[lengths] if isinstance(lengths, str) else tuple(LengthLaw(mean) for mean in lengths)
    inputs, outputs = (law.draw(count, Random(f"{seed} {side}")) for side, law in enumerate(laws))
    told = "; ".join(
        f"{side} log-normal, mean {law.mean:g}, sigma {law.sigma:g}, at most {law.max}"
        for side, law in zip(("input", "output"), laws, strict=True)
    )
    return Trace(
        name=f"synthetic {name}",
        requests=[TraceRequest(0, i, o) for i, o in zip(inputs, outputs, strict=True)],
        has_arrivals=False,
        note=f"SYNTHETIC lengths: {told}; seed {seed}",
    )


def sampled(trace: Trace, count: int, seed: int = 0) -> Trace:
    """`count` draws with replacement: lengths, keys and classes of real requests.

    Arrivals and prefix blocks are left behind: a request drawn twice would share its whole prompt.
    """
    if not trace.requests:
        raise TraceError(f"{trace.name}: has no requests to draw from")
    _check_count(count, "requests")
    drawn = Random(seed).choices(trace.requests, k=count)
    bare = replace(
        trace,
        name=f"{trace.name} sampled",
        requests=[r._replace(arrival_ns=0, block_ids=()) for r in drawn],
        block_tokens=0,
        has_arrivals=False,
    )
    return bare.noted(f"{count} requests drawn with replacement from {len(trace)}, seed {seed}")


def loogle_shaped(documents: int = LOOGLE_DOCUMENTS, seed: int = 0, block_tokens: int = 16) -> Trace:
    """Long documents with several questions each and short answers, grouped by document, as LooGLE's file is.

    Each document has one question, and the others fall on documents of random popularity, so that a few
    have dozens. All blocks that a document fills are shared by its questions. `shuffled` mixes the order.
    """
    _check_count(documents, "documents")
    _check_count(block_tokens, "tokens of a block")
    rng, sharing = Random(seed), DocumentBlocks(block_tokens)
    popularity = [rng.expovariate(1.0) for _ in range(documents)]
    total = round(documents * LOOGLE_QUESTIONS / LOOGLE_DOCUMENTS)
    asked = Counter(rng.choices(range(documents), popularity, k=total - documents))
    document_tokens = DOCUMENT.draw(documents, rng)
    pairs = zip(QUESTION.draw(total, rng), ANSWER.draw(total, rng), strict=True)
    requests = []
    for document, tokens in enumerate(document_tokens):
        blocks = sharing.blocks(document, tokens, tokens)
        for _ in range(1 + asked[document]):
            question, answer = next(pairs)
            requests.append(TraceRequest(0, tokens + question, answer, block_ids=blocks))
    return Trace(
        name="synthetic LooGLE-shaped",
        requests=requests,
        block_tokens=block_tokens,
        has_arrivals=False,
        note=f"SYNTHETIC, by LooGLE's published totals: {documents} documents, {DOCUMENT.mean:g} tokens each "
        f"on average, {total} questions grouped by document; seed {seed}",
    )


def _check_count(count: int, what: str) -> None:
    if count < 1:
        raise ConfigError(f"{count} {what}: give 1 or more")
