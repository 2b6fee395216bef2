"""A scheduler's decisions written down as they are taken, so that an incident becomes a test.

A journal is a file of JSON lines: first the configuration, then every call with all that the host
answered meanwhile, and what was decided. Prompts are not in it, only hashes of their blocks and lengths.
`plugins.replay` makes the same calls with the same answers and says where another decision comes out. What
was asked for and how long steps took stands in it whatever was decided: see `workloads.journals`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from brim.core import events
from brim.core.config import SchedulerConfig
from brim.core.errors import ConfigError
from brim.core.estimators.step_time import StepTime
from brim.core.hosted import Foreseen, HostedScheduler, Orders
from brim.core.kvcache.hosted import Host
from brim.core.kvcache.prefix_index import BlockHash, CacheObserver
from brim.core.plan import StepPlan
from brim.core.policies.named import named
from brim.core.request import FinishReason, Request
from brim.profiles.loader import load as load_profile
from brim.workloads.journals import FORMAT
from brim.workloads.source import JOURNAL

logger = logging.getLogger(__name__)

_LONGEST_LINE = 1 << 24  # bytes, by far
Answer = list[Any]  # [what was asked, the answer, how many times on end]


class _Asked:
    """A host whose answers are noted."""

    def __init__(self, host: Host, num_blocks: int) -> None:
        self.plain = host  # to be asked without a note
        self.beside = host.beside
        self._most_blocks = num_blocks
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
        answer = self.plain.num_blocks
        if answer != self._most_blocks:
            self._note("all", answer)
        return answer

    @property
    def free_blocks(self) -> int:
        answer = self.plain.free_blocks
        self._note("free", answer)
        return answer

    def wanted_among(self, count: int) -> int:
        answer = self.plain.wanted_among(count)
        self._note("wanted", answer)
        return answer

    def table(self, request_id: str, start: int) -> Sequence[int]:
        answer = list(self.plain.table(request_id, start))
        self._note("table", answer)
        return answer

    def ref_count(self, block_id: int) -> int:
        answer = self.plain.ref_count(block_id)
        self._note("refs", answer)
        return answer

    def find(self, block_hash: Any) -> int | None:
        answer = self.plain.find(block_hash)
        self._note("find", answer)
        return answer

    def hashes(self, request_id: str, start: int) -> Sequence[Any]:
        answer = self.plain.hashes(request_id, start)
        self._note("hashes", [_short(block_hash) for block_hash in answer])
        return answer

    def token_ids(self, request_id: str) -> list[int]:
        answer = self.plain.token_ids(request_id)
        self._note("tokens", len(answer))
        return answer

    def num_computed_tokens(self, request_id: str) -> int:
        answer = self.plain.num_computed_tokens(request_id)
        self._note("computed", answer)
        return answer

    def preempt(self, request_id: str) -> None:
        self.plain.preempt(request_id)

    def keep(self, block_id: int) -> None:
        self.plain.keep(block_id)

    def let_go(self, block_ids: Sequence[int]) -> None:
        self.plain.let_go(block_ids)

    def mark_online(self, block_ids: Iterable[int]) -> None:
        self.plain.mark_online(block_ids)


def _short(block_hash: Any) -> str:
    content = block_hash if isinstance(block_hash, bytes) else repr(block_hash).encode()
    return hashlib.blake2b(content, digest_size=8).hexdigest()


class JournaledScheduler(HostedScheduler):
    """`HostedScheduler` that writes down every call; starts from nothing learnt but the profile."""

    def __init__(
        self,
        config: SchedulerConfig,
        host: Host,
        path: Path,
        profile: str | None = None,
        gpus: int | None = None,
    ) -> None:
        self._asked = _Asked(host, config.num_blocks)
        _drop_cut_line(path)
        self._file = path.open("a", encoding="utf-8")
        super().__init__(config, self._asked, named(config, step_time=step_time(profile)))
        head = {JOURNAL: FORMAT, "profile": profile, "config": dataclasses.asdict(config), "gpus": gpus}
        self._write({**head, "beside": host.beside} if host.beside else head)

    def close(self) -> None:
        super().close()
        self._stop()

    @property
    def observer(self) -> CacheObserver | None:
        return None if self.queues.pool is None else self

    @property
    def known(self) -> Collection[BlockHash]:
        """As a `CacheObserver`."""
        assert self.queues.pool is not None
        return self.queues.pool.prefixes.known

    def published(self, hashes: Sequence[BlockHash], start: int, stop: int) -> None:
        """The host tells what can be found."""
        assert self.queues.pool is not None
        self._write({"call": "published", "chain": [_short(name) for name in hashes[:stop]], "start": start})
        self.queues.pool.prefixes.published(hashes, start, stop)

    def evicted(self, block_hash: BlockHash) -> None:
        """The host tells what can't be found any more."""
        assert self.queues.pool is not None
        self._write({"call": "evicted", "content": _short(block_hash)})
        self.queues.pool.prefixes.evicted(block_hash)

    def add(self, request: Request, now_ns: int) -> None:
        with self._call("add", now_ns, request=_facts(request), blocks=self._blocks(request)):
            super().add(request, now_ns)

    def adopt(self, request: Request, now_ns: int) -> None:
        with self._call("adopt", now_ns, request=_facts(request), blocks=self._blocks(request)):
            super().adopt(request, now_ns)

    def abort(self, request_id: str, now_ns: int, reason: FinishReason = FinishReason.ABORT) -> bool:
        with self._call("abort", now_ns, id=request_id, drawn=self._drawn(request_id)):
            return super().abort(request_id, now_ns, reason)

    def set_aside(self, request_id: str, now_ns: int) -> None:
        with self._call("set_aside", now_ns, id=request_id):
            super().set_aside(request_id, now_ns)

    def bring_back(self, request_id: str, now_ns: int) -> None:
        with self._call("bring_back", now_ns, id=request_id):
            super().bring_back(request_id, now_ns)

    def stand_by(self, now_ns: int) -> None:
        with self._call("stand_by", now_ns):
            super().stand_by(now_ns)

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
        with self._call("ran", now_ns, scheduled=dict(scheduled), preempted=sorted(preempted)) as noted:
            plan = super().ran(scheduled, preempted, now_ns)
            noted["shape"] = self._in_flight[-1].shape if plan else None
            return plan

    def accepted(self, guessed: Mapping[str, int]) -> None:
        if guessed:
            with self._call("accepted", 0, guessed=dict(guessed)):
                super().accepted(guessed)

    def ended(self, plan: StepPlan, over: Collection[str], now_ns: int) -> list[events.Event]:
        drawn = {request_id: self._drawn(request_id) for request_id in sorted(over)}
        kept = {name: self._drawn(name) for name in self._dropped()}
        with self._call("ended", now_ns, over=drawn, **({"kept": kept} if kept else {})) as noted:
            told = super().ended(plan, over, now_ns)
            noted["first"] = [event.request_id for event in told if isinstance(event, events.FirstToken)]
            return told

    def _dropped(self) -> list[str]:
        """Whose token of the oldest step counts for nothing here, while the host may have kept it."""
        flight = self._in_flight[0]
        dropped = [state.request.request_id for state in flight.plan.sampling() if state in flight.dropped]
        return [name for name in dropped if name in self._states]

    def _blocks(self, request: Request) -> list[str]:
        """The names of the prompt's whole blocks, where prompts are cached at all."""
        if not self.config.enable_prefix_caching:
            return []
        whole = len(request.prompt_token_ids) // self.config.block_size
        return [_short(name) for name in self._asked.plain.hashes(request.request_id, 0)[:whole]]

    def _drawn(self, request_id: str) -> int:
        """Tokens that it has been answered; 0 for a request that is over already."""
        state = self._states.get(request_id)
        return 0 if state is None else state.num_output_tokens

    @contextmanager
    def _call(self, name: str, now_ns: int, **more: Any) -> Iterator[dict[str, Any]]:
        """Writes the call down, one that fails too; what the host is asked in between is no part of any."""
        self._asked.take()
        try:
            yield more
        finally:
            self._write({"call": name, "now_ns": now_ns, **more, "host": self._asked.take()})

    def _write(self, line: Mapping[str, Any]) -> None:
        if self._file.closed:
            return
        try:
            self._file.write(json.dumps(line, separators=(",", ":")) + "\n")
            self._file.flush()
        except OSError:
            logger.exception("%s ends here, and decisions go on: it could not be written", self._file.name)
            self._stop()

    def _stop(self) -> None:
        with suppress(OSError):  # what could not be written is written once more, and may fail again
            self._file.close()


def refuse_unwritable(path: Path) -> None:
    """Raises ConfigError where no journal can be written to `path`. Leaves nothing there."""
    new = not path.exists()
    try:
        path.open("a").close()
        if new:
            path.unlink()
    except OSError as exc:
        raise ConfigError(f"decision_log can't be written to {path}: {exc.strerror}") from exc


def _drop_cut_line(path: Path) -> None:
    """The last line, where a full disk or a kill cut it off: the next one would go on in it."""
    if not path.exists():
        return
    with path.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - _LONGEST_LINE, 0))
        tail = file.read()
        file.truncate(size - len(tail) + tail.rfind(b"\n") + 1)


def step_time(profile: str | None) -> StepTime | None:
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
