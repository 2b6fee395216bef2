"""Which first tokens can still be in time, and how much of a step their prompts may have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from brim.core.estimators.chunk_size import largest_chunk, with_chunk
from brim.core.estimators.slack import OnlineStep, PromptWork
from brim.core.policies.timing import Timing


class Hurrying(Protocol):
    def is_late(self, timing: Timing, step: OnlineStep, prompt: PromptWork) -> bool:
        """Whether it gives way, since its first token can't be in time any more."""

    def is_turn(self, tick: int) -> bool:
        """Whether who has waited longest of all goes first in the step of that tick, late or not."""

    def prompt_tokens(self, timing: Timing, step: OnlineStep, most: int) -> int:
        """How many of `most` tokens `step.prompts`, and those behind, may run in this order; at least 1."""


@dataclass(frozen=True, slots=True)
class FirstTokens:
    """A prompt that can be in time gets what that takes; one that can't must not make others miss theirs.

    What runs in a step is, prompt by prompt:

    - as much as those who decode bear (`Timing.prompt_tokens`);
    - the first prompt as a whole, where it would be late in chunks and is not in one, and those who decode
      can make good for it (`DueTimes.least_for_first_tokens`);
    - of the prompts behind it no more than lets it be in time;
    - of those that are late already up to just under the pace of those who decode: at 0.9 of it prompts pile
      up where steps are long, and at all of it answers end a little late.

    In every step of `turn_steps` the one that has waited longest goes first, so that in an overload without
    end the late ones get a part of the time as well.
    """

    turn_steps: int = 16

    def is_late(self, timing: Timing, step: OnlineStep, prompt: PromptWork) -> bool:
        if prompt.due_ns is None or prompt.due_ns <= step.start_ns:
            return prompt.due_ns is not None
        whole = with_chunk(step.decodes, prompt.num_tokens, prompt.start)
        return step.start_ns + timing.steps.nanoseconds(whole) > prompt.due_ns

    def is_turn(self, tick: int) -> bool:
        return tick % self.turn_steps == 0

    def prompt_tokens(self, timing: Timing, step: OnlineStep, most: int) -> int:
        bearable = timing.prompt_tokens(step, most)
        first = next(iter(step.prompts), None)
        if first is None:
            return bearable
        whole = bearable < first.num_tokens <= most and self._must_be_whole(timing, step, first, bearable)
        return self._together(timing, step, first.num_tokens if whole else bearable) or bearable

    def _must_be_whole(self, timing: Timing, step: OnlineStep, prompt: PromptWork, bearable: int) -> bool:
        """Whether in chunks it would be late, and in one step it is not, nor makes it an answer late."""
        if prompt.due_ns is None or self.is_late(timing, step, prompt):
            return False
        predict = timing.steps.nanoseconds
        due_ns = timing.watch.dues.least_for_first_tokens(step.tick, step.last_ns)
        ends_ns = step.start_ns + predict(with_chunk(step.decodes, prompt.num_tokens, prompt.start))
        chunks, rest = divmod(prompt.num_tokens, bearable)
        middle = prompt.start + prompt.num_tokens // 2  # time is linear in the context: as the mean of all
        cut_ns = chunks * predict(with_chunk(step.decodes, bearable, middle - bearable // 2))
        if rest:
            cut_ns += predict(with_chunk(step.decodes, rest, prompt.start + prompt.num_tokens - rest))
        return step.start_ns + cut_ns > prompt.due_ns and (due_ns is None or ends_ns <= due_ns)

    def _together(self, timing: Timing, step: OnlineStep, tokens: int) -> int:
        """How many of `tokens` can run so that no prompt that ends now is late because of those behind it."""
        predict, shape, used = timing.steps.nanoseconds, step.decodes, 0
        pace_ns = timing.watch.dues.least_pace_ns(predict(shape) if step.num_decodes else 0)
        limit_ns: int | None = None
        for prompt in step.prompts:
            if used == tokens:
                break
            late = self.is_late(timing, step, prompt)
            if late and pace_ns is not None:
                limit_ns = min(limit_ns or pace_ns, pace_ns * 97 // 100)
            room = min(prompt.num_tokens, tokens - used)
            chunk = room if limit_ns is None else largest_chunk(predict, shape, prompt.start, room, limit_ns)
            used += chunk
            if chunk < prompt.num_tokens:
                return used
            alone, shape = used == chunk, with_chunk(shape, chunk, prompt.start)
            if prompt.due_ns is None or late:
                continue
            left_ns = prompt.due_ns - step.start_ns
            if alone or predict(shape) <= left_ns:  # alone it is in time: `is_late` has said so
                limit_ns = min(limit_ns or left_ns, left_ns)
        return tokens if limit_ns is None else used
