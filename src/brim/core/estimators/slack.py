"""How long the coming step may take, so that no online request gets a token too late."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from brim.core.errors import ConfigError
from brim.core.estimators.arrivals import Arrivals
from brim.core.estimators.chunk_size import Predict, chunk_at_pace, with_chunk
from brim.core.estimators.due_times import DueTimes
from brim.core.estimators.step_time import StepShape, attention_pairs

# In steps of one token: no step is made shorter for arrivals that may come. Where they would be late without
# any step before theirs (as expected: the guard alone makes nobody late) nothing is gained by short ones.
# Then half of a step is to be work, and a fifth of it offline work where the online part is long.
_SHORTEST, _HOPELESS = 1.25, 2.0


class PromptWork(NamedTuple):
    """An online request, waiting or running, that doesn't draw a token in every step yet.

    Its tokens from `start` on are still to be computed, `num_tokens` in all, before it draws one that is due
    at `due_ns`; the online part of the coming step computes `tokens_now` of them.
    """

    request_id: str
    due_ns: int | None
    start: int
    num_tokens: int
    tokens_now: int = 0

    def running(self, tokens: int) -> PromptWork:
        """The same, with so many of them in the coming step."""
        return PromptWork(self.request_id, self.due_ns, self.start, self.num_tokens, tokens)


class OnlineStep(NamedTuple):
    """The online part of the coming step, and what waits behind it.

    The step is decided on at `now_ns` and starts at `start_ns`: later, where a step is still in flight.
    At `last_ns` the decoding requests drew, or will have drawn, their last token: with a step in flight that
    is `start_ns`. `tick` is the coming step's. `prompts` are in the order in which they will run. Where the
    limit holds up nothing offline (not `limits_offline`), requests that may arrive are not looked at: no miss
    follows from them.
    """

    now_ns: int
    start_ns: int
    last_ns: int
    tick: int
    num_decodes: int = 0
    decode_context: int = 0
    prompts: Iterable[PromptWork] = ()
    limits_offline: bool = True

    @property
    def decodes(self) -> StepShape:
        """The sizes of the online part without its prompts."""
        return StepShape(self.num_decodes, 0, self.num_decodes, self.decode_context)

    @property
    def shape(self) -> StepShape:
        """The sizes of the online part."""
        shape = self.decodes
        for prompt in self.prompts:
            if prompt.tokens_now:
                shape = with_chunk(shape, prompt.tokens_now, prompt.start)
        return shape


class Miss(NamedTuple):
    """This request's next token will be late by so much, whatever the offline requests do."""

    request_id: str
    late_ns: int


class StepLimit(NamedTuple):
    """How long the step may take; never less than its online part, which is always feasible.

    `request_id` names who sets the limit; None where it is an arrival that may come, or nobody, in which
    case `limit_ns` is None as well. A `miss` is the first that was found.
    """

    limit_ns: int | None
    online_ns: int
    request_id: str | None = None
    miss: Miss | None = None


class _Bound(NamedTuple):
    step_ns: int
    request_id: str | None


class Slack:
    """Turns due times into a limit for the coming step.

    `predict` gives the nanoseconds of a step, with a guard on top. `share` is how much of the slack may be
    spent: 0 keeps steps as short as without offline requests, 1 goes as far as the targets allow.
    `expect` gives them without the guard: what eats up the guard alone is no miss yet. Raises ConfigError
    where the share is not from 0 to 1.
    """

    def __init__(
        self,
        predict: Predict,
        dues: DueTimes,
        arrivals: Arrivals,
        token_budget: int,
        share: float = 1.0,
        expect: Predict | None = None,
    ) -> None:
        if not 0 <= share <= 1:
            raise ConfigError(f"the share of the slack that may be spent must be from 0 to 1, not {share}")
        self.dues = dues
        self.arrivals = arrivals
        self._predict = predict
        self._expect = expect or predict
        self._token_budget = token_budget
        self._share = share

    def limit(self, step: OnlineStep) -> StepLimit:
        """The least over the online requests of (due - start of this step - online work after this step).

        Ends at the first predicted miss, so that an overload is not walked through in every step.
        """
        decodes, shape = step.decodes, step.shape
        online_ns = self._predict(shape) if shape.new_tokens else 0
        least: _Bound | None = None
        for bound in self._bounds(step, decodes):
            if least is None or bound.step_ns < least.step_ns:
                least = bound
            if least.step_ns < online_ns:
                break
        else:
            least = self._with_arrivals(step, decodes, online_ns, least)
        if least is None:
            return StepLimit(None, online_ns)
        spare_ns = least.step_ns - online_ns
        late_ns = 0
        if spare_ns < 0 and least.request_id is not None:
            late_ns = (self._expect(shape) if shape.new_tokens else 0) - least.step_ns
        miss = Miss(least.request_id, late_ns) if least.request_id is not None and late_ns > 0 else None
        limit_ns = online_ns + int(max(spare_ns, 0) * self._share)
        return StepLimit(limit_ns, online_ns, least.request_id, miss)

    def _bounds(self, step: OnlineStep, decodes: StepShape) -> Iterator[_Bound]:
        """How long the step may take for the sake of each."""
        due = self.dues.least(step.tick, step.last_ns)
        if due is not None:
            yield _Bound(due.due_ns - step.start_ns, due.request_id)
        yield from self._prompt_bounds(step, decodes)

    def _with_arrivals(
        self, step: OnlineStep, decodes: StepShape, online_ns: int, least: _Bound | None
    ) -> _Bound | None:
        """The least, with the bound for the sake of arrivals that may come."""
        if not step.limits_offline:
            return least
        for ttft_ns in self.arrivals.ttfts_ns(least_ns=self._expect(StepShape(1))):
            enough_ns = None if least is None else least.step_ns
            step_ns = self._for_arrivals(step, decodes, online_ns, ttft_ns, enough_ns)
            if enough_ns is None or step_ns < enough_ns:
                least = _Bound(step_ns, None)
        return least

    def _for_arrivals(
        self, step: OnlineStep, decodes: StepShape, online_ns: int, ttft_ns: int, enough_ns: int | None
    ) -> int:
        """How long the step may take for the sake of those that may come with such a target."""
        until_ns = self._until_arrivals(step, decodes, ttft_ns, enough_ns)
        shortest_ns = self._predict(StepShape(1))
        if until_ns <= 0 and self._is_hopeless(step, decodes, ttft_ns):
            return int(max(shortest_ns * _HOPELESS, online_ns * _SHORTEST))
        return max(until_ns, int(shortest_ns * _SHORTEST))

    def _is_hopeless(self, step: OnlineStep, decodes: StepShape, ttft_ns: int) -> bool:
        """Whether one that arrives now is expected to be late, though no step runs before its own."""
        tokens = self.arrivals.prompt_tokens(0, step.now_ns, ttft_ns)
        pairs = self.arrivals.prompt_pairs(tokens, ttft_ns)
        chunk_tokens = self._chunk_tokens(decodes, tokens)
        work_ns = self._work_ns(decodes, tokens, pairs, chunk_tokens, self._expect)
        return step.start_ns - step.now_ns + work_ns >= ttft_ns

    def _until_arrivals(
        self, step: OnlineStep, decodes: StepShape, ttft_ns: int, enough_ns: int | None
    ) -> int:
        """How long the step may take so that whoever arrives at its start, or during it, is still in time.

        A longer step has more arrivals, which leave it less time. So the length is found by iteration: the
        estimates lie in turn below and above the solution, the first one lowest, and an odd number of them
        ends below. An estimate below that is `enough_ns` or more will do. While few arrivals were seen, at
        most half of the target is spent on waiting.
        """
        longest_ns = ttft_ns // 2 if self.arrivals.few(ttft_ns) else ttft_ns
        most = self.arrivals.prompt_tokens(ttft_ns, step.now_ns, ttft_ns)
        chunk_tokens = self._chunk_tokens(decodes, most)  # fewer come in chunks as large, or in a single one

        def allowed_ns(tokens: int) -> int:
            pairs = self.arrivals.prompt_pairs(tokens, ttft_ns)
            return max(ttft_ns - self._work_ns(decodes, tokens, pairs, chunk_tokens), 0)

        wait_ns = allowed_ns(most)
        started_ns = step.start_ns - step.now_ns
        if enough_ns is None or min(wait_ns, longest_ns) - started_ns < enough_ns:
            for _ in range(2):
                wait_ns = allowed_ns(self.arrivals.prompt_tokens(wait_ns, step.now_ns, ttft_ns))
        return min(wait_ns, longest_ns) - started_ns

    def _prompt_bounds(self, step: OnlineStep, decodes: StepShape) -> Iterator[_Bound]:
        total = sum([prompt.num_tokens - prompt.tokens_now for prompt in step.prompts])
        first = next((prompt.start + prompt.tokens_now for prompt in step.prompts), 0)
        chunk_tokens = self._chunk_tokens(decodes, total, first) if total else 0  # of the steps to come
        tokens = pairs = 0  # to be computed after this step, of all so far in the order
        for prompt in step.prompts:
            left = prompt.num_tokens - prompt.tokens_now
            tokens += left
            pairs += attention_pairs(left, prompt.start + prompt.tokens_now)
            if prompt.due_ns is None:
                continue
            later_ns = 0
            if left:
                # its last step is filled up with tokens of those behind it
                until_then = min(-(-tokens // chunk_tokens) * chunk_tokens, total)
                later_ns = self._work_ns(decodes, until_then, pairs * until_then // tokens, chunk_tokens)
            yield _Bound(prompt.due_ns - step.start_ns - later_ns, prompt.request_id)

    def _chunk_tokens(self, decodes: StepShape, most: int, start: int = 0) -> int:
        """Prompt tokens of each step to come, from `start` on: by the expected time, as prompts are cut."""
        most = max(min(most, self._token_budget - decodes.num_decodes), 1)
        return chunk_at_pace(self._expect, self.dues, decodes, start, most)

    def _work_ns(
        self,
        decodes: StepShape,
        tokens: int,
        pairs: int,
        chunk_tokens: int,
        predict: Predict | None = None,
    ) -> int:
        """What so many prompt tokens take in such chunks, beside these decodes; guarded, if not told."""
        predict = predict or self._predict
        # time is linear in the pairs: full chunks of the mean number of pairs take as long as the real ones
        steps, rest = divmod(tokens, chunk_tokens)
        pairs_each = pairs * chunk_tokens // tokens
        _, _, num, context = decodes
        total_ns = steps * predict(StepShape(num + chunk_tokens, pairs_each, num, context)) if steps else 0
        if rest:
            total_ns += predict(StepShape(num + rest, pairs - steps * pairs_each, num, context))
        return total_ns
