"""Which offline request is added to the coming step next, if any.

A step starts from the last one's offline part: what decodes goes on (KEEP) unless the time is too short
for it, what is half done gets the chunk that the time allows (RESIZE), and requests that wait are added
one by one (ADD) as long as that makes the step better. Built from the published summaries of Echo
(arXiv 2504.03651); the score is our own where they are silent.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

from brim.core.estimators.chunk_size import with_chunk
from brim.core.estimators.refitted import RefittedStepTime
from brim.core.estimators.step_time import StepShape, attention_pairs
from brim.core.request import RequestView

_MANY = 32  # steps' work in one: what a token takes where the step's constant is shared by many
_PATIENCE_NS = 3600 * 1_000_000_000
_TURN = 16  # the oldest has its turn once it was the oldest for so many times what its prompt takes
_TOGETHER = 16  # in one of so many steps all enter whose gain is above 0


class Offer(NamedTuple):
    """A waiting request: the tokens that the cache holds of it, the chunk that the step has time for, and
    blocks that somebody waits for and that would lose their content.
    """

    view: RequestView
    hit_tokens: int
    chunk_tokens: int
    wanted_blocks: int


def presses(view: RequestView, now_ns: int) -> bool:
    """Whether it goes before whatever scores more. Who has no deadline goes by `Planning.has_its_turn`."""
    from_ns = view.request.presses_from_ns
    return from_ns is not None and from_ns <= now_ns


class Planning:
    """Score = (benefit - punishment) / predicted time of the step, all in predicted seconds.

    Benefit is the offline work that the step does, and that which newly used prefixes save. Punishment is
    the work to compute again, once, what loses its content although somebody waits for it. Both count by
    the part of its prompt that the request computes in the step. Where not `by_rate`, the time does not
    divide, but is taken off: score = benefit - punishment - time.
    """

    families = 64  # requests of one prefix that a step may add

    def __init__(
        self,
        steps: RefittedStepTime,
        block_size: int,
        *,
        by_rate: bool = True,
        patience_ns: int = _PATIENCE_NS,
    ) -> None:
        self._steps = steps
        self._patience_ns = patience_ns
        self._block_size = block_size
        self._by_rate = by_rate

    def work_ns(self, shape: StepShape) -> float:
        """What the sizes take in well-filled steps."""
        many = StepShape(*(size * _MANY for size in shape))
        return self._steps.nanoseconds(many) / _MANY if shape.new_tokens else 0.0

    def gain_ns(self, offer: Offer) -> float:
        """Benefit less punishment of adding it."""
        start, tokens = offer.hit_tokens, offer.chunk_tokens
        part = tokens / (offer.view.num_tokens - start)
        done = StepShape(tokens, attention_pairs(tokens, start))
        lost = offer.wanted_blocks * self._block_size
        saved = self.work_ns(_prompt(start)) - self.work_ns(_prompt(lost))
        return self.work_ns(done) + part * saved

    def has_its_turn(self, view: RequestView, hit_tokens: int, since_ns: int, now_ns: int) -> bool:
        """Whether this request, the oldest since `since_ns`, goes before whatever scores more.

        Else one without a hit could wait for ever where requests with hits keep coming. It must have waited
        for `patience_ns`, and as the oldest for many times what its prompt takes: so turns take little of
        the time, and prefixes stay together where all of a long backlog have waited that long.
        """
        if now_ns - view.request.arrival_ns < self._patience_ns:
            return False
        left = view.num_tokens - hit_tokens
        work_ns = self.work_ns(StepShape(left, attention_pairs(left, hit_tokens)))
        return now_ns - since_ns >= _TURN * work_ns

    def together(self, tick: int) -> bool:
        """Whether in the step of that tick all enter whose gain is above 0, even if the step scores less.

        A single prompt beside many decodes may cost more time than its work is worth, so that none would
        ever enter. Several in one step share that cost and make the steps after it fuller. And where the
        prompt's cost was overestimated, running one is the only way to find out.
        """
        return tick % _TOGETHER == _TOGETHER // 2

    def gaining(self, offers: Iterable[Offer]) -> list[Offer]:
        """Those whose benefit is more than their punishment."""
        return [offer for offer in offers if self.gain_ns(offer) > 0]

    def best(self, offers: Iterable[Offer], step: StepShape, gain_ns: float) -> Offer | None:
        """The one with which the step scores most; None where it scores no more than without.

        `gain_ns` is the step's so far; where it has none, and so no offline work, the best there is is taken.
        """
        best, most = None, self._score(gain_ns, step) if gain_ns > 0 else -math.inf
        for offer in offers:
            shape = with_chunk(step, offer.chunk_tokens, offer.hit_tokens)
            score = self._score(gain_ns + self.gain_ns(offer), shape)
            if score > most:
                best, most = offer, score
        return best

    def _score(self, gain_ns: float, shape: StepShape) -> float:
        took_ns = max(self._steps.nanoseconds(shape), 1)
        return gain_ns / took_ns if self._by_rate else gain_ns - took_ns


def _prompt(tokens: int) -> StepShape:
    return StepShape(tokens, attention_pairs(tokens))
