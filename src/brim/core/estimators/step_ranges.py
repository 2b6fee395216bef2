"""Steps of alike sizes, and what they took."""

from __future__ import annotations

from brim.core.estimators.step_time import StepShape

_MEMORY_STEPS = 64
_FADE_OBSERVATIONS = 4096  # a range that was not seen for so many counts half
_OUTLIER = 2.0  # times the expected, or less than one such part
_STRIKES = 3
_LATELY_SHARE = 1 / 4
_MOST = 1e24  # picoseconds, or times as much as expected: never met


def range_of(shape: StepShape) -> tuple[int, ...]:
    """The range that a step belongs to: half octaves of new tokens, two octaves of each other size.

    So that no knee lies inside a range, where the mean of many steps would not lie on the line of each.
    """
    tokens, pairs, decodes, context = shape
    octave = tokens.bit_length()
    half = octave << 1 | (tokens >> max(octave - 2, 0) & 1)
    others = (pairs.bit_length() + 1 >> 1, decodes.bit_length() + 1 >> 1, context.bit_length() + 1 >> 1)
    return half, tokens == decodes, *others


def is_outlier(ratio: float) -> bool:
    """Whether a step that took `ratio` times the expected is not just a bad prediction."""
    return not 1 / _OUTLIER <= ratio <= _OUTLIER


def _bounded(value: float) -> float:
    """Changes of changes would end at 0 or infinity, which nothing can be divided by."""
    return min(max(value, 1 / _MOST), _MOST)


class Hiccups:
    """Tells a hiccup from a change: of outliers in a row, on the same side, the third is believed."""

    __slots__ = ("_in_a_row",)

    def __init__(self) -> None:
        self._in_a_row = 0  # below 0: too short

    def is_one(self, ratio: float) -> bool:
        if not is_outlier(ratio):
            self._in_a_row = 0
            return False
        side = 1 if ratio > 1 else -1
        self._in_a_row = self._in_a_row + side if self._in_a_row * side > 0 else side
        if abs(self._in_a_row) < _STRIKES:
            return True
        self._in_a_row = 0
        return False


class Lately:
    """How many times what the fit says the latest steps took: neighbours come and go within seconds."""

    __slots__ = ("times",)

    def __init__(self) -> None:
        self.times = 1.0

    def refitted(self, new_over_old: float) -> None:
        """What the latest steps were off by is in the fit now."""
        self.times = min(max(self.times / new_over_old, min(self.times, 1.0)), max(self.times, 1.0))

    def observe(self, took_over_fit: float) -> None:
        """Of a hiccup only a part is taken in."""
        change = min(max(took_over_fit / self.times, 1 / _OUTLIER), _OUTLIER)
        self.times *= change**_LATELY_SHARE


class Range:
    """Moving means of the sizes and of the time (ps) of its steps."""

    __slots__ = ("bias", "hiccups", "last_seen", "sizes", "steps", "took_ps")

    def __init__(self) -> None:
        self.sizes = (0.0, 0.0, 0.0, 0.0)
        self.took_ps = 0.0
        self.steps = 0  # that it remembers
        self.bias = 1.0  # how many times as long its steps take as the last fit says
        self.last_seen = 0
        self.hiccups = Hiccups()

    def learn(self, shape: StepShape, took_ps: int, now: int) -> None:
        """A step of these sizes took so long; `now` counts observations."""
        self.steps = min(self.steps + 1, _MEMORY_STEPS)
        share = 1 / self.steps
        tokens, pairs, decodes, context = self.sizes
        self.sizes = (
            tokens + share * (shape.new_tokens - tokens),
            pairs + share * (shape.attention_pairs - pairs),
            decodes + share * (shape.num_decodes - decodes),
            context + share * (shape.decode_context - context),
        )
        # a small one after a very large one: the difference is rounded to all there was
        self.took_ps = _bounded(self.took_ps + share * (took_ps - self.took_ps))
        self.last_seen = now

    def lengthen(self, factor: float) -> None:
        """The machine, and the fit with it, has become slower; unless this range has shown that already."""
        if is_outlier(factor) and is_outlier(self.bias) and (self.bias > 1) == (factor > 1):
            self.bias = _bounded(self.bias / factor)
        else:
            self.took_ps = _bounded(self.took_ps * factor)

    def restart(self) -> None:
        """Forgets what it saw: the next step starts it anew."""
        self.steps = 0
        self.bias = 1.0

    def weight(self, now: int) -> float:
        return self.steps / (1 + (now - self.last_seen) / _FADE_OBSERVATIONS)
