"""A scheduler's decisions written down as they are taken, so that an incident becomes a test.

A journal is a file of JSON lines: first the configuration, then every call with all that the host
answered meanwhile, and what was decided. Prompts are not in it, only hashes of their blocks and lengths.
`replay` makes the same calls with the same answers and says where another decision comes out.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from brim.core import events
from brim.core.config import SchedulerConfig
from brim.core.errors import ConfigError
from brim.core.estimators.step_time import StepTime
from brim.core.hosted import Foreseen, HostedScheduler, Orders
from brim.core.kvcache.hosted import Host
from brim.core.kvcache.prefix_index import BlockHash, CacheObserver
from brim.core.plan import StepPlan
from brim.core.policies.named import named
from brim.core.request import SLO, FinishReason, Request, SamplingParams, TaskClass
from brim.profiles.loader import load as load_profile

FORMAT = 1
Answer = list[Any]  # [what was asked, the answer, how many times on end]


class _Asked:
    """A host whose answers are noted."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self.answers: list[Answer] = []

    def take(self) -> list[Answer]:
        answers, self.answers = self.answers, []
        return answers

    def _note(self, asked: str, answer: Any) -> None:
        if self.answers and self.answers[-1][:2] == [asked, answer]:
            self.answers[-1][2] += 1
        else:
            self.answers.append([asked, answer, 1])

    @property
    def num_blocks(self) -> int:
        return self._host.num_blocks

    @property
    def free_blocks(self) -> int:
        answer = self._host.free_blocks
        self._note("free", answer)
        return answer

    def wanted_among(self, count: int) -> int:
        answer = self._host.wanted_among(count)
        self._note("wanted", answer)
        return answer

    def table(self, request_id: str, start: int) -> Sequence[int]:
        answer = list(self._host.table(request_id, start))
        self._note("table", answer)
        return answer

    def ref_count(self, block_id: int) -> int:
        answer = self._host.ref_count(block_id)
        self._note("refs", answer)
        return answer

    def find(self, block_hash: Any) -> int | None:
        answer = self._host.find(block_hash)
        self._note("find", answer)
        return answer

    def hashes(self, request_id: str, start: int) -> Sequence[Any]:
        answer = self._host.hashes(request_id, start)
        self._note("hashes", [_short(block_hash) for block_hash in answer])
        return answer

    def token_ids(self, request_id: str) -> list[int]:
        answer = self._host.token_ids(request_id)
        self._note("tokens", len(answer))
        return answer

    def num_computed_tokens(self, request_id: str) -> int:
        answer = self._host.num_computed_tokens(request_id)
        self._note("computed", answer)
        return answer

    def preempt(self, request_id: str) -> None:
        self._host.preempt(request_id)

    def keep(self, block_id: int) -> None:
        self._host.keep(block_id)

    def let_go(self, block_ids: Sequence[int]) -> None:
        self._host.let_go(block_ids)

    def mark_online(self, block_ids: Iterable[int]) -> None:
        self._host.mark_online(block_ids)


def _short(block_hash: Any) -> str:
    content = block_hash if isinstance(block_hash, bytes) else repr(block_hash).encode()
    return hashlib.blake2b(content, digest_size=8).hexdigest()


class JournaledScheduler(HostedScheduler):
    """`HostedScheduler` that writes down every call; starts from nothing learnt but the profile."""

    def __init__(self, config: SchedulerConfig, host: Host, path: Path, profile: str | None = None) -> None:
        self._asked = _Asked(host)
        self._file = path.open("a", encoding="utf-8")
        super().__init__(config, self._asked, named(config, step_time=_step_time(profile)))
        self._write({"brim_journal": FORMAT, "profile": profile, "config": dataclasses.asdict(config)})

    def close(self) -> None:
        super().close()
        self._file.close()

    @property
    def observer(self) -> CacheObserver | None:
        return None if self.queues.pool is None else self

    def published(self, hashes: Sequence[BlockHash], start: int, stop: int) -> None:
        """The host tells what can be found."""
        assert self.queues.pool is not None
        self._write({"call": "published", "chain": [_short(name) for name in hashes[:stop]], "start": start})
        self.queues.pool.published(hashes, start, stop)

    def evicted(self, block_hash: BlockHash) -> None:
        """The host tells what can't be found any more."""
        assert self.queues.pool is not None
        self._write({"call": "evicted", "content": _short(block_hash)})
        self.queues.pool.evicted(block_hash)

    def add(self, request: Request, now_ns: int) -> None:
        with self._call("add", now_ns, request=_facts(request)):
            super().add(request, now_ns)

    def adopt(self, request: Request, now_ns: int) -> None:
        with self._call("adopt", now_ns, request=_facts(request)):
            super().adopt(request, now_ns)

    def abort(self, request_id: str, now_ns: int, reason: FinishReason = FinishReason.ABORT) -> bool:
        with self._call("abort", now_ns, id=request_id):
            return super().abort(request_id, now_ns, reason)

    def order(self, now_ns: int) -> Orders:
        with self._call("order", now_ns) as noted:
            orders = super().order(now_ns)
            noted.update(orders._asdict())
            return orders

    def foresee(self, now_ns: int) -> Foreseen:
        with self._call("foresee", now_ns) as noted:
            foreseen = super().foresee(now_ns)
            noted.update(foreseen.orders._asdict())
            return foreseen

    def ran(self, scheduled: Mapping[str, int], preempted: Collection[str], now_ns: int) -> StepPlan:
        with self._call("ran", now_ns, scheduled=dict(scheduled), preempted=sorted(preempted)):
            return super().ran(scheduled, preempted, now_ns)

    def ended(self, plan: StepPlan, over: Collection[str], now_ns: int) -> list[events.Event]:
        with self._call("ended", now_ns, over=sorted(over)):
            return super().ended(plan, over, now_ns)

    @contextmanager
    def _call(self, name: str, now_ns: int, **more: Any) -> Iterator[dict[str, Any]]:
        """Writes the call down, one that fails too; what the host is asked in between is no part of any."""
        self._asked.take()
        try:
            yield more
        finally:
            self._write({"call": name, "now_ns": now_ns, **more, "host": self._asked.take()})

    def _write(self, line: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(line, separators=(",", ":")) + "\n")
        self._file.flush()


class Replay(NamedTuple):
    """What came of it: `difference` is None where every decision came out the same."""

    calls: int
    steps: int
    difference: str | None = None


class _Differs(Exception):
    """Other decisions need other answers."""


class _Answers:
    """A host that answers what was noted."""

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
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

    Where a server began anew in between, so does this. Raises ConfigError where the file is no journal.
    """
    player: _Player | None = None
    calls = steps = 0
    for number, line in _lines(path):
        if "brim_journal" in line:
            player = _Player(line)
            continue
        if player is None:
            raise ConfigError(f"{path} does not begin with a configuration: it is no journal of decisions")
        calls, steps = calls + 1, steps + (line["call"] == "ran")
        try:
            difference = player.play(line)
        except _Differs as exc:
            difference = str(exc)
        if difference is not None:
            return Replay(calls, steps, f"line {number} ({line['call']}): {difference}")
    return Replay(calls, steps)


def _lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with path.open(encoding="utf-8") as file:
        for number, text in enumerate(file, 1):
            try:
                line = json.loads(text)
            except ValueError:
                raise ConfigError(f"line {number} of {path} is no JSON: was the file cut?") from None
            if not isinstance(line, dict) or not {"brim_journal", "call"} & set(line):
                raise ConfigError(f"line {number} of {path} is no line of a journal of decisions")
            yield number, line


class _Player:
    def __init__(self, head: Mapping[str, Any]) -> None:
        if head["brim_journal"] != FORMAT:
            raise ConfigError(f"this journal has format {head['brim_journal']}; known is {FORMAT}")
        config = SchedulerConfig(**head["config"])
        self._host = _Answers(config.num_blocks)
        self._scheduler = HostedScheduler(
            config, self._host, named(config, step_time=_step_time(head["profile"]))
        )
        self._in_flight: list[StepPlan] = []

    def play(self, line: Mapping[str, Any]) -> str | None:
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
        assert observer is not None
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

    def _order(self, line: Mapping[str, Any], now_ns: int) -> str | None:
        return _difference(line, self._scheduler.order(now_ns))

    def _foresee(self, line: Mapping[str, Any], now_ns: int) -> str | None:
        return _difference(line, self._scheduler.foresee(now_ns).orders)

    def _ran(self, line: Mapping[str, Any], now_ns: int) -> None:
        plan = self._scheduler.ran(line["scheduled"], line["preempted"], now_ns)
        if plan:
            self._in_flight.append(plan)

    def _ended(self, line: Mapping[str, Any], now_ns: int) -> None:
        plan = self._in_flight.pop(0)
        for state in self._scheduler.drawing():
            self._host.tokens[state.request.request_id].append(0)
        self._scheduler.ended(plan, line["over"], now_ns)


def _difference(line: Mapping[str, Any], orders: Orders) -> str | None:
    noted = Orders(line["admit"], line["tokens"])
    now = Orders(list(orders.admit), dict(orders.tokens))
    return None if noted == now else f"the journal has {noted}, now it is {now}"


def _step_time(profile: str | None) -> StepTime | None:
    return None if profile is None else load_profile(profile).step_time


def _facts(request: Request) -> dict[str, Any]:
    return {
        "id": request.request_id,
        "prompt_tokens": len(request.prompt_token_ids),
        "max_tokens": request.sampling.max_tokens,
        "class": request.task_class.value,
        "arrival_ns": request.arrival_ns,
        "priority": request.priority,
        "deadline_ns": request.deadline_ns,
        "slo": dataclasses.asdict(request.slo),
        "length_keys": request.length_keys,
    }


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
