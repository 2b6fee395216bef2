"""`vllm serve MODEL --scheduler-cls brim.plugins.vllm.scheduler.BrimScheduler`: vLLM schedules what Brim decides.

Before each step Brim decides who enters, who gives way and how many tokens everybody runs. vLLM's own
`schedule` carries that out, unmodified, and Brim notes what it really did. Where anything goes wrong in
Brim, vLLM goes on as if Brim were not there.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

from brim.core.config import SchedulerConfig
from brim.core.errors import ConfigError
from brim.core.estimators.response_length import History
from brim.core.figures import figures
from brim.core.hosted import HostedScheduler
from brim.core.plan import StepPlan
from brim.core.policies.named import named
from brim.plugins.vllm import compat, views
from brim.plugins.vllm.settings import MODES, UNTOLD_POLICY, Settings
from brim.profiles.loader import load as load_profile

logger = logging.getLogger("vllm.brim")  # a child of vLLM's logger, so that it has its handlers


class BrimScheduler(compat.AsyncScheduler):
    """vLLM's scheduler with Brim's decisions. Works with asynchronous scheduling and without."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._settings = Settings.read(self.vllm_config.additional_config)
        self._mode = "stock" if self._settings.waits else self._settings.mode  # what is wanted
        self._brim: HostedScheduler | None = None
        self._brim_host = views.VllmHost(self)
        self._lengths = History()
        self._most_tokens: Mapping[str, int] = {}  # of those that don't just run one, in the coming step
        self._in_flight: deque[tuple[Any, StepPlan | None]] = deque()
        self._blocked: dict[str, Any] = {}  # requests that vLLM could not let in yet
        self._given_way: set[str] = set()  # preempted by vLLM of its own accord
        self._stale = False  # Brim's books have to be made anew
        self._brim_figures = {"brim_resyncs": 0.0, "brim_failures": 0.0}
        self._reasons = compat.reasons_against(self)
        self._check_version()

    def _check_version(self) -> None:
        untested = compat.untested_version()
        if untested is not None:
            self._reasons.insert(0, untested)
        if self._reasons and self._settings.strict:
            raise ConfigError(f"Brim can't schedule here: {'; '.join(self._reasons)}. Drop strict to run stock.")
        if self._reasons:
            self._mode = "stock"
            logger.warning("Brim leaves vLLM's scheduling as it is: %s", "; ".join(self._reasons))

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
            self._tell(request)
        elif self._settings.waits and views.says_something(request):
            self._mode = self._settings.mode

    def finish_requests(self, request_ids: Any, *args: Any, **kwargs: Any) -> Any:
        if request_ids is None:
            ids: list[str] = list(self.requests)
        else:
            ids = [request_ids] if isinstance(request_ids, str) else list(request_ids)
        done = super().finish_requests(ids, *args, **kwargs)
        for request_id in ids:
            self._blocked.pop(request_id, None)
            if self._brim is not None:
                self._brim.abort(request_id, time.monotonic_ns())
        return done

    def schedule(self, *args: Any, **kwargs: Any) -> Any:
        if self._wants_change():
            if any(output.total_num_scheduled_tokens for output, _ in self._in_flight):
                return self._empty_step(*args, **kwargs)
            self._change()
        if self._brim is None:
            return self._took_off(super().schedule(*args, **kwargs), None)
        try:
            now_ns = time.monotonic_ns()
            self._give_orders(self._brim, now_ns)
            output = super().schedule(*args, **kwargs)
            plan = self._brim.ran(output.num_scheduled_tokens, self._given_way, now_ns)
            return self._took_off(output, plan or None)
        finally:
            self._most_tokens = {}
            self._given_way = set()

    def update_from_output(self, scheduler_output: Any, *args: Any, **kwargs: Any) -> Any:
        outputs = super().update_from_output(scheduler_output, *args, **kwargs)
        plan = self._landed(scheduler_output)
        if plan is not None and self._brim is not None:
            self._brim.ended(plan, self.finished_req_ids, time.monotonic_ns())
        return outputs

    def reset_prefix_cache(self, *args: Any, **kwargs: Any) -> bool:
        self._stale = True
        return super().reset_prefix_cache(*args, **kwargs)

    def _preempt_request(self, request: compat.Request, *args: Any, **kwargs: Any) -> None:
        super()._preempt_request(request, *args, **kwargs)
        if not self._brim_host.obeying:
            self._given_way.add(request.request_id)

    def _reserve_prefill_lookahead(
        self, request: compat.Request, num_computed_tokens: int, num_new_tokens: int
    ) -> int:
        """vLLM asks it last of all how many tokens a request may run: the place to say fewer."""
        tokens = super()._reserve_prefill_lookahead(request, num_computed_tokens, num_new_tokens)
        return min(tokens, self._most_tokens.get(request.request_id, tokens))

    # ---- what the operator calls -----------------------------------------------------------------------

    def brim_switch(self, mode: str) -> str:
        """Changes to a mode while requests run: `stock` is the way back. Returns the mode.

        Raises ConfigError where there is no such mode, or where Brim can't schedule here.
        """
        if mode not in MODES:
            raise ConfigError(f"mode must be one of {', '.join(MODES)}, not {mode!r}")
        if mode != "stock" and self._reasons:
            raise ConfigError(f"Brim can't schedule here: {'; '.join(self._reasons)}")
        self._mode = mode
        return mode

    def brim_figures(self) -> dict[str, float]:
        """By name; see `core.figures`."""
        own = {} if self._brim is None else figures(self._brim)
        deviations = 0 if self._brim is None else self._brim.deviations
        return {
            **self._brim_figures,
            **own,
            "brim_active": float(self._brim is not None),
            "brim_deviations": float(deviations),
        }

    def brim_check(self) -> None:
        """Verifies Brim's books against vLLM's. Raises InvariantViolated. Linear: for tests."""
        if self._brim is not None:
            self._brim.check()

    # ---- how -------------------------------------------------------------------------------------------

    def _give_orders(self, brim: HostedScheduler, now_ns: int) -> None:
        for request in list(self._blocked.values()):
            if self._handle_blocked_waiting_request(request):
                del self._blocked[request.request_id]
                self._tell(request)
        orders = brim.order(now_ns)
        self._most_tokens = orders.tokens
        self.waiting.let_in(orders.admit)

    def _took_off(self, output: Any, plan: StepPlan | None) -> Any:
        self._in_flight.append((output, plan))
        return output

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
            return self._took_off(super().schedule(*args, **kwargs), None)
        finally:
            self.max_num_scheduled_tokens = most

    def _wants_change(self) -> bool:
        return self._stale if self._brim is not None and self._mode == "active" else (
            (self._mode == "active") != (self._brim is not None)
        )

    def _change(self) -> None:
        self._disengage()
        self._stale = False
        if self._mode == "active":
            self._engage()

    def _engage(self) -> None:
        host, settings = self._brim_host, self._settings
        config = SchedulerConfig(
            num_blocks=host.num_blocks,
            block_size=self.block_size,
            max_model_len=self.max_model_len,
            max_num_seqs=min(self.max_num_active_reqs, self.max_num_scheduled_tokens),
            max_num_batched_tokens=self.max_num_scheduled_tokens,
            max_prefill_chunk_tokens=self.scheduler_config.long_prefill_token_threshold,
            enable_prefix_caching=self.cache_config.enable_prefix_caching,
            policy=settings.policy or UNTOLD_POLICY,
            **settings.rules,
        )
        step_time = None if settings.profile is None else load_profile(settings.profile).step_time
        brim = HostedScheduler(config, host, named(config, self._lengths, step_time))
        host.engage(brim.kv.eviction, brim.queues.pool)
        waiting = list(self.waiting)
        self._brim, self.waiting = brim, views.GatedQueue(waiting)
        now_ns = time.monotonic_ns()
        for request in self.running:
            brim.adopt(views.facts(request, self.max_model_len, settings.slo), now_ns)
        for request in waiting:
            self._tell(request)
        logger.info("Brim schedules now, by policy %s", config.policy)

    def _disengage(self) -> None:
        if self._brim is None:
            return
        waiting = sorted(self.waiting, key=lambda request: request.arrival_time)
        self._brim, self._blocked = None, {}
        self._brim_host.disengage()
        self.waiting = compat.create_request_queue(self.policy)
        for request in waiting:
            self.waiting.add_request(request)
        logger.info("vLLM schedules by itself now")

    def _tell(self, request: compat.Request) -> None:
        assert self._brim is not None
        if self._is_blocked_waiting_status(request.status):
            self._blocked[request.request_id] = request
        else:
            facts = views.facts(request, self.max_model_len, self._settings.slo)
            self._brim.add(facts, time.monotonic_ns())

    def _step_back(self, reason: str) -> None:
        """For good: what was not tested once will come again."""
        self._reasons.append(reason)
        self._mode = "stock"
        logger.warning("Brim leaves vLLM's scheduling as it is: %s", reason)
