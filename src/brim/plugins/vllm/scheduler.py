"""`vllm serve MODEL --scheduler-cls brim.plugins.vllm.BrimScheduler`: vLLM schedules what Brim decides.

Before each step Brim decides who enters, who gives way and how many tokens everybody runs. vLLM's own
`schedule` carries that out, unmodified, and Brim notes what it really did. Where anything goes wrong in
Brim, vLLM goes on as if Brim were not there.
"""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vllm.v1.core.sched.async_scheduler import AsyncScheduler

from brim.core.config import SchedulerConfig
from brim.core.errors import ConfigError
from brim.core.estimators.response_length import History
from brim.core.figures import figures
from brim.core.hosted import HostedScheduler, Orders
from brim.core.plan import StepPlan
from brim.core.policies.named import named
from brim.plugins.journal import JournaledScheduler
from brim.plugins.vllm import compat, views
from brim.plugins.vllm.gate import GatedQueue
from brim.plugins.vllm.groups import Groups
from brim.plugins.vllm.host import VllmHost
from brim.plugins.vllm.settings import MODES, UNTOLD_POLICY, Settings
from brim.plugins.vllm.shadow import Shadow
from brim.profiles.loader import load as load_profile

logger = logging.getLogger(__name__)

PATIENCE_STEPS = 2  # without a token, before vLLM decides alone for one


class BrimScheduler(AsyncScheduler):
    """vLLM's scheduler with Brim's decisions, with asynchronous scheduling and without."""

    waiting: Any  # vLLM's
    max_num_scheduled_tokens: int  # vLLM's
    _brim: HostedScheduler | None = None
    _at = _mode = "stock"  # the mode that is in force, and the one that is wanted
    _armed = False  # for the first request that says something of itself
    _stale = False  # whether Brim's books have to be made anew
    _in_flight: deque[tuple[Any, StepPlan | None]] = deque()  # each has its own: see below

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._lengths = History()
        self._orders = Orders()  # for the coming step
        self._balked = self._idle_steps = 0  # see `_take_in`
        self._in_flight = deque()
        self._blocked: dict[str, Any] = {}  # requests that vLLM could not let in yet
        self._given_way: set[str] = set()  # preempted by vLLM of its own accord
        self._failures = 0
        self._shadow = Shadow()
        self._reasons = compat.reasons_against(self)
        self._rules_off: list[str] = []
        if not self._reasons:
            self._brim_host = VllmHost(self, Groups(self))
            self._rules_off = compat.rules_off(self, self._brim_host.groups)
        self._set(Settings.read(self.vllm_config.additional_config))
        if self._reasons:
            logger.warning("Brim leaves vLLM's scheduling as it is: %s", "; ".join(self._reasons))
        for rule in self._rules_off:
            logger.warning("One of Brim's rules does not apply: %s", rule)

    def _set(self, settings: Settings) -> None:
        if self._reasons and settings.strict:
            raise ConfigError(f"{self._why_not()}. Without strict, vLLM runs as it is.")
        # what makes no sense is said now, not when the first request comes
        self._step_time = None if settings.profile is None else load_profile(settings.profile).step_time
        if not self._reasons:
            self._config_of(settings)
        self._settings = settings
        self._armed, self._stale = settings.waits, self._brim is not None
        self._mode = "stock" if self._armed or self._reasons else settings.mode

    def _why_not(self) -> str:
        return f"Brim can't schedule here: {'; '.join(self._reasons)}"

    # ---- what vLLM calls -------------------------------------------------------------------------------

    def add_request(self, request: compat.Request) -> None:
        known = request.request_id in self.requests
        super().add_request(request)
        if known or self._reasons:
            return
        reason = compat.reasons_against_request(request)
        if reason is not None:
            self._step_back(reason)
        elif self._brim is not None:
            self._guarded(self._tell, request)
        elif self._armed and views.says_something(request):
            self._mode = self._settings.mode

    def finish_requests(self, request_ids: Any, *args: Any, **kwargs: Any) -> Any:
        if request_ids is None:
            ids: list[str] = list(self.requests)
        else:
            ids = [request_ids] if isinstance(request_ids, str) else list(request_ids)
        done = super().finish_requests(ids, *args, **kwargs)
        for request_id in ids:
            self._blocked.pop(request_id, None)
            self._guarded(self._aborted, request_id)
        return done

    def schedule(self, *args: Any, **kwargs: Any) -> Any:
        if self._at != self._mode or self._stale:
            if self._flying:
                return self._empty_step(*args, **kwargs)
            self._change()
        now_ns = time.monotonic_ns()
        self._guarded(self._decide, now_ns)
        try:
            output = super().schedule(*args, **kwargs)
        finally:
            self._orders = Orders()
        plan = self._guarded(self._take_in, output, now_ns)
        self._in_flight.append((output, plan or None))
        return output

    def update_from_output(self, scheduler_output: Any, *args: Any, **kwargs: Any) -> Any:
        known = {i: self._known_tokens(i) for i in scheduler_output.scheduled_spec_decode_tokens}
        outputs = super().update_from_output(scheduler_output, *args, **kwargs)
        plan = self._landed(scheduler_output)
        if plan is not None:
            self._guarded(self._step_ended, plan, known)
        return outputs

    def reset_prefix_cache(self, *args: Any, **kwargs: Any) -> bool:
        self._stale = self._brim is not None
        return super().reset_prefix_cache(*args, **kwargs)

    def _preempt_request(self, request: compat.Request, *args: Any, **kwargs: Any) -> None:
        super()._preempt_request(request, *args, **kwargs)
        if self._brim is not None and not self._brim_host.obeying:
            self._given_way.add(request.request_id)

    def _reserve_prefill_lookahead(
        self, request: compat.Request, num_computed_tokens: int, num_new_tokens: int
    ) -> int:
        """vLLM asks it last of all how many tokens a request may run: the place to say fewer."""
        tokens = super()._reserve_prefill_lookahead(request, num_computed_tokens, num_new_tokens)
        most = self._orders.tokens.get(request.request_id)
        if most is None or tokens <= most or 0 < request.num_tokens - num_computed_tokens <= most:
            return tokens  # what exceeds the known tokens are guesses: they run with the last of these
        return self._whole_items(request, num_computed_tokens, most)

    def _whole_items(self, request: compat.Request, start: int, tokens: int) -> int:
        """Where vLLM shall not cut an image or a sound in two, fewer tokens than cut one."""
        if self.scheduler_config.disable_chunked_mm_input:
            for item in request.mm_features:
                offset = item.mm_position.offset
                if start < offset < start + tokens < offset + item.mm_position.length:
                    return offset - start
        return tokens

    # ---- what the operator calls -----------------------------------------------------------------------

    def brim_switch(self, mode: str) -> str:
        """Changes to a mode while requests run: `stock` is the way back. Returns the mode.

        Raises ConfigError where there is no such mode, or where Brim can't schedule here.
        """
        if mode not in MODES:
            raise ConfigError(f"mode must be one of {', '.join(MODES)}, not {mode!r}")
        if mode != "stock" and self._reasons:
            raise ConfigError(self._why_not())
        self._mode, self._armed = mode, False
        return mode

    def brim_configure(self, told: Mapping[str, Any]) -> None:
        """Other settings from the next step on; `told` is what `additional_config` would have as `brim`.

        Raises ConfigError where they make no sense.
        """
        self._set(Settings.read({"brim": told}))

    @property
    def brim_mode(self) -> str:
        """The mode that is in force; without a policy `stock` until a request brings a class or a target."""
        return self._at

    @property
    def brim_left_to_vllm(self) -> list[str]:
        """Why Brim can't schedule here, and which of its rules don't apply."""
        return [*self._reasons, *self._rules_off]

    def brim_figures(self) -> dict[str, float]:
        """By name; see `core.figures`."""
        own = {} if self._brim is None else figures(self._brim)
        deviations = 0 if self._brim is None else self._brim.deviations
        return {
            **own,
            **(self._shadow.figures() if self._at == "shadow" else {}),
            "active": float(self._at == "active"),
            "deviations": float(deviations),
            "failures": float(self._failures),
        }

    def brim_check(self) -> None:
        """Verifies Brim's books against vLLM's. Raises InvariantViolated. Linear: for tests."""
        if self._brim is not None and not self._stale:
            self._brim.check()

    # ---- how -------------------------------------------------------------------------------------------

    def _guarded(self, call: Callable[..., StepPlan | None], *args: Any) -> StepPlan | None:
        """Whatever goes wrong in Brim, vLLM goes on: from then on by itself."""
        if self._brim is None:
            return None
        try:
            return call(self._brim, *args)
        except Exception:
            self._fail()
            return None

    def _fail(self) -> None:
        """Of the exception that is being handled."""
        if self._settings.strict:
            raise
        self._failures += 1
        self._mode = "stock"
        logger.exception("Brim failed: vLLM schedules by itself from now on")
        self._disengage()

    def _decide(self, brim: HostedScheduler, now_ns: int) -> None:
        for request in list(self._blocked.values()):
            if self._handle_blocked_waiting_request(request):
                del self._blocked[request.request_id]
                self._tell(brim, request)
        if self._at == "shadow":
            self._shadow.foresee(brim, now_ns)
        if self._at == "shadow" or compat.paused(self):
            return
        orders = brim.order(now_ns)
        if self._idle_steps > PATIENCE_STEPS:
            orders = Orders([*orders.admit, *(request.request_id for request in self.waiting)])
        elif self._balked:
            orders = Orders(orders.admit)
        self._orders = orders
        self.waiting.let_in(self._with_room_for_adapters(orders.admit))

    def _with_room_for_adapters(self, request_ids: Sequence[str]) -> list[str]:
        """vLLM counts the adapters of those that run in a step: who sits it out needs a place as well."""
        if self.lora_config is None:
            return list(dict.fromkeys(request_ids))
        loaded, found = {compat.adapter(request) for request in self.running}, dict[str, None]()
        for request_id in request_ids:
            adapter = compat.adapter(self.requests[request_id])
            if len({*loaded, adapter} - {0}) <= self.lora_config.max_loras:
                loaded.add(adapter)
                found[request_id] = None
        return list(found)

    def _take_in(self, brim: HostedScheduler, output: Any, now_ns: int) -> StepPlan:
        given_way, self._given_way = self._given_way, set()
        self._brim_host.drafts = drafts = output.scheduled_spec_decode_tokens
        scheduled = output.num_scheduled_tokens
        if drafts:
            scheduled = {i: n - len(drafts.get(i, ())) for i, n in scheduled.items()}
        plan = brim.ran(scheduled, given_way, now_ns)
        self._brim_host.drafts = {}
        self._shadow.ran(brim, scheduled)
        self._notice(scheduled)
        return plan

    def _notice(self, scheduled: Mapping[str, int]) -> None:
        """Who can't run as ordered, for a reason that only vLLM knows, may wait for those that Brim holds up.

        Then the next step has no limits; and where nobody at all could run for a while, no gate either.
        """
        left_out = [i for i, tokens in self._orders.tokens.items() if tokens and i not in scheduled]
        self._balked = any(self.requests[i].status == compat.RequestStatus.RUNNING for i in left_out)
        idle = self._at == "active" and not scheduled and self.requests and not self._flying
        self._idle_steps = self._idle_steps + 1 if idle and not compat.paused(self) else 0

    def _step_ended(self, brim: HostedScheduler, plan: StepPlan, known: Mapping[str, int]) -> None:
        more = {i: self._known_tokens(i) - tokens - 1 for i, tokens in known.items()}
        brim.accepted({i: tokens for i, tokens in more.items() if tokens > 0})
        brim.ended(plan, self.finished_req_ids, time.monotonic_ns())

    def _known_tokens(self, request_id: str) -> int:
        request = self.requests.get(request_id)
        return 0 if request is None else request.num_tokens

    @property
    def _flying(self) -> bool:
        return any(output.total_num_scheduled_tokens for output, _ in self._in_flight)

    def _aborted(self, brim: HostedScheduler, request_id: str) -> None:
        brim.abort(request_id, time.monotonic_ns())

    def _landed(self, output: Any) -> StepPlan | None:
        """The plan of a step that is over; steps that ran nothing need not be reported."""
        while self._in_flight:
            flown, plan = self._in_flight.popleft()
            if flown is output:
                return plan
        return None

    def _empty_step(self, *args: Any, **kwargs: Any) -> Any:
        """Runs nothing, so that what is in flight lands."""
        most, self.max_num_scheduled_tokens = self.max_num_scheduled_tokens, 0
        try:
            output = super().schedule(*args, **kwargs)
        finally:
            self.max_num_scheduled_tokens = most
        self._in_flight.append((output, None))
        return output

    def _change(self) -> None:
        """To the mode that is wanted; with nothing in flight."""
        self._disengage()
        self._at, self._stale = self._mode, False
        if self._mode == "stock":
            return
        try:
            self._engage()
        except Exception:
            self._fail()

    def _engage(self) -> None:
        host, settings, queued = self._brim_host, self._settings, list(self.waiting)
        self._brim = brim = self._new_brim()
        if self._at == "active":
            host.engage(brim.kv.eviction, brim.observer)
            self.waiting = GatedQueue(queued)
        now_ns = time.monotonic_ns()
        for request in self.running:
            brim.adopt(views.facts(request, self.max_model_len, settings.slo), now_ns)
        for request in queued:
            self._tell(brim, request)
        logger.info("Brim is %s, by policy %s", self._at, brim.config.policy)

    def _config_of(self, settings: Settings) -> SchedulerConfig:
        return SchedulerConfig(
            num_blocks=self._brim_host.groups.most_blocks,
            block_size=self._brim_host.groups.block_size,
            max_model_len=self.max_model_len,
            max_num_seqs=min(self.max_num_active_reqs, self.max_num_scheduled_tokens),
            max_num_batched_tokens=self.max_num_scheduled_tokens,
            max_prefill_chunk_tokens=self.scheduler_config.long_prefill_token_threshold,
            enable_prefix_caching=self.cache_config.enable_prefix_caching,
            policy=settings.policy or UNTOLD_POLICY,
            ttft_ms=None if settings.slo.ttft_ns is None else settings.slo.ttft_ns / 1e6,
            **settings.rules,
        )

    def _new_brim(self) -> HostedScheduler:
        settings, config = self._settings, self._config_of(self._settings)
        if settings.decision_log is not None:
            path = Path(f"{settings.decision_log}.{os.getpid()}")  # an engine core is a process
            return JournaledScheduler(config, self._brim_host, path, settings.profile)
        return HostedScheduler(config, self._brim_host, named(config, self._lengths, self._step_time))

    def _disengage(self) -> None:
        if self._brim is None:
            return
        self._brim.close()
        timing = self._brim.policy.timing
        if timing is not None and timing.steps.error.steps:
            self._step_time = timing.steps.step_time  # measured here: the best there is to start from
        self._brim, self._blocked, self._given_way = None, {}, set()
        self._brim_host.disengage()
        if isinstance(self.waiting, GatedQueue):
            queued, self.waiting = list(self.waiting), compat.create_request_queue(self.policy)
            for request in sorted(queued, key=lambda request: request.arrival_time):
                self.waiting.add_request(request)
        logger.info("vLLM schedules by itself")

    def _tell(self, brim: HostedScheduler, request: compat.Request) -> None:
        if self._is_blocked_waiting_status(request.status):
            self._blocked[request.request_id] = request
        else:
            brim.add(views.facts(request, self.max_model_len, self._settings.slo), time.monotonic_ns())

    def _step_back(self, reason: str) -> None:
        """For good: what was not tested once will come again."""
        self._reasons.append(reason)
        self._mode = "stock"
        logger.warning("Brim leaves vLLM's scheduling as it is: %s", reason)
