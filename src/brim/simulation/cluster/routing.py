"""Which replica gets a request: filter, score, pick. Rules read `Books` and return a number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Protocol

from brim.core.errors import ConfigError
from brim.core.estimators.step_time import StepShape, attention_pairs
from brim.core.request import SLO
from brim.simulation.cluster.books import Books
from brim.simulation.machine import Machine
from brim.workloads.trace import TraceRequest

_NS_PS = 1000
Key = tuple[float, ...]


class Filter(Protocol):
    def keep(self, replicas: Sequence[Books]) -> Sequence[Books]:
        """Those that may be chosen; at least one."""


class Score(Protocol):
    def key(self, replica: Books, request: TraceRequest, slo: SLO) -> Key:
        """The smallest is chosen; of equals the one that was chosen longest ago."""


@dataclass(frozen=True, slots=True)
class Everyone:
    def keep(self, replicas: Sequence[Books]) -> Sequence[Books]:
        return replicas


@dataclass(frozen=True, slots=True)
class NearTheLeast:
    """Who has at most `factor` times the requests of the least loaded, and `more` besides."""

    factor: float = 1.5
    more: int = 4

    def keep(self, replicas: Sequence[Books]) -> Sequence[Books]:
        most = self.factor * min(books.online for books in replicas) + self.more
        return [books for books in replicas if books.online <= most]


class RoundRobin:
    """Whoever was chosen longest ago."""

    def key(self, replica: Books, request: TraceRequest, slo: SLO) -> Key:
        return ()


class LeastLoad:
    """The fewest requests under way; of equals, the fewest prompt tokens that wait."""

    def key(self, replica: Books, request: TraceRequest, slo: SLO) -> Key:
        return (replica.online, replica.pending_prompt_tokens)


class ShortestPromptQueue:
    """The fewest prompt tokens that wait: for replicas that compute prompts only."""

    def key(self, replica: Books, request: TraceRequest, slo: SLO) -> Key:
        return (replica.pending_prompt_tokens,)


@dataclass(frozen=True, slots=True)
class PrefixAffinity:
    """The fewest prompt tokens to compute before this request's first token, its known prefix left out."""

    block_tokens: int

    def key(self, replica: Books, request: TraceRequest, slo: SLO) -> Key:
        known = replica.known_blocks(request.block_ids) * self.block_tokens
        return (replica.pending_prompt_tokens - min(known, request.input_tokens), replica.online)


@dataclass(frozen=True, slots=True)
class SlackAware:
    """Where the request and those with it keep most of their targets, as predicted from the step times.

    The time to the first token is taken as one step with all prompts that wait; the time of a token as one
    of all that decode.
    """

    machine: Machine

    def key(self, replica: Books, request: TraceRequest, slo: SLO) -> Key:
        prompt, decodes = request.input_tokens, replica.online + 1
        context = replica.prompt_tokens + prompt
        first = StepShape(
            replica.pending_prompt_tokens + prompt + decodes, attention_pairs(prompt), decodes, context
        )
        each = StepShape(decodes, 0, decodes, context)
        ttft_ns = self.machine.picoseconds(first, decodes) / _NS_PS
        tpot_ns = self.machine.picoseconds(each, decodes) / _NS_PS
        return (max(ttft_ns / (slo.ttft_ns or 1e9), tpot_ns / slo.tpot_ns if slo.tpot_ns else 0.0), ttft_ns)


@dataclass(frozen=True, slots=True)
class Routing:
    """One way to choose among the replicas that are up."""

    score: Score
    filter: Filter = Everyone()

    def pick(self, replicas: Sequence[Books], request: TraceRequest, slo: SLO) -> Books:
        """`replicas` is not empty."""
        if len(replicas) == 1:
            return replicas[0]
        key = self.score.key
        return min(self.filter.keep(replicas), key=lambda books: (key(books, request, slo), books.last_sent))


ROUTINGS = ("round-robin", "least-load", "prefix-affinity", "slack-aware")


def routing(name: str, machine: Machine, block_tokens: int) -> Routing:
    """A rule by its name. Raises ConfigError with the names there are."""
    match name:
        case "round-robin":
            return Routing(RoundRobin())
        case "least-load":
            return Routing(LeastLoad())
        case "prefix-affinity":
            return Routing(PrefixAffinity(block_tokens), NearTheLeast())
        case "slack-aware":
            return Routing(SlackAware(machine))
    close = get_close_matches(name, ROUTINGS, 1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    raise ConfigError(f"there is no routing {name!r}: {hint}take one of {', '.join(ROUTINGS)}")
