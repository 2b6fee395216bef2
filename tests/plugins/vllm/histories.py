"""Random traffic for the driver, and what has to be true of all of it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from vllm.v1.core.sched.interface import PauseState

from tests.plugins.vllm.driver import Driver, check
from tests.plugins.vllm.worker import VOCAB, answer

FACTS: list[dict[str, Any]] = [
    {},
    {"task_class": "online"},
    {"task_class": "online", "ttft_ms": 500, "itl_ms": 50, "tenant": "a"},
    {"task_class": "online", "ttft_ms": 0.5, "tpot_ms": 0.1},
    {"task_class": "offline"},
    {"task_class": "offline", "batch_id": "b1", "tenant": "b"},
    {"task_class": "offline", "batch_id": "b2", "deadline_ms": 50},
]


class Traffic:
    """Arrivals that share documents, aborts, now and then a reset of the prefix cache: all by one seed.

    With `modes` an operator changes Brim's mode now and then; where it `pauses` requests are held back for
    a while.
    """

    def __init__(
        self,
        driver: Driver,
        seed: int,
        *,
        waiting: int = 16,
        facts: Sequence[dict[str, Any]] = FACTS,
        modes: Sequence[str] = (),
        pauses: bool = False,
    ) -> None:
        self.driver = driver
        self.waiting = waiting
        self.facts = facts
        self.modes = modes
        self.pauses = pauses
        self._random = random.Random(seed)
        longest = driver.limits.longest
        self._documents = [self._tokens(longest // 3) for _ in range(3)]

    def run(self, steps: int) -> None:
        """So many steps, then all that is left; nothing new arrives meanwhile."""
        self.go_on(steps)
        self.driver.scheduler.set_pause_state(PauseState.UNPAUSED)
        self.driver.drain()

    def go_on(self, steps: int) -> None:
        for _ in range(steps):
            self._happen()
            if self.pauses:
                self._pause()
            self.driver.step()

    def _pause(self) -> None:
        scheduler, chance = self.driver.scheduler, self._random.random()
        if chance < 0.1:
            scheduler.set_pause_state(
                self._random.choice(list(PauseState)) if chance < 0.03 else PauseState.UNPAUSED
            )
        if scheduler.pause_state != PauseState.UNPAUSED:
            self.driver.idle_steps = 0  # nobody is stuck

    def _happen(self) -> None:
        chance, unfinished = self._random.random(), self.driver.unfinished
        if chance < 0.2 and len(unfinished) < self.waiting:
            self._arrive()
        elif chance < 0.22 and unfinished:
            self.driver.abort(self._random.choice(unfinished))
            check(self.driver.scheduler)
        elif chance < 0.222:
            transfers = self.driver.limits.connector  # vLLM does not stop them
            self.driver.scheduler.reset_prefix_cache(reset_running_requests=not transfers)
        elif chance < 0.226 and self.modes:
            self.driver.scheduler.brim_switch(self._random.choice(self.modes))

    def _arrive(self) -> None:
        document = self._random.choice(self._documents)
        prompt = document[: self._random.randint(0, len(document))] + self._tokens(
            self._random.randint(1, 60)
        )
        room = self.driver.limits.longest - len(prompt)
        self.driver.add(
            f"r{len(self.driver.asked)}",
            prompt,
            self._random.randint(1, min(room, 80)),
            priority=self._random.choice([0, 0, -1, 1]),
            adapter=self._random.choice([0, 1, 2, 3]) if self.driver.limits.adapters else 0,
            images=self._images(len(prompt)),
            grammar=self._grammar(),
            **self._random.choice(self.facts),
        )

    def _images(self, prompt_tokens: int) -> list[tuple[str, int, int]]:
        """Every other ten tokens may be one; each costs half of what a step may encode."""
        length = self.driver.limits.images // 2
        if not length or self._random.random() < 0.3:
            return []
        places = [at for at in range(0, prompt_tokens - length, 2 * length) if self._random.random() < 0.5]
        return [(f"image {self._random.randrange(5)}-{place}", place, length) for place in places]

    def _grammar(self) -> tuple[int, ...]:
        return (self._random.randrange(12),) if self.driver.limits.grammars else ()

    def _tokens(self, count: int) -> list[int]:
        return [self._random.randrange(VOCAB) for _ in range(count)]


def check_counts(driver: Driver) -> None:
    """Where Brim was there all the time, it has counted every request and every token by its class.

    Raises `AssertionError` otherwise.
    """
    found = driver.scheduler.brim_samples()
    for name in ("online", "offline"):
        told = [request_id for request_id, asked in driver.asked.items() if task_class(asked) == name]
        assert found[f'requests_arrived_total{{class="{name}"}}'] == len(told)
        tokens = sum(len(driver.tokens[request_id]) for request_id in told)
        # with steps in flight a preemption of vLLM's own, or a reset of the cache, drops tokens or keeps them
        unsure = 0.03 * tokens if driver.limits.steps_in_flight > 1 else 0
        assert abs(found[f'output_tokens_total{{class="{name}"}}'] - tokens) <= unsure
        whole = [request_id for request_id in told if request_id not in driver.aborted]
        assert found[f'e2e_seconds_count{{class="{name}"}}'] == len(whole)
        assert found[f'ttft_seconds_count{{class="{name}"}}'] >= len(whole)
        for latency in ("ttft", "tpot", "e2e"):
            mean = found[f'{latency}_seconds_sum{{class="{name}"}}'] / max(len(whole), 1)
            assert 0 <= mean < 60  # no time of a request that began at the beginning of the clock


def task_class(request: Any) -> str:
    return (request.sampling_params.extra_args or {}).get("task_class", "online")


def check_answers(driver: Driver) -> None:
    """Who was not aborted has all its tokens; who was, the first of them, and no others.

    Raises `AssertionError` otherwise.
    """
    assert not driver.unfinished
    for request_id, request in driver.asked.items():
        tokens = driver.tokens[request_id]
        expected = answer(request.prompt_token_ids, request.max_tokens)
        assert tokens == expected[: len(tokens)]
        assert len(tokens) == len(expected) or request_id in driver.aborted
        assert driver.finish_reasons.get(request_id, "length") == "length"
