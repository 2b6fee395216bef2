"""Runs the batch jobs. A job's row says where it stands; each step takes it one state further.

A job is therefore resumed after a crash, a cancel or a failure in the same way: read the row, go on.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Awaitable, Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, takewhile

import orjson

from brim.batch_api import store, validation
from brim.batch_api.backlog import BacklogWatch
from brim.batch_api.database import Database
from brim.batch_api.files import Fault, FileFolder
from brim.batch_api.flights import MOST_ENDS, Flights, given_up, together
from brim.batch_api.lines import (
    BatchLine,
    LineRecord,
    LineResult,
    Submit,
    answered,
    derived_id,
    unrun,
)
from brim.batch_api.results import FIRST_RETRY_SECONDS, LONGEST_RETRY_SECONDS, ResultWriter
from brim.batch_api.rows import BatchRow, FileRow, PendingLine
from brim.batch_api.validation import Findings, Problem
from brim.batch_api.window import Window
from brim.core.errors import EngineDead
from brim.wire.errors import as_api_error

log = logging.getLogger("brim")

_LINES_PER_READ = 256
_TICKS_PER_COMPLAINT = 60
_READ_AHEAD_LINES = 32  # from the first's place on, their bodies are in memory while the others wait for one;
_READ_AHEAD_BYTES = 256 << 10  # of large ones fewer are read


@dataclass(frozen=True, slots=True)
class InputRules:
    """What an input file may hold. `models` None means that any model name is accepted."""

    models: Callable[[], Collection[str]] | None
    max_lines: int
    max_line_bytes: int


class Jobs:
    """Owns the tasks of all running jobs."""

    def __init__(
        self,
        db: Database,
        folder: FileFolder,
        submit: Submit,
        rules: InputRules,
        *,
        window: int,
        now: Callable[[], int],
        elapsed_ns: Callable[[], int],
        tick_seconds: float,
        fault: Fault,
    ) -> None:
        self.window = Window(window)
        self.backlog = BacklogWatch(window)
        self.results = ResultWriter(db, fault)
        self.expired_lines = 0
        self._db = db
        self._folder = folder
        self._submit = submit
        self._rules = rules
        self._now = now
        self._elapsed_ns = elapsed_ns
        self._tick_seconds = tick_seconds
        self._fault = fault
        self._flights = Flights(db)
        # A large file takes seconds and much memory: one at a time, whoever asks for how many.
        self._checks = ThreadPoolExecutor(max_workers=1, thread_name_prefix="brim-batch-check")
        self._runs: dict[str, asyncio.Task[None]] = {}
        self._steps: dict[str, asyncio.Task[bool]] = {}
        self._services: list[asyncio.Task[None]] = []
        self._stopping = False
        self._failed_ticks = 0  # in a row

    async def start(self) -> None:
        """Takes up every job that has not ended, on a full disk too. Raises sqlite3.Error."""
        await self._try_tick()
        unfinished = await self._db.run(store.open_batches)
        self._services = [asyncio.create_task(self.results.run()), asyncio.create_task(self._keep_time())]
        for batch_id in unfinished:
            self.begin(batch_id)

    async def stop(self, hangs: Callable[[], Awaitable[bool]] | None = None) -> None:
        """Cancels what runs; lines in flight are pending again, results at hand are stored.

        Where the host `hangs` nevertheless, one of those lines may be why: they count as at a crash.
        """
        self._stopping = True
        tasks = [*self._runs.values(), *self._services]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._checks.shutdown(wait=False, cancel_futures=True)
        try:
            await self.results.flush()
        except Exception:
            log.exception("the last batch results could not be stored; their lines will run again")
        try:
            if hangs is not None and await hangs():
                self._flights.lose_host(EngineDead("its step does not return"))
            await self._flights.end()
        except Exception:
            log.exception("the batch lines in flight count as if the server had ended unexpectedly")

    def begin(self, batch_id: str) -> None:
        """Runs the job, unless it runs already or the next server will."""
        if batch_id not in self._runs and not self._stopping:
            run = self._runs[batch_id] = asyncio.create_task(self._run(batch_id))
            run.add_done_callback(lambda _: self._runs.pop(batch_id))

    def interrupt(self, batch_id: str) -> None:
        """Gives up the job's current step; the job goes on from what its row says now."""
        if batch_id in self._steps:
            self._steps[batch_id].cancel()

    async def tick(self) -> None:
        """Removes expired files, ends late jobs, looks at what is left. Raises OSError or sqlite3.Error."""
        await self._db.run(self._clear_expired_files, self._now())  # first: it makes room for the rest
        for batch_id, lines in (await self._db.run(store.expire_batches, self._now())).items():
            if lines:
                log.warning("%s missed its completion window with %d lines left", batch_id, lines)
            self.expired_lines += lines
            self.interrupt(batch_id)
        left = await self._db.run(store.lines_left)
        self.backlog.observe(self._elapsed_ns(), self.results.recorded.total(), left)

    def _clear_expired_files(self, db: sqlite3.Connection, now: int) -> None:
        """The bytes first: on a full disk they are the room in which to write that the files are gone."""
        removed = []
        for file_id in store.expired_files(db, now):
            try:
                self._folder.remove(file_id)
            except OSError:
                log.exception("the expired file %s could not be removed; trying again", file_id)
            else:
                removed.append(file_id)
        store.forget_files(db, removed)

    async def _keep_time(self) -> None:
        while True:
            await asyncio.sleep(self._tick_seconds)
            await self._try_tick()

    async def _try_tick(self) -> None:
        """On a full disk all ticks fail: the log, on the same disk perhaps, is told of few."""
        told = self._failed_ticks % _TICKS_PER_COMPLAINT == 0
        failed = False
        try:
            await self.tick()
        except Exception:
            failed = True
            if told:
                log.exception("expired batches and files could not be cleared; trying again")
        try:
            await self._flights.count_unclean_end()
        except Exception as exc:
            failed = True
            if told:
                log.warning("the lines in flight at the last end could not be counted: %r; trying again", exc)
        self._failed_ticks = self._failed_ticks + 1 if failed else 0

    async def _run(self, batch_id: str) -> None:
        delay = FIRST_RETRY_SECONDS
        while True:
            step = self._steps[batch_id] = asyncio.create_task(self._step(batch_id))
            try:
                if not await step:
                    return
                delay = FIRST_RETRY_SECONDS
            except asyncio.CancelledError:
                if _being_cancelled():
                    raise
            except Exception as exc:
                if _is_engine_dead(exc):
                    log.warning("%s waits for an engine; trying again in %.1f s", batch_id, delay)
                else:
                    log.exception("%s is held up; trying again in %.1f s", batch_id, delay)
                await asyncio.sleep(delay)
                delay = min(2 * delay, LONGEST_RETRY_SECONDS)
            finally:
                del self._steps[batch_id]

    async def _step(self, batch_id: str) -> bool:
        """Takes the job one state further; False once it has ended."""
        batch = await self._db.run(store.read_batch, batch_id)
        if batch.status == "validating":
            await self._validate(batch)
        elif batch.status == "in_progress":
            await self._run_lines(batch)
        elif batch.status in ("finalizing", "cancelling"):
            await self._finalise(batch)
        else:
            return False
        return True

    async def _validate(self, batch: BatchRow) -> None:
        check = partial(
            validation.check,
            self._folder.path(batch.input_file_id),
            endpoints=(batch.endpoint,),
            models=self._rules.models and self._rules.models(),
            max_lines=self._rules.max_lines,
            max_line_bytes=self._rules.max_line_bytes,
        )
        try:
            findings = await asyncio.get_running_loop().run_in_executor(self._checks, check)
        except FileNotFoundError:
            message = "The content of the input file is gone from the server; upload it again."
            findings = Findings(problems=[Problem("file_not_found", message, "input_file_id")])
        self._fault("batch.validated")
        if findings.problems:
            await self._db.run(store.fail_batch, batch.id, findings.problems, self._now())
        else:
            await self._db.run(store.begin_batch, batch.id, findings.model, findings.lines, self._now())

    async def _run_lines(self, batch: BatchRow) -> None:
        """Raises EngineDead if the host can run nothing more, once every line in flight has ended.

        Which of them it was running then, only each of them knows: none is cancelled for what another met.
        """
        last = 0
        lost: list[EngineDead] = []
        async with asyncio.TaskGroup() as running:
            while not lost and (
                lines := await self._db.run(store.pending_lines, batch.id, last, _READ_AHEAD_LINES)
            ):
                lines = _first_of(lines, _READ_AHEAD_BYTES)
                await self._begin_lines(batch, lines, running, lost)
                last = lines[-1].line_number
        if lost:
            raise lost[0]
        await self._db.run(store.finish_batch, batch.id, self._now())

    async def _begin_lines(
        self, batch: BatchRow, lines: list[PendingLine], running: asyncio.TaskGroup, lost: list[EngineDead]
    ) -> None:
        """Each as soon as there is a place for it, until the host is lost."""
        turn, most = (batch.expires_at, batch.seq), together(lines[0])
        requests: list[BatchLine] = []
        for number, line in enumerate(lines):
            await self.window.acquire(turn, most)
            try:
                # Not before there is a place: any number of jobs may wait for one.
                requests = requests or await self._take(batch, lines)
            except BaseException:
                self.window.release(most)
                raise
            if lost:
                self.window.release(most)
                return
            task = running.create_task(self._run_line(requests[number], line.unclean_ends, lost))
            # Not in the task's own `finally`: a task cancelled before it began never gets there.
            task.add_done_callback(partial(self._leave_window, most))

    async def _take(self, batch: BatchRow, lines: list[PendingLine]) -> list[BatchLine]:
        """Reads them, then marks them: what can't be read is not in flight."""
        requests = await asyncio.to_thread(self._read_requests, batch, lines)
        await self._flights.begin(batch.id, lines)
        return requests

    def _leave_window(self, most: int | None, _: asyncio.Task[None]) -> None:
        self.window.release(most)

    def _read_requests(self, batch: BatchRow, lines: list[PendingLine]) -> list[BatchLine]:
        raws = self._folder.read(
            batch.input_file_id, [(line.byte_offset, line.byte_length) for line in lines]
        )
        return [
            BatchLine(
                batch_id=batch.id,
                line_number=line.line_number,
                custom_id=line.custom_id,
                endpoint=batch.endpoint,
                body=orjson.loads(raw)["body"],
                expires_at=batch.expires_at,
                tenant=batch.tenant,
            )
            for line, raw in zip(lines, raws, strict=True)
        ]

    async def _run_line(self, request: BatchLine, unclean_ends: int, lost: list[EngineDead]) -> None:
        """Adds to `lost` if the host can run nothing more; the line stays pending then."""
        if unclean_ends >= MOST_ENDS:
            log.warning("line %d of %s is given up", request.line_number, request.batch_id)
            await self.results.record(answered(request, given_up(request, unclean_ends)))
            return
        self._fault("line.dispatched")
        try:
            record = await self._answer(request)
        except EngineDead as exc:
            lost.append(exc)
        else:
            await self.results.record(record)

    async def _answer(self, line: BatchLine) -> LineRecord:
        """Raises EngineDead if the host can run nothing more."""
        try:
            return answered(line, await self._submit(line))
        except asyncio.CancelledError:
            if _being_cancelled():
                raise
            raise EngineDead("the host gave up a batch line it was running") from None
        except EngineDead as exc:
            self._flights.lose_host(exc)
            raise
        except Exception as exc:
            error = as_api_error(exc)
            request_id = derived_id("req_", line.batch_id, line.line_number)
            return answered(line, LineResult(error.status, request_id, error.body()))

    async def _finalise(self, batch: BatchRow) -> None:
        output = await self._publishable(batch, "completed", batch.completed)
        errors = await self._publishable(batch, "failed", batch.failed)
        self._fault("batch.publishing")
        await self._db.run(store.publish_batch, batch.id, output, errors, self._now())
        self._fault("batch.published")

    async def _publishable(self, batch: BatchRow, state: str, lines: int) -> FileRow | None:
        """Writes the file of the lines in that state, if there are any."""
        if not lines:
            return None
        # The id follows from the job, so finalising again writes the same file again.
        file_id = derived_id("file-", batch.id, state)
        size = await asyncio.to_thread(self._folder.write, file_id, self._ended_lines(batch, state))
        now = self._now()
        return FileRow(
            id=file_id,
            tenant=batch.tenant,
            filename=f"{batch.id}_{'output' if state == 'completed' else 'error'}.jsonl",
            purpose="batch_output",
            bytes=size,
            created_at=now,
            expires_at=now + batch.output_expires_seconds,
        )

    def _ended_lines(self, batch: BatchRow, state: str) -> Iterator[bytes]:
        last = 0
        while rows := self._db.call(store.ended_lines, batch.id, state, last, _LINES_PER_READ):
            for number, custom_id, answer in rows:
                if answer is None:
                    assert batch.cut_short is not None
                    answer = unrun(batch.id, number, custom_id, batch.cut_short)
                yield answer
            last = rows[-1][0]


def _first_of(lines: list[PendingLine], max_bytes: int) -> list[PendingLine]:
    """As many of them as fit, at least one. One that was in flight at an unclean end is alone."""
    if lines[0].unclean_ends:
        return lines[:1]
    plain = takewhile(lambda line: not line.unclean_ends, lines)
    sizes = accumulate(line.byte_length for line in plain)
    return lines[: max(1, sum(size <= max_bytes for size in sizes))]


def _is_engine_dead(exc: BaseException) -> bool:
    """Whether nothing else is wrong: then a traceback for each line of each job would only fill the disk."""
    if isinstance(exc, BaseExceptionGroup):
        return all(map(_is_engine_dead, exc.exceptions))
    return isinstance(exc, EngineDead)


def _being_cancelled() -> bool:
    """Whether this very task was cancelled, rather than something it waits for."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
