"""Takes the decisions of a journal again: with the same version every one comes out the same."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from brim.core.config import SchedulerConfig
from brim.core.errors import ConfigError
from brim.core.hosted import HostedScheduler, Orders
from brim.core.kvcache.hosted import Beside
from brim.core.plan import StepPlan
from brim.core.policies.named import named
from brim.core.request import SLO, Request, SamplingParams, TaskClass
from brim.plugins.journal import Answer, step_time
from brim.workloads.journals import FORMAT


class Replay(NamedTuple):
    """What came of it: `difference` is None where every decision came out the same.

    `cut`: the last line was not written to its end, and is left out.
    """

    calls: int
    steps: int
    difference: str | None = None
    cut: bool = False


class _Differs(Exception):
    """Other decisions need other answers."""


class _Answers:
    """A host that answers what was noted."""

    def __init__(self, num_blocks: int, beside: Sequence[Beside]) -> None:
        self.beside = beside
        self._most_blocks = num_blocks
        self.answers: list[Answer] = []
        self.tokens: dict[str, list[int]] = {}

    def _next(self, asked: str) -> Any:
        if not self.answers or self.answers[0][0] != asked:
            noted = self.answers[0][0] if self.answers else "nothing more"
            raise _Differs(f"asked the host for {asked!r} where the journal has {noted!r}")
        first = self.answers[0]
        first[2] -= 1
        if not first[2]:
            del self.answers[0]
        return first[1]

    @property
    def num_blocks(self) -> int:
        fewer = self.answers and self.answers[0][0] == "all"
        return int(self._next("all")) if fewer else self._most_blocks

    @property
    def free_blocks(self) -> int:
        return int(self._next("free"))

    def wanted_among(self, count: int) -> int:
        return int(self._next("wanted"))

    def table(self, request_id: str, start: int) -> Sequence[int]:
        return list(self._next("table"))

    def ref_count(self, block_id: int) -> int:
        return int(self._next("refs"))

    def find(self, block_hash: Any) -> int | None:
        found: int | None = self._next("find")
        return found

    def hashes(self, request_id: str, start: int) -> Sequence[Any]:
        return list(self._next("hashes"))

    def token_ids(self, request_id: str) -> list[int]:
        self.tokens[request_id] = [0] * int(self._next("tokens"))
        return self.tokens[request_id]

    def num_computed_tokens(self, request_id: str) -> int:
        return int(self._next("computed"))

    def preempt(self, request_id: str) -> None:
        """The host did."""

    def keep(self, block_id: int) -> None:
        """The host did."""

    def let_go(self, block_ids: Sequence[int]) -> None:
        """The host did."""

    def mark_online(self, block_ids: Iterable[int]) -> None:
        """The host did."""


def replay(path: Path) -> Replay:
    """Makes the calls of a journal again, up to the first decision that comes out another way.

    Where a server began anew in between, so does this. Raises ConfigError where the file is no journal, and
    where a line can't be one.
    """
    player: _Player | None = None
    calls, steps, cut = 0, 0, False
    for number, line in _lines(path):
        if line is None:
            cut = True
            break
        with _readable(path, number):
            if "brim_journal" in line:
                player = _Player(line)
                continue
            if player is None:
                raise ConfigError(
                    f"{path} does not begin with a configuration: it is no journal of decisions"
                )
            calls, steps = calls + 1, steps + (line["call"] == "ran")
            difference = player.outcome(line)
        if difference is not None:
            return Replay(calls, steps, f"line {number} ({line['call']}): {difference}")
    if player is None:
        raise ConfigError(f"{path} is empty: give what a scheduler wrote (`decision_log` of Brim's settings)")
    return Replay(calls, steps, cut=cut)


@contextmanager
def _readable(path: Path, number: int) -> Iterator[None]:
    """Whatever a line lacks, or has too much of, is told with its number."""
    try:
        yield
    except (LookupError, TypeError, AttributeError, ValueError) as exc:
        raise ConfigError(
            f"line {number} of {path} can't be played ({exc!r}): give a journal that nobody changed, "
            "of this version of Brim"
        ) from exc


def _lines(path: Path) -> Iterator[tuple[int, dict[str, Any] | None]]:
    """With their numbers; None for a last one that a full disk or a kill cut off."""
    try:
        with path.open(encoding="utf-8") as file:
            for number, text in enumerate(file, 1):
                try:
                    yield number, _parsed(path, number, text)
                except ConfigError:
                    if number == 1 or text.endswith("\n"):
                        raise
                    yield number, None
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is no text: give a journal of decisions, unpacked") from None
    except OSError as exc:
        raise ConfigError(f"can't read {path}: {exc.strerror}: give a journal of decisions") from exc


def _parsed(path: Path, number: int, text: str) -> dict[str, Any]:
    try:
        line = json.loads(text)
    except (ValueError, RecursionError):
        raise ConfigError(f"line {number} of {path} is no JSON: was the file cut?") from None
    if not isinstance(line, dict) or not {"brim_journal", "call"} & set(line):
        raise ConfigError(f"line {number} of {path} is no line of a journal of decisions")
    return line


class _Player:
    def __init__(self, head: Mapping[str, Any]) -> None:
        if head["brim_journal"] != FORMAT:
            raise ConfigError(f"this journal has format {head['brim_journal']}; known is {FORMAT}")
        config = SchedulerConfig(**head["config"])
        self._host = _Answers(config.num_blocks, [Beside(*each) for each in head.get("beside", ())])
        self._scheduler = HostedScheduler(
            config, self._host, named(config, step_time=step_time(head["profile"]))
        )
        self._in_flight: list[StepPlan] = []

    def outcome(self, line: Mapping[str, Any]) -> str | None:
        """What came out otherwise; None where nothing did."""
        try:
            return self._play(line)
        except _Differs as exc:
            return str(exc)

    def _play(self, line: Mapping[str, Any]) -> str | None:
        if "host" not in line:
            self._told(line)
            return None
        self._host.answers = [list(answer) for answer in line["host"]]
        difference: str | None = getattr(self, f"_{line['call']}")(line, line["now_ns"])
        if difference is None and self._host.answers:
            return f"did not ask the host for {self._host.answers[0][0]!r}"
        return difference

    def _told(self, line: Mapping[str, Any]) -> None:
        observer = self._scheduler.observer
        if observer is None:
            raise ValueError("the policy keeps no books of prefixes")
        if line["call"] == "published":
            observer.published(line["chain"], line["start"], len(line["chain"]))
        else:
            observer.evicted(line["content"])

    def _add(self, line: Mapping[str, Any], now_ns: int) -> None:
        self._scheduler.add(_request(line["request"]), now_ns)

    def _adopt(self, line: Mapping[str, Any], now_ns: int) -> None:
        self._scheduler.adopt(_request(line["request"]), now_ns)

    def _abort(self, line: Mapping[str, Any], now_ns: int) -> None:
        self._scheduler.abort(line["id"], now_ns)

    def _set_aside(self, line: Mapping[str, Any], now_ns: int) -> None:
        self._scheduler.set_aside(line["id"], now_ns)

    def _bring_back(self, line: Mapping[str, Any], now_ns: int) -> None:
        self._scheduler.bring_back(line["id"], now_ns)

    def _stand_by(self, line: Mapping[str, Any], now_ns: int) -> None:
        self._scheduler.stand_by(now_ns)

    def _order(self, line: Mapping[str, Any], now_ns: int) -> str | None:
        return _difference(line, self._scheduler.order(now_ns))

    def _foresee(self, line: Mapping[str, Any], now_ns: int) -> str | None:
        return _difference(line, self._scheduler.foresee(now_ns).orders)

    def _ran(self, line: Mapping[str, Any], now_ns: int) -> None:
        plan = self._scheduler.ran(line["scheduled"], line["preempted"], now_ns)
        if plan:
            self._in_flight.append(plan)

    def _accepted(self, line: Mapping[str, Any], now_ns: int) -> None:
        for request_id, num_tokens in line["guessed"].items():
            self._host.tokens[request_id] += [0] * num_tokens
        self._scheduler.accepted(line["guessed"])

    def _ended(self, line: Mapping[str, Any], now_ns: int) -> None:
        plan = self._in_flight.pop(0)
        for state in self._scheduler.drawing():
            self._host.tokens[state.request.request_id].append(0)
        for state in self._scheduler.states():  # what was guessed in a last step, or kept of a dropped one
            drawn = (line["over"] | line.get("kept", {})).get(state.request.request_id, 0)
            state.known.extend([0] * (drawn - state.num_output_tokens))
        self._scheduler.ended(plan, line["over"], now_ns)


def _difference(line: Mapping[str, Any], orders: Orders) -> str | None:
    noted = Orders(line["admit"], line["tokens"])
    now = Orders(list(orders.admit), dict(orders.tokens))
    return None if noted == now else f"the journal has {noted}, now it is {now}"


def _request(facts: Mapping[str, Any]) -> Request:
    return Request(
        facts["id"],
        (0,) * facts["prompt_tokens"],
        SamplingParams(temperature=0.0, max_tokens=facts["max_tokens"]),
        TaskClass(facts["class"]),
        facts["arrival_ns"],
        facts["priority"],
        facts["deadline_ns"],
        SLO(**facts["slo"]),
        length_keys=tuple(facts["length_keys"]),
    )
