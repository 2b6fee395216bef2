"""Profile: how long steps take, and how many tokens fit, for one model on one kind of GPU.

`load("h100-llama-3-8b")` reads a shipped one, `load("my/profile.json")` any other. docs/profiles.md holds the
table of the shipped ones and how they were made.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from brim.core.errors import ConfigError
from brim.core.estimators.step_time import StepTime
from brim.profiles.reading import read
from brim.profiles.unevenness import Unevenness

FORMAT = 1
FOLDER = Path(__file__).parent
DEFAULT_UTILIZATION = 0.9
UNITS = {
    "step_time": "picoseconds: constant_ps + per_token_ps * new tokens (decodes included)"
    " + extra * (new tokens beyond the knee) for each [knee, extra] of knees"
    " + per_pair_ps * attention pairs of prompt chunks"
    " + per_decode_ps * decodes + per_context_ps * tokens the decodes attend to;"
    " in a step that also holds a chunk, mixed_decode_ps and mixed_context_ps come on top of these two",
    "fit": "mape, p50, p95: absolute error over measured time, as fractions; rows: steps compared",
    "memory": "bytes over all GPUs of the replica",
    "target_forward_tokens": "tokens of the smallest step that reaches 95 % of the peak tokens/s, over steps"
    " as large as were measured, at most 8192 tokens",
    "unevenness": "shares[i] of all steps take at most times[i] times the usual, for their sizes and at their"
    " time; null: not known",
    "error": "how far step times are off, as a fraction, where more is known than the fit's errors tell: as"
    " seen on a server, or between the tables it was made from; null: not known",
}


@dataclass(frozen=True, slots=True)
class Errors:
    """Relative errors of `rows` steps, as fractions of the measured time."""

    rows: int
    mape: float
    p50: float
    p95: float


@dataclass(frozen=True, slots=True)
class Fit:
    """How well the step time meets the rows it was fitted to, and those of the sizes held back from the fit.

    `by_kind` holds the errors of the rows held back, by kind of step; `comparisons` what the result says of
    measurements that took no part in it.
    """

    fitted: Errors
    held_back: Errors
    by_kind: Mapping[str, Errors]
    largest_misfit: str
    comparisons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PublishedCapacity:
    """Tokens of KV cache as somebody measured them."""

    tokens: int
    source: str


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes over all GPUs of a replica; `activation_bytes` is an allowance for everything else vLLM keeps."""

    memory_bytes: int
    weight_bytes: int
    activation_bytes: int
    kv_bytes_per_token: int
    published: PublishedCapacity | None = None

    def kv_tokens(self, utilization: float | None = None) -> int:
        """How many tokens the KV cache holds.

        Without a `utilization`, the published figure where there is one, else at 0.9. With one: what is left
        of that share of the memory after the weights and the activation allowance. Raises ConfigError when
        nothing is left.
        """
        if utilization is None and self.published:
            return self.published.tokens
        share = DEFAULT_UTILIZATION if utilization is None else utilization
        left = int(self.memory_bytes * share) - self.weight_bytes - self.activation_bytes
        if left < self.kv_bytes_per_token:
            raise ConfigError(
                f"{share:.0%} of {self.memory_bytes / 1e9:.1f} GB leaves no KV cache after "
                f"{self.weight_bytes / 1e9:.1f} GB of weights; use a larger GPU or more tensor parallelism"
            )
        return left // self.kv_bytes_per_token


@dataclass(frozen=True, slots=True)
class Profile:
    """`kind` tells a fit to measurements from an analytic roofline; say so wherever its figures are shown.

    The `source` of a fit to whole steps of an engine begins with "measured". Without `unevenness` steps are
    taken as even. `error` is a share of the step times, where it is known beside the fit's own.
    """

    name: str
    gpu: str
    model: str
    tensor_parallel: int
    kind: Literal["fitted", "roofline"]
    source: str
    date: str
    notes: tuple[str, ...]
    step_time: StepTime
    fit: Fit | None
    memory: Memory
    target_forward_tokens: int
    unevenness: Unevenness | None = None
    error: float | None = None

    @property
    def kv_bytes_per_token(self) -> int:
        return self.memory.kv_bytes_per_token

    @property
    def weight_bytes(self) -> int:
        return self.memory.weight_bytes

    @property
    def memory_bytes(self) -> int:
        return self.memory.memory_bytes

    def kv_tokens(self, utilization: float | None = None) -> int:
        """How many tokens the KV cache holds; see `Memory.kv_tokens`."""
        try:
            return self.memory.kv_tokens(utilization)
        except ConfigError as exc:
            raise ConfigError(f"{self.name}: {exc}") from exc


def names() -> list[str]:
    """The shipped profiles."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def load(name_or_path: str | Path) -> Profile:
    """A shipped profile by its name, or one from a file (a path that ends in `.json`).

    Raises ConfigError for an unknown name, with the nearest one, and for a file that is not right, with the
    field.
    """
    path = Path(name_or_path)
    if path.suffix == ".json":
        return _parsed(path)
    if str(name_or_path) not in names():
        close = get_close_matches(str(name_or_path), names(), 1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise ConfigError(
            f"there is no profile {name_or_path}: {hint}The shipped ones are {', '.join(names())}; "
            "for another, give the path of its .json file"
        )
    return _parsed(FOLDER / f"{name_or_path}.json")


def as_json(profile: Profile) -> str:
    """The text of a profile's file."""
    body = {"format": FORMAT, **asdict(profile), "units": UNITS}
    return json.dumps(body, indent=2, ensure_ascii=False) + "\n"


def _parsed(path: Path) -> Profile:
    try:
        body: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        raise ConfigError(f"can't read the profile {path}: {exc}") from exc
    if not isinstance(body, dict):
        raise ConfigError(f"{path} is no profile: it must hold one JSON object")
    version = body.pop("format", None)
    if version != FORMAT:
        newer = isinstance(version, int) and version > FORMAT
        advice = "update Brim" if newer else "make it anew with `brim profile fit` or `brim profile roofline`"
        raise ConfigError(f"{path}: field format is {version!r}, and this Brim reads {FORMAT}; {advice}")
    body.pop("units", None)
    profile: Profile = read(Profile, body, str(path))
    return profile
