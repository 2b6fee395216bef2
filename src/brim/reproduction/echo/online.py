"""Online load: requests that somebody waits for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from random import Random

from brim.core.errors import ConfigError
from brim.workloads.arrivals import Diurnal, Gamma
from brim.workloads.envelope import DAY_S, Envelope, read_envelope
from brim.workloads.formats import read
from brim.workloads.lengths import LengthLaw, sampled
from brim.workloads.trace import Trace, TraceRequest, rescaled, with_arrivals

AZURE_FILE, RATES_FILE = "azure2023_conv.csv.gz", "servegen_rates_10min_2weeks.csv.gz"
RATES_MODEL, RATES_DAY = "m-large", 2
# The means of the Azure conversation trace of 2023 and the variation of its gaps; sigmas by its percentiles.
PROMPT, ANSWER, GAPS_CV = LengthLaw(1155, 0.75, 14_050), LengthLaw(211, 0.95, 1000), 1.09


def azure(rate: float, seconds: float, seed: int, data: Path | None) -> Trace:
    """The start of the Azure conversation trace at another pace; without its file a synthetic one like it."""
    if data is not None and (data / AZURE_FILE).exists():
        start = read(data / AZURE_FILE).first(round(rate * seconds))
        return rescaled(start, rate=rate)
    lengths = _azure_like(round(rate * seconds * 1.5), seed)
    return with_arrivals(lengths, Gamma(rate, GAPS_CV, seed)).window(seconds)


def diurnal(rate: float, seconds: float, seed: int, data: Path | None) -> Trace:
    """Arrivals by the rates of a day of ServeGen, the day pressed into `seconds`; lengths of Azure's trace.

    Raises ConfigError where the file of the rates is not there.
    """
    if data is None or not (data / RATES_FILE).exists():
        raise ConfigError(f"the diurnal load needs {RATES_FILE}: give its folder by --data")
    day = read_envelope(data / RATES_FILE, RATES_MODEL).day(RATES_DAY)
    pressed = Envelope(
        tuple((start * seconds / DAY_S, rate) for start, rate in day.steps),
        seconds,
        f"{day.name} in {seconds:g} s",
    )
    count = round(rate * seconds * 3)
    real = data / AZURE_FILE
    lengths = sampled(read(real), count, seed) if real.exists() else _azure_like(count, seed)
    return with_arrivals(lengths, Diurnal(pressed.scaled_to(rate), seed=seed))


Load = Callable[[float, float, int, Path | None], Trace]
LOADS: dict[str, Load] = {"azure": azure, "diurnal": diurnal}


@lru_cache(maxsize=2)
def online_load(
    name: str, rate: float, warm_up_s: float, measured_s: float, seed: int, data: Path | None
) -> Trace:
    """What arrives during warm-up and measured time. A day is as long as the measured time."""
    whole_s = warm_up_s + measured_s
    load = LOADS[name](rate, measured_s if name == "diurnal" else whole_s, seed, data)
    return load.window(whole_s)


def _azure_like(count: int, seed: int) -> Trace:
    prompts, answers = (law.draw(count, Random(f"{seed} {law.mean}")) for law in (PROMPT, ANSWER))
    requests = [TraceRequest(0, i, o) for i, o in zip(prompts, answers, strict=True)]
    bare = Trace("synthetic Azure-like", requests, has_arrivals=False)
    return replace(bare, note=f"SYNTHETIC, by the means of Azure's conversation trace, seed {seed}")
