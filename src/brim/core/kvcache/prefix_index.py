"""From the tokens of a prefix to the block that holds their KV: chained hashes of whole blocks."""

from __future__ import annotations

import hashlib
from array import array
from collections import deque
from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
from itertools import islice
from typing import Protocol

from brim.core.request import RequestView

ROOT = b""
_LATEST = 4096  # evictions that are remembered
BlockHash = Hashable  # names one block's content together with everything before it


class BlockHashing(Protocol):
    """Names the contents of a request's whole blocks. Equal names mean equal tokens up to that block."""

    def extend(self, hashes: list[BlockHash], view: RequestView, block_size: int) -> None:
        """Appends the names of the whole blocks of known tokens that `hashes` does not have yet."""


class CacheObserver(Protocol):
    """Who is told which prefixes can be found."""

    @property
    def known(self) -> Collection[BlockHash]:
        """The blocks that can be found, at any time, as far as it was told."""

    def published(self, hashes: Sequence[BlockHash], start: int, stop: int) -> None:
        """Of a chain from its first block on, the blocks `start` to `stop` can be found, if not before."""

    def evicted(self, block_hash: BlockHash) -> None:
        """This block can't be found any more."""


class Evictions:
    """The latest blocks that can't be found any more, each with how many come before it in its chain."""

    def __init__(self) -> None:
        self.count = 0  # ever
        self._latest: deque[tuple[int, BlockHash]] = deque(maxlen=_LATEST)

    def add(self, depth: int, block_hash: BlockHash) -> None:
        self.count += 1
        self._latest.append((depth, block_hash))

    def left_of(self, hashes: Sequence[BlockHash], length: int, since: int) -> int:
        """How many of the first `length`, all there when the count was `since`, have been there ever since.

        0 where so much was evicted that to look for them is less work.
        """
        missed = self.count - since
        if missed > min(length, len(self._latest)):
            return 0
        for depth, block_hash in islice(reversed(self._latest), missed):
            if depth < length and hashes[depth] == block_hash:
                length = depth
        return length


class ToldCache(Protocol):
    """What can be found, as far as somebody was told, and what was evicted of it."""

    @property
    def known(self) -> Collection[BlockHash]: ...
    @property
    def evictions(self) -> Evictions: ...


class Run:
    """How far a chain is cached. A look goes on from where the last one ended: it costs what has changed."""

    __slots__ = ("_evictions", "_length")

    def __init__(self) -> None:
        self._length = 0
        self._evictions = 0  # by then

    def look(self, hashes: Sequence[BlockHash], most: int, cache: ToldCache) -> int:
        """How many of the first `most` of the chain are known, without a gap from the first on."""
        known, evictions = cache.known, cache.evictions
        length = evictions.left_of(hashes, self._length, self._evictions)
        while length < most and hashes[length] in known:
            length += 1
        self._length, self._evictions = length, evictions.count
        return min(length, most)


class TokenHashing:
    """Chained hashes of the tokens themselves: what a server must use."""

    def extend(self, hashes: list[BlockHash], view: RequestView, block_size: int) -> None:
        extend_hashes(hashes, view.token_ids, block_size, view.request.cache_salt)


def root_hash(cache_salt: str) -> bytes:
    """The hash a chain starts from; different salts never share a block."""
    return hashlib.blake2b(cache_salt.encode(), digest_size=16).digest() if cache_salt else ROOT


def extend_hashes(
    hashes: list[BlockHash], token_ids: Sequence[int], block_size: int, cache_salt: str
) -> None:
    """Appends the hashes of the whole blocks of `token_ids` that `hashes` does not have yet.

    Each hash covers its block's tokens and, through its parent's hash, every token before. It is
    cryptographic: with a guessable hash, one user could craft a prompt that reads another's cache.
    """
    parent = hashes[-1] if hashes else root_hash(cache_salt)
    assert isinstance(parent, bytes)
    for start in range(len(hashes) * block_size, len(token_ids) - block_size + 1, block_size):
        tokens = array("q", token_ids[start : start + block_size]).tobytes()
        parent = hashlib.blake2b(parent + tokens, digest_size=16).digest()
        hashes.append(parent)


class PrefixIndex:
    """Block hash -> block id, for whole and unchangeable blocks only."""

    def __init__(self) -> None:
        self._block_ids: dict[BlockHash, int] = {}

    def __len__(self) -> int:
        return len(self._block_ids)

    def __contains__(self, block_hash: BlockHash) -> bool:
        return block_hash in self._block_ids

    def add(self, block_hash: BlockHash, block_id: int) -> None:
        self._block_ids[block_hash] = block_id

    def remove(self, block_hash: BlockHash) -> None:
        del self._block_ids[block_hash]

    def get(self, block_hash: BlockHash) -> int | None:
        return self._block_ids.get(block_hash)

    def match(self, hashes: Iterable[BlockHash]) -> list[int]:
        """Block ids of the longest run of `hashes`, from the first on, that is here."""
        return longest_run(self._block_ids.get, hashes)


def longest_run(find: Callable[[BlockHash], int | None], hashes: Iterable[BlockHash]) -> list[int]:
    """Block ids of the hashes that are found, up to the first that is not."""
    found: list[int] = []
    for block_hash in hashes:
        block_id = find(block_hash)
        if block_id is None:
            break
        found.append(block_id)
    return found
