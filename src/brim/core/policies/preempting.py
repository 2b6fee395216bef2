"""Who gives way when blocks or seats are lacking."""

from __future__ import annotations

from typing import Protocol

from brim.core.policies.ordering import OnlineFirst
from brim.core.request import RequestView, TaskClass


class Preempting(Protocol):
    def key(self, view: RequestView, now_ns: int) -> tuple[float, ...]:
        """Smaller gives way first."""

    def yields_to(self, running: RequestView, waiting: RequestView) -> bool:
        """Whether a running request gives way so that a waiting one can enter."""


class LastComeFirstPreempted:
    """The newest arrival gives way to the running, nobody to the waiting: the oldest always goes on."""

    def key(self, view: RequestView, now_ns: int) -> tuple[float, ...]:
        return (-view.request.arrival_ns, -view.arrival_seq)

    def yields_to(self, running: RequestView, waiting: RequestView) -> bool:
        return False


class OfflineFirst:
    """Who would be admitted last gives way first: offline before online, then the least urgent.

    Offline requests give way to waiting online ones.
    """

    def key(self, view: RequestView, now_ns: int) -> tuple[float, ...]:
        return (*(-part for part in OnlineFirst().key(view, now_ns)), -view.arrival_seq)

    def yields_to(self, running: RequestView, waiting: RequestView) -> bool:
        return (
            running.request.task_class is TaskClass.OFFLINE and waiting.request.task_class is TaskClass.ONLINE
        )
