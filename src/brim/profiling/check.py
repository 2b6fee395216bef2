"""Whether a profile made anew is the shipped one, and how far two lie apart."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from statistics import mean
from typing import Any

from brim.core.estimators.step_time import StepShape, attention_pairs
from brim.profiles.loader import Profile, as_json, load, names

TOLERANCE = 1e-3  # of a figure: numerical libraries differ in their last digits


def differences(profile: Profile) -> list[str]:
    """The fields that differ from the shipped profile of that name; the date may."""
    if profile.name not in names():
        return ["the name, which is not shipped"]
    shipped, made = (json.loads(as_json(each)) for each in (load(profile.name), profile))
    return [field for field in _differing(shipped, made, "") if field != "date"]


def deviation(profile: Profile, reference: Profile) -> dict[str, float]:
    """Mean absolute deviation from the reference, as a fraction, by kind of step, at everyday sizes."""
    decodes = [StepShape(n, 0, n, n * context) for n in (1, 8, 32, 64, 128) for context in (256, 1024)]
    prompts = [StepShape(n, attention_pairs(n)) for n in (64, 128, 256, 512, 1024, 2048, 4096)]
    mixed = [d._replace(new_tokens=d.new_tokens + 512, attention_pairs=attention_pairs(512)) for d in decodes]
    kinds = {"decode": decodes, "prefill": prompts, "mixed": mixed}
    return {
        kind: mean(_apart(profile, reference, shape) for shape in shapes) for kind, shapes in kinds.items()
    }


def _apart(profile: Profile, reference: Profile, shape: StepShape) -> float:
    return abs(profile.step_time.seconds(shape) / reference.step_time.seconds(shape) - 1)


def _differing(old: Any, new: Any, field: str) -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict) and old.keys() == new.keys():
        for key in old:
            yield from _differing(old[key], new[key], f"{field}.{key}" if field else key)
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for index, (one, other) in enumerate(zip(old, new, strict=True)):
            yield from _differing(one, other, f"{field}[{index}]")
    elif not _close(old, new):
        yield field


def _close(old: Any, new: Any) -> bool:
    if isinstance(old, int | float) and isinstance(new, int | float):
        return math.isclose(old, new, rel_tol=TOLERANCE)
    return bool(old == new)
