"""`vllm serve MODEL --scheduler-cls brim.plugins.vllm.BrimScheduler`: vLLM schedules what Brim decides.

Before each step Brim decides who enters, who gives way and how many tokens everybody runs. vLLM's own
`schedule` carries that out, unmodified, and Brim notes what it really did. Where anything goes wrong in
Brim, vLLM goes on as if Brim were not there: see `plugins.hosting`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from vllm.v1.core.sched.async_scheduler import AsyncScheduler

from brim.core.hosted import HostedScheduler
from brim.core.plan import StepPlan
from brim.plugins.hosting import Hosting
from brim.plugins.vllm import compat, elsewhere, settings, views
from brim.plugins.vllm.host import VllmHost

logger = logging.getLogger(__name__)

_LEVER = "_reserve_prefill_lookahead"
_Known = Mapping[str, tuple[Sequence[int], int]]  # tokens of requests, and how many there were


class BrimScheduler(AsyncScheduler):
    """vLLM's scheduler with Brim's decisions, with asynchronous scheduling and without."""

    waiting: Any  # vLLM's
    kv_holding_waiting: Any  # vLLM's
    max_num_scheduled_tokens: int  # vLLM's
    _brim = Hosting()  # each has its own; vLLM's tests make some without `__init__`

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        reasons, rules_off = compat.reasons_against(self), list[str]()
        if not reasons:
            self._host = VllmHost(self)
            rules_off = compat.rules_off(self, self._host.groups)
        self._brim = Hosting(None if reasons else self._host, reasons, rules_off)
        self._brim.configure(settings.read(self.vllm_config.additional_config))
        if reasons:
            logger.warning("Brim leaves vLLM's scheduling as it is: %s", "; ".join(reasons))
        for rule in rules_off:
            logger.warning("One of Brim's rules does not apply: %s", rule)

    # ---- what vLLM calls -------------------------------------------------------------------------------

    def add_request(self, request: compat.Request) -> None:
        known = request.request_id in self.requests
        super().add_request(request)
        if known or self._brim.reasons:
            return
        reason = compat.reasons_against_request(request)
        if reason is not None:
            self._brim.step_back(reason)
        elif self._brim.scheduler is not None:
            self._brim.guarded(self._host.tell, request)
        elif views.says_something(request):
            self._brim.wake()

    def finish_requests(self, request_ids: Any, *args: Any, **kwargs: Any) -> Any:
        if request_ids is None:
            ids: list[str] = list(self.requests)
        else:
            ids = [request_ids] if isinstance(request_ids, str) else list(request_ids)
        done = super().finish_requests(ids, *args, **kwargs)
        for request_id in ids:
            self._brim.guarded(self._aborted, request_id)
        return done

    def schedule(self, *args: Any, **kwargs: Any) -> Any:
        if self._brim.changes:
            if self._brim.flying:
                return self._empty_step(*args, **kwargs)
            self._brim.change()
        now_ns = time.monotonic_ns()
        self._brim.guarded(self._give_orders, now_ns)
        try:
            output = super().schedule(*args, **kwargs)
        finally:
            self.__dict__.pop(_LEVER, None)
        plan = self._brim.guarded(self._take_in, output, now_ns)
        self._brim.launched(output, plan, runs=output.total_num_scheduled_tokens > 0)
        return output

    def update_from_output(
        self, scheduler_output: Any, model_runner_output: Any, *args: Any, **kwargs: Any
    ) -> Any:
        known = self._known_tokens(scheduler_output.scheduled_spec_decode_tokens)
        computed = elsewhere.at_stake(self, model_runner_output)
        outputs = super().update_from_output(scheduler_output, model_runner_output, *args, **kwargs)
        if elsewhere.lost(self, computed):
            self._brim.outdated()
        plan = self._brim.landed(scheduler_output)
        if plan is not None:
            self._brim.guarded(self._step_ended, plan, known)
        return outputs

    def reset_prefix_cache(self, *args: Any, **kwargs: Any) -> bool:
        pool, num_running = self.kv_cache_manager.block_pool, len(self.running)
        known = pool.cached_block_hash_to_block
        try:
            return super().reset_prefix_cache(*args, **kwargs)
        finally:  # what it says, or raises, is also of a connector's cache
            if pool.cached_block_hash_to_block is not known or len(self.running) < num_running:
                self._brim.outdated()

    def _free_request(self, request: compat.Request, *args: Any, **kwargs: Any) -> Any:
        if self._brim.scheduler is not None:
            self._host.over(request)
        return super()._free_request(request, *args, **kwargs)

    def _preempt_request(self, request: compat.Request, *args: Any, **kwargs: Any) -> None:
        super()._preempt_request(request, *args, **kwargs)
        if self._brim.scheduler is not None:
            self._host.preempted(request.request_id)

    # ---- what the operator calls -----------------------------------------------------------------------

    def brim_switch(self, mode: str) -> str:
        """Changes to a mode while requests run: `stock` is the way back. Returns the mode.

        Raises ConfigError where there is no such mode, or where Brim can't schedule here.
        """
        return self._brim.switch(mode)

    def brim_configure(self, told: Mapping[str, Any]) -> None:
        """Other settings from the next step on; `told` is what `additional_config` would have as `brim`.

        Raises ConfigError where they make no sense.
        """
        self._brim.configure(settings.read({"brim": told}))

    @property
    def brim_mode(self) -> str:
        """The mode that is in force; without a policy `stock` until a request brings a class or a target."""
        return self._brim.mode

    @property
    def brim_left_to_vllm(self) -> list[str]:
        """Why Brim can't schedule here, and which of its rules don't apply."""
        return [*self._brim.reasons, *self._brim.rules_off]

    def brim_figures(self) -> dict[str, float]:
        """By name; see `core.figures`."""
        return self._brim.figures()

    def brim_samples(self) -> dict[str, float]:
        """The same, and all that is counted by class; see `metrics.exported`."""
        return self._brim.samples()

    def brim_check(self) -> None:
        """Verifies Brim's books against vLLM's. Raises InvariantViolated. Linear: for tests."""
        self._brim.check()

    # ---- how -------------------------------------------------------------------------------------------

    def _give_orders(self, brim: HostedScheduler, now_ns: int) -> None:
        self._host.tell_unblocked(brim)
        orders = self._brim.order(now_ns, self._host.waiting(), paused=compat.paused(self))
        if orders is not None:
            if orders.tokens:
                self.__dict__[_LEVER] = self._fewer(orders.tokens)
            self._let_in(self._host.adapters.with_room(orders.admit))
        elif self._brim.mode == "active":
            self._let_in([request.request_id for request in self.kv_holding_waiting])

    def _let_in(self, request_ids: Sequence[str]) -> None:
        self._host.ordered = request_ids = list(dict.fromkeys(request_ids))
        self.waiting.let_in(request_ids)
        self.kv_holding_waiting.let_in(request_ids)

    def _fewer(self, orders: Mapping[str, int]) -> Callable[[compat.Request, int, int], int]:
        """What vLLM asks last of all how many tokens a request may run, with orders to run fewer.

        It stands in place of vLLM's own in this one step: most steps have few orders, and all who run ask.
        """
        vllms_own, order = super()._reserve_prefill_lookahead, orders.get

        def reserve(request: compat.Request, num_computed_tokens: int, num_new_tokens: int) -> int:
            tokens: int = vllms_own(request, num_computed_tokens, num_new_tokens)
            most = order(request.request_id)
            if most is None or tokens <= most or 0 < request.num_tokens - num_computed_tokens <= most:
                return tokens  # what exceeds the known tokens are guesses: they run with the last of these
            try:
                fewer = self._whole_items(request, num_computed_tokens, most, tokens)
            except Exception as exc:
                self._host.failed(exc)
                return tokens
            # some drafters must not see a chunk end near a prompt's end: the little that is left runs at once
            return vllms_own(request, num_computed_tokens, fewer) or (tokens if fewer else 0)

        return reserve

    def _whole_items(self, request: compat.Request, start: int, most: int, vllms_own: int) -> int:
        """Where vLLM shall not cut an image or a sound in two: up to it, or all of it where it is next."""
        if most and self.scheduler_config.disable_chunked_mm_input:
            for item in request.mm_features:
                offset = item.mm_position.offset
                end = offset + item.mm_position.length
                if offset < start + most < end and start < end:
                    return offset - start if start < offset else min(end - start, vllms_own)
        return most

    def _take_in(self, brim: HostedScheduler, output: Any, now_ns: int) -> StepPlan:
        scheduled, drafts = output.num_scheduled_tokens, output.scheduled_spec_decode_tokens
        if drafts:
            scheduled = {i: n - len(drafts.get(i, ())) for i, n in scheduled.items()}
        idle = not scheduled and bool(self.requests) and not compat.paused(self)
        self._host.drafts = drafts
        plan = self._brim.ran(scheduled, self._host.given_way(), now_ns, idle=idle)
        self._host.drafts = {}
        self._host.step_taken(brim)
        return plan

    def _step_ended(self, brim: HostedScheduler, plan: StepPlan, known: _Known) -> None:
        more = {i: len(tokens) - number - 1 for i, (tokens, number) in known.items()}
        guessed = {i: number for i, number in more.items() if number > 0}
        self._host.tell_failed(brim)
        self._brim.ended(plan, guessed, self.finished_req_ids, time.monotonic_ns())

    def _aborted(self, brim: HostedScheduler, request_id: str) -> None:
        self._host.tell_failed(brim)
        brim.abort(request_id, time.monotonic_ns())

    def _known_tokens(self, request_ids: Iterable[str]) -> _Known:
        """vLLM's own lists, which grow: a request may be gone when its tokens are counted."""
        here = [self.requests[i] for i in request_ids if i in self.requests]
        return {request.request_id: (request._all_token_ids, request.num_tokens) for request in here}

    def _empty_step(self, *args: Any, **kwargs: Any) -> Any:
        """Runs nothing, so that what is in flight lands."""
        most, self.max_num_scheduled_tokens = self.max_num_scheduled_tokens, 0
        try:
            output = super().schedule(*args, **kwargs)
        finally:
            self.max_num_scheduled_tokens = most
        self._brim.launched(output, None, runs=False)
        return output
