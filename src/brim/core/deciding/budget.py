"""What one decision may still give away."""

from __future__ import annotations

from functools import cached_property

from brim.core.decision import Board
from brim.core.kvcache.timetable import Timetable
from brim.core.request import RequestView


class Budget:
    """Tokens of the step, seats in the batch, and blocks.

    `blocks` starts as those that nobody was promised. Where there is lending, and these are not enough,
    it becomes what the forecast leaves: then a promise costs only what it lifts the forecast's peak by.
    """

    def __init__(self, board: Board, tokens: int, *, lending: bool) -> None:
        self.tokens = tokens
        self.seats = board.max_num_seqs - board.num_running
        self.blocks = board.available_blocks
        self.block_size = board.block_size
        self.refused = False  # whether the request that was offered a place last did not fit
        self._board = board
        self._lending = lending
        self._ordinary = board.ordinary_blocks
        self.taken = 0  # blocks given away, less those that victims gave up at once
        self._promised: list[tuple[RequestView, bool]] = []
        self._timetable: Timetable | None = None

    @cached_property
    def blocks_under_way(self) -> int:
        """Those that come free only after this step."""
        return self._board.blocks_under_way

    def blocks_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self.block_size)

    def has(self, blocks: int) -> bool:
        """Whether so many blocks can be given away."""
        if blocks > self.blocks and self._lending:
            self._forecast()
        return blocks <= self.blocks

    def take(self, blocks: int) -> None:
        """They are given away, and nobody gives them back."""
        self.blocks -= blocks
        self._ordinary -= blocks
        self.taken += blocks

    def gain(self, blocks: int, *, at_once: bool) -> None:
        """Blocks that somebody gives up."""
        if at_once:
            self.blocks += blocks
            self.taken -= blocks
        else:
            self.blocks_under_way += blocks

    def is_ordinary(self, blocks: int) -> bool:
        """Whether they could be promised to a host: they would be there if all guests left."""
        return blocks <= self._ordinary

    def fits(self, view: RequestView, blocks: int, keep: int, *, guest: bool) -> bool:
        """Whether the request can be promised the blocks of its output beside `keep` that stay."""
        if not guest and self.has(blocks + keep):
            return True
        if not self._lending:
            return False
        own, timetable = self._board.own_blocks(view), self._forecast()
        return timetable.cost(self._board.growth(view, own, guest=guest), own) + keep <= self.blocks

    def promise(self, view: RequestView, blocks: int, *, guest: bool) -> None:
        """The blocks of the request's output are given away."""
        if not guest:
            self._ordinary -= blocks
        if self._timetable is None:
            self.blocks -= blocks
            self._promised.append((view, guest))
        else:
            self._enter(self._timetable, view, guest)

    def _forecast(self) -> Timetable:
        """From now on `blocks` is what the forecast leaves."""
        if self._timetable is None:
            self._timetable = self._board.timetable()
            self.blocks = self._board.forecast_blocks - self.taken
            for view, guest in self._promised:
                self._enter(self._timetable, view, guest)
        return self._timetable

    def _enter(self, timetable: Timetable, view: RequestView, guest: bool) -> None:
        own, before = self._board.own_blocks(view), timetable.unwritten
        timetable.held += own
        timetable.add(self._board.growth(view, own, guest=guest))
        self.blocks -= timetable.unwritten - before
