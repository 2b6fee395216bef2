"""A journal of decisions (`plugins.journal`) read for its traffic: who asked for how much, what steps took.

That does not depend on what was decided: the journal of a server that ran by itself, with Brim in its shadow,
serves as well, and so does one of another version.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from brim.core.errors import TraceError
from brim.core.estimators.step_time import StepShape
from brim.core.request import TaskClass
from brim.workloads.rows import Reading
from brim.workloads.source import JOURNAL, Table, opened
from brim.workloads.trace import NANOSECONDS, TraceRequest
from brim.workloads.wording import counted

FORMAT = 2
TARGETS = ("ttft_ns", "tpot_ns", "itl_ns", "e2e_ns")


@dataclass(slots=True)
class Served:
    """One request and what became of it; without `end_ns` it had not ended when the journal did."""

    facts: Mapping[str, Any]
    block_ids: tuple[int, ...]
    output_tokens: int = 0
    first_ns: int | None = None
    end_ns: int | None = None

    @property
    def task_class(self) -> TaskClass:
        return TaskClass(self.facts["class"])

    @property
    def ttft_seconds(self) -> float | None:
        """As the scheduler saw it: from the request's arrival to the end of the step that drew the token."""
        return None if self.first_ns is None else (self.first_ns - self.facts["arrival_ns"]) / NANOSECONDS

    @property
    def tpot_seconds(self) -> float | None:
        """None for one token, and for a request that has not ended."""
        if self.first_ns is None or self.end_ns is None or self.output_tokens < 2:
            return None
        return (self.end_ns - self.first_ns) / (self.output_tokens - 1) / NANOSECONDS

    def asked(self, zero_ns: int) -> TraceRequest:
        """As a trace has it; `zero_ns` is the arrival that counts as 0."""
        facts = self.facts
        arrival_ns, due_ns = facts["arrival_ns"], facts["deadline_ns"]
        return TraceRequest(
            arrival_ns - zero_ns,
            facts["prompt_tokens"],
            self.output_tokens,
            self.task_class,
            None if due_ns is None else (due_ns - arrival_ns) / NANOSECONDS,
            self.block_ids,
            next(iter(facts["length_keys"]), ""),
        )


class Step(NamedTuple):
    """`took_ns` from the end of the step before, or from its own begin."""

    shape: StepShape
    took_ns: int


@dataclass(slots=True)
class Journal:
    """What a journal holds. `config` is the newest; `steps` are those whose shape somebody asked for.

    `gpus` is None where the journal does not tell, as older ones.
    """

    config: Mapping[str, Any] = field(default_factory=dict)
    requests: dict[str, Served] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    gpus: int | None = None  # of the engine
    depth: int = 1  # most steps under way at once
    _in_flight: deque[tuple[int, StepShape | None]] = field(default_factory=deque)
    _free_ns: int = 0
    _block_ids: dict[str, int] = field(default_factory=dict)

    def targets(self) -> tuple[dict[str, int], int, int]:
        """The targets most online requests had (nanoseconds by name), how many had them, of how many."""
        told = Counter(
            tuple(served.facts["slo"][name] for name in TARGETS)
            for served in self.requests.values()
            if served.task_class is TaskClass.ONLINE
        )
        if not told:
            return {}, 0, 0
        usual, count = told.most_common(1)[0]
        return {n: ns for n, ns in zip(TARGETS, usual, strict=True) if ns is not None}, count, told.total()

    def take(self, line: Mapping[str, Any]) -> None:
        """The next line. Raises KeyError, TypeError or ValueError where it can't be one."""
        if JOURNAL in line:
            self._begins(line)
        elif line["call"] in ("add", "adopt"):
            self._arrived(line)
        elif line["call"] == "ran" and line["scheduled"]:
            self._in_flight.append(
                (line["now_ns"], None if line["shape"] is None else StepShape(*line["shape"]))
            )
            self.depth = max(self.depth, len(self._in_flight))
        elif line["call"] == "ended":
            self._ended(line)
        elif line["call"] == "abort":
            self._over(line["id"], line["drawn"], line["now_ns"])

    def _begins(self, head: Mapping[str, Any]) -> None:
        if head[JOURNAL] != FORMAT:
            raise ValueError(f"this journal has format {head[JOURNAL]}; known is {FORMAT}")
        self.config, self.gpus = head["config"], head.get("gpus")
        self._in_flight.clear()

    def _arrived(self, line: Mapping[str, Any]) -> None:
        """Where Brim was switched off and on, a request comes a second time."""
        ids = self._block_ids
        blocks = tuple([ids.setdefault(name, len(ids)) for name in line["blocks"]])
        self.requests.setdefault(line["request"]["id"], Served(line["request"], blocks))

    def _ended(self, line: Mapping[str, Any]) -> None:
        now_ns = line["now_ns"]
        start_ns, shape = self._in_flight.popleft()
        if shape is not None:
            self.steps.append(Step(shape, now_ns - max(start_ns, self._free_ns)))
        self._free_ns = now_ns
        for request_id in line["first"]:
            self.requests[request_id].first_ns = now_ns
        for request_id, drawn in line["over"].items():
            self._over(request_id, drawn, now_ns)

    def _over(self, request_id: str, drawn: int, now_ns: int) -> None:
        served = self.requests.get(request_id)
        if served is not None and served.end_ns is None:
            served.output_tokens, served.end_ns = drawn, now_ns


def load_journal(path: str | Path) -> Journal:
    """Raises TraceError where the file is none, with its line."""
    with opened(Path(path), "a journal of decisions") as table:
        if JOURNAL not in table.columns:
            raise TraceError(f"{path} is no journal of decisions: give what `decision_log` wrote")
        return read_journal(table)


def read_journal(table: Table) -> Journal:
    """Raises TraceError."""
    journal = Journal()
    for number, (line,) in table.rows:
        try:
            journal.take(line)
        except (KeyError, TypeError, AttributeError, IndexError) as exc:
            raise table.error(number, f"no line of a journal of decisions ({exc!r})") from None
        except ValueError as exc:
            raise table.error(number, exc) from None
    return journal


def read_requests(table: Table) -> Reading:
    """The journal's traffic as a trace. Raises TraceError."""
    journal = read_journal(table)
    seen = list(journal.requests.values())
    zero_ns = min((served.facts["arrival_ns"] for served in seen), default=0)
    requests = [served.asked(zero_ns) for served in seen if served.output_tokens]
    remarks = [f"from a journal of decisions, policy {journal.config['policy']}"]
    running = sum(served.end_ns is None for served in seen)
    for left_out, why in (
        (running, "that had not ended"),
        (len(seen) - running - len(requests), "without output tokens"),
    ):
        if left_out:
            remarks.append(f"{counted(left_out, 'request')} {why} left out")
    caching = journal.config["enable_prefix_caching"]
    return Reading(requests, remarks, journal.config["block_size"] if caching else 0)
