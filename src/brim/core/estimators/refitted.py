"""Step time, learnt while serving: what steps really took refits the coefficients of a `StepTime`.

What was seen is kept by *range*: steps whose sizes are alike share moving means of their sizes and of their
time. A range forgets only when it is seen again, so an hour of decodes alone doesn't make it forget what
prompts cost. From time to time the coefficients are fitted to the ranges, by non-negative least squares on
relative errors. Where little was seen the step time that it started from decides, as a few weak rows of its
own, made longer or shorter by how much slower or faster this machine has been so far.

Beside the fit it watches whether the machine itself gets slower or faster: steps are compared with the past
of their own range, which no misfit of the formula disturbs, and a common change lengthens all ranges and all
coefficients at once, those of steps that have not been seen since as well.

A step that took twice the expected, or half, changes nothing: a hiccup. The third in a row is believed.

All that takes time to be sure of. Until then the latest few steps tell: predictions are as many times the
fit's as these were.
"""

from __future__ import annotations

from brim.core.estimators.guard import Guard
from brim.core.estimators.least_squares import NormalEquations
from brim.core.estimators.step_error import StepError
from brim.core.estimators.step_ranges import Hiccups, Lately, Range, is_outlier, range_of
from brim.core.estimators.step_time import StepShape, StepTime, attention_pairs

LEAST_GUARD = 0.08

_MOST_RANGES = 96
_REFIT_EVERY = 256  # observations; more often at first
_START_WEIGHT = 0.001  # of a row of the step time that it started from; one observed step weighs 1
_SEASONED_STEPS = 8  # of a range whose past tells of the machine
_DRIFT_SHARE = 1 / 16  # by which one step moves the estimate of the machine's change
_DRIFT = 0.03  # a change that is carried out
_UNINFORMED_STEPS = 16  # of a fit that started from nothing

UNKNOWN = StepTime(
    constant_ps=10_000_000_000,
    per_token_ps=20_000_000,
    knees=((64, 20_000_000), (256, 20_000_000), (1024, 20_000_000)),
    per_pair_ps=5_000,
    per_decode_ps=5_000_000,
    per_context_ps=200_000,
)
"""A slow GPU. Only its proportions matter once a step was seen; they make an unseen prompt look dear."""


class RefittedStepTime:
    """Predicts steps from their sizes, and learns from what they took.

    `step_time` is the present fit. `guard` is what `guarded_ns` adds for decisions, at least the given share:
    half of all steps take longer than the expected.
    """

    def __init__(self, start: StepTime | None = None, guard: float = LEAST_GUARD) -> None:
        self.step_time = start or UNKNOWN
        self.error = StepError()
        self.num_outliers = 0  # steps that were not believed
        self._knees = [tokens for tokens, _ in self.step_time.knees]
        self._start = self._coefficients = _coefficients(self.step_time)
        self._start_rows = self._rows_of(self.step_time)
        self._informed = start is not None
        self.guard = Guard(guard)
        self._ranges: dict[tuple[int, ...], Range] = {}  # the one seen longest ago is first
        self._observations = 0
        self._largest = 0  # step that was seen, in tokens
        self._refit_at = 1
        self._change = 1.0  # how many times as long steps take as in the past of their ranges
        self._lately = Lately()
        self._hiccups = Hiccups()  # of the machine, as far as ranges with a past can tell

    # ---- predicting ------------------------------------------------------------------------------------

    def nanoseconds(self, shape: StepShape) -> int:
        """What a step of these sizes is expected to take."""
        return int(self.step_time.picoseconds(shape) * self._lately.times) // 1000

    def prompt_ns(self, num_tokens: int, start: int = 0) -> int:
        """What so many tokens of a prompt take, from `start` on, in a step of their own."""
        return self.nanoseconds(StepShape(num_tokens, attention_pairs(num_tokens, start)))

    def seconds(self, shape: StepShape) -> float:
        """What the fit says, whatever the latest steps were like."""
        return self.step_time.seconds(shape)

    def guarded_ns(self, shape: StepShape) -> int:
        """The same with the guard on top: what a decision should count on."""
        times = self._lately.times * (1 + self.guard.share)
        return int(self.step_time.picoseconds(shape) * times) // 1000

    def unusual_ns(self, shape: StepShape) -> int:
        """What one in twenty steps of these sizes takes longer than."""
        return int(self.nanoseconds(shape) * (1 + self.guard.usual))

    @property
    def known_tokens(self) -> int | None:
        """The largest step that can be predicted, in tokens; None: any, since it started from a profile.

        Else twice the largest seen, so that a caller who may choose begins with small steps, which are cheap
        and tell what larger ones will take.
        """
        return None if self._informed else 2 * self._largest

    # ---- learning --------------------------------------------------------------------------------------

    def observe(self, shape: StepShape, took_ns: int) -> None:
        """A step took so long. One that was empty, or took no time, teaches nothing."""
        self._largest = max(self._largest, shape.new_tokens)
        if took_ns <= 0 or not shape.new_tokens:
            return
        self._observations += 1
        took_ps, fit = took_ns * 1000, self.step_time
        fit_ps = fit.picoseconds(shape)
        self._judge(took_ps / (fit_ps * self._lately.times))
        self._learn(shape, took_ps, fit_ps)
        if self.step_time is not fit:
            before_ps, fit_ps = fit_ps, self.step_time.picoseconds(shape)
            self._lately.refitted(fit_ps / before_ps)
        self._lately.observe(took_ps / fit_ps)

    def _judge(self, took_over_expected: float) -> None:
        """The first predictions from nothing say little about all others."""
        if self._informed or self._observations > 1:
            self.error.add(1 / took_over_expected)
        if self._informed or self._observations > _UNINFORMED_STEPS:
            self.guard.observe(took_over_expected)

    def _learn(self, shape: StepShape, took_ps: int, fit_ps: int) -> None:
        seen = self._range(shape)
        informed = self._informed or self._observations > 1
        if informed and not self._believes(seen, took_ps / (fit_ps * seen.bias)):
            self.num_outliers += 1
            return
        seen.learn(shape, took_ps, self._observations)
        if self._observations >= self._refit_at:
            self.refit()

    def _range(self, shape: StepShape) -> Range:
        key = range_of(shape)
        seen = self._ranges.pop(key, None) or Range()
        self._ranges[key] = seen
        if len(self._ranges) > _MOST_RANGES:
            del self._ranges[next(iter(self._ranges))]
        return seen

    def _believes(self, seen: Range, ratio: float) -> bool:
        """Whether a step may have taken `ratio` times the expected; takes in what that says."""
        seasoned = seen.steps >= _SEASONED_STEPS
        if (self._hiccups if seasoned else seen.hiccups).is_one(ratio):
            return False
        outlier = is_outlier(ratio)
        if seasoned:
            share = 1.0 if outlier else _DRIFT_SHARE
            self._drift(self._change + share * (ratio - self._change))
        if outlier:
            seen.restart()
            self._lately.times = 1.0
            self._refit_at = self._observations
        return True

    def _drift(self, change: float) -> None:
        """The machine has become slower, or faster below 1: carried out where it is more than noise."""
        self._change = change
        if abs(change - 1) > _DRIFT:
            for seen in self._ranges.values():
                seen.lengthen(change)
            self._take([value * change for value in self._coefficients])
            self._change = 1.0

    # ---- fitting ---------------------------------------------------------------------------------------

    def refit(self) -> None:
        """Fits the coefficients to all that was seen; `observe` calls it when it is due."""
        self._refit_at = self._observations + min(self._observations, _REFIT_EVERY)
        known = [seen for seen in self._ranges.values() if seen.steps]
        if not known:
            return
        weights = [seen.weight(self._observations) for seen in known]
        features = [self._features(*seen.sizes) for seen in known]
        slowness = [_ratio(seen, sizes, self._start) for seen, sizes in zip(known, features, strict=True)]
        slower = sum(map(float.__mul__, weights, slowness)) / sum(weights)
        equations = self._start_rows.lengthened(slower, _START_WEIGHT)
        for seen, sizes, weight in zip(known, features, weights, strict=True):
            equations.add([size / seen.took_ps for size in sizes], weight)
        self._take(equations.solve(self._coefficients))
        for seen, sizes in zip(known, features, strict=True):
            seen.bias = _ratio(seen, sizes, self._coefficients)

    def _take(self, coefficients: list[float]) -> None:
        self._coefficients = coefficients
        constant, token, *rest = (round(value) for value in coefficients)
        extras = tuple(zip(self._knees, rest, strict=False))
        self.step_time = StepTime(max(constant, 1), token, extras, *rest[len(extras) :])

    def _rows_of(self, step_time: StepTime) -> NormalEquations:
        equations = NormalEquations(len(self._coefficients))
        for shape in _EXAMPLES:
            took_ps = step_time.picoseconds(shape)
            equations.add([size / took_ps for size in self._features(*shape)], 1.0)
        return equations

    def _features(self, tokens: float, pairs: float, decodes: float, context: float) -> list[float]:
        """What the coefficients of `StepTime`, in its order, are multiplied with."""
        beyond = [max(tokens - knee, 0.0) for knee in self._knees]
        mixed = (decodes, context) if tokens > decodes else (0.0, 0.0)
        return [1.0, *map(float, (tokens, *beyond, pairs, decodes, context, *mixed))]


def _ratio(seen: Range, features: list[float], coefficients: list[float]) -> float:
    """How many times as long its steps took as the coefficients say."""
    return seen.took_ps / max(sum(map(float.__mul__, features, coefficients)), 1.0)


def _coefficients(step_time: StepTime) -> list[float]:
    return [
        float(step_time.constant_ps),
        float(step_time.per_token_ps),
        *(float(extra) for _, extra in step_time.knees),
        float(step_time.per_pair_ps),
        float(step_time.per_decode_ps),
        float(step_time.per_context_ps),
        float(step_time.mixed_decode_ps),
        float(step_time.mixed_context_ps),
    ]


def _examples() -> tuple[StepShape, ...]:
    """Sizes at which the step time that it started from is asked for its opinion."""
    decodes = [StepShape(n, 0, n, n * context) for n in (1, 8, 64, 256) for context in (256, 4096)]
    chunks = [(n, start) for n in (16, 64, 256, 512, 1024, 2048, 4096) for start in (0, 8192)]
    prompts = [StepShape(n, attention_pairs(n, start)) for n, start in chunks]
    mixed = [StepShape(n + d, attention_pairs(n), d, d * 1024) for n in (128, 1024) for d in (8, 64)]
    return (*decodes, *prompts, *mixed)


_EXAMPLES = _examples()
