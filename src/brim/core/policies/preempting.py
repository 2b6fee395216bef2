"""Who gives way when blocks or seats are lacking."""

from __future__ import annotations

from typing import Protocol

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
    """Offline before online, then the least urgent, then the newest. Offline gives way to waiting online."""

    def key(self, view: RequestView, now_ns: int) -> tuple[float, ...]:
        request = view.request
        online = request.task_class is TaskClass.ONLINE
        return (online, -request.priority, -request.arrival_ns, -view.arrival_seq)

    def yields_to(self, running: RequestView, waiting: RequestView) -> bool:
        return (
            running.request.task_class is TaskClass.OFFLINE and waiting.request.task_class is TaskClass.ONLINE
        )
