"""How unevenly steps take their time.

A scheduler that leaves room for late steps leaves none on a machine that is never late, and so does more
offline work there than on the real one.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

from brim.core.errors import ConfigError
from brim.metrics.samples import Samples

_TAIL = (0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9995, 0.9999)  # dense: it bends there
SHARES = (0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, *_TAIL, 1.0)
NEGLIGIBLE = 0.05  # no decision rests on it, and an even machine is simulated several times as fast


@dataclass(frozen=True, slots=True)
class Unevenness:
    """`shares[i]` of all steps take at most `times[i]` times what is expected; between these, on a line.

    Raises ConfigError where these are not as many, don't rise, or the shares are not from 0 to 1.
    """

    shares: tuple[float, ...] = (0.0, 1.0)
    times: tuple[float, ...] = (1.0, 1.0)

    def __post_init__(self) -> None:
        if len(self.shares) != len(self.times) or (*self.shares[:1], *self.shares[-1:]) != (0, 1):
            raise ConfigError("give as many times as shares, and shares from 0 to 1")
        if any(low >= high for low, high in pairwise(self.shares)):
            raise ConfigError(f"the shares must rise: {self.shares}")
        if self.times[0] <= 0 or any(low > high for low, high in pairwise(self.times)):
            raise ConfigError(f"the times must be above 0 and rise: {self.times}")

    @classmethod
    def of(cls, ratios: Iterable[float]) -> Unevenness:
        """Of steps that took so many times what was expected; even where there were none."""
        samples = Samples()
        for ratio in ratios:
            samples.observe(ratio)
        times = [max(round(each, 4), 1e-4) for each in samples.percentiles(SHARES) if each is not None]
        return cls(SHARES, tuple(times)) if times else EVEN

    def __str__(self) -> str:
        low, high, late = (self.at(share) for share in (0.05, 0.95, 0.99))
        return f"{low:.2f} to {high:.2f} times the usual (p5 to p95), 1 % over {late:.2f}"

    @property
    def negligible(self) -> bool:
        """Whether steps are simulated as if they were even."""
        return self.times[0] >= 1 - NEGLIGIBLE and self.times[-1] <= 1 + NEGLIGIBLE

    @property
    def shortest(self) -> float:
        """How many times the expected a simulated step takes at least."""
        return 1.0 if self.negligible else self.times[0]

    def at(self, share: float) -> float:
        """How many times the expected that share of the steps takes at most; `share` is below 1."""
        place = bisect_right(self.shares, share)
        low, high = self.shares[place - 1], self.shares[place]
        fewest, most = self.times[place - 1], self.times[place]
        return fewest + (most - fewest) * (share - low) / (high - low)


EVEN = Unevenness()
