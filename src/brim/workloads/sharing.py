"""Block ids made from what a trace tells about sharing, where it has none itself. Whole blocks only."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from itertools import count, islice


class DocumentBlocks:
    """Requests about one document begin with its tokens; what follows is each one's own."""

    def __init__(self, block_tokens: int) -> None:
        self._block_tokens = block_tokens
        self._fresh: Iterator[int] = count()
        self._documents: dict[tuple[Hashable, int], tuple[int, ...]] = {}

    def blocks(self, document: Hashable, shared_tokens: int, input_tokens: int) -> tuple[int, ...]:
        """All requests of a document get the very same tuple: long documents cost their ids once."""
        key = (document, shared_tokens)
        if key not in self._documents:
            self._documents[key] = tuple(islice(self._fresh, shared_tokens // self._block_tokens))
        return self._documents[key]


class SessionBlocks:
    """A turn begins with `shared_tokens` of what its session knew; the next may share its whole prompt.

    Only prompts have ids: a block that holds an answer counts as seen from the second prompt with it on.
    """

    def __init__(self, block_tokens: int) -> None:
        self._block_tokens = block_tokens
        self._fresh: Iterator[int] = count()
        self._sessions: dict[Hashable, list[int]] = {}

    def blocks(self, session: Hashable, shared_tokens: int, input_tokens: int) -> tuple[int, ...]:
        known = self._sessions.setdefault(session, [])
        del known[shared_tokens // self._block_tokens :]
        known.extend(islice(self._fresh, input_tokens // self._block_tokens - len(known)))
        return tuple(known)
