"""When requests come: endless sequences of moments in integer nanoseconds, the same for the same seed.

Each generator may be iterated again and starts anew; its `str` says what it is, for a trace's note.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import accumulate, count, repeat
from random import Random
from typing import Protocol

from brim.core.errors import ConfigError
from brim.workloads.envelope import Envelope, read_envelope
from brim.workloads.trace import NANOSECONDS

SPELLINGS = "poisson:RATE, gamma:RATE:CV, uniform:RATE, diurnal:FILE[:RATE[:MODEL[:DAY]]] or all-at-once"


class Arrivals(Protocol):
    """Moments in nanoseconds, none before the one before it; as many as are asked for."""

    def __iter__(self) -> Iterator[int]: ...


@dataclass(frozen=True)
class Poisson:
    """Requests that know nothing of each other: `rate` a second on average."""

    rate: float
    seed: int = 0

    def __post_init__(self) -> None:
        _check(rate=self.rate)

    def __iter__(self) -> Iterator[int]:
        return (round(t / self.rate * NANOSECONDS) for t in _renewal(1.0, self.seed))

    def __str__(self) -> str:
        return f"Poisson {self.rate:g}/s, seed {self.seed}"


@dataclass(frozen=True)
class Gamma:
    """Gamma-distributed gaps; `cv` is their standard deviation over their mean: above 1 comes in bursts."""

    rate: float
    cv: float
    seed: int = 0

    def __post_init__(self) -> None:
        _check(rate=self.rate, cv=self.cv)

    def __iter__(self) -> Iterator[int]:
        return (round(t / self.rate * NANOSECONDS) for t in _renewal(self.cv, self.seed))

    def __str__(self) -> str:
        return f"Gamma {self.rate:g}/s, CV {self.cv:g}, seed {self.seed}"


@dataclass(frozen=True)
class Deterministic:
    """Equal gaps, the first request at 0."""

    rate: float

    def __post_init__(self) -> None:
        _check(rate=self.rate)

    def __iter__(self) -> Iterator[int]:
        return (round(i / self.rate * NANOSECONDS) for i in count())

    def __str__(self) -> str:
        return f"uniform {self.rate:g}/s"


@dataclass(frozen=True)
class AllAtOnce:
    """Everything at 0, as a batch job is submitted."""

    def __iter__(self) -> Iterator[int]:
        return repeat(0)

    def __str__(self) -> str:
        return "all at once"


@dataclass(frozen=True)
class Diurnal:
    """Arrivals whose rate follows an envelope, which starts over at its end.

    A clock that runs faster where the rate is higher: on it the gaps have mean 1 and this `cv` (1: Poisson).
    """

    envelope: Envelope
    cv: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        _check(cv=self.cv)

    def __iter__(self) -> Iterator[int]:
        pieces = self.envelope.pieces_forever()
        start_s, expected_before = 0.0, 0.0
        width_s, rate = next(pieces)
        for expected in _renewal(self.cv, self.seed):
            while expected >= expected_before + width_s * rate:
                start_s, expected_before = start_s + width_s, expected_before + width_s * rate
                width_s, rate = next(pieces)
            yield round((start_s + (expected - expected_before) / rate) * NANOSECONDS)

    def __str__(self) -> str:
        kind = "Poisson" if self.cv == 1 else f"gamma, CV {self.cv:g}"
        return f"diurnal ({self.envelope.name}), mean {self.envelope.mean_rate:g}/s, {kind}, seed {self.seed}"


def parse_arrivals(spelling: str, seed: int = 0) -> Arrivals:
    """`poisson:5` and the like, rates in requests a second. Raises ConfigError, TraceError for a file."""
    kind, *values = spelling.split(":")
    kinds: dict[str, tuple[range, Callable[..., Arrivals]]] = {
        "poisson": (range(1, 2), lambda rate: Poisson(_number(spelling, rate), seed)),
        "gamma": (range(2, 3), lambda rate, cv: Gamma(_number(spelling, rate), _number(spelling, cv), seed)),
        "uniform": (range(1, 2), lambda rate: Deterministic(_number(spelling, rate))),
        "diurnal": (range(1, 5), lambda *parts: _diurnal(spelling, seed, *parts)),
        "all-at-once": (range(1), AllAtOnce),
    }
    if kind not in kinds or len(values) not in kinds[kind][0]:
        raise ConfigError(f"{spelling!r} are no arrivals: give {SPELLINGS}")
    return kinds[kind][1](*values)


def _diurnal(spelling: str, seed: int, file: str, rate: str = "", model: str = "", day: str = "") -> Diurnal:
    envelope = read_envelope(file, model)
    if day:
        if not day.isdecimal():
            raise ConfigError(f"{spelling!r} has {day!r} for a day: give its number, 1 for the first")
        envelope = envelope.day(int(day))
    return Diurnal(envelope.scaled_to(_number(spelling, rate)) if rate else envelope, seed=seed)


def _number(spelling: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ConfigError(f"{spelling!r} has {text!r} for a number: give {SPELLINGS}") from None


def _check(**values: float) -> None:
    for name, value in values.items():
        if not 1e-6 <= value <= 1e6:
            raise ConfigError(f"a {name} of {value:g} makes no arrivals: give a number from 1e-6 to 1e6")


def _renewal(cv: float, seed: int) -> Iterator[float]:
    """Moments whose gaps have mean 1 and this coefficient of variation."""
    rng, shape = Random(seed), cv**-2
    return accumulate(rng.gammavariate(shape, 1 / shape) for _ in repeat(None))
