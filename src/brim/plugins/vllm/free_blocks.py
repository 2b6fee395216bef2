"""vLLM's free-block queue in the order of one of Brim's rules of eviction."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
from typing import Any

from brim.core.kvcache.eviction import Block, Eviction
from brim.plugins.vllm.compat import content_of


class FreeBlocks:
    """vLLM's free-block queue, in the order of one of Brim's rules of eviction.

    Blocks without content go first, and with them the second copy of a content, and what was cached
    before the rule came. vLLM calls it in the middle of its own work: where the rule fails, blocks are
    taken in any order.
    """

    def __init__(
        self,
        eviction: Eviction,
        known: Collection[Hashable],
        blocks: Iterable[Any],
        num_blocks: int,
        failed: Callable[[Exception], object],
    ) -> None:
        """`known` are the contents that the rule knows of at any time; `num_blocks` are all there are.
        `failed` is told of an exception of the rule."""
        self.online: set[int] = set()  # blocks whose content an online request used
        self._eviction = eviction
        self._known = known
        self._failed = failed
        self._plain: OrderedDict[int, Any] = OrderedDict((block.block_id, block) for block in blocks)
        self.num_free_blocks = len(self._plain)  # vLLM asks for every request in every step
        self._ranked: dict[Any, Any] = {}  # by content
        self._faces = [Block(number) for number in range(num_blocks)]  # as the rule knows them

    def wanted_among(self, count: int) -> int:
        """As `Host.wanted_among`: here blocks without content go first."""
        return self._eviction.wanted_among_next(count - len(self._plain))

    def popleft(self) -> Any:
        if self._plain:
            block = self._plain.popitem(last=False)[1]
        else:
            block = self._pop_ranked()
        self.online.discard(block.block_id)
        self.num_free_blocks -= 1
        return block

    def _pop_ranked(self) -> Any:
        try:
            return self._ranked.pop(self._eviction.pop().block_hash)
        except Exception as exc:
            self._failed(exc)
            return self._ranked.popitem()[1]

    def popleft_n(self, n: int) -> list[Any]:
        return [self.popleft() for _ in range(n)]

    def remove(self, block: Any) -> None:
        self.num_free_blocks -= 1
        if self._plain.pop(block.block_id, None) is None:
            face = self._faces[block.block_id]
            del self._ranked[face.block_hash]
            try:
                self._eviction.discard(face)
            except Exception as exc:
                self._failed(exc)

    def append(self, block: Any) -> None:
        self.num_free_blocks += 1
        block_id, key = block.block_id, block.block_hash
        content = None if key is None else content_of(key)
        if content not in self._known or self._ranked.setdefault(content, block) is not block:
            self._plain[block_id] = block
            return
        face = self._faces[block_id]
        face.block_hash, face.online = content, block_id in self.online
        try:
            self._eviction.add(face)
        except Exception as exc:
            self._failed(exc)

    def append_n(self, blocks: Iterable[Any]) -> None:
        for block in blocks:
            self.append(block)

    def prepend_n(self, blocks: Sequence[Any]) -> None:
        self.num_free_blocks += len(blocks)
        for block in reversed(blocks):
            self._plain[block.block_id] = block
            self._plain.move_to_end(block.block_id, last=False)

    def get_all_free_blocks(self) -> list[Any]:
        return [*self._plain.values(), *self._ranked.values()]
