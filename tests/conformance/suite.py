"""What every engine must do, whatever runs behind it: its requests go through the real scheduler.

Give it a factory of engines: `EngineConformance(lambda num_blocks, block_size: ...)`, then call its checks
one by one (`EngineConformance.CHECKS` names them). Only `close` closes one; for the others the factory may
give the same engine again, whose cache then holds what was left there. All draw greedily.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from brim.core.plan import StepResult
from brim.core.request import GREEDY, Request
from brim.core.scheduler import Scheduler
from brim.engines.base import Engine
from tests.helpers import Host, config, request

Factory = Callable[[int, int], Engine]  # (num_blocks, block_size) -> an engine
Outputs = Mapping[str, Sequence[int]]

PROMPTS = {
    "a": [5, 9, 70, 31, 12, 40, 41, 99, 17, 23, 50],
    "b": [5, 9, 70, 31, 12, 40, 41, 99, 60],  # the first 8 are those of `a`
    "c": [88],
    "d": [33, 34, 35, 36, 37, 38, 39],
}
NUM_TOKENS = 8


def asked(name: str, **facts: int) -> Request:
    return request(
        name, PROMPTS[name], **{"max_tokens": NUM_TOKENS, "temperature": GREEDY.temperature, **facts}
    )


@dataclass(frozen=True)
class EngineConformance:
    factory: Factory
    block_size: int = 4  # or 8: the shared prefix is whole blocks

    CHECKS: ClassVar[tuple[str, ...]] = (
        "caps_fit_the_cache",
        "together_as_alone",
        "chunks_as_whole_prompts",
        "every_depth_it_has",
        "shared_prefixes",
        "preempted_and_recomputed",
        "released_and_admitted_again",
        "tokens_in_order_of_sampling",
        "parts_of_a_step_run_again",
        "a_whole_step_run_again",
        "logprobs_where_asked_for",
        "twice_the_same",
        "close",
    )

    @cached_property
    def alone(self) -> Outputs:
        """What each request says when it has the engine to itself, its prompt run at once."""
        outputs: dict[str, Sequence[int]] = {}
        for name in PROMPTS:
            outputs |= self.run([name], depth=1, enable_prefix_caching=False).outputs
        assert all(len(tokens) == NUM_TOKENS for tokens in outputs.values())
        return outputs

    def host(self, num_blocks: int = 64, depth: int | None = None, **changes: int) -> Host:
        engine = self.factory(num_blocks, self.block_size)
        sizes = {"num_blocks": num_blocks, "block_size": self.block_size}
        settings = config(**sizes, max_model_len=engine.caps.max_model_len, **changes)
        return Host(settings, engine=engine, depth=depth or engine.caps.depth)

    def run(self, names: Sequence[str], stagger: int = 0, **changes: int) -> Host:
        host = self.host(**changes)
        for name in names:
            host.add(asked(name))
            for _ in range(stagger):
                host.step()
        return host.run()

    # ---- the checks

    def caps_fit_the_cache(self) -> None:
        engine = self.factory(16, self.block_size)
        caps = engine.caps
        assert (caps.num_blocks, caps.block_size) == (16, self.block_size)
        assert 1 <= caps.max_model_len <= 16 * self.block_size
        assert caps.depth in (1, 2)
        assert max(max(prompt) for prompt in PROMPTS.values()) < caps.vocab_size

    def together_as_alone(self) -> None:
        assert self.run(list(PROMPTS)).outputs == self.alone
        assert self.run(list(PROMPTS), stagger=2).outputs == self.alone

    def chunks_as_whole_prompts(self) -> None:
        for chunk in (1, 3, 4, 7):
            assert self.run(list(PROMPTS), max_prefill_chunk_tokens=chunk).outputs == self.alone

    def every_depth_it_has(self) -> None:
        caps = self.factory(16, self.block_size).caps
        for depth in range(1, caps.depth + 1):
            assert self.run(list(PROMPTS), depth=depth, stagger=1).outputs == self.alone

    def shared_prefixes(self) -> None:
        host = self.host()
        host.add(asked("a"))
        for _ in range(3):
            host.step()
        host.add(asked("b"))
        host.run()
        assert host.cached_tokens() == {"a": 0, "b": 8}
        assert host.outputs == {name: self.alone[name] for name in "ab"}

    def preempted_and_recomputed(self) -> None:
        host = self.run(["a", "d", "c", "b"], num_blocks=28 // self.block_size)
        assert host.preempted()
        assert host.outputs == self.alone

    def released_and_admitted_again(self) -> None:
        host = self.host()
        for _ in range(3):
            host.add(asked("a"))
            host.run()
            assert host.outputs["a"] == self.alone["a"]
        assert any(plan.released == ("a",) for plan in host.plans)
        host.add(asked("a"))
        for _ in range(4):
            host.step()
        host.scheduler.abort("a", host.now_ns)
        host.run()
        host.add(asked("a"))
        host.run()
        assert host.outputs["a"] == self.alone["a"]

    def tokens_in_order_of_sampling(self) -> None:
        """Decodes first, then the chunks that end a prompt; a chunk in between draws nothing."""
        engine, scheduler = self._decoding("a", max_prefill_chunk_tokens=7, enable_prefix_caching=False)
        for name in "bcd":
            scheduler.add(asked(name), 0)
        plan = scheduler.schedule(0)
        assert [chunk.samples for chunk in plan.chunks] == [False, True, True]
        engine.begin(plan)
        drawn = engine.finish().token_ids
        assert list(drawn) == [self.alone["a"][1], self.alone["c"][0], self.alone["d"][0]]

    def parts_of_a_step_run_again(self) -> None:
        engine, scheduler = self._decoding("a", "c")
        for name in "bd":
            scheduler.add(asked(name), 0)
        plan = scheduler.schedule(0)
        rows = plan.rows()
        assert len(rows) == 4
        engine.begin(plan)
        whole = list(engine.finish().token_ids)
        for size in (1, 2):
            again: list[int] = []
            for at in range(0, len(rows), size):
                engine.begin(plan.part(rows[at : at + size]))
                again += engine.finish().token_ids
            assert again == whole

    def a_whole_step_run_again(self) -> None:
        """And the step after it still knows the right tokens."""
        engine, scheduler = self._decoding("a", "b")
        for count in (1, 2, 3):
            plan = scheduler.schedule(0)
            results: list[StepResult] = []
            for _ in range(2):
                engine.begin(plan)
                results.append(engine.finish())
            assert list(results[0].token_ids) == list(results[1].token_ids)
            assert list(results[0].token_ids) == [self.alone[name][count] for name in "ab"]
            scheduler.commit(plan, results[1], 0)

    def logprobs_where_asked_for(self) -> None:
        engine, scheduler = self._decoding()
        for one in (asked("a", logprobs=0), asked("b", logprobs=3), asked("c")):
            scheduler.add(one, 0)
        plan = scheduler.schedule(0)
        engine.begin(plan)
        result = engine.finish()
        drawn = {s.request.request_id: t for s, t in zip(plan.sampling(), result.token_ids, strict=True)}
        assert set(result.logprobs) == {"a", "b"}
        for name, entry in result.logprobs.items():
            assert entry.token_id == drawn[name]
            assert entry.logprob <= 0
            assert all(logprob <= 0 for _, logprob in entry.top)
            assert len(entry.top) <= 4
        assert result.logprobs["b"].top[0] == (drawn["b"], result.logprobs["b"].logprob)

    def twice_the_same(self) -> None:
        first, second = (self.run(list(PROMPTS), stagger=1) for _ in range(2))
        assert first.outputs == second.outputs
        assert first.rows == second.rows

    def close(self) -> None:
        engine, scheduler = self._decoding("a")
        engine.begin(scheduler.schedule(0))
        engine.close()  # with a step under way
        engine.close()  # twice is as good as once

    def _decoding(self, *names: str, **changes: int) -> tuple[Engine, Scheduler]:
        """An engine whose requests have drawn their first token."""
        host = self.host(depth=1, **changes)
        for name in names:
            host.add(asked(name))
        while any(not tokens for tokens in host.outputs.values()):
            host.step()
        assert all(len(tokens) == 1 for tokens in host.outputs.values())
        return host.engine, host.scheduler
