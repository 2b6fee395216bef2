"""Brim beside an engine that owns its loop, whichever that is: its modes, and what is kept through them.

    active   the engine does what Brim orders
    shadow   the engine decides, and Brim tells what it would have done
    stock    Brim is not there

The mode changes between two steps, with nothing in flight. Whatever goes wrong in Brim, the engine goes on by
itself. What was learnt of step times and answer lengths stays.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from brim.core.config import SchedulerConfig
from brim.core.errors import ConfigError
from brim.core.estimators.response_length import History
from brim.core.estimators.step_time import StepTime
from brim.core.figures import figures
from brim.core.hosted import HostedScheduler, Orders
from brim.core.kvcache.hosted import Host
from brim.core.plan import StepPlan
from brim.core.policies.named import named
from brim.core.request import SLO, TaskClass
from brim.metrics.judging import targets_of
from brim.plugins.journal import JournaledScheduler, refuse_unwritable
from brim.plugins.recording import Recording
from brim.plugins.shadow import Shadow
from brim.profiles.loader import load as load_profile

logger = logging.getLogger(__name__)

MODES = ("active", "shadow", "stock")
POLICY, UNTOLD_POLICY = "brim", "echo"  # the second keeps arrival order for whoever says nothing of itself
PATIENCE_STEPS = 2  # without a token, before the engine decides alone for one


@dataclass(frozen=True, slots=True)
class Settings:
    """`policy` None: nothing of the engine's behaviour changes before a request brings a class or a target.

    `slo` holds for online requests that bring no target of their own. `strict`: what would let Brim step
    back to the engine's own behaviour is an error instead. `rules` are values of `SchedulerConfig`.
    """

    policy: str | None = None
    mode: str = "active"
    slo: SLO = field(default_factory=SLO)
    profile: str | None = None
    decision_log: str | None = None
    strict: bool = False
    rules: Mapping[str, Any] = field(default_factory=dict)

    @property
    def waits(self) -> bool:
        """Whether nothing is done before a request says something of itself."""
        return self.policy is None and self.slo == SLO() and self.mode == "active"


class Engine(Host, Protocol):
    """A host that Brim comes to and leaves while it serves."""

    @property
    def gpus(self) -> int:
        """That it runs on, for whoever reads its journal."""

    def limits(self) -> dict[str, Any]:
        """Its own, under the names of `SchedulerConfig`."""

    def engage(self, brim: HostedScheduler, slo: SLO, *, active: bool) -> None:
        """Tells of all requests there are; active: from now on nobody enters but by Brim's orders."""

    def disengage(self) -> None:
        """The engine's queue and its blocks are its own again."""


class Hosting:
    """The modes of one engine. Without `engine`, or with `reasons` against Brim, it stays in `stock`."""

    def __init__(
        self, engine: Engine | None = None, reasons: Iterable[str] = (), rules_off: Iterable[str] = ()
    ) -> None:
        self.scheduler: HostedScheduler | None = None
        self.mode = "stock"  # in force
        self.reasons = list(reasons)  # why Brim can't schedule here
        self.rules_off = list(rules_off)
        self._engine = engine
        self._wanted = "stock"
        self._armed = False  # for the first request that says something of itself
        self._stale = False  # whether Brim's books have to be made anew
        self._settings = Settings()
        self._step_time: StepTime | None = None
        self._lengths = History()
        self._shadow = Shadow()
        self._recording = Recording()
        self._failures = 0
        self._deviations = 0  # of the schedulers before this one
        self._in_flight: deque[tuple[object, bool, StepPlan | None]] = deque()
        self._idle_steps = 0  # on end, though somebody waits

    # ---- what the operator says ------------------------------------------------------------------------

    def configure(self, settings: Settings) -> None:
        """From the next step on. Raises ConfigError where the settings make no sense."""
        if self.reasons and settings.strict:
            raise ConfigError(f"{self._why_not()}. Without strict, the engine runs as it is.")
        # what makes no sense is said now, not when the first request comes
        self._step_time = None if settings.profile is None else load_profile(settings.profile).step_time
        if not self.reasons:
            self._config(settings)
        if settings.decision_log is not None:
            refuse_unwritable(_journal(settings.decision_log))
        self._settings = settings
        self._armed, self._stale = settings.waits, self.scheduler is not None
        self._wanted = "stock" if self._armed or self.reasons else settings.mode

    def switch(self, mode: str) -> str:
        """Changes to a mode while requests run: `stock` is the way back. Returns the mode.

        Raises ConfigError where there is no such mode, or where Brim can't schedule here.
        """
        if mode not in MODES:
            raise ConfigError(f"mode must be one of {', '.join(MODES)}, not {mode!r}")
        if mode != "stock" and self.reasons:
            raise ConfigError(self._why_not())
        self._wanted, self._armed = mode, False
        return mode

    def figures(self) -> dict[str, float]:
        """By name; see `core.figures`."""
        return {
            **({} if self.scheduler is None else figures(self.scheduler)),
            **(self._shadow.figures() if self.mode == "shadow" else {}),
            "active": float(self.mode == "active"),
            "deviations_total": float(self._deviations + self._newest_deviations()),
            "failures_total": float(self._failures),
        }

    def samples(self) -> dict[str, float]:
        """The same and what is counted by class, as samples of Prometheus; see `metrics.exported`."""
        targets = targets_of(self._settings.slo).items()
        queues = None if self.scheduler is None else self.scheduler.queues
        waiting = {} if queues is None else {name: queues.count_all(name) for name in TaskClass}
        return {
            **self.figures(),
            **{f'target_seconds{{slo="{name}"}}': ns / 1e9 for name, ns in targets},
            **{f"{name}_requests_waiting": float(number) for name, number in waiting.items()},
            **self._recording.samples(),
        }

    def check(self) -> None:
        """Verifies Brim's books against the engine's. Raises InvariantViolated. Linear: for tests."""
        if self.scheduler is not None and not self._stale:
            self.scheduler.check()

    def _newest_deviations(self) -> int:
        """Of this scheduler. In shadow mode it gives no orders that one could deviate from."""
        return 0 if self.scheduler is None or self.mode == "shadow" else self.scheduler.deviations

    def _why_not(self) -> str:
        return f"Brim can't schedule here: {'; '.join(self.reasons)}"

    # ---- what the engine tells -------------------------------------------------------------------------

    def wake(self) -> None:
        """A request brings a class or a target."""
        if self._armed:
            self._wanted = self._settings.mode

    def outdated(self) -> None:
        """The engine has changed what Brim's books rest on."""
        self._stale = self.scheduler is not None

    def step_back(self, reason: str) -> None:
        """For good: what was not tested once will come again."""
        self.reasons.append(reason)
        self._wanted = "stock"
        logger.warning("Brim leaves the engine's scheduling as it is: %s", reason)

    def guarded(self, call: Callable[..., StepPlan | None], *args: Any) -> StepPlan | None:
        """The call's answer, the scheduler as its first argument; None where there is none, or it fails."""
        if self.scheduler is None:
            return None
        try:
            return call(self.scheduler, *args)
        except Exception:
            self._fail()
            return None

    def order(self, now_ns: int, waiting: Iterable[str], *, paused: bool) -> Orders | None:
        """For the coming step; None where the engine decides. `waiting` are all that it could let in."""
        assert self.scheduler is not None
        if self.mode == "shadow":
            self._shadow.foresee(self.scheduler, now_ns)
            return None
        if paused:
            self.scheduler.stand_by(now_ns)
            return None
        orders = self.scheduler.order(now_ns)
        if self._idle_steps > PATIENCE_STEPS:  # for a reason that only the engine knows
            return Orders([*orders.admit, *waiting])
        return orders

    def ran(
        self, scheduled: Mapping[str, int], given_way: Collection[str], now_ns: int, *, idle: bool
    ) -> StepPlan:
        """What the engine scheduled, and whom it preempted of its own accord.

        `idle`: nothing was scheduled, though somebody is here and nobody holds requests back.
        """
        assert self.scheduler is not None
        plan = self.scheduler.ran(scheduled, given_way, now_ns)
        if not plan:  # no end of a step will bring what was told meanwhile
            self._recording.observe(self.scheduler.take_events())
        self._shadow.ran(self.scheduler, scheduled)
        self._idle_steps = self._idle_steps + 1 if idle and self.mode == "active" and not self.flying else 0
        return plan

    def ended(self, plan: StepPlan, guessed: Mapping[str, int], over: Collection[str], now_ns: int) -> None:
        """A step is over, and so are these requests; so many `guessed` tokens proved right in it."""
        assert self.scheduler is not None
        self.scheduler.accepted({name: number for name, number in guessed.items() if name not in over})
        self._recording.guessed(guessed)
        self._recording.observe(self.scheduler.ended(plan, over, now_ns))

    # ---- steps in flight -------------------------------------------------------------------------------

    def launched(self, step: object, plan: StepPlan | None, *, runs: bool) -> None:
        """The engine has begun a step, of which it may not report the end where it `runs` nothing."""
        self._in_flight.append((step, runs, plan or None))

    def landed(self, step: object) -> StepPlan | None:
        """The plan of a step that is over."""
        while self._in_flight:
            flown, _, plan = self._in_flight.popleft()
            if flown is step:
                return plan
        return None

    @property
    def flying(self) -> bool:
        """Whether a step is in flight that runs something."""
        return any(runs for _, runs, _ in self._in_flight)

    # ---- how the mode changes --------------------------------------------------------------------------

    @property
    def changes(self) -> bool:
        """Whether there is something to `change` as soon as nothing is in flight."""
        return self.mode != self._wanted or self._stale

    def change(self) -> None:
        """To the mode that is wanted."""
        self._disengage()
        self.mode, self._stale = self._wanted, False
        if self.mode == "stock":
            self._recording.look_away()
            return
        try:
            self._engage()
        except Exception:
            self._fail()

    def _fail(self) -> None:
        """Of the exception that is being handled."""
        if self._settings.strict:
            raise
        self._failures += 1
        logger.exception("Brim failed: the engine schedules by itself from now on")
        self._disengage()
        self.mode = self._wanted = "stock"  # at once: a switch back to this mode has to change something
        self._recording.look_away()

    def _engage(self) -> None:
        assert self._engine is not None
        self.scheduler = brim = self._new_scheduler(self._engine)
        self._engine.engage(brim, self._settings.slo, active=self.mode == "active")
        self._recording.begin(brim.states())
        logger.info("Brim is %s, by policy %s", self.mode, brim.config.policy)

    def _disengage(self) -> None:
        self._deviations += self._newest_deviations()
        scheduler, self.scheduler = self.scheduler, None
        if scheduler is None or self._engine is None:
            return
        timing = scheduler.policy.timing
        if timing is not None and timing.steps.error.steps:
            self._step_time = timing.steps.step_time  # measured here: the best there is to start from
        told = partial(self._recording.end, scheduler.take_events())
        leaving: tuple[Callable[[], None], ...] = (told, scheduler.close, self._engine.disengage)
        failed: Exception | None = None
        for leave in leaving:
            try:
                leave()
            except Exception as exc:
                failed = exc
                logger.exception("Brim did not leave in good order")
        logger.info("The engine schedules by itself")
        if failed is not None and self._settings.strict:
            raise failed

    def _config(self, settings: Settings) -> SchedulerConfig:
        assert self._engine is not None
        return SchedulerConfig(
            **self._engine.limits(),
            policy=settings.policy or (UNTOLD_POLICY if settings.slo == SLO() else POLICY),
            ttft_ms=None if settings.slo.ttft_ns is None else settings.slo.ttft_ns / 1e6,
            **settings.rules,
        )

    def _new_scheduler(self, engine: Engine) -> HostedScheduler:
        settings, config = self._settings, self._config(self._settings)
        if settings.decision_log is not None:
            path = _journal(settings.decision_log)
            return JournaledScheduler(config, engine, path, settings.profile, engine.gpus)
        return HostedScheduler(config, engine, named(config, self._lengths, self._step_time))


def _journal(decision_log: str) -> Path:
    return Path(f"{decision_log}.{os.getpid()}")  # an engine core is a process
