"""A policy: one rule for each decision."""

from __future__ import annotations

from dataclasses import dataclass, field

from brim.core.estimators.pace import Pace
from brim.core.estimators.response_length import AtMost
from brim.core.kvcache.eviction import Evicting
from brim.core.kvcache.headroom import Headroom
from brim.core.offline.planning import Planning
from brim.core.policies.admitting import Admitting
from brim.core.policies.chunking import Chunking
from brim.core.policies.expecting import Expecting, Predicted
from brim.core.policies.filling import Filling
from brim.core.policies.grouping import Alone, Grouping
from brim.core.policies.hurrying import Hurrying
from brim.core.policies.lending import Lending
from brim.core.policies.ordering import Ordering
from brim.core.policies.picking import InOrder, Picking
from brim.core.policies.preempting import Preempting
from brim.core.policies.promising import OnDemand, Promising
from brim.core.policies.timing import Timing


@dataclass(frozen=True, slots=True)
class Policy:
    """A scheduler as a composition of rules, one for each decision.

    Where `decoupled`, a request that has computed its prompt keeps its KV and waits in a second queue
    until it is granted the blocks of its output; otherwise it is granted them when it is admitted.
    """

    name: str
    ordering: Ordering
    preempting: Preempting
    admitting: Admitting
    chunking: Chunking
    filling: Filling
    picking: Picking = field(default_factory=InOrder)
    expecting: Expecting = field(default_factory=lambda: Predicted(AtMost(), 0.0, 1))
    promising: Promising = field(default_factory=OnDemand)
    grouping: Grouping = field(default_factory=Alone)
    lending: Lending | None = None
    decoupled: bool = False
    pace: Pace | None = None  # told every step's time, for the rules that hold it
    timing: Timing | None = None  # None: offline requests may take any time
    hurrying: Hurrying | None = None  # None: first tokens that are late already go in order, like others
    planning: Planning | None = None  # where offline requests wait in a pool
    evicting: Evicting = Evicting.LEAST_RECENTLY_USED
    headroom: Headroom | None = None  # what offline requests leave to online ones that are to come

    @property
    def loan_buffer_steps(self) -> int | None:
        """None where nothing is lent."""
        return None if self.lending is None else self.lending.buffer_steps
