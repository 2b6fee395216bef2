"""Lengths without a file: synthetic ones from stated averages, and draws from a trace."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import exp, log
from random import Random
from statistics import NormalDist

from brim.core.errors import ConfigError, TraceError
from brim.workloads.trace import Trace, TraceRequest
from brim.workloads.wording import counted

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


def synthetic(lengths: str | tuple[float, float], count: int, seed: int = 0) -> Trace:
    """`count` requests without arrivals, input and output drawn independently of each other.

    `lengths` is a preset's name or (mean input, mean output) in tokens. Raises ConfigError.
    """
    if isinstance(lengths, str) and lengths not in PRESETS:
        raise ConfigError(f"{lengths!r} is no preset: give {', '.join(PRESETS)}, or two means in tokens")
    refuse_none(count, "requests")
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
    refuse_none(count, "requests")
    drawn = Random(seed).choices(trace.requests, k=count)
    bare = replace(
        trace,
        name=f"{trace.name} sampled",
        requests=[r._replace(arrival_ns=0, block_ids=()) for r in drawn],
        block_tokens=0,
        has_arrivals=False,
    )
    return bare.noted(f"{counted(count, 'request')} drawn with replacement from {len(trace)}, seed {seed}")


def refuse_none(count: int, what: str) -> None:
    """Raises ConfigError for less than one."""
    if count < 1:
        raise ConfigError(f"{count} {what}: give 1 or more")
