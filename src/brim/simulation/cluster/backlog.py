"""Offline requests that no replica has yet: one backlog for all, from which replicas fetch."""

from __future__ import annotations

from collections import OrderedDict, deque

from brim.workloads.trace import TraceRequest


class Backlog:
    """Fetched by whoever has room, so that the replica with most spare time does most of it.

    Requests that begin with the same block stay together: a replica goes on with the group it is at, and
    then takes the group nobody is at, or the oldest one.
    """

    def __init__(self) -> None:
        self._groups: OrderedDict[object, deque[tuple[int, TraceRequest]]] = OrderedDict()
        self._group_of: dict[int, object] = {}  # by replica
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, place: int, request: TraceRequest, *, first: bool = False) -> None:
        """`first`: it was under way already, and goes before the rest of its group."""
        group = self._groups.setdefault(request.block_ids[:1] or None, deque())
        (group.appendleft if first else group.append)((place, request))
        self._count += 1

    def offers(self, replica: int) -> bool:
        """Whether there is something besides what other replicas are at."""
        if self._group_of.get(replica, self) in self._groups:
            return True
        return not self._groups.keys() <= set(self._group_of.values())

    def fetch(self, replica: int) -> tuple[int, TraceRequest]:
        """The next for this replica; there must be one."""
        name = self._group_of.get(replica, self)
        if name not in self._groups:
            taken = set(self._group_of.values())
            name = next((free for free in self._groups if free not in taken), next(iter(self._groups)))
            self._group_of[replica] = name
        group = self._groups[name]
        found = group.popleft()
        if not group:
            del self._groups[name]
        self._count -= 1
        return found

    def forget(self, replica: int) -> None:
        """It is gone."""
        self._group_of.pop(replica, None)
