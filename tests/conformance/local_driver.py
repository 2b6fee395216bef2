"""A hand-made scheduler, small and wild, that drives a local engine with plans.

Blocks are handed out in random order from a pool that is never cleaned, full prompt blocks may be shared
between requests, and requests are preempted at random and computed again in other blocks.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from brim.core.plan import Chunk, StepPlan
from brim.core.request import GREEDY, Request, RequestState, SamplingParams
from brim.engines.base import Engine
from tests.helpers import compute


class Driver:
    """Runs requests to their end. `chunk` tokens of prefill a step and request at most."""

    def __init__(
        self, engine: Engine, *, chunk: int = 1000, share: bool = False, preempt_every: int = 0, seed: int = 0
    ) -> None:
        self.engine, self.chunk, self.share, self.preempt_every = engine, chunk, share, preempt_every
        self.random = random.Random(seed)
        self.free = list(range(engine.caps.num_blocks))
        self.random.shuffle(self.free)
        self.users = dict.fromkeys(self.free, 0)
        self.cached: dict[tuple[int, ...], int] = {}  # prefix -> block; cached blocks are never given back
        self.num_shared = self.num_preempted = self.num_mixed = self.steps = 0

    def run(
        self, prompts: Sequence[Sequence[int]], sampling: SamplingParams, stagger: int = 2
    ) -> list[list[int]]:
        """The output tokens of every prompt; a request arrives every `stagger` steps."""
        states = [
            RequestState(Request(f"r{at}", tuple(prompt), sampling=sampling), at)
            for at, prompt in enumerate(prompts)
        ]
        waiting, running = states[::-1], []
        while waiting or running:
            if waiting and (not running or self.steps % stagger == 0):
                running.append(self._admit(waiting.pop()))
            if self.preempt_every and self.steps % self.preempt_every == 1 and len(running) > 1:
                victim = running.pop(self.random.randrange(len(running)))
                victim.preempt()
                self._release(victim)
                self.num_preempted += 1
                waiting.append(victim)
            plan = self._plan(running)
            self.engine.begin(plan)
            result = self.engine.finish()
            assert not result.errors, result.errors
            self._commit(plan, result.token_ids)
            for state in [state for state in running if state.num_tokens == state.max_num_tokens]:
                running.remove(state)
                self._release(state)
        return [state.token_ids[state.num_prompt_tokens :] for state in states]

    def _admit(self, state: RequestState) -> RequestState:
        size = self.engine.caps.block_size
        for end in range(size, state.num_prompt_tokens if self.share else 0, size):
            block = self.cached.get(tuple(state.token_ids[:end]))
            if block is None:
                break
            state.block_ids.append(block)
            self.users[block] += 1
        self.num_shared += len(state.block_ids)
        state.admit(len(state.block_ids) * size)
        return state

    def _plan(self, running: Sequence[RequestState]) -> StepPlan:
        decodes, chunks = [], []
        for state in running:
            start = state.num_computed_tokens
            count = min(state.num_tokens - start, self.chunk)
            while len(state.block_ids) * self.engine.caps.block_size < start + count:
                block = self.free.pop()
                self.users[block] += 1
                state.block_ids.append(block)
            state.schedule(count)
            if count == 1 and state.num_tokens == start + 1:
                decodes.append(state)
            else:
                chunks.append(Chunk(state, start, count, start + count == state.num_tokens))
        self.steps += 1
        self.num_mixed += bool(decodes and chunks)
        return StepPlan(self.steps, tuple(decodes), tuple(chunks))

    def _commit(self, plan: StepPlan, token_ids: Sequence[int]) -> None:
        for state, count in [(s, 1) for s in plan.decodes] + [(c.state, c.num_tokens) for c in plan.chunks]:
            compute(state, count)
            self._remember(state)
        for state, token in zip(plan.sampling(), token_ids, strict=True):
            state.append(token)

    def _remember(self, state: RequestState) -> None:
        size = self.engine.caps.block_size
        if self.share:
            for end in range(size, min(state.num_computed_tokens, state.num_prompt_tokens) + 1, size):
                self.cached.setdefault(tuple(state.token_ids[:end]), state.block_ids[end // size - 1])

    def _release(self, state: RequestState) -> None:
        kept = set(self.cached.values())
        for block in state.block_ids:
            self.users[block] -= 1
            if not self.users[block] and block not in kept:
                self.free.insert(self.random.randrange(len(self.free) + 1), block)
        state.block_ids.clear()


def greedy(num_tokens: int) -> SamplingParams:
    """GREEDY, for so many tokens."""
    return SamplingParams(max_tokens=num_tokens, temperature=GREEDY.temperature)
