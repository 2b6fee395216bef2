"""The requests that run one token in every step, kept up by what changes in them."""

from __future__ import annotations

from brim.core.plan import StepPlan, StepResult
from brim.core.request import RequestState
from brim.simulation.truth import FILLER, STOP, Truth


class Decodes:
    """Their context and the steps of their last tokens: both are lines over the number of the step."""

    def __init__(self, truth: Truth) -> None:
        self.states: tuple[RequestState, ...] = ()
        self._truth = truth
        self._lines: dict[RequestState, tuple[int, int]] = {}  # context at step 0, step of the last token
        self._context_at_0 = 0  # of all of them
        self._last_steps: dict[int, set[RequestState]] = {}
        self._changed_at = -1  # the last step in which somebody came or went
        self._fillers: dict[int, StepResult] = {}

    def follow(self, states: tuple[RequestState, ...], step_id: int, *, scheduled: bool) -> bool:
        """Takes in who decodes in a step, just scheduled or to come next; false where nobody came or went."""
        if states is not self.states:
            self.states = states
            gone = self._lines.keys() - states
            come = [state for state in states if state not in self._lines]
            for state in gone:
                self._remove(state)
            for state in come:
                self._add(state, state.num_scheduled_tokens + (not scheduled), step_id)
            if gone or come:
                self._changed_at = step_id
        return self._changed_at == step_id

    def context(self, step_id: int) -> int:
        """Tokens that all of them attend to in a step, their own included."""
        return self._context_at_0 + len(self.states) * step_id

    def steps_to_an_end(self, step_id: int) -> int:
        """Steps, from this one on, in which nobody draws a last token. Needs somebody who decodes."""
        return min(self._last_steps) - step_id

    def draw(self, plan: StepPlan) -> tuple[StepResult, bool]:
        """What a step draws, and whether one of its tokens is a last one."""
        sampled = [chunk for chunk in plan.chunks if chunk.samples] if plan.chunks else ()
        fillers = self._filler(len(plan.decodes) + len(sampled))
        ends = [plan.decodes.index(state) for state in self._last_steps.get(plan.step_id, ())]
        for i, (state, start, num_tokens, _) in enumerate(sampled, len(plan.decodes)):
            if start + num_tokens == self._truth.last_context(state):
                ends.append(i)
        if not ends:
            return fillers, False
        token_ids = list(fillers.token_ids)
        for i in ends:
            token_ids[i] = STOP
        return StepResult(token_ids), True

    def _filler(self, count: int) -> StepResult:
        """The same for the same count: nobody writes into it."""
        if count not in self._fillers:
            self._fillers[count] = StepResult([FILLER] * count)
        return self._fillers[count]

    def _add(self, state: RequestState, context: int, step_id: int) -> None:
        last_step = step_id + self._truth.last_context(state) - context
        self._lines[state] = (context - step_id, last_step)
        self._context_at_0 += context - step_id
        self._last_steps.setdefault(last_step, set()).add(state)

    def _remove(self, state: RequestState) -> None:
        context_at_0, last_step = self._lines.pop(state)
        self._context_at_0 -= context_at_0
        self._last_steps[last_step].discard(state)
        if not self._last_steps[last_step]:
            del self._last_steps[last_step]
