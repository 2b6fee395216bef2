"""A step from its decision to its `commit`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from brim.core.estimators.step_time import StepShape
from brim.core.plan import StepPlan
from brim.core.request import RequestState


class Intent(NamedTuple):
    """What a decision makes of the coming step: who entered, and who runs how many tokens.

    All others who decode run one, unless `hold_decodes`. `quiet`: nothing had to be decided.
    """

    admitted: Sequence[RequestState] = ()
    to_run: Sequence[tuple[RequestState, int]] = ()
    hold_decodes: bool = False
    quiet: bool = False


class Flight:
    __slots__ = ("dropped", "plan", "quiet", "shape", "start_ns", "tables")

    def __init__(self, plan: StepPlan, start_ns: int, shape: StepShape | None, *, quiet: bool) -> None:
        self.plan = plan
        self.start_ns = start_ns
        self.shape = shape  # where somebody asks how long steps take
        self.quiet = quiet  # nothing was decided: its time teaches nothing, as that of a skipped step
        self.dropped: set[RequestState] = set()  # their tokens of this step are not wanted any more
        self.tables: list[list[int]] = []  # to give back when the step is over
